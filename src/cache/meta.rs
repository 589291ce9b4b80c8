//! What the cache writes about an entry, and reads back without believing it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::bucket::Bucket;
use super::data::OwnData;
use super::dir::{Dir, is_private};
use super::{CacheError, Content, Key};
use crate::index::FileIdentity;

/// The files of an entry.
pub(super) const INDEX: &str = "index";
pub(super) const DATA: &str = "data";
pub(super) const META: &str = "meta.json";
pub(super) const COMPLETE: &str = ".complete";

/// What the names of notes begin with.
pub(super) const NOTE: &str = "from-";

/// The name of the empty file that says that another key leads to the entry.
pub(super) fn note(origin: Key) -> String {
    format!("{NOTE}{origin}")
}

/// More than any image's configuration takes.
const META_LIMIT: u64 = 16 << 20;

/// What the caller knows about a filesystem that it has filled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The source as the user spelled it.
    #[serde(with = "text")]
    pub source: OsString,
    /// Names in the tree.
    pub entries: u64,
    /// Bytes in its files, holes not counted.
    pub bytes: u64,
    /// Whatever the room that fetched it wants to find again without asking the daemon, such as an image's
    /// configuration.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub details: serde_json::Value,
}

/// The size and checksum of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its length in bytes.
    pub size: u64,
    /// The CRC-32 of all its bytes.
    pub crc32: u32,
}

/// Where the bytes of a layer's files are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "in", rename_all = "kebab-case")]
pub enum DataRef {
    /// In the entry itself.
    Own(OwnData),
    /// In an archive of the user's, which is served in place.
    Borrowed {
        /// Its absolute path.
        #[serde(with = "text")]
        path: PathBuf,
        /// What it was when it was indexed.
        identity: FileIdentity,
    },
    /// In the own data of another entry, which several images share.
    Layer {
        /// That entry.
        key: Key,
    },
}

/// What is kept about an entry: its `meta.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// What its key was made from.
    pub content: Content,
    /// What the caller said of it.
    pub about: About,
    /// When it was filled, in seconds since 1970-01-01 UTC.
    pub created: u64,
    /// The data of each layer, in the order of [`LayerNo`](crate::index::LayerNo).
    pub data: Vec<DataRef>,
}

/// Why an entry cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Something else than an entry has its name.
    #[error("it is not a directory")]
    NotADirectory,
    /// It belongs to someone else, or others could write to it.
    #[error("others could have written to it")]
    Exposed,
    /// Its `.complete` is missing, or not what it should be.
    #[error("it was not finished")]
    Incomplete,
    /// Its `meta.json` is not what `.complete` says, or not to be understood, or another entry's.
    #[error("its metadata is damaged")]
    Metadata,
    /// Its index is missing, or does not open, or does not have the bytes that were written.
    #[error("its index is not usable: {0}")]
    Index(String),
    /// A data file of it is missing, or has not the length that it should have.
    #[error("a data file of it is not {0} bytes long")]
    DataSize(u64),
    /// Its data has other bytes than were written.
    #[error("the checksum of its data is wrong")]
    DataChecksum,
    /// The archive that it was made from was changed or is gone.
    #[error("the archive {0:?} was changed or is gone")]
    ArchiveChanged(PathBuf),
    /// A layer that it needs is no longer in the cache.
    #[error("its layer {0} is gone")]
    LayerGone(Key),
    /// Who used it found it wrong.
    #[error("{0}")]
    Reported(String),
}

/// Why an entry could not be read: it is damaged, or the machine is in trouble.
pub(super) enum Fault {
    Damage(Damage),
    Error(CacheError),
}

impl From<Damage> for Fault {
    fn from(damage: Damage) -> Fault {
        Fault::Damage(damage)
    }
}

impl From<CacheError> for Fault {
    fn from(error: CacheError) -> Fault {
        Fault::Error(error)
    }
}

/// Writes `meta.json`.
pub(super) fn write(dir: &Dir, meta: &Meta) -> Result<(File, Part), CacheError> {
    let json = serde_json::to_vec(meta).map_err(|e| dir.error("write", META, io::Error::from(e)))?;
    if json.len() as u64 > META_LIMIT {
        let cause = io::Error::new(io::ErrorKind::FileTooLarge, "the metadata is too large");
        return Err(dir.error("write", META, cause));
    }
    let part = Part { size: json.len() as u64, crc32: crc32fast::hash(&json) };
    Ok((dir.write(META, &json)?, part))
}

/// Writes `.complete`: from now on the entry counts.
pub(super) fn seal(dir: &Dir, meta: Part) -> Result<File, CacheError> {
    dir.write(COMPLETE, seal_text(meta).as_bytes())
}

fn seal_text(meta: Part) -> String {
    format!("{} {} {:08x}\n", META, meta.size, meta.crc32)
}

/// Reads an entry's metadata, and checks what can be checked without reading its files.
pub(super) fn read(bucket: &Bucket, dir: &Dir, key: Key) -> Result<Meta, Fault> {
    check_private(dir)?;
    let seal = dir.read(COMPLETE, 128)?.ok_or(Damage::Incomplete)?;
    let json = dir.read(META, META_LIMIT + 1)?.ok_or(Damage::Metadata)?;
    let part = Part { size: json.len() as u64, crc32: crc32fast::hash(&json) };
    if seal.is_empty() {
        return Err(Damage::Incomplete.into());
    }
    if seal != seal_text(part).as_bytes() {
        return Err(Damage::Metadata.into());
    }
    let meta: Meta = serde_json::from_slice(&json).map_err(|_| Damage::Metadata)?;
    if meta.content.key() != key {
        return Err(Damage::Metadata.into());
    }
    for data in &meta.data {
        match data {
            DataRef::Own(own) => own.check(dir)?,
            DataRef::Borrowed { path, identity } => {
                open_borrowed(path, identity)?;
            }
            DataRef::Layer { key } => {
                let layer = bucket.entries.dir(key.to_string())?.ok_or(Damage::LayerGone(*key))?;
                layer.stat_at(COMPLETE)?.ok_or(Damage::LayerGone(*key))?;
            }
        }
    }
    Ok(meta)
}

/// Whether nobody else could have changed an entry: neither its directory nor what tells about its data.
fn check_private(dir: &Dir) -> Result<(), Fault> {
    let mut stats = vec![dir.stat()?];
    for name in [INDEX, META, COMPLETE] {
        stats.extend(dir.stat_at(name)?);
    }
    if stats.iter().all(is_private) { Ok(()) } else { Err(Damage::Exposed.into()) }
}

/// Opens an archive of the user's, if it is still what was indexed.
pub(super) fn open_borrowed(path: &Path, identity: &FileIdentity) -> Result<File, Damage> {
    // A FIFO may have come in its place: do not wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .ok()
        .map(File::from)
        .filter(|file| FileIdentity::of(file).is_ok_and(|now| now == *identity))
        .ok_or_else(|| Damage::ArchiveChanged(path.to_owned()))
}

/// Names that need not be UTF-8: a string where they are, and else the list of their bytes.
pub(crate) mod text {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

    use serde::{Deserializer, Serializer};

    use super::*;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Spelling {
        Text(String),
        Bytes(Vec<u8>),
    }

    /// Writes a name.
    pub(crate) fn serialize<S: Serializer>(name: &impl AsRef<OsStr>, to: S) -> Result<S::Ok, S::Error> {
        let bytes = name.as_ref().as_bytes();
        match std::str::from_utf8(bytes) {
            Ok(text) => to.serialize_str(text),
            Err(_) => bytes.serialize(to),
        }
    }

    /// Reads a name.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: From<OsString>>(from: D) -> Result<T, D::Error> {
        Ok(T::from(match Spelling::deserialize(from)? {
            Spelling::Text(text) => text.into(),
            Spelling::Bytes(bytes) => OsString::from_vec(bytes),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn a_name_that_is_no_text_survives() {
        let about = |source: &[u8]| About {
            source: OsString::from_vec(source.to_vec()),
            entries: 1,
            bytes: 2,
            details: serde_json::Value::Null,
        };
        for source in [&b"tar:/tmp/a \xff\n.tar"[..], "ü".as_bytes(), b""] {
            let json = serde_json::to_string(&about(source)).unwrap();
            assert_eq!(serde_json::from_str::<About>(&json).unwrap(), about(source), "{json}");
        }
    }
}
