//! The growing tree: a tree that is still being filled, entry by entry.
//!
//! It lives in memory, in a few flat arrays: about a hundred bytes an entry, names included. An inode's number is
//! the order in which it came, which makes it the same for the same archive and lets the finished
//! [index](super::writer) keep it. What is replaced or removed leaves a gap in the numbers.

mod answers;
mod layer;
mod merge;

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use hashbrown::HashTable;

use super::scan::{Content, Entry, EntryKind, Extent};
use super::{FileType, Ino, LayerNo, Timestamp, TreeError};

pub use merge::{Merge, MergeError};

/// Symlinks that are followed while one path is resolved, as in path_resolution(7).
const MAX_SYMLINKS: usize = 40;
/// A place in [`GrowingTree::dentries`] that is none.
const NONE: u32 = u32::MAX;
/// Numbers end here. Those from here on are free for inodes that a tree does not know yet.
pub(super) const LIMIT: u32 = 1 << 31;

/// Why an entry cannot become part of a tree.
#[derive(Debug, thiserror::Error)]
pub enum GrowError {
    /// A hard link to itself, perhaps by way of others.
    #[error("the hard link {} leads back to itself", quote(.0))]
    LinkCycle(Vec<u8>),
    /// A hard link to a directory.
    #[error("{} is a hard link to a directory", quote(.0))]
    LinkToDirectory(Vec<u8>),
    /// The tree is beyond what the index can number.
    #[error("more than 2,147,483,647 entries, or more than 2 GiB of names")]
    TooLarge,
}

fn quote(name: &[u8]) -> String {
    format!("\"{}\"", name.escape_ascii())
}

/// What an inode has besides the attributes that all have.
#[derive(Clone, Copy, Debug)]
pub(super) enum Body {
    /// Was replaced or removed, or never had a name.
    Gone,
    Directory {
        /// The name that it has; the root has none.
        dentry: u32,
        /// First and last of its dentries, in the order in which they came.
        first: u32,
        last: u32,
        /// Whether all its names have come.
        complete: bool,
    },
    Contiguous {
        at: u64,
    },
    Sparse {
        first: u32,
        count: u32,
    },
    Symlink {
        parent: Ino,
        target: u32,
        len: u16,
    },
    Device {
        file_type: FileType,
        major: u32,
        minor: u32,
    },
    Fifo,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Inode {
    pub body: Body,
    pub size: u64,
    pub mtime: Timestamp,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    /// 0 for none, else a set's number and one.
    pub xattrs: u32,
    pub perm: u16,
    pub layer: LayerNo,
    /// A directory that no entry describes: paths lead through it, that is all.
    pub implicit: bool,
}

/// A name in a directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dentry {
    pub parent: Ino,
    /// 0 while the name is a hard link whose target has not come; then it is not shown.
    ino: Ino,
    name: u32,
    /// The next name of the same directory.
    next: u32,
    /// Of directory and name, so that the table can grow without reading them again.
    hash: u32,
    name_len: u8,
    pub dead: bool,
}

impl Dentry {
    pub fn ino(&self) -> Option<Ino> {
        (self.ino != Ino(0)).then_some(self.ino)
    }

    fn table_hash(&self) -> u64 {
        spread(self.hash)
    }
}

/// The table wants its bits at both ends.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

/// A set of extended attributes: names and values.
pub(super) type XattrSet = Vec<(Vec<u8>, Vec<u8>)>;

/// A tree that entries can be put into.
pub struct GrowingTree {
    pub(super) inodes: Vec<Inode>,
    pub(super) dentries: Vec<Dentry>,
    names: Vec<u8>,
    pub(super) extents: Vec<Extent>,
    pub(super) xattr_sets: Vec<XattrSet>,
    known_sets: HashMap<XattrSet, u32>,
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
    /// Whether this is one layer of an image, and hard links may lead out of it.
    of_layer: bool,
    /// The hard links that do: what stands for the file, and the path that it has in the layers below.
    pub(super) links_out: Vec<(Ino, Vec<u8>)>,
}

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

/// A hard link that waits for its target, and what it becomes if that never comes.
struct Forward {
    target: Vec<u8>,
    fallback: Inode,
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
            xattr_sets: Vec::new(),
            known_sets: HashMap::new(),
            by_name: HashTable::new(),
            hash: RandomState::new(),
            forward: HashMap::new(),
            last_dir: (Vec::new(), Ino::ROOT),
            layer: LayerNo(0),
            moved_links: false,
            order,
            walk: vec![Ino::ROOT],
            complete: false,
            of_layer: false,
            links_out: Vec::new(),
        };
        tree.inodes.push(implicit_directory(LayerNo(0)));
        tree
    }

    /// Puts an entry into its place. A later entry of a name replaces the earlier; a directory that comes again
    /// takes the new attributes and keeps its children.
    ///
    /// Returns its inode, but for a hard link whose target has not come yet.
    pub fn insert(&mut self, mut entry: Entry) -> Result<Option<Ino>, GrowError> {
        if self.of_layer {
            layer::mark_whiteout(&mut entry);
        }
        if entry.path.is_empty() {
            let xattrs = self.intern(entry.xattrs)?;
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
            xattrs: self.intern(entry.xattrs)?,
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
                        let first = self.extents.len() as u32;
                        self.extents.extend_from_slice(&extents);
                        number(self.extents.len())?;
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

    /// Nothing more will come: hard links that still wait for their target are settled.
    pub fn finish(&mut self) -> Result<(), GrowError> {
        let mut waiting: Vec<u32> = self.forward.keys().copied().collect();
        waiting.sort_unstable();
        let mut chain = Vec::new();
        for dentry in waiting {
            let mut at = dentry;
            // A link may wait for a link that waits for a link: go to the end, then settle all on the way.
            let mut target = loop {
                let Some(forward) = self.forward.get(&at) else { break self.dentries[at as usize].ino() };
                // Every link on the way is a different one, or there is a cycle.
                if chain.len() > self.forward.len() {
                    return Err(GrowError::LinkCycle(forward.target.clone()));
                }
                chain.push(at);
                match self.find_dentry(&forward.target.clone()) {
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
                        return Err(GrowError::LinkToDirectory(self.name_of(at).to_vec()));
                    }
                    Some(ino) => self.attach(at, ino),
                    None => {
                        let ino = self.add_inode(forward.fallback)?;
                        if self.of_layer {
                            self.links_out.push((ino, forward.target));
                        } else {
                            warn_no_target(self.name_of(at), &forward.target);
                        }
                        self.attach(at, ino);
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
        let mut nearest: HashMap<Ino, (usize, Ino)> = HashMap::new();
        for dentry in &self.dentries {
            if let (false, Some(ino)) = (dentry.dead, dentry.ino())
                && let Body::Symlink { .. } = self.inode_ref(ino).body
            {
                let here = (self.depth(dentry.parent), dentry.parent);
                nearest.entry(ino).and_modify(|known| *known = here.min(*known)).or_insert(here);
            }
        }
        for (ino, (_, dir)) in nearest {
            self.place_symlink(ino, dir);
        }
    }

    fn place_symlink(&mut self, ino: Ino, dir: Ino) {
        if let Body::Symlink { parent, .. } = &mut self.inode_mut(ino).body {
            *parent = dir;
        }
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

    /// The directory of this path, made if it is not there.
    ///
    /// A symlink on the way is followed, within the tree. Anything else that is in the way is replaced.
    fn directory(&mut self, path: &[u8]) -> Result<Ino, GrowError> {
        if self.last_dir.0 == path {
            return Ok(self.last_dir.1);
        }
        let mut dir = Ino::ROOT;
        for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
            dir = match self.child(dir, name) {
                Some(child) if self.is_directory(child) => child,
                Some(child) => match self.resolve(dir, child) {
                    Some(target) => target,
                    None => {
                        match self.of_layer.then(|| self.make_target(dir, child)).transpose()?.flatten() {
                            Some(target) => target,
                            None => self.add_directory(dir, name, implicit_directory(self.layer))?,
                        }
                    }
                },
                None => self.add_directory(dir, name, implicit_directory(self.layer))?,
            };
        }
        self.last_dir.0.clear();
        self.last_dir.0.extend_from_slice(path);
        self.last_dir.1 = dir;
        Ok(dir)
    }

    /// The directory that `child`, a symlink of `dir`, leads to.
    fn resolve(&self, dir: Ino, child: Ino) -> Option<Ino> {
        let mut at = dir;
        let mut budget = MAX_SYMLINKS;
        // What is still to be walked, the next component last.
        let mut rest: Vec<&[u8]> = Vec::new();
        let mut found = child;
        loop {
            match self.inode_ref(found).body {
                Body::Directory { .. } => at = found,
                Body::Symlink { target, len, .. } => {
                    budget = budget.checked_sub(1)?;
                    let target = self.target(target, len);
                    if target.starts_with(b"/") {
                        at = Ino::ROOT;
                    }
                    rest.extend(target.rsplit(|&b| b == b'/'));
                    if rest.len() > 4096 {
                        return None;
                    }
                }
                _ => return None,
            }
            found = loop {
                match rest.pop() {
                    None => return Some(at),
                    Some(b"" | b".") => {}
                    Some(b"..") => at = self.above(at),
                    Some(name) => break self.child(at, name)?,
                }
            };
        }
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
        let ino = self.add_inode(Inode { body: EMPTY_DIRECTORY, nlink: 1, ..inode })?;
        self.put(dir, name, Some(ino))?;
        Ok(ino)
    }

    fn put_link(
        &mut self,
        dir: Ino,
        name: &[u8],
        target: Vec<u8>,
        mut fallback: Inode,
    ) -> Result<Option<Ino>, GrowError> {
        match self.find_dentry(&target).and_then(|found| self.dentries[found as usize].ino()) {
            Some(ino) if self.is_directory(ino) => Err(GrowError::LinkToDirectory(name.to_vec())),
            // A name that is a link to itself says nothing new.
            Some(ino) if self.child(dir, name) == Some(ino) => Ok(Some(ino)),
            Some(ino) => self.put(dir, name, Some(ino)).map(|_| Some(ino)),
            None => {
                fallback.body = Body::Contiguous { at: 0 };
                let dentry = self.put(dir, name, None)?;
                self.forward.insert(dentry, Forward { target, fallback });
                Ok(None)
            }
        }
    }

    /// Gives `name` in `dir` to an inode, and takes it from whoever had it.
    fn put(&mut self, dir: Ino, name: &[u8], ino: Option<Ino>) -> Result<u32, GrowError> {
        let hash = self.hash_of(dir, name);
        if let Some(old) = self.dentry_hashed(hash, dir, name) {
            self.remove(old);
            if ino.is_some_and(|ino| matches!(self.inode_ref(ino).body, Body::Gone)) {
                return Err(GrowError::LinkCycle(name.to_vec()));
            }
        }
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
        if let Some(ino) = ino {
            self.attach(dentry, ino);
        }
        Ok(dentry)
    }

    /// Makes a dentry name an inode.
    fn attach(&mut self, dentry: u32, ino: Ino) {
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
            Body::Symlink { parent, .. } if parent != dir && self.depth(dir) < self.depth(parent) => {
                self.place_symlink(ino, dir);
            }
            _ => {}
        }
    }

    /// Takes a name away, and with a directory all that is beneath it.
    fn remove(&mut self, dentry: u32) {
        self.last_dir = (Vec::new(), Ino::ROOT);
        let mut doomed = vec![dentry];
        while let Some(dentry) = doomed.pop() {
            let doomed_dentry = self.dentries[dentry as usize];
            if doomed_dentry.dead {
                continue;
            }
            let hash = doomed_dentry.table_hash();
            if let Ok(found) = self.by_name.find_entry(hash, |&other| other == dentry) {
                found.remove();
            }
            self.dentries[dentry as usize].dead = true;
            self.forward.remove(&dentry);
            let (parent, Some(ino)) = (doomed_dentry.parent, doomed_dentry.ino()) else { continue };
            if let Body::Directory { first, .. } = self.inode_ref(ino).body {
                let mut child = first;
                while child != NONE {
                    doomed.push(child);
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
    }

    fn add_inode(&mut self, inode: Inode) -> Result<Ino, GrowError> {
        self.inodes.push(inode);
        number(self.inodes.len()).map(Ino)
    }

    fn keep_name(&mut self, name: &[u8]) -> Result<u32, GrowError> {
        let start = number(self.names.len())?;
        self.names.extend_from_slice(name);
        Ok(start)
    }

    fn intern(&mut self, set: XattrSet) -> Result<u32, GrowError> {
        if set.is_empty() {
            return Ok(0);
        }
        if let Some(&known) = self.known_sets.get(&set) {
            return Ok(known);
        }
        self.xattr_sets.push(set.clone());
        let known = number(self.xattr_sets.len())?;
        self.known_sets.insert(set, known);
        Ok(known)
    }

    /// The dentry of a path, no symlink followed but in its directories.
    fn find_dentry(&self, path: &[u8]) -> Option<u32> {
        let mut dir = Ino::ROOT;
        let mut components = path.split(|&b| b == b'/').peekable();
        while let Some(name) = components.next() {
            let found = self.dentry(dir, name)?;
            if components.peek().is_none() {
                return Some(found);
            }
            let child = self.dentries[found as usize].ino()?;
            dir = if self.is_directory(child) { child } else { self.resolve(dir, child)? };
        }
        None
    }

    /// What a path leads to.
    pub(super) fn find(&self, path: &[u8]) -> Option<Ino> {
        self.dentries[self.find_dentry(path)? as usize].ino()
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

    fn depth(&self, mut dir: Ino) -> usize {
        let mut depth = 0;
        while dir != Ino::ROOT {
            (dir, depth) = (self.above(dir), depth + 1);
        }
        depth
    }

    /// The directory that a directory stands in; the root stands in itself.
    pub(super) fn above(&self, dir: Ino) -> Ino {
        match self.inode_ref(dir).body {
            Body::Directory { dentry, .. } if dentry != NONE => self.dentries[dentry as usize].parent,
            _ => Ino::ROOT,
        }
    }

    /// The path of a directory, from the root, without a leading slash.
    pub(super) fn path_of(&self, mut dir: Ino) -> Vec<u8> {
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

    /// Notes that an entry of `dir` has come: in a depth-first walk, directories that it is not beneath are left.
    fn visit(&mut self, dir: Ino) {
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

fn warn_no_target(name: &[u8], target: &[u8]) {
    tracing::warn!("the hard link {} has no target {}: shown as an empty file", quote(name), quote(target));
}

fn number(n: usize) -> Result<u32, GrowError> {
    u32::try_from(n).ok().filter(|&n| n < LIMIT).ok_or(GrowError::TooLarge)
}
