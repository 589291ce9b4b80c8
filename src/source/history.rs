//! Which layer did what: to a whole image, and to one path of it.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::{Keep, LayerDetails, Source, SourceError, clean};
use crate::cache::Entry;
use crate::index::{Changes, DirCookie, FileType, Ino, LayerNo, Merge, Stat, Tree, TreeError};

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

/// What one layer of an image brings, and what of that nobody sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerUse {
    /// Which one.
    #[serde(flatten)]
    pub details: LayerDetails,
    /// The length of its regular files, holes included, each file counted once.
    pub bytes: u64,
    /// What of it the image does not show, since a later layer replaces or removes it.
    pub wasted: u64,
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

    /// What each layer of an image brings, the lowest first, and what of it the image shows.
    pub fn layer_use(&self) -> Result<Vec<LayerUse>, SourceError> {
        let failed = |error| SourceError::content(&self.spelled, error);
        let mut shown = HashMap::new();
        if let Some(root) = self.mounts.first() {
            lengths(root.filesystem.tree(), &mut shown).map_err(failed)?;
        }
        let mut used = Vec::new();
        for (number, (details, entry)) in self.layer_entries()?.enumerate() {
            let mut brought = HashMap::new();
            lengths(&**entry.index(), &mut brought).map_err(failed)?;
            let bytes = brought.into_values().fold(0, u64::saturating_add);
            let number = u16::try_from(number).unwrap_or(u16::MAX);
            let shown = shown.get(&LayerNo(number)).copied().unwrap_or(0);
            used.push(LayerUse { details: details.clone(), bytes, wasted: bytes.saturating_sub(shown) });
        }
        Ok(used)
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

/// Adds up the length of the regular files of a tree by the layer that brought them, each file once.
fn lengths(tree: &dyn Tree, lengths: &mut HashMap<LayerNo, u64>) -> Result<(), TreeError> {
    let mut seen: HashSet<Ino> = HashSet::new();
    let mut directories = vec![Ino::ROOT];
    while let Some(directory) = directories.pop() {
        let mut files = Vec::new();
        tree.read_dir(directory, DirCookie::START, &mut |entry| {
            match entry.file_type {
                FileType::Directory => directories.push(entry.ino),
                FileType::Regular => files.push(entry.ino),
                _ => {}
            }
            true
        })?;
        for ino in files {
            let stat = tree.stat(ino)?;
            if stat.nlink < 2 || seen.insert(ino) {
                let sum = lengths.entry(stat.layer).or_default();
                *sum = sum.saturating_add(stat.size);
            }
        }
    }
    Ok(())
}
