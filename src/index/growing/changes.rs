//! What a layer does to those below it, counted.

use serde::{Deserialize, Serialize};

use super::merge::{Merge, MergeError, Problem, used_directories};
use super::paths::Way;
use super::{GrowingTree, Ino, MAX_SYMLINKS};
use crate::index::{DirEntry, FileType, Index, Stat, Tree, Whiteout};

/// Paths that a layer adds to those below it, changes and removes. A directory that it describes again counts as changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Paths that were not there before.
    pub added: u64,
    /// Paths that were there, and that it has an entry for.
    pub changed: u64,
    /// Paths that are there no longer.
    pub removed: u64,
}

impl Merge {
    /// As [`add`](Merge::add), and counts what that does.
    pub fn add_counted<B: AsRef<[u8]> + Send + Sync>(
        &mut self,
        layer: &Index<B>,
    ) -> Result<Changes, MergeError> {
        let number = self.next_layer()?;
        let met = meet(&mut self.tree, layer).map_err(|problem| problem.of(number))?;
        let (names, before) = (self.tree.dentries.len(), self.tree.by_name.len());
        self.add(layer)?;
        let new = self.tree.dentries[names..].iter().filter(|dentry| !dentry.dead).count();
        let killed = before + new - self.tree.by_name.len();
        // What a whiteout took and the layer gave again is a new name; what was just replaced is the same one.
        let is_renewed = |met: &&Met| self.tree.dentries[met.dentry as usize].dead;
        let is_replaced = |met: &&Met| self.tree.dentries[met.dentry as usize].ino() != met.ino;
        let renewed = met.iter().filter(is_renewed).count();
        let changed = met.iter().filter(|met| is_renewed(met) || is_replaced(met) || met.described).count();
        Ok(Changes {
            added: new.saturating_sub(renewed) as u64,
            changed: changed as u64,
            removed: killed.saturating_sub(renewed) as u64,
        })
    }

    /// What a path leads to in the layers added so far. Symlinks are followed but in its last component.
    pub fn stat(&self, path: &[u8]) -> Option<Stat> {
        if path.is_empty() {
            return self.tree.stat(Ino::ROOT).ok();
        }
        self.tree.stat(self.tree.find(path)?).ok()
    }
}

/// A name that a layer has and those below it have too.
struct Met {
    dentry: u32,
    /// What it names before.
    ino: Option<Ino>,
    /// Whether the layer has an entry for it, and does not just pass through.
    described: bool,
}

/// The names below that a layer has as well, before it changes anything.
fn meet<B: AsRef<[u8]> + Send + Sync>(tree: &mut GrowingTree, layer: &Index<B>) -> Result<Vec<Met>, Problem> {
    let used = used_directories(layer)?;
    tree.patience.add_entries(layer.names());
    let mut met = Vec::new();
    let mut left = layer.names();
    let mut todo = vec![(Ino::ROOT, Ino::ROOT, MAX_SYMLINKS)];
    while let Some((from, dir, symlinks)) = todo.pop() {
        for entry in layer.children_of_walk(from, &mut left)? {
            let DirEntry { name, ino, file_type, .. } = entry?;
            let is_directory = file_type == FileType::Directory;
            let implicit = is_directory && layer.is_implicit(ino)?;
            if Whiteout::of(name).is_some() || (implicit && !used.contains(&ino)) {
                continue;
            }
            met.extend(tree.dentry(dir, name).map(|dentry| {
                let ino = tree.dentries[dentry as usize].ino();
                Met { dentry, ino, described: !implicit }
            }));
            if is_directory {
                let mut way = Way::new(symlinks);
                let below = tree.below(dir, name, implicit, &mut way);
                tree.patience.account(&mut way)?;
                todo.extend(below.map(|below| (ino, below, way.symlinks)));
            }
        }
    }
    Ok(met)
}
