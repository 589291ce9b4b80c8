//! The library's public face, over tars: paths, ranges, patterns, and what is told of a file.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use imagefs::cache::Cache;
use imagefs::gateway::{FileStat, Gateway, GatewayError, Pattern};
use imagefs::index::FileType;
use imagefs::progress::Progress;
use imagefs::source::Context;

use crate::support::{Sandbox, succeed};

/// A tar of what `script` leaves in an empty directory, opened.
struct Place {
    gateway: Gateway,
    sandbox: Sandbox,
}

impl Place {
    #[track_caller]
    fn new(script: &str) -> Place {
        let sandbox = Sandbox::new();
        let root = sandbox.directory("root");
        succeed(sandbox.command("bash").args(["-euc", script]).current_dir(&root));
        let tar = sandbox.path("root.tar");
        let options = ["--create", "--format=pax", "--xattrs", "--xattrs-include=*", "--sparse", "--file"];
        succeed(sandbox.command("tar").args(options).arg(&tar).arg("--directory").arg(&root).arg("."));
        Place { gateway: open(&sandbox, &tar), sandbox }
    }

    #[track_caller]
    fn read(&self, path: &str) -> String {
        String::from_utf8(self.gateway.read_file(0, path, ..).unwrap()).unwrap()
    }

    #[track_caller]
    fn stat(&self, path: &str) -> FileStat {
        self.gateway.stat_file(0, path).unwrap()
    }

    fn names(&self, path: &str, include: Option<&str>) -> Vec<String> {
        let include = include.map(Pattern::new);
        let files = self.gateway.read_dir(0, path, include.as_ref()).unwrap();
        files.iter().map(|file| file.name().to_string_lossy().into_owned()).collect()
    }
}

fn open(sandbox: &Sandbox, tar: &Path) -> Gateway {
    let cache = Cache::open(Some(sandbox.path("cache"))).unwrap();
    let progress = Arc::new(Progress::new());
    let context = Context::new(&cache, &progress);
    Gateway::open(tar, &context).unwrap()
}

#[test]
fn a_mount_index_beyond_the_table_is_told() {
    let place = Place::new("echo hello >file");
    for (index, message) in [
        (7, "mount index 7 is out of bounds (1 available)"),
        (1, "mount index 1 is out of bounds (1 available)"),
        (-1, "mount index -1 is out of bounds (1 available)"),
        (i64::MIN, "mount index -9223372036854775808 is out of bounds (1 available)"),
        (i64::MAX, "mount index 9223372036854775807 is out of bounds (1 available)"),
    ] {
        let gateway = &place.gateway;
        assert_eq!(gateway.stat_file(index, "/file").unwrap_err().to_string(), message);
        assert_eq!(gateway.read_file(index, "/file", ..).unwrap_err().to_string(), message);
        assert_eq!(gateway.read_dir(index, "/", None).unwrap_err().to_string(), message);
    }
    assert_eq!(place.gateway.mounts().len(), 1);
    assert_eq!(place.gateway.mount_index("rootfs").unwrap(), 0);
    assert!(matches!(place.gateway.mount_index("data"), Err(GatewayError::MountName { .. })));
}

#[test]
fn a_path_is_cleaned_and_stays_below_the_root() {
    let place = Place::new("mkdir foo foobar; echo 1 >foo/x; echo 2 >foobar/x; echo 3 >x");
    for (path, content) in [
        ("/foo/x", "1\n"),
        ("foo/x", "1\n"),
        ("./foo/./x", "1\n"),
        ("//foobar//x/", "2\n"),
        ("/foo/../foobar/x", "2\n"),
        ("/nothing/../x", "3\n"),
        ("../../../x", "3\n"),
        ("/foo/../../../x", "3\n"),
    ] {
        assert_eq!(place.read(path), content, "{path}");
    }
    assert_eq!(place.stat("../foo/./x").path, Path::new("/foo/x"));
    assert_eq!(place.stat("").path, Path::new("/"));
    assert_eq!(place.stat("/").name(), "/");
    // Neither a component that only begins alike, nor one that goes on below a file.
    for absent in ["/fo/x", "/foob/x", "/foo/x2", "/foobar/x/y", "/fooba"] {
        assert!(place.gateway.stat_file(0, absent).is_err(), "{absent}");
    }
}

#[test]
fn no_link_leads_to_the_host() {
    let place = Place::new(
        "mkdir -p etc deep/er; echo inside >etc/passwd; ln -s /etc/passwd abs; ln -s ../../../../etc/passwd up
         ln -s / deep/er/root; ln -s ../.. deep/er/rise; ln -s deep/er/root/deep link; ln -s /etc/hostname host",
    );
    for path in ["abs", "up", "deep/er/root/etc/passwd", "deep/er/rise/abs", "link/er/root/abs"] {
        assert_eq!(place.read(path), "inside\n", "{path}");
        let stat = place.stat(path);
        assert_eq!((stat.file_type, stat.size), (FileType::Regular, 7), "{path}");
    }
    // The host has it, the tar does not: the client gets the link, to make of it what it can.
    assert!(Path::new("/etc/hostname").exists());
    assert!(matches!(place.gateway.read_file(0, "host", ..), Err(GatewayError::NotFound(_))));
    let link = place.stat("host");
    assert_eq!(link.file_type, FileType::Symlink);
    assert_eq!(link.link_target.as_deref(), Some(Path::new("/etc/hostname")));
    assert_eq!(place.names("link", None), ["er"]);
}

#[test]
fn a_loop_is_an_error() {
    let place = Place::new("ln -s b a; ln -s a b; ln -s . self; echo x >file");
    let error = place.gateway.read_file(0, "/a", ..).unwrap_err();
    assert_eq!(error.to_string(), r#"too many levels of symbolic links: "/a""#);
    assert_eq!(place.gateway.stat_link(0, "/a").unwrap().file_type, FileType::Symlink);
    assert_eq!(place.read(&format!("{}file", "self/".repeat(40))), "x\n");
    let far = format!("{}file", "self/".repeat(41));
    assert!(matches!(place.gateway.stat_file(0, far), Err(GatewayError::Loop(_))));
}

#[test]
fn a_range_is_honoured_and_ends_with_the_file() {
    let place = Place::new(
        "printf 0123456789 >file; truncate -s 1M sparse; printf end >>sparse; : >empty; mkdir dir",
    );
    let read = |path: &str, start: u64, length: u64| {
        let bytes = place.gateway.read_file(0, path, start..start.saturating_add(length)).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    assert_eq!(read("file", 0, 4), "0123");
    assert_eq!(read("file", 4, 100), "456789");
    assert_eq!(read("file", 3, 0), "");
    assert_eq!(read("file", 10, 1), "");
    assert_eq!(read("file", u64::MAX, u64::MAX), "");
    assert_eq!(read("empty", 0, 10), "");
    assert_eq!(read("sparse", (1 << 20) - 2, 10), "\0\0end");
    assert_eq!(place.gateway.read_file(0, "file", 8..).unwrap(), b"89");
    assert_eq!(place.gateway.read_file(0, "file", ..=1).unwrap(), b"01");
    let error = place.gateway.read_file(0, "dir", ..).unwrap_err();
    assert_eq!(error.to_string(), r#"not a regular file: "/dir""#);
}

#[test]
fn more_than_memory_should_hold_is_refused() {
    let place = Place::new("truncate -s 1T huge");
    let error = place.gateway.read_file(0, "huge", ..).unwrap_err();
    assert!(matches!(error, GatewayError::TooLarge { size: 0x100_0000_0000, .. }), "{error}");
    assert_eq!(place.gateway.read_file(0, "huge", (1 << 39)..(1 << 39) + 3).unwrap(), [0, 0, 0]);
    let mut file = place.gateway.open_file(0, "huge").unwrap();
    assert_eq!(file.next_data().unwrap(), (1 << 40)..(1 << 40));
    assert_eq!(file.read(&mut [0; 16]).unwrap(), 0);
}

#[test]
fn a_listing_is_sorted_and_a_pattern_chooses() {
    let place = Place::new(
        "mkdir d empty; cd d; touch b.py a.py .hidden c.pyc Z $'new\\nline' $'\\xff'; ln -s a.py link",
    );
    let all = [".hidden", "Z", "a.py", "b.py", "c.pyc", "link", "new\nline", "\u{fffd}"];
    assert_eq!(place.names("/d", None), all);
    assert_eq!(place.names("/d", Some("*.py")), ["a.py", "b.py"]);
    assert_eq!(place.names("/d", Some("[a-c].py*")), ["a.py", "b.py", "c.pyc"]);
    assert_eq!(place.names("/d", Some("none*")), [""; 0]);
    assert_eq!(place.names("/empty", None), [""; 0]);
    assert!(matches!(place.gateway.read_dir(0, "/d/Z", None), Err(GatewayError::NotADirectory(_))));
    let files = place.gateway.read_dir(0, "d/../d", Some(&Pattern::new("link"))).unwrap();
    let [link] = files.as_slice() else { panic!("{files:?}") };
    assert_eq!(link.path, Path::new("/d/link"));
    assert_eq!(link.link_target.as_deref(), Some(Path::new("a.py")));
}

#[test]
fn all_that_is_known_of_a_file_is_told() {
    let place = Place::new(
        "echo content >file; chown 1234:4321 file; chmod 6750 file; touch -d @-5.25 file
         setfattr -n user.note -v hi file; ln file second; mknod node c 5 300; mkfifo pipe; ln -s gone link",
    );
    let file = place.stat("file");
    assert_eq!((file.mode(), file.uid, file.gid, file.size), (0o106750, 1234, 4321, 8));
    assert_eq!(file.mtime_ns(), -5_250_000_000);
    assert_eq!(file.xattrs, [(b"user.note".to_vec(), b"hi".to_vec())]);
    assert_eq!(file.inode.unwrap().links, 2);
    assert_eq!(place.stat("second").inode, file.inode);
    let node = place.stat("node");
    assert_eq!((node.file_type, node.device), (FileType::CharDevice, (5, 300)));
    assert_eq!(place.stat("pipe").mode() & 0o170000, 0o010000);
    let link = place.gateway.stat_link(0, "link").unwrap();
    assert_eq!((link.size, link.link_target.as_deref()), (4, Some(Path::new("gone"))));
}

#[test]
fn many_threads_read_at_once() {
    let place = Place::new("for i in {1..50}; do seq $i >f$i; done");
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for file in place.gateway.read_dir(0, "/", None).unwrap() {
                    let bytes = place.gateway.read_file(0, &file.path, ..).unwrap();
                    assert_eq!(bytes.len() as u64, file.size);
                }
            });
        }
    });
}

#[test]
fn a_tar_that_breaks_off_says_what_is_lost() {
    let place = Place::new("mkdir a; seq 100000 >a/file; ln -s a link");
    let whole = fs::read(place.sandbox.path("root.tar")).unwrap();
    let cut = place.sandbox.path("cut.tar");
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    symlink("cut.tar", place.sandbox.path("alias.tar")).unwrap();
    let cache = Cache::open(Some(place.sandbox.path("cache"))).unwrap();
    let progress = Arc::new(Progress::new());
    let context = Context::new(&cache, &progress);
    let error = match Gateway::open(place.sandbox.path("alias.tar"), &context) {
        Err(error) => error.to_string(),
        Ok(gateway) => gateway.read_file(0, "/a/file", ..).unwrap_err().to_string(),
    };
    assert!(error.contains("truncated") || error.contains("broke off"), "{error}");
}
