//! Where the scanner's bytes come from.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::FileExt;

/// The bytes of a tar archive, from the front.
pub trait TarInput: BufRead {
    /// Passes over `n` bytes, or fewer where the input ends before. Returns over how many.
    fn skip(&mut self, n: u64) -> io::Result<u64> {
        let mut left = n;
        while left > 0 {
            let here = match self.fill_buf() {
                Ok(bytes) => bytes.len(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            if here == 0 {
                break;
            }
            let step = here.min(usize::try_from(left).unwrap_or(usize::MAX));
            self.consume(step);
            left -= step as u64;
        }
        Ok(n - left)
    }
}

impl TarInput for &[u8] {}

/// Any stream, of which nothing is known but that it can be read.
pub struct Forward<R>(pub R);

impl<R: BufRead> Read for Forward<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl<R: BufRead> BufRead for Forward<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.0.consume(n);
    }
}

impl<R: BufRead> TarInput for Forward<R> {}

/// A tar that lies in a seekable file: contents are passed over without being read.
pub struct FileInput<'a> {
    file: &'a File,
    size: u64,
    /// Of the first byte that is not in the buffer.
    position: u64,
    buffer: Vec<u8>,
    range: std::ops::Range<usize>,
}

impl<'a> FileInput<'a> {
    /// Reads `file`, which is `size` bytes long, from its first byte.
    pub fn new(file: &'a File, size: u64) -> FileInput<'a> {
        FileInput { file, size, position: 0, buffer: vec![0; 256 * 1024], range: 0..0 }
    }
}

impl Read for FileInput<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let here = self.fill_buf()?;
        let n = here.len().min(buf.len());
        buf[..n].copy_from_slice(&here[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for FileInput<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.range.is_empty() {
            let wanted = usize::try_from(self.size.saturating_sub(self.position)).unwrap_or(usize::MAX);
            let wanted = wanted.min(self.buffer.len());
            let n = self.file.read_at(&mut self.buffer[..wanted], self.position)?;
            self.position += n as u64;
            self.range = 0..n;
        }
        Ok(&self.buffer[self.range.clone()])
    }

    fn consume(&mut self, n: usize) {
        self.range.start = (self.range.start + n).min(self.range.end);
    }
}

impl TarInput for FileInput<'_> {
    fn skip(&mut self, n: u64) -> io::Result<u64> {
        let buffered = self.range.len() as u64;
        if n <= buffered {
            self.consume(n as usize);
            return Ok(n);
        }
        self.range = 0..0;
        let further = (n - buffered).min(self.size.saturating_sub(self.position));
        self.position += further;
        Ok(buffered + further)
    }
}

/// A stream that is written to a data file as it is read: every byte once, before anyone sees it.
pub struct Tee<R, W> {
    from: R,
    to: W,
    /// How many bytes of the current buffer have been written.
    written: usize,
}

impl<R: BufRead, W: Write> Tee<R, W> {
    /// Copies what is read of `from` to `to`.
    pub fn new(from: R, to: W) -> Tee<R, W> {
        Tee { from, to, written: 0 }
    }

    /// Goes on with another stream.
    pub fn replace(&mut self, from: R) {
        self.from = from;
        self.written = 0;
    }

    /// The writer.
    pub fn writer_mut(&mut self) -> &mut W {
        &mut self.to
    }

    /// The writer, to which everything that was seen has been written.
    pub fn into_writer(self) -> W {
        self.to
    }
}

impl<R: BufRead, W: Write> Read for Tee<R, W> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let here = self.fill_buf()?;
        let n = here.len().min(buf.len());
        buf[..n].copy_from_slice(&here[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl<R: BufRead, W: Write> BufRead for Tee<R, W> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let here = self.from.fill_buf()?;
        if self.written < here.len() {
            self.to.write_all(&here[self.written..])?;
            self.written = here.len();
        }
        Ok(here)
    }

    fn consume(&mut self, n: usize) {
        self.written = self.written.saturating_sub(n);
        self.from.consume(n);
    }
}

impl<R: BufRead, W: Write> TarInput for Tee<R, W> {}
