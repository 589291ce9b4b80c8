//! The daemons under test, driven by the `docker` command, which speaks to both.

use std::ffi::OsStr;
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
