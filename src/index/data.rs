//! Data files: the seekable files that hold the bytes of a tree's files.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use super::external::{ExternalRuns, Run};
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

/// The seekable file that holds the bytes of a layer's files, together with what is [set apart](ExternalRuns) of them: an offset
/// counts as if all of them stood in one file.
#[derive(Debug)]
pub struct DataFile {
    file: File,
    external: ExternalRuns,
    pinned: Option<FileIdentity>,
}

impl DataFile {
    /// A file that nobody else writes: one of the cache's own.
    pub fn owned(file: File) -> DataFile {
        DataFile::parted(file, ExternalRuns::default())
    }

    /// One of the cache's own, beside which some runs of bytes stand in files of their own.
    pub fn parted(file: File, external: ExternalRuns) -> DataFile {
        DataFile { file, external, pinned: None }
    }

    /// A file of the user's, served in place: every read checks that it is still what was indexed.
    pub fn borrowed(file: File, identity: FileIdentity) -> DataFile {
        DataFile { pinned: Some(identity), ..DataFile::owned(file) }
    }

    /// The file itself, without what is set apart.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether it is a file of the user's, which may be changed at any time.
    pub fn is_borrowed(&self) -> bool {
        self.pinned.is_some()
    }

    /// What stands in files of its own.
    pub fn external(&self) -> &ExternalRuns {
        &self.external
    }

    /// The file that holds the `len` bytes from byte `at` on and no others, if there is one.
    pub fn file_of(&self, at: u64, len: u64) -> Option<Arc<File>> {
        self.external.file_of(Run { at, len })
    }

    /// Fills `buf` from byte `at`.
    pub fn read_exact_at(&self, buf: &mut [u8], at: u64) -> Result<(), ReadError> {
        let mut done = 0;
        while done < buf.len() {
            let place = self.external.place(at.saturating_add(done as u64));
            let file = place.file.as_deref().unwrap_or(&self.file);
            let room = clamp(place.left, buf.len() - done);
            match file.read_at(&mut buf[done..done + room], place.at) {
                Ok(0) => return Err(ReadError::Short { wanted: at.saturating_add(done as u64) }),
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

    /// Writes from byte `at` on, and says how many of the bytes it wrote.
    pub fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        let place = self.external.place(at);
        let room = clamp(place.left, bytes.len());
        place.file.as_deref().unwrap_or(&self.file).write_at(&bytes[..room], place.at)
    }

    /// Adds zeros from byte `at` on, behind which there is nothing, without storing them. Says how many of them it added.
    pub fn append_hole(&self, len: usize, at: u64) -> io::Result<usize> {
        let place = self.external.place(at);
        let room = clamp(place.left, len);
        let end = place.at.saturating_add(room as u64);
        place.file.as_deref().unwrap_or(&self.file).set_len(end).map(|()| room)
    }

    /// Writes all bytes from byte `at` on.
    pub fn write_all_at(&self, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    bytes = &bytes[n..];
                    at += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Takes back everything after the first `size` bytes, and with it the runs that begin there.
    ///
    /// # Errors
    /// `InvalidInput` if that is within a run: one is taken back as a whole.
    pub fn truncate(&self, size: u64) -> io::Result<()> {
        self.external.forget_from(size);
        match self.external.place(size) {
            place if place.file.is_some() => Err(io::ErrorKind::InvalidInput.into()),
            place => self.file.set_len(place.at),
        }
    }

    /// Gives back what all of it takes on the disk, whoever has it open: reads come to the end too soon from now on.
    pub fn discard(&self) -> io::Result<()> {
        self.external.list().iter().try_for_each(|(_, file)| file.set_len(0))?;
        self.file.set_len(0)
    }

    /// The same files.
    pub fn try_clone(&self) -> io::Result<DataFile> {
        Ok(DataFile { file: self.file.try_clone()?, external: self.external.clone(), pinned: self.pinned })
    }

    /// Returns when all that was written is on the disk.
    pub fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()?;
        self.external.list().iter().try_for_each(|(_, file)| file.sync_all())
    }
}

fn clamp(left: u64, room: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(room)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `0123456789abcdefghij`, of which `3456` and `cdef` stand apart.
    fn parted() -> DataFile {
        let data = DataFile::owned(tempfile::tempfile().unwrap());
        for run in [Run { at: 3, len: 4 }, Run { at: 12, len: 4 }] {
            assert!(data.external().add(run, tempfile::tempfile().unwrap()));
        }
        data.write_all_at(b"0123456789abcdefghij", 0).unwrap();
        data
    }

    fn read(data: &DataFile, at: usize, len: usize) -> Result<Vec<u8>, ReadError> {
        let mut buf = vec![0; len];
        data.read_exact_at(&mut buf, at as u64).map(|()| buf)
    }

    #[test]
    fn what_stands_apart_is_read_in_its_place() {
        let (data, whole) = (parted(), b"0123456789abcdefghij");
        for at in 0..whole.len() {
            for len in 0..=whole.len() - at {
                assert_eq!(read(&data, at, len).unwrap(), whole[at..at + len], "{len} bytes at {at}");
            }
        }
        assert!(matches!(read(&data, 18, 3), Err(ReadError::Short { wanted: 20 })));
        let own = data.file_of(12, 4).unwrap();
        let mut begin = [0; 4];
        own.read_exact_at(&mut begin, 0).unwrap();
        assert_eq!(&begin, b"cdef");
        assert_eq!(own.metadata().unwrap().len(), 4);
        for (at, len) in [(12, 3), (13, 3), (0, 20), (11, 5)] {
            assert!(data.file_of(at, len).is_none(), "{len} bytes at {at}");
        }
    }

    #[test]
    fn a_file_that_is_too_short_is_no_content() {
        let data = parted();
        data.file_of(3, 4).unwrap().set_len(2).unwrap();
        assert_eq!(read(&data, 0, 5).unwrap(), b"01234");
        assert!(matches!(read(&data, 0, 6), Err(ReadError::Short { wanted: 5 })));
    }

    #[test]
    fn what_is_taken_back_is_written_anew() {
        let data = parted();
        assert!(data.truncate(5).is_err(), "in the middle of a run");
        data.truncate(12).unwrap();
        assert!(data.file_of(3, 4).is_some() && data.file_of(12, 4).is_none());
        assert!(matches!(read(&data, 12, 1), Err(ReadError::Short { .. })));
        data.write_all_at(b"XYZ", 12).unwrap();
        assert_eq!(read(&data, 0, 15).unwrap(), b"0123456789abXYZ");
    }
}
