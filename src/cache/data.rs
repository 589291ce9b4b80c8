//! The data that an entry has itself: how it is written, checked and opened.
//!
//! It is a tar as it came, in the file `data`, but for the content of large members: the n-th of these is in `data-<n>`.

use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;

use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use super::CacheError;
use super::dir::{Dir, is_private};
use super::meta::{DATA, Damage, Fault, Part};
use crate::index::{DataFile, ExternalRuns, ReadError, Run};
use crate::sparse_file::FirstRun;

/// How long a member's content is, in bytes, that gets a file of its own. The kernel can read such a file itself, which saves
/// 0.2 s a GiB (`docs/performance.md`): with a shorter one nobody would notice.
const LARGE: u64 = 64 << 20;

/// How many members get a file of their own. Each is open for as long as the entry is in use.
const MAX_EXTERNAL: usize = 64;

/// The data of an entry, as its metadata has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OwnData {
    /// The whole tar, wherever its bytes stand.
    #[serde(flatten)]
    pub whole: Part,
    /// What of it stands in files of its own, in this order.
    #[serde(rename = "apart", default, skip_serializing_if = "Vec::is_empty")]
    pub external: Vec<Run>,
}

/// The name of the file for the n-th run that is set apart, counted from 1.
fn external_name(number: usize) -> String {
    format!("{DATA}-{number}")
}

/// How many bytes of data have been written in `dir`, as far as its files tell.
pub(super) fn bytes_in(dir: &Dir) -> Result<u64, CacheError> {
    let mut total: u64 = 0;
    for name in std::iter::once(DATA.to_owned()).chain((1..).map(external_name)) {
        let Some(stat) = dir.stat_at(name)? else { break };
        total = total.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
    }
    Ok(total)
}

impl OwnData {
    /// The names of its files, and how long each has to be; `None` if the one contradicts the other.
    fn files(&self) -> Option<Vec<(String, u64)>> {
        let mut files = vec![(DATA.to_owned(), self.whole.size)];
        for (run, number) in self.external.iter().zip(1..) {
            files.push((external_name(number), run.len));
            let (_, rest) = files.first_mut()?;
            *rest = rest.checked_sub(run.len)?;
        }
        Some(files)
    }

    /// Checks what can be checked without reading it.
    pub(super) fn check(&self, dir: &Dir) -> Result<(), Fault> {
        for (name, size) in self.files().ok_or(Damage::Metadata)? {
            let stat = dir.stat_at(&name)?.ok_or(Damage::DataSize(size))?;
            if !is_private(&stat) {
                return Err(Damage::Exposed.into());
            }
            if !FileType::from_raw_mode(stat.st_mode).is_file() || u64::try_from(stat.st_size) != Ok(size) {
                return Err(Damage::DataSize(size).into());
            }
        }
        Ok(())
    }

    /// Opens it for reading.
    pub(super) fn open(&self, dir: &Dir) -> Result<DataFile, CacheError> {
        let external = ExternalRuns::default();
        for (run, number) in self.external.iter().zip(1..) {
            let name = external_name(number);
            if !external.add(*run, dir.existing_file(&name)?) {
                return Err(dir.error("read", &name, io::Error::other(Damage::Metadata)));
            }
        }
        Ok(DataFile::parted(dir.existing_file(DATA)?, external))
    }

    /// Reads all of it, and compares it with what was written.
    pub(super) fn verify(&self, dir: &Dir) -> Result<(), Fault> {
        match checksum(&self.open(dir)?, self.whole.size) {
            Ok(hash) if hash.clone().finalize() == self.whole.crc32 => Ok(()),
            Ok(_) | Err(ReadError::Short { .. }) => Err(Damage::DataChecksum.into()),
            Err(ReadError::Io(e)) => Err(dir.error("read", DATA, e).into()),
            Err(e) => Err(dir.error("read", DATA, io::Error::other(e)).into()),
        }
    }
}

/// The checksum of the first `size` bytes.
fn checksum(data: &DataFile, size: u64) -> Result<crc32fast::Hasher, ReadError> {
    let (mut hash, mut buffer, mut at) = (crc32fast::Hasher::new(), vec![0; 1 << 18], 0);
    while at < size {
        let room = buffer.len().min(usize::try_from(size - at).unwrap_or(usize::MAX));
        let piece = buffer.get_mut(..room).unwrap_or_default();
        data.read_exact_at(piece, at)?;
        hash.update(piece);
        at += room as u64;
    }
    Ok(hash)
}

/// Writes the data of an entry, and computes its checksum on the way.
///
/// Its errors carry a [`CacheError`], which [`CacheError::within`] takes out again.
#[derive(Debug)]
pub struct DataWriter {
    dir: Arc<Dir>,
    data: DataFile,
    size: u64,
    hash: crc32fast::Hasher,
}

/// The data of an entry, when all of it was written.
#[derive(Debug)]
pub struct Written {
    pub(super) data: DataFile,
    pub(super) own: OwnData,
}

impl DataWriter {
    /// Makes the data file in `dir`. What is set apart is added to `apart`.
    pub(super) fn new(dir: &Arc<Dir>, external: &ExternalRuns) -> Result<DataWriter, CacheError> {
        let data = DataFile::parted(dir.make_file(DATA)?, external.clone());
        Ok(DataWriter { dir: Arc::clone(dir), data, size: 0, hash: crc32fast::Hasher::new() })
    }

    /// How many bytes have been written.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Puts `content`, a member's, into a file of its own if it is large. To be told as soon as it is known: what came
    /// together with the header has been written and is moved; what has been written as a whole stays where it is.
    pub fn set_apart(&mut self, content: Range<u64>) -> Result<(), CacheError> {
        let run = Run { at: content.start, len: content.end.saturating_sub(content.start) };
        let count = self.data.external().list().len();
        let begun = self.size.checked_sub(run.at).filter(|begun| *begun < run.len);
        if let Some(begun) = begun
            && run.len >= LARGE
            && count < MAX_EXTERNAL
        {
            let file = self.dir.make_file(&external_name(count + 1))?;
            let mut moved = vec![0; usize::try_from(begun).unwrap_or(usize::MAX)];
            self.data.read_exact_at(&mut moved, run.at).map_err(|e| self.error(io::Error::other(e)))?;
            self.data.truncate(run.at).map_err(|e| self.error(e))?;
            self.data.external().add(run, file);
            self.data.write_all_at(&moved, run.at).map_err(|e| self.error(e))?;
        }
        Ok(())
    }

    /// Takes back everything after the first `size` bytes, of which there must be as many. That must not be within a
    /// content that was [set apart](DataWriter::set_apart); one that begins there is so no more.
    pub fn rewind(&mut self, size: u64) -> Result<(), CacheError> {
        let before = self.data.external().list().len();
        self.data.truncate(size).map_err(|e| self.error(e))?;
        for number in self.data.external().list().len()..before {
            self.dir.remove_file(external_name(number + 1))?;
        }
        self.hash = checksum(&self.data, size).map_err(|e| self.error(io::Error::other(e)))?;
        self.size = size;
        Ok(())
    }

    /// What [gives back](DataFile::discard) the disk that it takes, where it comes to nothing.
    pub fn disk(&self) -> Result<DataFile, CacheError> {
        self.data.try_clone().map_err(|e| self.error(e))
    }

    /// Ends the data here.
    pub fn finish(self) -> Written {
        let external = self.data.external().list().into_iter().map(|(run, _)| run).collect();
        let whole = Part { size: self.size, crc32: self.hash.finalize() };
        Written { data: self.data, own: OwnData { whole, external } }
    }

    fn error(&self, source: io::Error) -> CacheError {
        self.dir.error("write", DATA, source)
    }
}

impl Write for DataWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match FirstRun::of(bytes, self.size) {
            FirstRun::Hole(len) => self.data.append_hole(len, self.size),
            FirstRun::Data(len) => self.data.write_at(&bytes[..len], self.size),
        };
        match written {
            Ok(n) => {
                self.hash.update(bytes.get(..n).unwrap_or_default());
                self.size += n as u64;
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => Err(io::Error::new(e.kind(), self.error(e))),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
