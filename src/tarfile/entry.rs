//! What an archive says of one file: what it is, whose, and where its bytes are.

use std::fmt;

/// What an inode is; see inode(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileType {
    /// `S_IFREG`
    Regular,
    /// `S_IFDIR`
    Directory,
    /// `S_IFLNK`
    Symlink,
    /// `S_IFCHR`
    CharDevice,
    /// `S_IFBLK`
    BlockDevice,
    /// `S_IFIFO`
    Fifo,
    /// `S_IFSOCK`
    Socket,
}

impl FileType {
    /// The `S_IFMT` bits of `st_mode`.
    pub const fn mode_bits(self) -> u16 {
        match self {
            FileType::Socket => 0o140000,
            FileType::Symlink => 0o120000,
            FileType::Regular => 0o100000,
            FileType::BlockDevice => 0o060000,
            FileType::Directory => 0o040000,
            FileType::CharDevice => 0o020000,
            FileType::Fifo => 0o010000,
        }
    }

    /// The type that the `S_IFMT` bits of `mode` name, if they name one.
    pub const fn from_mode(mode: u16) -> Option<FileType> {
        Some(match mode & 0o170000 {
            0o140000 => FileType::Socket,
            0o120000 => FileType::Symlink,
            0o100000 => FileType::Regular,
            0o060000 => FileType::BlockDevice,
            0o040000 => FileType::Directory,
            0o020000 => FileType::CharDevice,
            0o010000 => FileType::Fifo,
            _ => return None,
        })
    }
}

/// A point in time: seconds since 1970-01-01 UTC (negative before), and nanoseconds (0 to 999,999,999) after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Whole seconds, rounded towards the past.
    pub secs: i64,
    /// Nanoseconds past `secs`.
    pub nanos: u32,
}

/// Seconds since 1970, negative before, with nine decimals.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = i128::from(self.secs) * 1_000_000_000 + i128::from(self.nanos);
        let sign = if nanos < 0 { "-" } else { "" };
        let (whole, rest) = (nanos.unsigned_abs() / 1_000_000_000, nanos.unsigned_abs() % 1_000_000_000);
        write!(f, "{sign}{whole}.{rest:09}")
    }
}

/// What an entry says of the data behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// All bytes stand together, from this byte of the archive on.
    Contiguous {
        /// Of the first content byte.
        at: u64,
    },
    /// What is not covered by these is a hole. They ascend and do not overlap.
    Sparse(Vec<Extent>),
}

/// A run of a sparse file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where in the file.
    pub offset: u64,
    /// How many bytes, at least 1.
    pub len: u64,
    /// Where in the archive.
    pub at: u64,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file of `size` bytes.
    Regular {
        /// Its length, holes included.
        size: u64,
        /// Where its bytes are.
        content: Content,
    },
    /// Another name for the file of this path. A path that is empty names nothing.
    HardLink(Vec<u8>),
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
    /// A directory.
    Directory,
    /// A device, with major and minor number.
    Device(FileType, (u32, u32)),
    /// A FIFO.
    Fifo,
}

/// One entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Components joined by single slashes: never empty (but for the root), never `.` or `..`, at most 255 bytes.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// `mode & 07777`
    pub perm: u16,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Extended attributes by name, each once.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}
