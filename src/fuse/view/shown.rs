//! Where the kernel was shown what, in a session whose trees may still change.
//!
//! The kernel keeps names and walks them long after the tree has others. So what a symlink is answered with does not follow
//! the tree but what was shown: a link has the depth at which its node was first shown, for good, and with it its
//! answer. A name of it that stands nearer to the root gets another node, which has that depth. A directory has
//! one place; one that comes up nearer to the root than it was shown is refused. No tree of ours does that, but what is
//! fetched ahead of a stream is what a daemon says.
//!
//! `fuse::symlink` has the proof that this needs no more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::table::Mounted;
use super::{Attributes, SymlinkMode, View, ViewError};
use crate::fuse::node::{Node, Place};
use crate::fuse::symlink::{self, Surroundings};
use crate::index::{Certainty, FileType, Ino};

/// Where the numbers begin of nodes that are another one's nearer names. No tree has so many inodes.
const NEARER: u32 = 3 << 30;

/// The most nodes of that kind in one mount.
const MAX_NEARER: usize = 1 << 16;

/// Numbers below this one are those of a tree, given out one after the other.
const OF_A_TREE: u32 = 1 << 31;

/// Bytes of answers that are kept in one mount. Beyond that one is worked out again, and may differ: it is as safe.
const MAX_ANSWERS: usize = 16 << 20;

/// What was shown of one mount.
#[derive(Default)]
pub(super) struct Shown(Mutex<Places>);

#[derive(Default)]
struct Places {
    /// The depths of directories and symlinks by the tree's numbers, each one more than it is; 0 for what was not shown.
    depths: Vec<u16>,
    /// The same of what the tree has not numbered.
    others: HashMap<Ino, u16>,
    /// What the nodes from [`NEARER`] on stand for, and their depths.
    nearer: Vec<(Ino, u16)>,
    /// The nodes that have nearer ones.
    has_nearer: HashMap<Ino, Vec<Ino>>,
    /// What links were answered with, where the tree had a say in it.
    answers: HashMap<Ino, Arc<[u8]>>,
    answers_size: usize,
}

impl Shown {
    /// The inode that a node stands for.
    pub fn real(&self, ino: Ino) -> Ino {
        match ino.0.checked_sub(NEARER) {
            None => ino,
            Some(index) => self.places().nearer.get(index as usize).map_or(ino, |&(real, _)| real),
        }
    }

    /// How many directories stand between the node and its mount's root in what the kernel has: 0 in the root itself.
    fn depth(&self, ino: Ino) -> Option<usize> {
        self.places().depth(ino)
    }

    /// A directory is about to be shown at this depth. `false` if it must not be.
    fn show_directory(&self, ino: Ino, depth: usize) -> bool {
        let mut places = self.places();
        match places.depth(ino) {
            Some(shown) => shown <= depth,
            None => places.set(ino, depth),
        }
    }

    /// A symlink is about to be shown in a directory at this depth. The node that it is to have there; `None` if there is none
    /// left.
    fn show_symlink(&self, ino: Ino, depth: usize, nearest: Option<usize>, depends: bool) -> Option<Ino> {
        let mut places = self.places();
        let Some(shown) = places.depth(ino) else {
            let depth = nearest.map_or(depth, |nearest| nearest.min(depth));
            return places.set(ino, depth).then_some(ino);
        };
        if shown <= depth || !depends {
            return Some(ino);
        }
        let known = places.has_nearer.get(&ino).into_iter().flatten().copied();
        let known =
            known.into_iter().find(|&nearer| places.depth(nearer).is_some_and(|known| known <= depth));
        known.or_else(|| places.add_nearer(ino, depth))
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    fn depth(&self, ino: Ino) -> Option<usize> {
        let depth = match ino.0 {
            _ if ino == Ino::ROOT => return Some(0),
            0..OF_A_TREE => self.depths.get(ino.0 as usize).copied().unwrap_or(0),
            OF_A_TREE..NEARER => self.others.get(&ino).copied().unwrap_or(0),
            NEARER.. => self.nearer.get((ino.0 - NEARER) as usize).map_or(0, |&(_, depth)| depth),
        };
        usize::from(depth).checked_sub(1)
    }

    /// `false` where it is deeper than can be noted, and than any path leads.
    fn set(&mut self, ino: Ino, depth: usize) -> bool {
        let Some(depth) = noted(depth) else { return false };
        if ino.0 < OF_A_TREE {
            let index = ino.0 as usize;
            if self.depths.len() <= index {
                self.depths.resize(index + 1, 0);
            }
            self.depths[index] = depth;
        } else {
            self.others.insert(ino, depth);
        }
        true
    }

    fn add_nearer(&mut self, ino: Ino, depth: usize) -> Option<Ino> {
        if self.nearer.len() >= MAX_NEARER {
            return None;
        }
        let nearer = Ino(NEARER + self.nearer.len() as u32);
        self.nearer.push((ino, noted(depth)?));
        self.has_nearer.entry(ino).or_default().push(nearer);
        Some(nearer)
    }
}

fn noted(depth: usize) -> Option<u16> {
    u16::try_from(depth).ok()?.checked_add(1)
}

impl View {
    /// Makes ready what the kernel is about to be told of an inode that is named in `dir`.
    pub(super) fn show(&self, mounted: &Mounted, dir: Ino, found: Ino) -> Result<Attributes, ViewError> {
        let known = mounted.filesystem().provisional_stat(found)?;
        if !self.changes {
            return self.glimpse_of(mounted, found, known);
        }
        let moved = || ViewError::Moved(self.numbering.node(mounted.slot(), found));
        let shown_as = match known.stat.file_type {
            FileType::Directory => {
                let depth = shown_depth(mounted, dir)? + 1;
                mounted.shown().show_directory(found, depth).then_some(found).ok_or_else(moved)?
            }
            FileType::Symlink if self.options.symlinks == SymlinkMode::Contain => {
                self.show_symlink(mounted, dir, found, known.certainty)?.ok_or_else(moved)?
            }
            _ => found,
        };
        self.glimpse_of(mounted, shown_as, known)
    }

    fn show_symlink(
        &self,
        mounted: &Mounted,
        dir: Ino,
        found: Ino,
        certainty: Certainty,
    ) -> Result<Option<Ino>, ViewError> {
        let tree = mounted.filesystem().tree();
        let depth = shown_depth(mounted, dir)?;
        // Once all names have come, none that is nearer has to be reckoned with.
        let nearest = match certainty {
            Certainty::Final => Some(symlink::depth(tree, tree.parent(found)?)?),
            Certainty::Growing | Certainty::Provisional => None,
        };
        let depends = mounted.shown().depth(found).is_some_and(|shown| shown > depth)
            && match tree.read_link(found) {
                Ok(stored) => symlink::depends_on_depth(&stored, mounted.destinations()),
                Err(_) => true,
            };
        let Some(shown_as) = mounted.shown().show_symlink(found, depth, nearest, depends) else {
            return Ok(None);
        };
        if certainty != Certainty::Provisional && mounted.shown().depth(shown_as) == Some(depth) {
            // The answer that it keeps is made for the name by which it is shown. If it has none yet, who follows it waits.
            let _ = self.shown_target(mounted, shown_as, Some(dir));
        }
        Ok(Some(shown_as))
    }

    /// The target that a symlink is answered with, by the number under which it is shown. `directory` is where it is taken to
    /// stand, if that is known.
    pub(super) fn shown_target(
        &self,
        mounted: &Mounted,
        shown_as: Ino,
        directory: Option<Ino>,
    ) -> Result<Vec<u8>, ViewError> {
        let tree = mounted.filesystem().tree();
        let link = mounted.shown().real(shown_as);
        // Asked for first: with it the rest is known.
        let stored = tree.read_link(link)?;
        if self.options.symlinks == SymlinkMode::Raw {
            return Ok(stored);
        }
        let surroundings = Surroundings {
            tree,
            own: mounted.index,
            root: mounted.root().tree(),
            destinations: mounted.destinations(),
        };
        if !self.changes {
            return Ok(symlink::contain(&surroundings, &tree.stat(link)?, stored)?);
        }
        if let Some(answer) = mounted.shown().places().answers.get(&shown_as) {
            return Ok(answer.to_vec());
        }
        let directory = match directory {
            Some(directory) => directory,
            None => tree.parent(link)?,
        };
        let depth = match mounted.shown().depth(shown_as) {
            Some(depth) => depth,
            None => symlink::depth(tree, directory)?,
        };
        let answer = symlink::contain_changing(&surroundings, link, directory, depth, stored)?;
        if answer.lasting {
            return Ok(answer.target);
        }
        let mut places = mounted.shown().places();
        if let Some(first) = places.answers.get(&shown_as) {
            return Ok(first.to_vec());
        }
        if places.answers_size + answer.target.len() <= MAX_ANSWERS {
            places.answers_size += answer.target.len();
            places.answers.insert(shown_as, answer.target.clone().into());
        }
        Ok(answer.target)
    }

    /// The number under which an inode was shown, of which `node` is told.
    pub(super) fn shown_as(&self, node: Node, real: Ino) -> Ino {
        match self.numbering.place(node) {
            Some(Place::Mount(_, shown)) if shown.0 >= NEARER => shown,
            _ => real,
        }
    }
}

/// How deep a directory stands in what the kernel has; what was not shown stands where the tree has it.
fn shown_depth(mounted: &Mounted, dir: Ino) -> Result<usize, ViewError> {
    match mounted.shown().depth(dir) {
        Some(depth) => Ok(depth),
        None => Ok(symlink::depth(mounted.filesystem().tree(), dir)?),
    }
}
