//! What the flat arrays of a growing tree hold.

use crate::index::{FileType, Ino, LayerNo, Timestamp};

/// What an inode has besides the attributes that all have.
#[derive(Clone, Copy, Debug)]
pub(in crate::index) enum Body {
    /// Was replaced or removed, or never had a name.
    Gone,
    Directory {
        /// The name that it has; the root has none.
        dentry: u32,
        /// First and last of its dentries, in the order in which they came.
        first: u32,
        last: u32,
        /// Whether all its names have come.
        complete: bool,
    },
    Contiguous {
        at: u64,
    },
    Sparse {
        first: u32,
        count: u32,
    },
    Symlink {
        parent: Ino,
        target: u32,
        len: u16,
    },
    Device {
        file_type: FileType,
        major: u32,
        minor: u32,
    },
    Fifo,
}

#[derive(Clone, Copy, Debug)]
pub(in crate::index) struct Inode {
    pub body: Body,
    pub size: u64,
    pub mtime: Timestamp,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    /// Where its set stands in [`XattrSets`](crate::index::xattrs::XattrSets); 0 for none.
    pub xattrs: u32,
    pub perm: u16,
    pub layer: LayerNo,
    /// A directory that no entry describes: paths lead through it, that is all.
    pub implicit: bool,
}

/// A name in a directory.
#[derive(Clone, Copy, Debug)]
pub(in crate::index) struct Dentry {
    pub parent: Ino,
    /// 0 while the name is a hard link whose target has not come; then it is not shown.
    pub(super) ino: Ino,
    pub(super) name: u32,
    /// The next name of the same directory.
    pub(super) next: u32,
    /// Of directory and name, so that the table can grow without reading them again.
    pub(super) hash: u32,
    pub(super) name_len: u8,
    pub dead: bool,
}

impl Dentry {
    pub fn ino(&self) -> Option<Ino> {
        (self.ino != Ino(0)).then_some(self.ino)
    }

    pub(super) fn table_hash(&self) -> u64 {
        spread(self.hash)
    }
}

/// The table wants its bits at both ends.
pub(super) fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}
