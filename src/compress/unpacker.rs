//! What a stream unpacks to, as long as that does not cost too much.

use std::io::{self, BufReader, Read};

use super::decoder::Decoder;
use super::{Limits, UnpackError};
use crate::sparse_file;

/// The compressed bytes, counted.
struct Source<R> {
    inner: R,
    count: u64,
    /// Whether the last error was its own, and not the decoder's.
    failed: bool,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let result = self.inner.read(buf);
        match &result {
            Ok(n) => self.count += *n as u64,
            Err(error) => self.failed = error.kind() != io::ErrorKind::Interrupted,
        }
        result
    }
}

/// What a stream unpacks to, as far as the limits allow.
///
/// Its errors are those of `R`, and [`UnpackError`]s inside an [`io::Error`].
pub(crate) struct Unpacker<R: Read> {
    decoder: Decoder<BufReader<Source<R>>>,
    limits: Limits,
    unpacked: u64,
    /// Of that, what takes room on the disk.
    stored: u64,
}

impl<R: Read> Unpacker<R> {
    pub(crate) fn new(source: R, limits: Limits) -> io::Result<Unpacker<R>> {
        let mut reader =
            BufReader::with_capacity(128 << 10, Source { inner: source, count: 0, failed: false });
        // What fails here is the source.
        io::BufRead::fill_buf(&mut reader)?;
        let decoder = Decoder::new(reader).map_err(UnpackError::Decode)?;
        Ok(Unpacker { decoder, limits, unpacked: 0, stored: 0 })
    }

    /// Whether the stream is handed on as it is.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.decoder, Decoder::Plain(_))
    }

    /// Where the compressed bytes come from.
    pub(crate) fn source(&self) -> &R {
        &self.decoder.get_ref().get_ref().inner
    }

    /// The same, to change it.
    pub(crate) fn source_mut(&mut self) -> &mut R {
        &mut self.decoder.get_mut().get_mut().inner
    }

    /// Reads the source to its end, whatever the decoder left of it.
    pub(crate) fn drain(&mut self) -> io::Result<()> {
        io::copy(self.decoder.get_mut(), &mut io::sink()).map(drop)
    }

    fn check(&self) -> Result<(), UnpackError> {
        let Limits { max_unpacked, max_ratio, ratio_free } = self.limits;
        if self.unpacked > max_unpacked {
            return Err(UnpackError::TooLarge { limit: max_unpacked });
        }
        let packed = self.decoder.get_ref().get_ref().count;
        if self.stored > ratio_free && self.stored > packed.saturating_mul(max_ratio) {
            return Err(UnpackError::Bomb { ratio: max_ratio });
        }
        Ok(())
    }
}

impl<R: Read> Read for Unpacker<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.decoder.read(buf) {
            Ok(n) => {
                self.stored += sparse_file::stored(&buf[..n], self.unpacked);
                self.unpacked = self.unpacked.saturating_add(n as u64);
                self.check()?;
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted || self.decoder.get_ref().get_ref().failed => {
                Err(e)
            }
            Err(e) => Err(UnpackError::Decode(e).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::compress::Compression;

    fn unpack(bytes: &[u8], limits: Limits) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        let mut unpacker = Unpacker::new(bytes, limits).map_err(|e| e.to_string())?;
        unpacker.read_to_end(&mut out).map_err(|e| e.to_string())?;
        Ok(out)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn concatenated_members_and_skippable_frames_are_one_stream() {
        let two = [gzip(b"one "), gzip(b""), gzip(b"two")].concat();
        assert_eq!(unpack(&two, Limits::default()).unwrap(), b"one two");

        let frame = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 5, 0, 0, 0][..], b"12345"].concat();
        let chunked =
            [skippable.clone(), frame(b"one "), skippable.clone(), frame(b"two"), skippable].concat();
        assert_eq!(unpack(&chunked, Limits::default()).unwrap(), b"one two");

        let xz = |bytes: &[u8]| {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(unpack(&[xz(b"one "), xz(b"two")].concat(), Limits::default()).unwrap(), b"one two");
    }

    #[test]
    fn what_other_programs_pack_is_unpacked() {
        let text: Vec<u8> = (0..20_000u32).flat_map(|i| i.to_le_bytes()).collect();
        for (program, args) in [
            ("bzip2", &["-9", "-c"][..]),
            ("bzip2", &["-1", "-c"]),
            ("xz", &["--format=lzma", "-c"]),
            ("xz", &["--format=lzma", "-0", "-c"]),
            ("xz", &["-9e", "-c"]),
            ("gzip", &["-c"]),
            ("zstd", &["-c"]),
        ] {
            let mut child = std::process::Command::new(program)
                .args(args)
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap_or_else(|error| panic!("{program}: {error}"));
            let (mut stdin, text) = (child.stdin.take().unwrap(), text.clone());
            let writer = std::thread::spawn(move || stdin.write_all(&text).map(|()| text).unwrap());
            let packed = child.wait_with_output().unwrap().stdout;
            let text = writer.join().unwrap();
            assert!(
                !packed.is_empty() && Compression::of(&packed) != Compression::None,
                "{program} {args:?}"
            );
            assert!(unpack(&packed, Limits::default()).unwrap() == text, "{program} {args:?}");
            let cut = unpack(&packed[..packed.len() / 2], Limits::default()).unwrap_err();
            assert!(cut.starts_with("cannot be unpacked"), "{program} {args:?}: {cut}");
            // A format whose ends are marked may come again and again.
            if !args.contains(&"--format=lzma") {
                let twice = unpack(&packed.repeat(2), Limits::default()).unwrap();
                assert!(twice == text.repeat(2), "{program} {args:?}");
            }
        }
    }

    #[test]
    fn a_tar_is_not_taken_for_lzma() {
        for start in [&b"]\0\0\0\0\0\0\0\0\0\0\0\0"[..], b"]\0\0name\0\0\0\0\0\0\0", b"]\0\0\x80\0"] {
            assert_eq!(Compression::of(start), Compression::None, "{}", start.escape_ascii());
        }
    }

    #[test]
    fn whatever_is_cut_short_is_an_error() {
        let text: Vec<u8> = (0..20_000u32).flat_map(|i| i.to_le_bytes()).collect();
        for packed in [gzip(&text), zstd::encode_all(&text[..], 3).unwrap()] {
            for cut in [1, 4, 9, packed.len() / 2] {
                let error = unpack(&packed[..packed.len() - cut], Limits::default()).unwrap_err();
                assert!(error.starts_with("cannot be unpacked"), "{error}");
            }
        }
    }

    #[test]
    fn bombs_stop_at_the_limit() {
        let filled = gzip(&vec![b'x'; 4 << 20]);
        let small = Limits { max_unpacked: 1 << 20, ..Limits::default() };
        assert_eq!(unpack(&filled, small).unwrap_err(), "unpacks to more than 1048576 bytes");
        let strict = Limits { max_ratio: 100, ratio_free: 1 << 20, ..Limits::default() };
        assert_eq!(
            unpack(&filled, strict).unwrap_err(),
            "unpacks to more than 100 times its size, zeros not counted"
        );
        assert_eq!(unpack(&filled, Limits::default()).unwrap().len(), 4 << 20);
        // What takes no room is no bomb, and whoever sets a limit means that one.
        assert_eq!(unpack(&gzip(&vec![0; 4 << 20]), strict).unwrap().len(), 4 << 20);
        assert_eq!(unpack(&filled, Limits::up_to(4 << 20)).unwrap().len(), 4 << 20);
        assert!(unpack(&filled, Limits::up_to((4 << 20) - 1)).is_err());
    }

    #[test]
    fn a_window_beyond_the_limit_is_refused_for_what_it_is() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(28).unwrap();
        encoder.write_all(&[0; 1000]).unwrap();
        let zstd = encoder.finish().unwrap();
        let mut options = liblzma::stream::LzmaOptions::new_preset(6).unwrap();
        let mut filters = liblzma::stream::Filters::new();
        filters.lzma2(options.dict_size(128 << 20));
        let encoder = liblzma::stream::Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc32);
        let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), encoder.unwrap());
        encoder.write_all(&[0; 1000]).unwrap();
        let xz = encoder.finish().unwrap();
        let error = |packed: &[u8]| {
            let mut unpacker = Unpacker::new(packed, Limits::default()).unwrap();
            let error = unpacker.read_to_end(&mut Vec::new()).unwrap_err();
            error.downcast::<UnpackError>().unwrap()
        };
        for packed in [zstd, xz] {
            let error = error(&packed);
            assert!(error.to_string().starts_with("cannot be unpacked"), "{error}");
            assert!(error.hint().unwrap().contains("larger window"), "{error}");
        }
        let cut = zstd::encode_all(&[0; 1000][..], 1).unwrap();
        assert!(error(&cut[..cut.len() - 1]).hint().is_none());
    }
}
