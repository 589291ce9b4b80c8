//! A finished entry in use.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use memmap2::Mmap;

use super::bucket::Bucket;
use super::dir::Dir;
use super::meta::{self, COMPLETE, DATA, Damage, DataRef, Fault, INDEX, Meta, Part};
use super::{CacheError, Key};
use crate::held::Held;
use crate::index::{DataFile, Filesystem, Index, OpenError, Tree};

/// A finished entry. As long as this is held, by any process, the entry is not evicted.
pub struct Entry {
    key: Key,
    /// Holds the use lock.
    dir: Arc<Dir>,
    meta: Meta,
    index: Arc<Index<Mmap>>,
    /// The entries whose data files this one uses, each held likewise.
    layers: Vec<Entry>,
    /// Its directory, if that is to go when this is dropped.
    _temporary: Option<Held>,
}

impl Entry {
    /// What `dir`, whose use lock is held, has under this key.
    pub(super) fn read(
        bucket: &Arc<Bucket>,
        key: Key,
        dir: &Dir,
    ) -> Result<(Meta, Index<Mmap>, Vec<Entry>), Fault> {
        let meta = meta::read(bucket, dir, key)?;
        let index = open_index(dir, key)?;
        let mut layers = Vec::new();
        for data in &meta.data {
            if let DataRef::Layer { key } = *data {
                layers.push(Entry::read_layer(bucket, key)?);
            }
        }
        Ok((meta, index, layers))
    }

    fn read_layer(bucket: &Arc<Bucket>, key: Key) -> Result<Entry, Fault> {
        let gone = || Damage::LayerGone(key);
        let dir = bucket.open_shared(&bucket.entries, key)?.ok_or_else(gone)?;
        let read = meta::read(bucket, &dir, key).and_then(|meta| Ok((meta, open_index(&dir, key)?)));
        match read {
            // One that needs others in turn is no layer, and could lead in a circle.
            Ok((meta, index)) if !meta.data.iter().any(|data| matches!(data, DataRef::Layer { .. })) => {
                Ok(Entry::new(key, Arc::new(dir), meta, index, Vec::new()))
            }
            Ok(_) | Err(Fault::Damage(_)) => Err(gone().into()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn new(key: Key, dir: Arc<Dir>, meta: Meta, index: Index<Mmap>, layers: Vec<Entry>) -> Entry {
        Entry { key, dir, meta, index: Arc::new(index), layers, _temporary: None }
    }

    /// Lets it go when it is dropped.
    pub(super) fn temporary(self, held: Held) -> Entry {
        Entry { _temporary: Some(held), ..self }
    }

    /// Its name in the cache.
    pub fn key(&self) -> Key {
        self.key
    }

    /// What is known about it.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Its names and attributes.
    pub fn index(&self) -> &Arc<Index<Mmap>> {
        &self.index
    }

    /// Maps the index anew: what was read of it no longer counts as this process's memory.
    pub fn remap(&mut self) -> Result<(), CacheError> {
        let index = open_index(&self.dir, self.key).map_err(|fault| match fault {
            Fault::Damage(damage) => self.broken(damage),
            Fault::Error(error) => error,
        })?;
        self.index = Arc::new(index);
        Ok(())
    }

    /// The entries whose data it shares, in the order of [`LayerNo`](crate::index::LayerNo): an image's layers.
    pub fn layers(&self) -> &[Entry] {
        &self.layers
    }

    /// Its names, attributes and bytes. To be used no longer than the entry is held.
    pub fn filesystem(&self) -> Result<Filesystem, CacheError> {
        let tree: Arc<dyn Tree> = Arc::clone(&self.index) as _;
        Ok(Filesystem::new(tree, self.open_data()?))
    }

    /// Opens the data file of each layer, in the order of [`LayerNo`](crate::index::LayerNo).
    pub fn open_data(&self) -> Result<Vec<DataFile>, CacheError> {
        let mut layers = self.layers.iter();
        let mut open = |data: &DataRef| match data {
            DataRef::Own(_) => Ok(DataFile::owned(self.open_own_data()?)),
            DataRef::Borrowed { path, identity } => meta::open_borrowed(path, identity)
                .map(|file| DataFile::borrowed(file, *identity))
                .map_err(|damage| self.broken(damage)),
            DataRef::Layer { key } => match layers.next() {
                // A layer has one data file, which is its own or the user's: it needs no entry in turn.
                Some(layer) => layer.open_data()?.pop().ok_or_else(|| self.broken(Damage::LayerGone(*key))),
                None => Err(self.broken(Damage::LayerGone(*key))),
            },
        };
        self.meta.data.iter().map(&mut open).collect()
    }

    fn broken(&self, damage: Damage) -> CacheError {
        self.dir.error("read", "", io::Error::other(damage))
    }

    fn open_own_data(&self) -> Result<File, CacheError> {
        self.dir.file(DATA)?.ok_or_else(|| self.dir.error("open", DATA, io::ErrorKind::NotFound))
    }

    /// Notes that it, with the layers it needs, is being used now: what was used last is evicted last.
    pub fn touch(&self) {
        for entry in self.layers.iter().chain([self]) {
            // The order of eviction is not worth a failure: the cache may be read-only.
            if let Err(e) = entry.dir.touch(COMPLETE) {
                tracing::debug!("{e}");
            }
        }
    }

    /// Reads all its own files, and compares them with what was written.
    pub(super) fn verify(&self) -> Result<(), Fault> {
        self.index.verify().map_err(|e| Damage::Index(e.to_string()))?;
        for data in &self.meta.data {
            if let DataRef::Own(wanted) = data {
                let found = checksum(&self.open_own_data()?).map_err(|e| self.dir.error("read", DATA, e))?;
                if found != *wanted {
                    return Err(Damage::DataChecksum.into());
                }
            }
        }
        Ok(())
    }

    pub(super) fn dir(&self) -> &Dir {
        &self.dir
    }
}

fn open_index(dir: &Dir, key: Key) -> Result<Index<Mmap>, Fault> {
    let file = dir.file(INDEX)?.ok_or_else(|| Damage::Index("it is missing".to_owned()))?;
    Index::open(&file, key.as_bytes()).map_err(|e| match e {
        OpenError::Io(e) => Fault::Error(dir.error("map", INDEX, e)),
        damage => Fault::Damage(Damage::Index(damage.to_string())),
    })
}

/// Reads a file from its beginning.
fn checksum(mut file: &File) -> io::Result<Part> {
    let mut buffer = vec![0; 1 << 18];
    let mut hash = crc32fast::Hasher::new();
    let mut size = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Part { size, crc32: hash.finalize() }),
            Ok(n) => {
                hash.update(buffer.get(..n).unwrap_or_default());
                size += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("key", &self.key).field("meta", &self.meta).finish_non_exhaustive()
    }
}
