//! The on-disk layout of an index, and nothing else. `docs/format.md` describes it in words.
//!
//! All numbers are little-endian; no record needs alignment. Whatever changes here changes [`VERSION`].

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first eight bytes of an index.
pub(super) const MAGIC: [u8; 8] = *b"imagefs\x1a";
/// The version of this layout.
pub const VERSION: u32 = 1;

/// The first bytes of the file.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    pub magic: [u8; 8],
    pub version: U32,
    /// CRC-32 of this header with this field 0.
    pub checksum: U32,
    /// What the tree was made from: the cache's key.
    pub identity: [u8; 32],
    pub inodes: Section,
    pub dentries: Section,
    pub extents: Section,
    pub names: Section,
    pub xattrs: Section,
    pub links: Section,
    /// [`Summary`](super::Summary)
    pub used_inodes: U64,
    pub entries: U64,
    pub bytes: U64,
    /// 1 where any inode has extended attributes, else 0.
    pub has_xattrs: U32,
    pub reserved: U32,
}

/// Where one kind of record stands.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Section {
    /// From the start of the file, in bytes.
    pub offset: U64,
    /// In bytes.
    pub len: U64,
    /// CRC-32 of the section.
    pub checksum: U32,
    pub reserved: U32,
}

/// One inode. Record 0 is unused, so that an inode's number is its place.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct InodeRecord {
    /// A regular file: its length. A directory or symlink: the inode of its directory. Else 0.
    pub size: U64,
    /// Depends on the type; see the `body_*` functions.
    pub body: U64,
    pub mtime: I64,
    pub mtime_nanos: U32,
    pub uid: U32,
    pub gid: U32,
    /// 0 for a number that no name leads to.
    pub nlink: U32,
    /// Where in the xattr section this inode's set stands; 0 for none.
    pub xattrs: U32,
    /// `st_mode`: type and permissions.
    pub mode: U16,
    pub layer: U16,
}

/// The highest bit of [`InodeRecord::body`]; what it means depends on the type.
const FLAG: u64 = 1 << 63;

impl InodeRecord {
    /// The bit of a regular file's body that says: a run of extents, not one offset.
    pub const SPARSE: u64 = FLAG;
    /// The bit of a directory's body that says: no entry of the archive describes it.
    pub const IMPLICIT: u64 = FLAG;

    /// Two 32-bit halves: a directory's first dentry and their count, a symlink's target and its length, a
    /// device's major and minor number, a sparse file's first extent and their count.
    pub fn pair(&self) -> (u32, u32) {
        let body = self.body.get() & !FLAG;
        ((body >> 32) as u32, body as u32)
    }

    /// The body that [`Self::pair`] takes apart. `high` must be below 2^31 where the bit means something.
    pub fn from_pair(high: u32, low: u32) -> U64 {
        U64::new(u64::from(high) << 32 | u64::from(low))
    }
}

/// One name. Those of a directory stand together, sorted by name.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct DentryRecord {
    pub ino: U32,
    /// Where in the name section the name begins.
    pub name: U32,
    pub name_len: u8,
    /// The type bits of the inode's mode, shifted right by 12.
    pub file_type: u8,
    pub reserved: U16,
}

/// One run of a sparse file.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct ExtentRecord {
    pub offset: U64,
    pub len: U64,
    pub at: U64,
}

/// A hard link of a layer to a file that is not in it. They stand in the order of their inodes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct LinkRecord {
    /// The empty regular file that stands for it.
    pub ino: U32,
    /// Where in the name section the path of the file begins, and how long it is.
    pub target: U32,
    pub target_len: U32,
}

const _: () = {
    assert!(size_of::<Header>() == 224);
    assert!(std::mem::offset_of!(Header, identity) == 16);
    assert!(std::mem::offset_of!(Header, inodes) == 48);
    assert!(std::mem::offset_of!(Header, used_inodes) == 192);
    assert!(size_of::<Section>() == 24);
    assert!(size_of::<InodeRecord>() == 48);
    assert!(std::mem::offset_of!(InodeRecord, mode) == 44);
    assert!(size_of::<DentryRecord>() == 12);
    assert!(size_of::<ExtentRecord>() == 24);
    assert!(size_of::<LinkRecord>() == 12);
};
