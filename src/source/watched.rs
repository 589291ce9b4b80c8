//! A stream that tells how far it has come.

use std::io::{self, BufRead, Read};
use std::sync::Arc;

use crate::index::Grower;
use crate::progress::Progress;
use crate::tarfile::{FileInput, TarInput};

/// Counts the bytes of a stream, and ends it with an error once the task is cancelled.
pub(super) struct Watched<R> {
    inner: R,
    progress: Arc<Progress>,
    grower: Option<Grower>,
    /// Whether its bytes are counted elsewhere.
    counted: bool,
}

impl<R> Watched<R> {
    pub fn new(inner: R, progress: &Arc<Progress>) -> Watched<R> {
        Watched { inner, progress: Arc::clone(progress), grower: None, counted: false }
    }

    /// As [`Watched::new`], for the stream that fills a filesystem: those that wait in it are told that it moves.
    pub fn filling(inner: R, progress: &Arc<Progress>, grower: &Grower) -> Watched<R> {
        Watched { grower: Some(grower.clone()), ..Watched::new(inner, progress) }
    }

    /// As [`Watched::new`], for a stream whose bytes are counted before they are unpacked.
    pub fn counted(inner: R, progress: &Arc<Progress>, grower: Option<&Grower>) -> Watched<R> {
        Watched { grower: grower.cloned(), counted: true, ..Watched::new(inner, progress) }
    }
}

impl<R: BufRead> Read for Watched<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Watched<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.progress.check().map_err(io::Error::other)?;
        let here = self.inner.fill_buf()?;
        if let Some(grower) = &self.grower {
            grower.alive();
        }
        Ok(here)
    }

    fn consume(&mut self, n: usize) {
        if !self.counted {
            self.progress.add_bytes(n as u64);
        }
        self.inner.consume(n);
    }
}

impl TarInput for Watched<FileInput<'_>> {
    fn skip(&mut self, n: u64) -> io::Result<u64> {
        self.progress.check().map_err(io::Error::other)?;
        let passed = self.inner.skip(n)?;
        self.progress.add_bytes(passed);
        Ok(passed)
    }
}
