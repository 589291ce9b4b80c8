//! `imagefs refresh`: a container that is mounted is shown as it is now, and nothing of before is mistaken for it.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::containers::{Container, description, unique};
use crate::support::proxy::{Fault, Proxy};
use crate::support::{Daemon, Sandbox, wait_until};

/// A container that runs until the test ends, and does what it is told.
struct Running(Container, Daemon);

impl Running {
    #[track_caller]
    fn start(options: &[&str]) -> Running {
        Running::start_on(Daemon::docker(), options)
    }

    #[track_caller]
    fn start_on(daemon: Daemon, options: &[&str]) -> Running {
        let script = "while :; do /bin/busybox sleep 1000; done";
        let container = Container::create(&daemon, options, &["/bin/sh", "-c", script]);
        daemon.run(["start", &container.name]);
        Running(container, daemon)
    }

    #[track_caller]
    fn run(&self, script: &str) {
        let script = format!("set -eu; b=/bin/busybox; cd /root; {script}");
        self.1.run(["exec", &self.0.name, "/bin/busybox", "sh", "-c", &script]);
    }
}

#[track_caller]
fn mount(sandbox: &Sandbox, container: &Container, host: &str, options: &[&str]) -> PathBuf {
    let source = container.source();
    sandbox.mount(&unique("mnt"), ["--host", host].iter().chain(options).chain([&&*source]))
}

#[track_caller]
fn refresh(sandbox: &Sandbox, mountpoint: &Path) {
    let outcome = sandbox.run(sandbox.imagefs(["refresh"]).arg(mountpoint)).success();
    assert_eq!((outcome.stdout, outcome.stderr), (String::new(), String::new()));
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The snapshots, and other mounts of containers, that are kept.
fn kept(sandbox: &Sandbox) -> usize {
    fs::read_dir(sandbox.path("cache/v1/temporary")).unwrap().count()
}

#[test]
fn every_change_is_seen_at_once_and_open_files_stay() {
    for options in [&[][..], &["-o", "flat"]] {
        let sandbox = Sandbox::new();
        let running = Running::start(&[]);
        running.run(
            "echo one >file; echo old >replaced; echo gone >deleted; $b ln -s file link
             echo hard >hard; $b ln hard harder; $b mkdir dir; echo in >dir/in; echo plain >turns; $b mkdir empty",
        );
        let mnt = mount(&sandbox, &running.0, running.1.host(), options);
        let rootfs = if options.is_empty() { mnt.join("rootfs") } else { mnt.clone() };
        let root = rootfs.join("root");
        let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
        let link = || fs::read_link(root.join("link")).unwrap().into_os_string().into_string().unwrap();
        let before =
            ["deleted", "dir", "empty", "file", "hard", "harder", "link", "replaced", "turns"].to_vec();

        // Whatever the kernel can keep, it has now: attributes, contents, names, listings, links, and absences.
        assert_eq!(names(&root), before);
        for name in ["new", "empty/new"] {
            assert_eq!(fs::metadata(root.join(name)).unwrap_err().kind(), ErrorKind::NotFound);
        }
        assert_eq!(fs::metadata(rootfs.join("new")).unwrap_err().kind(), ErrorKind::NotFound);
        let open: Vec<File> =
            ["file", "deleted", "turns", "dir/in"].map(|n| File::open(root.join(n)).unwrap()).into();
        // SAFETY: nobody can write to the file.
        let mapped = unsafe { memmap2::Mmap::map(&File::open(root.join("replaced")).unwrap()) }.unwrap();
        assert_eq!((read("file"), read("replaced"), link()), ("one\n".into(), "old\n".into(), "file".into()));
        let old = fs::metadata(root.join("file")).unwrap();

        running.run(
            "echo three >>file; $b chmod 600 file; echo new2 >tmp; $b mv tmp replaced; $b rm deleted link
             $b ln -s dir/other link; echo x >>hard; $b rm turns; $b mkdir turns; echo deep >turns/deep
             $b rm -r dir; echo was a directory >dir; echo new >new; echo new >empty/new; echo new >/new",
        );
        assert_eq!(names(&root), before, "a snapshot does not change");
        refresh(&sandbox, &mnt);

        assert_eq!(
            names(&root),
            ["dir", "empty", "file", "hard", "harder", "link", "new", "replaced", "turns"],
        );
        assert_eq!(fs::metadata(root.join("deleted")).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!((read("file"), read("replaced")), ("one\nthree\n".into(), "new2\n".into()));
        assert_eq!((read("dir"), read("turns/deep")), ("was a directory\n".into(), "deep\n".into()));
        assert_eq!((read("new"), read("empty/new")), ("new\n".into(), "new\n".into()));
        assert_eq!(fs::read_to_string(rootfs.join("new")).unwrap(), "new\n");
        assert_eq!((read("hard"), read("harder")), ("hard\nx\n".into(), "hard\nx\n".into()));
        let [hard, harder] = ["hard", "harder"].map(|name| fs::metadata(root.join(name)).unwrap());
        assert_eq!((hard.ino(), hard.nlink()), (harder.ino(), 2));
        assert_eq!(link(), "dir/other");
        let new = fs::metadata(root.join("file")).unwrap();
        assert_eq!((new.mode() & 0o777, new.len()), (0o600, 10));
        assert_ne!(new.ino(), old.ino());

        let mut held = [0; 16];
        for (file, content) in open.iter().zip(["one\n", "gone\n", "plain\n", "in\n"]) {
            let n = file.read_at(&mut held, 0).unwrap();
            assert_eq!(&held[..n], content.as_bytes());
        }
        assert_eq!(&mapped[..], b"old\n");
        assert_eq!(open[0].metadata().unwrap().len(), 4);
        drop((open, mapped));
        // What nobody has open any more is not kept.
        assert!(wait_until(|| kept(&sandbox) == 1), "{} are kept", kept(&sandbox));

        running.run("echo again >file");
        refresh(&sandbox, &mnt);
        assert_eq!(read("file"), "again\n");
        sandbox.unmount(&mnt);
        assert_eq!(kept(&sandbox), 0);
        sandbox.assert_nothing_left();
    }
}

#[test]
fn who_works_in_a_directory_goes_on_there() {
    let sandbox = Sandbox::new();
    let running = Running::start(&[]);
    running.run("$b mkdir dir; echo old >dir/file");
    let mnt = mount(&sandbox, &running.0, running.1.host(), &[]);
    // A shell that is in the directory, and looks at it when it is told.
    let script = "cd \"$1\"; while read line; do ls; cat file; done";
    let mut shell = sandbox.command("sh");
    shell.args(["-c", script, "sh"]).arg(mnt.join("rootfs/root/dir"));
    let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    running.run("echo new >dir/file; echo >dir/added");
    refresh(&sandbox, &mnt);
    use std::io::Write as _;
    shell.stdin.take().unwrap().write_all(b"\n").unwrap();
    let seen = shell.wait_with_output().unwrap().stdout;
    assert_eq!(String::from_utf8(seen).unwrap(), "file\nold\n");
    assert_eq!(fs::read_to_string(mnt.join("rootfs/root/dir/file")).unwrap(), "new\n");
    assert!(wait_until(|| kept(&sandbox) == 1), "{} are kept", kept(&sandbox));
}

#[test]
fn a_volume_is_read_anew_and_the_description_says_when() {
    let sandbox = Sandbox::new();
    let running = Running::start(&["--volume", "VOLUME-1:/data", "--volume", "VOLUME-2:/other"]);
    running.run("echo one >/data/file");
    let mnt = mount(&sandbox, &running.0, running.1.host(), &[]);
    let states = || {
        let told = description(&mnt);
        let states = told["mounts"].as_array().unwrap().iter();
        let states: Vec<String> = states.map(|mount| mount["state"].as_str().unwrap().to_owned()).collect();
        (states, told["container"]["snapshot"].as_str().unwrap().to_owned())
    };
    let open = File::open(mnt.join(".imagefs.json")).unwrap();
    let (first, snapshot) = states();
    assert_eq!(first, ["ready", "not fetched", "not fetched"]);
    assert_eq!(fs::read_to_string(mnt.join("data/file")).unwrap(), "one\n");
    assert!(wait_until(|| states().0 == ["ready", "ready", "not fetched"]), "{:?}", states());
    let volume = File::open(mnt.join("data/file")).unwrap();

    running.run("echo two >/data/file");
    refresh(&sandbox, &mnt);
    let (second, later) = states();
    assert_eq!(second, ["ready", "not fetched", "not fetched"]);
    assert!(later > snapshot, "{later} {snapshot}");
    assert_eq!(fs::read_to_string(mnt.join("data/file")).unwrap(), "two\n");
    let mut held = [0; 4];
    volume.read_exact_at(&mut held, 0).unwrap();
    assert_eq!(&held, b"one\n");
    // Who opened the description before has what it said then, whole.
    let old: Value = serde_json::from_reader(open).unwrap();
    assert_eq!(old["container"]["snapshot"], snapshot);
}

#[test]
fn a_container_of_podman_is_refreshed() {
    let sandbox = Sandbox::new();
    let running = Running::start_on(Daemon::podman(), &[]);
    running.run("echo one >file; echo gone >gone");
    let mnt = mount(&sandbox, &running.0, running.1.host(), &[]);
    assert_eq!(names(&mnt.join("rootfs/root")), ["file", "gone"]);
    let open = File::open(mnt.join("rootfs/root/file")).unwrap();
    running.run("rm gone; echo two >file; echo added >added");
    refresh(&sandbox, &mnt);
    assert_eq!(names(&mnt.join("rootfs/root")), ["added", "file"]);
    assert_eq!(fs::read_to_string(mnt.join("rootfs/root/file")).unwrap(), "two\n");
    assert_eq!(std::io::read_to_string(open).unwrap(), "one\n");
}

#[test]
fn a_container_that_is_gone_stays_as_it_was() {
    let sandbox = Sandbox::new();
    let running = Running::start(&[]);
    running.run("echo one >file");
    let mnt = mount(&sandbox, &running.0, running.1.host(), &[]);
    running.1.run(["rm", "--force", &running.0.name]);
    let gone = sandbox.run(sandbox.imagefs(["refresh"]).arg(&mnt));
    assert_eq!(gone.code, Some(3), "{gone:?}");
    assert!(gone.stderr.contains(&format!("no such container: {}", running.0.name)), "{gone:?}");
    assert_eq!(fs::read_to_string(mnt.join("rootfs/root/file")).unwrap(), "one\n");
    // Another one of that name is not this one.
    running.1.run(["create", "--pull", "never", "--name", &running.0.name, "imagefs-test/small", "/bin/sh"]);
    assert_eq!(sandbox.run(sandbox.imagefs(["refresh"]).arg(&mnt)).code, Some(3));
}

#[test]
fn what_cannot_be_refreshed_is_told() {
    let sandbox = Sandbox::new();
    let image = sandbox.mount("image", ["--host", Daemon::docker().host(), "imagefs-test/small"]);
    symlink(&image, sandbox.path("alias")).unwrap();
    sandbox.directory("plain");
    let refuse = |path: &str, code: i32, words: &str| {
        let outcome = sandbox.run(&mut sandbox.imagefs(["refresh", path]));
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        assert!(outcome.stderr.contains(words), "{outcome:?}");
    };
    refuse("image", 2, r#"there is nothing to refresh: "imagefs-test/small" is no container"#);
    refuse("alias", 2, "there is nothing to refresh");
    refuse("plain", 3, "nothing is mounted at");
    refuse("missing", 3, "nothing is mounted at");
    refuse("/proc", 3, "not an imagefs mount");
    // Nor can anybody else have it refreshed, who does not even find it.
    let mut other = sandbox.imagefs(["refresh", "image"]);
    let outcome = sandbox.run(other.env("XDG_RUNTIME_DIR", sandbox.directory("other")));
    assert_eq!(outcome.code, Some(5), "{outcome:?}");
    assert!(outcome.stderr.contains("not a mount of yours"), "{outcome:?}");
}

#[test]
fn several_refreshes_come_one_after_the_other() {
    let sandbox = Sandbox::new();
    let running = Running::start(&[]);
    let mnt = mount(&sandbox, &running.0, running.1.host(), &[]);
    running.run("echo new >file");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| refresh(&sandbox, &mnt));
        }
        for _ in 0..50 {
            assert!(fs::metadata(mnt.join("rootfs/bin/sh")).is_ok());
        }
    });
    assert_eq!(fs::read_to_string(mnt.join("rootfs/root/file")).unwrap(), "new\n");
    assert!(wait_until(|| kept(&sandbox) == 1), "{} are kept", kept(&sandbox));
}

/// A mount whose next export stops in the middle, and a refresh that waits for it.
#[track_caller]
fn stuck(sandbox: &Sandbox, running: &Running) -> (Proxy, PathBuf, std::process::Child) {
    let proxy = Proxy::with_faults(running.1.host(), vec![Fault::None, Fault::HoldAfter(100_000)]);
    let mnt = mount(sandbox, &running.0, &proxy.address(), &[]);
    let mut refresh = sandbox.imagefs(["refresh"]);
    let refresh = refresh.arg(&mnt).stderr(Stdio::piped()).spawn().unwrap();
    assert!(wait_until(|| proxy.requests_for("/export") == 2), "{:?}", proxy.lines());
    (proxy, mnt, refresh)
}

#[test]
fn a_refresh_shows_nothing_before_it_is_complete_and_can_be_given_up() {
    let sandbox = Sandbox::new();
    let running = Running::start(&[]);
    let (proxy, mnt, mut refresh) = stuck(&sandbox, &running);
    running.run("echo new >file");
    assert!(fs::metadata(mnt.join("rootfs/root/file")).is_err());
    kill_process(Pid::from_child(&refresh), Signal::INT).unwrap();
    refresh.wait().unwrap();
    // The server notices, and the next one is not kept waiting.
    proxy.release();
    self::refresh(&sandbox, &mnt);
    assert_eq!(fs::read_to_string(mnt.join("rootfs/root/file")).unwrap(), "new\n");
}

#[test]
fn a_refresh_does_not_wait_for_what_is_still_being_read() {
    for options in [&[][..], &["-o", "flat"]] {
        let sandbox = Sandbox::new();
        let running = Running::start(&[]);
        let proxy = Proxy::with_faults(running.1.host(), vec![Fault::HoldAfter(100_000), Fault::None]);
        let mut command = sandbox.imagefs(["mount", "--mkdir", "--host", &proxy.address()]);
        sandbox.run(command.args(options).args([&running.0.source(), "mnt"])).success();
        let mnt = sandbox.path("mnt");
        let rootfs = if options.is_empty() { mnt.join("rootfs") } else { mnt.clone() };
        // It asks for what has not come, and a listing has not ended.
        let late = rootfs.join("tmp");
        let mut waiting = sandbox.command("stat").arg(&late).stdout(Stdio::null()).spawn().unwrap();
        let mut listing = sandbox.command("ls").arg(&rootfs).stdout(Stdio::null()).spawn().unwrap();
        running.run("echo new >file");
        refresh(&sandbox, &mnt);
        assert_eq!(fs::read_to_string(rootfs.join("root/file")).unwrap(), "new\n");
        proxy.release();
        assert!(waiting.wait().unwrap().success() && listing.wait().unwrap().success());
        sandbox.unmount(&mnt);
        assert_eq!(kept(&sandbox), 0);
    }
}

#[test]
fn an_unmount_ends_a_refresh() {
    let sandbox = Sandbox::new();
    let running = Running::start(&[]);
    let (_proxy, mnt, refresh) = stuck(&sandbox, &running);
    sandbox.unmount(&mnt);
    let outcome = refresh.wait_with_output().unwrap();
    assert!(!outcome.status.success(), "{outcome:?}");
    sandbox.assert_nothing_left();
    assert_eq!(kept(&sandbox), 0);
    assert_eq!(fs::read_dir(sandbox.path("cache/v1/staging")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(sandbox.path("run/imagefs")).unwrap().count(), 0);
}

#[test]
fn a_server_that_is_killed_leaves_nothing_for_long() {
    let sandbox = Sandbox::new();
    let running = Running::start(&[]);
    let (_proxy, mnt, refresh) = stuck(&sandbox, &running);
    let listed = sandbox.run(&mut sandbox.imagefs(["mounts", "--json"])).success().stdout;
    let server = serde_json::from_str::<Value>(&listed).unwrap()[0]["pid"].as_i64().unwrap();
    kill_process(Pid::from_raw(i32::try_from(server).unwrap()).unwrap(), Signal::KILL).unwrap();
    let outcome = refresh.wait_with_output().unwrap();
    assert_eq!(outcome.status.code(), Some(5), "{outcome:?}");
    assert!(String::from_utf8_lossy(&outcome.stderr).contains("ended before it was done"), "{outcome:?}");
    let after = sandbox.run(sandbox.imagefs(["refresh"]).arg(&mnt));
    assert!(after.stderr.contains("imagefs umount"), "{after:?}");
    sandbox.unmount(&mnt);
    // Whoever uses the cache next clears it up.
    sandbox.run(&mut sandbox.imagefs(["cache", "ls"])).success();
    sandbox.run(&mut sandbox.imagefs(["cache", "prune"])).success();
    assert_eq!(kept(&sandbox), 0);
    assert_eq!(fs::read_dir(sandbox.path("cache/v1/staging")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(sandbox.path("run/imagefs")).unwrap().count(), 0);
}
