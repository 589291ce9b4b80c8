//! The on-disk layout of EROFS, as far as it is written here, and nothing else.
//!
//! What Linux has in `fs/erofs/erofs_fs.h`. All numbers are little-endian.

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::index::FileType;

/// Where the superblock stands.
pub(super) const SUPER_OFFSET: u64 = 1024;
/// `EROFS_SUPER_MAGIC_V1`
pub(super) const MAGIC: u32 = 0xE0F5_E1E2;

/// The superblock has a checksum.
pub(super) const COMPAT_SB_CHKSUM: u32 = 1;
/// The time of an inode is its mtime.
pub(super) const COMPAT_MTIME: u32 = 2;
/// There are chunk-based inodes.
pub(super) const INCOMPAT_CHUNKED_FILE: u32 = 4;
/// There is a table of devices.
pub(super) const INCOMPAT_DEVICE_TABLE: u32 = 8;

/// A block address that stands for a hole.
pub(super) const NULL_ADDR: u32 = u32::MAX;

/// An inode's number (nid) counts units of this many bytes from the start of the metadata.
pub(super) const SLOT: u64 = 32;

/// The unit of the numbers of shared attributes.
pub(super) const XATTR_UNIT: u64 = 4;

/// `struct erofs_super_block`
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct SuperBlock {
    pub magic: U32,
    pub checksum: U32,
    pub feature_compat: U32,
    pub block_bits: u8,
    pub ext_slots: u8,
    pub root_nid: U16,
    pub inodes: U64,
    pub epoch: I64,
    pub epoch_nanos: U32,
    /// Of the file itself, without its devices.
    pub blocks: U32,
    pub meta_block: U32,
    pub xattr_block: U32,
    pub uuid: [u8; 16],
    pub volume_name: [u8; 16],
    pub feature_incompat: U32,
    pub compression: U16,
    pub extra_devices: U16,
    /// In units of a [`DeviceSlot`].
    pub device_table: U16,
    pub dir_block_bits: u8,
    pub xattr_prefix_count: u8,
    pub xattr_prefix_start: U32,
    pub packed_nid: U64,
    pub xattr_filter: u8,
    pub reserved: [u8; 23],
}

/// `struct erofs_deviceslot`
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct DeviceSlot {
    pub tag: [u8; 64],
    pub blocks: U32,
    /// Where its blocks stand among those of all devices.
    pub start: U32,
    pub reserved: [u8; 56],
}

/// How the content of an inode is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataLayout {
    /// Whole blocks, one after the other.
    FlatPlain = 0,
    /// The same, but the last part stands behind the inode.
    FlatInline = 2,
    /// Chunks, whose addresses stand behind the inode.
    ChunkBased = 4,
}

impl DataLayout {
    /// `i_format` of an extended inode.
    pub(super) fn format(self) -> u16 {
        1 | (self as u16) << 1
    }
}

/// `struct erofs_inode_extended`
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Inode {
    pub format: U16,
    /// 0, or the words of the attributes behind it, plus 1 and less the three words of the header.
    pub xattr_count: U16,
    pub mode: U16,
    pub start_high: U16,
    pub size: U64,
    /// First block, chunk format, or device number.
    pub body: U32,
    pub ino: U32,
    pub uid: U32,
    pub gid: U32,
    pub mtime: I64,
    pub mtime_nanos: U32,
    pub nlink: U32,
    pub reserved: [u8; 16],
}

/// `struct erofs_xattr_ibody_header`
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct XattrHeader {
    pub name_filter: U32,
    pub shared_count: u8,
    pub reserved: [u8; 7],
}

/// `struct erofs_xattr_entry`; name and value follow.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct XattrEntry {
    pub name_len: u8,
    pub prefix: u8,
    pub value_len: U16,
}

/// `struct erofs_dirent`
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Dirent {
    pub nid: U64,
    pub name_offset: U16,
    pub file_type: u8,
    pub reserved: u8,
}

/// `FT_*` of a directory entry.
pub(super) fn dirent_type(file_type: FileType) -> u8 {
    match file_type {
        FileType::Regular => 1,
        FileType::Directory => 2,
        FileType::CharDevice => 3,
        FileType::BlockDevice => 4,
        FileType::Fifo => 5,
        FileType::Socket => 6,
        FileType::Symlink => 7,
    }
}

/// A device number as the kernel encodes it (`new_encode_dev`).
pub(super) fn device_number((major, minor): (u32, u32)) -> u32 {
    minor & 0xff | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
}

/// The prefixes of attribute names that the kernel's EROFS knows, each with its number.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// The number of an attribute name's prefix, and what follows it; `None` where there is no number.
pub(super) fn split_prefix(name: &[u8]) -> Option<(u8, &[u8])> {
    PREFIXES.iter().find_map(|(prefix, number)| {
        let rest = name.strip_prefix(*prefix)?;
        // The names of access control lists are prefixes from end to end.
        (prefix.ends_with(b".") != rest.is_empty()).then_some((*number, rest))
    })
}

/// The checksum of the superblock's block from its first byte on, where its field is 0: CRC-32C, not inverted at the end.
pub(super) fn checksum(block: &[u8]) -> u32 {
    block.iter().fold(u32::MAX, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| (sum >> 1) ^ (0x82F6_3B78 & (sum & 1).wrapping_neg()))
    })
}

const _: () = {
    assert!(size_of::<SuperBlock>() == 128);
    assert!(std::mem::offset_of!(SuperBlock, root_nid) == 14);
    assert!(std::mem::offset_of!(SuperBlock, uuid) == 48);
    assert!(std::mem::offset_of!(SuperBlock, feature_incompat) == 80);
    assert!(std::mem::offset_of!(SuperBlock, device_table) == 88);
    assert!(size_of::<DeviceSlot>() == 128);
    assert!(size_of::<Inode>() == 64);
    assert!(std::mem::offset_of!(Inode, mtime) == 32);
    assert!(size_of::<XattrHeader>() == 12);
    assert!(size_of::<XattrEntry>() == 4);
    assert!(size_of::<Dirent>() == 12);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        // What fs/erofs/super.c starts with: the magic and the empty field have been taken in.
        assert_eq!(checksum(&[0xe2, 0xe1, 0xf5, 0xe0, 0, 0, 0, 0]), 0x5045_B54A);
        // makedev(3) in its low 32 bits.
        assert_eq!(device_number((8, 1)), 0x801);
        assert_eq!(device_number((0xfff, 0xf_ffff)), u32::MAX);
    }

    #[test]
    fn an_attribute_without_a_prefix_of_the_kernels_is_told_from_one_with() {
        assert_eq!(split_prefix(b"user.a"), Some((1, &b"a"[..])));
        assert_eq!(split_prefix(b"system.posix_acl_access"), Some((2, &b""[..])));
        assert_eq!(split_prefix(b"trusted.overlay.opaque"), Some((4, &b"overlay.opaque"[..])));
        for name in [&b"user."[..], b"user", b"com.apple.quarantine", b"system.posix_acl_access2", b""] {
            assert_eq!(split_prefix(name), None);
        }
    }
}
