//! A growing tree that is one layer of an image: some of what its entries name is in the layers below.

use crate::index::Whiteout;
use crate::tarfile::Entry;

use super::paths::{Astray, TARGETS_AN_ENTRY, Way};
use super::{Body, GrowError, GrowingTree, Ino, MAX_SYMLINKS, Order, implicit_directory};

const WHITEOUT_XATTR: &[u8] = b"user.imagefs.whiteout";

/// Says of a whiteout what it is: `whiteout` or `opaque`. Whether it is one is returned.
pub(super) fn mark_whiteout(entry: &mut Entry) -> bool {
    let name = entry.path.rsplit(|&b| b == b'/').next().unwrap_or_default();
    let kind: &[u8] = match Whiteout::of(name) {
        None => return false,
        Some(Whiteout::Name(_)) => b"whiteout",
        Some(Whiteout::Opaque) => b"opaque",
    };
    entry.xattrs.retain(|(name, _)| name != WHITEOUT_XATTR);
    entry.xattrs.push((WHITEOUT_XATTR.to_vec(), kind.to_vec()));
    true
}

impl GrowingTree {
    /// A tree for one layer of an image, which has nothing but its root.
    ///
    /// Whiteouts are names like any other, but carry the extended attribute `user.imagefs.whiteout`. A hard link whose target does not come is an empty file, from which
    /// [`Index::links_out`](crate::index::Index::links_out) tells where it leads. A path through a symlink that
    /// leads to nothing goes where the symlink says, by way of directories that no entry describes.
    pub fn of_layer() -> GrowingTree {
        let mut tree = GrowingTree::new(Order::Any);
        tree.of_layer = true;
        tree
    }

    /// Whether a whiteout at this path takes nothing away that is not gone already, because something that is no directory
    /// has taken the place of one on its way. umoci writes such when a directory becomes a file.
    pub(super) fn is_moot(&mut self, whiteout: &[u8]) -> Result<bool, GrowError> {
        let path = whiteout.iter().rposition(|&b| b == b'/').map_or(&b""[..], |slash| &whiteout[..slash]);
        if path.is_empty() || self.last_dir.0 == path {
            return Ok(false);
        }
        let mut way = Way::new(MAX_SYMLINKS);
        let blocked = self.is_blocked(path, &mut way);
        self.patience.account(&mut way)?;
        Ok(blocked)
    }

    fn is_blocked(&self, path: &[u8], way: &mut Way) -> bool {
        let mut dir = Ino::ROOT;
        for name in path.split(|&b| b == b'/') {
            let Some(dentry) = self.dentry(dir, name) else { return false };
            dir = match self.dentries[dentry as usize].ino() {
                // A hard link to what is not known yet is one to a file.
                None => return true,
                Some(child) if self.is_directory(child) => child,
                Some(child) => match self.follow(dir, child, way) {
                    Ok(target) => target,
                    Err(astray) => return astray == Astray::Blocked,
                },
            };
        }
        false
    }

    /// Makes the directory that `child`, a symlink of `dir`, leads to; `None` where something else is in the way.
    pub(super) fn make_target(
        &mut self,
        dir: Ino,
        child: Ino,
        way: &mut Way,
    ) -> Result<Option<Ino>, GrowError> {
        let mut at = dir;
        // What is still to be walked, the next component last.
        let mut rest: Vec<Vec<u8>> = Vec::new();
        let mut found = child;
        loop {
            match self.inode_ref(found).body {
                Body::Directory { .. } => at = found,
                Body::Symlink { target, len, .. } => {
                    let target = self.target(target, len);
                    if target.starts_with(b"/") {
                        at = Ino::ROOT;
                    }
                    if way.enter(target).is_none() {
                        return Ok(None);
                    }
                    rest.extend(target.rsplit(|&b| b == b'/').map(<[u8]>::to_vec));
                    if rest.len() > 4096 {
                        return Ok(None);
                    }
                }
                _ => return Ok(None),
            }
            found = loop {
                let Some(name) = rest.pop() else { return Ok(Some(at)) };
                match name.as_slice() {
                    b"" | b"." => {}
                    b".." => at = self.above(at),
                    // Such a name could not have come in a path either.
                    name if name.len() > 255 => return Ok(None),
                    name => {
                        break match self.child(at, name) {
                            Some(child) => child,
                            None => {
                                self.patience.spend(TARGETS_AN_ENTRY)?;
                                self.add_directory(at, name, implicit_directory(self.layer))?
                            }
                        };
                    }
                }
            };
        }
    }
}
