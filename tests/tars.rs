//! Archives of a root filesystem, mounted without any daemon.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::support::{Manifest, Sandbox, archives, succeed, wait_until};

#[test]
fn the_torture_archive_is_what_gnu_tar_extracts() {
    let sandbox = Sandbox::new();
    let tar = archives::fixture("torture.tar");
    let extracted = sandbox.directory("extracted");
    archives::extract(&tar, &extracted);
    let expected = Manifest::read(&extracted).with_holes(&extracted);
    // Its hard links may stand before what they link to.
    let forward = archives::fixture("forward-links.tar");
    for (name, tar) in [("cold", &tar), ("warm", &tar)] {
        let rootfs = mount(&sandbox, tar, name, "symlinks=raw");
        let found = Manifest::read(&rootfs).with_holes(&rootfs);
        expected.assert_same(&found);
        assert_eq!(found.get("times/1960", "mtime"), Some("-315619200.000000000"));
        assert_eq!(found.get("holes/nothing-else", "data"), Some("[]"));
    }
    let rootfs = mount(&sandbox, &forward, "forward", "symlinks=raw");
    for name in ["early", "earlier-still", "later", "directory/up"] {
        let path = rootfs.join(name);
        assert_eq!(fs::read_to_string(&path).unwrap(), "linked to before it came\n", "{name}");
        let (metadata, first) = (path.metadata().unwrap(), rootfs.join("later").metadata().unwrap());
        assert_eq!((metadata.ino(), metadata.nlink()), (first.ino(), 4), "{name}");
    }
}

#[track_caller]
fn mount(sandbox: &Sandbox, tar: &Path, name: &str, options: &str) -> PathBuf {
    sandbox.mount(name, [OsStr::new("-o"), options.as_ref(), tar.as_os_str()]).join("rootfs")
}

#[test]
fn a_compressed_archive_is_recognised_by_its_content() {
    let sandbox = Sandbox::new();
    let plain = |name: &str| {
        let rootfs = mount(&sandbox, &archives::fixture(name), name, "symlinks=raw");
        Manifest::read(&rootfs).with_holes(&rootfs)
    };
    let (small, torture) = (plain("small.tar"), plain("torture.tar"));
    for (program, args, tar, expected) in [
        ("gzip", "-1", "small.tar", &small),
        ("xz", "-0", "small.tar", &small),
        ("zstd", "-1", "torture.tar", &torture),
    ] {
        // The name says nothing of it.
        let packed = sandbox.path(&format!("{program}.img"));
        let (from, to) =
            (fs::File::open(archives::fixture(tar)).unwrap(), fs::File::create(&packed).unwrap());
        let mut command = sandbox.command(program);
        let status = command.args([args, "-c"]).stdin(Stdio::from(from)).stdout(Stdio::from(to)).status();
        assert!(status.unwrap().success());
        let rootfs = mount(&sandbox, &packed, program, "symlinks=raw");
        expected.assert_same(&Manifest::read(&rootfs).with_holes(&rootfs));
    }
}

#[test]
fn a_source_that_is_no_text_is_told_in_one_form() {
    let sandbox = Sandbox::new();
    let tar = sandbox.path("").join(OsStr::from_bytes(b"odd\xff.tar"));
    fs::copy(archives::fixture("small.tar"), &tar).unwrap();
    let mountpoint = sandbox.mount("mnt", [&tar]);
    let parse = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap();
    let told = |args: &[&str]| parse(&sandbox.run(&mut sandbox.imagefs(args)).success().stdout);
    let expected = serde_json::json!(tar.as_os_str().as_bytes());
    let description = parse(&fs::read_to_string(mountpoint.join(".imagefs.json")).unwrap());
    assert_eq!(description["source"], expected);
    assert_eq!(told(&["mounts", "--json"])[0]["source"], expected);
    assert_eq!(told(&["cache", "ls", "--json"])[0]["source"], expected);
    let inspected = sandbox.run(sandbox.imagefs(["inspect", "--json"]).arg(&tar)).success().stdout;
    assert_eq!(parse(&inspected)["source"], expected);
    sandbox.unmount(&mountpoint);
}

#[test]
fn no_symlink_leads_out_of_the_mount() {
    let sandbox = Sandbox::new();
    let rootfs = mount(&sandbox, &archives::fixture("torture.tar"), "mnt", "ro");
    let found = Manifest::read(&rootfs);
    let (mut inside, mut nowhere) = (0, 0);
    for path in found.paths().filter(|path| found.get(path, "type") == Some("symlink")) {
        match rootfs.join(OsStr::from_bytes(path)).canonicalize() {
            Ok(place) => {
                assert!(place.starts_with(&rootfs), "{} leads to {place:?}", path.escape_ascii());
                inside += 1;
            }
            Err(_) => nowhere += 1,
        }
    }
    assert!(inside > 8 && nowhere > 4, "{inside} and {nowhere}");
    for name in ["relative", "absolute", "through", "climbing"] {
        let content = fs::read_to_string(rootfs.join("symlinks").join(name)).unwrap();
        assert_eq!(content, "one inode, three names\n", "{name}");
    }
    // The host has those, the image has not.
    assert!(Path::new("/etc/shadow").exists() && Path::new("/etc/passwd").exists());
    assert!(!rootfs.join("symlinks/host").exists() && !rootfs.join("symlinks/b").exists());
}

#[test]
fn options_change_where_the_tree_is_and_whose() {
    let sandbox = Sandbox::new();
    let tar = archives::fixture("small.tar");
    let plain = Manifest::read(&mount(&sandbox, &tar, "plain", "ro"));
    let options = [OsStr::new("-o"), OsStr::new("flat,uid=77"), OsStr::new("-o"), OsStr::new("gid=78")];
    let flat = sandbox.mount("flat", options.into_iter().chain([tar.as_os_str()]));
    assert!(!flat.join("rootfs").exists() && !flat.join(".imagefs.json").exists());
    let found = Manifest::read(&flat);
    plain.ignoring("uid").ignoring("gid").assert_same(&found);
    for path in found.paths() {
        assert_eq!((found.get(path, "uid"), found.get(path, "gid")), (Some("77"), Some("78")));
    }
}

#[test]
fn an_archive_that_changes_is_read_again() {
    let sandbox = Sandbox::new();
    let tar = sandbox.path("root.tar");
    let read = |content: &str, name: &str| {
        fs::write(sandbox.path("file"), content).unwrap();
        succeed(sandbox.command("tar").args(["--create", "--file"]).arg(&tar).arg("file"));
        let rootfs = mount(&sandbox, &tar, name, "ro");
        let read = fs::read_to_string(rootfs.join("file")).unwrap();
        sandbox.unmount(&sandbox.path(name));
        read
    };
    assert_eq!(read("before", "first"), "before");
    assert_eq!(read("after!", "second"), "after!");
}

#[test]
fn the_same_file_has_the_same_inode_number_in_every_mount() {
    let sandbox = Sandbox::new();
    let tar = archives::fixture("torture.tar");
    let numbers = |name: &str| -> BTreeMap<Vec<u8>, u64> {
        let rootfs = mount(&sandbox, &tar, name, "symlinks=raw");
        let listed =
            succeed(sandbox.command("find").arg(".").args(["-printf", "%i %p\\0"]).current_dir(rootfs));
        let entries = listed.split(|byte| *byte == 0).filter(|entry| !entry.is_empty());
        let entry = |entry: &[u8]| {
            let space = entry.iter().position(|byte| *byte == b' ').unwrap();
            (entry[space + 1..].to_vec(), std::str::from_utf8(&entry[..space]).unwrap().parse().unwrap())
        };
        entries.map(entry).collect()
    };
    let (cold, warm) = (numbers("cold"), numbers("warm"));
    assert!(cold.len() > 20_000, "{}", cold.len());
    assert!(cold == warm);
}

/// Writes a tar of `directories` × 100 directories with 99 empty files each; returns how many entries that are.
fn write_wide_tar(path: &Path, directories: u32) -> u64 {
    fn put(tar: &mut impl Write, path: &str, kind: u8) -> u64 {
        // By POSIX pax(1), "ustar Interchange Format": a checksum counts its own field as blanks.
        let mut header = [0; 512];
        header[..path.len()].copy_from_slice(path.as_bytes());
        header[100..156]
            .copy_from_slice(b"0000755\x000000000\x000000000\x0000000000000\x0014000000000\x00        ");
        header[156] = kind;
        header[257..265].copy_from_slice(b"ustar\x0000");
        let filled = header[..path.len()].iter().chain(&header[100..265]);
        let sum: u32 = filled.map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar.write_all(&header).unwrap();
        1
    }
    let mut tar = BufWriter::with_capacity(1 << 20, fs::File::create(path).unwrap());
    let mut count = 0;
    for directory in 0..directories {
        count += put(&mut tar, &format!("directory-{directory:03}/"), b'5');
        for sub in 0..100 {
            count += put(&mut tar, &format!("directory-{directory:03}/sub-{sub:02}/"), b'5');
            for file in 0..99 {
                let name = format!("directory-{directory:03}/sub-{sub:02}/file-{file:02}.extension");
                count += put(&mut tar, &name, b'0');
            }
        }
    }
    tar.write_all(&[0; 1024]).unwrap();
    tar.flush().unwrap();
    count
}

/// What `imagefs mounts` says of the mount at a mountpoint.
#[track_caller]
fn state(sandbox: &Sandbox, mountpoint: &Path) -> serde_json::Value {
    let listed = sandbox.run(&mut sandbox.imagefs(["mounts", "--json"])).success().stdout;
    let rows: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
    let here = |row: &serde_json::Value| row["mountpoint"] == mountpoint.to_str().unwrap();
    rows.into_iter().find(here).unwrap_or_else(|| panic!("{listed}"))
}

/// Mounts a tar that takes a while to read, uses it meanwhile, and returns when all of it is there.
#[track_caller]
fn use_while_it_is_read(sandbox: &Sandbox, tar: &Path, count: u64) -> PathBuf {
    let mountpoint = sandbox.directory("mnt");
    sandbox.run(sandbox.imagefs(["mount"]).arg(tar).arg(&mountpoint)).success();
    let first = fs::metadata(mountpoint.join("rootfs/directory-000/sub-00/file-00.extension")).unwrap();
    assert!(first.is_file() && first.permissions().mode() & 0o7777 == 0o755);
    assert_eq!(state(sandbox, &mountpoint)["state"], "filling");
    // A second one does not read it again, and is there when the first is complete.
    let second = sandbox.mount("second", [tar]);
    assert!(wait_until(|| state(sandbox, &mountpoint)["state"] == "ready"));
    for mountpoint in [&mountpoint, &second] {
        assert_eq!(state(sandbox, mountpoint)["entries"], count);
        let last = fs::read_dir(mountpoint.join("rootfs/directory-000/sub-99")).unwrap();
        assert_eq!(last.flatten().count(), 99);
    }
    mountpoint
}

#[test]
fn a_compressed_archive_is_used_while_it_is_unpacked() {
    let sandbox = Sandbox::new();
    let tar = sandbox.path("wide.tar");
    let count = write_wide_tar(&tar, 20);
    succeed(sandbox.command("zstd").args(["-1", "--rm", "-q"]).arg(&tar));
    use_while_it_is_read(&sandbox, &sandbox.path("wide.tar.zst"), count);
}

#[test]
fn a_million_entries_take_at_most_200_mib_of_memory_while_they_come() {
    let sandbox = Sandbox::new();
    let tar = sandbox.path("wide.tar");
    let count = write_wide_tar(&tar, 101);
    assert!(count > 1_000_000);
    let mountpoint = use_while_it_is_read(&sandbox, &tar, count);
    let status = format!("/proc/{}/status", state(&sandbox, &mountpoint)["pid"]);
    let status = fs::read_to_string(status).unwrap();
    // proc_pid_status(5): the most that was ever resident, in KiB, what is mapped from files included.
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak <= 200 << 10, "{peak} KiB");
}
