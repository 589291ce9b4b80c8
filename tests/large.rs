//! Images whose bytes stand in few, large files: the cache keeps these in files of their own, which root's kernel reads itself.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::proxy::{Fault, Proxy};
use crate::support::{Daemon, Sandbox, kernel_passes_through, succeed};

/// The length of the large file, in bytes.
const SIZE: u64 = (80 << 20) + 12_345;

/// An image of a daemon's with a large file under two names and a small one, and the directory it was made from.
struct Large {
    sandbox: Sandbox,
    daemon: Daemon,
    image: String,
    original: PathBuf,
}

impl Large {
    #[track_caller]
    fn new(name: &str) -> Large {
        let (sandbox, daemon) = (Sandbox::new(), Daemon::docker());
        let original = sandbox.directory("original");
        let make = format!("head -c {SIZE} /dev/urandom > large; echo small > small; ln large other-name");
        succeed(sandbox.command("sh").args(["-euc", &make]).current_dir(&original));
        succeed(sandbox.command("tar").args(["-C", "original", "-cf", "root.tar", "."]));
        let image = format!("imagefs-test/large-{name}");
        succeed(daemon.cli(["import"]).arg(sandbox.path("root.tar")).arg(&image));
        Large { sandbox, daemon, image, original }
    }

    #[track_caller]
    fn mount(&self, name: &str, host: &str, options: &[&str]) -> PathBuf {
        let words = ["--host", host, &self.image].into_iter().chain(options.iter().copied());
        self.sandbox.mount(name, words).join("rootfs")
    }

    /// Fails unless cmp(1) and dd(1) find in a mount what was packed.
    #[track_caller]
    fn assert_is_packed(&self, root: &Path) {
        for name in ["large", "other-name", "small"] {
            succeed(self.sandbox.command("cmp").arg(self.original.join(name)).arg(root.join(name)));
        }
        let mut direct = self.sandbox.command("bash");
        let script = "dd if=large iflag=direct bs=1M status=none | cmp - \"$0\"";
        direct.args(["-euo", "pipefail", "-c", script]).arg(self.original.join("large")).current_dir(root);
        succeed(&mut direct);
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        let _ = self.daemon.cli(["rmi", &self.image]).output();
    }
}

/// How often the only process of a sandbox has made a system call to read, and how many bytes it has read so.
#[track_caller]
fn reads_of_server(sandbox: &Sandbox) -> (u64, u64) {
    let [pid] = sandbox.processes()[..] else { panic!("{:?}", sandbox.processes()) };
    let io = fs::read_to_string(format!("/proc/{}/io", pid.as_raw_nonzero())).unwrap();
    let number = |name| io.lines().find_map(|line| line.strip_prefix(name)?.parse().ok()).unwrap();
    (number("syscr: "), number("rchar: "))
}

#[test]
fn the_kernel_reads_a_large_file_by_itself() {
    let large = Large::new("read");
    for options in [&[][..], &["-o", "exact"]] {
        // One that is still filling does without, and reads the same.
        for name in ["first", "second"] {
            let root = large.mount(name, large.daemon.host(), options);
            let before = reads_of_server(&large.sandbox).1;
            large.assert_is_packed(&root);
            let read = reads_of_server(&large.sandbox).1 - before;
            if name == "second" && kernel_passes_through(&large.sandbox.path("cache")) {
                assert!(read < 1 << 20, "{options:?}: the server has read {read} bytes");
            }
            let mountpoint = large.sandbox.path(name);
            large.sandbox.unmount(&mountpoint);
            fs::remove_dir(mountpoint).unwrap();
        }
    }
    large.sandbox.run(&mut large.sandbox.imagefs(["cache", "verify"])).success();
    large.sandbox.assert_nothing_left();
}

#[test]
fn a_stream_that_breaks_off_within_a_large_file_goes_on() {
    let large = Large::new("broken");
    for fault in [Fault::CutAfter(40 << 20), Fault::WordsAfter(40 << 20)] {
        let proxy = Proxy::with_faults(large.daemon.host(), vec![fault, Fault::None]);
        let root = large.mount("mnt", &proxy.address(), &[]);
        assert_eq!(proxy.requests_for("/export"), 2, "{fault:?}");
        large.assert_is_packed(&root);
        let mountpoint = large.sandbox.path("mnt");
        large.sandbox.unmount(&mountpoint);
        fs::remove_dir(mountpoint).unwrap();
        large.sandbox.run(&mut large.sandbox.imagefs(["cache", "verify"])).success();
        large.sandbox.run(&mut large.sandbox.imagefs(["cache", "prune", "--max-size", "0"])).success();
    }
    large.sandbox.assert_nothing_left();
}

#[test]
fn a_file_of_an_image_of_small_files_is_opened_without_a_request() {
    let (sandbox, daemon) = (Sandbox::new(), Daemon::docker());
    let words = ["--host", daemon.host(), "imagefs-test/small"];
    sandbox.mount("first", words);
    sandbox.unmount(&sandbox.path("first"));
    let file = sandbox.mount("second", words).join("rootfs/bin/busybox");
    fs::read(&file).unwrap();
    let before = reads_of_server(&sandbox).0;
    for _ in 0..1000 {
        fs::File::open(&file).unwrap();
    }
    let asked = reads_of_server(&sandbox).0 - before;
    assert!(asked < 100, "the server was asked {asked} times");
}
