//! Small filesystems for unit tests.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use crate::index::{DataFile, FileType, Filesystem, GrowingTree, Ino, Timestamp, Tree};
use crate::tarfile::{Content, Entry, EntryKind, Extent};

/// A filesystem that is put together entry by entry. Whatever is not said of an entry is 0, 0644 or 0755.
pub(super) struct Builder {
    tree: GrowingTree,
    data: Vec<u8>,
}

impl Builder {
    pub fn new() -> Builder {
        Builder { tree: GrowingTree::default(), data: Vec::new() }
    }

    pub fn entry(mut self, path: &str, kind: EntryKind, change: impl FnOnce(&mut Entry)) -> Builder {
        let perm = if matches!(kind, EntryKind::Directory) { 0o755 } else { 0o644 };
        let mut entry = Entry {
            path: path.into(),
            kind,
            perm,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
        };
        change(&mut entry);
        self.tree.insert(entry).unwrap();
        self
    }

    pub fn dir(self, path: &str) -> Builder {
        self.entry(path, EntryKind::Directory, |_| {})
    }

    pub fn symlink(self, path: &str, target: impl AsRef<[u8]>) -> Builder {
        self.entry(path, EntryKind::Symlink(target.as_ref().to_vec()), |_| {})
    }

    pub fn link(self, path: &str, target: &str) -> Builder {
        self.entry(path, EntryKind::HardLink(target.into()), |_| {})
    }

    pub fn device(self, path: &str, numbers: (u32, u32)) -> Builder {
        self.entry(path, EntryKind::Device(FileType::CharDevice, numbers), |_| {})
    }

    pub fn file(self, path: &str, bytes: &[u8]) -> Builder {
        self.file_with(path, bytes, |_| {})
    }

    pub fn file_with(mut self, path: &str, bytes: &[u8], change: impl FnOnce(&mut Entry)) -> Builder {
        let at = self.data.len() as u64;
        self.data.extend_from_slice(bytes);
        let kind = EntryKind::Regular { size: bytes.len() as u64, content: Content::Contiguous { at } };
        self.entry(path, kind, change)
    }

    /// A file of `size` bytes of which only these, at these offsets, are no holes.
    pub fn sparse(mut self, path: &str, size: u64, pieces: &[(u64, &[u8])]) -> Builder {
        let mut extents = Vec::new();
        for (offset, bytes) in pieces {
            let at = self.data.len() as u64;
            self.data.extend_from_slice(bytes);
            extents.push(Extent { offset: *offset, len: bytes.len() as u64, at });
        }
        self.entry(path, EntryKind::Regular { size, content: Content::Sparse(extents) }, |_| {})
    }

    pub fn finish(mut self) -> Arc<Filesystem> {
        self.tree.finish().unwrap();
        self.unfinished()
    }

    /// As a stream leaves it that has not ended.
    pub fn unfinished(self) -> Arc<Filesystem> {
        let mut file: File = tempfile::tempfile().unwrap();
        file.write_all(&self.data).unwrap();
        Arc::new(Filesystem::new(Arc::new(self.tree), vec![DataFile::owned(file)]))
    }
}

/// The inode at a path of names alone.
pub(super) fn find(tree: &dyn Tree, path: &str) -> Ino {
    path.split('/').fold(Ino::ROOT, |dir, name| tree.lookup(dir, name.as_bytes()).unwrap().expect(name))
}
