//! The server behind a mount: how it starts, how it is found, and how it ends, whatever happens to it.
//!
//! Needs FUSE, and a Docker daemon for what is interrupted while it reads.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::proxy::{Fault, Proxy};
use crate::support::{Daemon, Outcome, Sandbox, succeed, wait_until};

/// A sandbox with a mountpoint and a tar that has one file.
struct Place(Sandbox);

const TAR: &str = "./root.tar";

impl Place {
    fn new() -> Place {
        let sandbox = Sandbox::new();
        sandbox.directory("mnt");
        fs::write(sandbox.path("hello"), "hello\n").unwrap();
        succeed(sandbox.command("tar").args(["-cf", TAR, "hello"]));
        Place(sandbox)
    }

    fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Outcome {
        self.0.run(&mut self.0.imagefs(arguments))
    }

    /// What `imagefs mounts` tells.
    fn mounts(&self) -> Vec<Value> {
        serde_json::from_str(&self.run(["mounts", "--json"]).success().stdout).unwrap()
    }

    fn hello(&self) -> std::io::Result<String> {
        fs::read_to_string(self.0.path("mnt/rootfs/hello"))
    }

    /// Fails if anything of a mount is left: a process, a mount, a record, a directory made for it.
    #[track_caller]
    fn assert_clean(&self) {
        self.0.assert_nothing_left();
        assert_eq!(fs::read_dir(self.0.path("run/imagefs")).unwrap().count(), 0);
        assert!(!self.0.path("new").exists());
    }

    /// Waits until nothing is mounted, and then fails if anything is left.
    #[track_caller]
    fn assert_soon_clean(&self) {
        wait_until(|| self.0.mounts().is_empty() && self.0.processes().is_empty());
        self.assert_clean();
    }
}

fn pid(mount: &Value) -> Pid {
    Pid::from_raw(mount["pid"].as_i64().unwrap().try_into().unwrap()).unwrap()
}

/// Clock ticks (1/100 s) of processor time that a process has taken: proc_pid_stat(5), fields 14 and 15.
fn ticks(process: Pid) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
}

#[test]
fn a_mount_is_there_when_the_command_returns_and_gone_when_umount_does() {
    let place = Place::new();
    place.run(["mount", TAR, "mnt"]).success();
    assert_eq!(place.hello().unwrap(), "hello\n");
    assert!(wait_until(|| place.mounts()[0]["state"] == "ready"));

    let [mount] = place.mounts().try_into().unwrap();
    assert_eq!(mount["mountpoint"], place.0.path("mnt").to_str().unwrap());
    assert_eq!(mount["source"], place.0.path("root.tar").to_str().unwrap());
    // To people, a tar goes by its key in the cache.
    let entries: Value =
        serde_json::from_str(&place.run(["cache", "ls", "--json"]).success().stdout).unwrap();
    let listed = place.run(["mounts"]).success().stdout;
    let id = listed.lines().nth(1).unwrap().split_whitespace().nth(2).unwrap();
    assert_eq!(id, &entries[0]["key"].as_str().unwrap()[..12], "{listed}");

    place.run(["umount", "mnt"]).success();
    place.assert_clean();
    assert_eq!(fs::read_dir(place.0.path("mnt")).unwrap().count(), 0);
}

#[test]
fn whoever_reads_what_the_command_prints_is_not_kept_waiting() {
    let place = Place::new();
    // `run` returns when every process that could still write has closed its end.
    let outcome = place.run(["mount", TAR, "mnt"]).success();
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", ""));
    place.run(["umount", "--all"]).success();
    place.assert_clean();
}

#[test]
fn a_mountpoint_that_was_made_goes_with_its_mount() {
    let place = Place::new();
    for end in [&["umount", "--lazy", "new"][..], &["umount", "--all"]] {
        place.run(["mount", "--mkdir", TAR, "new"]).success();
        assert!(place.0.path("new/rootfs").exists());
        place.run(end).success();
        place.assert_clean();
    }
    place.run(["mount", "--mkdir", TAR, "new"]).success();
    assert!(Command::new("umount").arg(place.0.path("new")).status().unwrap().success());
    place.assert_soon_clean();
}

#[test]
fn a_mount_in_use_stays_unless_told_otherwise() {
    let place = Place::new();
    place.run(["mount", TAR, "mnt"]).success();
    let file = fs::File::open(place.0.path("mnt/rootfs/hello")).unwrap();
    assert_eq!(place.run(["umount", "mnt"]).code, Some(5));
    assert_eq!(place.hello().unwrap(), "hello\n");
    place.run(["umount", "--lazy", "mnt"]).success();
    place.assert_clean();
    drop(file);
}

#[test]
fn a_server_that_is_told_to_end_unmounts_even_if_in_use() {
    let place = Place::new();
    for signal in [Signal::TERM, Signal::INT] {
        place.run(["mount", "--mkdir", TAR, "new"]).success();
        let file = fs::File::open(place.0.path("new/rootfs/hello")).unwrap();
        let [mount] = place.mounts().try_into().unwrap();
        // More than once, as by somebody impatient.
        for _ in 0..3 {
            let _ = kill_process(pid(&mount), signal);
        }
        place.assert_soon_clean();
        drop(file);
    }
}

#[test]
fn the_terminal_may_close() {
    let place = Place::new();
    place.run(["mount", TAR, "mnt"]).success();
    let [mount] = place.mounts().try_into().unwrap();
    kill_process(pid(&mount), Signal::HUP).unwrap();
    assert_eq!(place.hello().unwrap(), "hello\n");
    place.run(["umount", "mnt"]).success();
}

#[test]
fn what_a_killed_server_leaves_is_shown_and_taken_over() {
    let place = Place::new();
    place.run(["mount", "--mkdir", TAR, "new"]).success();
    let [mount] = place.mounts().try_into().unwrap();
    kill_process(pid(&mount), Signal::KILL).unwrap();
    assert!(wait_until(|| place.mounts().iter().all(|mount| mount["state"] == "stale")));

    place.run(["mount", "--mkdir", TAR, "new"]).success();
    assert!(wait_until(|| place.mounts().iter().all(|mount| mount["state"] == "ready")));
    let [mount] = place.mounts().try_into().unwrap();
    kill_process(pid(&mount), Signal::KILL).unwrap();
    assert!(wait_until(|| place.mounts().iter().all(|mount| mount["state"] == "stale")));

    place.run(["umount", "new"]).success();
    place.assert_clean();
}

#[test]
fn a_mount_in_the_foreground_ends_with_its_command() {
    let place = Place::new();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut server = place.0.imagefs(["mount", "-f", TAR, "mnt"]).spawn().unwrap();
        assert!(wait_until(|| place.hello().is_ok()));
        kill_process(Pid::from_child(&server), signal).unwrap();
        assert!(server.wait().unwrap().success());
        place.assert_clean();
    }
}

#[test]
fn a_mount_that_can_be_read_is_ready() {
    let place = Place::new();
    let arguments = ["mount", "-f", TAR, "mnt"];
    for _ in 0..30 {
        let server = place.0.imagefs(arguments).stderr(Stdio::piped()).spawn().unwrap();
        // At once, without the pauses of `wait_until`.
        assert!(wait_until(|| (0..100_000).any(|_| place.hello().is_ok())));
        kill_process(Pid::from_child(&server), Signal::INT).unwrap();
        let outcome = server.wait_with_output().unwrap();
        assert!(outcome.status.success(), "{outcome:?}");
    }
    place.assert_clean();
}

#[test]
fn a_server_goes_by_the_name_of_its_program() {
    let place = Place::new();
    place.run(["mount", TAR, "mnt"]).success();
    let server = pid(&place.mounts()[0]);
    let status = fs::read_to_string(format!("/proc/{}/comm", server.as_raw_nonzero())).unwrap();
    assert_eq!(status, "imagefs\n");
    place.run(["umount", "mnt"]).success();
}

#[test]
fn a_relative_path_is_kept_as_one_that_means_the_same_everywhere() {
    let place = Place::new();
    for (source, reported) in [("root.tar", "root.tar"), ("tar:./root.tar", "tar:root.tar")] {
        let dir = place.0.path("");
        let kept = match reported.strip_prefix("tar:") {
            Some(name) => format!("tar:{}", dir.join(name).display()),
            None => dir.join(reported).display().to_string(),
        };
        place.run(["mount", "--wait", source, "mnt"]).success();
        assert_eq!(place.mounts()[0]["source"], kept);
        let shown = succeed(place.0.command("findmnt").args(["--noheadings", "--output", "SOURCE", "mnt"]));
        assert_eq!(String::from_utf8(shown).unwrap().trim_end(), kept);
        let described = fs::read_to_string(place.0.path("mnt/.imagefs.json")).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&described).unwrap()["source"], kept);
        let cached = place.run(["cache", "ls", "--json"]).success().stdout;
        assert_eq!(serde_json::from_str::<Value>(&cached).unwrap()[0]["source"], kept);
        place.run(["umount", "mnt"]).success();
        place.run(["cache", "prune", "--max-size", "0"]).success();
    }
}

#[test]
fn a_tar_that_was_written_to_is_told_as_broken() {
    let place = Place::new();
    // When it was read at once, and when it comes out of the cache.
    for _ in 0..2 {
        place.run(["mount", "--wait", TAR, "mnt"]).success();
        assert!(place.run(["mounts"]).success().stdout.trim_end().ends_with("  ready"));
        place.run(["umount", "mnt"]).success();
    }
    place.run(["mount", "--wait", TAR, "mnt"]).success();
    fs::OpenOptions::new().append(true).open(place.0.path("root.tar")).unwrap().set_len(1 << 20).unwrap();
    assert_eq!(place.hello().unwrap_err().raw_os_error(), Some(116), "ESTALE");
    let why = format!("{} was changed while it was mounted", place.0.path("root.tar").display());
    let [mount] = place.mounts().try_into().unwrap();
    assert_eq!((&mount["state"], &mount["failure"]), (&"broken".into(), &why.clone().into()));
    let listed = place.run(["mounts"]).success().stdout;
    assert!(listed.trim_end().ends_with(&format!("  broken: {why}")), "{listed}");
    place.run(["umount", "mnt"]).success();
}

#[test]
fn a_signal_that_was_ignored_when_a_command_was_started_stays_so() {
    let place = Place::new();
    let ignoring = |arguments: &[&str]| {
        let mut command = place.0.command("sh");
        command.args(["-c", r#"trap "" HUP INT; exec "$@""#, "sh", env!("CARGO_BIN_EXE_imagefs")]);
        command.args(arguments).stdout(Stdio::piped());
        command
    };
    let disturb = |child: &Child| {
        for signal in [Signal::HUP, Signal::INT] {
            kill_process(Pid::from_child(child), signal).unwrap();
        }
    };

    let mut server = ignoring(&["mount", "-f", TAR, "mnt"]).spawn().unwrap();
    assert!(wait_until(|| place.hello().is_ok()));
    disturb(&server);
    for _ in 0..20 {
        assert_eq!(place.hello().unwrap(), "hello\n");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    assert!(server.wait().unwrap().success());
    place.assert_clean();

    let daemon = Daemon::docker();
    let image = "imagefs-test/small";
    for arguments in [&["ls", image, "/etc"][..], &["mount", "--wait", image, "mnt"]] {
        let proxy = Proxy::before(daemon.host(), Fault::HoldAfter(1000));
        let mut command = ignoring(arguments);
        let cache = place.0.path(arguments[0]);
        command.env("DOCKER_HOST", proxy.address()).env("IMAGEFS_CACHE_DIR", cache);
        let mut child = command.spawn().unwrap();
        assert!(wait_until(|| proxy.requests_for("/export") == 1));
        disturb(&child);
        proxy.release();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{arguments:?}");
    }
    place.run(["umount", "mnt"]).success();
    place.assert_clean();
}

/// A mount that does not get ready, for its daemon says nothing.
fn stalled(place: &Place) -> (UnixListener, Child) {
    let socket = place.0.path("silent.sock");
    let daemon = UnixListener::bind(&socket).unwrap();
    let url = format!("unix://{}", socket.display());
    let mut command = place.0.imagefs(["mount", "--mkdir", "-H", &url, "debian", "new"]);
    let child = command.stderr(Stdio::null()).spawn().unwrap();
    assert!(wait_until(|| place.mounts().iter().any(|mount| mount["state"] == "filling")));
    (daemon, child)
}

#[test]
fn a_command_that_is_interrupted_leaves_nothing() {
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let place = Place::new();
        let (_daemon, mut child) = stalled(&place);
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(status));
        place.assert_clean();
    }
}

#[test]
fn a_server_that_nobody_waits_for_gives_up() {
    let place = Place::new();
    let (_daemon, mut child) = stalled(&place);
    child.kill().unwrap();
    child.wait().unwrap();
    place.assert_soon_clean();
}

#[test]
fn a_mount_that_is_not_ready_can_be_unmounted() {
    let place = Place::new();
    let (_daemon, mut child) = stalled(&place);
    place.run(["umount", "new"]).success();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    place.assert_clean();
}

#[test]
fn two_mounts_do_not_hide_each_other() {
    let place = Place::new();
    let (_daemon, mut first) = stalled(&place);
    let second = place.run(["mount", TAR, "new"]);
    assert_eq!(second.code, Some(5), "{second:?}");
    assert!(second.stderr.contains("is already being mounted"), "{second:?}");
    assert!(place.0.path("new").is_dir());
    place.run(["umount", "new"]).success();
    first.wait().unwrap();
    place.assert_clean();
}

#[test]
fn the_log_is_where_the_list_says() {
    let place = Place::new();
    let log = |place: &Place| place.mounts()[0]["log"].as_str().unwrap().to_owned();
    place.run(["mount", TAR, "mnt"]).success();
    assert!(Path::new(&log(&place)).is_file());
    place.run(["umount", "mnt"]).success();

    place.run(["mount", "-v", "--log-file", "mine.log", TAR, "mnt"]).success();
    assert_eq!(log(&place), place.0.path("mine.log").to_str().unwrap());
    place.run(["umount", "mnt"]).success();
    assert!(fs::read_to_string(place.0.path("mine.log")).unwrap().contains("unmounted"));
}

#[test]
fn a_mount_that_nobody_uses_takes_no_processor_time() {
    let place = Place::new();
    place.run(["mount", "--wait", TAR, "mnt"]).success();
    assert_eq!(place.hello().unwrap(), "hello\n");
    let server = pid(&place.mounts()[0]);
    let before = ticks(server);
    thread::sleep(Duration::from_secs(1));
    // One tick may have been begun by the last answer.
    assert!(ticks(server) - before <= 1);
}
