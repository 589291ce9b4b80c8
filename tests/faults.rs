//! What cannot work is refused with a message that says what to do, with an exit status of its own, and leaves nothing.
//!
//! What is wrong with a mountpoint or a command line is the matter of `cli`, a stream that breaks off that of `filling`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::proxy::{Fault, Proxy};
use crate::support::{Daemon, Manifest, Sandbox, archives, as_nobody, succeed, wait_until};

const SMALL: &str = "imagefs-test/small";
const NOBODY: u32 = 65534;

/// A sandbox with the mountpoint `mnt`.
struct Place(Sandbox);

impl Place {
    fn new() -> Place {
        let sandbox = Sandbox::new();
        sandbox.directory("mnt");
        Place(sandbox)
    }

    /// Tries to mount at `mnt`. That has to fail with this exit status and all of these words, and leave nothing.
    #[track_caller]
    fn refuse(&self, args: &[&str], status: i32, words: &[&str]) {
        self.refused(self.0.imagefs(["mount", "--wait"]).args(args).arg("mnt"), status, words);
    }

    #[track_caller]
    fn refused(&self, command: &mut Command, status: i32, words: &[&str]) {
        let outcome = self.0.run(command);
        assert_eq!(outcome.code, Some(status), "{outcome:#?}");
        let errors = outcome.stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert!(outcome.stdout.is_empty() && errors == 1, "{outcome:#?}");
        for word in words {
            assert!(outcome.stderr.contains(word), "no word of {word:?}: {outcome:#?}");
        }
        self.assert_clean(&self.0.path("cache"));
    }

    /// Fails if there is any trace of a mount: itself, its process, its record, or anything in the cache.
    #[track_caller]
    fn assert_clean(&self, cache: &Path) {
        self.0.assert_nothing_left();
        assert_eq!(fs::read_dir(self.0.path("mnt")).unwrap().count(), 0);
        assert_eq!(files_below(&self.0.path("run")), Vec::<PathBuf>::new());
        let marks = ["CACHEDIR.TAG", "lock"];
        let is_mark = |path: &PathBuf| marks.iter().any(|mark| path.ends_with(mark));
        let left: Vec<_> = files_below(cache).into_iter().filter(|path| !is_mark(path)).collect();
        assert_eq!(left, Vec::<PathBuf>::new(), "left in the cache");
    }

    /// A file in the sandbox.
    fn file(&self, name: &str, parts: &[&[u8]]) -> String {
        let mut file = fs::File::create(self.0.path(name)).unwrap();
        parts.iter().for_each(|part| file.write_all(part).unwrap());
        format!("./{name}")
    }

    /// A directory in the sandbox with room for 1 MiB.
    fn small_disk(&self, name: &str) -> PathBuf {
        let path = self.0.directory(name);
        let mount = ["-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs"];
        succeed(self.0.command("mount").args(mount).arg(&path));
        path
    }

    /// What `imagefs mounts` tells of the only mount.
    #[track_caller]
    fn only_mount(&self) -> Value {
        let listed = self.0.run(&mut self.0.imagefs(["mounts", "--json"])).success().stdout;
        let [mount] = serde_json::from_str::<Vec<Value>>(&listed).unwrap().try_into().unwrap();
        mount
    }
}

/// The regular files below a directory.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files_below(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

#[test]
fn a_daemon_that_does_not_run() {
    let place = Place::new();
    place.refuse(&["debian"], 4, &["cannot reach the daemon", "DOCKER_HOST", "systemctl start docker"]);
    // Where one was, and ended.
    drop(UnixListener::bind(place.0.path("left.sock")).unwrap());
    let host = format!("unix://{}", place.0.path("left.sock").display());
    place.refuse(&["--host", &host, "debian"], 4, &["nobody listens there", "is the daemon running?"]);
}

#[test]
fn a_socket_that_is_not_for_this_user() {
    let place = Place::new();
    for name in ["", "cache", "run", "mnt"] {
        chown(place.0.path(name), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let _daemon = UnixListener::bind(place.0.path("root.sock")).unwrap();
    let mut command = place.0.command("sh");
    as_nobody(&mut command, "", env!("CARGO_BIN_EXE_imagefs"));
    command.args(["mount", "--host"]).arg(format!("unix://{}", place.0.path("root.sock").display()));
    place.refused(command.args(["debian", "mnt"]), 4, &["permission denied", "group of the socket", "sudo"]);
}

#[test]
fn an_image_that_is_not_there() {
    let place = Place::new();
    for daemon in Daemon::both() {
        let host = ["--host", daemon.host()];
        let engine = if daemon.name == "podman" { "Podman" } else { "Docker" };
        let missing = format!("image not found in local {engine} storage: imagefs-test/smal");
        place.refuse(&[&host[..], &["imagefs-test/smal"]].concat(), 3, &[&missing, SMALL, " pull "]);
        let absent = format!("sha256:{}", "0".repeat(64));
        place.refuse(&[&host[..], &[&absent]].concat(), 3, &["image not found", &absent]);
        let wrong = ["--platform", "linux/s390x", SMALL];
        place.refuse(&[&host[..], &wrong].concat(), 3, &["not for linux/s390x", " pull --platform"]);
    }
}

#[test]
fn a_name_that_no_image_can_have() {
    let place = Place::new();
    for (name, word) in [
        ("", "it is empty"),
        ("Debian", "capital letters"),
        ("a:b:c", "is not the name of an image"),
        ("debian@sha256:12", "is not the name of an image"),
        ("a\u{1b}[31m", r"\u{1b}[31m"),
        ("docker://Debian", "capital letters"),
    ] {
        place.refuse(&[name], 2, &[word]);
    }
}

#[test]
fn a_tar_that_is_cut_short() {
    let place = Place::new();
    let tar = fs::read(archives::fixture("small.tar")).unwrap();
    let again = "make or fetch it again";
    for (length, within) in [(700, "a header"), (100_000, "a file's content")] {
        let cut = place.file("cut.tar", &[&tar[..length]]);
        let end = format!("truncated: the archive ends at byte {length}, in the middle of {within}");
        place.refuse(&[&cut], 6, &["/cut.tar\"", &end, again]);
        succeed(place.0.command("gzip").args(["--keep", "--force", "cut.tar"]));
        place.refuse(&["./cut.tar.gz"], 6, &["/cut.tar.gz\"", &end, again]);
    }
    for program in ["gzip", "zstd", "xz"] {
        let packed = succeed(place.0.command(program).arg("-c").arg(archives::fixture("small.tar")));
        let cut = place.file("cut.packed", &[&packed[..packed.len() / 2]]);
        place.refuse(&[&cut], 6, &["cut.packed\" cannot be unpacked", again]);
        // Whole, but not what it was.
        let mut damaged = packed;
        let middle = damaged.len() / 2;
        damaged[middle..middle + 64].fill(0xa5);
        let damaged = place.file("damaged.packed", &[&damaged]);
        place.refuse(&[&damaged], 6, &["/damaged.packed\""]);
    }
}

#[test]
fn a_file_that_is_no_tar() {
    let place = Place::new();
    let wanted = "plain or compressed with gzip";
    for content in [&b""[..], b"hello\n", &[0xa5; 5000]] {
        let file = place.file("file", &[content]);
        place.refuse(&[&file], 6, &["not a tar archive", wanted]);
    }
    place.refuse(&["./absent.tar"], 3, &["\"./absent.tar\"", "No such file"]);
    place.refuse(&["tar:mnt"], 6, &["\"mnt\" is not a regular file"]);
}

#[test]
fn a_tar_that_ends_with_the_words_of_a_failing_daemon() {
    let place = Place::new();
    let tar = fs::read(archives::fixture("small.tar")).unwrap();
    let words = b"{\"message\":\"Error exporting\"}\n";
    let after = place.file("after.tar", &[&tar, words]);
    // A daemon's stream that ends so is refused; an archive of the user's is whole, and POSIX lets it have something behind its end.
    let mut mount = place.0.imagefs(["mount", "--wait", "--mkdir"]);
    let outcome = place.0.run(mount.args([&*after, "after"]));
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    assert!(outcome.stderr.contains("something follows the end mark"), "{outcome:#?}");
    let mountpoint = place.0.path("after");
    assert!(mountpoint.join("rootfs/etc/passwd").exists());
    place.0.unmount(&mountpoint);
    place.0.run(&mut place.0.imagefs(["cache", "prune", "--max-size", "0"])).success();
    // In place of a header: the archive has 10 KiB of zeros at its end.
    let content = &tar[..tar.iter().rposition(|byte| *byte != 0).unwrap().next_multiple_of(512)];
    let within = place.file("within.tar", &[content, words, &[0; 8192]]);
    place.refuse(&[&within], 6, &["a tar header was expected"]);
}

#[test]
fn a_mountpoint_that_is_a_mount_already() {
    let place = Place::new();
    let tar = archives::fixture("small.tar");
    let first = place.0.mount("first", [tar.as_os_str()]);
    let outcome = place.0.run(place.0.imagefs(["mount"]).args([&tar, &first]));
    assert_eq!(outcome.code, Some(5), "{outcome:#?}");
    assert!(outcome.stderr.contains("already mounted") && outcome.stderr.contains("umount"), "{outcome:#?}");
    assert!(first.join("rootfs/etc/passwd").exists());
    place.0.unmount(&first);
    place.0.assert_nothing_left();
}

#[test]
fn a_cache_that_is_not_ours_or_cannot_be_written() {
    let place = Place::new();
    let tar = archives::fixture("small.tar");
    let foreign = place.0.directory("foreign");
    chown(&foreign, Some(1234), None).unwrap();
    let args = |dir: &Path| ["--cache-dir".to_owned(), dir.display().to_string(), tar.display().to_string()];
    let refuse = |dir: &Path, words: &[&str]| {
        place.refuse(&args(dir).each_ref().map(String::as_str), 7, words);
    };
    refuse(&foreign, &["belongs to uid 1234", "--cache-dir"]);
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 0);

    let disk = place.small_disk("read-only");
    succeed(place.0.command("mount").args(["-o", "remount,ro"]).arg(&disk));
    let outcome = place.0.run(place.0.imagefs(["mount"]).args(args(&disk.join("cache"))).arg("mnt"));
    succeed(place.0.command("umount").arg(&disk));
    assert_eq!(outcome.code, Some(7), "{outcome:#?}");
    for word in ["Read-only file system", "--cache-dir"] {
        assert!(outcome.stderr.contains(word), "{outcome:#?}");
    }
    place.assert_clean(&place.0.path("cache"));
}

#[test]
fn a_limit_on_the_size_of_files() {
    for daemon in Daemon::both() {
        let place = Place::new();
        let proxy = Proxy::before(daemon.host(), Fault::None);
        for args in [&["ls", SMALL, "/"][..], &["mount", "--wait", SMALL, "mnt"]] {
            let mut command = place.0.command("sh");
            command.args(["-c", "ulimit -f 1; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_imagefs")]);
            let outcome = place.0.run(command.args(args).env("DOCKER_HOST", proxy.address()));
            assert_eq!(outcome.code, Some(7), "{outcome:#?}");
            for word in ["File too large", "ulimit -f", "--cache-dir"] {
                assert!(outcome.stderr.contains(word), "{outcome:#?}");
            }
        }
        assert!(proxy.containers().len() >= 2);
        assert!(!proxy.containers().iter().any(|id| daemon.has_container(id)));
        place.assert_clean(&place.0.path("cache"));
    }
}

#[test]
fn a_disk_without_inodes() {
    let place = Place::new();
    let disk = place.0.directory("disk");
    let mount = ["-t", "tmpfs", "-o", "size=1m,nr_inodes=4,mode=700", "tmpfs"];
    succeed(place.0.command("mount").args(mount).arg(&disk));
    let archive = archives::fixture("small.tar");
    let outcome = place.0.run(place.0.imagefs(["ls"]).arg(archive).env("IMAGEFS_CACHE_DIR", &disk));
    assert_eq!(outcome.code, Some(7), "{outcome:#?}");
    assert!(outcome.stderr.contains("no inode is free there"), "{outcome:#?}");
    succeed(place.0.command("umount").arg(&disk));
    place.assert_clean(&place.0.path("cache"));
}

#[test]
fn a_disk_that_is_full_before_the_export_is_whole() {
    for daemon in Daemon::both() {
        let place = Place::new();
        let proxy = Proxy::before(daemon.host(), Fault::None);
        let disk = place.small_disk("disk");
        let cache = disk.join("cache");
        let mut command = place.0.imagefs(["mount", "--wait", "--host", &proxy.address(), SMALL, "mnt"]);
        let outcome = place.0.run(command.env("IMAGEFS_CACHE_DIR", &cache));
        assert_eq!(outcome.code, Some(7), "{outcome:#?}");
        for word in ["no space left in the cache", "free there", "imagefs cache prune", "--cache-dir"] {
            assert!(outcome.stderr.contains(word), "{outcome:#?}");
        }
        // A verb that reads says the same.
        let mut command = place.0.imagefs(["ls", "--host", &proxy.address(), SMALL, "/"]);
        let listed = place.0.run(command.env("IMAGEFS_CACHE_DIR", &cache));
        assert_eq!(listed.code, Some(7), "{listed:#?}");
        for word in ["no space left in the cache", "free there", "imagefs cache prune"] {
            assert!(listed.stderr.contains(word), "{listed:#?}");
        }
        assert!(!daemon.has_container(&proxy.containers()[0]));
        assert_eq!(files_below(&cache), [cache.join("CACHEDIR.TAG")]);
        succeed(place.0.command("umount").arg(&disk));
        place.assert_clean(&place.0.path("cache"));
    }
}

#[test]
fn a_disk_that_is_full_before_an_archive_is_unpacked() {
    let place = Place::new();
    let disk = place.small_disk("disk");
    let refused = |args: &[&str]| {
        let outcome = place.0.run(place.0.imagefs(args).env("IMAGEFS_CACHE_DIR", &disk));
        assert_eq!(outcome.code, Some(7), "{outcome:#?}");
        for word in ["no space left in the cache", "0 MiB are free there", "imagefs cache prune"] {
            assert!(outcome.stderr.contains(word), "{outcome:#?}");
        }
        assert_eq!(files_below(&disk), [disk.join("CACHEDIR.TAG")]);
    };
    let archive = archives::fixture("forms/torture/docker.tar");
    succeed(place.0.command("sh").args(["-c", "gzip -1c \"$1\" >image.tar.gz", "sh"]).arg(archive));
    for source in ["./image.tar.gz", "docker-archive:image.tar.gz"] {
        refused(&["ls", source, "/"]);
        refused(&["mount", source, "mnt"]);
    }
    for daemon in Daemon::both() {
        refused(&["history", "--host", daemon.host(), "imagefs-test/torture"]);
    }
    succeed(place.0.command("umount").arg(&disk));
    place.assert_clean(&place.0.path("cache"));
}

#[test]
fn a_disk_that_becomes_full_is_given_back_while_the_mount_stays() {
    let place = Place::new();
    let disk = place.small_disk("disk");
    let mut command = place.0.imagefs(["mount", "--host", Daemon::docker().host(), SMALL, "mnt"]);
    place.0.run(command.env("IMAGEFS_CACHE_DIR", &disk)).success();
    assert!(wait_until(|| place.only_mount()["state"] == "broken"), "{}", place.only_mount());
    let failure = place.only_mount()["failure"].to_string();
    assert!(failure.contains("no space left in the cache"), "{failure}");
    let free = || {
        let disk = rustix::fs::statvfs(&disk).unwrap();
        disk.f_bavail * disk.f_frsize
    };
    assert!(wait_until(|| free() > 900 << 10), "{} bytes are free", free());
    // What has come of names is shown, and the bytes are not there.
    assert!(fs::read_dir(place.0.path("mnt/rootfs")).unwrap().next().is_some());
    place.0.unmount(&place.0.path("mnt"));
    succeed(place.0.command("umount").arg(&disk));
    place.assert_clean(&place.0.path("cache"));
}

#[test]
fn an_index_that_cannot_be_used_is_made_anew() {
    let place = Place::new();
    let tar = archives::fixture("small.tar");
    let mount = |log: &str| {
        let mountpoint = place.0.mount(log, ["--log-file", &format!("{log}.log"), tar.to_str().unwrap()]);
        let found = Manifest::read(&mountpoint.join("rootfs"));
        place.0.unmount(&mountpoint);
        (found, fs::read_to_string(place.0.path(&format!("{log}.log"))).unwrap_or_default())
    };
    let (expected, log) = mount("sound");
    assert!(!log.contains("not usable"), "{log}");

    let index = files_below(&place.0.path("cache")).into_iter().find(|path| path.ends_with("index")).unwrap();
    let whole = fs::read(&index).unwrap();
    type Damage = fn(&fs::File);
    let damages: [(&str, &str, Damage); 4] = [
        // The second word of the header: see docs/format.md.
        ("older", "format version 0", |file| file.write_all_at(&[0; 4], 8).unwrap()),
        ("foreign", "not an imagefs index", |file| file.write_all_at(b"something", 0).unwrap()),
        ("short", "not usable", |file| file.set_len(100).unwrap()),
        ("empty", "not usable", |file| file.set_len(0).unwrap()),
    ];
    for (name, word, damage) in damages {
        damage(&fs::File::options().write(true).open(&index).unwrap());
        let (found, log) = mount(name);
        expected.assert_same(&found);
        assert!(log.contains("is removed") && log.contains(word), "{name}: {log}");
        assert!(fs::read(&index).unwrap() == whole, "{name}");
    }
}

#[test]
fn a_server_that_is_killed_while_it_exports() {
    for daemon in Daemon::both() {
        let place = Place::new();
        let proxy = Proxy::before(daemon.host(), Fault::HoldAfter(100_000));
        let mut command = place.0.imagefs(["mount", "--host", &proxy.address(), SMALL, "mnt"]);
        place.0.run(&mut command).success();
        assert_eq!(place.only_mount()["state"], "filling");
        let [container] = &proxy.containers()[..] else { panic!("{:#?}", proxy.lines()) };
        assert!(daemon.has_container(container));

        let pid = place.only_mount()["pid"].as_i64().unwrap();
        kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
        assert!(wait_until(|| place.only_mount()["state"] == "stale"));
        let args = ["mount", "--wait", "--host", daemon.host(), SMALL, "mnt"];
        place.0.run(&mut place.0.imagefs(args)).success();
        assert!(!daemon.has_container(container), "the killed server's container is left");
        assert!(fs::read(place.0.path("mnt/rootfs/bin/busybox")).unwrap().starts_with(b"\x7fELF"));

        place.0.run(&mut place.0.imagefs(["umount", "mnt"])).success();
        let listed = place.0.run(&mut place.0.imagefs(["cache", "ls", "--json"])).success().stdout;
        let [entry] = serde_json::from_str::<Vec<Value>>(&listed).unwrap().try_into().unwrap();
        place.0.run(&mut place.0.imagefs(["cache", "rm", entry["key"].as_str().unwrap()])).success();
        place.assert_clean(&place.0.path("cache"));
    }
}
