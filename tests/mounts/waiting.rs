//! Processes that wait for what has not come: they can be ended, and keep nobody else from anything.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use imagefs::fuse::{self, Session, SessionConfig, View, ViewMount, ViewOptions};
use imagefs::index::{DataFile, Filesystem, Grower, Order, Timestamp};
use imagefs::tarfile::{Content, Entry, EntryKind};

/// How long a request may wait; nothing here takes so long, or it is a fault.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// Far more than what is waited for takes, under any load.
const PATIENCE: Duration = Duration::from_secs(120);

#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A session whose stream does not go on.
struct Stalled {
    _home: tempfile::TempDir,
    mountpoint: PathBuf,
    grower: Grower,
    session: Option<Session>,
}

fn entry(path: &str, kind: EntryKind) -> Entry {
    let (path, mtime) = (path.into(), Timestamp::default());
    Entry { path, kind, perm: 0o755, uid: 0, gid: 0, mtime, xattrs: Vec::new() }
}

fn stalled() -> (Arc<Filesystem>, Grower) {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(b"content", 0).unwrap();
    let (filesystem, grower) = Filesystem::filling(Order::Any, DataFile::owned(file), None);
    let content = Content::Contiguous { at: 0 };
    grower.insert(entry("dir/file", EntryKind::Regular { size: 7, content })).unwrap();
    grower.insert(entry("dir/link", EntryKind::Symlink(b"later/../file".to_vec()))).unwrap();
    (filesystem, grower)
}

fn mounts(filesystem: Arc<Filesystem>) -> Vec<ViewMount> {
    vec![ViewMount { name: "rootfs".into(), destinations: Vec::new(), may_be_file: false, filesystem }]
}

impl Stalled {
    fn mount(options: ViewOptions) -> Stalled {
        let home = tempfile::Builder::new().prefix("imagefs-waiting-").tempdir().unwrap();
        let (filesystem, grower) = stalled();
        let view = View::new(mounts(filesystem), options).unwrap();
        let mountpoint = home.path().join("mnt");
        fs::create_dir(&mountpoint).unwrap();
        let config = SessionConfig { timeout: FOR_EVER, ..SessionConfig::new(&mountpoint) };
        let session = Some(fuse::mount(view, &config).unwrap());
        Stalled { _home: home, mountpoint, grower, session }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.mountpoint.join("rootfs").join(path)
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            session.stopper().stop();
            let _ = session.wait();
        }
    }
}

/// Starts a program that will wait, and lets it come so far.
#[track_caller]
fn start(program: &str, args: &[&str], path: &Path) -> Child {
    let mut command = Command::new(program);
    let child = command.args(args).arg(path).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let waits = || {
        let wchan = fs::read_to_string(format!("/proc/{}/wchan", child.id())).unwrap_or_default();
        ["fuse", "request_wait_answer", "folio", "lookup"].iter().any(|place| wchan.contains(place))
    };
    wait_until(program, waits);
    child
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_process_that_waits_can_be_killed() {
    let mount = Stalled::mount(ViewOptions::default());
    for (program, path) in
        [("ls", "dir"), ("stat", "later"), ("cat", "dir/file"), ("readlink", "dir/link"), ("find", "")]
    {
        for fatal in [rustix::process::Signal::KILL, rustix::process::Signal::TERM] {
            let mut child = start(program, &[], &mount.path(path));
            signal(&child, fatal);
            let mut status = None;
            wait_until(&format!("{program} {path} after {fatal:?}"), || {
                status = child.try_wait().unwrap();
                status.is_some()
            });
            assert_eq!(status.unwrap().signal(), Some(fatal.as_raw()), "{program} {path}");
        }
    }
    // Nobody uses it any more.
    wait_until("unmount", || fuse::unmount(&mount.mountpoint, false).is_ok());
}

#[test]
fn a_process_that_catches_a_signal_goes_on_with_an_error() {
    let mount = Stalled::mount(ViewOptions::default());
    let script = r#"trap 'echo caught >&2' INT; [ -e "$1" ]; echo "status $?" >&2"#;
    let mut child = start("bash", &["-c", script, "bash"], &mount.path("later"));
    // One that it takes no notice of changes nothing.
    signal(&child, rustix::process::Signal::CHILD);
    std::thread::sleep(Duration::from_millis(700));
    assert!(child.try_wait().unwrap().is_none());
    signal(&child, rustix::process::Signal::INT);
    wait_until("bash", || child.try_wait().unwrap().is_some());
    let said = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    assert_eq!(said, "caught\nstatus 1\n");
}

#[test]
fn what_waits_in_an_old_snapshot_keeps_no_new_one_from_being_shown() {
    for flat in [false, true] {
        let mut mount = Stalled::mount(ViewOptions { flat, replaceable: true, ..ViewOptions::default() });
        let root = if flat { mount.mountpoint.clone() } else { mount.mountpoint.join("rootfs") };
        let mut waiting = start("stat", &[], &root.join("dir/later"));
        let session = mount.session.as_ref().unwrap();
        let notifier = session.notifier();
        let mut growers = Vec::new();
        for _ in 0..3 {
            let (filesystem, grower) = stalled();
            growers.push(grower);
            notifier.replace(mounts(filesystem)).unwrap();
            // It would wait for the directory in which the name is looked up.
            notifier.withdraw();
            assert!(fs::symlink_metadata(root.join("dir/file")).is_ok());
        }
        assert!(waiting.try_wait().unwrap().is_none(), "it still waits");
        // What it waits for comes.
        mount.grower.insert(entry("dir/later", EntryKind::Fifo)).unwrap();
        assert!(waiting.wait().unwrap().success());
        drop(growers);
        let session = mount.session.take().unwrap();
        session.stopper().stop();
        session.wait().unwrap();
    }
}

#[test]
fn a_mount_that_fails_leaves_no_thread() {
    let threads = || {
        let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
        tasks
            .filter(|task| {
                fs::read_to_string(task.path().join("comm")).is_ok_and(|c| c == "imagefs-waiting\n")
            })
            .count()
    };
    let home = tempfile::tempdir().unwrap();
    // What the kernel does not take: the fsname is longer than mount(2)'s page of options.
    let mut config = SessionConfig::new(home.path());
    config.fsname = "x".repeat(100_000).into();
    let before = threads();
    for _ in 0..50 {
        let view = View::new(mounts(stalled().0), ViewOptions::default()).unwrap();
        assert!(fuse::mount(view, &config).is_err());
    }
    // Other tests have sessions of their own.
    wait_until("their threads end", || threads() < before + 25);
}
