//! Tars of a root filesystem: plain ones are served where they lie, compressed ones are unpacked into the cache.

use std::ffi::OsStr;
use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use super::fill::{self, Bytes, Opened, Plan};
use super::place::Place;
use super::{Context, Details, SourceError};
use crate::cache::{Content, Entry, tar_identity};
use crate::compress::{Compression, Unpacker};
use crate::index::{FileIdentity, Order};
use crate::progress::Phase;
use crate::tarfile::EndMark;

/// Unpacked bytes that are read at once.
const BUFFER: usize = 128 << 10;

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
    is_tar || Compression::of_file(&file).is_ok_and(|compression| compression != Compression::None)
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
    let compression = Compression::of_file(&file).map_err(|e| SourceError::read(&path, e))?;
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
    let bytes = |filler: &crate::cache::Filler| match compression {
        Compression::None => Ok(Bytes::Borrowed(file, path.clone(), identity)),
        _ => Ok(Bytes::Own(filler.create_data()?)),
    };
    let (limits, name) = (context.limits(), source.to_owned());
    fill::open(plan, context, bytes, move |job, bytes| match bytes {
        // What a file holds does not change by being read again: there is one attempt.
        Bytes::Own(writer) => job.run(writer, EndMark::Optional, &[], || {
            let unpacker = Unpacker::new(&packed, limits).map_err(|e| SourceError::stream(&name, e))?;
            Ok(BufReader::with_capacity(BUFFER, unpacker))
        }),
        Bytes::Borrowed(file, path, identity) => job.run_in_place(&file, path, identity),
    })
}
