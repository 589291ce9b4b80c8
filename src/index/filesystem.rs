//! A tree together with the bytes of its files.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use super::scan::Extent;
use super::{Ino, Segment, Timestamp, Tree, TreeError};

/// Why bytes could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The tree did not answer.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The data file could not be read.
    #[error("cannot read the data file: {0}")]
    Io(#[from] io::Error),
    /// The data file ends before an extent does.
    #[error("the data file ends before byte {wanted}")]
    Short {
        /// The first byte that is missing.
        wanted: u64,
    },
    /// The archive that the index points into is no longer what was indexed.
    #[error("the archive was changed while it was in use")]
    Changed,
}

/// What tells whether a file is still the one that was indexed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FileIdentity {
    /// `st_dev`
    pub dev: u64,
    /// `st_ino`
    pub ino: u64,
    /// `st_size`
    pub size: u64,
    /// `st_mtim`: seconds and nanoseconds
    pub mtime: (i64, i64),
    /// `st_ctim`: seconds and nanoseconds
    pub ctime: (i64, i64),
}

impl FileIdentity {
    /// Asks the kernel about an open file.
    pub fn of(file: &File) -> io::Result<FileIdentity> {
        let m = file.metadata()?;
        Ok(FileIdentity {
            dev: m.dev(),
            ino: m.ino(),
            size: m.size(),
            mtime: (m.mtime(), m.mtime_nsec()),
            ctime: (m.ctime(), m.ctime_nsec()),
        })
    }

    /// When the file was last written.
    pub fn modified(&self) -> Timestamp {
        Timestamp { secs: self.mtime.0, nanos: self.mtime.1 as u32 }
    }
}

/// The seekable file that holds the bytes of a layer's files.
#[derive(Debug)]
pub struct DataFile {
    file: File,
    pinned: Option<FileIdentity>,
}

impl DataFile {
    /// A file that nobody else writes: one of the cache's own.
    pub fn owned(file: File) -> DataFile {
        DataFile { file, pinned: None }
    }

    /// A file of the user's, served in place: every read checks that it is still what was indexed.
    pub fn borrowed(file: File, identity: FileIdentity) -> DataFile {
        DataFile { file, pinned: Some(identity) }
    }

    /// Fills `buf` from byte `at`.
    pub fn read_exact_at(&self, buf: &mut [u8], at: u64) -> Result<(), ReadError> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], at + done as u64) {
                Ok(0) => return Err(ReadError::Short { wanted: at + done as u64 }),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        // Checked after the read, so that a change made meanwhile is seen.
        match self.pinned {
            Some(identity) if FileIdentity::of(&self.file)? != identity => Err(ReadError::Changed),
            _ => Ok(()),
        }
    }
}

/// Which end of a data extent lseek(2) looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    /// `SEEK_DATA`
    Data,
    /// `SEEK_HOLE`
    Hole,
}

/// One filesystem: a tree, and one data file for each of its layers.
pub struct Filesystem {
    tree: Arc<dyn Tree>,
    data: Vec<DataFile>,
}

impl Filesystem {
    /// `data` holds the data file of each layer, in the order of [`LayerNo`](super::LayerNo).
    pub fn new(tree: Arc<dyn Tree>, data: Vec<DataFile>) -> Filesystem {
        Filesystem { tree, data }
    }

    /// The names and attributes.
    pub fn tree(&self) -> &dyn Tree {
        &*self.tree
    }

    /// Reads from byte `offset` of a regular file. Fewer bytes than `buf` holds means the end of the file.
    pub fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize, ReadError> {
        let layer = self.tree.stat(ino)?.layer;
        let data =
            self.data.get(usize::from(layer.0)).ok_or(TreeError::Corrupt("an inode of an unknown layer"))?;
        let mut done = 0;
        while done < buf.len() {
            let Some(position) = offset.checked_add(done as u64) else { break };
            let rest = &mut buf[done..];
            match self.tree.segment(ino, position)? {
                Segment::End => break,
                Segment::Data { at, len } => {
                    let n = clamp(len, rest.len());
                    data.read_exact_at(&mut rest[..n], at)?;
                    done += n;
                }
                Segment::Hole { len } => {
                    let n = clamp(len, rest.len());
                    rest[..n].fill(0);
                    done += n;
                }
            }
        }
        Ok(done)
    }

    /// The first byte at or after `offset` that is data, or that is a hole (the end of a file counts as one).
    ///
    /// `None` where lseek(2) says ENXIO: `offset` is past the end, or no data follows.
    pub fn seek(&self, ino: Ino, offset: u64, whence: Whence) -> Result<Option<u64>, TreeError> {
        let mut position = offset;
        loop {
            match (self.tree.segment(ino, position)?, whence) {
                (Segment::Data { .. }, Whence::Data) | (Segment::Hole { .. }, Whence::Hole) => {
                    return Ok(Some(position));
                }
                (Segment::Data { len, .. }, Whence::Hole) | (Segment::Hole { len }, Whence::Data) => {
                    position = position.checked_add(len).ok_or(TreeError::Corrupt("an extent past 2^64"))?;
                }
                (Segment::End, Whence::Hole) if position > offset => return Ok(Some(position)),
                (Segment::End, _) => return Ok(None),
            }
        }
    }
}

/// What stands at `offset` of a sparse file that goes on for `left` bytes; `extent(i)` is the i-th of `count`.
pub(super) fn sparse_segment(
    count: usize,
    extent: impl Fn(usize) -> Option<Extent>,
    offset: u64,
    left: u64,
) -> Segment {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        match extent(middle) {
            Some(e) if e.offset.saturating_add(e.len) <= offset => low = middle + 1,
            _ => high = middle,
        }
    }
    match extent(low).filter(|_| low < count) {
        Some(e) if e.offset <= offset => {
            let inside = offset - e.offset;
            Segment::Data {
                at: e.at.saturating_add(inside),
                len: e.len.saturating_sub(inside).min(left).max(1),
            }
        }
        Some(e) => Segment::Hole { len: (e.offset - offset).min(left).max(1) },
        None => Segment::Hole { len: left },
    }
}

fn clamp(len: u64, room: usize) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX).min(room)
}
