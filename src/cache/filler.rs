//! An entry that is being made.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use memmap2::Mmap;

use super::bucket::{Bucket, KeyLock};
use super::data::{DataWriter, Written};
use super::dir::Dir;
use super::meta::{self, About, COMPLETE, DATA, DataRef, INDEX, META, Meta, Part};
use super::{CacheError, Content, Entry, Key};
use crate::cleanup::{Cleanup, CleanupGuard};
use crate::index::{DataFile, ExternalRuns, FileIdentity, Index};
use crate::sparse_file;

/// An entry that is being made, by this process alone. Dropped before it is published, it leaves nothing; neither does it when
/// the process ends by [`cleanup::exit`](crate::cleanup::exit).
#[derive(Debug)]
pub struct Filler {
    bucket: Arc<Bucket>,
    content: Content,
    key: Key,
    /// Holds the use lock, from the making of the directory to the last use of the entry.
    dir: Arc<Dir>,
    lock: Arc<KeyLock>,
    /// What is set apart of its data: what reads it while it is being written has the same list as what writes it.
    external: ExternalRuns,
    /// The directory, until it is an entry's.
    held: CleanupGuard,
}

/// The data of one layer of a filesystem that is about to be published.
#[derive(Debug)]
pub enum Data {
    /// Written by the filler.
    Own(Written),
    /// An archive of the user's, to be served in place.
    Borrowed {
        /// Its absolute path.
        path: PathBuf,
        /// What it was when it was opened for indexing.
        identity: FileIdentity,
    },
    /// The data of another entry, which has one layer.
    Layer(Box<Entry>),
}

/// What [`Filler::finish`] has gathered.
struct Finished {
    index: Index<Mmap>,
    meta: Meta,
    layers: Vec<Entry>,
    /// What was written of its own.
    data: Vec<DataFile>,
    /// The other files, but for `.complete`, by their names.
    files: Vec<(&'static str, File)>,
    /// The size and checksum of the metadata.
    seal: Part,
}

impl Filler {
    /// Starts with an empty directory; a dead predecessor's is removed.
    pub(super) fn new(bucket: &Arc<Bucket>, content: Content, lock: KeyLock) -> Result<Filler, CacheError> {
        let key = content.key();
        bucket.remove_dead(&lock)?;
        let lock = Arc::new(lock);
        let made = CleanupGuard::make(|let_go| {
            let dir = Arc::new(bucket.staging.make_dir(key.to_string())?);
            *let_go = removal(bucket, |bucket| &bucket.staging, &lock, &dir);
            dir.lock_shared()?;
            Ok(dir)
        });
        let (bucket, external) = (Arc::clone(bucket), ExternalRuns::default());
        made.map(|(dir, held)| Filler { bucket, content, key, dir, lock, external, held })
    }

    /// The name that the entry will have.
    pub fn key(&self) -> Key {
        self.key
    }

    /// Makes the data file. To be called once.
    pub fn create_data(&self) -> Result<DataWriter, CacheError> {
        DataWriter::new(&self.dir, &self.external)
    }

    /// Opens the data file for reading what has been written of it.
    pub fn open_data(&self) -> Result<DataFile, CacheError> {
        Ok(DataFile::parted(self.dir.existing_file(DATA)?, self.external.clone()))
    }

    /// Makes a file for what is needed only until the entry is there. It has no name, and goes when it is closed.
    pub fn create_scratch(&self) -> Result<File, CacheError> {
        sparse_file::unnamed(&*self.dir).map_err(|e| self.dir.error("make a temporary file in", "", e))
    }

    /// Makes the index file, for [`write_index`](crate::index::write_index) with the [key](Key::as_bytes) as the
    /// identity. To be called once.
    pub fn create_index(&self) -> Result<File, CacheError> {
        self.dir.make_file(INDEX)
    }

    /// The error for a failed write to what [`create_index`](Filler::create_index) gave.
    pub fn index_error(&self, source: io::Error) -> CacheError {
        self.dir.error("write", INDEX, source)
    }

    /// Makes it an entry that lasts. Returns when it is on the disk.
    ///
    /// `data` has the data of each layer, in the order of [`LayerNo`](crate::index::LayerNo).
    pub fn publish(self, about: About, data: Vec<Data>) -> Result<Entry, CacheError> {
        let Finished { index, meta, layers, data, files, seal } = self.finish(about, data)?;
        for data in data {
            data.sync_all().map_err(|e| self.dir.error("write", DATA, e))?;
        }
        for (name, file) in files {
            self.sync(name, &file)?;
        }
        self.dir.sync()?;
        let Bucket { staging, entries, .. } = &*self.bucket;
        let name = self.key.to_string();
        self.held.change(|let_go| {
            staging.rename(&name, entries, &name).map_err(|e| self.dir.error("publish", "", e))?;
            *let_go = removal(&self.bucket, |bucket| &bucket.entries, &self.lock, &self.dir);
            Ok::<_, CacheError>(())
        })?;
        entries.sync()?;
        self.sync(COMPLETE, &meta::seal(&self.dir, seal)?)?;
        self.dir.sync()?;
        self.held.change(|let_go| *let_go = None);
        Ok(Entry::new(self.key, Arc::clone(&self.dir), meta, index, layers))
    }

    /// Makes it an entry that nobody else finds, and that is removed when it is dropped, or by
    /// [`cleanup::exit`](crate::cleanup::exit).
    ///
    /// If its owner is killed, the next process that opens the cache removes it.
    pub fn publish_temporary(self, about: About, data: Vec<Data>) -> Result<Entry, CacheError> {
        // Nothing is synced: it does not outlive this process, let alone the machine.
        let Finished { index, meta, layers, seal, .. } = self.finish(about, data)?;
        meta::seal(&self.dir, seal)?;
        let gone = || self.dir.error("publish", "", io::ErrorKind::NotFound);
        self.held.change(|let_go| {
            let name = self.bucket.retire(&self.bucket.staging, &self.lock)?.ok_or_else(gone)?;
            let (bucket, dir) = (Arc::clone(&self.bucket), Arc::clone(&self.dir));
            *let_go = Some(Box::new(move || {
                if let Err(e) = bucket.reap(&name, &dir) {
                    tracing::debug!("{e}");
                }
            }));
            Ok::<_, CacheError>(())
        })?;
        let dir = Arc::clone(&self.dir);
        Ok(Entry::new(self.key, dir, meta, index, layers).temporary(self.held))
    }

    /// Writes the metadata.
    fn finish(&self, about: About, data: Vec<Data>) -> Result<Finished, CacheError> {
        let index = self.dir.existing_file(INDEX)?;
        // What does not open now would be found damaged, and made again, at every mount.
        let opened = Index::open(&index, self.key.as_bytes());
        let opened = opened.map_err(|e| self.dir.error("publish", INDEX, io::Error::other(e)))?;
        let mut files = vec![(INDEX, index)];
        let (mut layers, mut written) = (Vec::new(), Vec::new());
        let mut refs = Vec::new();
        for data in data {
            refs.push(match data {
                Data::Own(Written { data, own }) => {
                    written.push(data);
                    DataRef::Own(own)
                }
                Data::Borrowed { path, identity } => DataRef::Borrowed { path, identity },
                Data::Layer(layer) => {
                    let key = layer.key();
                    layers.push(*layer);
                    DataRef::Layer { key }
                }
            });
        }
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
        let meta = Meta { content: self.content.clone(), about, created, data: refs };
        let (file, seal) = meta::write(&self.dir, &meta)?;
        files.push((META, file));
        Ok(Finished { index: opened, meta, layers, data: written, files, seal })
    }

    fn sync(&self, name: &str, file: &File) -> Result<(), CacheError> {
        file.sync_all().map_err(|e| self.dir.error("write", name, e))
    }
}

/// How `dir` is let go of while it is what a directory of the bucket has for the lock's key.
fn removal(
    bucket: &Arc<Bucket>,
    parent: fn(&Bucket) -> &Dir,
    lock: &Arc<KeyLock>,
    dir: &Arc<Dir>,
) -> Cleanup {
    let (bucket, lock, dir) = (Arc::clone(bucket), Arc::clone(lock), Arc::clone(dir));
    Some(Box::new(move || {
        if let Err(e) = bucket.remove(parent(&bucket), &lock, Some(&dir)) {
            tracing::warn!("{e}; the next run removes it");
        }
    }))
}
