//! Fills the cache: a tar stream goes in, a finished entry comes out. One pass, bounded memory.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::ops::ControlFlow;
use std::path::Path;

use super::{Context, Details, SourceError};
use crate::cache::{About, Claim, Content, Data, Entry, Filler};
use crate::index::scan::{self, EndMark, FileInput, Scanner, TarInput, Tee};
use crate::index::{FileIdentity, GrowingTree, Order, write_index};
use crate::progress::{Phase, Progress};

/// What is to be put into the cache.
pub(super) struct Job<'a> {
    /// The source, as the user spelled it.
    pub source: &'a OsStr,
    /// What is kept with the entry.
    pub details: Details,
    /// Paths that stay out: what a daemon adds to an image.
    pub leave_out: &'static [&'static [u8]],
    /// Told how far things are, and asked whether to go on.
    pub progress: &'a Progress,
}

/// The entry of `content`: found, or made by another process meanwhile, or made by `make`.
pub(super) fn claim(
    content: Content,
    context: &Context<'_>,
    make: impl FnOnce(Filler) -> Result<Entry, SourceError>,
) -> Result<Entry, SourceError> {
    let progress = context.progress;
    let claim = context.cache.fill(content, &mut |_| {
        progress.enter(Phase::Waiting);
        if progress.check().is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    match claim? {
        Claim::Entry(entry) => Ok(entry),
        Claim::Filler(filler) => make(filler),
    }
}

impl Job<'_> {
    /// Reads a stream to its end: the bytes go to the data file, the entries into a tree.
    pub fn fill_from_stream<R: BufRead>(
        self,
        filler: Filler,
        stream: R,
        end_mark: EndMark,
    ) -> Result<Entry, SourceError> {
        self.progress.enter(Phase::Reading);
        let stream = Watched { inner: stream, progress: self.progress };
        let mut scanner = Scanner::new(Tee::new(stream, filler.create_data()?), end_mark);
        let tree = self.grow(&mut scanner)?;
        let data = Data::Own(scanner.into_input().into_writer().finish());
        self.publish(filler, &tree, data)
    }

    /// Indexes a tar where it lies: its bytes are not copied.
    pub fn fill_in_place(
        self,
        filler: Filler,
        file: &File,
        path: &Path,
        identity: FileIdentity,
    ) -> Result<Entry, SourceError> {
        self.progress.enter(Phase::Reading);
        self.progress.expect_bytes(identity.size);
        let input = Watched { inner: FileInput::new(file, identity.size), progress: self.progress };
        let tree = self.grow(&mut Scanner::new(input, EndMark::Optional))?;
        if FileIdentity::of(file).map_err(|e| SourceError::read(path, e))? != identity {
            return Err(SourceError::ChangedMeanwhile(path.to_owned()));
        }
        self.publish(filler, &tree, Data::Borrowed { path: path.to_owned(), identity })
    }

    fn grow<R: TarInput>(&self, scanner: &mut Scanner<R>) -> Result<GrowingTree, SourceError> {
        let mut tree = GrowingTree::new(Order::Any);
        while let Some(entry) = scanner.next_entry().map_err(|e| self.scan_error(e))? {
            self.progress.add_entries(1);
            if !self.leave_out.contains(&entry.path.as_slice()) {
                tree.insert(entry).map_err(|e| SourceError::content(self.source, e))?;
            }
        }
        tree.finish().map_err(|e| SourceError::content(self.source, e))?;
        Ok(tree)
    }

    fn publish(self, filler: Filler, tree: &GrowingTree, data: Data) -> Result<Entry, SourceError> {
        self.progress.enter(Phase::Finishing);
        let index = filler.create_index()?;
        let summary = write_index(tree, filler.key().as_bytes(), index).map_err(|e| filler.index_error(e))?;
        let about = About {
            source: self.source.to_owned(),
            entries: summary.entries,
            bytes: summary.bytes,
            details: serde_json::to_value(self.details).unwrap_or_default(),
        };
        Ok(filler.publish(about, vec![data])?)
    }

    fn scan_error(&self, error: scan::ScanError) -> SourceError {
        match error {
            scan::ScanError::Io(error) => SourceError::stream(self.source, error),
            other => SourceError::content(self.source, other),
        }
    }
}

/// A stream that tells how far it has come, and ends with an error once the task is cancelled.
struct Watched<'a, R> {
    inner: R,
    progress: &'a Progress,
}

impl<R: BufRead> Read for Watched<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Watched<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.progress.check().map_err(io::Error::other)?;
        self.inner.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.progress.add_bytes(n as u64);
        self.inner.consume(n);
    }
}

impl TarInput for Watched<'_, FileInput<'_>> {
    fn skip(&mut self, n: u64) -> io::Result<()> {
        self.progress.check().map_err(io::Error::other)?;
        self.inner.skip(n)?;
        self.progress.add_bytes(n);
        Ok(())
    }
}
