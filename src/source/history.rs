//! Which layer did what: to a whole image, and to one path of it.

use serde::Serialize;

use super::{Keep, LayerDetails, Source, SourceError, clean};
use crate::cache::Entry;
use crate::index::{Changes, Merge, Stat, Tree};

/// What one layer of an image is and does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerHistory {
    /// Which one.
    #[serde(flatten)]
    pub details: LayerDetails,
    /// Paths that its tar has entries for, whiteouts included.
    pub entries: u64,
    /// Bytes of its files, holes not counted.
    pub bytes: u64,
    /// What it does to the layers below.
    #[serde(flatten)]
    pub changes: Changes,
}

/// What a layer did to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerChange {
    /// It was not there before.
    Added,
    /// A directory got other attributes, or the same again, and kept what is in it.
    Changed,
    /// Something else took its place.
    Replaced,
    /// It is there no longer.
    Removed,
}

impl Source {
    /// What each layer of an image does, the lowest first.
    pub fn history(&self) -> Result<Vec<LayerHistory>, SourceError> {
        let mut merge = Merge::new();
        let mut history = Vec::new();
        for (details, entry) in self.layer_entries()? {
            let index = entry.index();
            let changes = merge.add_counted(index).map_err(|e| SourceError::content(&self.spelled, e))?;
            let (entries, bytes) = (index.described(), index.summary().bytes);
            history.push(LayerHistory { details: details.clone(), entries, bytes, changes });
        }
        Ok(history)
    }

    /// Which layers did something to a path, by their numbers, the lowest first.
    ///
    /// Symlinks are followed but in the last component, as each layer finds them.
    pub fn blame(&self, path: &[u8]) -> Result<Vec<(usize, LayerChange)>, SourceError> {
        let path = clean(path).join(&b'/');
        let mut merge = Merge::new();
        let mut before: Option<Stat> = None;
        let mut changes = Vec::new();
        for (number, (_, entry)) in self.layer_entries()?.enumerate() {
            merge.add(entry.index()).map_err(|e| SourceError::content(&self.spelled, e))?;
            let after = merge.stat(&path);
            let change = match (before, after) {
                (None, None) => None,
                (None, Some(_)) => Some(LayerChange::Added),
                (Some(_), None) => Some(LayerChange::Removed),
                (Some(before), Some(after)) if before.ino != after.ino => Some(LayerChange::Replaced),
                (Some(before), Some(after)) => (before.layer != after.layer).then_some(LayerChange::Changed),
            };
            changes.extend(change.map(|change| (number, change)));
            before = after;
        }
        Ok(changes)
    }

    fn layer_entries(&self) -> Result<impl Iterator<Item = (&LayerDetails, &Entry)>, SourceError> {
        match self.mounts.first().map(|root| &root.keep) {
            Some(Keep::Entry(entry)) if !self.details.layers.is_empty() => {
                Ok(self.details.layers.iter().zip(entry.layers()))
            }
            _ => Err(self.has_no_layers()),
        }
    }
}
