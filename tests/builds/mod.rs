//! Builds, with every BuildKit that `IMAGEFS_TEST_BUILDKIT` names: the one of a Docker daemon as `docker=unix://…`, a buildkitd as
//! `buildkitd=unix://…`, with blanks between them.
//!
//! They are left out of a run that does not ask for them, for Debian 12 has no BuildKit that can do it: `scripts/test` runs them
//! where the variable is set.

mod failures;
mod leftovers;
mod refusals;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Outcome, Sandbox, succeed};

/// What is linked to the programs of the base that every build begins with.
const PROGRAMS: [&str; 14] = [
    "sh", "cat", "mkdir", "chown", "chmod", "ln", "mknod", "mkfifo", "touch", "dd", "sleep", "rm", "seq",
    "truncate",
];

/// A BuildKit.
struct Server {
    name: String,
    address: String,
}

impl Server {
    fn all() -> Vec<Server> {
        let named = std::env::var("IMAGEFS_TEST_BUILDKIT")
            .expect("IMAGEFS_TEST_BUILDKIT is not set: docker=unix://… buildkitd=unix://…");
        let servers: Vec<Server> = named
            .split_whitespace()
            .map(|word| {
                let (name, address) = word.split_once('=').expect("docker=unix://… or buildkitd=unix://…");
                Server { name: name.to_owned(), address: address.to_owned() }
            })
            .collect();
        assert!(!servers.is_empty(), "IMAGEFS_TEST_BUILDKIT names none");
        servers
    }

    /// The Docker daemons.
    fn dockers() -> Vec<Server> {
        let dockers: Vec<Server> = Server::all().into_iter().filter(Server::is_docker).collect();
        assert!(!dockers.is_empty(), "IMAGEFS_TEST_BUILDKIT names no Docker daemon");
        dockers
    }

    fn is_docker(&self) -> bool {
        self.name == "docker"
    }

    /// The options that name it. Those that are tested have no network.
    fn options(&self) -> [&str; 4] {
        [if self.is_docker() { "--host" } else { "--buildkit" }, &self.address, "--network", "none"]
    }

    /// What `docker`'s command prints.
    fn docker(&self, arguments: &[&str]) -> String {
        let out = succeed(Command::new("docker").arg("--host").arg(&self.address).args(arguments));
        String::from_utf8(out).unwrap()
    }
}

/// A context, and where what comes of it is mounted.
struct Build<'a> {
    sandbox: &'a Sandbox,
    server: &'a Server,
    context: PathBuf,
    mountpoint: PathBuf,
}

impl<'a> Build<'a> {
    /// A context with a Dockerfile of these lines behind a base of one static program.
    fn new(sandbox: &'a Sandbox, server: &'a Server, name: &str, lines: &str) -> Build<'a> {
        let context = sandbox.directory(name);
        let root = sandbox.directory(&format!("{name}-root"));
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::create_dir(root.join("etc")).unwrap();
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
        for program in PROGRAMS {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(program)).unwrap();
        }
        fs::write(root.join("etc/hello"), "hello\n").unwrap();
        succeed(
            Command::new("tar")
                .args(["--numeric-owner", "-C"])
                .arg(&root)
                .arg("-cf")
                .arg(context.join("base.tar"))
                .arg("."),
        );
        fs::write(context.join("Dockerfile"), format!("FROM scratch AS base\nADD base.tar /\n{lines}"))
            .unwrap();
        let mountpoint = sandbox.directory(&format!("{name}-mounted"));
        Build { sandbox, server, context, mountpoint }
    }

    fn command(&self, options: &[&str]) -> Command {
        let mut command = self.sandbox.imagefs(["build"]);
        command.args(self.server.options()).args(options).arg(&self.context).arg(&self.mountpoint);
        command
    }

    fn run(&self, options: &[&str]) -> Outcome {
        self.sandbox.run(&mut self.command(options))
    }

    /// Has it made; a step has to fail.
    #[track_caller]
    fn fail(&self, options: &[&str]) -> Outcome {
        let outcome = self.run(options);
        assert_eq!(outcome.code, Some(9), "{}: {outcome:#?}", self.server.address);
        outcome
    }

    fn unmount(&self) {
        self.sandbox.unmount(&self.mountpoint);
    }

    fn path(&self, path: &str) -> PathBuf {
        self.mountpoint.join(path)
    }

    #[track_caller]
    fn read(&self, path: &str) -> String {
        let path = self.path(path);
        fs::read_to_string(&path)
            .unwrap_or_else(|e| panic!("{}: {}: {e}", self.server.address, path.display()))
    }

    /// The names in a directory, in order.
    #[track_caller]
    fn names(&self, path: &str) -> Vec<String> {
        names(&self.path(path))
    }
}

#[track_caller]
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
