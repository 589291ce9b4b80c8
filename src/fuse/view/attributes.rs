//! What stat and statfs return.

use super::table::{Mounted, Table};
use super::{Edition, SymlinkMode, View, ViewError};
use crate::fuse::names::MAX_NAME;
use crate::fuse::node::Node;
use crate::fuse::symlink::SymlinkError;
use crate::index::{Certainty, DIRECTORY_SIZE, FileType, Ino, LayerNo, Segment, Stat, Timestamp, TreeError};

/// What `st_blksize` advises: the size of a page, as most filesystems have it.
const BLOCK_SIZE: u32 = 4096;

/// The unit of `st_blocks`; see stat(2).
const STAT_BLOCK: u64 = 512;

/// Extents that are counted for one file's `st_blocks`. A file with more shows the rest as if it had no holes.
const COUNTED_SEGMENTS: usize = 4096;

/// The attributes of a [`Node`]; see stat(2). atime and ctime are the same as mtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// `st_ino`
    pub node: Node,
    /// The type bits of `st_mode`.
    pub file_type: FileType,
    /// `st_mode & 07777`
    pub perm: u16,
    /// `st_nlink`
    pub nlink: u32,
    /// `st_uid`
    pub uid: u32,
    /// `st_gid`
    pub gid: u32,
    /// `st_size`
    pub size: u64,
    /// `st_blocks`, in units of 512 bytes
    pub blocks: u64,
    /// `st_blksize`
    pub block_size: u32,
    /// `st_mtim`
    pub mtime: Timestamp,
    /// Major and minor number of `st_rdev`.
    pub device: (u32, u32),
    /// For how long all this holds.
    pub certainty: Certainty,
}

/// The size of a whole session; see statvfs(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// `f_blocks`, in units of `block_size`
    pub blocks: u64,
    /// `f_files`
    pub files: u64,
    /// `f_bsize` and `f_frsize`
    pub block_size: u32,
    /// `f_namemax`
    pub name_max: u32,
}

impl View {
    /// The size of everything that is shown.
    pub fn space(&self) -> Space {
        // The layers are another look at the bytes of the root filesystem.
        let table = self.tables.current();
        let shown = table.shown(self.options.flat).iter().take(table.containers);
        let mut space = Space { blocks: 0, files: 0, block_size: BLOCK_SIZE, name_max: MAX_NAME as u32 };
        if !self.options.flat {
            space.files = 2;
        }
        for mount in shown {
            let summary = mount.filesystem.tree().summary();
            space.blocks = space.blocks.saturating_add(summary.bytes.div_ceil(u64::from(BLOCK_SIZE)));
            space.files = space.files.saturating_add(summary.inodes);
        }
        space
    }

    pub(super) fn top(&self, table: &Table) -> Attributes {
        let layers = usize::from(table.containers < table.mounts.len());
        self.own_directory(Node::ROOT, table.containers + layers)
    }

    /// `None` where the session does not show layers.
    pub(super) fn layers_directory(&self) -> Option<Attributes> {
        let table = self.tables.current();
        let layers = table.mounts.len() - table.containers;
        (layers > 0).then(|| self.own_directory(Node::LAYERS, layers))
    }

    fn own_directory(&self, node: Node, subdirectories: usize) -> Attributes {
        let nlink = u32::try_from(subdirectories).unwrap_or(u32::MAX).saturating_add(2);
        // What is in it may be replaced, but then the kernel is told.
        self.plain(node, &self.own_stat(FileType::Directory, 0o555, nlink), Certainty::Final)
    }

    pub(super) fn description(&self, number: u64, edition: &Edition) -> Attributes {
        let size = edition.bytes.len() as u64;
        let stat = Stat { mtime: edition.mtime, ..self.own_stat(FileType::Regular, 0o444, 1) };
        let certainty = self.editions.certainty();
        let plain = self.plain(self.numbering.edition(number), &stat, certainty);
        Attributes { size, blocks: size.div_ceil(STAT_BLOCK), ..plain }
    }

    fn own_stat(&self, file_type: FileType, perm: u16, nlink: u32) -> Stat {
        Stat {
            ino: Ino::ROOT,
            file_type,
            perm,
            nlink,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: self.options.mtime,
            device: (0, 0),
            layer: LayerNo::default(),
            has_xattrs: false,
        }
    }

    /// As [`View::plain`], with the size. A symlink's `stat.ino` is the number under which it is shown.
    pub(super) fn of_stat(
        &self,
        mounted: &Mounted,
        stat: &Stat,
        certainty: Certainty,
    ) -> Result<Attributes, ViewError> {
        let plain = self.plain(self.numbering.node(mounted.slot(), stat.ino), stat, certainty);
        Ok(match stat.file_type {
            FileType::Regular => Attributes { size: stat.size, blocks: blocks(mounted, stat)?, ..plain },
            FileType::Symlink => {
                let size = match self.options.symlinks {
                    SymlinkMode::Raw => stat.size,
                    SymlinkMode::Contain => match self.shown_target(mounted, stat.ino, None) {
                        Ok(target) => target.len() as u64,
                        // Only readlink fails: a directory with such an entry can still be listed.
                        Err(ViewError::Symlink(
                            SymlinkError::TooLong(_) | SymlinkError::Tree(TreeError::Lost),
                        )) => stat.size,
                        Err(error) => return Err(error),
                    },
                };
                Attributes { size, ..plain }
            }
            _ => plain,
        })
    }

    /// The attributes but for the size of a file or a symlink.
    pub(super) fn plain(&self, node: Node, stat: &Stat, certainty: Certainty) -> Attributes {
        let (size, blocks) = match stat.file_type {
            FileType::Directory => (DIRECTORY_SIZE, DIRECTORY_SIZE / STAT_BLOCK),
            _ => (0, 0),
        };
        Attributes {
            node,
            file_type: stat.file_type,
            perm: stat.perm,
            nlink: stat.nlink,
            uid: self.options.uid.unwrap_or(stat.uid),
            gid: self.options.gid.unwrap_or(stat.gid),
            size,
            blocks,
            block_size: BLOCK_SIZE,
            mtime: stat.mtime,
            device: stat.device,
            certainty,
        }
    }
}

/// What the bytes of a regular file occupy, in units of 512, holes not counted.
fn blocks(mounted: &Mounted, stat: &Stat) -> Result<u64, ViewError> {
    let tree = mounted.filesystem().tree();
    let (mut offset, mut holes) = (0u64, 0u64);
    for _ in 0..COUNTED_SEGMENTS {
        if offset >= stat.size {
            break;
        }
        offset = match tree.segment(stat.ino, offset) {
            Ok(Segment::Data { len, .. }) => offset.saturating_add(len),
            Ok(Segment::Hole { len }) => {
                holes = holes.saturating_add(len);
                offset.saturating_add(len)
            }
            // Where its holes are is known once the stream has come to it.
            Ok(Segment::End) | Err(TreeError::NotYet | TreeError::Lost) => break,
            Err(error) => return Err(error.into()),
        };
    }
    Ok(stat.size.saturating_sub(holes).div_ceil(STAT_BLOCK))
}
