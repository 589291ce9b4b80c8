//! The view's words as `fuser` has them.

use std::time::{Duration, SystemTime};

use fuser::{FileAttr, INodeNo};

use crate::fuse::view::Attributes;
use crate::index::{Certainty, FileType, Timestamp};

/// How long the kernel may keep what never changes.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// How long it may keep what can change while a mount is being filled.
const A_WHILE: Duration = Duration::from_secs(1);

/// How long the kernel may keep what it is told.
pub(super) fn ttl(certainty: Certainty) -> Duration {
    match certainty {
        Certainty::Final => FOREVER,
        Certainty::Growing => A_WHILE,
        Certainty::Provisional => Duration::ZERO,
    }
}

pub(super) fn attr(attributes: &Attributes) -> FileAttr {
    let mtime = time(attributes.mtime);
    FileAttr {
        ino: INodeNo(attributes.node.0),
        size: attributes.size,
        blocks: attributes.blocks,
        atime: mtime,
        mtime,
        ctime: mtime,
        crtime: mtime,
        kind: kind(attributes.file_type),
        perm: attributes.perm,
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: rdev(attributes.device),
        blksize: attributes.block_size,
        flags: 0,
    }
}

/// What says that a name does not exist and never will: inode 0, kept for as long as an entry is.
pub(super) fn negative() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: fuser::FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

pub(super) fn kind(file_type: FileType) -> fuser::FileType {
    match file_type {
        FileType::Regular => fuser::FileType::RegularFile,
        FileType::Directory => fuser::FileType::Directory,
        FileType::Symlink => fuser::FileType::Symlink,
        FileType::CharDevice => fuser::FileType::CharDevice,
        FileType::BlockDevice => fuser::FileType::BlockDevice,
        FileType::Fifo => fuser::FileType::NamedPipe,
        FileType::Socket => fuser::FileType::Socket,
    }
}

/// A time that the system cannot hold becomes 1970.
fn time(timestamp: Timestamp) -> SystemTime {
    let seconds = Duration::from_secs(timestamp.secs.unsigned_abs());
    let whole = if timestamp.secs < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    whole
        .and_then(|t| t.checked_add(Duration::from_nanos(u64::from(timestamp.nanos))))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A device number as the kernel packs it into 32 bits (`new_encode_dev`): 12 bits of major, 20 of minor.
fn rdev((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_that_the_system_can_hold_is_kept() {
        let at = |secs, nanos| time(Timestamp { secs, nanos });
        assert_eq!(at(0, 0), SystemTime::UNIX_EPOCH);
        assert_eq!(at(-1, 750_000_000) + Duration::from_millis(250), SystemTime::UNIX_EPOCH);
        assert_eq!(at(1 << 33, 5), SystemTime::UNIX_EPOCH + Duration::new(1 << 33, 5));
        assert_eq!(at(i64::MIN, 0) + Duration::from_secs(1 << 63), SystemTime::UNIX_EPOCH);
        assert_eq!(at(i64::MAX, u32::MAX), SystemTime::UNIX_EPOCH);
    }

    #[test]
    fn device_numbers_are_packed_as_the_kernel_unpacks_them() {
        assert_eq!(rdev((1, 3)), 0x103);
        assert_eq!(rdev((0xabc, 0x12345)), 0x123a_bc45);
        assert_eq!(rdev((8, 256)), 0x0010_0800);
    }
}
