//! What `imagefs cache` does: list, remove, prune, verify.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::Stat;

use super::bucket::{self, Bucket};
use super::dir::{Dir, size_on_disk};
use super::meta::{self, COMPLETE, Fault};
use super::needs::{self, Needs};
use super::{Cache, CacheError, Damage, Entry, FORMAT_VERSION, Key, Meta};

/// What is known about something in the cache.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryInfo {
    /// Its name.
    pub key: Key,
    /// How it stands with it.
    pub state: State,
    /// What was written about it, where that can be read.
    pub meta: Option<Meta>,
    /// The bytes that it occupies, without those of the layers that it shares.
    pub size_on_disk: u64,
    /// When it was used last, or for want of that written to.
    pub last_used: SystemTime,
    /// Whether a process uses it: then it cannot be removed.
    pub in_use: bool,
    /// The finished entries that need this one, as images need their layers.
    pub needed_by: Vec<Key>,
}

/// How it stands with something in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It can be served.
    Complete,
    /// It is being made.
    Filling,
    /// It goes with the process that uses it.
    Temporary,
    /// It is of no use, and will be made again.
    Damaged(Damage),
}

/// What became of an entry that was to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It is gone, and so many bytes are free.
    Removed {
        /// How many.
        bytes: u64,
    },
    /// A process uses it.
    InUse,
    /// So many other entries need it: they must go first.
    Needed {
        /// How many.
        by: usize,
    },
    /// There was none.
    Absent,
}

/// What [`Cache::prune`] did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pruned {
    /// What was removed, in that order.
    pub removed: Vec<EntryInfo>,
    /// The bytes that were freed.
    pub freed: u64,
    /// The bytes that the cache occupies now.
    pub kept: u64,
}

/// What [`Cache::verify`] says of an entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// Which.
    pub key: Key,
    /// What is wrong with it; it has been removed.
    pub damage: Option<Damage>,
}

impl Entry {
    /// When it was last [touched](Entry::touch).
    pub(super) fn last_used(&self) -> Result<SystemTime, CacheError> {
        last_used(self.dir())
    }
}

impl Cache {
    /// Everything in the cache, what was used last first.
    pub fn ls(&self) -> Result<Vec<EntryInfo>, CacheError> {
        let Bucket { entries, staging, temporary, .. } = &*self.bucket;
        let by_key = |key: Key| (key.to_string(), key);
        let mut all = Vec::new();
        for (name, key) in Bucket::keys(entries)?.into_iter().map(by_key) {
            all.extend(self.inspect(entries, &name, key)?);
        }
        for (name, key) in Bucket::keys(staging)?.into_iter().map(by_key) {
            let info = self.inspect(staging, &name, key)?;
            all.extend(info.map(|info| EntryInfo { state: State::Filling, ..info }));
        }
        for (name, key) in self.bucket.temporaries()? {
            let info = self.inspect(temporary, &name, key)?;
            all.extend(info.map(|info| EntryInfo { state: State::Temporary, ..info }));
        }
        let mut needed: HashMap<Key, Vec<Key>> = HashMap::new();
        for (key, layer) in all.iter().flat_map(|info| needed_of(info).map(|layer| (info.key, layer))) {
            needed.entry(layer).or_default().push(key);
        }
        for info in &mut all {
            info.needed_by = needed.get(&info.key).cloned().unwrap_or_default();
        }
        all.sort_by_key(|info| (std::cmp::Reverse(info.last_used), info.key));
        Ok(all)
    }

    fn inspect(&self, parent: &Dir, name: &str, key: Key) -> Result<Option<EntryInfo>, CacheError> {
        let needed_by = Vec::new();
        let Some(dir) = parent.dir(name)? else {
            return Ok(parent.stray(name)?.map(|stray| EntryInfo {
                key,
                state: State::Damaged(Damage::NotADirectory),
                meta: None,
                size_on_disk: size_on_disk(&stray),
                last_used: modified(&stray),
                in_use: false,
                needed_by,
            }));
        };
        // Taken alone for as long as it takes to look: that nobody has it is not to be learnt in another way.
        let in_use = !dir.try_lock()? || dir.is_mounted()?;
        let (meta, state) = match meta::read(&self.bucket, &dir, key) {
            Ok(meta) => (Some(meta), State::Complete),
            Err(Fault::Damage(Damage::Incomplete)) if in_use => (None, State::Filling),
            Err(Fault::Damage(damage)) => (None, State::Damaged(damage)),
            Err(Fault::Error(error)) => return Err(error),
        };
        let (size_on_disk, last_used) = (dir.size_on_disk()?, last_used(&dir)?);
        // What was removed meanwhile looked damaged.
        let there = parent.holds(name, &dir)?;
        Ok(there.then_some(EntryInfo { key, state, meta, size_on_disk, last_used, in_use, needed_by }))
    }

    /// Removes entries, and says of each what became of it. Images go before the layers that they need.
    pub fn rm(&self, keys: &[Key]) -> Result<Vec<(Key, Removal)>, CacheError> {
        let infos = self.ls()?;
        let mut needs = Needs::listed(&infos);
        let layers: HashSet<Key> =
            infos.iter().filter(|info| !info.needed_by.is_empty()).map(|info| info.key).collect();
        let (layers, others): (Vec<Key>, Vec<Key>) = keys.iter().partition(|key| layers.contains(key));
        let in_order = others.into_iter().chain(layers);
        in_order.map(|key| Ok((key, evict(&self.bucket, key, || needs.count(&self.bucket, key))?))).collect()
    }

    /// Removes what was used longest ago until the cache occupies at most `max_size` bytes.
    ///
    /// What is in use stays, and so does a layer that an entry which stays needs. Damaged entries and those of
    /// earlier format versions go in any case.
    pub fn prune(&self, max_size: u64) -> Result<Pruned, CacheError> {
        self.bucket.sweep_locks()?;
        self.bucket.sweep()?;
        self.remove_old_buckets()?;

        let mut infos: HashMap<Key, EntryInfo> = HashMap::new();
        let mut pruned = Pruned::default();
        let all = self.ls()?;
        let mut needs = Needs::listed(&all);
        for info in all {
            pruned.kept += info.size_on_disk;
            if !info.in_use && matches!(info.state, State::Complete | State::Damaged(_)) {
                infos.insert(info.key, info);
            }
        }
        let rank = |info: &EntryInfo| (info.state == State::Complete, info.last_used, info.key);
        let mut queue: BTreeSet<_> =
            infos.values().filter(|info| info.needed_by.is_empty()).map(rank).collect();
        while let Some((complete, _, key)) = queue.pop_first() {
            if complete && pruned.kept <= max_size {
                break;
            }
            let removal = evict(&self.bucket, key, || needs.count(&self.bucket, key))?;
            let Removal::Removed { bytes } = removal else { continue };
            pruned.freed += bytes;
            pruned.kept = pruned.kept.saturating_sub(bytes);
            let Some(gone) = infos.remove(&key) else { continue };
            for layer in needed_of(&gone) {
                if let Some(layer) = infos.get_mut(&layer) {
                    layer.needed_by.retain(|by| *by != key);
                    if layer.needed_by.is_empty() {
                        queue.insert(rank(layer));
                    }
                }
            }
            pruned.removed.push(gone);
        }
        Ok(pruned)
    }

    /// Reads every byte of these entries and compares it with what was written.
    ///
    /// A damaged entry is removed; one that is not there is left out of the answer.
    pub fn verify(&self, keys: &[Key]) -> Result<Vec<Verified>, CacheError> {
        let mut result = Vec::new();
        for &key in keys {
            let mut damage = None;
            let entry = self.read(key, |found, dir| {
                damage = Some(found.clone());
                self.remove_damaged(key, found, dir)
            })?;
            if let Some(entry) = &entry {
                match entry.verify() {
                    // What is made of it can be made again.
                    Ok(()) => entry.dir().remove_images()?,
                    Err(Fault::Error(error)) => return Err(error),
                    Err(Fault::Damage(found)) => {
                        self.remove_damaged(key, found.clone(), Some(entry.dir()))?;
                        damage = Some(found);
                    }
                }
            }
            if entry.is_some() || damage.is_some() {
                result.push(Verified { key, damage });
            }
        }
        Ok(result)
    }

    /// Removes what earlier versions of imagefs have left, as far as nobody uses it.
    fn remove_old_buckets(&self) -> Result<(), CacheError> {
        for name in self.root.names()? {
            let version = name.to_str().and_then(|name| name.strip_prefix('v')?.parse::<u32>().ok());
            if version.is_none_or(|version| version >= FORMAT_VERSION) {
                continue;
            }
            let Some(dir) = self.root.dir(&name)? else { continue };
            if let Err(e) = clear_bucket(&dir) {
                tracing::warn!("something of an earlier version stays in the cache: {e}");
                continue;
            }
            // What is in use keeps its directory, and that the bucket.
            let removed = bucket::PARTS.iter().try_for_each(|part| dir.remove_dir(part));
            if let Err(e) = removed.and_then(|()| self.root.remove_dir(&name)) {
                tracing::debug!("{e}");
            }
        }
        Ok(())
    }
}

/// Removes all that nobody uses of an earlier version's bucket.
fn clear_bucket(dir: &Dir) -> Result<(), CacheError> {
    let bucket = Bucket::open(dir)?;
    bucket.sweep_locks()?;
    bucket.sweep()?;
    for key in Bucket::keys(&bucket.entries)? {
        evict(&bucket, key, || Ok(0))?;
    }
    Ok(())
}

/// Removes an entry that nobody uses, and that no other needs: `needed_by` counts those, once nobody else can come to need it.
fn evict(
    bucket: &Arc<Bucket>,
    key: Key,
    needed_by: impl FnOnce() -> Result<usize, CacheError>,
) -> Result<Removal, CacheError> {
    let Some(lock) = bucket.try_lock(key)? else { return Ok(Removal::InUse) };
    let Some(dir) = bucket.entries.dir(key.to_string())? else {
        let Some(stray) = bucket.entries.stray(key.to_string())? else { return Ok(Removal::Absent) };
        bucket.remove(&bucket.entries, &lock, None)?;
        return Ok(Removal::Removed { bytes: size_on_disk(&stray) });
    };
    if !dir.try_lock()? || dir.is_mounted()? {
        return Ok(Removal::InUse);
    }
    let by = needed_by()?;
    if by > 0 {
        return Ok(Removal::Needed { by });
    }
    let bytes = dir.size_on_disk()?;
    bucket.remove(&bucket.entries, &lock, Some(&dir))?;
    Ok(Removal::Removed { bytes })
}

/// The entries that this one needs.
fn needed_of(info: &EntryInfo) -> impl Iterator<Item = Key> {
    info.meta.iter().flat_map(needs::layers)
}

fn last_used(dir: &Dir) -> Result<SystemTime, CacheError> {
    let stat = match dir.stat_at(COMPLETE)? {
        Some(stat) => stat,
        None => dir.stat()?,
    };
    Ok(modified(&stat))
}

fn modified(stat: &Stat) -> SystemTime {
    let secs = u64::try_from(stat.st_mtime).unwrap_or(0);
    let nanos = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    UNIX_EPOCH.checked_add(Duration::new(secs, nanos.min(999_999_999))).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::cache::{About, Claim, Content, Data, Kind, Obtained};
    use crate::index::{GrowingTree, write_index};

    fn put(cache: &Cache, kind: Kind, layer: Option<Entry>) -> Entry {
        let (identity, obtained) = (kind.name().to_owned(), Obtained::Layers);
        let content = Content { kind, identity, platform: None, layers: Vec::new(), obtained };
        let Claim::Filler(filler) = cache.fill(content, &mut |_| ControlFlow::Break(())).unwrap() else {
            panic!("it is there already");
        };
        let mut tree = GrowingTree::default();
        tree.finish().unwrap();
        write_index(&tree, filler.key().as_bytes(), filler.create_index().unwrap()).unwrap();
        let data = match layer {
            Some(layer) => Data::Layer(Box::new(layer)),
            None => Data::Own(filler.create_data().unwrap().finish()),
        };
        let about = About { source: "x".into(), entries: 0, bytes: 0, details: serde_json::Value::Null };
        filler.publish(about, vec![data]).unwrap()
    }

    #[test]
    fn a_layer_stays_for_an_image_that_came_after_the_look() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(dir.path().join("cache"))).unwrap();
        let layer = put(&cache, Kind::Layer, None).key();
        let mut needs = Needs::listed(&cache.ls().unwrap());
        let image = put(&cache, Kind::Image, cache.lookup(layer).unwrap()).key();
        let mut evict = |key| evict(&cache.bucket, key, || needs.count(&cache.bucket, key)).unwrap();
        assert_eq!(evict(layer), Removal::Needed { by: 1 });
        assert!(matches!(evict(image), Removal::Removed { .. }));
        // It went, and is there again.
        put(&cache, Kind::Image, cache.lookup(layer).unwrap());
        assert_eq!(evict(layer), Removal::Needed { by: 1 });
        assert!(matches!(evict(image), Removal::Removed { .. }));
        assert!(matches!(evict(layer), Removal::Removed { .. }));
    }
}
