//! What a filesystem says of itself, without a mount.

use std::collections::BTreeMap;

use imagefs::index::{DirCookie, FileType, Filesystem, Ino, Stat};
use sha2::{Digest, Sha256};

use super::{Entry, Manifest, hex};

impl Manifest {
    /// Reads everything of a filesystem, contents included.
    #[track_caller]
    pub fn of(filesystem: &Filesystem) -> Manifest {
        let mut manifest = Manifest::default();
        let mut first_names: BTreeMap<Ino, Vec<u8>> = BTreeMap::new();
        let mut todo = vec![(b".".to_vec(), Ino::ROOT)];
        // By name, so that the first name of an inode is the same as in a directory that is read in order.
        let mut inodes = Vec::new();
        while let Some((name, ino)) = todo.pop() {
            let stat = filesystem.tree().stat(ino).unwrap();
            if stat.file_type == FileType::Directory {
                let parent = if name == b"." { Vec::new() } else { [&name[..], b"/"].concat() };
                let end = filesystem.tree().read_dir(ino, DirCookie::START, &mut |entry| {
                    todo.push(([&parent[..], entry.name].concat(), entry.ino));
                    true
                });
                end.unwrap();
            }
            inodes.push((name, stat));
        }
        inodes.sort_by(|(a, _), (b, _)| a.split(|&c| c == b'/').cmp(b.split(|&c| c == b'/')));
        for (name, stat) in inodes {
            let mut entry = attributes(filesystem, &stat);
            if stat.file_type != FileType::Directory && stat.nlink > 1 {
                let first = first_names.entry(stat.ino).or_insert(name.clone());
                entry.insert("links", first.escape_ascii().to_string());
            }
            manifest.0.insert(name, entry);
        }
        manifest
    }
}

fn attributes(filesystem: &Filesystem, stat: &Stat) -> Entry {
    let tree = filesystem.tree();
    let mut xattrs = Vec::new();
    tree.xattrs(stat.ino, &mut |name, value| {
        xattrs.push(format!("{}={}", name.escape_ascii(), hex(value)));
        true
    })
    .unwrap();
    xattrs.sort();
    let mut entry = Entry::from([
        ("mode", format!("{:o}", stat.perm)),
        ("uid", stat.uid.to_string()),
        ("gid", stat.gid.to_string()),
        ("mtime", format!("{}.{:09}", stat.mtime.secs, stat.mtime.nanos)),
        ("nlink", stat.nlink.to_string()),
        ("xattrs", xattrs.join(" ")),
    ]);
    let name = match stat.file_type {
        FileType::Regular => {
            entry.insert("size", stat.size.to_string());
            entry.insert("sha256", sha256(filesystem, stat.ino));
            "file"
        }
        FileType::Symlink => {
            let target = tree.read_link(stat.ino).unwrap();
            entry.insert("target", target.escape_ascii().to_string());
            "symlink"
        }
        FileType::Directory => "directory",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharDevice => "character device",
        FileType::BlockDevice => "block device",
    };
    if matches!(stat.file_type, FileType::CharDevice | FileType::BlockDevice) {
        entry.insert("device", format!("{},{}", stat.device.0, stat.device.1));
    }
    entry.insert("type", name.to_owned());
    entry
}

fn sha256(filesystem: &Filesystem, ino: Ino) -> String {
    let (mut hash, mut buffer, mut offset) = (Sha256::new(), vec![0; 256 << 10], 0);
    loop {
        match filesystem.read(ino, offset, &mut buffer).unwrap() {
            0 => return hex(&hash.finalize()),
            n => {
                hash.update(&buffer[..n]);
                offset += n as u64;
            }
        }
    }
}
