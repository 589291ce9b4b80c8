//! Reading one file from its beginning.

use std::io::Read as _;
use std::ops::Range;

use super::GatewayError;
use super::error::to_path;
use super::wait::Question;
use crate::index::{Ino, TreeError, Whence};
use crate::source::Fetched;

/// The bytes of one regular file, from the first on.
pub struct FileReader<'a> {
    bytes: Bytes<'a>,
    size: u64,
    position: u64,
}

enum Bytes<'a> {
    Mount(Question<'a>, Ino),
    /// Of a file that was fetched alone.
    Stream(Question<'a>, Box<Fetched>),
}

impl<'a> FileReader<'a> {
    pub(super) fn new(question: Question<'a>, ino: Ino, size: u64) -> FileReader<'a> {
        FileReader { bytes: Bytes::Mount(question, ino), size, position: 0 }
    }

    pub(super) fn of_stream(question: Question<'a>, stream: Box<Fetched>, size: u64) -> FileReader<'a> {
        FileReader { bytes: Bytes::Stream(question, stream), size, position: 0 }
    }

    /// The file's length in bytes, holes included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads at most as many bytes as `buf` holds; 0 only at the end.
    ///
    /// # Errors
    /// Nothing comes any more, or what comes is damaged.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize, GatewayError> {
        let n = match &mut self.bytes {
            Bytes::Mount(question, ino) => {
                let (ino, position) = (*ino, self.position);
                question.ask(|filesystem| filesystem.read(ino, position, buf))?
            }
            Bytes::Stream(question, stream) => {
                let read = stream.read(buf);
                // Looked at afterwards, for a stream of what was cancelled has been hung up.
                question.progress.check()?;
                read.map_err(|error| GatewayError::Stream { path: to_path(&question.path), error })?
            }
        };
        self.position += n as u64;
        Ok(n)
    }

    /// Passes over a hole, if there is one here, and tells which bytes from there on are stored: none at the end.
    ///
    /// # Errors
    /// The source is damaged.
    pub fn next_data(&mut self) -> Result<Range<u64>, GatewayError> {
        let run = match &self.bytes {
            Bytes::Stream(..) => self.position..self.size,
            Bytes::Mount(question, ino) => {
                let seek = |from, whence| match question.filesystem.seek(*ino, from, whence) {
                    Ok(found) => Ok(Some(found.unwrap_or(self.size).min(self.size))),
                    // What has been fetched alone can be read, though nobody knows of its holes.
                    Err(TreeError::NotYet) => Ok(None),
                    Err(error) => Err(question.error(error)),
                };
                let start = seek(self.position, Whence::Data)?.unwrap_or(self.position);
                start..seek(start, Whence::Hole)?.unwrap_or(self.size)
            }
        };
        self.position = self.position.max(run.start);
        Ok(run)
    }

    /// Goes on from byte `position`.
    pub(super) fn seek(&mut self, position: u64) -> Result<(), GatewayError> {
        match &self.bytes {
            Bytes::Mount(..) => self.position = position,
            Bytes::Stream(..) => {
                let mut passed = [0; 4096];
                while self.position < position {
                    let left = usize::try_from(position - self.position).unwrap_or(usize::MAX);
                    let room = left.min(passed.len());
                    if self.read(&mut passed[..room])? == 0 {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads at most `length` bytes, to the end of the file if there are not as many.
    pub(super) fn read_some(mut self, length: usize) -> Result<Vec<u8>, GatewayError> {
        let mut bytes = vec![0; length];
        let mut done = 0;
        while done < length {
            match self.read(&mut bytes[done..])? {
                0 => break,
                n => done += n,
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }
}
