//! Showing other mounts in place of those that are shown, and what the caller has of either.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::{BadMount, Mounted, Place, Table, View, ViewMount};
use crate::fuse::node::Node;
use crate::index::{Certainty, DirCookie, DirEntry, FileType, FillState, Ino};

/// What the kernel may keep though it holds no more, after mounts were [replaced](View::replace): names in the top
/// directory, and its attributes and listing.
#[derive(Debug, PartialEq, Eq)]
pub struct Outdated {
    /// The directory that the names are in.
    pub dir: Node,
    /// The names, whether they led to something or to nothing.
    pub names: Vec<OsString>,
}

impl View {
    /// Shows `mounts` from now on, instead of those before: their inodes have numbers of their own, and the old ones
    /// stay readable for as long as they are not [forgotten](View::forget). For a view that is
    /// [replaceable](super::ViewOptions::replaceable), and shows no layers.
    ///
    /// # Errors
    /// As [`View::new`]; then everything stays as it was.
    pub fn replace(&self, mounts: Vec<ViewMount>) -> Result<Outdated, BadMount> {
        let mut names: Vec<OsString> = mounts.iter().map(|mount| mount.name.clone()).collect();
        let before = self.tables.replace(mounts, self.options.flat)?;
        if !self.options.flat {
            names.extend(before.mounts.iter().map(|mount| mount.name.clone()));
            names.sort();
            names.dedup();
        } else if let Some(root) = Mounted::new(before, 0) {
            names = names_in(&root, Ino::ROOT, &mut Vec::new());
        }
        Ok(Outdated { dir: Node::ROOT, names })
    }

    /// Hands out every name of what was replaced and is not forgotten, unless the kernel has asked for none since the last
    /// time: when the directory above is outdated, it takes out what nobody uses, but keeps what was in use, also when
    /// that ends.
    pub fn withdraw(&self, emit: &mut dyn FnMut(Outdated)) {
        for mounted in self.tables.older().iter().flat_map(Table::withdraw) {
            let mut dirs = vec![Ino::ROOT];
            while let Some(dir) = dirs.pop() {
                let names = names_in(&mounted, dir, &mut dirs);
                let dir = self.numbering.node(mounted.slot(), dir);
                // The names at the mountpoint of a flat session are those of what is shown now.
                if dir != Node::ROOT {
                    emit(Outdated { dir, names });
                }
            }
        }
    }

    /// For how long it holds that a directory has no entry of some name.
    pub fn absence(&self, dir: Node) -> Certainty {
        // Once the root itself is replaced, nobody can tell which names were asked for in vain.
        match self.options.flat && self.options.replaceable && dir == Node::ROOT {
            true => Certainty::Provisional,
            false => Certainty::Final,
        }
    }

    /// Takes note that the caller has let go of a node as many times as it was given it.
    pub fn forget(&self, node: Node, times: u64) {
        match self.numbering.place(node) {
            // The root of a flat session is what nobody gave to the kernel, and what it keeps.
            Some(Place::Mount(_, Ino::ROOT)) if self.options.flat => {}
            Some(Place::Mount(slot, _)) => self.tables.let_go(slot, times),
            Some(Place::Description(number)) => self.editions.let_go(number, times),
            Some(Place::Top | Place::Layers) | None => {}
        }
    }

    /// As what [`View::lookup`] gives, the caller has the node from now on. Tells whether it is still there.
    pub(super) fn hold(&self, node: Node) -> bool {
        match self.numbering.place(node) {
            Some(Place::Mount(slot, _)) => self.tables.hold(slot),
            Some(Place::Description(number)) => self.editions.hold(number),
            Some(Place::Top | Place::Layers) => true,
            None => false,
        }
    }
}

/// The names that can have been given out of a directory, and the directories among them. That something is missing is
/// kept nowhere where it matters.
fn names_in(mounted: &Mounted, dir: Ino, dirs: &mut Vec<Ino>) -> Vec<OsString> {
    let filesystem = mounted.filesystem();
    let mut names = Vec::new();
    // Nobody has seen anything of it, and looking would have it read.
    if filesystem.state() == FillState::Dormant {
        return names;
    }
    let mut emit = |entry: DirEntry<'_>| {
        names.push(OsString::from_vec(entry.name.to_vec()));
        if entry.file_type == FileType::Directory {
            dirs.push(entry.ino);
        }
        true
    };
    // While it is being filled, what has come is all that can have been seen.
    let listed = match filesystem.pin() {
        Some(pinned) => pinned.read_dir(dir, DirCookie::START, &mut emit),
        None => filesystem.tree().read_dir(dir, DirCookie::START, &mut emit),
    };
    if let Err(error) = listed {
        tracing::debug!("inode {dir} of {:?}: {error}", mounted.mount().name);
    }
    names
}
