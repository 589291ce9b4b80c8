//! The decoders of all formats behind one face.

use std::io::{self, BufRead, Read};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

use super::format::Compression;

/// The most memory that a decoder may take, in bytes: what `zstd --long=27` needs, and twice what `xz -9` does.
const MAX_MEMORY: u64 = 128 << 20;

/// What a stream unpacks to, members and frames one behind the other included.
pub(super) enum Decoder<R: BufRead> {
    Plain(R),
    Gzip(MultiGzDecoder<R>),
    Zstd(zstd::stream::read::Decoder<'static, R>),
    Bzip2(MultiBzDecoder<R>),
    /// All formats of the LZMA family.
    Lzma(XzDecoder<R>),
}

impl<R: BufRead> Decoder<R> {
    pub fn new(mut reader: R) -> io::Result<Decoder<R>> {
        let lzma =
            |reader, stream: Result<Stream, _>| Ok(Decoder::Lzma(XzDecoder::new_stream(reader, stream?)));
        match Compression::of(reader.fill_buf()?) {
            Compression::None => Ok(Decoder::Plain(reader)),
            Compression::Gzip => Ok(Decoder::Gzip(MultiGzDecoder::new(reader))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
                decoder.window_log_max(MAX_MEMORY.ilog2())?;
                Ok(Decoder::Zstd(decoder))
            }
            Compression::Bzip2 => Ok(Decoder::Bzip2(MultiBzDecoder::new(reader))),
            Compression::Xz => lzma(reader, Stream::new_stream_decoder(MAX_MEMORY, CONCATENATED)),
            Compression::Lzma => lzma(reader, Stream::new_lzma_decoder(MAX_MEMORY)),
            Compression::Lzip => lzma(reader, Stream::new_lzip_decoder(MAX_MEMORY, CONCATENATED)),
        }
    }

    pub fn get_ref(&self) -> &R {
        match self {
            Decoder::Plain(reader) => reader,
            Decoder::Gzip(decoder) => decoder.get_ref(),
            Decoder::Zstd(decoder) => decoder.get_ref(),
            Decoder::Bzip2(decoder) => decoder.get_ref(),
            Decoder::Lzma(decoder) => decoder.get_ref(),
        }
    }

    pub fn get_mut(&mut self) -> &mut R {
        match self {
            Decoder::Plain(reader) => reader,
            Decoder::Gzip(decoder) => decoder.get_mut(),
            Decoder::Zstd(decoder) => decoder.get_mut(),
            Decoder::Bzip2(decoder) => decoder.get_mut(),
            Decoder::Lzma(decoder) => decoder.get_mut(),
        }
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoder::Plain(reader) => reader.read(buf),
            Decoder::Gzip(decoder) => decoder.read(buf),
            Decoder::Zstd(decoder) => decoder.read(buf),
            Decoder::Bzip2(decoder) => decoder.read(buf),
            Decoder::Lzma(decoder) => decoder.read(buf),
        }
    }
}
