//! Every way to read works, and none to write.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use imagefs::fuse::{ViewOptions, XattrMode};
use rustix::fs::SeekFrom as Sparse;
use rustix::io::Errno;

use super::support::*;

#[test]
fn mapped_direct_sent_and_executed_files_have_the_packed_bytes() {
    let fixture = Fixture::new("head -c 2500001 /dev/urandom > big; cp /usr/bin/env program");
    let live = fixture.mount(ViewOptions::default());
    let path = fixture.mountpoint.join("rootfs/big");
    let wanted = fs::read(fixture.original.join("big")).unwrap();

    let file = File::open(&path).unwrap();
    // SAFETY: nobody can change a file of a read-only mount.
    let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    assert!(map[..] == wanted[..]);

    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
    let mut read = Vec::new();
    { &direct }.read_to_end(&mut read).unwrap();
    assert!(read == wanted);
    let mut tail = [0; 100];
    assert_eq!(direct.read_at(&mut tail, wanted.len() as u64 - 7).unwrap(), 7);
    assert_eq!(direct.read_at(&mut tail, wanted.len() as u64 + 7).unwrap(), 0);

    let mut sent = tempfile::tempfile().unwrap();
    let mut left = wanted.len();
    while left > 0 {
        left -= rustix::fs::sendfile(&sent, &file, None, left).unwrap();
    }
    sent.rewind().unwrap();
    read.clear();
    sent.read_to_end(&mut read).unwrap();
    assert!(read == wanted);

    assert_eq!(shell("rootfs/program printf works", &fixture.mountpoint), "works");
    live.stop();
}

#[test]
fn holes_are_found_by_seeking() {
    let fixture = Fixture::new(
        "truncate -s 3M s; printf x | dd of=s bs=1 seek=1048576 conv=notrunc status=none; printf abc > dense",
    );
    let live = fixture.mount(ViewOptions::default());
    let file = File::open(fixture.mountpoint.join("rootfs/s")).unwrap();
    let data = rustix::fs::seek(&file, Sparse::Data(0)).unwrap();
    let hole = rustix::fs::seek(&file, Sparse::Hole(data)).unwrap();
    assert!((1_044_480..=1_048_576).contains(&data), "{data}");
    assert!((1_048_577..=1_052_672).contains(&hole), "{hole}");
    assert_eq!(rustix::fs::seek(&file, Sparse::Data(hole)), Err(Errno::NXIO));
    assert_eq!(rustix::fs::seek(&file, Sparse::Hole(hole)), Ok(hole));
    let mut dense = File::open(fixture.mountpoint.join("rootfs/dense")).unwrap();
    assert_eq!(rustix::fs::seek(&dense, Sparse::Hole(0)), Ok(3));
    assert_eq!(dense.seek(SeekFrom::End(-1)).unwrap(), 2);
    live.stop();
}

#[test]
fn a_long_directory_can_be_left_and_taken_up_again() {
    let fixture = Fixture::new("seq -f %05g 20000 | xargs touch");
    let live = fixture.mount(ViewOptions { flat: true, ..ViewOptions::default() });
    let mut dir = rustix::fs::Dir::new(File::open(&fixture.mountpoint).unwrap()).unwrap();
    let mut names = std::collections::BTreeSet::new();
    for round in 0..2 {
        names.clear();
        let mut count = 0;
        while let Some(entry) = dir.read() {
            names.insert(entry.unwrap().file_name().to_owned());
            count += 1;
        }
        assert_eq!((names.len(), count), (20_002, 20_002), "round {round}");
        dir.rewind();
    }
    assert_eq!(
        shell("ls -f | wc -l; ls -l | wc -l; find . | wc -l", &fixture.mountpoint),
        "20002\n20001\n20001\n"
    );
    live.stop();
}

#[test]
fn an_absent_name_stays_absent() {
    let fixture = Fixture::new("touch f");
    let live = fixture.mount(ViewOptions::default());
    for name in ["rootfs/x", "rootfs/x", "x", "x/y", "rootfs/X"] {
        let error = fs::symlink_metadata(fixture.mountpoint.join(name)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{name}");
    }
    let long = fixture.mountpoint.join("x".repeat(256));
    assert_eq!(fs::metadata(long).unwrap_err().kind(), io::ErrorKind::InvalidFilename);
    live.stop();
}

#[test]
fn what_nobody_may_execute_is_not_executable() {
    let fixture = Fixture::new("touch no yes; chmod 644 no; chmod 755 yes");
    let live = fixture.mount(ViewOptions::default());
    let at = |script| shell(script, &fixture.mountpoint.join("rootfs"));
    assert_eq!(at("test -x yes; test ! -x no; test -r no; test ! -w no; echo fine"), "fine\n");
    assert_eq!(at("find . -type f -executable"), "./yes\n");
    live.stop();
}

/// Every way to change something beneath `root`, and what it ends in.
fn attempts(root: &Path) -> Vec<(&'static str, rustix::io::Result<()>)> {
    use rustix::fs::*;

    let dir = open(root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let file = || open(root.join("f"), OFlags::RDWR, Mode::empty());
    let mode = Mode::from_raw_mode(0o644);
    let now = Timespec { tv_sec: 1, tv_nsec: 1 };
    let times = Timestamps { last_access: now, last_modification: now };
    let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
    let write = |flags| open(root.join("f"), flags, mode).map(drop);
    vec![
        ("create", openat(&dir, "new", create, mode).map(drop)),
        (
            "append",
            write(OFlags::WRONLY | OFlags::APPEND).and_then(|()| rustix::io::write(file()?, b"x").map(drop)),
        ),
        ("truncate", write(OFlags::WRONLY | OFlags::TRUNC)),
        ("write", file().and_then(|f| rustix::io::write(f, b"x").map(drop))),
        ("ftruncate", file().and_then(|f| ftruncate(f, 0))),
        ("fallocate", file().and_then(|f| fallocate(f, FallocateFlags::empty(), 0, 9))),
        (
            "copy_file_range",
            file().and_then(|f| {
                copy_file_range(File::open(root.join("g")).unwrap(), None, f, None, 1).map(drop)
            }),
        ),
        ("mkdir", mkdirat(&dir, "new", mode)),
        ("mknod", mknodat(&dir, "new", FileType::Fifo, mode, 0)),
        ("symlink", symlinkat("x", &dir, "new")),
        ("link", linkat(&dir, "f", &dir, "new", AtFlags::empty())),
        ("rename", renameat(&dir, "f", &dir, "new")),
        ("exchange", renameat_with(&dir, "f", &dir, "g", RenameFlags::EXCHANGE)),
        ("unlink", unlinkat(&dir, "f", AtFlags::empty())),
        ("rmdir", unlinkat(&dir, "d", AtFlags::REMOVEDIR)),
        ("chmod", chmodat(&dir, "f", mode, AtFlags::empty())),
        ("chown", chownat(&dir, "f", Some(Uid::ROOT), None, AtFlags::empty())),
        ("utimens", utimensat(&dir, "f", &times, AtFlags::empty())),
        ("setxattr", setxattr(root.join("f"), "user.a", b"b", XattrFlags::empty())),
        ("removexattr", removexattr(root.join("f"), "user.x")),
    ]
}

#[test]
fn every_change_is_refused_as_on_a_read_only_filesystem() {
    let fixture = Fixture::new("echo f > f; echo g > g; mkdir d; setfattr -n user.x -v y f");
    let live = fixture.mount(ViewOptions { xattrs: XattrMode::On, ..ViewOptions::default() });
    let root = fixture.mountpoint.join("rootfs");
    for (what, result) in attempts(&root) {
        assert_eq!(result, Err(Errno::ROFS), "{what}");
    }
    // Root can take the kernel's guard away: then it is the server that refuses.
    run("mount", ["-i", "-o", "remount,rw", fixture.mountpoint.to_str().unwrap()]);
    for (what, result) in attempts(&root) {
        assert_eq!(result, Err(Errno::ROFS), "{what}, remounted");
    }
    assert_eq!(shell("ls; cat f g", &root), "d\nf\ng\nf\ng\n");
    live.stop();
}

#[test]
fn many_readers_at_once_get_what_one_gets() {
    let fixture = Fixture::new("for i in $(seq 60); do head -c $((i * 3001)) /dev/urandom > f$i; done");
    let live = fixture.mount(ViewOptions { flat: true, ..ViewOptions::default() });
    let sums = |dir: &Path| shell("cat $(ls -v) | sha256sum", dir);
    let wanted = sums(&fixture.original);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..8).map(|_| scope.spawn(|| sums(&fixture.mountpoint))).collect();
        for reader in readers {
            assert_eq!(reader.join().unwrap(), wanted);
        }
    });
    live.stop();
}
