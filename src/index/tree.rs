//! The tree interface: a read-only file tree addressed by inode.
//!
//! Two things answer it: the [growing tree](super::growing), which is still being filled, and the
//! [index](super::reader), which is finished. Both number their inodes alike, so a caller may go over from
//! the one to the other. Must not import anything of the crate but `tarfile`.

use std::fmt;

use crate::tarfile::{FileType, Timestamp};

/// The number of an inode within its tree. 1 is the root; 0 is no inode.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u32);

impl Ino {
    /// The root directory of every tree.
    pub const ROOT: Ino = Ino(1);
}

impl fmt::Debug for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of the layer that an inode comes from, and so of the data file that holds its bytes.
///
/// A tree made from one tar has layer 0 alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LayerNo(pub u16);

/// The size that a directory is shown with, in bytes: no archive has one.
pub const DIRECTORY_SIZE: u64 = 4096;

/// The attributes of an inode, as stored; see stat(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Which inode this is.
    pub ino: Ino,
    /// What it is.
    pub file_type: FileType,
    /// Permission, setuid, setgid and sticky bits (`mode & 07777`).
    pub perm: u16,
    /// Hard links; for a directory 2 and one for each subdirectory.
    pub nlink: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// A regular file's length in bytes, holes included; the length of a symlink's stored target; else 0.
    pub size: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// Major and minor number of a device, else 0 and 0.
    pub device: (u32, u32),
    /// The layer that brought the inode.
    pub layer: LayerNo,
    /// Whether [`Tree::xattrs`] has anything to say.
    pub has_xattrs: bool,
}

/// A place in a directory's listing, good for the tree that gave it.
///
/// [`DirCookie::START`] is before the first entry; every other value is what a [`DirEntry`] carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirCookie(pub u64);

impl DirCookie {
    /// Before the first entry.
    pub const START: DirCookie = DirCookie(0);
}

/// One name in a directory. `.` and `..` are never among them.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// The name: 1 to 255 bytes, without NUL and `/`.
    pub name: &'a [u8],
    /// What it names.
    pub ino: Ino,
    /// What that is.
    pub file_type: FileType,
    /// The place just after this entry.
    pub cookie: DirCookie,
}

/// How a call of [`Tree::read_dir`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// The callback wanted no more.
    Stopped,
    /// There are no more entries.
    End,
    /// There are no more entries yet: the tree is still growing here.
    NotYet,
}

/// What stands at an offset of a regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// `len` bytes that stand at byte `at` of the data file of the inode's layer.
    Data {
        /// Where in the data file.
        at: u64,
        /// How many bytes follow there, at least 1.
        len: u64,
    },
    /// `len` zero bytes (at least 1) that are stored nowhere.
    Hole {
        /// How many.
        len: u64,
    },
    /// The offset is at or past the end of the file.
    End,
}

/// Counts over a whole tree, for statfs(2) and for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Summary {
    /// Inodes that have a name (and the root).
    pub inodes: u64,
    /// Names, hard links counted each.
    pub entries: u64,
    /// The sum of the bytes that regular files occupy, holes not counted, hard links counted once.
    pub bytes: u64,
    /// Whether any inode carries an extended attribute.
    pub xattrs: bool,
}

/// Why a tree has no answer.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The inode number was never given out by this tree.
    #[error("there is no inode {0}")]
    NoSuchInode(Ino),
    /// A directory was asked for.
    #[error("inode {0} is not a directory")]
    NotADirectory(Ino),
    /// A symlink was asked for.
    #[error("inode {0} is not a symbolic link")]
    NotASymlink(Ino),
    /// A regular file was asked for.
    #[error("inode {0} is not a regular file")]
    NotAFile(Ino),
    /// The answer has not come yet: the tree is still growing.
    #[error("not read from the stream yet")]
    NotYet,
    /// The answer will never come: the stream broke off before it.
    #[error("the stream broke off before it came")]
    Lost,
    /// The on-disk index contradicts itself.
    #[error("the index is damaged: {0}")]
    Corrupt(&'static str),
}

/// A read-only file tree addressed by inode.
pub trait Tree: Send + Sync {
    /// The attributes of an inode.
    fn stat(&self, ino: Ino) -> Result<Stat, TreeError>;

    /// No inode has this number or a greater one. Not every smaller one is an inode's.
    fn inode_bound(&self) -> u64;

    /// The inode that `name` names in the directory `dir`; `None` if it names none.
    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Option<Ino>, TreeError>;

    /// The directory that a directory or a symlink stands in (the root's is the root).
    ///
    /// For a symlink with several hard links it is the one nearest to the root.
    fn parent(&self, ino: Ino) -> Result<Ino, TreeError>;

    /// Hands the entries of `dir` after `from` to `emit` until it returns `false` or there are no more.
    ///
    /// Each entry is handed out once, in an order that stays. An entry for which `emit` returned `false`
    /// counts as not taken: go on from the cookie of the one before it.
    fn read_dir(
        &self,
        dir: Ino,
        from: DirCookie,
        emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<Listing, TreeError>;

    /// The stored target of a symlink: at most 4,095 bytes, nothing rewritten.
    fn read_link(&self, ino: Ino) -> Result<Vec<u8>, TreeError>;

    /// Hands every extended attribute of an inode, name and value, to `emit` until it returns `false`.
    fn xattrs(&self, ino: Ino, emit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), TreeError>;

    /// What stands at byte `offset` of a regular file.
    fn segment(&self, ino: Ino, offset: u64) -> Result<Segment, TreeError>;

    /// Counts over the whole tree (as far as it has come).
    fn summary(&self) -> Summary;
}
