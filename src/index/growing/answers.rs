//! What a growing tree answers.

use super::{Body, Dentry, GrowingTree, Inode, NONE};
use crate::index::extent::sparse_segment;
use crate::index::xattrs::read_set;
use crate::index::{DirCookie, DirEntry, FileType, Ino, Listing, Segment, Stat, Summary, Tree, TreeError};

impl Body {
    pub(in crate::index) fn file_type(&self) -> FileType {
        match self {
            Body::Directory { .. } => FileType::Directory,
            Body::Gone | Body::Contiguous { .. } | Body::Sparse { .. } => FileType::Regular,
            Body::Symlink { .. } => FileType::Symlink,
            Body::Device { file_type, .. } => *file_type,
            Body::Fifo => FileType::Fifo,
        }
    }
}

impl Tree for GrowingTree {
    fn stat(&self, ino: Ino) -> Result<Stat, TreeError> {
        let inode = self.inode(ino)?;
        let (size, device) = match inode.body {
            Body::Symlink { len, .. } => (u64::from(len), (0, 0)),
            Body::Device { major, minor, .. } => (0, (major, minor)),
            _ => (inode.size, (0, 0)),
        };
        Ok(Stat {
            ino,
            file_type: inode.body.file_type(),
            perm: inode.perm,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            size,
            mtime: inode.mtime,
            device,
            layer: inode.layer,
            has_xattrs: inode.xattrs != 0,
        })
    }

    fn inode_bound(&self) -> u64 {
        self.inodes.len() as u64 + 1
    }

    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Option<Ino>, TreeError> {
        match self.inode(dir)?.body {
            Body::Directory { complete, .. } => match self.dentry(dir, name) {
                // A hard link whose target has not come is a name, though it leads nowhere yet.
                Some(dentry) => self.dentries[dentry as usize].ino().map(Some).ok_or(TreeError::NotYet),
                None if complete || self.complete => Ok(None),
                None => Err(TreeError::NotYet),
            },
            _ => Err(TreeError::NotADirectory(dir)),
        }
    }

    fn parent(&self, ino: Ino) -> Result<Ino, TreeError> {
        match self.inode(ino)?.body {
            Body::Directory { .. } => Ok(self.above(ino)),
            Body::Symlink { parent, .. } => Ok(parent),
            _ => Err(TreeError::NotADirectory(ino)),
        }
    }

    fn read_dir(
        &self,
        dir: Ino,
        from: DirCookie,
        emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<Listing, TreeError> {
        let Body::Directory { first, complete, .. } = self.inode(dir)?.body else {
            return Err(TreeError::NotADirectory(dir));
        };
        // A cookie is the number of the dentry before it, and one.
        let mut at = match from.0.checked_sub(1) {
            None => first,
            Some(before) => match usize::try_from(before).ok().and_then(|i| self.dentries.get(i)) {
                Some(before) if before.parent == dir => before.next,
                _ => {
                    return Err(TreeError::Corrupt(
                        "a directory was listed from a place that it does not have",
                    ));
                }
            },
        };
        while at != NONE {
            let Dentry { dead, next, .. } = self.dentries[at as usize];
            if !dead {
                // What stands behind a name that cannot be shown yet would be passed over if the rest were.
                let Some(ino) = self.dentries[at as usize].ino() else { return Ok(Listing::NotYet) };
                let file_type = self.inode_ref(ino).body.file_type();
                let cookie = DirCookie(u64::from(at) + 1);
                if !emit(DirEntry { name: self.name_of(at), ino, file_type, cookie }) {
                    return Ok(Listing::Stopped);
                }
            }
            at = next;
        }
        Ok(if complete || self.complete { Listing::End } else { Listing::NotYet })
    }

    fn read_link(&self, ino: Ino) -> Result<Vec<u8>, TreeError> {
        match self.inode(ino)?.body {
            Body::Symlink { target, len, .. } => Ok(self.target(target, len).to_vec()),
            _ => Err(TreeError::NotASymlink(ino)),
        }
    }

    fn xattrs(&self, ino: Ino, emit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), TreeError> {
        let at = self.inode(ino)?.xattrs;
        read_set(self.xattrs.bytes(), at, emit).ok_or(TreeError::Corrupt("extended attributes are cut"))
    }

    fn segment(&self, ino: Ino, offset: u64) -> Result<Segment, TreeError> {
        let inode = self.inode(ino)?;
        let left = match inode.size.checked_sub(offset) {
            None | Some(0) if inode.body.file_type() == FileType::Regular => return Ok(Segment::End),
            left => left.unwrap_or(0),
        };
        match inode.body {
            // What came out of a layer's index has been checked by nobody.
            Body::Contiguous { at } => Ok(Segment::Data { at: at.saturating_add(offset), len: left }),
            Body::Sparse { first, count } => {
                let extents = &self.extents[first as usize..][..count as usize];
                Ok(sparse_segment(extents.len(), |i| extents.get(i).copied(), offset, left))
            }
            _ => Err(TreeError::NotAFile(ino)),
        }
    }

    fn summary(&self) -> Summary {
        let mut summary = Summary { xattrs: !self.xattrs.is_empty(), ..Summary::default() };
        for inode in &self.inodes {
            summary.inodes += u64::from(!matches!(inode.body, Body::Gone));
            summary.bytes = summary.bytes.saturating_add(self.occupied(inode));
        }
        summary.entries = self.by_name.len() as u64;
        summary
    }
}

impl GrowingTree {
    /// The bytes of a regular file that are stored.
    pub(in crate::index) fn occupied(&self, inode: &Inode) -> u64 {
        match inode.body {
            Body::Contiguous { .. } => inode.size,
            Body::Sparse { first, count } => {
                let extents = &self.extents[first as usize..][..count as usize];
                extents.iter().fold(0, |sum, extent| sum.saturating_add(extent.len))
            }
            _ => 0,
        }
    }
}
