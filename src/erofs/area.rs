//! A part of the file, written from its front to its end while other parts are written too.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What is gathered before it is written, in bytes.
const BUFFER: usize = 1 << 18;

/// Zeros that are passed over, not written: at least so many at once.
const HOLE: u64 = 1 << 16;

/// Bytes on their way to a place in the file that moves on with them. What is passed over reads as zeros.
pub(super) struct Area<'f> {
    file: &'f File,
    /// Where the first byte of the buffer goes.
    start: u64,
    buffer: Vec<u8>,
}

impl<'f> Area<'f> {
    pub(super) fn new(file: &'f File, start: u64) -> Area<'f> {
        Area { file, start, buffer: Vec::with_capacity(BUFFER) }
    }

    /// Where the next byte goes.
    pub(super) fn position(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() >= BUFFER {
            self.file.write_all_at(bytes, self.start)?;
            self.start += bytes.len() as u64;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// Goes on at `position`, which is not behind it.
    pub(super) fn pass_to(&mut self, position: u64) -> io::Result<()> {
        let gap = position
            .checked_sub(self.position())
            .ok_or_else(|| io::Error::other("a part of the image is longer than it was measured"))?;
        if gap >= HOLE {
            self.flush()?;
            self.start = position;
        } else {
            self.buffer.resize(self.buffer.len() + gap as usize, 0);
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.start)?;
        self.start += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
