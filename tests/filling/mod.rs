//! Mounts that are used while they are being filled, from real daemons, through a proxy that spoils the stream.

mod spoiled;

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::proxy::{Fault, Proxy};
use crate::support::{Daemon, Manifest, Sandbox, wait_until};

/// A real image of some hundred megabytes: Debian with Python.
const IMAGE: &str = "imagefs-test/python";
/// In the body of an export: early, and far from its end.
const EARLY: usize = 1 << 20;
/// In the midst of it.
const MIDDLE: usize = 200 << 20;

/// A path that stands at the end of an export.
const LATE: &str = "var/lib/dpkg/status";

/// Much more than a page, and late in an export.
const BIG: &str = "usr/lib/gcc/x86_64-linux-gnu/12/lto1";

/// The mount of `IMAGE` through `proxy` in the background; `options` are words of the command line.
#[track_caller]
fn mount(sandbox: &Sandbox, proxy: &Proxy, options: &[&str]) {
    mount_image(IMAGE, sandbox, proxy, options);
}

#[track_caller]
fn mount_image(image: &str, sandbox: &Sandbox, proxy: &Proxy, options: &[&str]) {
    let mut command = sandbox.imagefs(["mount", "--mkdir", "--host", &proxy.address()]);
    sandbox.run(command.args(options).args([image, "mnt"])).success();
}

/// What `imagefs mounts` says of the one mount there is.
#[track_caller]
fn state(sandbox: &Sandbox) -> Value {
    let listed = sandbox.run(&mut sandbox.imagefs(["mounts", "--json"])).success().stdout;
    let mut rows: Vec<Value> = serde_json::from_str(&listed).unwrap();
    assert_eq!(rows.len(), 1, "{listed}");
    rows.remove(0)
}

#[track_caller]
fn wait_for_state(sandbox: &Sandbox, wanted: &str) {
    assert!(wait_until(|| state(sandbox)["state"] == wanted), "{}", state(sandbox));
}

#[track_caller]
fn assert_cache_is_empty(sandbox: &Sandbox) {
    let listed = sandbox.run(&mut sandbox.imagefs(["cache", "ls", "--json"])).success().stdout;
    assert_eq!(serde_json::from_str::<Value>(&listed).unwrap(), Value::Array(Vec::new()));
    let version = fs::read_dir(sandbox.path("cache")).unwrap().flatten().map(|e| e.path());
    for bucket in version.filter(|path| path.is_dir()) {
        for kind in ["entries", "staging", "temporary"] {
            let left: Vec<_> = fs::read_dir(bucket.join(kind)).unwrap().flatten().collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

#[track_caller]
fn umount(sandbox: &Sandbox) {
    sandbox.run(&mut sandbox.imagefs(["umount", "mnt"])).success();
    sandbox.assert_nothing_left();
}

/// The containers that were made through a proxy and are still there.
fn throwaways(daemon: &Daemon, proxy: &Proxy) -> Vec<String> {
    let listed = daemon.run(["ps", "--all", "--format", "{{.Names}}"]);
    let made = proxy.lines();
    let by_us = |name: &&str| made.iter().any(|line| line.contains("/create") && line.contains(*name));
    let left: Vec<_> = listed.lines().filter(by_us).map(str::to_owned).collect();
    assert!(made.iter().any(|line| line.contains("name=imagefs-")), "{made:?}");
    left
}

/// What a whole mount of the image looks like, made with no proxy in between.
fn whole(daemon: &Daemon) -> Manifest {
    let sandbox = Sandbox::new();
    let mut command = sandbox.imagefs(["mount", "--mkdir", "--wait", "--host", daemon.host(), IMAGE, "mnt"]);
    sandbox.run(&mut command).success();
    let manifest = Manifest::read(&sandbox.path("mnt/rootfs/usr/bin"));
    umount(&sandbox);
    manifest
}

#[test]
fn a_file_is_read_before_the_stream_brings_it_and_stays_the_same_file() {
    let daemon = Daemon::docker();
    let proxy = Proxy::before(daemon.host(), Fault::HoldAfter(EARLY));
    let sandbox = Sandbox::new();
    mount(&sandbox, &proxy, &[]);
    assert_eq!(state(&sandbox)["state"], "filling");

    let path = sandbox.path("mnt/rootfs").join(LATE);
    let open = fs::File::open(&path).unwrap();
    let early = open.metadata().unwrap();
    let mut first = vec![0; 4096];
    open.read_exact_at(&mut first, 0).unwrap();
    assert!(first.starts_with(b"Package: "), "{}", first.escape_ascii());
    let release = fs::read_to_string(sandbox.path("mnt/rootfs/etc/os-release")).unwrap();
    assert!(release.contains("Debian"), "{release}");
    let missing = || fs::metadata(sandbox.path("mnt/rootfs/etc/no-such-file")).unwrap_err().kind();
    assert_eq!(missing(), ErrorKind::NotFound);
    let asked = proxy.requests();
    assert_eq!(missing(), ErrorKind::NotFound);
    assert_eq!(proxy.requests(), asked, "what does not exist is asked for once");
    // A directory that the walk has left, which an export of Docker's begins with.
    let names: Vec<_> = fs::read_dir(sandbox.path("mnt/rootfs/boot")).unwrap().flatten().collect();
    assert!(names.is_empty(), "{names:?}");
    let has_come = |what: &str| state(&sandbox)[what].as_u64() > Some(0);
    assert!(wait_until(|| has_come("entries") && has_come("bytes")), "{}", state(&sandbox));
    assert_eq!(state(&sandbox)["state"], "filling", "all this went on beside the stream");

    proxy.release();
    wait_for_state(&sandbox, "ready");
    let late = fs::metadata(&path).unwrap();
    assert_eq!((early.ino(), early.mode(), early.uid()), (late.ino(), late.mode(), late.uid()));
    assert_eq!((early.len(), early.mtime()), (late.len(), late.mtime()));
    let mut all = Vec::new();
    (&open).read_to_end(&mut all).unwrap();
    assert_eq!(all, fs::read(&path).unwrap());
    let in_listing = fs::read_dir(path.parent().unwrap()).unwrap().flatten();
    let same = in_listing.filter(|entry| entry.file_name() == "status").count();
    assert_eq!(same, 1, "no duplicate in the listing");
    drop(open);
    umount(&sandbox);
    assert_eq!(proxy.requests_for("/export"), 1);
    assert_eq!(throwaways(&daemon, &proxy), [""; 0]);
}

#[test]
fn a_symlink_that_is_followed_costs_one_request_for_each_name_and_two_for_bytes() {
    let daemon = Daemon::docker();
    let proxy = Proxy::before(daemon.host(), Fault::HoldAfter(0));
    let sandbox = Sandbox::new();
    mount(&sandbox, &proxy, &[]);
    let release = fs::read_to_string(sandbox.path("mnt/rootfs/etc/os-release")).unwrap();
    assert!(release.contains("Debian"), "{release}");
    let lines = proxy.lines();
    let asked: Vec<String> = lines
        .iter()
        .filter_map(|line| {
            let (method, path) = (line.split(' ').next()?, line.split("/archive?path=").nth(1)?);
            Some(format!("{method} {}", path.split(' ').next()?))
        })
        .collect();
    // What the link leads to comes first: the stream may bring the link meanwhile.
    let expected = [
        "HEAD /etc",
        "HEAD /etc/os-release",
        "HEAD /usr",
        "HEAD /usr/lib",
        "HEAD /usr/lib/os-release",
        "GET /usr/lib/os-release",
        "GET /etc/os-release",
    ];
    assert_eq!(asked, expected);
    proxy.release();
    wait_for_state(&sandbox, "ready");
    assert_eq!(release, fs::read_to_string(sandbox.path("mnt/rootfs/etc/os-release")).unwrap());
    umount(&sandbox);
    assert_eq!(throwaways(&daemon, &proxy), [""; 0]);
}

#[test]
fn a_large_file_is_read_before_the_stream_brings_it() {
    let daemon = Daemon::docker();
    let proxy = Proxy::before(daemon.host(), Fault::HoldAfter(0));
    let sandbox = Sandbox::new();
    mount(&sandbox, &proxy, &[]);
    let path = sandbox.path("mnt/rootfs").join(BIG);
    let open = fs::File::open(&path).unwrap();
    let early = fs::read(&path).unwrap();
    assert!(early.len() > 20 << 20, "{BIG} is {} bytes long", early.len());
    assert_eq!(early.len() as u64, open.metadata().unwrap().len());
    assert_eq!(state(&sandbox)["state"], "filling");
    proxy.release();
    wait_for_state(&sandbox, "ready");
    assert!(early == fs::read(&path).unwrap());
    drop(open);
    umount(&sandbox);
    assert_eq!(throwaways(&daemon, &proxy), [""; 0]);
}

#[test]
fn an_answer_for_a_single_path_that_does_not_come_holds_nothing_up() {
    let daemon = Daemon::docker();
    for fault in [Fault::StallAfter(0), Fault::StallAfter(700), Fault::CutAfter(700), Fault::ResetAfter(0)] {
        let proxy = Proxy::spoiling("/archive", daemon.host(), vec![fault]);
        let sandbox = Sandbox::new();
        mount(&sandbox, &proxy, &[]);
        let status = fs::read_to_string(sandbox.path("mnt/rootfs").join(LATE)).unwrap();
        assert!(status.starts_with("Package: "), "{fault:?}");
        assert!(proxy.lines().iter().any(|line| line.starts_with("GET ") && line.contains("/archive")));
        wait_for_state(&sandbox, "ready");
        umount(&sandbox);
        proxy.wait_until_all_hung_up();
        assert_eq!(throwaways(&daemon, &proxy), [""; 0], "{fault:?}");
    }
}

#[test]
fn a_stream_that_breaks_off_is_asked_for_again_and_goes_on() {
    let daemon = Daemon::docker();
    let expected = whole(&daemon);
    for fault in [Fault::CutAfter(MIDDLE), Fault::WordsAfter(MIDDLE), Fault::CutAfter(0)] {
        let proxy = Proxy::with_faults(daemon.host(), vec![fault, Fault::None]);
        let sandbox = Sandbox::new();
        mount(&sandbox, &proxy, &["--wait"]);
        assert_eq!(proxy.requests_for("/export"), 2, "{fault:?}");
        expected.assert_same(&Manifest::read(&sandbox.path("mnt/rootfs/usr/bin")));
        let verified = sandbox.run(&mut sandbox.imagefs(["cache", "verify"]));
        assert_eq!(verified.code, Some(0), "{verified:#?}");
        umount(&sandbox);
        assert_eq!(throwaways(&daemon, &proxy), [""; 0]);
    }
}

#[test]
fn what_has_come_stays_readable_when_the_stream_is_lost() {
    let daemon = Daemon::docker();
    for fault in [Fault::CutAfter(MIDDLE), Fault::ResetAfter(MIDDLE), Fault::WordsAfter(MIDDLE)] {
        let proxy = Proxy::before(daemon.host(), fault);
        let sandbox = Sandbox::new();
        mount(&sandbox, &proxy, &[]);
        wait_for_state(&sandbox, "broken");
        let failure = state(&sandbox)["failure"].as_str().unwrap().to_owned();
        assert!(!failure.is_empty());
        assert_eq!(proxy.requests_for("/export"), 3, "it was tried again, twice");

        let passwd = fs::read_to_string(sandbox.path("mnt/rootfs/etc/passwd")).unwrap();
        assert!(passwd.starts_with("root:"), "{passwd}");
        let lost = fs::read(sandbox.path("mnt/rootfs").join(LATE)).unwrap_err();
        assert_eq!(lost.raw_os_error(), Some(5), "what has not come is EIO: {lost}");
        let log = fs::read_to_string(state(&sandbox)["log"].as_str().unwrap()).unwrap();
        assert!(log.contains("ERROR"), "{log}");
        umount(&sandbox);
        assert_cache_is_empty(&sandbox);
        assert_eq!(throwaways(&daemon, &proxy), [""; 0]);
    }
}

#[test]
fn waiting_for_all_of_it_fails_if_the_stream_is_lost() {
    let daemon = Daemon::docker();
    let proxy = Proxy::before(daemon.host(), Fault::WordsAfter(EARLY));
    let sandbox = Sandbox::new();
    let mut command =
        sandbox.imagefs(["mount", "--mkdir", "--wait", "--host", &proxy.address(), IMAGE, "mnt"]);
    let outcome = sandbox.run(&mut command);
    assert_eq!(outcome.code, Some(6), "{outcome:#?}");
    assert!(outcome.stderr.contains("error: "), "{outcome:#?}");
    sandbox.assert_nothing_left();
    assert_cache_is_empty(&sandbox);
    assert_eq!(throwaways(&daemon, &proxy), [""; 0]);
}

#[test]
fn a_stalled_stream_is_an_error_for_who_waits_and_not_a_hang() {
    let daemon = Daemon::docker();
    let proxy = Proxy::before(daemon.host(), Fault::StallAfter(EARLY));
    let sandbox = Sandbox::new();
    mount(&sandbox, &proxy, &["-o", "timeout=1"]);
    // A directory's listing can come by the stream alone.
    let listing = fs::read_dir(sandbox.path("mnt/rootfs/var/lib/dpkg"));
    let error = listing.and_then(|entries| entries.collect::<Result<Vec<_>, _>>()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
    let log = fs::read_to_string(state(&sandbox)["log"].as_str().unwrap()).unwrap();
    assert!(log.contains("ERROR") && log.contains("nothing came for 1s"), "{log}");
    umount(&sandbox);
    assert_cache_is_empty(&sandbox);
    proxy.wait_until_all_hung_up();
    assert_eq!(throwaways(&daemon, &proxy), [""; 0]);
}

#[test]
fn a_filling_mount_that_ends_leaves_nothing() {
    for daemon in Daemon::both() {
        let proxy = Proxy::before(daemon.host(), Fault::HoldAfter(EARLY));
        let sandbox = Sandbox::new();
        mount(&sandbox, &proxy, &[]);
        umount(&sandbox);
        assert_cache_is_empty(&sandbox);
        proxy.wait_until_all_hung_up();
        assert_eq!(throwaways(&daemon, &proxy), [""; 0], "{}", daemon.name);
    }
}

/// Begins a second mount of what is being filled, at `second`, and returns once it says that it waits.
fn wait_for_another(sandbox: &Sandbox, proxy: &Proxy) -> Child {
    let mut second = sandbox.imagefs(["mount", "--mkdir", "--host", &proxy.address(), IMAGE, "second"]);
    let mut child = second.stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
    assert_eq!(told.next().unwrap().unwrap(), format!("{IMAGE}: waiting for another imagefs that reads it"));
    child
}

#[test]
fn a_second_mount_of_a_filling_image_waits_and_makes_no_second_export() {
    for daemon in Daemon::both() {
        let proxy = Proxy::before(daemon.host(), Fault::HoldAfter(EARLY));
        let sandbox = Sandbox::new();
        mount(&sandbox, &proxy, &[]);
        let mut second = wait_for_another(&sandbox, &proxy);
        proxy.release();
        assert!(second.wait().unwrap().success());
        let release = fs::read_to_string(sandbox.path("second/rootfs/etc/os-release")).unwrap();
        assert!(release.contains("Debian"));
        assert_eq!((proxy.requests_for("/export"), proxy.containers().len()), (1, 1));
        for mountpoint in ["mnt", "second"] {
            sandbox.run(&mut sandbox.imagefs(["umount", mountpoint])).success();
        }
        sandbox.assert_nothing_left();
        assert_eq!(throwaways(&daemon, &proxy), [""; 0], "{}", daemon.name);
    }
}

#[test]
fn who_waits_for_a_filling_image_fills_it_when_the_first_is_killed() {
    for daemon in Daemon::both() {
        let proxy = Proxy::with_faults(daemon.host(), vec![Fault::HoldAfter(EARLY), Fault::None]);
        let sandbox = Sandbox::new();
        mount(&sandbox, &proxy, &[]);
        let pid = state(&sandbox)["pid"].as_i64().unwrap();
        let mut second = wait_for_another(&sandbox, &proxy);
        kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
        assert!(second.wait().unwrap().success());
        let status = fs::read_to_string(sandbox.path("second/rootfs").join(LATE)).unwrap();
        assert!(status.starts_with("Package: "));
        assert_eq!(proxy.requests_for("/export"), 2);
        for mountpoint in ["mnt", "second"] {
            sandbox.run(&mut sandbox.imagefs(["umount", mountpoint])).success();
        }
        sandbox.assert_nothing_left();
        assert_eq!(throwaways(&daemon, &proxy), [""; 0], "{}", daemon.name);
    }
}

#[test]
fn a_filling_mount_shows_on_podman_what_it_shows_on_docker() {
    let daemon = Daemon::podman();
    let proxy = Proxy::before(daemon.host(), Fault::None);
    let sandbox = Sandbox::new();
    mount(&sandbox, &proxy, &[]);
    // Podman itself says of a single file that the user of the image owns it.
    let owner = || {
        let found = fs::metadata(sandbox.path("mnt/rootfs").join(LATE)).unwrap();
        (found.uid(), found.gid(), found.ino())
    };
    let early = owner();
    assert_eq!((early.0, early.1), (0, 0));
    let status = fs::read_to_string(sandbox.path("mnt/rootfs").join(LATE)).unwrap();
    assert!(status.starts_with("Package: "));
    assert!(Path::new(&sandbox.path("mnt/rootfs/etc/os-release")).exists());
    wait_for_state(&sandbox, "ready");
    assert_eq!(owner(), early);
    assert_eq!(status, fs::read_to_string(sandbox.path("mnt/rootfs").join(LATE)).unwrap());
    umount(&sandbox);
    assert_eq!(throwaways(&daemon, &proxy), [""; 0]);
}
