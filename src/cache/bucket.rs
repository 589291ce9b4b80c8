//! The directories of one format version, and the two locks that rule them.
//!
//! - The *key lock* is the file `locks/<key>`, held alone by whoever adds, removes or fills what has that key in
//!   `entries` and `staging`. Nothing changes there without it, but for the time of use and the notes of an entry.
//! - The *use lock* is the flock of an entry's own directory, shared by whoever reads or fills it, and held alone
//!   by whoever deletes it. It goes with the directory when that is renamed.
//!
//! So a filler that publishes lets go of the key lock and keeps the use lock that it had all the time: an
//! exclusive flock that is turned into a shared one would be open to others for a moment (flock(2)).
//! Only a shared use lock is ever waited for, so nothing here can deadlock.
//!
//! Whatever must go is first moved to `temporary`, in one step, and deleted there as soon as nobody uses it: by
//! this process, or else by the next that opens the cache.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::data;
use super::dir::{self, Dir};
use super::error::LOCK;
use super::{CacheError, Key};

/// The directories of one format version.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Finished entries, by key.
    pub(super) entries: Dir,
    /// Entries being filled, by key.
    pub(super) staging: Dir,
    /// What lasts as long as its use lock: temporary entries, and what is about to be deleted. Named `<key>.<n>`.
    pub(super) temporary: Dir,
    /// Key locks.
    locks: Dir,
}

/// The names of a bucket's directories.
pub(super) const PARTS: [&str; 4] = ["entries", "staging", "temporary", "locks"];

impl Bucket {
    /// Opens the bucket, and makes what is missing of it.
    pub(super) fn open(dir: &Dir) -> Result<Arc<Bucket>, CacheError> {
        let [entries, staging, temporary, locks] = PARTS;
        Ok(Arc::new(Bucket {
            entries: dir.dir_or_make(entries)?,
            staging: dir.dir_or_make(staging)?,
            temporary: dir.dir_or_make(temporary)?,
            locks: dir.dir_or_make(locks)?,
        }))
    }

    /// The keys that `dir` has something for. Other names are nobody's, and left alone.
    pub(super) fn keys(dir: &Dir) -> Result<Vec<Key>, CacheError> {
        Ok(dir.names()?.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
    }

    /// The names in `temporary`, and whose they are.
    pub(super) fn temporaries(&self) -> Result<Vec<(String, Key)>, CacheError> {
        let parse = |name: &str| {
            let (key, number) = name.split_once('.')?;
            number.parse::<u32>().ok()?;
            Some((name.to_owned(), key.parse().ok()?))
        };
        Ok(self.temporary.names()?.iter().filter_map(|name| parse(name.to_str()?)).collect())
    }

    /// Takes the key lock, unless another has it.
    pub(super) fn try_lock(self: &Arc<Bucket>, key: Key) -> Result<Option<KeyLock>, CacheError> {
        let name = key.to_string();
        loop {
            let file = self.locks.file_or_make(&name)?;
            let failed = |e| self.locks.error(LOCK, &name, e);
            if !dir::try_lock(&file).map_err(failed)? {
                return Ok(None);
            }
            // Its last holder removed the file: was that after this process had opened it?
            let here = file.metadata().map_err(failed)?;
            if let Some(there) = self.locks.stat_at(&name)?
                && (there.st_dev, there.st_ino) == (here.dev(), here.ino())
            {
                return Ok(Some(KeyLock { bucket: Arc::clone(self), name, file }));
            }
        }
    }

    /// Opens what `parent` has for `key`, and takes its use lock together with others.
    pub(super) fn open_shared(&self, parent: &Dir, key: Key) -> Result<Option<Dir>, CacheError> {
        let name = key.to_string();
        while let Some(dir) = parent.dir(&name)? {
            dir.lock_shared()?;
            if parent.holds(&name, &dir)? {
                return Ok(Some(dir));
            }
        }
        Ok(None)
    }

    /// Moves what `parent` has for the lock's key to `temporary`, and says by which name.
    pub(super) fn retire(&self, parent: &Dir, lock: &KeyLock) -> Result<Option<String>, CacheError> {
        let mut number: u32 = 0;
        loop {
            let retired = format!("{}.{number}", lock.name);
            match parent.rename(&lock.name, &self.temporary, &retired) {
                Ok(()) => return Ok(Some(retired)),
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) if number < u32::MAX => number += 1,
                Err(e) => return Err(parent.error("move", &lock.name, e)),
            }
        }
    }

    /// Removes what `parent` has for the lock's key, which is `dir`: as soon as nobody else uses it. Without `dir` it is no
    /// directory, and nobody's.
    pub(super) fn remove(&self, parent: &Dir, lock: &KeyLock, dir: Option<&Dir>) -> Result<(), CacheError> {
        let Some(dir) = dir else { return parent.remove_stray(&lock.name) };
        match self.retire(parent, lock)? {
            Some(name) => self.reap(&name, dir),
            None => Ok(()),
        }
    }

    /// Removes what is in `staging` for the lock's key: whoever began to fill it is dead.
    pub(super) fn remove_dead(&self, lock: &KeyLock) -> Result<(), CacheError> {
        let dir = self.staging.dir(&lock.name)?;
        self.remove(&self.staging, lock, dir.as_ref())
    }

    /// Deletes what `temporary` has by that name, which is `dir`, unless somebody uses it other than through `dir`.
    pub(super) fn reap(&self, name: &str, dir: &Dir) -> Result<(), CacheError> {
        if !dir.try_lock()? || !self.temporary.holds(name, dir)? {
            return Ok(());
        }
        dir.clear()?;
        self.temporary.remove_dir(name)
    }

    /// How many bytes of data whoever fills this key has written.
    pub(super) fn bytes_staged(&self, key: Key) -> Result<u64, CacheError> {
        let Some(dir) = self.staging.dir(key.to_string())? else { return Ok(0) };
        data::bytes_in(&dir)
    }

    /// Removes what processes that were killed have left behind.
    pub(super) fn sweep(self: &Arc<Bucket>) -> Result<(), CacheError> {
        for key in Bucket::keys(&self.staging)? {
            if let Some(lock) = self.try_lock(key)? {
                self.remove_dead(&lock)?;
            }
        }
        for (name, _) in self.temporaries()? {
            match self.temporary.dir(&name)? {
                Some(dir) => self.reap(&name, &dir)?,
                None => self.temporary.remove_stray(&name)?,
            }
        }
        Ok(())
    }

    /// Removes the lock files that nobody holds.
    pub(super) fn sweep_locks(self: &Arc<Bucket>) -> Result<(), CacheError> {
        for key in Bucket::keys(&self.locks)? {
            let name = key.to_string();
            let Some(stat) = self.locks.stat_at(&name)? else { continue };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => drop(self.try_lock(key)?),
                // It is no lock, and as long as it is there nobody gets one.
                _ => self.locks.remove_all(&name)?,
            }
        }
        Ok(())
    }
}

/// The lock of a key, held alone. The kernel frees it when its holder dies.
#[derive(Debug)]
pub(super) struct KeyLock {
    bucket: Arc<Bucket>,
    name: String,
    file: File,
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        // While it is still locked: who opened it before sees that the name is gone, and tries again.
        if let Err(e) = self.bucket.locks.remove_file(&self.name) {
            tracing::debug!("{e}");
        }
        dir::unlock(&self.file);
    }
}
