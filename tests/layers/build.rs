//! Layers for tests: tars entry by entry, and what our merge makes of them.

use std::io::Write;
use std::sync::Arc;

use imagefs::index::{DataFile, Filesystem, GrowingTree, Index, Merge, MergeError, write_index};
use imagefs::tarfile::{EndMark, Scanner};

pub const IDENTITY: [u8; 32] = [5; 32];

/// The tar of one layer. Every entry gets attributes that no other of the layer has, nor of the layers before.
pub struct Layer {
    builder: tar::Builder<Vec<u8>>,
    stamp: u32,
}

impl Layer {
    pub fn new(number: u32) -> Layer {
        Layer { builder: tar::Builder::new(Vec::new()), stamp: number * 100 }
    }

    fn entry(mut self, kind: tar::EntryType, path: &str, target: &str, content: &[u8]) -> Layer {
        self.stamp += 1;
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_link_name_literal(target).unwrap();
        header.set_size(content.len() as u64);
        header.set_mode(if kind.is_symlink() { 0o777 } else { 0o700 + self.stamp % 64 });
        header.set_uid((1000 + self.stamp).into());
        header.set_gid((2000 + self.stamp).into());
        header.set_mtime((1_000_000_000 + self.stamp).into());
        header.set_cksum();
        self.builder.append(&header, content).unwrap();
        self
    }

    pub fn dir(self, path: &str) -> Layer {
        self.entry(tar::EntryType::Directory, path, "", b"")
    }

    pub fn file(self, path: &str, content: &str) -> Layer {
        self.entry(tar::EntryType::Regular, path, "", content.as_bytes())
    }

    pub fn symlink(self, path: &str, target: &str) -> Layer {
        self.entry(tar::EntryType::Symlink, path, target, b"")
    }

    pub fn link(self, path: &str, target: &str) -> Layer {
        self.entry(tar::EntryType::Link, path, target, b"")
    }

    pub fn fifo(self, path: &str) -> Layer {
        self.entry(tar::EntryType::Fifo, path, "", b"")
    }

    /// Takes `path` away.
    pub fn without(self, path: &str) -> Layer {
        let (dir, name) = path.rsplit_once('/').map_or(("", path), |(dir, name)| (&path[..=dir.len()], name));
        self.entry(tar::EntryType::Regular, &format!("{dir}.wh.{name}"), "", b"")
    }

    /// Takes away all that is in `dir`.
    pub fn opaque(self, dir: &str) -> Layer {
        self.entry(tar::EntryType::Regular, &format!("{dir}/.wh..wh..opq"), "", b"")
    }

    pub fn tar(self) -> Vec<u8> {
        self.builder.into_inner().unwrap()
    }
}

/// The index of one layer.
pub fn index(tar: &[u8]) -> Index<Vec<u8>> {
    let index = Index::new(index_bytes(tar), &IDENTITY).unwrap();
    index.verify().unwrap();
    index
}

pub fn index_bytes(tar: &[u8]) -> Vec<u8> {
    let mut scanner = Scanner::new(tar, EndMark::Unneeded);
    let mut tree = GrowingTree::of_layer();
    while let Some(entry) = scanner.next_entry().unwrap() {
        tree.insert(entry).unwrap();
    }
    tree.finish().unwrap();
    written(&tree)
}

/// The index of a tree.
pub fn written(tree: &GrowingTree) -> Vec<u8> {
    let mut out = std::io::Cursor::new(Vec::new());
    write_index(tree, &IDENTITY, &mut out).unwrap();
    out.into_inner()
}

pub fn merge(layers: &[Vec<u8>]) -> Result<GrowingTree, MergeError> {
    let mut merge = Merge::new();
    for tar in layers {
        merge.add(&index(tar))?;
    }
    merge.finish()
}

/// Layers, merged, written down and opened again.
pub fn merged(layers: &[Vec<u8>]) -> Filesystem {
    let index = Index::new(written(&merge(layers).unwrap()), &IDENTITY).unwrap();
    let data = layers.iter().map(|tar| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(tar).unwrap();
        DataFile::owned(file)
    });
    Filesystem::new(Arc::new(index), data.collect())
}
