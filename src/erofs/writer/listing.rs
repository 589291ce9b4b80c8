//! The entries of directories, in the order that EROFS wants.

use super::Writer;
use crate::erofs::ErofsError;
use crate::fuse::{Node, NodeKind, OpenDir};
use crate::index::{FileType, Ino, TreeError};

/// What is done with an entry: its name, what it names, and what that is.
pub(super) type Each<'a> = &'a mut dyn FnMut(&[u8], Node, FileType) -> Result<(), ErofsError>;

impl Writer<'_> {
    pub(super) fn nid(&self, node: Node) -> Option<u32> {
        match self.view.kind(node)? {
            NodeKind::Own => self.own.iter().find(|(own, _)| *own == node).map(|(_, nid)| *nid),
            NodeKind::Inode(tree, Ino(ino)) => self.nids.get(tree)?.get(ino as usize).copied(),
        }
        .filter(|nid| *nid > 0)
    }

    /// Hands the entries of a directory to `each` in the order that EROFS has them: by their bytes, `.` and `..` among them.
    pub(super) fn list(&self, node: Node, each: Each<'_>) -> Result<(), ErofsError> {
        if self.view.kind(node) == Some(NodeKind::Own) {
            let mut entries = Vec::new();
            self.entries(node, &mut |name, node, file_type| {
                entries.push((name.to_vec(), node, file_type));
                Ok(())
            })?;
            entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            return entries.iter().try_for_each(|(name, node, file_type)| each(name, *node, *file_type));
        }
        // Of a tree, all but the dots come in order.
        let (mut dots, mut last) = (Vec::new(), Vec::new());
        self.entries(node, &mut |name, node, file_type| {
            if matches!(name, b"." | b"..") {
                dots.push((name.to_vec(), node));
                return Ok(());
            }
            while let Some((_, node)) = dots.first().filter(|(dot, _)| **dot < *name) {
                each(&b".."[..3 - dots.len()], *node, FileType::Directory)?;
                dots.remove(0);
            }
            if *last >= *name {
                return Err(TreeError::Corrupt("names out of order").into());
            }
            name.clone_into(&mut last);
            each(name, node, file_type)
        })?;
        dots.iter().try_for_each(|(dot, node)| each(dot, *node, FileType::Directory))
    }

    /// Hands out the entries of a directory as the view lists them.
    fn entries(&self, node: Node, each: Each<'_>) -> Result<(), ErofsError> {
        let (dir, mut offset) = (OpenDir::from(node), 0);
        loop {
            let (before, mut result) = (offset, Ok(()));
            self.view.read_dir(&dir, offset, &mut |entry| {
                result = each(entry.name, entry.node, entry.file_type);
                offset = entry.next;
                result.is_ok()
            })?;
            result?;
            // What a view cannot list comes up as an error when it is asked to go on.
            if offset == before {
                return Ok(());
            }
        }
    }
}
