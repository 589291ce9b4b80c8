//! All that a view shows, for who lays it down in another form.

use std::sync::Arc;

use super::View;
use crate::fuse::node::{Node, Place};
use crate::index::{Filesystem, Ino};

/// Which of the things that a view shows a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A directory or file of the view's own.
    Own,
    /// An inode of one of the [trees](View::trees).
    Inode(usize, Ino),
}

impl View {
    /// The trees that are shown, the layers' included. As long as no mount was [replaced](View::replace), [`NodeKind::Inode`] counts
    /// these.
    pub fn trees(&self) -> Vec<Arc<Filesystem>> {
        let table = self.tables.current();
        let mounts = if self.options.flat { table.shown(true) } else { &table.mounts };
        mounts.iter().map(|mount| Arc::clone(&mount.filesystem)).collect()
    }

    /// The nodes of the view's own, what stands at the mountpoint first; none, if that is a tree's root.
    pub fn own_nodes(&self) -> Vec<Node> {
        if self.options.flat {
            return Vec::new();
        }
        let layers = self.layers_directory().map(|layers| layers.node);
        [Node::ROOT, Node::DESCRIPTION].into_iter().chain(layers).collect()
    }

    /// The number of an inode of a tree.
    pub fn node_of(&self, tree: usize, ino: Ino) -> Node {
        self.numbering.node(self.tables.current().slot(tree), ino)
    }

    /// What a node is; `None` if there is no such node.
    pub fn kind(&self, node: Node) -> Option<NodeKind> {
        match self.numbering.place(node)? {
            Place::Top | Place::Layers | Place::Description(_) => Some(NodeKind::Own),
            Place::Mount(slot, ino) => {
                Some(NodeKind::Inode(slot.checked_sub(self.tables.current().slot(0))?, ino))
            }
        }
    }
}
