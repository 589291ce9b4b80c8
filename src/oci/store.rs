//! Where an image's files lie: beneath a directory, or in an archive.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::archive::Archive;
use super::error::OciError;
use super::spec::{Descriptor, MAX_DOCUMENT};
use crate::compress::Compression;
use crate::image::Digest;

/// The files of an image, by names that never lead out of it.
#[derive(Debug)]
pub(super) enum Store {
    Directory(OwnedFd),
    Archive(Archive),
}

impl Store {
    pub(super) fn directory(path: &Path) -> Result<Store, OciError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Store::Directory(fd)),
            Err(Errno::NOTDIR) => {
                Err(OciError::WrongTransport { path: path.to_owned(), wanted: "directory" })
            }
            Err(e) => Err(OciError::Io { doing: "open", path: path.to_owned(), source: e.into() }),
        }
    }

    /// The file of that name. Its size is what the file has, not yet what anyone promised.
    pub(super) fn section(&self, name: &str) -> Result<Section, OciError> {
        match self {
            Store::Archive(archive) => archive.section(name),
            Store::Directory(root) => beneath(root, name),
        }
    }

    /// Whether a blob is there, be it right or wrong.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        !matches!(self.section(&blob_name(digest)), Err(OciError::Missing(_)))
    }

    /// Whether a blob is not compressed.
    pub(super) fn is_plain(&self, name: &str) -> bool {
        let mut start = [0; Compression::MAGIC];
        let Ok(section) = self.section(name) else { return false };
        let n = section.reader().read(&mut start).unwrap_or(0);
        n > 0 && Compression::of(&start[..n]) == Compression::None
    }

    /// A whole file of at most [`MAX_DOCUMENT`] bytes.
    pub(super) fn document(&self, name: &str) -> Result<Vec<u8>, OciError> {
        let section = self.section(name)?;
        if section.size() > MAX_DOCUMENT {
            return Err(OciError::TooLarge {
                blob: name.to_owned(),
                size: section.size(),
                limit: MAX_DOCUMENT,
            });
        }
        let mut bytes = Vec::new();
        let mut reader = section.reader();
        reader.read_to_end(&mut bytes).map_err(|e| reader.section.failed(e))?;
        Ok(bytes)
    }

    /// The document that a descriptor points to, its size and digest verified, and its name.
    pub(super) fn verified(
        &self,
        descriptor: &Descriptor,
        within: &str,
    ) -> Result<(Vec<u8>, String, Digest), OciError> {
        let digest = descriptor.digest(within)?;
        let name = blob_name(&digest);
        if descriptor.size > MAX_DOCUMENT {
            return Err(OciError::TooLarge { blob: name, size: descriptor.size, limit: MAX_DOCUMENT });
        }
        self.section(&name)?.expect_size(descriptor.size)?;
        let bytes = self.document(&name)?;
        let found = sha256(&bytes);
        if found != digest {
            return Err(OciError::WrongDigest { blob: name, expected: digest, found });
        }
        Ok((bytes, name, digest))
    }
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

/// A stretch of an open file: one file of the image.
#[derive(Clone, Debug)]
pub(super) struct Section {
    file: Arc<File>,
    offset: u64,
    size: u64,
    name: String,
}

impl Section {
    pub(super) fn new(file: Arc<File>, offset: u64, size: u64, name: &str) -> Section {
        Section { file, offset, size, name: name.to_owned() }
    }

    /// Bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn expect_size(&self, expected: u64) -> Result<(), OciError> {
        if self.size == expected {
            return Ok(());
        }
        Err(OciError::WrongSize { blob: self.name.clone(), expected, found: self.size })
    }

    pub(super) fn reader(self) -> SectionReader {
        SectionReader { section: self, position: 0 }
    }

    fn failed(&self, error: io::Error) -> OciError {
        match error.downcast::<OciError>() {
            Ok(error) => error,
            Err(source) => OciError::Io { doing: "read", path: self.name.as_str().into(), source },
        }
    }
}

/// Reads a section from its start. One that ends early is an error, never an end of file.
#[derive(Debug)]
pub(super) struct SectionReader {
    section: Section,
    position: u64,
}

impl Read for SectionReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Section { file, offset, size, name } = &self.section;
        let left = size - self.position;
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        if n == 0 {
            return Ok(0);
        }
        match file.read_at(&mut buf[..n], offset + self.position) {
            Ok(0) => {
                let blob = name.clone();
                Err(OciError::WrongSize { blob, expected: *size, found: self.position }.into())
            }
            Ok(n) => {
                self.position += n as u64;
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => Err(self.section.failed(e).into()),
        }
    }
}
