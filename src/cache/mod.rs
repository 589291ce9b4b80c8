//! The cache of finished filesystems: entries, keys, locks, eviction.
//!
//! A [`Cache`] is a directory of [`Entry`]s, each the index and the data of one filesystem, named by a [`Key`]
//! over its [`Content`]. [`Cache::fill`] gives the entry, or a [`Filler`] that makes it: one process at a time,
//! in private, visible to others in one step. What is partial or damaged is never served: it is removed, and
//! made again. `docs/format.md` describes the files and the locks.
//!
//! Of the crate, this room uses [`index`](crate::index) and the words of [`image`](crate::image), nothing else.

mod bucket;
mod data;
mod dir;
mod entry;
mod error;
mod filler;
mod images;
mod key;
mod maintenance;
mod meta;
mod needs;
mod root;

use std::fmt::Display;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bucket::{Bucket, KeyLock};
pub use data::{DataWriter, OwnData, Written};
use dir::Dir;
pub use entry::Entry;
use entry::MAX_NOTE;
pub use error::CacheError;
pub use filler::{Data, Filler};
pub use key::{Content, Key, Kind, NotAKey, Obtained, tar_identity};
pub use maintenance::{EntryInfo, Pruned, Removal, State, Verified};
use meta::Fault;
pub(crate) use meta::text;
pub use meta::{About, Damage, DataRef, Meta, Part};

/// The version of all that is in the cache: its layout, its metadata and the index files.
///
/// Entries of another version are never read; those of an earlier one are removed by [`Cache::prune`].
pub const FORMAT_VERSION: u32 = 1;

// When this fails, raise FORMAT_VERSION too: it is what keeps the old entries apart.
const _: () = assert!(crate::index::FORMAT_VERSION == 1);

/// What the cache may occupy on the disk where the user has not said otherwise: 20 GiB.
pub const DEFAULT_LIMIT: u64 = 20 << 30;

/// How often a process that waits for another looks whether it is its turn.
const POLL: Duration = Duration::from_millis(50);

/// A directory of finished filesystems. Cheap to clone; usable from several threads.
#[derive(Clone, Debug)]
pub struct Cache {
    root: Arc<Dir>,
    bucket: Arc<Bucket>,
    limit: u64,
}

/// What [`Cache::fill`] found.
#[derive(Debug)]
pub enum Claim {
    /// The entry is there, perhaps made by somebody else meanwhile.
    Entry(Entry),
    /// It is this caller's turn to make it.
    Filler(Filler),
}

/// What is seen of another process that fills the same entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// How many bytes of data it has written.
    pub bytes: u64,
}

impl Cache {
    /// Where the cache is: `explicit`, or else `$XDG_CACHE_HOME/imagefs`, or else `~/.cache/imagefs`.
    pub fn locate(explicit: Option<PathBuf>) -> Result<PathBuf, CacheError> {
        root::locate(explicit, std::env::var_os("XDG_CACHE_HOME"), std::env::home_dir())
    }

    /// Opens the cache, and makes it if need be. For `dir` see [`locate`](Cache::locate).
    ///
    /// A directory that another user owns or could write to is refused, and so is one that holds something else.
    /// What killed processes have left behind is removed.
    pub fn open(dir: Option<PathBuf>) -> Result<Cache, CacheError> {
        let root = root::open(&Cache::locate(dir)?)?;
        let bucket = Bucket::open(&root.dir_or_make(format!("v{FORMAT_VERSION}"))?)?;
        if let Err(e) = bucket.sweep() {
            tracing::warn!("leftovers in the cache stay for now: {e}");
        }
        Ok(Cache { root: Arc::new(root), bucket, limit: DEFAULT_LIMIT })
    }

    /// Sets what [`Cache::trim`] leaves: so many bytes on the disk.
    pub fn with_limit(self, limit: u64) -> Cache {
        Cache { limit, ..self }
    }

    /// Evicts what was used longest ago, as far as the limit is exceeded. For after something was added.
    ///
    /// What goes wrong is told to the log alone: the cache is larger than it should be, and that is all.
    pub fn trim(&self) {
        match self.prune(self.limit) {
            Ok(pruned) if pruned.removed.is_empty() => {}
            Ok(pruned) => tracing::info!("evicted {} entries from the cache", pruned.removed.len()),
            Err(error) => tracing::warn!("the cache may exceed its limit: {error}"),
        }
    }

    /// The cache directory, for messages.
    pub fn dir(&self) -> &Path {
        self.root.path()
    }

    /// The entry of this key, if there is a sound one. It counts as used now.
    ///
    /// A damaged entry is removed, which the log tells.
    pub fn lookup(&self, key: Key) -> Result<Option<Entry>, CacheError> {
        let entry = self.read(key, |damage, dir| self.remove_damaged(key, damage, dir))?;
        if let Some(entry) = &entry {
            entry.touch();
        }
        Ok(entry)
    }

    /// The entry that was used last of those whose metadata is `wanted`.
    ///
    /// For a source that is known by less than its whole [`Content`], such as an image by its id alone.
    pub fn find(&self, mut wanted: impl FnMut(&Meta) -> bool) -> Result<Option<Entry>, CacheError> {
        let mut best = None;
        for key in Bucket::keys(&self.bucket.entries)? {
            let Some(entry) = self.read(key, |_, _| Ok(()))? else { continue };
            if wanted(entry.meta()) {
                best = best.max(Some((entry.last_used()?, key)));
            }
        }
        match best {
            Some((_, key)) => self.lookup(key),
            None => Ok(None),
        }
    }

    /// The entry for which something was [noted](Entry::note) under this key, if there is a sound one, and what that is.
    /// It counts as used now.
    pub fn noted(&self, origin: Key) -> Result<Option<(Entry, Vec<u8>)>, CacheError> {
        let entries = &self.bucket.entries;
        for key in Bucket::keys(entries)? {
            if let Some(dir) = entries.dir(key.to_string())?
                && let Some(note) = dir.read(&meta::note(origin), MAX_NOTE)?
                && let Some(entry) = self.lookup(key)?
            {
                return Ok(Some((entry, note)));
            }
        }
        Ok(None)
    }

    /// [Notes](Entry::note) something for an entry under a key that may have led to another one before: it does so no longer.
    pub fn note_alone(&self, entry: &Entry, origin: Key, note: &[u8]) {
        let forget = || {
            let entries = &self.bucket.entries;
            for key in Bucket::keys(entries)?.into_iter().filter(|key| *key != entry.key()) {
                if let Some(dir) = entries.dir(key.to_string())? {
                    dir.remove_file(meta::note(origin))?;
                }
            }
            Ok::<_, CacheError>(())
        };
        match forget() {
            Ok(()) => entry.note(origin, note),
            // Two entries of one key would be worse than none.
            Err(e) => tracing::debug!("{e}"),
        }
    }

    /// The entry of this content, or else the right to make it.
    ///
    /// While another process makes it, this waits, and calls `waiting` every now and then, which may break off.
    pub fn fill(
        &self,
        content: Content,
        waiting: &mut dyn FnMut(Waiting) -> ControlFlow<()>,
    ) -> Result<Claim, CacheError> {
        let key = content.key();
        loop {
            if let Some(entry) = self.lookup(key)? {
                return Ok(Claim::Entry(entry));
            }
            if let Some(lock) = self.bucket.try_lock(key)? {
                return self.fill_locked(content, lock);
            }
            let bytes = self.bucket.bytes_staged(key)?;
            if waiting(Waiting { bytes }).is_break() {
                return Err(CacheError::GaveUp);
            }
            std::thread::sleep(POLL);
        }
    }

    /// From here to the publication nobody else has the key lock.
    fn fill_locked(&self, content: Content, lock: KeyLock) -> Result<Claim, CacheError> {
        let key = content.key();
        // It may have been published between the look and the lock.
        let entry = self.read(key, |damage, dir| {
            warn_damaged(key, &damage);
            self.bucket.remove(&self.bucket.entries, &lock, dir)
        })?;
        match entry {
            Some(entry) => Ok(Claim::Entry(entry)),
            None => Ok(Claim::Filler(Filler::new(&self.bucket, content, lock)?)),
        }
    }

    /// Removes an entry that turned out wrong in use.
    ///
    /// Other processes that use it go on, and nobody gets it any more.
    pub fn discard(&self, entry: Entry, reason: impl Display) -> Result<(), CacheError> {
        self.remove_damaged(entry.key(), Damage::Reported(reason.to_string()), Some(entry.dir()))
    }

    /// The key of the one entry whose key begins with `prefix`, at least four hexadecimal digits.
    pub fn resolve(&self, prefix: &str) -> Result<Key, CacheError> {
        let digits = prefix.to_ascii_lowercase();
        if digits.len() < 4 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(CacheError::BadKey(prefix.chars().take(100).collect()));
        }
        let mut keys = Bucket::keys(&self.bucket.entries)?;
        keys.retain(|key| key.to_string().starts_with(&digits));
        match keys.as_slice() {
            [key] => Ok(*key),
            [] => Err(CacheError::NoSuchKey(digits.chars().take(100).collect())),
            several => Err(CacheError::AmbiguousKey { prefix: digits, count: several.len() }),
        }
    }

    /// The entry of this key; a damaged one is shown to `damaged`, with its directory if it is one, and is none.
    fn read(
        &self,
        key: Key,
        damaged: impl FnOnce(Damage, Option<&Dir>) -> Result<(), CacheError>,
    ) -> Result<Option<Entry>, CacheError> {
        let entries = &self.bucket.entries;
        let Some(dir) = self.bucket.open_shared(entries, key)? else {
            if entries.stray(key.to_string())?.is_some() {
                damaged(Damage::NotADirectory, None)?;
            }
            return Ok(None);
        };
        match Entry::read(&self.bucket, key, &dir) {
            Ok((meta, index, layers)) => Ok(Some(Entry::new(key, Arc::new(dir), meta, index, layers))),
            Err(Fault::Damage(damage)) => damaged(damage, Some(&dir)).map(|()| None),
            Err(Fault::Error(error)) => Err(error),
        }
    }

    /// Removes a damaged entry, if `dir` is still it.
    fn remove_damaged(&self, key: Key, damage: Damage, dir: Option<&Dir>) -> Result<(), CacheError> {
        let entries = &self.bucket.entries;
        // Without the key lock it is not this process's business: somebody is publishing it, or removing it.
        let Some(lock) = self.bucket.try_lock(key)? else { return Ok(()) };
        let name = key.to_string();
        let is_there = match dir {
            Some(dir) => entries.holds(&name, dir)?,
            None => entries.stray(&name)?.is_some(),
        };
        if is_there {
            warn_damaged(key, &damage);
            self.bucket.remove(entries, &lock, dir)?;
        }
        Ok(())
    }
}

fn warn_damaged(key: Key, damage: &Damage) {
    tracing::warn!("cache entry {} is removed: {damage}", key.short());
}
