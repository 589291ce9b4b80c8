//! Where an image's files lie: beneath a directory, in an archive, in a registry.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::error::OciError;
use super::spec::{Descriptor, MAX_DOCUMENT};
use crate::compress::Compression;
use crate::image::Digest;
use crate::progress::Progress;
use crate::registry::{self, RegistryError};

/// Where the files of an image lie, by names that never lead out of it.
///
/// A blob is called as in a layout, `blobs/sha256/HEX`, wherever it lies; everything else as an archive calls it.
pub(super) trait Store: fmt::Debug + Send + Sync {
    /// The file of that name, of which so many bytes are declared, where that is so. One of another size is an error, unless
    /// that can only be seen by reading it.
    fn section(&self, name: &str, size: Option<u64>) -> Result<Section, OciError>;

    /// Whether a blob is there, be it right or wrong.
    fn has(&self, digest: &Digest) -> bool {
        !matches!(self.section(&blob_name(digest), None), Err(OciError::Missing(_)))
    }

    /// What a descriptor points to, of at most [`MAX_DOCUMENT`] bytes. Nothing of it is verified.
    fn described(&self, name: &str, descriptor: &Descriptor) -> Result<Vec<u8>, OciError> {
        self.section(name, Some(descriptor.size))?.document()
    }

    /// Whether a look at a document costs next to nothing.
    fn is_at_hand(&self) -> bool {
        true
    }

    /// The file of the user's that all of it was unpacked from, if that was so.
    fn unpacked_from(&self) -> Option<&File> {
        None
    }
}

/// An image layout's directory.
#[derive(Debug)]
pub(super) struct Directory(OwnedFd);

impl Directory {
    pub(super) fn open(path: &Path) -> Result<Directory, OciError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Directory(fd)),
            Err(Errno::NOTDIR) => {
                Err(OciError::WrongTransport { path: path.to_owned(), wanted: "directory" })
            }
            Err(e) => Err(OciError::Io { doing: "open", path: path.to_owned(), source: e.into() }),
        }
    }
}

impl Store for Directory {
    fn section(&self, name: &str, size: Option<u64>) -> Result<Section, OciError> {
        beneath(&self.0, name)?.expect_size(size)
    }
}

/// A whole file of at most [`MAX_DOCUMENT`] bytes.
pub(super) fn document(store: &dyn Store, name: &str) -> Result<Vec<u8>, OciError> {
    store.section(name, None)?.document()
}

/// Whether a blob is not compressed.
pub(super) fn is_plain(store: &dyn Store, name: &str) -> bool {
    let mut start = [0; Compression::MAGIC];
    let Ok(section) = store.section(name, None) else { return false };
    let n = section.reader().read(&mut start).unwrap_or(0);
    n > 0 && Compression::of(&start[..n]) == Compression::None
}

/// The document that a descriptor points to, its size and digest verified, and its name.
pub(super) fn verified(
    store: &dyn Store,
    descriptor: &Descriptor,
    within: &str,
) -> Result<(Vec<u8>, String, Digest), OciError> {
    let digest = descriptor.digest(within)?;
    let name = blob_name(&digest);
    if descriptor.size > MAX_DOCUMENT {
        return Err(OciError::TooLarge { blob: name, size: descriptor.size, limit: MAX_DOCUMENT });
    }
    let bytes = store.described(&name, descriptor)?;
    if bytes.len() as u64 != descriptor.size {
        let (expected, found) = (descriptor.size, bytes.len() as u64);
        return Err(OciError::WrongSize { blob: name, expected, found });
    }
    let found = sha256(&bytes);
    if found != digest {
        return Err(OciError::WrongDigest { blob: name, expected: digest, found });
    }
    Ok((bytes, name, digest))
}

/// The name of a blob in an image layout.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

pub(super) fn sha256(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

/// Opens a file beneath a directory. Links are followed as long as they stay there; openat2(2), Linux 5.6.
fn beneath(root: &OwnedFd, name: &str) -> Result<Section, OciError> {
    let bad = |reason| OciError::BadPath { blob: name.to_owned(), reason };
    // Without NONBLOCK a FIFO would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let open = || loop {
        match rustix::fs::openat2(root, name, flags, Mode::empty(), resolve) {
            // Something was renamed meanwhile, or a signal came.
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    };
    let file = match open() {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT | Errno::NOTDIR) => return Err(OciError::Missing(name.to_owned())),
        Err(Errno::XDEV) => return Err(bad("leads out of the layout")),
        Err(Errno::LOOP) => return Err(bad("is a loop of links")),
        Err(e) => return Err(OciError::Io { doing: "open", path: name.into(), source: e.into() }),
    };
    let metadata =
        file.metadata().map_err(|source| OciError::Io { doing: "read", path: name.into(), source })?;
    if !metadata.is_file() {
        return Err(bad("is not a file"));
    }
    Ok(Section::new(Arc::new(file), 0, metadata.len(), name))
}

/// One file of an image: a stretch of an open file, or a blob that is elsewhere.
#[derive(Clone, Debug)]
pub(super) struct Section {
    bytes: Bytes,
    size: u64,
    name: String,
}

#[derive(Clone, Debug)]
enum Bytes {
    File { file: Arc<File>, offset: u64 },
    Remote { blob: registry::Blob, progress: Arc<Progress> },
}

impl Section {
    pub(super) fn new(file: Arc<File>, offset: u64, size: u64, name: &str) -> Section {
        Section { bytes: Bytes::File { file, offset }, size, name: name.to_owned() }
    }

    /// A blob of a registry; `progress` counts its bytes as they come.
    pub(super) fn remote(blob: registry::Blob, name: &str, progress: &Arc<Progress>) -> Section {
        let size = blob.size();
        Section { bytes: Bytes::Remote { blob, progress: Arc::clone(progress) }, size, name: name.to_owned() }
    }

    /// Bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn expect_size(self, expected: Option<u64>) -> Result<Section, OciError> {
        match expected {
            Some(expected) if expected != self.size => {
                Err(OciError::WrongSize { blob: self.name, expected, found: self.size })
            }
            _ => Ok(self),
        }
    }

    /// All of it, if that is at most [`MAX_DOCUMENT`] bytes.
    pub(super) fn document(self) -> Result<Vec<u8>, OciError> {
        if self.size > MAX_DOCUMENT {
            return Err(OciError::TooLarge { blob: self.name, size: self.size, limit: MAX_DOCUMENT });
        }
        let name = self.name.clone();
        let mut bytes = Vec::new();
        match self.reader().read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) => Err(failed(&name, error)),
        }
    }

    /// Reads it from its start.
    pub(super) fn reader(self) -> SectionReader {
        let Section { bytes, size, name } = self;
        let source = match bytes {
            Bytes::File { file, offset } => Source::File { file, offset, position: 0 },
            Bytes::Remote { blob, progress } => {
                Source::Remote { reader: Box::new(blob.read(0..size)), progress }
            }
        };
        SectionReader { source, size, name }
    }
}

/// Reads a section from its start. One that ends early is an error, never an end of file.
#[derive(Debug)]
pub(super) struct SectionReader {
    source: Source,
    size: u64,
    name: String,
}

#[derive(Debug)]
enum Source {
    File { file: Arc<File>, offset: u64, position: u64 },
    Remote { reader: Box<registry::BlobReader>, progress: Arc<Progress> },
}

impl Read for SectionReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let SectionReader { source, size, name } = self;
        match source {
            Source::File { file, offset, position } => {
                let n = usize::try_from(*size - *position).unwrap_or(usize::MAX).min(buf.len());
                if n == 0 {
                    return Ok(0);
                }
                match file.read_at(&mut buf[..n], *offset + *position) {
                    Ok(0) => {
                        let (blob, expected, found) = (name.clone(), *size, *position);
                        Err(OciError::WrongSize { blob, expected, found }.into())
                    }
                    Ok(n) => {
                        *position += n as u64;
                        Ok(n)
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
                    Err(e) => Err(failed(name, e).into()),
                }
            }
            Source::Remote { reader, progress } => match reader.read(buf) {
                Ok(n) => {
                    progress.add_bytes(n as u64);
                    Ok(n)
                }
                Err(e) => Err(failed(name, e).into()),
            },
        }
    }
}

/// The error that an [`io::Error`] carries, or else that of a file.
fn failed(name: &str, error: io::Error) -> OciError {
    match error.downcast::<OciError>() {
        Ok(error) => error,
        Err(error) => match error.downcast::<RegistryError>() {
            Ok(error) => error.into(),
            Err(source) => OciError::Io { doing: "read", path: name.into(), source },
        },
    }
}
