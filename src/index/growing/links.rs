//! Hard links, also those whose target comes after them, and where a symlink with several names stands.

use std::collections::HashMap;

use super::{Body, GrowError, GrowingTree, Inode, quote};
use crate::index::Ino;
use crate::tarfile::Oddity;

/// A hard link that waits for its target, and what it becomes if that never comes.
pub(super) struct Forward {
    pub target: Vec<u8>,
    pub fallback: Inode,
}

impl GrowingTree {
    /// Nothing more will come: hard links that still wait for their target are settled.
    pub fn finish(&mut self) -> Result<(), GrowError> {
        self.remove_vacant();
        let mut waiting: Vec<u32> = self.forward.keys().copied().collect();
        waiting.sort_unstable();
        let mut chain = Vec::new();
        let mut lost = NoTarget::default();
        for dentry in waiting {
            let mut at = dentry;
            // A link may wait for a link that waits for a link: go to the end, then settle all on the way.
            let mut target = loop {
                let Some(forward) = self.forward.get(&at) else { break self.dentries[at as usize].ino() };
                // Every link on the way is a different one, or there is a cycle.
                if chain.len() > self.forward.len() {
                    for at in std::mem::take(&mut chain) {
                        if self.forward.remove(&at).is_some() {
                            self.leave_out(at, Oddity::LinkCycle);
                        }
                    }
                    break None;
                }
                chain.push(at);
                match self.named(&forward.target.clone())? {
                    Some(next) => at = next,
                    None => break None,
                }
            };
            while let Some(at) = chain.pop() {
                let Some(forward) = self.forward.remove(&at) else { continue };
                if self.dentries[at as usize].dead {
                    continue;
                }
                match target {
                    Some(ino) if matches!(self.inode_ref(ino).body, Body::Directory { .. }) => {
                        self.leave_out(at, Oddity::LinkToDirectory);
                    }
                    Some(ino) => self.attach(at, ino)?,
                    None => {
                        let ino = self.add_inode(forward.fallback)?;
                        if self.of_layer {
                            self.links_out.push((ino, forward.target));
                        } else {
                            lost.note(self.name_of(at), &forward.target);
                        }
                        self.attach(at, ino)?;
                        target = Some(ino);
                    }
                }
            }
        }
        if self.moved_links {
            self.place_symlinks();
        }
        self.complete = true;
        Ok(())
    }

    /// Finds, for every symlink, the directory nearest to the root that names it.
    fn place_symlinks(&mut self) {
        // A directory comes before what is in it.
        let mut depths = vec![0u32; self.inodes.len() + 1];
        for ino in (Ino::ROOT.0 + 1..=self.inodes.len() as u32).map(Ino).filter(|&ino| self.is_directory(ino))
        {
            depths[ino.0 as usize] = depths[self.above(ino).0 as usize] + 1;
        }
        let mut nearest: HashMap<Ino, (u32, Ino)> = HashMap::new();
        for dentry in &self.dentries {
            if let (false, Some(ino)) = (dentry.dead, dentry.ino())
                && let Body::Symlink { .. } = self.inode_ref(ino).body
            {
                let here = (depths[dentry.parent.0 as usize], dentry.parent);
                nearest.entry(ino).and_modify(|known| *known = here.min(*known)).or_insert(here);
            }
        }
        for (ino, (_, dir)) in nearest {
            self.place_symlink(ino, dir);
        }
    }

    pub(super) fn place_symlink(&mut self, ino: Ino, dir: Ino) {
        if let Body::Symlink { parent, .. } = &mut self.inode_mut(ino).body {
            *parent = dir;
        }
    }

    pub(super) fn put_link(
        &mut self,
        dir: Ino,
        name: &[u8],
        target: Vec<u8>,
        mut fallback: Inode,
    ) -> Result<Option<Ino>, GrowError> {
        match self.named(&target)?.and_then(|found| self.dentries[found as usize].ino()) {
            Some(ino) if self.is_directory(ino) => {
                self.oddities.count(Oddity::LinkToDirectory);
                Ok(None)
            }
            // A name that is a link to itself says nothing new.
            Some(ino) if self.child(dir, name) == Some(ino) => Ok(Some(ino)),
            Some(ino) => {
                self.put(dir, name, Some(ino))?;
                Ok((!matches!(self.inode_ref(ino).body, Body::Gone)).then_some(ino))
            }
            None => {
                fallback.body = Body::Contiguous { at: 0 };
                self.patience.keep(target.len() + size_of::<Forward>())?;
                let dentry = self.put(dir, name, None)?;
                self.forward.insert(dentry, Forward { target, fallback });
                Ok(None)
            }
        }
    }
}

/// Hard links whose target is nowhere. There may be as many as there are entries: they are told of once.
#[derive(Default)]
pub(super) struct NoTarget {
    first: Option<String>,
    others: usize,
}

impl NoTarget {
    pub fn note(&mut self, name: &[u8], target: &[u8]) {
        match self.first {
            Some(_) => self.others += 1,
            None => {
                self.first = Some(format!("the hard link {} has no target {}", quote(name), quote(target)))
            }
        }
    }
}

impl Drop for NoTarget {
    fn drop(&mut self) {
        match (&self.first, self.others) {
            (None, _) => {}
            (Some(first), 0) => tracing::warn!("{first}: shown as an empty file"),
            (Some(first), others) => {
                tracing::warn!("{first}: shown as an empty file, and so are {others} others that have none");
            }
        }
    }
}
