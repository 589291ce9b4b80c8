//! Compressed archives: in every format that people have, and such as only look like bombs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::archive::{Header, file, tar};
use crate::support::{Manifest, Sandbox, succeed};

#[test]
fn every_format_is_read_wherever_gzip_is() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("plain.tar"), tar(&[file("d/a", "1"), file("b", &"2".repeat(5000))])).unwrap();
    let mount = |file: &str| {
        let rootfs = sandbox.mount(&format!("{file}-mnt"), [sandbox.path(file)]).join("rootfs");
        Manifest::read(&rootfs)
    };
    let plain = mount("plain.tar");
    for (name, command) in [
        ("gzip", "gzip -c plain.tar"),
        ("bzip2", "bzip2 -c plain.tar"),
        ("bzip2-twice", "head -c 1000 plain.tar | bzip2; tail -c +1001 plain.tar | bzip2"),
        ("xz", "xz -c plain.tar"),
        ("lzma", "xz --format=lzma -c plain.tar"),
        ("zstd", "zstd -c plain.tar"),
        // What pzstd and other writers put before, between and behind their frames.
        ("zstd-leading", "printf 'P*M\\030\\004\\0\\0\\0abcd'; zstd -c plain.tar"),
        (
            "zstd-all",
            "skip() { printf '_*M\\030\\003\\0\\0\\0abc'; }; skip; head -c 1000 plain.tar | zstd; skip; tail -c +1001 \
             plain.tar | zstd; skip",
        ),
    ] {
        succeed(sandbox.command("sh").args(["-c", &format!("({command}) >{name}.img")]));
        plain.assert_same(&mount(&format!("{name}.img")));
    }
}

/// A tar of 200 MiB of zeros, as `useradd -u 700000` leaves in `/var/log/lastlog`.
fn zeros(sandbox: &Sandbox) -> PathBuf {
    let size = 200 << 20;
    let header = Header::new(b"lastlog", b'0', size);
    let tar = sandbox.path("zeros.tar");
    let file = fs::File::create(&tar).unwrap();
    use std::os::unix::fs::FileExt;
    file.write_all_at(&header.summed(super::archive::Sum::Usual), 0).unwrap();
    file.set_len(512 + size as u64 + 1024).unwrap();
    tar
}

/// The bytes that a directory takes on the disk.
fn usage(directory: &Path) -> u64 {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            metadata.blocks() * 512 + if metadata.is_dir() { usage(&entry.path()) } else { 0 }
        })
        .sum()
}

#[test]
fn zeros_are_no_bomb_and_take_no_room() {
    let sandbox = Sandbox::new();
    zeros(&sandbox);
    let cache = sandbox.path("cache");
    for (program, name) in [("gzip", "zeros.tar.gz"), ("zstd", "zeros.tar.zst")] {
        succeed(sandbox.command("sh").args(["-c", &format!("{program} -1 -c zeros.tar >{name}")]));
        let mountpoint = sandbox.directory(program);
        let args = ["mount", "--wait", "--cache-dir", "cache", name, program];
        sandbox.run(&mut sandbox.imagefs(args)).success();
        let lastlog = mountpoint.join("rootfs/lastlog");
        assert_eq!(lastlog.metadata().unwrap().len(), 200 << 20);
        succeed(sandbox.command("cmp").args(["--bytes=209715200", "/dev/zero"]).arg(&lastlog));
        sandbox.unmount(&mountpoint);
        assert!(usage(&cache) < 20 << 20, "{} bytes", usage(&cache));
    }
}

#[test]
fn a_limit_holds_for_a_tar_of_a_root_filesystem() {
    let sandbox = Sandbox::new();
    zeros(&sandbox);
    succeed(sandbox.command("gzip").args(["-1", "zeros.tar"]));
    let args = ["ls", "--max-size", "100MiB", "zeros.tar.gz"];
    let outcome = sandbox.run(&mut sandbox.imagefs(args));
    assert_ne!(outcome.code, Some(0));
    assert!(outcome.stderr.contains("unpacks to more than 104857600 bytes"), "{outcome:#?}");
    assert!(outcome.stderr.contains("--max-size"), "{outcome:#?}");
}
