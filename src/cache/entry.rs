//! A finished entry in use.

use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use memmap2::Mmap;

use super::bucket::Bucket;
use super::dir::Dir;
use super::meta::{self, COMPLETE, Damage, DataRef, Fault, INDEX, Meta, NOTE};
use super::{CacheError, Key};
use crate::cleanup::CleanupGuard;
use crate::index::{DataFile, Filesystem, Index, OpenError, Tree};

/// How many notes an entry has at most: beyond that, all of them go before another one comes.
const MAX_NOTES: usize = 64;

/// Bytes that a note has at most. What a longer one would say is not noted.
pub(super) const MAX_NOTE: u64 = 256 << 10;

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
    _temporary: Option<CleanupGuard>,
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
    pub(super) fn temporary(self, held: CleanupGuard) -> Entry {
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
            DataRef::Own(own) => own.open(&self.dir),
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

    /// Notes that it, with the layers it needs, is being used now: what was used last is evicted last.
    pub fn touch(&self) {
        for entry in self.layers.iter().chain([self]) {
            // The order of eviction is not worth a failure: the cache may be read-only.
            if let Err(e) = entry.dir.touch(COMPLETE) {
                tracing::debug!("{e}");
            }
        }
    }

    /// Notes that it is what stands behind another key, such as that of an archive it was read from, and what is known of it
    /// there. The note goes with it; one that is cut short by a crash is for the reader to see.
    pub fn note(&self, origin: Key, note: &[u8]) {
        let write = || {
            let mut notes = self.dir.names()?;
            notes.retain(|name| name.as_bytes().starts_with(NOTE.as_bytes()));
            if notes.len() >= MAX_NOTES {
                notes.iter().try_for_each(|note| self.dir.remove_file(note))?;
            }
            // Written in place: processes that do so at the same time write the same bytes.
            let name = meta::note(origin);
            let file = self.dir.file_or_make(&name)?;
            let written = file.set_len(note.len() as u64).and_then(|()| file.write_all_at(note, 0));
            written.map_err(|e| self.dir.error("write", &name, e))
        };
        // Whoever finds none finds the entry in another way.
        if note.len() as u64 <= MAX_NOTE
            && let Err(e) = write()
        {
            tracing::debug!("{e}");
        }
    }

    /// Reads all its own files, and compares them with what was written.
    pub(super) fn verify(&self) -> Result<(), Fault> {
        self.index.verify().map_err(|e| Damage::Index(e.to_string()))?;
        for data in &self.meta.data {
            if let DataRef::Own(own) = data {
                own.verify(&self.dir)?;
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

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("key", &self.key).field("meta", &self.meta).finish_non_exhaustive()
    }
}
