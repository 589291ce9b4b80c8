//! The bytes of files that were fetched before the stream brought them, in a file that goes when nobody needs them.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// The longest file that is fetched alone, in bytes. The daemon answers nothing else meanwhile.
pub const MAX_FETCHED: u64 = 256 << 20;
/// What fetched files may take on the disk together, in bytes. What exceeds it is left to the stream.
const MAX_SPOOLED: u64 = 1 << 30;

/// What has been fetched, by path.
#[derive(Default)]
pub(super) struct Spool {
    /// Where it is; nothing can be fetched without.
    file: Option<Arc<File>>,
    end: u64,
    pieces: HashMap<Vec<u8>, Piece>,
}

/// One file's place in the spool.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    file: Arc<File>,
    at: u64,
    size: u64,
    /// How many of its bytes are there.
    arrived: u64,
}

impl Spool {
    pub fn store_in(&mut self, file: File) {
        self.file = Some(Arc::new(file));
    }

    pub fn get(&self, path: &[u8]) -> Option<&Piece> {
        self.pieces.get(path)
    }

    /// Makes room for a file's bytes. `None` if there is none, or if they are there or on their way.
    pub fn reserve(&mut self, path: &[u8], size: u64) -> Option<Piece> {
        let file = self.file.as_ref()?;
        let end = self.end.checked_add(size).filter(|&end| size <= MAX_FETCHED && end <= MAX_SPOOLED)?;
        if self.pieces.contains_key(path) {
            return None;
        }
        let piece = Piece { file: Arc::clone(file), at: self.end, size, arrived: 0 };
        self.end = end;
        self.pieces.insert(path.to_vec(), piece.clone());
        Some(piece)
    }

    /// So many bytes of a file have been written.
    pub fn arrived(&mut self, path: &[u8], arrived: u64) {
        if let Some(piece) = self.pieces.get_mut(path) {
            piece.arrived = arrived;
        }
    }

    /// Forgets all that has been fetched, and gives back what it takes on the disk.
    pub fn discard(&mut self) {
        if let Some(Err(error)) = self.file.take().map(|file| file.set_len(0)) {
            tracing::debug!("what was fetched ahead stays on the disk: {error}");
        }
        self.pieces.clear();
    }

    /// No more of a file comes. Returns whether all of it is there; what is not whole is forgotten.
    pub fn end(&mut self, path: &[u8]) -> bool {
        let whole = self.pieces.get(path).is_some_and(|piece| piece.missing() == 0);
        if !whole {
            self.pieces.remove(path);
        }
        whole
    }
}

impl Piece {
    /// How many bytes are missing.
    pub fn missing(&self) -> u64 {
        self.size - self.arrived
    }

    /// Writes the bytes that come next. More than there is room for are an error.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<u64> {
        if bytes.len() as u64 > self.missing() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.file.write_all_at(bytes, self.at + self.arrived)?;
        self.arrived += bytes.len() as u64;
        Ok(self.arrived)
    }

    /// Reads from byte `offset`; `None` if some of what was asked for has not come.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Option<io::Result<usize>> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = left.min(buf.len());
        let buf = &mut buf[..wanted];
        let has_come = wanted == 0 || offset + wanted as u64 <= self.arrived;
        has_come.then(|| self.file.read_exact_at(buf, self.at + offset).map(|()| wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_come_is_read_and_what_has_not_is_not() {
        let mut spool = Spool::default();
        assert!(spool.reserve(b"early", 1).is_none(), "there is no file yet");
        spool.store_in(tempfile::tempfile().unwrap());
        let mut other = spool.reserve(b"other", 3).unwrap();
        other.write(b"xyz").unwrap();
        let mut piece = spool.reserve(b"a", 10).unwrap();
        assert!(spool.reserve(b"a", 10).is_none(), "it is under way");
        spool.arrived(b"a", piece.write(b"0123").unwrap());
        let read = |spool: &Spool, offset, len| {
            let mut buf = vec![0; len];
            let n = spool.get(b"a").unwrap().read(offset, &mut buf)?.unwrap();
            Some(buf[..n].to_vec())
        };
        assert_eq!(read(&spool, 1, 3).unwrap(), b"123");
        assert_eq!(read(&spool, 1, 4), None);
        assert_eq!(read(&spool, 10, 4).unwrap(), b"", "the end is known");
        spool.arrived(b"a", piece.write(b"456789").unwrap());
        assert_eq!(read(&spool, 8, 40).unwrap(), b"89");
        assert!(piece.write(b"!").is_err(), "what follows belongs to another file");
        assert!(spool.end(b"a"));
        assert_eq!(read(&spool, 0, 2).unwrap(), b"01");
    }

    #[test]
    fn what_does_not_come_whole_is_forgotten_and_what_is_too_large_not_begun() {
        let mut spool = Spool::default();
        spool.store_in(tempfile::tempfile().unwrap());
        let mut piece = spool.reserve(b"a", 10).unwrap();
        spool.arrived(b"a", piece.write(b"0123").unwrap());
        assert!(!spool.end(b"a"));
        assert!(spool.get(b"a").is_none());
        assert!(spool.reserve(b"b", MAX_FETCHED + 1).is_none());
        let fit = (0..10).filter(|i| spool.reserve(&[*i], MAX_FETCHED).is_some()).count() as u64;
        assert_eq!(fit, (MAX_SPOOLED - 10) / MAX_FETCHED);
    }
}
