//! The growing tree: a tree that is still being filled, entry by entry.
//!
//! It lives in memory, in a few flat arrays: about a hundred bytes an entry, names included. An inode's number is
//! the order in which it came, which makes it the same for the same archive and lets the finished
//! [index](super::writer) keep it. What is replaced or removed leaves a gap in the numbers; a [`Merge`], of which nobody
//! sees a number before it is finished, closes them.

mod answers;
mod changes;
mod gaps;
mod layer;
mod links;
mod merge;
mod paths;
mod records;
mod resume;
mod walk;

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use hashbrown::HashTable;

use super::xattrs::XattrSets;
use super::{Ino, LayerNo, Timestamp, TreeError};
use crate::tarfile::{Content, Entry, EntryKind, Extent, Oddities, Oddity};

pub use changes::Changes;
use links::{Forward, NoTarget};
pub use merge::{Merge, MergeError};
use paths::Patience;
use records::spread;
pub(super) use records::{Body, Dentry, Inode};
pub use walk::Order;

/// Symlinks that are followed while one path is resolved, as in path_resolution(7).
const MAX_SYMLINKS: usize = 40;
/// A place in [`GrowingTree::dentries`] that is none.
const NONE: u32 = u32::MAX;
/// What a directory takes that no entry describes, beside its name: an inode, a dentry and its place in the table.
const IMPLICIT: usize = 128;
/// Numbers end here. Those from here on are free for inodes that a tree does not know yet.
pub(super) const LIMIT: u32 = 1 << 31;

/// Why an entry cannot become part of a tree.
#[derive(Debug, thiserror::Error)]
pub enum GrowError {
    /// Paths lead through symlinks, again and again.
    #[error(
        "its paths lead through more than 16 MiB of symbolic links' targets, and 256 bytes for each entry"
    )]
    Maze,
    /// The extended attributes are beyond any reason.
    #[error("more than 128 MiB of different extended attributes")]
    TooManyXattrs,
    /// What its headers bring is out of proportion.
    #[error("its names, links and maps of sparse files take more than 32 MiB, and 96 bytes for each entry")]
    TooMuchMetadata,
    /// The tree is beyond what the index can number.
    #[error("more than 2,147,483,647 entries, or more than 2 GiB of names")]
    TooLarge,
}

fn quote(name: &[u8]) -> String {
    format!("\"{}\"", name.escape_ascii())
}

/// A tree that entries can be put into.
pub struct GrowingTree {
    pub(super) inodes: Vec<Inode>,
    pub(super) dentries: Vec<Dentry>,
    names: Vec<u8>,
    pub(super) extents: Vec<Extent>,
    pub(super) xattrs: XattrSets,
    /// Dentries by directory and name; dead ones are not in it.
    by_name: HashTable<u32>,
    hash: RandomState,
    /// Hard links whose target has not come, by dentry.
    forward: HashMap<u32, Forward>,
    /// The directory that the last entry went into, and its path: the next one usually goes there too.
    last_dir: (Vec<u8>, Ino),
    layer: LayerNo,
    /// A symlink with several names lost one of them.
    moved_links: bool,
    order: Order,
    /// With [`Order::DepthFirst`]: the directory that the archive is in, and those above it, the root first.
    walk: Vec<Ino>,
    complete: bool,
    /// Whether only what is lacking is put in: see [`GrowingTree::resume_from`].
    patching: bool,
    /// Names that are kept for files which are to come again.
    vacant: Vec<u32>,
    /// Whether this is one layer of an image, and hard links may lead out of it.
    of_layer: bool,
    /// The hard links that do: what stands for the file, and the path that it has in the layers below.
    pub(super) links_out: Vec<(Ino, Vec<u8>)>,
    patience: Patience,
    oddities: Oddities,
}

impl Default for GrowingTree {
    fn default() -> GrowingTree {
        GrowingTree::new(Order::Any)
    }
}

impl GrowingTree {
    /// A tree that has nothing but its root: mode 0755, owned by 0:0, of 1970.
    pub fn new(order: Order) -> GrowingTree {
        let mut tree = GrowingTree {
            inodes: Vec::new(),
            dentries: Vec::new(),
            names: Vec::new(),
            extents: Vec::new(),
            xattrs: XattrSets::default(),
            by_name: HashTable::new(),
            hash: RandomState::new(),
            forward: HashMap::new(),
            last_dir: (Vec::new(), Ino::ROOT),
            layer: LayerNo(0),
            moved_links: false,
            order,
            walk: vec![Ino::ROOT],
            complete: false,
            patching: false,
            vacant: Vec::new(),
            of_layer: false,
            links_out: Vec::new(),
            patience: Patience::default(),
            oddities: Oddities::default(),
        };
        tree.inodes.push(implicit_directory(LayerNo(0)));
        tree
    }

    /// Puts an entry into its place. A later entry of a name replaces the earlier; a directory that comes again
    /// takes the new attributes and keeps its children.
    ///
    /// Returns its inode, but for a hard link whose target has not come yet, for a whiteout of what is gone already, and for
    /// what is not [lacking](GrowingTree::resume_from).
    pub fn insert(&mut self, mut entry: Entry) -> Result<Option<Ino>, GrowError> {
        self.patience.add_entries(1);
        if self.of_layer && layer::mark_whiteout(&mut entry) && self.is_moot(&entry.path)? {
            return Ok(None);
        }
        if self.patching && !self.lacks(&entry) {
            return Ok(None);
        }
        if entry.path.is_empty() {
            let xattrs = self.xattrs.intern(&entry.xattrs)?;
            let root = &mut self.inodes[0];
            (root.perm, root.uid, root.gid, root.mtime) = (entry.perm, entry.uid, entry.gid, entry.mtime);
            (root.xattrs, root.layer, root.implicit) = (xattrs, self.layer, false);
            return Ok(Some(Ino::ROOT));
        }
        let split = entry.path.iter().rposition(|&b| b == b'/');
        let dir = self.directory(&entry.path[..split.unwrap_or(0)])?;
        self.visit(dir);
        let name_at = split.map_or(0, |slash| slash + 1);
        let mut inode = Inode {
            body: Body::Fifo,
            size: 0,
            mtime: entry.mtime,
            uid: entry.uid,
            gid: entry.gid,
            nlink: 0,
            xattrs: self.xattrs.intern(&entry.xattrs)?,
            perm: entry.perm,
            layer: self.layer,
            implicit: false,
        };
        let name = &entry.path[name_at..];
        match entry.kind {
            EntryKind::Directory => {
                let ino = self.put_directory(dir, name, inode)?;
                self.visit(ino);
                return Ok(Some(ino));
            }
            EntryKind::HardLink(target) => return self.put_link(dir, name, target, inode),
            EntryKind::Regular { size, content } => {
                inode.size = size;
                inode.body = match content {
                    Content::Contiguous { at } => Body::Contiguous { at },
                    Content::Sparse(extents) => {
                        let first = self.keep_extents(&extents)?;
                        Body::Sparse { first, count: extents.len() as u32 }
                    }
                };
            }
            EntryKind::Symlink(target) => {
                let len = target.len() as u16;
                inode.body = Body::Symlink { parent: dir, target: self.keep_name(&target)?, len };
            }
            EntryKind::Device(file_type, (major, minor)) => {
                inode.body = Body::Device { file_type, major, minor };
            }
            EntryKind::Fifo => {}
        }
        let ino = self.add_inode(inode)?;
        self.put(dir, name, Some(ino))?;
        Ok(Some(ino))
    }

    /// The name of a dentry.
    pub(super) fn name_of(&self, dentry: u32) -> &[u8] {
        let dentry = &self.dentries[dentry as usize];
        let start = dentry.name as usize;
        &self.names[start..start + usize::from(dentry.name_len)]
    }

    /// The stored target of a symlink's body.
    pub(super) fn target(&self, target: u32, len: u16) -> &[u8] {
        &self.names[target as usize..target as usize + usize::from(len)]
    }

    fn put_directory(&mut self, dir: Ino, name: &[u8], inode: Inode) -> Result<Ino, GrowError> {
        if let Some(child) = self.child(dir, name)
            && self.is_directory(child)
        {
            let known = self.inode_mut(child);
            *known = Inode { body: known.body, nlink: known.nlink, ..inode };
            return Ok(child);
        }
        self.add_directory(dir, name, inode)
    }

    fn add_directory(&mut self, dir: Ino, name: &[u8], inode: Inode) -> Result<Ino, GrowError> {
        if inode.implicit {
            // One path may lead through two thousand of them.
            self.patience.keep(IMPLICIT)?;
        }
        let ino = self.add_inode(Inode { body: EMPTY_DIRECTORY, nlink: 1, ..inode })?;
        self.put(dir, name, Some(ino))?;
        Ok(ino)
    }

    /// Gives `name` in `dir` to an inode, and takes it from whoever had it.
    ///
    /// A name that was there stays at its place in the directory: whoever lists it meanwhile sees it once.
    fn put(&mut self, dir: Ino, name: &[u8], ino: Option<Ino>) -> Result<u32, GrowError> {
        let hash = self.hash_of(dir, name);
        let dentry = match self.dentry_hashed(hash, dir, name) {
            Some(known) => {
                self.vacate(known);
                // A link to what was beneath the directory that it replaces.
                if ino.is_some_and(|ino| matches!(self.inode_ref(ino).body, Body::Gone)) {
                    self.leave_out(known, Oddity::LinkCycle);
                    return Ok(known);
                }
                known
            }
            None => self.add_name(dir, name, hash)?,
        };
        if let Some(ino) = ino {
            self.attach(dentry, ino)?;
        }
        Ok(dentry)
    }

    /// Takes away a name that names nothing.
    fn leave_out(&mut self, dentry: u32, why: Oddity) {
        tracing::debug!("{}: {why:?}", quote(self.name_of(dentry)));
        self.oddities.count(why);
        self.remove(dentry);
    }

    /// What is not shown as the archive has it.
    pub fn oddities(&self) -> &Oddities {
        &self.oddities
    }

    /// A new name at the end of a directory, of nothing yet.
    fn add_name(&mut self, dir: Ino, name: &[u8], hash: u32) -> Result<u32, GrowError> {
        let dentry = number(self.dentries.len())?;
        let (start, name_len) = (self.keep_name(name)?, name.len() as u8);
        self.dentries.push(Dentry {
            parent: dir,
            ino: Ino(0),
            name: start,
            next: NONE,
            hash,
            name_len,
            dead: false,
        });
        let dentries = &self.dentries;
        self.by_name.insert_unique(spread(hash), dentry, |&other| dentries[other as usize].table_hash());
        if let Body::Directory { first, last, .. } = &mut self.inodes[dir.0 as usize - 1].body {
            let before = std::mem::replace(last, dentry);
            if before == NONE {
                *first = dentry;
            } else {
                self.dentries[before as usize].next = dentry;
            }
        }
        Ok(dentry)
    }

    /// Makes a dentry name an inode.
    fn attach(&mut self, dentry: u32, ino: Ino) -> Result<(), GrowError> {
        let dir = self.dentries[dentry as usize].parent;
        self.dentries[dentry as usize].ino = ino;
        self.inode_mut(ino).nlink += 1;
        match self.inode_ref(ino).body {
            Body::Directory { .. } => {
                if let Body::Directory { dentry: own, .. } = &mut self.inode_mut(ino).body {
                    *own = dentry;
                }
                self.inode_mut(dir).nlink += 1;
            }
            // A target that climbs is judged from the name that is nearest to the root.
            Body::Symlink { parent, .. } if parent != dir => {
                let (here, there) = (self.depth(dir), self.depth(parent));
                self.patience.spend(here + there)?;
                if here < there {
                    self.place_symlink(ino, dir);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes a name away, and with a directory all that is beneath it.
    fn remove(&mut self, dentry: u32) {
        self.remove_all(vec![dentry]);
    }

    /// Takes from a name what it names, and with a directory all that is beneath it. The name is there to be
    /// [attached](GrowingTree::attach) again.
    fn vacate(&mut self, dentry: u32) {
        let mut beneath = Vec::new();
        self.detach(dentry, &mut beneath);
        self.remove_all(beneath);
    }

    fn remove_all(&mut self, mut doomed: Vec<u32>) {
        self.last_dir = (Vec::new(), Ino::ROOT);
        while let Some(dentry) = doomed.pop() {
            if self.dentries[dentry as usize].dead {
                continue;
            }
            let hash = self.dentries[dentry as usize].table_hash();
            if let Ok(found) = self.by_name.find_entry(hash, |&other| other == dentry) {
                found.remove();
            }
            self.dentries[dentry as usize].dead = true;
            self.detach(dentry, &mut doomed);
        }
    }

    /// Takes from a name what it names. `beneath` gets the names that a directory had.
    fn detach(&mut self, dentry: u32, beneath: &mut Vec<u32>) {
        self.forward.remove(&dentry);
        let Dentry { parent, ino, .. } = self.dentries[dentry as usize];
        self.dentries[dentry as usize].ino = Ino(0);
        if ino == Ino(0) {
            return;
        }
        if let Body::Directory { first, .. } = self.inode_ref(ino).body {
            let mut child = first;
            while child != NONE {
                beneath.push(child);
                child = self.dentries[child as usize].next;
            }
            // A directory whose own directory goes too leaves no link behind there.
            if self.is_directory(parent) {
                self.inode_mut(parent).nlink -= 1;
            }
            self.inode_mut(ino).nlink = 0;
        } else {
            self.inode_mut(ino).nlink -= 1;
        }
        match self.inode_ref(ino) {
            Inode { nlink: 0, .. } => self.inode_mut(ino).body = Body::Gone,
            // The name that is left may stand elsewhere; until that is known, nothing climbs over the root.
            Inode { body: Body::Symlink { .. }, .. } => {
                self.place_symlink(ino, Ino::ROOT);
                self.moved_links = true;
            }
            _ => {}
        }
    }

    fn add_inode(&mut self, inode: Inode) -> Result<Ino, GrowError> {
        self.inodes.push(inode);
        number(self.inodes.len()).map(Ino)
    }

    fn keep_name(&mut self, name: &[u8]) -> Result<u32, GrowError> {
        let start = number(self.names.len())?;
        self.patience.keep(name.len())?;
        self.names.extend_from_slice(name);
        Ok(start)
    }

    fn keep_extents(&mut self, extents: &[Extent]) -> Result<u32, GrowError> {
        let first = number(self.extents.len())?;
        number(self.extents.len() + extents.len())?;
        self.patience.keep(std::mem::size_of_val(extents))?;
        self.extents.extend_from_slice(extents);
        Ok(first)
    }

    fn dentry(&self, dir: Ino, name: &[u8]) -> Option<u32> {
        self.dentry_hashed(self.hash_of(dir, name), dir, name)
    }

    fn dentry_hashed(&self, hash: u32, dir: Ino, name: &[u8]) -> Option<u32> {
        let is_it = |&d: &u32| self.dentries[d as usize].parent == dir && self.name_of(d) == name;
        self.by_name.find(spread(hash), is_it).copied()
    }

    fn child(&self, dir: Ino, name: &[u8]) -> Option<Ino> {
        self.dentries[self.dentry(dir, name)? as usize].ino()
    }

    /// Keyed anew for each tree: an archive cannot be made to collide.
    fn hash_of(&self, dir: Ino, name: &[u8]) -> u32 {
        let mut hasher = self.hash.build_hasher();
        hasher.write_u32(dir.0);
        hasher.write(name);
        hasher.finish() as u32
    }

    fn is_directory(&self, ino: Ino) -> bool {
        matches!(self.inode_ref(ino).body, Body::Directory { .. })
    }

    /// An inode whose number this tree gave out itself.
    fn inode_ref(&self, ino: Ino) -> &Inode {
        &self.inodes[ino.0 as usize - 1]
    }

    fn inode_mut(&mut self, ino: Ino) -> &mut Inode {
        &mut self.inodes[ino.0 as usize - 1]
    }

    /// An inode whose number came from a caller.
    fn inode(&self, ino: Ino) -> Result<&Inode, TreeError> {
        let index = (ino.0 as usize).checked_sub(1);
        match index.and_then(|i| self.inodes.get(i)) {
            Some(Inode { body: Body::Gone, .. }) | None => Err(TreeError::NoSuchInode(ino)),
            Some(inode) => Ok(inode),
        }
    }
}

const EMPTY_DIRECTORY: Body = Body::Directory { dentry: NONE, first: NONE, last: NONE, complete: false };

fn implicit_directory(layer: LayerNo) -> Inode {
    Inode {
        body: EMPTY_DIRECTORY,
        size: 0,
        mtime: Timestamp::default(),
        uid: 0,
        gid: 0,
        nlink: 2,
        xattrs: 0,
        perm: 0o755,
        layer,
        implicit: true,
    }
}

fn number(n: usize) -> Result<u32, GrowError> {
    u32::try_from(n).ok().filter(|&n| n < LIMIT).ok_or(GrowError::TooLarge)
}

#[cfg(test)]
mod tests;
