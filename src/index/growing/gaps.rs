//! Closing the gaps that layers leave in a merged tree: what a layer replaces or removes has had a number, and perhaps
//! extents.

use super::{Body, GrowingTree, Ino, spread};

impl GrowingTree {
    /// Numbers the inodes anew, in the order that they have, so that every number is used, and drops the extents of those
    /// that are gone. For a complete tree that nobody has seen a number of.
    pub(super) fn close_gaps(&mut self) {
        // By the old number, less one.
        let mut numbers = Vec::with_capacity(self.inodes.len());
        let mut last = Ino(0);
        for inode in &self.inodes {
            let gone = matches!(inode.body, Body::Gone);
            last.0 += u32::from(!gone);
            numbers.push(if gone { Ino(0) } else { last });
        }
        if last.0 as usize == self.inodes.len() {
            return;
        }
        let renumbered = |ino: Ino| numbers[ino.0 as usize - 1];
        self.inodes.retain(|inode| !matches!(inode.body, Body::Gone));
        let mut extents = Vec::new();
        for inode in &mut self.inodes {
            match &mut inode.body {
                Body::Symlink { parent, .. } => *parent = renumbered(*parent),
                Body::Sparse { first, count } => {
                    let own = *first as usize..*first as usize + *count as usize;
                    *first = extents.len() as u32;
                    extents.extend_from_slice(&self.extents[own]);
                }
                _ => {}
            }
        }
        self.extents = extents;
        self.last_dir = (Vec::new(), Ino::ROOT);
        self.by_name.clear();
        for number in 0..self.dentries.len() {
            let dentry = &self.dentries[number];
            let (false, Some(ino), parent) = (dentry.dead, dentry.ino(), dentry.parent) else { continue };
            let parent = renumbered(parent);
            let hash = self.hash_of(parent, self.name_of(number as u32));
            let dentry = &mut self.dentries[number];
            (dentry.ino, dentry.parent, dentry.hash) = (renumbered(ino), parent, hash);
            let dentries = &self.dentries;
            self.by_name.insert_unique(spread(hash), number as u32, |&d| dentries[d as usize].table_hash());
        }
    }
}
