//! EROFS images: what the kernel makes of them, beside what a FUSE session shows of the same source. They need root, and
//! `fsck.erofs` of erofs-utils.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use imagefs::erofs::{Detached, KernelConfig};

use crate::support::{Manifest, Sandbox, archives, succeed};

/// Has the kernel mount an image without devices.
#[track_caller]
fn mount_image(sandbox: &Sandbox, image: &Path, name: &str) -> PathBuf {
    let mountpoint = sandbox.directory(name);
    Detached::mount(image, &[], KernelConfig::default()).unwrap().attach(&mountpoint).unwrap();
    mountpoint
}

/// Writes the image of a source, and checks it.
#[track_caller]
fn write_image(sandbox: &Sandbox, source: &Path, options: &str, name: &str) -> PathBuf {
    let image = sandbox.path(name);
    let args = [OsStr::new("erofs"), "-o".as_ref(), options.as_ref(), source.as_os_str(), image.as_os_str()];
    sandbox.run(&mut sandbox.imagefs(args)).success();
    fsck(&image);
    image
}

/// Reads all of an image: fsck.erofs ends otherwise where anything is wrong.
#[track_caller]
fn fsck(image: &Path) {
    succeed(Command::new("fsck.erofs").arg("--extract").arg(image));
}

/// Everything that is seen below `root`, holes included, but for the times of what a mount adds by itself.
fn seen(root: &Path) -> Manifest {
    let found = Manifest::read(root).with_holes(root);
    if found.get(".imagefs.json", "type").is_none() {
        return found;
    }
    let found = found.without_attribute(".", "mtime").without(".imagefs.json");
    match found.get("layers", "type") {
        Some(_) => found.without_attribute("layers", "mtime"),
        None => found,
    }
}

#[test]
fn an_image_shows_what_a_session_shows() {
    let sandbox = Sandbox::new();
    let tar = archives::fixture("torture.tar");
    for (number, options) in ["ro", "flat,symlinks=raw,uid=7,gid=8"].into_iter().enumerate() {
        let session =
            sandbox.mount(&format!("fuse-{number}"), ["-o".as_ref(), options.as_ref(), tar.as_os_str()]);
        let image = write_image(&sandbox, &tar, options, &format!("{number}.erofs"));
        let kernel = mount_image(&sandbox, &image, &format!("kernel-{number}"));
        seen(&session).assert_same(&seen(&kernel));
        if number == 0 {
            let told = |root: &Path| fs::read_to_string(root.join(".imagefs.json")).unwrap();
            assert_eq!(told(&session), told(&kernel));
        }
        assert_eq!(kernel.metadata().unwrap().blksize(), 4096);
        rustix::mount::unmount(&kernel, rustix::mount::UnmountFlags::empty()).unwrap();
    }
}

#[test]
fn the_same_source_gives_the_same_image() {
    let sandbox = Sandbox::new();
    let tar = archives::fixture("small.tar");
    let first = write_image(&sandbox, &tar, "flat", "first");
    let second = write_image(&sandbox, &tar, "flat", "second");
    assert!(fs::read(&first).unwrap() == fs::read(second).unwrap());
    let refused =
        sandbox.run(&mut sandbox.imagefs([OsStr::new("erofs"), tar.as_os_str(), first.as_os_str()]));
    assert_eq!(refused.code, Some(8));
    assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
    let forced = [
        OsStr::new("erofs"),
        "--force".as_ref(),
        "-oflat,uid=3".as_ref(),
        tar.as_os_str(),
        first.as_os_str(),
    ];
    sandbox.run(&mut sandbox.imagefs(forced)).success();
    let kernel = mount_image(&sandbox, &first, "kernel");
    assert_eq!(kernel.metadata().unwrap().uid(), 3);
    rustix::mount::unmount(&kernel, rustix::mount::UnmountFlags::empty()).unwrap();
    let names = fs::read_dir(sandbox.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().contains("partial")));
}

/// What mkfs.erofs of a tar gets wrong or takes long for.
#[test]
fn what_other_writers_stumble_over() {
    let sandbox = Sandbox::new();
    let script = r#"
        mkdir root; cd root
        truncate -s 4M sparse; printf data | dd of=sparse bs=1 seek=1M conv=notrunc status=none
        truncate -s 2G hole
        touch '!bang' '#x' +plus; mkdir wide; (cd wide; seq -f 'a-name-of-some-length-%08g' 20000 | xargs touch)
        touch -d @-1000000.25 before; touch -d 2200-01-01T00:00:00.000000001 late
        tar -c --format=gnu -S -f ../gnu.tar . ; tar -c --format=pax -S -f ../pax.tar .
        tar -c --format=pax --sparse-version=0.0 -S -f ../pax00.tar .
    "#;
    succeed(sandbox.command("bash").args(["-euc", script]));
    for tar in ["gnu.tar", "pax.tar", "pax00.tar"] {
        let image = write_image(&sandbox, &sandbox.path(tar), "flat", &format!("{tar}.erofs"));
        let kernel = mount_image(&sandbox, &image, &format!("{tar}.mnt"));
        let original = Manifest::read(&sandbox.path("root")).with_holes(&sandbox.path("root"));
        let found = Manifest::read(&kernel).with_holes(&kernel);
        match tar {
            // Whole seconds.
            "gnu.tar" => original.ignoring("mtime").assert_same(&found.ignoring("mtime")),
            _ => original.assert_same(&found),
        }
        rustix::mount::unmount(&kernel, rustix::mount::UnmountFlags::empty()).unwrap();
    }
}

#[test]
fn an_attribute_that_does_not_fit_is_left_out_and_told() {
    let sandbox = Sandbox::new();
    let mut tar = tar::Builder::new(File::create(sandbox.path("x.tar")).unwrap());
    let value = vec![b'v'; 65_536];
    let many: Vec<String> = (0..300).map(|i| format!("SCHILY.xattr.user.{i:03}")).collect();
    let records = [
        ("SCHILY.xattr.user.huge", &value[..]),
        ("SCHILY.xattr.user.large", &value[1..]),
        ("SCHILY.xattr.com.apple.quarantine", b"2"),
    ];
    tar.append_pax_extensions(records.into_iter().chain(many.iter().map(|name| (&**name, &b"v"[..]))))
        .unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(0);
    header.set_mode(0o644);
    tar.append_data(&mut header, "file", &b""[..]).unwrap();
    tar.into_inner().unwrap();
    let (source, image) = (sandbox.path("x.tar"), sandbox.path("x.erofs"));
    let args = [OsStr::new("erofs"), "-oflat".as_ref(), source.as_os_str(), image.as_os_str()];
    let written = sandbox.run(&mut sandbox.imagefs(args)).success();
    assert!(written.stderr.contains("left out 2 extended attributes"), "{}", written.stderr);
    fsck(&image);
    let kernel = mount_image(&sandbox, &image, "kernel");
    let file = kernel.join("file");
    let mut found = vec![0; 1 << 17];
    let length = rustix::fs::lgetxattr(&file, "user.large", &mut found).unwrap();
    assert!(found[..length] == value[1..]);
    let length = rustix::fs::llistxattr(&file, &mut found[..]).unwrap();
    let names: Vec<&[u8]> = found[..length].split(|&b| b == 0).filter(|name| !name.is_empty()).collect();
    assert_eq!(names.len(), 301);
    assert!(!names.contains(&&b"user.huge"[..]) && names.contains(&&b"user.299"[..]));
    rustix::mount::unmount(&kernel, rustix::mount::UnmountFlags::empty()).unwrap();
}

/// Has the kernel mount a source, and leaves no server behind.
#[track_caller]
fn mount_by_kernel(sandbox: &Sandbox, source: &OsStr, options: &str, name: &str) -> PathBuf {
    let mountpoint = sandbox.directory(name);
    let options = format!("kernel,{options}");
    let args = [OsStr::new("mount"), "-o".as_ref(), options.as_ref(), source, mountpoint.as_os_str()];
    sandbox.run(&mut sandbox.imagefs(args)).success();
    assert_eq!(filesystem_type(&mountpoint), "erofs");
    mountpoint
}

/// What findmnt(8) says of a mountpoint.
#[track_caller]
fn filesystem_type(mountpoint: &Path) -> String {
    let said = succeed(Command::new("findmnt").args(["-no", "FSTYPE"]).arg(mountpoint));
    String::from_utf8(said).unwrap().trim().to_owned()
}

#[track_caller]
fn unmount(sandbox: &Sandbox, mountpoint: &Path) {
    sandbox.run(&mut sandbox.imagefs([OsStr::new("umount"), mountpoint.as_os_str()])).success();
}

#[test]
fn the_kernel_shows_what_a_session_shows() {
    let sandbox = Sandbox::new();
    let (tar, packed) = (archives::fixture("torture.tar"), sandbox.path("packed.tar.zst"));
    succeed(Command::new("zstd").args(["-q1", "-o"]).args([&packed, &tar]));
    // The one is copied into the image, the other's data file is a device of it.
    for (number, (source, options)) in
        [(&packed, "flat,symlinks=raw,uid=7,gid=8"), (&tar, "ro")].into_iter().enumerate()
    {
        let session =
            sandbox.mount(&format!("fuse-{number}"), ["-o".as_ref(), options.as_ref(), source.as_os_str()]);
        let kernel = mount_by_kernel(&sandbox, source.as_os_str(), options, &format!("kernel-{number}"));
        seen(&session).assert_same(&seen(&kernel));
        sandbox.unmount(&session);
        assert_eq!(sandbox.processes(), []);
        // It goes by plain umount too, and with it the record.
        match number {
            0 => unmount(&sandbox, &kernel),
            _ => drop(succeed(Command::new("umount").arg(&kernel))),
        }
        let left = sandbox.run(&mut sandbox.imagefs(["mounts", "--json"])).success();
        assert_eq!(left.stdout.trim(), "[]");
    }
    sandbox.assert_nothing_left();
}

#[test]
fn layers_are_devices_of_one_image() {
    let sandbox = Sandbox::new();
    let script = r#"
        mkdir a b; echo lower > a/both; echo gone > a/gone; head -c 100000 /dev/urandom > a/large; ln -s /both a/link
        setfattr -n user.a -v 1 a/both; echo upper > b/both; head -c 5000 /dev/urandom > b/other; : > b/.wh.gone
        umoci init --layout l; umoci new --image l:x
        for layer in a b; do tar -c --xattrs -C $layer -f $layer.tar .
            umoci raw add-layer --image l:x --history.created_by "step $layer" $layer.tar; done
    "#;
    succeed(sandbox.command("bash").args(["-euc", script]));
    for (number, options) in ["layers,provenance", "flat"].into_iter().enumerate() {
        let session = sandbox.mount(&format!("fuse-{number}"), ["-o", options, "oci:l:x"].map(OsStr::new));
        let kernel = mount_by_kernel(&sandbox, "oci:l:x".as_ref(), options, &format!("kernel-{number}"));
        seen(&session).assert_same(&seen(&kernel));
        let copied = format!("kernel=copy,{options}");
        let copied = mount_by_kernel(&sandbox, "oci:l:x".as_ref(), &copied, &format!("copied-{number}"));
        seen(&session).assert_same(&seen(&copied));
        let block_sizes = [&kernel, &copied].map(|root| root.metadata().unwrap().blksize());
        assert_eq!(block_sizes, [512, 4096]);
        unmount(&sandbox, &copied);
        assert_eq!(seen(&kernel).has_below(b"layers"), number == 0);
        sandbox.unmount(&session);
        unmount(&sandbox, &kernel);
    }
    sandbox.assert_nothing_left();
}

#[test]
fn what_is_mounted_stays_in_the_cache_and_is_listed() {
    let sandbox = Sandbox::new();
    let packed = sandbox.path("x.tar.gz");
    fs::write(&packed, succeed(Command::new("gzip").arg("-1c").arg(archives::fixture("small.tar")))).unwrap();
    let kernel = mount_by_kernel(&sandbox, packed.as_os_str(), "ro", "mnt");
    let imagefs = |args: &[&str]| sandbox.run(&mut sandbox.imagefs(args));
    let listed: serde_json::Value =
        serde_json::from_str(&imagefs(&["mounts", "--json"]).success().stdout).unwrap();
    assert_eq!(listed[0]["state"], "ready");
    assert!(listed[0]["pid"].is_null() && listed[0]["mountpoint"] == kernel.to_str().unwrap(), "{listed}");
    let key = imagefs(&["cache", "ls"]).success().stdout.lines().nth(1).unwrap()[..12].to_owned();
    assert_ne!(imagefs(&["cache", "rm", &key]).code, Some(0));
    imagefs(&["cache", "prune", "--max-size", "0"]).success();
    let before = seen(&kernel);
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    before.assert_same(&seen(&kernel));

    // Twice at the same place is refused, in use is told, and lazily it goes all the same.
    let again = ["mount", "-o", "kernel", packed.to_str().unwrap(), kernel.to_str().unwrap()];
    assert_eq!(imagefs(&again).code, Some(5));
    let open = File::open(kernel.join(".imagefs.json")).unwrap();
    assert_eq!(imagefs(&["umount", kernel.to_str().unwrap()]).code, Some(5));
    imagefs(&["umount", "--lazy", kernel.to_str().unwrap()]).success();
    drop(open);

    // An image that was cut short is made again, and one that is whole is used again.
    let entries = sandbox.path("cache/v1/entries");
    let entry = fs::read_dir(entries).unwrap().next().unwrap().unwrap().path();
    let image = || {
        let mut files = fs::read_dir(&entry).unwrap().map(|file| file.unwrap());
        files.find(|file| file.file_name().to_string_lossy().starts_with("erofs-")).unwrap()
    };
    // Held open, so that no other file gets its inode number.
    let held = File::options().write(true).open(image().path()).unwrap();
    let (inode, length) = (held.metadata().unwrap().ino(), held.metadata().unwrap().len());
    for (cut, same) in [(false, true), (true, false)] {
        if cut {
            held.set_len(length / 2).unwrap();
        }
        let kernel = mount_by_kernel(&sandbox, packed.as_os_str(), "ro", &format!("again-{cut}"));
        assert_eq!(image().metadata().unwrap().len(), length);
        assert_eq!(image().metadata().unwrap().ino() == inode, same);
        before.assert_same(&seen(&kernel));
        unmount(&sandbox, &kernel);
    }
    imagefs(&["cache", "rm", &key]).success();
    sandbox.assert_nothing_left();
}

#[test]
fn a_tar_that_is_rewritten_under_a_kernel_mount_changes_nothing() {
    let sandbox = Sandbox::new();
    let tar = sandbox.path("own.tar");
    fs::copy(archives::fixture("small.tar"), &tar).unwrap();
    let kernel = mount_by_kernel(&sandbox, tar.as_os_str(), "ro", "mnt");
    let before = seen(&kernel);
    fs::write(&tar, vec![b'x'; 4096]).unwrap();
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    before.assert_same(&seen(&kernel));
    unmount(&sandbox, &kernel);
}

#[test]
fn where_the_kernel_cannot_a_session_does_if_that_is_allowed() {
    let sandbox = Sandbox::new();
    let (cache, mountpoint) = (sandbox.directory("memory"), sandbox.directory("mnt"));
    succeed(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=0700", "none"]).arg(&cache));
    let tar = archives::fixture("small.tar");
    let mount = |options: &str| {
        let args =
            [OsStr::new("--cache-dir"), cache.as_os_str(), "mount".as_ref(), "-o".as_ref(), options.as_ref()];
        sandbox.run(&mut sandbox.imagefs(args.into_iter().chain([tar.as_os_str(), mountpoint.as_os_str()])))
    };
    let refused = mount("kernel");
    assert_eq!(refused.code, Some(5));
    assert!(refused.stderr.contains("tmpfs"), "{}", refused.stderr);
    let left = sandbox.run(&mut sandbox.imagefs(["mounts", "--json"])).success();
    assert_eq!(left.stdout.trim(), "[]");

    mount("kernel=auto").success();
    assert_eq!(filesystem_type(&mountpoint), "fuse.imagefs");
    unmount(&sandbox, &mountpoint);
    succeed(Command::new("umount").arg(&cache));
}

#[test]
fn what_is_not_in_the_cache_yet_is_served_by_a_session_first() {
    let sandbox = Sandbox::new();
    let packed = sandbox.path("x.tar.gz");
    fs::write(&packed, succeed(Command::new("gzip").arg("-1c").arg(archives::fixture("small.tar")))).unwrap();
    // The first is read while it is mounted; on a fast machine it may have been before anybody looks.
    for (name, may_be) in [("first", &["fuse.imagefs", "erofs"][..]), ("second", &["erofs"])] {
        let mountpoint = sandbox.directory(name);
        let args = ["-v", "mount", "--wait", "-o", "kernel=auto", packed.to_str().unwrap()];
        let said = sandbox.run(sandbox.imagefs(args).arg(&mountpoint)).success();
        let found = filesystem_type(&mountpoint);
        assert!(may_be.contains(&&*found), "{name}: {found}");
        assert_eq!(said.stderr.contains("a FUSE session serves it"), found != "erofs", "{}", said.stderr);
        unmount(&sandbox, &mountpoint);
    }
    sandbox.assert_nothing_left();
}
