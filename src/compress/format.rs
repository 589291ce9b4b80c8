//! How a stream is compressed, by its first bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// How a stream is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
    Xz,
    Bzip2,
    /// The format of xz's predecessor, `.lzma`.
    Lzma,
    Lzip,
}

impl Compression {
    /// How many bytes of a stream tell.
    pub(crate) const MAGIC: usize = 13;

    /// Tells by the first bytes of a stream, of which 13 are enough.
    pub(crate) fn of(start: &[u8]) -> Compression {
        match start {
            [0x1f, 0x8b, 8, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            // A skippable frame may come first; RFC 8878, 3.1.2.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            // A block follows, or the end.
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..] => Compression::Bzip2,
            [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, ..] => Compression::Bzip2,
            [b'L', b'Z', b'I', b'P', 0 | 1, ..] => Compression::Lzip,
            start if is_lzma(start) => Compression::Lzma,
            _ => Compression::None,
        }
    }

    /// As [`Compression::of`], of a file.
    pub(crate) fn of_file(file: &File) -> io::Result<Compression> {
        let mut start = [0; Compression::MAGIC];
        let n = file.read_at(&mut start, 0)?;
        Ok(Compression::of(&start[..n]))
    }
}

/// There is no magic: the parameters that every writer takes, a dictionary of 2^n or 2^n + 2^(n-1) bytes, and a length, which is
/// unknown (all ones) or below 1 TiB. A tar that begins so would have a first name of `]` and a NUL, and then something else.
fn is_lzma(start: &[u8]) -> bool {
    let [0x5d, rest @ ..] = start else { return false };
    let Some((dictionary, length)) = rest.split_first_chunk::<4>() else { return false };
    let Some(length) = length.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)) else {
        return false;
    };
    let dictionary = u32::from_le_bytes(*dictionary);
    let is_size = matches!(dictionary >> dictionary.trailing_zeros().min(31), 1 | 3);
    is_size && dictionary >= 1 << 12 && (length == u64::MAX || length < 1 << 40)
}
