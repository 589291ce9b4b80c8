//! Odd paths of an image that is not in the cache: what is asked of the daemon alone, and what the whole image says.

use std::fs;
use std::io::ErrorKind;
use std::thread;

use crate::support::proxy::{Fault, Proxy};
use crate::support::{Daemon, Sandbox, succeed, wait_until};

/// An image of what a script leaves in an empty directory. It goes when this goes out of scope.
struct Image {
    daemon: Daemon,
    name: String,
}

impl Image {
    #[track_caller]
    fn new(daemon: &Daemon, sandbox: &Sandbox, name: &str, script: &str) -> Image {
        let root = sandbox.directory("root");
        succeed(sandbox.command("bash").args(["-euc", script]).current_dir(&root));
        let tar = sandbox.path("root.tar");
        succeed(
            sandbox
                .command("tar")
                .arg("--create")
                .arg("--file")
                .arg(&tar)
                .arg("--directory")
                .arg(&root)
                .arg("."),
        );
        let name = format!("imagefs-test/{name}-{}", std::process::id());
        succeed(daemon.cli(["import"]).arg(&tar).arg(&name));
        Image { daemon: daemon.clone(), name }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = self.daemon.cli(["rmi", "--force", &self.name]).output();
    }
}

#[test]
fn a_link_that_leads_to_nothing_is_never_absent() {
    const LINKS: [&str; 5] = ["dangling", "chain", "through", "loop", "dir/relative"];
    for daemon in Daemon::both() {
        let sandbox = Sandbox::new();
        let script =
            "mkdir dir; : >file; ln -s /nowhere dangling; ln -s dangling chain; ln -s /file/x through
                      ln -s loop loop; ln -s nothing dir/relative";
        let image = Image::new(&daemon, &sandbox, "links", script);
        let proxy = Proxy::before(daemon.host(), Fault::HoldAfter(0));
        let mount = ["mount", "--mkdir", "--host", &proxy.address(), &image.name, "mnt"];
        sandbox.run(&mut sandbox.imagefs(mount)).success();
        let rootfs = sandbox.path("mnt/rootfs");
        let target = |path: &str| {
            fs::symlink_metadata(rootfs.join(path)).and_then(|_| fs::read_link(rootfs.join(path)))
        };
        thread::scope(|scope| {
            let asked = LINKS.map(|path| scope.spawn(move || target(path)));
            let is_asked = |path: &&str| proxy.requests_for(&format!("path=/{path} ")) > 0;
            assert!(wait_until(|| LINKS.iter().all(is_asked)), "{:#?}", proxy.lines());
            // What is not there is told at once, after them.
            for absent in ["nothing", "dir/nothing"] {
                let error = fs::symlink_metadata(rootfs.join(absent)).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NotFound, "{}: {absent}", daemon.name);
            }
            proxy.release();
            for (path, found) in LINKS.iter().zip(asked) {
                let found = found.join().unwrap();
                assert!(found.is_ok(), "{}: {path}: {found:?}", daemon.name);
            }
        });
        sandbox.unmount(&sandbox.path("mnt"));
        // One by one, each of an empty cache.
        for path in LINKS {
            sandbox
                .run(&mut sandbox.imagefs([
                    "--cache-dir",
                    path,
                    "stat",
                    "--host",
                    daemon.host(),
                    &image.name,
                    path,
                ]))
                .success();
        }
    }
}

#[test]
fn a_path_is_the_same_before_an_image_is_in_the_cache_and_after() {
    const SCRIPT: &str = r"
        mkdir -p dir/sub etc; echo file >file; chown 12:34 file; chmod 6750 file; echo pw >etc/pw; echo inside >dir/inside
        touch -d @1000000000.9 dir/inside; chown -R 7:8 dir/sub; mkfifo pipe; mknod null c 1 3
        ln -s /nowhere dangling; ln -s dangling chain; ln -s nothing dir/relative; ln -s loop loop; ln -s file/x through
        ln -s /etc/pw absolute; ln -s ../../../etc/pw dir/sub/up; ln -s dir link; ln -s . self; ln -s / dir/root
        ln -s file/../etc/pw via-file; ln -s nothing/../etc/pw via-nothing; ln -s /.dockerenv mark; echo '*' >'a?b'
        printf ff >$'\xff'; ln -s $'\xff' to-bytes; ln -s file link-0
        for i in {1..41}; do ln -s link-$((i-1)) link-$i; done";
    let long = "n".repeat(256);
    let paths = [
        "/",
        "file",
        "dir",
        "dir/inside",
        "pipe",
        "null",
        "dangling",
        "chain",
        "dir/relative",
        "loop",
        "through",
        "absolute",
        "dir/sub",
        "dir/sub/up",
        "link",
        "link/inside",
        "self/self/file",
        "dir/root",
        "dir/root/file",
        "via-file",
        "via-nothing",
        "mark",
        ".dockerenv",
        "self/.dockerenv",
        "self/mark",
        "a?b",
        "to-bytes",
        "link-39",
        "link-41",
        "link-41/x",
        "file/x",
        "nothing",
        "nothing/x",
        "loop/x",
        "dangling/x",
        "through/x",
        "dir/../file",
        &long,
    ];
    for daemon in Daemon::both() {
        let sandbox = Sandbox::new();
        let image = Image::new(&daemon, &sandbox, "odd", SCRIPT);
        let ask = |cache: &str, verb: &[&str], path: &str| {
            let mut command = sandbox.imagefs(["--cache-dir", cache]);
            let mut told = sandbox.run(command.args(verb).args(["--host", daemon.host(), &image.name, path]));
            // Of a file that was asked for alone nobody knows which inode it is.
            let known = |line: &&str| !line.starts_with("   Inode: ") && !line.starts_with("   Links: ");
            told.stdout = told.stdout.lines().filter(known).collect();
            (told.code, told.stdout, told.stderr)
        };
        ask("whole", &["find"], "/");
        for path in paths {
            for verb in [&["stat"][..], &["stat", "-L"], &["cat"]] {
                let before = ask("none", verb, path);
                assert_eq!(before, ask("whole", verb, path), "{}: {verb:?} {path}", daemon.name);
                let _ = fs::remove_dir_all(sandbox.path("none"));
            }
        }
    }
}
