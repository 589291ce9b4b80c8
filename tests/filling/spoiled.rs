//! Streams that come slowly, in parts, or not to their end: nobody who uses the mount meanwhile sees anything but a
//! whole filesystem, or an error.

use std::fs;
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::{assert_cache_is_empty, mount_image, state, throwaways, umount, wait_for_state};
use crate::support::proxy::{Fault, Proxy};
use crate::support::{Daemon, Manifest, Sandbox, wait_until};

/// Nineteen entries of two megabytes, nearly all of them in one file.
const SMALL: &str = "imagefs-test/small";
/// Twenty thousand entries, most of them in the directory `many`.
const LARGE: &str = "imagefs-test/torture";

/// In the body of an export of `SMALL`: before the first header, in it, in a file's content, and where no content is.
const OFFSETS: [usize; 4] = [0, 300, 1_000_000, 1_988_000];

/// What a mount of the image shows when nothing is in the way.
fn undisturbed(daemon: &Daemon, image: &str) -> Manifest {
    let sandbox = Sandbox::new();
    let proxy = Proxy::before(daemon.host(), Fault::None);
    mount_image(image, &sandbox, &proxy, &["--wait"]);
    let manifest = Manifest::read(&sandbox.path("mnt/rootfs"));
    umount(&sandbox);
    manifest
}

/// Fails if this is not the expected mount. What a daemon adds to an image is as old as the container.
#[track_caller]
fn assert_whole(rootfs: &Path, expected: &Manifest) -> Manifest {
    let expected = expected.clone().ignoring("mtime");
    // The kernel may keep a link count from before for a second.
    let read = || Manifest::read(rootfs).ignoring("mtime");
    if !wait_until(|| expected.differences(&read()).is_empty()) {
        expected.assert_same(&read());
    }
    Manifest::read(rootfs)
}

/// Mounts the image through a proxy, looks at everything while it comes and after, and leaves nothing.
#[track_caller]
fn see_all(daemon: &Daemon, image: &str, faults: &[Fault], options: &[&str], expected: &Manifest) {
    let proxy = Proxy::with_faults(daemon.host(), faults.to_vec());
    let sandbox = Sandbox::new();
    mount_image(image, &sandbox, &proxy, options);
    let rootfs = sandbox.path("mnt/rootfs");
    let walks: Vec<Manifest> = thread::scope(|scope| {
        let walks = [0, 1].map(|_| scope.spawn(|| Manifest::read(&rootfs)));
        let absent = scope.spawn(|| fs::metadata(rootfs.join("etc/absent")).unwrap_err().kind());
        assert_eq!(absent.join().unwrap(), io::ErrorKind::NotFound, "{faults:?}");
        walks.into_iter().map(|walk| walk.join().unwrap()).collect()
    });
    wait_for_state(&sandbox, "ready");
    assert_eq!(proxy.requests_for("/export"), faults.len(), "{faults:?}");
    let whole = assert_whole(&rootfs, expected).ignoring("nlink");
    for walk in walks {
        // Another name of a file may have been still to come.
        whole.assert_same(&walk.ignoring("nlink"));
    }
    sandbox.run(&mut sandbox.imagefs(["cache", "verify"])).success();
    umount(&sandbox);
    proxy.wait_until_all_hung_up();
    assert_eq!(throwaways(daemon, &proxy), [""; 0], "{faults:?}");
}

/// All that is in a directory, or the error in which the listing ends.
fn list(dir: &Path) -> io::Result<Vec<fs::DirEntry>> {
    fs::read_dir(dir)?.collect()
}

#[test]
fn a_stream_that_breaks_off_anywhere_is_gone_on_with() {
    for daemon in Daemon::both() {
        let expected = undisturbed(&daemon, SMALL);
        for at in OFFSETS {
            for fault in [Fault::CutAfter(at), Fault::ResetAfter(at), Fault::WordsAfter(at)] {
                see_all(&daemon, SMALL, &[fault, Fault::None], &[], &expected);
            }
        }
        // And once more, at a later place.
        let twice = [Fault::ResetAfter(OFFSETS[1]), Fault::CutAfter(OFFSETS[2]), Fault::None];
        see_all(&daemon, SMALL, &twice, &[], &expected);
    }
}

#[test]
fn a_slow_stream_is_waited_for() {
    for daemon in Daemon::both() {
        let expected = undisturbed(&daemon, SMALL);
        for at in OFFSETS {
            see_all(&daemon, SMALL, &[Fault::DelayAfter(at, Duration::from_millis(500))], &[], &expected);
        }
        // All of it takes longer than anybody would wait for a stream that does not move.
        let slow = Fault::ThrottleAfter(OFFSETS[1], 250_000);
        see_all(&daemon, SMALL, &[slow], &["-o", "timeout=3"], &expected);
    }
}

#[test]
fn a_large_directory_is_listed_whole_though_the_stream_breaks_off_within_it() {
    let daemon = Daemon::docker();
    let expected = undisturbed(&daemon, LARGE);
    let middle = 8 << 20;
    see_all(&daemon, LARGE, &[Fault::ResetAfter(middle), Fault::None], &[], &expected);
    see_all(&daemon, LARGE, &[Fault::ThrottleAfter(middle, 16 << 20)], &[], &expected);
}

#[test]
fn a_stalled_stream_is_an_error_until_it_goes_on() {
    for daemon in Daemon::both() {
        let expected = undisturbed(&daemon, SMALL);
        for at in OFFSETS {
            let proxy = Proxy::before(daemon.host(), Fault::HoldAfter(at));
            let sandbox = Sandbox::new();
            mount_image(SMALL, &sandbox, &proxy, &["-o", "timeout=1"]);
            let rootfs = sandbox.path("mnt/rootfs");
            let listing =
                || fs::read_dir(rootfs.join("root")).and_then(Iterator::collect::<io::Result<Vec<_>>>);
            let error = listing().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{at}: {error}");
            let log = fs::read_to_string(state(&sandbox)["log"].as_str().unwrap()).unwrap();
            assert!(log.contains("ERROR") && log.contains("nothing came for 1s"), "{log}");
            assert_eq!(state(&sandbox)["state"], "filling");
            proxy.release();
            wait_for_state(&sandbox, "ready");
            assert_whole(&rootfs, &expected);
            umount(&sandbox);
            assert_eq!(throwaways(&daemon, &proxy), [""; 0]);
        }
    }
}

#[test]
fn a_stream_that_never_comes_whole_leaves_nothing() {
    for daemon in Daemon::both() {
        let [before, within_header, within_file, late] = OFFSETS;
        for fault in [
            Fault::CutAfter(before),
            Fault::ResetAfter(within_header),
            Fault::WordsAfter(within_file),
            Fault::ResetAfter(late),
        ] {
            let proxy = Proxy::before(daemon.host(), fault);
            let sandbox = Sandbox::new();
            mount_image(SMALL, &sandbox, &proxy, &[]);
            wait_for_state(&sandbox, "broken");
            assert_eq!(proxy.requests_for("/export"), 3, "{fault:?}");
            let told = state(&sandbox)["failure"].as_str().unwrap().to_owned();
            let log = fs::read_to_string(state(&sandbox)["log"].as_str().unwrap()).unwrap();
            assert!(!told.is_empty() && log.contains(&told), "{told}: {log}");
            let error = list(&sandbox.path("mnt/rootfs")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{fault:?}: {error}");
            umount(&sandbox);
            assert_cache_is_empty(&sandbox);
            proxy.wait_until_all_hung_up();
            assert_eq!(throwaways(&daemon, &proxy), [""; 0], "{fault:?}");
        }
    }
}
