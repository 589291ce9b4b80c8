//! The daemons under test, driven by the `docker` command, which speaks to both.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use super::succeed;

/// A daemon with the test images in it.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// `docker` or `podman`.
    pub name: &'static str,
    host: String,
}

impl Daemon {
    /// The Docker daemon that `scripts/test` started.
    pub fn docker() -> Daemon {
        Daemon::from_env("docker", "IMAGEFS_TEST_DOCKER")
    }

    /// The Podman service that `scripts/test` started.
    pub fn podman() -> Daemon {
        Daemon::from_env("podman", "IMAGEFS_TEST_PODMAN")
    }

    /// One after the other.
    pub fn both() -> [Daemon; 2] {
        [Daemon::docker(), Daemon::podman()]
    }

    fn from_env(name: &'static str, variable: &str) -> Daemon {
        let host = std::env::var(variable)
            .unwrap_or_else(|_| panic!("{variable} is not set: run this test with scripts/test"));
        Daemon { name, host }
    }

    /// Where it listens, as `DOCKER_HOST` spells it.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// A `docker` command that speaks to this daemon.
    pub fn cli<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new("docker");
        command.arg("--host").arg(&self.host).args(args);
        command
    }

    /// What a `docker` command that has to succeed prints, without the newline at its end.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let out = String::from_utf8(succeed(&mut self.cli(args))).expect("docker prints UTF-8");
        out.trim_end().to_owned()
    }

    /// What it answers to a request that no `docker` command of every age makes: the status, and the JSON or null.
    #[track_caller]
    pub fn ask(&self, method: &str, target: &str, body: &[u8]) -> (u16, serde_json::Value) {
        let socket = self.host.strip_prefix("unix://").expect("the daemons of the tests have sockets");
        let mut stream = UnixStream::connect(socket).unwrap();
        let kind = if body.first() == Some(&b'{') { "application/json" } else { "application/x-tar" };
        // Of HTTP/1.0, so that the answer comes in one piece.
        let head = format!(
            "{method} {target} HTTP/1.0\r\nHost: d\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer has a head");
        let status = str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
        (status, serde_json::from_slice(&answer[end + 4..]).unwrap_or_default())
    }

    /// As [`Daemon::ask`], of what has to succeed.
    #[track_caller]
    pub fn post(&self, target: &str, body: &serde_json::Value) -> serde_json::Value {
        let (status, answer) = self.ask("POST", target, body.to_string().as_bytes());
        assert!((200..300).contains(&status), "POST {target} {body}: {status} {answer}");
        answer
    }

    /// The version of its API, as in (1, 41); of Podman's own, where it is Podman, as in (5, 8).
    #[track_caller]
    pub fn version(&self) -> (u32, u32) {
        let (_, told) = self.ask("GET", "/version", b"");
        let words = match self.name {
            "podman" => told["Version"].as_str(),
            _ => told["ApiVersion"].as_str(),
        };
        let mut numbers = words.unwrap().split('.').map(|number| number.parse().unwrap());
        (numbers.next().unwrap(), numbers.next().unwrap())
    }

    /// Whether it keeps images in containerd's store.
    #[track_caller]
    pub fn has_containerd_store(&self) -> bool {
        let (_, told) = self.ask("GET", "/info", b"");
        told["DriverStatus"].to_string().contains("io.containerd.snapshotter")
    }

    /// Whether there is an image of that name.
    #[track_caller]
    pub fn has_image(&self, name: &str) -> bool {
        self.ask("GET", &format!("/images/{name}/json"), b"").0 == 200
    }

    /// The id of a local image, `sha256:` and 64 digits.
    #[track_caller]
    pub fn image_id(&self, image: &str) -> String {
        self.run(["image", "inspect", "--format", "{{.Id}}", image])
    }

    /// A container of `image`, created and not started.
    #[track_caller]
    pub fn create(&self, image: &str) -> Container {
        // A command is needed where the image has none; it never runs.
        Container { id: self.run(["create", "--pull", "never", image, "/none"]), daemon: self.clone() }
    }

    /// Whether there is a container of that name, whatever its state.
    #[track_caller]
    pub fn has_container(&self, name: &str) -> bool {
        !self.run(["ps", "--all", "--quiet", "--filter", &format!("name={name}")]).is_empty()
    }
}

/// A container that is removed, with its anonymous volumes, when this goes out of scope.
pub struct Container {
    pub id: String,
    daemon: Daemon,
}

impl Container {
    /// Writes the tar of its root filesystem to `file`.
    #[track_caller]
    pub fn export(&self, file: &Path) {
        succeed(self.daemon.cli(["export", "--output"]).arg(file).arg(&self.id));
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.daemon.cli(["rm", "--force", "--volumes", &self.id]).output();
    }
}
