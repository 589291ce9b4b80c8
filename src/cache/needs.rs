//! Which entries need which others, as images need their layers.

use std::collections::hash_map::Entry as Place;
use std::collections::{HashMap, HashSet};

use super::bucket::Bucket;
use super::meta::{self, DataRef, Fault};
use super::{CacheError, EntryInfo, Key, Meta};

/// What each finished entry needs, as far as somebody has looked.
pub(super) struct Needs {
    of: HashMap<Key, Vec<Key>>,
}

impl Needs {
    /// What a listing tells of it.
    pub(super) fn listed(infos: &[EntryInfo]) -> Needs {
        let finished = infos.iter().filter_map(|info| Some((info.key, info.meta.as_ref()?)));
        Needs { of: finished.map(|(key, meta)| (key, layers(meta).collect())).collect() }
    }

    /// How many finished entries need this one now. What has come since the last look is looked at.
    ///
    /// To be asked by who has its use lock alone. A filler shares the use locks of the layers until its entry is published:
    /// so whoever needs this one is there already, and nobody comes to need it as long as the lock is held.
    pub(super) fn count(&mut self, bucket: &Bucket, needed: Key) -> Result<usize, CacheError> {
        let there: HashSet<Key> = Bucket::keys(&bucket.entries)?.into_iter().collect();
        self.of.retain(|key, _| there.contains(key));
        for key in there {
            if let Place::Vacant(place) = self.of.entry(key)
                && let Some(meta) = finished(bucket, key)?
            {
                place.insert(layers(&meta).collect());
            }
        }
        Ok(self.of.values().filter(|needs| needs.contains(&needed)).count())
    }
}

/// The metadata of an entry that is finished and sound.
fn finished(bucket: &Bucket, key: Key) -> Result<Option<Meta>, CacheError> {
    let Some(dir) = bucket.entries.dir(key.to_string())? else { return Ok(None) };
    match meta::read(bucket, &dir, key) {
        Ok(meta) => Ok(Some(meta)),
        Err(Fault::Damage(_)) => Ok(None),
        Err(Fault::Error(error)) => Err(error),
    }
}

/// The entries that one needs.
pub(super) fn layers(meta: &Meta) -> impl Iterator<Item = Key> {
    meta.data.iter().filter_map(|data| match data {
        DataRef::Layer { key } => Some(*key),
        DataRef::Own(_) | DataRef::Borrowed { .. } => None,
    })
}
