//! Going on with another walk through the same files, where the first one broke off and has changed meanwhile.

use crate::index::Ino;
use crate::tarfile::{Entry, EntryKind};

use super::{Body, GrowingTree, Inode, Order};

impl GrowingTree {
    /// The entries from here on are those of another archive of the same files, from its first one on. What is there stays as
    /// it is, only what is lacking is put in: neither what a complete directory did not have, nor what a name has become.
    ///
    /// Files whose bytes are not all before `readable` are lacking: their names are kept for what comes, and go if nothing does.
    pub fn resume_from(&mut self, readable: u64) {
        let unread = |inode: &Inode| match inode.body {
            Body::Contiguous { at } => at.saturating_add(inode.size) > readable,
            Body::Sparse { first, count } => {
                let extents = &self.extents[first as usize..][..count as usize];
                extents.last().is_some_and(|extent| extent.at.saturating_add(extent.len) > readable)
            }
            _ => false,
        };
        let lost: Vec<bool> = self.inodes.iter().map(unread).collect();
        let is_lost = |ino: Ino| lost[ino.0 as usize - 1];
        let names = 0..self.dentries.len() as u32;
        let vacant: Vec<u32> =
            names.filter(|&name| self.dentries[name as usize].ino().is_some_and(is_lost)).collect();
        for &name in &vacant {
            self.vacate(name);
        }
        self.vacant.extend(vacant);
        self.patching = true;
        // The other walk passes through directories that this one was in the middle of: it tells of none when it is complete.
        self.order = Order::Any;
    }

    /// Whether an entry of another walk says something that is not known yet.
    pub(super) fn lacks(&self, entry: &Entry) -> bool {
        let describes = |ino: Ino| self.inode_ref(ino).implicit && entry.kind == EntryKind::Directory;
        let mut dir = Ino::ROOT;
        let mut names = entry.path.split(|&b| b == b'/').filter(|name| !name.is_empty()).peekable();
        while let Some(name) = names.next() {
            let Body::Directory { complete, .. } = self.inode_ref(dir).body else { return false };
            let is_last = names.peek().is_none();
            match self.dentry(dir, name).map(|known| (known, self.dentries[known as usize].ino())) {
                None => return !complete && self.has_target(entry),
                Some((known, None)) => return is_last && !self.forward.contains_key(&known),
                Some((_, Some(child))) if is_last => return describes(child),
                Some((_, Some(child))) => dir = child,
            }
        }
        describes(Ino::ROOT)
    }

    /// A hard link's target stands before it in a walk: if it is not here now, or is something else, it will not come.
    fn has_target(&self, entry: &Entry) -> bool {
        match &entry.kind {
            EntryKind::HardLink(target) => self.find(target).is_some_and(|ino| !self.is_directory(ino)),
            _ => true,
        }
    }

    /// Takes away the names that were kept for files, and for which nothing has come.
    pub(super) fn remove_vacant(&mut self) {
        for name in std::mem::take(&mut self.vacant) {
            let dentry = &self.dentries[name as usize];
            if dentry.ino().is_none() && !dentry.dead && !self.forward.contains_key(&name) {
                self.remove(name);
            }
        }
    }
}
