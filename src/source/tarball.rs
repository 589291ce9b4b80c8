//! Tars of a root filesystem: plain ones are served where they lie, compressed ones are unpacked into the cache.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::fill::{self, Job};
use super::{Context, Details, SourceError};
use crate::cache::{Content, Entry, Kind, Obtained, tar_identity};
use crate::index::FileIdentity;
use crate::index::scan::EndMark;
use crate::progress::Phase;

/// The most memory that unpacking may take, in bytes: what `xz -9` and `zstd --long=27` need, and some.
const MAX_WINDOW: u64 = 256 << 20;

/// The cache entry of a tar, made if it is not there.
pub(super) fn entry(source: &OsStr, path: &Path, context: &Context<'_>) -> Result<Entry, SourceError> {
    context.progress.enter(Phase::Resolving);
    let file = File::open(path).map_err(|e| SourceError::read(path, e))?;
    let path = &std::fs::canonicalize(path).map_err(|e| SourceError::read(path, e))?;
    let metadata = file.metadata().map_err(|e| SourceError::read(path, e))?;
    if !metadata.is_file() {
        return Err(SourceError::NotAFile(path.to_owned()));
    }
    let identity = FileIdentity::of(&file).map_err(|e| SourceError::read(path, e))?;
    let content = Content {
        kind: Kind::Tar,
        identity: tar_identity(&identity),
        platform: None,
        layers: Vec::new(),
        obtained: Obtained::File,
    };
    fill::claim(content, context, |filler| {
        let job = Job { source, details: Details::default(), leave_out: &[], progress: context.progress };
        match unpacking(&file).map_err(|e| SourceError::read(path, e))? {
            None => job.fill_in_place(filler, &file, path, identity),
            Some(stream) => job.fill_from_stream(filler, stream, EndMark::Optional),
        }
    })
}

/// The unpacked bytes of a file that is compressed, which its first bytes tell; `None` if it is not.
fn unpacking(file: &File) -> io::Result<Option<Box<dyn BufRead + '_>>> {
    let mut magic = [0; 6];
    let n = file.read_at(&mut magic, 0)?;
    let packed = BufReader::with_capacity(1 << 17, file);
    const OUT: usize = 1 << 17;
    Ok(match &magic[..n] {
        [0x1f, 0x8b, ..] => {
            Some(Box::new(BufReader::with_capacity(OUT, flate2::bufread::MultiGzDecoder::new(packed))))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
            decoder.window_log_max(MAX_WINDOW.ilog2())?;
            Some(Box::new(BufReader::with_capacity(OUT, decoder)))
        }
        b"\xfd7zXZ\0" => {
            let decoder =
                liblzma::stream::Stream::new_stream_decoder(MAX_WINDOW, liblzma::stream::CONCATENATED)?;
            let decoder = liblzma::bufread::XzDecoder::new_stream(packed, decoder);
            Some(Box::new(BufReader::with_capacity(OUT, decoder)))
        }
        _ => None,
    })
}
