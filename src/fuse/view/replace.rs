//! Showing other mounts in place of those that are shown.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::{BadMount, Mounted, View, ViewMount};
use crate::fuse::node::Node;
use crate::index::{DirCookie, Ino};

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
            names = names_at_root(&root);
        }
        Ok(Outdated { dir: Node::ROOT, names })
    }
}

/// The names that can have been given out of a root directory. That something is missing there is never kept.
fn names_at_root(root: &Mounted) -> Vec<OsString> {
    let filesystem = root.filesystem();
    let mut names = Vec::new();
    let mut emit = |entry: crate::index::DirEntry<'_>| {
        names.push(OsString::from_vec(entry.name.to_vec()));
        true
    };
    // While it is being filled, what has come is all that can have been seen.
    let listed = match filesystem.pin() {
        Some(pinned) => pinned.read_dir(Ino::ROOT, DirCookie::START, &mut emit),
        None => filesystem.tree().read_dir(Ino::ROOT, DirCookie::START, &mut emit),
    };
    if let Err(error) = listed {
        tracing::debug!("{:?}: {error}", root.mount().name.as_bytes().escape_ascii().to_string());
    }
    names
}
