//! How a session begins and ends.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use imagefs::fuse::{self, End, MountStatus, SessionConfig, SessionError, ViewOptions, mount_status};

use super::support::*;

const FIXTURE: &str = "echo content > f; head -c 5000000 /dev/zero > big";

#[track_caller]
fn assert_nothing_left(mountpoint: &Path) {
    assert_eq!(mount_status(mountpoint).unwrap(), MountStatus::Nothing);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(mountpoint.to_str().unwrap()));
    assert_eq!(fs::read_dir(mountpoint).unwrap().count(), 0);
}

fn live(fixture: &Fixture) -> Live {
    fixture.mount(ViewOptions::default())
}

#[test]
fn whoever_unmounts_it_ends_the_server() {
    for command in ["umount mnt", "fusermount3 -u mnt", "umount -l mnt", "fusermount3 -u -z mnt"] {
        let fixture = Fixture::new(FIXTURE);
        let live = live(&fixture);
        assert_eq!(mount_status(&fixture.mountpoint).unwrap(), MountStatus::Live);
        shell(command, fixture.mountpoint.parent().unwrap());
        assert_eq!(live.wait(), End::Unmounted, "{command}");
        assert_nothing_left(&fixture.mountpoint);
    }
    for lazy in [false, true] {
        let fixture = Fixture::new(FIXTURE);
        let live = live(&fixture);
        fuse::unmount(&fixture.mountpoint, lazy).unwrap();
        assert_eq!(live.wait(), End::Unmounted, "lazy {lazy}");
        assert_nothing_left(&fixture.mountpoint);
    }
}

#[test]
fn a_session_that_is_stopped_is_gone() {
    let fixture = Fixture::new(FIXTURE);
    assert_eq!(live(&fixture).stop(), End::Stopped);
    assert_nothing_left(&fixture.mountpoint);
    // And nothing of it is in the way of the next.
    assert_eq!(live(&fixture).stop(), End::Stopped);
}

#[test]
fn a_session_that_is_dropped_is_gone() {
    let fixture = Fixture::new(FIXTURE);
    drop(fuse::mount(view(fixture.filesystem(), ViewOptions::default()), &fixture.config()).unwrap());
    assert_nothing_left(&fixture.mountpoint);
}

#[test]
fn a_session_in_use_is_not_unmounted_but_can_be_detached_and_stopped() {
    let fixture = Fixture::new(FIXTURE);
    let session = live(&fixture);
    let mut open = File::open(fixture.mountpoint.join("rootfs/f")).unwrap();
    let busy = fuse::unmount(&fixture.mountpoint, false).unwrap_err();
    assert!(matches!(busy, SessionError::Busy(_)) && busy.hint().unwrap().contains("--lazy"), "{busy}");
    fuse::unmount(&fixture.mountpoint, true).unwrap();
    assert_nothing_left(&fixture.mountpoint);
    // Whoever has a file open keeps it.
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "content\n");
    drop(open);
    assert_eq!(session.wait(), End::Unmounted);

    let session = live(&fixture);
    let open = File::open(fixture.mountpoint.join("rootfs/f")).unwrap();
    assert_eq!(session.stop(), End::StoppedInUse);
    assert_nothing_left(&fixture.mountpoint);
    drop(open);
}

#[test]
fn the_end_of_a_session_spares_what_lies_beneath_and_what_came_after() {
    let fixture = Fixture::new(FIXTURE);
    let mountpoint = fixture.mountpoint.to_str().unwrap();
    run("mount", ["-t", "tmpfs", "beneath", mountpoint]);
    fs::write(fixture.mountpoint.join("kept"), "").unwrap();
    let refused =
        Live::start(view(fixture.filesystem(), ViewOptions::default()), &fixture.config()).err().unwrap();
    assert!(matches!(refused, SessionError::AlreadyMounted { .. }), "{refused}");
    assert!(matches!(fuse::unmount(&fixture.mountpoint, false), Err(SessionError::NotOurs { .. })));
    assert!(fixture.mountpoint.join("kept").exists());
    run("umount", [mountpoint]);

    let first = live(&fixture);
    run("umount", [mountpoint]);
    let second = live(&fixture);
    assert_eq!(first.stop(), End::Unmounted);
    assert_eq!(mount_status(&fixture.mountpoint).unwrap(), MountStatus::Live);
    assert_eq!(shell("cat rootfs/f", &fixture.mountpoint), "content\n");
    assert_eq!(second.stop(), End::Stopped);
}

#[test]
fn a_killed_server_leaves_a_mount_that_is_known_as_stale() {
    let fixture = Fixture::new(FIXTURE);
    let mut server = Server::start(&fixture);
    assert_eq!(server.refusal, None);
    assert_eq!(mount_status(&fixture.mountpoint).unwrap(), MountStatus::Live);
    server.kill();
    assert_eq!(mount_status(&fixture.mountpoint).unwrap(), MountStatus::Stale);
    let refused = fixture.config().check().unwrap_err();
    assert!(matches!(refused, SessionError::Stale(_)), "{refused}");
    fuse::unmount(&fixture.mountpoint, false).unwrap();
    assert_nothing_left(&fixture.mountpoint);
}

#[test]
fn a_stopped_server_does_not_hang_whoever_asks_what_is_mounted() {
    let fixture = Fixture::new(FIXTURE);
    let server = Server::start(&fixture);
    let pid = rustix::process::Pid::from_child(&server.child);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::UNTRACED).unwrap();
    assert_eq!(mount_status(&fixture.mountpoint).unwrap(), MountStatus::Hung);
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    assert_eq!(mount_status(&fixture.mountpoint).unwrap(), MountStatus::Live);
    server.stop();
    assert_nothing_left(&fixture.mountpoint);
}

#[test]
fn what_the_kernel_was_told_it_does_not_ask_again() {
    let fixture =
        Fixture::new("mkdir d; seq 300 | xargs -I{} touch d/{}; echo text > d/text; ln -s text d/link");
    let server = Server::start(&fixture);
    // Not from within, nor by find(1): chdir(2) and statfs(2) do ask each time.
    let look = format!(
        "at={}; timeout 20 ls -lR $at; timeout 20 cat $at/rootfs/d/link; \
         timeout 20 ls $at/rootfs/d/absent || true",
        fixture.mountpoint.display()
    );
    let look = || shell(&look, Path::new("/"));
    let first = look();
    // The second listing of a directory is the one that the kernel keeps.
    assert_eq!(look(), first);
    let pid = rustix::process::Pid::from_child(&server.child);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::UNTRACED).unwrap();
    let last = look();
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    assert_eq!(last, first);
    server.stop();
}

#[test]
fn files_that_are_read_one_after_another_are_there_before_they_are_asked_for() {
    let fixture = Fixture::new(
        "mkdir a b; for n in $(seq 10 99); do seq $n > a/$n; seq 1$n > b/$n; done; \
         head -c 4096 /dev/zero | tr '\\0' x > a/20; : > a/30; ln -f a/40 a/41; ln -sf 50 a/51; truncate -s 64K b/60",
    );
    let server = Server::start(&fixture);
    let root = fixture.mountpoint.join("rootfs");
    // In the order of the listing, which here is that of the archive.
    shell("cd a; cat $(ls -U | grep -v -e 30 -e 51 | head -n 2); ls ../b", &root);
    let pid = rustix::process::Pid::from_child(&server.child);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::UNTRACED).unwrap();
    // Not from within: chdir(2) does ask each time.
    let rest = |at: &Path| {
        let names: Vec<_> =
            (10..100).filter(|n| *n != 51).flat_map(|n| [format!("a/{n}"), format!("b/{n}")]).collect();
        let read = Command::new("timeout")
            .args(["20", "cat"])
            .args(names.iter().map(|n| at.join(n)))
            .output()
            .unwrap();
        (read.status.success(), String::from_utf8(read.stdout).unwrap())
    };
    let read = rest(&root);
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    assert!(read == rest(&fixture.original));
    server.stop();
}

#[test]
fn a_walk_over_hard_links_does_not_wait_for_itself() {
    let fixture = Fixture::new(
        "mkdir d; for n in $(seq 10 29); do seq $n > d/$n; ln d/$n d/$n-a; ln d/$n d/$n-b; done",
    );
    let server = Server::start(&fixture);
    let read = |at: &Path| {
        let all = format!("timeout 20 find {}/d -type f -exec cat {{}} + | sort", at.display());
        shell(&all, Path::new("/"))
    };
    assert_eq!(read(&fixture.mountpoint.join("rootfs")), read(&fixture.original));
    server.stop();
}

#[test]
fn others_enter_only_with_allow_other_and_then_permissions_hold() {
    let fixture = Fixture::new("echo all > all; echo root > root; chmod 600 root");
    let outcome = |config: &SessionConfig| {
        let session = Live::start(view(fixture.filesystem(), ViewOptions::default()), config).unwrap();
        let read = |name: &str| {
            let path = fixture.mountpoint.join("rootfs").join(name);
            String::from_utf8(as_nobody("cat", &[path.to_str().unwrap()]).stdout).unwrap()
        };
        let read = (read("all"), read("root"));
        session.stop();
        read
    };
    assert_eq!(outcome(&fixture.config()), (String::new(), String::new()));
    let open = SessionConfig { allow_other: true, ..fixture.config() };
    assert_eq!(outcome(&open), ("all\n".to_owned(), String::new()));
}

#[test]
fn a_connection_that_is_cut_leaves_no_dead_mount() {
    let fixture = Fixture::new(FIXTURE);
    let session = live(&fixture);
    let minor = rustix::fs::minor(rustix::fs::stat(&fixture.mountpoint).unwrap().st_dev);
    let connections = tempfile::tempdir().unwrap();
    let at = connections.path().to_str().unwrap();
    run("mount", ["-t", "fusectl", "fusectl", at]);
    fs::write(connections.path().join(minor.to_string()).join("abort"), "1").unwrap();
    run("umount", [at]);
    assert_eq!(session.wait(), End::Unmounted);
    assert_nothing_left(&fixture.mountpoint);
}

#[test]
fn a_mountpoint_that_will_not_do_is_refused_with_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    fs::write(at("file"), "").unwrap();
    fs::create_dir_all(at("full/inside")).unwrap();
    let check = |name: &str| SessionConfig::new(at(name)).check().unwrap_err();
    assert!(matches!(check("missing"), SessionError::MountpointMissing(_)));
    assert!(matches!(check("missing/too"), SessionError::MountpointMissing(_)));
    assert!(matches!(check("file"), SessionError::MountpointNotADirectory(_)));
    assert!(matches!(check("file/x"), SessionError::MountpointNotADirectory(_)));
    assert!(matches!(check("full"), SessionError::MountpointNotEmpty(_)));
    assert!(check("missing").hint().unwrap().contains("mkdir"));
    assert!(matches!(fuse::unmount(&at("full"), false), Err(SessionError::NotMounted(_))));
    assert!(matches!(fuse::unmount(&at("missing"), false), Err(SessionError::NotMounted(_))));
}

#[test]
fn a_mountpoint_with_a_strange_name_works_like_any_other() {
    let fixture = Fixture::new(FIXTURE);
    let strange = fixture.tar.with_file_name("a b\\c\n,d é");
    fs::create_dir(&strange).unwrap();
    let link = fixture.tar.with_file_name("link");
    std::os::unix::fs::symlink("a b\\c\n,d é", &link).unwrap();
    let session =
        Live::start(view(fixture.filesystem(), ViewOptions::default()), &SessionConfig::new(&link)).unwrap();
    for path in [&strange, &link, &strange.join("../link")] {
        assert_eq!(mount_status(path).unwrap(), MountStatus::Live, "{path:?}");
    }
    fuse::unmount(&link, false).unwrap();
    assert_eq!(session.wait(), End::Unmounted);
    assert_eq!(mount_status(&strange).unwrap(), MountStatus::Nothing);
}

#[test]
fn the_mount_shows_its_name_and_its_safe_options() {
    let fixture = Fixture::new(FIXTURE);
    let options = |change: fn(&mut SessionConfig)| {
        let mut config = fixture.config();
        config.fsname = "docker:a b,c".into();
        change(&mut config);
        let session = Live::start(view(fixture.filesystem(), ViewOptions::default()), &config).unwrap();
        let mountpoint = fixture.mountpoint.to_str().unwrap();
        let found = run("findmnt", ["-n", "-r", "-o", "FSTYPE,SOURCE,VFS-OPTIONS,FS-OPTIONS", mountpoint]);
        session.stop();
        String::from_utf8(found).unwrap()
    };
    assert_eq!(
        options(|_| {}),
        "fuse.imagefs docker:a\\x20b,c ro,nosuid,nodev,relatime ro,user_id=0,group_id=0\n"
    );
    let wide = options(|c| (c.allow_other, c.suid, c.dev) = (true, true, true));
    assert!(wide.contains("allow_other") && wide.contains("default_permissions"), "{wide}");
    assert!(wide.contains(" ro,") && !wide.contains("nosuid") && !wide.contains("nodev"), "{wide}");
}

/// `/dev/fuse` open to all, as distributions have it, for as long as this lives.
struct OpenDevice {
    before: fs::Permissions,
    _alone: MutexGuard<'static, ()>,
}

impl OpenDevice {
    fn new() -> OpenDevice {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let before = fs::metadata("/dev/fuse").unwrap().permissions();
        fs::set_permissions("/dev/fuse", fs::Permissions::from_mode(0o666)).unwrap();
        OpenDevice { before, _alone: alone }
    }
}

impl Drop for OpenDevice {
    fn drop(&mut self) {
        let _ = fs::set_permissions("/dev/fuse", self.before.clone());
    }
}

fn as_nobody(program: &str, args: &[&str]) -> std::process::Output {
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups", program];
    Command::new("setpriv").args(user).args(args).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn an_ordinary_user_mounts_reads_everything_and_unmounts() {
    let _device = OpenDevice::new();
    let fixture = Fixture::new("echo secret > f; chmod 600 f; mkdir d; chmod 700 d; touch d/inside");
    let mountpoint = fixture.mountpoint.to_str().unwrap();
    let server = Server::start_unprivileged(&fixture, false);
    assert_eq!(server.refusal, None);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.contains(mountpoint)).unwrap();
    assert!(line.contains(" ro,nosuid,nodev,"), "{line}");
    assert!(line.contains(r" - fuse.imagefs a\040b,c\134d ro,user_id=65534,group_id=65534"), "{line}");

    let read = as_nobody("cat", &[&format!("{mountpoint}/rootfs/f")]);
    assert_eq!(read.stdout, b"secret\n");
    let listed = as_nobody("ls", &[&format!("{mountpoint}/rootfs/d")]);
    assert_eq!(listed.stdout, b"inside\n");
    // Nobody else enters, root included.
    assert_eq!(fs::read_dir(&fixture.mountpoint).unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
    assert_eq!(mount_status(&fixture.mountpoint).unwrap(), MountStatus::Live);
    server.stop();
    assert_nothing_left(&fixture.mountpoint);

    let mut server = Server::start_unprivileged(&fixture, false);
    assert!(as_nobody("umount", &[mountpoint]).status.success());
    assert!(server.child.wait().unwrap().success());
    assert_nothing_left(&fixture.mountpoint);

    let mut server = Server::start_unprivileged(&fixture, false);
    server.kill();
    assert!(as_nobody("fusermount3", &["-u", mountpoint]).status.success());
    assert_nothing_left(&fixture.mountpoint);
}

#[test]
fn what_an_ordinary_user_may_not_do_is_named_with_what_to_do() {
    let fixture = Fixture::new(FIXTURE);
    {
        let _device = OpenDevice::new();
        let server = Server::start_unprivileged(&fixture, true);
        let refusal = server.refusal.clone().unwrap();
        assert!(
            refusal.contains("allow_other is not permitted") && refusal.contains("/etc/fuse.conf"),
            "{refusal}"
        );
        shell("chmod 0755 mnt", fixture.mountpoint.parent().unwrap());
        let server = Server::start_unprivileged(&fixture, false);
        let refusal = server.refusal.clone().unwrap();
        assert!(refusal.contains("fusermount3 refused") && refusal.contains("no write access"), "{refusal}");
        fs::set_permissions("/dev/fuse", fs::Permissions::from_mode(0o600)).unwrap();
        let server = Server::start_unprivileged(&fixture, false);
        let refusal = server.refusal.clone().unwrap();
        assert!(
            refusal.contains("/dev/fuse cannot be opened") && refusal.contains("run as root"),
            "{refusal}"
        );
    }
    assert_nothing_left(&fixture.mountpoint);
}
