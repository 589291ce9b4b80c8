//! A private environment for runs of `imagefs`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::unescape;

/// Marks the processes of a sandbox: every descendant inherits it.
const MARK: &str = "IMAGEFS_TEST_SANDBOX";

/// How long a command or a condition may take before the test fails: far more than any does on a busy machine.
const DEADLINE: Duration = Duration::from_secs(300);

/// A directory with a home, a cache and mountpoints of its own.
///
/// When it goes out of scope, whatever is still mounted in it is unmounted and the processes that it started end,
/// also when the test failed.
pub struct Sandbox {
    dir: TempDir,
}

/// How a run of `imagefs` ended.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Fails unless the run ended with 0.
    #[track_caller]
    pub fn success(self) -> Outcome {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }
}

impl Sandbox {
    /// An empty one.
    pub fn new() -> Sandbox {
        let dir = tempfile::Builder::new().prefix("imagefs-test-").tempdir().expect("a temporary directory");
        for name in ["home", "cache", "run", "tmp"] {
            fs::create_dir(dir.path().join(name)).expect("an empty directory");
        }
        Sandbox { dir }
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A new empty directory in it.
    #[track_caller]
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }

    /// A command that runs in this environment and knows of no daemon.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TZ", "UTC")
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.path("tmp"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("XDG_CACHE_HOME", self.path("home/.cache"))
            .env("IMAGEFS_CACHE_DIR", self.path("cache"))
            .env("DOCKER_HOST", format!("unix://{}", self.path("no-daemon.sock").display()))
            .env(MARK, self.dir.path())
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// A run of the binary under test, which ignores no signal, however the tests were started.
    pub fn imagefs<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.command("env");
        command.args(["--default-signal=HUP,INT", env!("CARGO_BIN_EXE_imagefs")]).args(args);
        command
    }

    /// Runs `command` to its end.
    ///
    /// Its stdout and stderr are pipes, as in a shell's `$(…)`: a server that keeps them open after its parent
    /// has gone makes this fail.
    #[track_caller]
    pub fn run(&self, command: &mut Command) -> Outcome {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(child.wait_with_output()));
        let output = match receiver.recv_timeout(DEADLINE) {
            Ok(output) => output.unwrap_or_else(|e| panic!("{command:?}: {e}")),
            Err(_) => panic!("{command:?} did not end within {DEADLINE:?}"),
        };
        Outcome {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Mounts something at a new directory `name`, and waits until all of it has been read.
    ///
    /// `args` are the source and the options.
    #[track_caller]
    pub fn mount<S: AsRef<OsStr>>(&self, name: &str, args: impl IntoIterator<Item = S>) -> PathBuf {
        let mountpoint = self.directory(name);
        self.run(self.imagefs(["mount", "--wait"]).args(args).arg(&mountpoint)).success();
        mountpoint
    }

    /// Unmounts what [`Sandbox::mount`] mounted.
    #[track_caller]
    pub fn unmount(&self, mountpoint: &Path) {
        // A program that another test is just starting has our open files until it runs.
        let unmounted = || self.run(self.imagefs(["umount"]).arg(mountpoint)).code == Some(0);
        assert!(wait_until(unmounted), "{} cannot be unmounted", mountpoint.display());
    }

    /// What is mounted in it, the innermost mount first.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read("/proc/self/mountinfo").expect("/proc is mounted");
        let points = table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|b| *b == b' ').nth(4));
        let paths = points.map(|point| PathBuf::from(OsString::from_vec(unescape(point))));
        let mut inside: Vec<PathBuf> = paths.filter(|path| path.starts_with(self.dir.path())).collect();
        inside.reverse();
        inside
    }

    /// The processes that were started in it, they and their descendants, and have not ended.
    pub fn processes(&self) -> Vec<Pid> {
        let mark = [MARK.as_bytes(), b"=", self.dir.path().as_os_str().as_bytes()].concat();
        let marked = |process: &Path| {
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark)
        };
        let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
        let numbered = entries.filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path())));
        numbered.filter(|(_, path)| marked(path)).filter_map(|(number, _)| Pid::from_raw(number)).collect()
    }

    /// Fails if anything is still mounted or running in the sandbox once it had time to end.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.mounts(), Vec::<PathBuf>::new(), "still mounted");
        if !wait_until(|| self.processes().is_empty()) {
            let commands = self.processes().into_iter().map(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&line).replace('\0', " ")
            });
            panic!("still running: {:#?}", commands.collect::<Vec<_>>());
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for path in self.mounts() {
            let _ = unmount(&path, UnmountFlags::DETACH);
        }
        for pid in self.processes() {
            let _ = kill_process(pid, Signal::KILL);
        }
        wait_until(|| self.processes().is_empty());
    }
}

/// Whether `condition` comes true before a generous deadline.
pub fn wait_until(condition: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > DEADLINE {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_seen_and_ended() {
        let sandbox = Sandbox::new();
        let mountpoint = sandbox.directory("a mountpoint");
        super::super::succeed(sandbox.command("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&mountpoint));
        // The shell ends at once; the process that it started goes on.
        let started = sandbox.run(sandbox.command("sh").args(["-c", "sleep 1000 >/dev/null 2>&1 &"]));
        assert_eq!(started.success().stdout, "");
        assert_eq!(sandbox.mounts(), std::slice::from_ref(&mountpoint));
        let [pid] = sandbox.processes()[..] else { panic!("{:?}", sandbox.processes()) };
        drop(sandbox);
        assert!(!mountpoint.exists());
        // Gone, or dead and not yet reaped.
        assert_eq!(fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default(), b"");
    }
}
