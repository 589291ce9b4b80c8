//! The mounted tree is the tree that was packed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use imagefs::fuse::{SymlinkMode, ViewOptions};

use super::support::*;

const EVERYTHING: &str = r#"
    mkdir -p plain/deep/deeper empty
    echo content > plain/file
    chmod 4711 plain/file
    chown 12345:54321 plain/deep
    chmod 1777 plain/deep
    head -c 3000000 /dev/urandom > plain/big
    : > empty-file
    ln plain/file plain/deep/second
    ln plain/file third
    ln -s plain/file relative; ln -s /plain/file absolute; ln -s nowhere dangling; ln -s self self
    ln -s ../../../../etc/passwd plain/climbing
    ln plain/climbing plain/deep/climbing
    mknod null c 1 3; mknod disk b 259 1048575; mkfifo fifo
    truncate -s 5M sparse; printf data | dd of=sparse bs=1 seek=1048576 conv=notrunc status=none
    touch -d 1960-02-03T04:05:06.789 old; touch -d 2100-01-01T00:00:00.000000001 future
    touch "$(printf 'new\nline')" "$(printf 'not\377utf8')" "$(printf 'x%.0s' {1..255})" ' ' 'a,b'
    setfattr -n user.note -v hello plain/file
    setfattr -h -n trusted.link -v t dangling
    setcap cap_net_raw+ep plain/big
    setfacl -m u:77:r-- third empty
    mkdir many; (cd many; seq -f file-%05g 3000 | xargs touch)
    mkdir -p "$(printf 'd/%.0s' {1..200})"
"#;

/// Whatever stat(2), readlink(2), read(2) and the extended attributes tell of every path beneath `root`.
fn describe(root: &Path, with_data: bool) -> BTreeMap<OsString, String> {
    let mut found = BTreeMap::new();
    let mut ahead = vec![root.to_owned()];
    while let Some(path) = ahead.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let mut line = format!(
            "mode {:o} owner {}:{} mtime {}.{:09} rdev {:x}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            if kind.is_char_device() || kind.is_block_device() { meta.rdev() } else { 0 },
        );
        if kind.is_dir() {
            ahead.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            line += &format!(" nlink {} size {}", meta.nlink(), meta.len());
        }
        if kind.is_symlink() {
            line += &format!(" -> {:?}", fs::read_link(&path).unwrap());
        }
        if kind.is_file() && with_data {
            let sum = fs::read(&path)
                .unwrap()
                .iter()
                .fold(7u64, |sum, &b| sum.wrapping_mul(0x0100_0000_01b3) ^ u64::from(b));
            line += &format!(" data {sum:x}");
        }
        line += &format!(" xattrs {:?}", xattrs(&path));
        found.insert(path.strip_prefix(root).unwrap().as_os_str().to_owned(), line);
    }
    found
}

fn xattrs(path: &Path) -> Vec<(OsString, Vec<u8>)> {
    let mut names = vec![0; 65536];
    let len = rustix::fs::llistxattr(path, &mut names).unwrap();
    let mut found: Vec<_> = names[..len]
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let name = OsString::from_vec(name.to_vec());
            let mut value = vec![0; 65536];
            let len = rustix::fs::lgetxattr(path, &name, &mut value).unwrap();
            (name, value[..len].to_vec())
        })
        .collect();
    found.sort();
    found
}

#[track_caller]
fn assert_same(shown: BTreeMap<OsString, String>, packed: BTreeMap<OsString, String>) {
    for (path, line) in &packed {
        assert_eq!(shown.get(path), Some(line), "{path:?}");
    }
    for path in shown.keys() {
        assert!(packed.contains_key(path), "{path:?} was never packed");
    }
}

#[test]
fn every_attribute_and_every_byte_is_as_packed() {
    let fixture = Fixture::new(EVERYTHING);
    let raw = ViewOptions { symlinks: SymlinkMode::Raw, ..ViewOptions::default() };
    let live = fixture.mount(raw.clone());
    let root = fixture.mountpoint.join("rootfs");
    assert_same(describe(&root, true), describe(&fixture.original, true));
    // Again, from what the kernel has kept.
    assert_same(describe(&root, true), describe(&fixture.original, true));
    live.stop();

    let live = fixture.mount(ViewOptions { flat: true, ..raw });
    assert_same(describe(&fixture.mountpoint, false), describe(&fixture.original, false));
    live.stop();
}

#[test]
fn inode_numbers_are_the_same_after_a_remount() {
    let fixture = Fixture::new("mkdir a; touch a/x a/y; ln a/x a/z");
    let numbers = || {
        let live = fixture.mount(ViewOptions::default());
        let numbers = shell("find . -printf '%P %i\n' | sort", &fixture.mountpoint);
        live.stop();
        numbers
    };
    let first = numbers();
    assert!(first.contains("\n.imagefs.json 2\n") && first.contains("\nrootfs 16\n"), "{first}");
    assert_eq!(first, numbers());
}

#[test]
fn the_top_directory_holds_the_description_and_the_root_filesystem() {
    let fixture = Fixture::new("touch f");
    let live =
        fixture.mount(ViewOptions { description: b"{\"x\": 1}\n".to_vec().into(), ..ViewOptions::default() });
    assert_eq!(shell("ls -A", &fixture.mountpoint), ".imagefs.json\nrootfs\n");
    assert_eq!(shell("cat .imagefs.json", &fixture.mountpoint), "{\"x\": 1}\n");
    live.stop();
}

#[test]
fn du_and_df_make_sense() {
    let fixture = Fixture::new("head -c 100000 /dev/zero | tr '\\0' x > f; truncate -s 1G hole; mkdir d");
    let live = fixture.mount(ViewOptions::default());
    let at = |script| shell(script, &fixture.mountpoint);
    assert_eq!(at("du -k --apparent-size rootfs/hole | cut -f1"), "1048576\n");
    assert_eq!(at("du -k rootfs/hole | cut -f1"), "0\n");
    assert_eq!(at("du -k rootfs/f | cut -f1"), "98\n");
    assert_eq!(at("stat -f -c '%b %S %f %c %d %l' ."), "25 4096 0 6 0 255\n");
    assert_eq!(at("df -T . | awk 'NR == 2 { print $1, $2, $6 }'"), "imagefs fuse.imagefs 100%\n");
    live.stop();
}

#[test]
fn a_symlink_gives_its_stored_target_to_whoever_asks_by_name() {
    let fixture = Fixture::new("ln -s /etc/passwd l; touch f; setfattr -n user.a -v b f");
    let live = fixture.mount(ViewOptions::default());
    let root = fixture.mountpoint.join("rootfs");
    let stored = |name: &str| {
        let mut value = [0; 100];
        let len = rustix::fs::lgetxattr(root.join(name), "system.imagefs.target", &mut value);
        len.map(|len| value[..len].to_vec())
    };
    assert_eq!(fs::read_link(root.join("l")).unwrap().as_os_str().as_bytes(), b"etc/passwd");
    assert_eq!(stored("l").unwrap(), b"/etc/passwd");
    assert_eq!(stored("f").unwrap_err(), rustix::io::Errno::NODATA);
    assert_eq!(xattrs(&root.join("l")), []);
    live.stop();
}

#[test]
fn a_session_without_extended_attributes_says_so() {
    let fixture = Fixture::new("touch f");
    let live = fixture.mount(ViewOptions::default());
    let (file, mut buf) = (fixture.mountpoint.join("rootfs/f"), [0; 10]);
    assert_eq!(rustix::fs::getxattr(&file, "user.a", &mut buf), Err(rustix::io::Errno::OPNOTSUPP));
    assert_eq!(rustix::fs::listxattr(&file, &mut buf), Err(rustix::io::Errno::OPNOTSUPP));
    live.stop();
}
