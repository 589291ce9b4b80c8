//! What is told of a file.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::GatewayError;
use super::error::to_path;
use super::wait::Question;
use crate::index::{DIRECTORY_SIZE, FileType, Ino, Timestamp};
use crate::tarfile::{Entry, EntryKind};

/// Extended attributes: names and values.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The attributes of a file, as the source has them; see inode(7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStat {
    /// Where it was found: the path that was asked for, from the mount's root.
    pub path: PathBuf,
    /// What it is.
    pub file_type: FileType,
    /// Permission, setuid, setgid and sticky bits (`mode & 07777`).
    pub perm: u16,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// A regular file's length in bytes, holes included; the length of a symlink's target; 4096 for a directory, as in
    /// a mount; else 0.
    pub size: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// The stored target of a symlink, nothing rewritten.
    pub link_target: Option<PathBuf>,
    /// Major and minor number of a device, else 0 and 0.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// Which inode it is, and how many names that has. Not known of a file that was fetched alone.
    pub inode: Option<Inode>,
}

/// What tells hard links of one file from copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Inode {
    /// The inode's number within its mount.
    pub number: u32,
    /// How many names it has.
    pub links: u32,
}

impl FileStat {
    /// `st_mode`: the type and [`FileStat::perm`].
    pub fn mode(&self) -> u32 {
        u32::from(self.file_type.mode_bits() | self.perm)
    }

    /// The last name of the path; `/` for the root.
    pub fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or(OsStr::new("/"))
    }

    /// The modification time in nanoseconds since 1970-01-01 UTC.
    pub fn mtime_ns(&self) -> i128 {
        i128::from(self.mtime.secs) * 1_000_000_000 + i128::from(self.mtime.nanos)
    }

    /// Asks for all there is to tell of an inode.
    pub(super) fn of(question: &Question<'_>, path: PathBuf, ino: Ino) -> Result<FileStat, GatewayError> {
        let stat = question.stat(ino)?;
        let link_target = match stat.file_type {
            FileType::Symlink => Some(to_path(&question.read_link(ino)?)),
            _ => None,
        };
        let xattrs = if stat.has_xattrs { question.xattrs(ino)? } else { Vec::new() };
        Ok(FileStat {
            path,
            file_type: stat.file_type,
            perm: stat.perm,
            uid: stat.uid,
            gid: stat.gid,
            size: if stat.file_type == FileType::Directory { DIRECTORY_SIZE } else { stat.size },
            mtime: stat.mtime,
            link_target,
            device: stat.device,
            xattrs,
            inode: Some(Inode { number: ino.0, links: stat.nlink }),
        })
    }

    /// What the header of an archive says.
    pub(super) fn of_entry(path: &Path, entry: Entry) -> FileStat {
        let mut stat = FileStat {
            path: path.to_owned(),
            file_type: FileType::Regular,
            perm: entry.perm,
            uid: entry.uid,
            gid: entry.gid,
            size: 0,
            mtime: entry.mtime,
            link_target: None,
            device: (0, 0),
            xattrs: entry.xattrs,
            inode: None,
        };
        match entry.kind {
            EntryKind::Regular { size, .. } => stat.size = size,
            // Of a file alone there is nothing that it could be a link to.
            EntryKind::HardLink(_) => {}
            EntryKind::Directory => (stat.file_type, stat.size) = (FileType::Directory, DIRECTORY_SIZE),
            EntryKind::Fifo => stat.file_type = FileType::Fifo,
            EntryKind::Device(file_type, device) => (stat.file_type, stat.device) = (file_type, device),
            EntryKind::Symlink(target) => {
                stat.file_type = FileType::Symlink;
                stat.size = target.len() as u64;
                stat.link_target = Some(OsStr::from_bytes(&target).into());
            }
        }
        stat
    }
}
