//! One layer as the tar that it is, verified while it is read.

use std::io::{self, BufRead, Read};

use sha2::{Digest as _, Sha256};

use super::error::OciError;
use super::store::{Section, SectionReader};
use crate::compress::{Limits, Unpacker};
use crate::image::Digest;

/// The uncompressed tar of a layer.
///
/// What comes out is verified only when the end of file is reported: whoever uses it must read on to `Ok(0)`
/// (a tar reader may stop before that; [`finish`](LayerStream::finish) reads the rest) and throw away what was
/// made of it on any error. The errors are [`OciError`]s; [`OciError::of`] takes them out of the [`io::Error`].
pub struct LayerStream {
    unpacker: Unpacker<Hashed>,
    unpacked: Sha256,
    blob: String,
    digest: Option<Digest>,
    diff_id: Digest,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    verified: bool,
}

impl LayerStream {
    /// `digest` is that of the blob as it is stored, where one is declared.
    pub(super) fn new(
        section: Section,
        digest: Option<Digest>,
        diff_id: Digest,
        limits: Limits,
    ) -> Result<LayerStream, OciError> {
        let blob = section.name().to_owned();
        let hashed = Hashed { reader: section.reader(), hash: digest.map(|_| Sha256::new()) };
        let mut unpacker = Unpacker::new(hashed, limits).map_err(|e| OciError::of_stream(&blob, e))?;
        if unpacker.is_plain() {
            // What is stored is what comes out: one hash does for both.
            unpacker.source_mut().hash = None;
        }
        Ok(LayerStream {
            unpacker,
            unpacked: Sha256::new(),
            blob,
            digest,
            diff_id,
            buffer: vec![0; 128 << 10].into(),
            start: 0,
            end: 0,
            verified: false,
        })
    }

    /// Reads what is left, and verifies the whole.
    pub fn finish(mut self) -> Result<(), OciError> {
        loop {
            let n = match self.fill_buf() {
                Ok([]) => return Ok(()),
                Ok(bytes) => bytes.len(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
                Err(e) => return Err(OciError::of_stream(&self.blob, e)),
            };
            self.consume(n);
        }
    }

    /// Called at the end of the unpacked stream, and again if the caller reads on after an error.
    fn verify(&mut self) -> io::Result<()> {
        self.unpacker.drain()?;
        let digest = |hash: &Sha256| Digest::from_bytes(hash.clone().finalize().into());
        let blob = || self.blob.clone();
        let unpacked = digest(&self.unpacked);
        let stored = self.unpacker.source().hash.as_ref().map_or(unpacked, digest);
        match self.digest {
            Some(expected) if expected != stored => {
                return Err(OciError::WrongDigest { blob: blob(), expected, found: stored }.into());
            }
            _ => {}
        }
        if unpacked != self.diff_id {
            let (expected, found) = (self.diff_id, unpacked);
            return Err(OciError::WrongDiffId { blob: blob(), expected, found }.into());
        }
        self.verified = true;
        Ok(())
    }
}

impl BufRead for LayerStream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end && !self.verified {
            let n = match self.unpacker.read(&mut self.buffer) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                    return Err(OciError::of_stream(&self.blob, e).into());
                }
                read => read?,
            };
            (self.start, self.end) = (0, n);
            self.unpacked.update(&self.buffer[..n]);
            if n == 0 {
                self.verify()?;
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, n: usize) {
        self.start = self.end.min(self.start.saturating_add(n));
    }
}

impl Read for LayerStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let available = self.fill_buf()?;
        let n = available.len().min(buf.len());
        buf[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

/// The blob as it is stored, hashed as it is read where that is asked for.
struct Hashed {
    reader: SectionReader,
    hash: Option<Sha256>,
}

impl Read for Hashed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buf)?;
        if let Some(hash) = &mut self.hash {
            hash.update(&buf[..n]);
        }
        Ok(n)
    }
}
