//! Tars of a root filesystem: plain ones are served where they lie, compressed ones are unpacked into the cache.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use super::fill::{self, Bytes, Opened, Plan};
use super::place::Place;
use super::{Context, Details, SourceError};
use crate::cache::{Content, Entry, tar_identity};
use crate::index::{FileIdentity, Order};
use crate::progress::Phase;
use crate::tarfile::EndMark;

/// The most memory that unpacking may take, in bytes: what `zstd --long=27` and `xz -9` need.
const MAX_MEMORY: u64 = 128 << 20;

/// How long to wait for an archive to be read whole, so that a bad one is refused at once.
const PATIENCE: Duration = Duration::from_millis(200);

/// The entry of a tar, if it is in the cache.
pub(super) fn cached(path: &Path, context: &Context<'_>) -> Result<Option<Entry>, SourceError> {
    match identity(path) {
        Some(identity) => Ok(context.cache.lookup(content(&identity).key())?),
        None => Ok(None),
    }
}

/// Whether a file begins as a tar does, or as one that is compressed.
pub(super) fn looks_like_one(path: &Path) -> bool {
    let Some(file) = path.is_file().then(|| File::open(path).ok()).flatten() else { return false };
    let mut magic = [0; 5];
    // The field `magic` of a header; tar(5).
    let is_tar = file.read_exact_at(&mut magic, 257).is_ok() && magic == *b"ustar";
    is_tar || Compression::of(&file).is_ok_and(|compression| compression.is_some())
}

/// What a path leads to, if that is a file which can be read.
pub(super) fn identity(path: &Path) -> Option<FileIdentity> {
    if !path.is_file() {
        return None;
    }
    File::open(path).and_then(|file| FileIdentity::of(&file)).ok()
}

fn content(identity: &FileIdentity) -> Content {
    Content::of_tar(tar_identity(identity))
}

/// Opens a tar, or starts to index it.
pub(super) fn open(source: &OsStr, path: &Path, context: &Context<'_>) -> Result<Opened, SourceError> {
    context.progress.enter(Phase::Resolving);
    let metadata = std::fs::metadata(path).map_err(|e| SourceError::read(path, e))?;
    if !metadata.is_file() {
        return Err(SourceError::NotAFile(path.to_owned()));
    }
    let file = File::open(path).map_err(|e| SourceError::read(path, e))?;
    let path = std::fs::canonicalize(path).map_err(|e| SourceError::read(path, e))?;
    let identity = FileIdentity::of(&file).map_err(|e| SourceError::read(&path, e))?;
    let compression = Compression::of(&file).map_err(|e| SourceError::read(&path, e))?;
    let plan = Plan {
        content: content(&identity),
        source: source.to_owned(),
        details: Details::default(),
        place: Place::Root(&[]),
        lives: false,
        order: Order::Any,
        demands: None,
        patience: PATIENCE,
        temporary: false,
    };
    let packed = file.try_clone().map_err(|e| SourceError::read(&path, e))?;
    let packed_path = path.clone();
    let bytes = |filler: &crate::cache::Filler| match compression {
        None => Ok(Bytes::Borrowed(file, path.clone(), identity)),
        Some(_) => Ok(Bytes::Own(filler.create_data()?)),
    };
    fill::open(plan, context, bytes, move |job, bytes| match (bytes, compression) {
        // What a file holds does not change by being read again: there is one attempt.
        (Bytes::Own(writer), Some(compression)) => job.run(writer, EndMark::Optional, &[], || {
            compression.unpack(&packed).map_err(|e| SourceError::read(&packed_path, e))
        }),
        (Bytes::Borrowed(file, path, identity), _) => job.run_in_place(&file, path, identity),
        (Bytes::Own(_), None) => Err(SourceError::NoStream),
    })
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Gzip,
    Zstd,
    Xz,
}

impl Compression {
    /// What the first bytes of a file tell; `None` if it is not compressed.
    fn of(file: &File) -> io::Result<Option<Compression>> {
        let mut magic = [0; 6];
        let n = file.read_at(&mut magic, 0)?;
        Ok(match &magic[..n] {
            [0x1f, 0x8b, ..] => Some(Compression::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Zstd),
            b"\xfd7zXZ\0" => Some(Compression::Xz),
            _ => None,
        })
    }

    /// All that was compressed, members and frames one behind the other included.
    fn unpack(self, file: &File) -> io::Result<Box<dyn BufRead + '_>> {
        const SIZE: usize = 1 << 17;
        let packed = BufReader::with_capacity(SIZE, file);
        Ok(match self {
            Compression::Gzip => {
                Box::new(BufReader::with_capacity(SIZE, flate2::bufread::MultiGzDecoder::new(packed)))
            }
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
                decoder.window_log_max(MAX_MEMORY.ilog2())?;
                Box::new(BufReader::with_capacity(SIZE, decoder))
            }
            Compression::Xz => {
                let stream =
                    liblzma::stream::Stream::new_stream_decoder(MAX_MEMORY, liblzma::stream::CONCATENATED)?;
                let decoder = liblzma::bufread::XzDecoder::new_stream(packed, stream);
                Box::new(BufReader::with_capacity(SIZE, decoder))
            }
        })
    }
}
