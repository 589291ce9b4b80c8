//! Unpacking what is compressed, in bounded memory and up to a limit.
//!
//! The bytes decide how something is compressed; names and media types are only claims.

use std::io::{self, BufRead, BufReader, Read};

use super::error::OciError;

/// How much a layer or archive may unpack to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that one layer, or an archive that is compressed as a whole, may unpack to.
    pub max_unpacked: u64,
    /// How many times its compressed size it may unpack to.
    pub max_ratio: u64,
    /// Unpacked bytes before `max_ratio` counts.
    pub ratio_free: u64,
}

impl Default for Limits {
    /// 64 GiB, and 1,000 times the compressed size beyond the first 64 MiB.
    fn default() -> Limits {
        Limits { max_unpacked: 64 << 30, max_ratio: 1_000, ratio_free: 64 << 20 }
    }
}

/// The largest window that a zstd frame may ask for, as a power of two: 128 MiB, the reference tool's own limit.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// What the xz decoder may allocate, bytes: `xz -9` needs 65 MiB.
const XZ_MEMORY_MAX: u64 = 96 << 20;

/// How a stream is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
    Xz,
}

impl Compression {
    /// Tells by the first bytes of a stream, of which 6 are enough.
    pub(super) fn of(start: &[u8]) -> Compression {
        match start {
            [0x1f, 0x8b, 8, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            // A skippable frame may come first; RFC 8878, 3.1.2.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            _ => Compression::None,
        }
    }
}

enum Decoder<R: BufRead> {
    Plain(R),
    Gzip(flate2::bufread::MultiGzDecoder<R>),
    Zstd(zstd::stream::read::Decoder<'static, R>),
    Xz(liblzma::bufread::XzDecoder<R>),
}

impl<R: BufRead> Decoder<R> {
    fn new(mut reader: R) -> io::Result<Decoder<R>> {
        Ok(match Compression::of(reader.fill_buf()?) {
            Compression::None => Decoder::Plain(reader),
            Compression::Gzip => Decoder::Gzip(flate2::bufread::MultiGzDecoder::new(reader)),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Decoder::Zstd(decoder)
            }
            Compression::Xz => {
                let stream = liblzma::stream::Stream::new_stream_decoder(
                    XZ_MEMORY_MAX,
                    liblzma::stream::CONCATENATED,
                )?;
                Decoder::Xz(liblzma::bufread::XzDecoder::new_stream(reader, stream))
            }
        })
    }

    fn get_ref(&self) -> &R {
        match self {
            Decoder::Plain(reader) => reader,
            Decoder::Gzip(decoder) => decoder.get_ref(),
            Decoder::Zstd(decoder) => decoder.get_ref(),
            Decoder::Xz(decoder) => decoder.get_ref(),
        }
    }

    fn get_mut(&mut self) -> &mut R {
        match self {
            Decoder::Plain(reader) => reader,
            Decoder::Gzip(decoder) => decoder.get_mut(),
            Decoder::Zstd(decoder) => decoder.get_mut(),
            Decoder::Xz(decoder) => decoder.get_mut(),
        }
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoder::Plain(reader) => reader.read(buf),
            Decoder::Gzip(decoder) => decoder.read(buf),
            Decoder::Zstd(decoder) => decoder.read(buf),
            Decoder::Xz(decoder) => decoder.read(buf),
        }
    }
}

struct Counted<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.count += n as u64;
        Ok(n)
    }
}

/// What a stream unpacks to, as far as the limits allow.
///
/// Errors are [`OciError`]s inside an [`io::Error`], also those of `R` if it gives such.
pub(super) struct Unpacker<R: Read> {
    decoder: Decoder<BufReader<Counted<R>>>,
    name: String,
    limits: Limits,
    unpacked: u64,
}

impl<R: Read> Unpacker<R> {
    /// `name` is what errors call the stream.
    pub(super) fn new(source: R, name: String, limits: Limits) -> Result<Unpacker<R>, OciError> {
        let reader = BufReader::with_capacity(128 << 10, Counted { inner: source, count: 0 });
        match Decoder::new(reader) {
            Ok(decoder) => Ok(Unpacker { decoder, name, limits, unpacked: 0 }),
            Err(source) => Err(unpack_error(&name, source)),
        }
    }

    /// Whether the stream is handed on as it is.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self.decoder, Decoder::Plain(_))
    }

    /// Where the compressed bytes come from.
    pub(super) fn source(&self) -> &R {
        &self.decoder.get_ref().get_ref().inner
    }

    /// The same, to change it.
    pub(super) fn source_mut(&mut self) -> &mut R {
        &mut self.decoder.get_mut().get_mut().inner
    }

    /// Reads the source to its end, whatever the decoder left of it.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        io::copy(self.decoder.get_mut(), &mut io::sink()).map(drop)
    }

    fn check(&self) -> Result<(), OciError> {
        let Limits { max_unpacked, max_ratio, ratio_free } = self.limits;
        if self.unpacked > max_unpacked {
            return Err(OciError::UnpacksTooLarge { blob: self.name.clone(), limit: max_unpacked });
        }
        let packed = self.decoder.get_ref().get_ref().count;
        if self.unpacked > ratio_free && self.unpacked > packed.saturating_mul(max_ratio) {
            return Err(OciError::Bomb { blob: self.name.clone(), ratio: max_ratio });
        }
        Ok(())
    }
}

impl<R: Read> Read for Unpacker<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.decoder.read(buf) {
            Ok(n) => {
                self.unpacked = self.unpacked.saturating_add(n as u64);
                self.check()?;
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(source) => Err(unpack_error(&self.name, source).into()),
        }
    }
}

/// What to do about a stream that is sound, but takes more memory to unpack than is allowed; `None` for any other
/// error of a decoder's.
pub fn memory_hint(error: &io::Error) -> Option<&'static str> {
    // The zstd library tells its errors apart by their words alone.
    let zstd = error.to_string() == "Frame requires too much memory for decoding";
    let xz = matches!(
        error.get_ref().and_then(|inner| inner.downcast_ref()),
        Some(liblzma::stream::Error::MemLimit)
    );
    (zstd || xz).then_some(
        "it may be whole, but was compressed with a larger window than is unpacked here: compress it again with zstd \
         --long=27 (128 MiB) or less, or with xz -9 or less",
    )
}

/// Keeps an error that the source gave; only the decoder's own are about unpacking.
fn unpack_error(name: &str, source: io::Error) -> OciError {
    match source.downcast::<OciError>() {
        Ok(error) => error,
        Err(source) => OciError::Unpack { blob: name.to_owned(), source },
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn unpack(bytes: &[u8], limits: Limits) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        let mut unpacker = Unpacker::new(bytes, "it".into(), limits).map_err(|e| e.to_string())?;
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
    fn whatever_is_cut_short_is_an_error() {
        let text: Vec<u8> = (0..20_000u32).flat_map(|i| i.to_le_bytes()).collect();
        for packed in [gzip(&text), zstd::encode_all(&text[..], 3).unwrap()] {
            for cut in [1, 4, 9, packed.len() / 2] {
                let error = unpack(&packed[..packed.len() - cut], Limits::default()).unwrap_err();
                assert!(error.starts_with("it cannot be unpacked"), "{error}");
            }
        }
    }

    #[test]
    fn bombs_stop_at_the_limit() {
        let zeros = gzip(&vec![0; 4 << 20]);
        let small = Limits { max_unpacked: 1 << 20, ..Limits::default() };
        assert_eq!(unpack(&zeros, small).unwrap_err(), "it unpacks to more than 1048576 bytes");
        let strict = Limits { max_ratio: 100, ratio_free: 1 << 20, ..Limits::default() };
        assert_eq!(unpack(&zeros, strict).unwrap_err(), "it unpacks to more than 100 times its size");
        assert_eq!(unpack(&zeros, Limits::default()).unwrap().len(), 4 << 20);
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
            let mut unpacker = Unpacker::new(packed, "it".into(), Limits::default()).unwrap();
            let error = unpacker.read_to_end(&mut Vec::new()).unwrap_err();
            error.downcast::<OciError>().unwrap()
        };
        for packed in [zstd, xz] {
            let error = error(&packed);
            assert!(error.to_string().starts_with("it cannot be unpacked"), "{error}");
            assert!(error.hint().unwrap().contains("larger window"), "{error}");
        }
        let cut = zstd::encode_all(&[0; 1000][..], 1).unwrap();
        assert!(error(&cut[..cut.len() - 1]).hint().unwrap().contains("incomplete"));
    }
}
