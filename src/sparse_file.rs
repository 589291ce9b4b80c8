//! Files in which zeros take no room, and files without a name.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// What a filesystem gives a file at least, bytes.
const BLOCK: u64 = 4096;

const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];

/// Of bytes that are written one behind the other, the first that are stored alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstRun {
    /// So many zeros: whole blocks of the file.
    Hole(usize),
    /// So many bytes, up to the next block that is all zeros.
    Data(usize),
}

impl FirstRun {
    /// What to make of `bytes`, of which there is at least one, at byte `at` of a file.
    pub fn of(bytes: &[u8], at: u64) -> FirstRun {
        let mut holes = None;
        let mut done = 0;
        while done < bytes.len() {
            let here = at.saturating_add(done as u64);
            let in_block = (BLOCK - here % BLOCK) as usize;
            let block = &bytes[done..bytes.len().min(done + in_block)];
            let is_hole = *block == ZEROS;
            if *holes.get_or_insert(is_hole) != is_hole {
                break;
            }
            done += block.len();
        }
        if holes == Some(true) { FirstRun::Hole(done) } else { FirstRun::Data(done) }
    }
}

/// How many of `bytes`, written at byte `at` of a file, take room on the disk.
pub(crate) fn stored(mut bytes: &[u8], mut at: u64) -> u64 {
    let mut stored = 0;
    while !bytes.is_empty() {
        let run = FirstRun::of(bytes, at);
        let (FirstRun::Hole(n) | FirstRun::Data(n)) = run;
        if run == FirstRun::Data(n) {
            stored += n as u64;
        }
        (bytes, at) = (&bytes[n..], at.saturating_add(n as u64));
    }
    stored
}

/// Writes at the end of a file, which is at byte `at`.
pub(crate) fn append(file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = match FirstRun::of(bytes, at) {
            FirstRun::Hole(n) => file.set_len(at.saturating_add(n as u64)).map(|()| n)?,
            FirstRun::Data(n) => file.write_all_at(&bytes[..n], at).map(|()| n)?,
        };
        (bytes, at) = (&bytes[n..], at.saturating_add(n as u64));
    }
    Ok(())
}

/// A file in `dir` that has no name, and so ends with its last descriptor.
pub(crate) fn unnamed(dir: impl AsFd) -> io::Result<File> {
    let (flags, mode) = (OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
    match rustix::fs::openat(&dir, ".", flags | OFlags::TMPFILE, mode) {
        // overlayfs has no O_TMPFILE before Linux 6.3.
        Err(Errno::OPNOTSUPP) => {
            let name = format!(".spool-{}", std::process::id());
            let file = rustix::fs::openat(&dir, &name, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
            rustix::fs::unlinkat(&dir, &name, rustix::fs::AtFlags::empty())?;
            Ok(file.into())
        }
        file => Ok(file?.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn whole_blocks_of_zeros_are_holes_wherever_a_write_begins() {
        let block = BLOCK as usize;
        let bytes = [&vec![1; 100][..], &vec![0; 3 * block], &[1]].concat();
        assert_eq!(FirstRun::of(&bytes, 0), FirstRun::Data(block));
        assert_eq!(FirstRun::of(&bytes[block..], BLOCK), FirstRun::Hole(2 * block));
        assert_eq!(FirstRun::of(&bytes[3 * block..], 3 * BLOCK), FirstRun::Data(101));
        assert_eq!(FirstRun::of(&vec![0; 2 * block - 1], 1), FirstRun::Data(block - 1));
        assert_eq!(FirstRun::of(&vec![0; block - 1], 0), FirstRun::Data(block - 1));
        assert_eq!(stored(&bytes, 0), BLOCK + 101);
    }

    #[test]
    fn what_is_written_is_read_and_zeros_take_no_room() {
        let directory = tempfile::tempdir().unwrap();
        let file = unnamed(File::open(directory.path()).unwrap()).unwrap();
        let bytes = [&b"begin"[..], &vec![0; 1 << 20], b"end", &vec![0; 1 << 20]].concat();
        let mut at = 0;
        for piece in bytes.chunks(10_007) {
            append(&file, piece, at).unwrap();
            at += piece.len() as u64;
        }
        let mut read = vec![1; bytes.len()];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read == bytes);
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), bytes.len() as u64);
        assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }
}
