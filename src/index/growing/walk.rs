//! Which directories are complete: what the order of an archive tells.

use super::{Body, GrowingTree};
use crate::index::Ino;

/// What is known of the order of an archive's entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Order {
    /// Nothing: a directory may get another name until the end.
    #[default]
    Any,
    /// A directory's names follow it, each with all that is beneath it, as `nftw(3)` visits them: once an entry
    /// comes that is not beneath a directory, the directory is complete.
    DepthFirst,
}

impl GrowingTree {
    /// Notes that an entry of `dir` has come: in a depth-first walk, directories that it is not beneath are left.
    pub(super) fn visit(&mut self, dir: Ino) {
        if self.order != Order::DepthFirst || self.walk.last() == Some(&dir) {
            return;
        }
        let mut chain = vec![dir];
        while let Some(&top) = chain.last()
            && top != Ino::ROOT
        {
            chain.push(self.above(top));
        }
        chain.reverse();
        let shared = self.walk.iter().zip(&chain).take_while(|(open, dir)| open == dir).count();
        for left in self.walk.split_off(shared) {
            self.set_complete(left, true);
        }
        for &entered in &chain[shared..] {
            self.set_complete(entered, false);
        }
        self.walk = chain;
    }

    fn set_complete(&mut self, dir: Ino, now: bool) {
        if let Body::Directory { complete, .. } = &mut self.inode_mut(dir).body {
            *complete = now;
        }
    }
}
