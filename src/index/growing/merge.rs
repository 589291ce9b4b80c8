//! Merging: the layers of an image, the lowest first, become one tree.
//!
//! By the [image layer specification][spec]: what a layer takes away it takes from the layers below, wherever its
//! whiteouts stand. So of each layer the whiteouts are applied first, and what it adds after that.
//! A path that leads through a symlink of the layers below goes where it leads, as if the layer were unpacked there.
//!
//! [spec]: https://github.com/opencontainers/image-spec/blob/v1.1.0/layer.md

use std::collections::{HashMap, HashSet};

use super::paths::Way;
use super::{
    Body, GrowError, GrowingTree, Inode, MAX_SYMLINKS, NONE, NoTarget, Order, implicit_directory, number,
};
use crate::index::{DirEntry, FileType, Index, Ino, LayerNo, Tree, TreeError, Whiteout};
use crate::tarfile::Content;

/// Why layers cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The merged tree cannot be made.
    #[error(transparent)]
    Grow(#[from] GrowError),
    /// A layer's index is damaged.
    #[error("layer {}: {problem}", layer.0)]
    Layer {
        /// Which one.
        layer: LayerNo,
        /// What is wrong with it.
        problem: TreeError,
    },
    /// There are more layers than an index can number.
    #[error("more than 65,536 layers")]
    TooManyLayers,
}

/// Merges layers, one at a time: a layer is not needed any more when it has been added.
pub struct Merge {
    pub(super) tree: GrowingTree,
    layers: u32,
}

impl Default for Merge {
    fn default() -> Merge {
        Merge::new()
    }
}

impl Merge {
    /// No layers: a root directory, and nothing in it.
    pub fn new() -> Merge {
        Merge { tree: GrowingTree::new(Order::Any), layers: 0 }
    }

    /// Puts a layer on top. Its inodes get its number: 0 for the first.
    pub fn add<B: AsRef<[u8]> + Send + Sync>(&mut self, layer: &Index<B>) -> Result<(), MergeError> {
        let number = self.next_layer()?;
        self.layers += 1;
        self.tree.layer = number;
        self.tree.patience.add_entries(layer.names());
        let tree = &mut self.tree;
        let adding = used_directories(layer).map_err(Problem::from).and_then(|used| {
            Adding { tree, layer, used, held: HashMap::new(), lost: NoTarget::default() }.run()
        });
        adding.map_err(|problem| problem.of(number))
    }

    /// The number that the next layer will have.
    pub(super) fn next_layer(&self) -> Result<LayerNo, MergeError> {
        u16::try_from(self.layers).map(LayerNo).map_err(|_| MergeError::TooManyLayers)
    }

    /// The tree of all layers that were added, its inodes numbered without a gap.
    pub fn finish(mut self) -> Result<GrowingTree, MergeError> {
        self.tree.finish()?;
        self.tree.close_gaps();
        Ok(self.tree)
    }
}

/// Why a layer cannot be added, before it is said which.
pub(super) enum Problem {
    Grow(GrowError),
    Layer(TreeError),
}

impl Problem {
    pub(super) fn of(self, layer: LayerNo) -> MergeError {
        match self {
            Problem::Grow(error) => MergeError::Grow(error),
            Problem::Layer(problem) => MergeError::Layer { layer, problem },
        }
    }
}

impl From<GrowError> for Problem {
    fn from(error: GrowError) -> Problem {
        Problem::Grow(error)
    }
}

impl From<TreeError> for Problem {
    fn from(error: TreeError) -> Problem {
        Problem::Layer(error)
    }
}

/// A layer that is being added.
struct Adding<'a, B> {
    tree: &'a mut GrowingTree,
    layer: &'a Index<B>,
    /// See [`used_directories`].
    used: HashSet<Ino>,
    /// Files of the layer with more than one name, and the merged inodes that they are. Each counts as a link, so
    /// that it lasts until all its names are there.
    held: HashMap<Ino, Ino>,
    lost: NoTarget,
}

/// A name for a file of the layers below that was not found there.
struct Late {
    dir: Ino,
    name: Vec<u8>,
    from: Ino,
}

impl<B: AsRef<[u8]> + Send + Sync> Adding<'_, B> {
    fn run(&mut self) -> Result<(), Problem> {
        // Links mean what is there before this layer takes anything away.
        let mut links_out = HashMap::new();
        for link in self.layer.links_out() {
            let (from, target) = link?;
            match self.file(target)? {
                Some(ino) => self.hold(from, ino),
                None => drop(links_out.insert(from, target)),
            }
        }
        self.take_away()?;
        let late = self.put_all(&links_out)?;
        for Late { dir, name, from } in late {
            self.put_late(dir, &name, from, &links_out)?;
        }
        for (_, ino) in self.held.drain() {
            let inode = self.tree.inode_mut(ino);
            inode.nlink -= 1;
            if inode.nlink == 0 {
                inode.body = Body::Gone;
            }
        }
        Ok(())
    }

    /// Applies the whiteouts.
    fn take_away(&mut self) -> Result<(), Problem> {
        let layer = self.layer;
        let mut left = layer.names();
        let mut todo = vec![(Ino::ROOT, Ino::ROOT, MAX_SYMLINKS)];
        while let Some((from, dir, symlinks)) = todo.pop() {
            if !self.tree.is_directory(dir) {
                continue;
            }
            for entry in layer.children(from)? {
                match Whiteout::of(entry?.name) {
                    Some(Whiteout::Opaque) => self.tree.clear(dir),
                    Some(Whiteout::Name(name)) => {
                        if let Some(dentry) = self.tree.dentry(dir, name) {
                            self.tree.remove(dentry);
                        }
                    }
                    None => {}
                }
            }
            for entry in layer.children_of_walk(from, &mut left)? {
                let DirEntry { name, ino, file_type, .. } = entry?;
                if file_type == FileType::Directory && Whiteout::of(name).is_none() {
                    let mut way = Way::new(symlinks);
                    let below = self.tree.below(dir, name, layer.is_implicit(ino)?, &mut way);
                    self.tree.patience.account(&mut way)?;
                    todo.extend(below.map(|below| (ino, below, way.symlinks)));
                }
            }
        }
        Ok(())
    }

    /// Puts all into place that is no whiteout, nor beneath one. Returns the names that are left.
    fn put_all(&mut self, links_out: &HashMap<Ino, &[u8]>) -> Result<Vec<Late>, Problem> {
        let layer = self.layer;
        if !layer.is_implicit(Ino::ROOT)? {
            self.describe_directory(Ino::ROOT, Ino::ROOT)?;
        }
        let mut late = Vec::new();
        let mut left = layer.names();
        let mut todo = vec![(Ino::ROOT, Ino::ROOT, MAX_SYMLINKS)];
        while let Some((from, dir, symlinks)) = todo.pop() {
            // Two paths of a layer can lead to one place, and the one may take what the other has put there.
            if !self.tree.is_directory(dir) {
                continue;
            }
            for entry in layer.children_of_walk(from, &mut left)? {
                let DirEntry { name, ino, file_type, .. } = entry?;
                if Whiteout::of(name).is_some() {
                    continue;
                }
                if file_type == FileType::Directory {
                    if layer.is_implicit(ino)? && !self.used.contains(&ino) {
                        continue;
                    }
                    let mut way = Way::new(symlinks);
                    let put = self.put_directory(dir, name, ino, &mut way)?;
                    self.tree.patience.account(&mut way)?;
                    todo.push((ino, put, way.symlinks));
                } else if links_out.contains_key(&ino) {
                    late.push(Late { dir, name: name.to_vec(), from: ino });
                } else {
                    self.put_file(dir, name, ino)?;
                }
            }
        }
        Ok(late)
    }

    fn put_directory(&mut self, dir: Ino, name: &[u8], from: Ino, way: &mut Way) -> Result<Ino, Problem> {
        let implicit = self.layer.is_implicit(from)?;
        match self.tree.child(dir, name) {
            Some(child) if self.tree.is_directory(child) => {
                if !implicit {
                    self.describe_directory(child, from)?;
                }
                return Ok(child);
            }
            Some(child) if implicit => {
                if let Some(target) = self.tree.make_target(dir, child, way)? {
                    return Ok(target);
                }
            }
            _ => {}
        }
        let inode = if implicit { implicit_directory(self.tree.layer) } else { self.copy(dir, from)? };
        Ok(self.tree.add_directory(dir, name, inode)?)
    }

    /// Gives a directory the attributes that it has in this layer.
    fn describe_directory(&mut self, dir: Ino, from: Ino) -> Result<(), Problem> {
        let inode = self.copy(dir, from)?;
        let known = self.tree.inode_mut(dir);
        *known = Inode { body: known.body, nlink: known.nlink, ..inode };
        Ok(())
    }

    fn put_file(&mut self, dir: Ino, name: &[u8], from: Ino) -> Result<(), Problem> {
        let ino = match self.held.get(&from) {
            Some(&known) => known,
            None => {
                let inode = self.copy(dir, from)?;
                if matches!(inode.body, Body::Directory { .. }) {
                    return Err(TreeError::Corrupt("the name of a file leads to a directory").into());
                }
                let ino = self.tree.add_inode(inode)?;
                if self.layer.stat(from)?.nlink > 1 {
                    self.hold(from, ino);
                }
                ino
            }
        };
        // What already has this name must not lose it and get it again: it might be its last.
        if self.tree.child(dir, name) != Some(ino) {
            self.tree.put(dir, name, Some(ino))?;
        }
        Ok(())
    }

    /// Puts a link whose target was not there before this layer: by now it may be.
    fn put_late(
        &mut self,
        dir: Ino,
        name: &[u8],
        from: Ino,
        links_out: &HashMap<Ino, &[u8]>,
    ) -> Result<(), Problem> {
        if !self.tree.is_directory(dir) {
            return Ok(());
        }
        if let (false, Some(target)) = (self.held.contains_key(&from), links_out.get(&from)) {
            match self.file(target)? {
                Some(ino) => self.hold(from, ino),
                None => self.lost.note(name, target),
            }
        }
        self.put_file(dir, name, from)
    }

    /// The file that a hard link to `path` means.
    fn file(&mut self, path: &[u8]) -> Result<Option<Ino>, GrowError> {
        let found = self.tree.named(path)?.and_then(|found| self.tree.dentries[found as usize].ino());
        match found {
            // Linux has no such link: there is nothing that it could be.
            Some(ino) if self.tree.is_directory(ino) => Ok(None),
            found => Ok(found),
        }
    }

    fn hold(&mut self, from: Ino, ino: Ino) {
        self.tree.inode_mut(ino).nlink += 1;
        self.held.insert(from, ino);
    }

    /// An inode of the layer as one of the merged tree, without a link; a symlink is in `dir`.
    fn copy(&mut self, dir: Ino, from: Ino) -> Result<Inode, Problem> {
        let stat = self.layer.stat(from)?;
        let mut set = Vec::new();
        self.layer.xattrs(from, &mut |name, value| {
            set.push((name.to_vec(), value.to_vec()));
            true
        })?;
        let body = match stat.file_type {
            FileType::Directory => super::EMPTY_DIRECTORY,
            FileType::Regular => match self.layer.content(from)? {
                Content::Contiguous { at } => Body::Contiguous { at },
                Content::Sparse(extents) => {
                    let first = self.tree.keep_extents(&extents)?;
                    Body::Sparse { first, count: number(extents.len())? }
                }
            },
            FileType::Symlink => {
                let target = self.layer.read_link(from)?;
                Body::Symlink { parent: dir, target: self.tree.keep_name(&target)?, len: target.len() as u16 }
            }
            FileType::Fifo => Body::Fifo,
            file_type @ (FileType::CharDevice | FileType::BlockDevice | FileType::Socket) => {
                let (major, minor) = stat.device;
                Body::Device { file_type, major, minor }
            }
        };
        Ok(Inode {
            body,
            size: if stat.file_type == FileType::Regular { stat.size } else { 0 },
            mtime: stat.mtime,
            uid: stat.uid,
            gid: stat.gid,
            nlink: 0,
            xattrs: self.tree.xattrs.intern(&set)?,
            perm: stat.perm,
            layer: self.tree.layer,
            implicit: false,
        })
    }
}

/// The implicit directories of a layer that lead to something that it adds, not to whiteouts alone.
pub(super) fn used_directories<B: AsRef<[u8]> + Send + Sync>(
    layer: &Index<B>,
) -> Result<HashSet<Ino>, TreeError> {
    let mut used = HashSet::new();
    let mut left = layer.names();
    let mut todo = vec![Ino::ROOT];
    while let Some(dir) = todo.pop() {
        let mut adds = false;
        for entry in layer.children_of_walk(dir, &mut left)? {
            let DirEntry { name, ino, file_type, .. } = entry?;
            if Whiteout::of(name).is_some() {
                continue;
            }
            let is_directory = file_type == FileType::Directory;
            adds |= !is_directory || !layer.is_implicit(ino)?;
            todo.extend(is_directory.then_some(ino));
        }
        let mut above = dir;
        while adds && above != Ino::ROOT && layer.is_implicit(above)? && used.insert(above) {
            above = layer.parent(above)?;
        }
    }
    Ok(used)
}

impl GrowingTree {
    /// The directory below that the directory `name` of a layer is, in what the layer has for `dir`.
    ///
    /// An implicit one may be behind a symlink; one with an entry takes a symlink's place.
    pub(super) fn below(&self, dir: Ino, name: &[u8], implicit: bool, way: &mut Way) -> Option<Ino> {
        match self.child(dir, name)? {
            child if self.is_directory(child) => Some(child),
            child if implicit => self.resolve(dir, child, way),
            _ => None,
        }
    }

    /// Takes away all that is in a directory.
    fn clear(&mut self, dir: Ino) {
        let Body::Directory { first, last, .. } = &mut self.inode_mut(dir).body else { return };
        let mut child = std::mem::replace(first, NONE);
        *last = NONE;
        while child != NONE {
            self.remove(child);
            child = self.dentries[child as usize].next;
        }
    }
}
