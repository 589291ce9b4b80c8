//! Finding the way in a growing tree: from a path to what it leads to, and back.

use super::{Body, GrowError, GrowingTree, MAX_SYMLINKS, NONE, implicit_directory};
use crate::index::Ino;

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
        let mut symlinks = MAX_SYMLINKS;
        for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
            let found = match self.child(dir, name) {
                Some(child) if self.is_directory(child) => Some(child),
                Some(child) => self.resolve_or_make(dir, child, &mut symlinks)?,
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
    fn resolve_or_make(
        &mut self,
        dir: Ino,
        child: Ino,
        symlinks: &mut usize,
    ) -> Result<Option<Ino>, GrowError> {
        let mut left = *symlinks;
        match self.resolve(dir, child, &mut left) {
            Some(target) => {
                *symlinks = left;
                Ok(Some(target))
            }
            None if self.of_layer => self.make_target(dir, child, symlinks),
            None => Ok(None),
        }
    }

    /// The directory that `child`, a symlink of `dir`, leads to.
    ///
    /// `symlinks` is how many may still be followed on the path that this is part of: were it so many for each of a
    /// path's components, one small entry could keep a processor busy for minutes.
    pub(super) fn resolve(&self, dir: Ino, child: Ino, symlinks: &mut usize) -> Option<Ino> {
        self.follow(dir, child, symlinks).ok()
    }

    /// As [`resolve`](GrowingTree::resolve), and why there is none.
    pub(super) fn follow(&self, dir: Ino, child: Ino, symlinks: &mut usize) -> Result<Ino, Astray> {
        let mut at = dir;
        // What is still to be walked, the next component last.
        let mut rest: Vec<&[u8]> = Vec::new();
        let mut found = child;
        loop {
            match self.inode_ref(found).body {
                Body::Directory { .. } => at = found,
                Body::Symlink { target, len, .. } => {
                    *symlinks = symlinks.checked_sub(1).ok_or(Astray::Blocked)?;
                    let target = self.target(target, len);
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

    /// The dentry of a path, no symlink followed but in its directories.
    pub(super) fn find_dentry(&self, path: &[u8]) -> Option<u32> {
        let mut dir = Ino::ROOT;
        let mut symlinks = MAX_SYMLINKS;
        let mut components = path.split(|&b| b == b'/').peekable();
        while let Some(name) = components.next() {
            let found = self.dentry(dir, name)?;
            if components.peek().is_none() {
                return Some(found);
            }
            let child = self.dentries[found as usize].ino()?;
            dir = if self.is_directory(child) { child } else { self.resolve(dir, child, &mut symlinks)? };
        }
        None
    }

    /// What a path leads to.
    pub(in crate::index) fn find(&self, path: &[u8]) -> Option<Ino> {
        self.dentries[self.find_dentry(path)? as usize].ino()
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

    pub(super) fn depth(&self, mut dir: Ino) -> usize {
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
