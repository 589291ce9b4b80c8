//! Data files: the seekable files that hold the bytes of a tree's files.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::{Timestamp, TreeError};

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
