//! Finding the way in a growing tree: from a path to what it leads to, and back.

use super::{Body, GrowError, GrowingTree, MAX_SYMLINKS, NONE, implicit_directory};
use crate::index::Ino;

/// Bytes of symlinks' targets that the paths of any archive may lead through, and how many more for each of its entries.
///
/// A path may lead through 160 KiB of targets, and others through the same ones again: without a limit few and small entries
/// would keep a processor busy for as long as they like. What is meant to be used needs some ten bytes an entry.
const TARGETS: u64 = 16 << 20;
pub(super) const TARGETS_AN_ENTRY: u64 = 256;

/// Bytes of what an entry may bring any amount of (names, targets, maps of sparse files, directories that are passed through) that any
/// archive may bring, and how many more for each of its entries.
///
/// Headers compress well: without a limit a megabyte of them takes gigabytes here. What is meant to be used needs some
/// thirty bytes an entry.
const ROOM: u64 = 32 << 20;
const ROOM_AN_ENTRY: u64 = 96;

/// What the symlinks on one path may still do, and have done.
pub(super) struct Way {
    /// How many may still be followed. Were it 40 for each of a path's components, one small entry would be enough to
    /// keep a processor busy.
    pub symlinks: usize,
    /// Bytes of their targets that were walked, and not accounted for.
    pub targets: u64,
}

impl Way {
    pub fn new(symlinks: usize) -> Way {
        Way { symlinks, targets: 0 }
    }

    /// Follows a symlink with this target, if that is allowed.
    pub fn enter(&mut self, target: &[u8]) -> Option<()> {
        self.symlinks = self.symlinks.checked_sub(1)?;
        self.targets += target.len() as u64;
        Some(())
    }
}

/// How many bytes of targets may still be walked in all. Directories that are climbed count as bytes, and one that is made
/// for a target as much as an entry brings.
pub(super) struct Patience {
    walks: u64,
    /// How many bytes may still be kept.
    room: u64,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { walks: TARGETS, room: ROOM }
    }
}

impl Patience {
    pub fn add_entries(&mut self, entries: usize) {
        self.walks = self.walks.saturating_add(TARGETS_AN_ENTRY.saturating_mul(entries as u64));
        self.room = self.room.saturating_add(ROOM_AN_ENTRY.saturating_mul(entries as u64));
    }

    /// So many bytes are about to be kept.
    pub fn keep(&mut self, bytes: usize) -> Result<(), GrowError> {
        self.room = self.room.checked_sub(bytes as u64).ok_or(GrowError::TooMuchMetadata)?;
        Ok(())
    }

    pub fn account(&mut self, way: &mut Way) -> Result<(), GrowError> {
        self.spend(std::mem::take(&mut way.targets))
    }

    pub fn spend(&mut self, bytes: u64) -> Result<(), GrowError> {
        self.walks = self.walks.checked_sub(bytes).ok_or(GrowError::Maze)?;
        Ok(())
    }
}

/// Why a symlink leads to no directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Astray {
    /// A name on the way is not there.
    Absent,
    /// Something on the way is no directory, or it leads in a circle.
    Blocked,
}

impl GrowingTree {
    /// The directory of this path, made if it is not there.
    ///
    /// A symlink on the way is followed, within the tree. Anything else that is in the way is replaced.
    pub(super) fn directory(&mut self, path: &[u8]) -> Result<Ino, GrowError> {
        if self.last_dir.0 == path {
            return Ok(self.last_dir.1);
        }
        let mut dir = Ino::ROOT;
        let mut way = Way::new(MAX_SYMLINKS);
        for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
            let found = match self.child(dir, name) {
                Some(child) if self.is_directory(child) => Some(child),
                Some(child) => {
                    let target = self.resolve_or_make(dir, child, &mut way)?;
                    self.patience.account(&mut way)?;
                    target
                }
                None => None,
            };
            dir = match found {
                Some(found) => found,
                None => self.add_directory(dir, name, implicit_directory(self.layer))?,
            };
        }
        self.last_dir.0.clear();
        self.last_dir.0.extend_from_slice(path);
        self.last_dir.1 = dir;
        Ok(dir)
    }

    /// The directory that `child`, a symlink of `dir`, leads to; in a layer's tree it is made if need be.
    fn resolve_or_make(&mut self, dir: Ino, child: Ino, way: &mut Way) -> Result<Option<Ino>, GrowError> {
        let symlinks = way.symlinks;
        match self.resolve(dir, child, way) {
            Some(target) => Ok(Some(target)),
            None => {
                way.symlinks = symlinks;
                if self.of_layer { self.make_target(dir, child, way) } else { Ok(None) }
            }
        }
    }

    /// The directory that `child`, a symlink of `dir`, leads to.
    pub(super) fn resolve(&self, dir: Ino, child: Ino, way: &mut Way) -> Option<Ino> {
        self.follow(dir, child, way).ok()
    }

    /// As [`resolve`](GrowingTree::resolve), and why there is none.
    pub(super) fn follow(&self, dir: Ino, child: Ino, way: &mut Way) -> Result<Ino, Astray> {
        let mut at = dir;
        // What is still to be walked, the next component last.
        let mut rest: Vec<&[u8]> = Vec::new();
        let mut found = child;
        loop {
            match self.inode_ref(found).body {
                Body::Directory { .. } => at = found,
                Body::Symlink { target, len, .. } => {
                    let target = self.target(target, len);
                    way.enter(target).ok_or(Astray::Blocked)?;
                    if target.starts_with(b"/") {
                        at = Ino::ROOT;
                    }
                    rest.extend(target.rsplit(|&b| b == b'/'));
                    if rest.len() > 4096 {
                        return Err(Astray::Blocked);
                    }
                }
                _ => return Err(Astray::Blocked),
            }
            found = loop {
                match rest.pop() {
                    None => return Ok(at),
                    Some(b"" | b".") => {}
                    Some(b"..") => at = self.above(at),
                    Some(name) => break self.child(at, name).ok_or(Astray::Absent)?,
                }
            };
        }
    }

    /// The dentry of a path that the archive names, no symlink followed but in its directories.
    pub(super) fn named(&mut self, path: &[u8]) -> Result<Option<u32>, GrowError> {
        let mut way = Way::new(MAX_SYMLINKS);
        let found = self.find_dentry(path, &mut way);
        self.patience.account(&mut way)?;
        Ok(found)
    }

    fn find_dentry(&self, path: &[u8], way: &mut Way) -> Option<u32> {
        let mut dir = Ino::ROOT;
        let mut components = path.split(|&b| b == b'/').peekable();
        while let Some(name) = components.next() {
            let found = self.dentry(dir, name)?;
            if components.peek().is_none() {
                return Some(found);
            }
            let child = self.dentries[found as usize].ino()?;
            dir = if self.is_directory(child) { child } else { self.resolve(dir, child, way)? };
        }
        None
    }

    /// What a path leads to that somebody asks for.
    pub(in crate::index) fn find(&self, path: &[u8]) -> Option<Ino> {
        self.dentries[self.find_dentry(path, &mut Way::new(MAX_SYMLINKS))? as usize].ino()
    }

    /// The path of a directory, from the root, without a leading slash.
    pub(in crate::index) fn path_of(&self, mut dir: Ino) -> Vec<u8> {
        let mut names = Vec::new();
        while let Body::Directory { dentry, .. } = self.inode_ref(dir).body
            && dentry != NONE
        {
            names.push(self.name_of(dentry));
            dir = self.dentries[dentry as usize].parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    pub(super) fn depth(&self, mut dir: Ino) -> u64 {
        let mut depth = 0;
        while dir != Ino::ROOT {
            (dir, depth) = (self.above(dir), depth + 1);
        }
        depth
    }

    /// The directory that a directory stands in; the root stands in itself.
    pub(in crate::index) fn above(&self, dir: Ino) -> Ino {
        match self.inode_ref(dir).body {
            Body::Directory { dentry, .. } if dentry != NONE => self.dentries[dentry as usize].parent,
            _ => Ino::ROOT,
        }
    }
}
