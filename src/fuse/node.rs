//! How a session numbers its inodes.
//!
//! The number follows from the mount index and the tree's own number, so it is the same after a remount and
//! needs no table. Must not import anything but `index`.

use std::fmt;

use crate::index::Ino;

/// The number of an inode within a session: what `st_ino` shows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(pub u64);

impl Node {
    /// What stands at the mountpoint.
    pub const ROOT: Node = Node(1);
    /// `.imagefs.json` in the top directory.
    pub const DESCRIPTION: Node = Node(2);
    /// The directory of the layers in the top directory.
    pub const LAYERS: Node = Node(3);
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

/// Leaves 32 bits of inode and room to spare; 2^24 mounts fit above.
const MOUNT_SHIFT: u32 = 40;

/// Added to every inode of a mount, so that 1 to 15 stay free for the session's own.
const RESERVED: u64 = 15;

/// Which of the two layouts a session has, and so how its numbers are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbering {
    /// The root filesystem alone, under the numbers of its tree.
    Flat,
    /// A top directory, with the mounts beneath it.
    Layered,
}

/// What a [`Node`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The directory that lists the mounts.
    Top,
    /// `.imagefs.json`
    Description,
    /// The directory that lists the layers.
    Layers,
    /// An inode of the mount with this index.
    Mount(usize, Ino),
}

impl Numbering {
    /// The number of an inode of a mount.
    pub(super) fn node(self, mount: usize, ino: Ino) -> Node {
        match self {
            Numbering::Flat => Node(u64::from(ino.0)),
            Numbering::Layered => Node(((mount as u64) << MOUNT_SHIFT) + u64::from(ino.0) + RESERVED),
        }
    }

    /// What a number stands for; `None` if this session cannot have given it out.
    pub(super) fn place(self, node: Node) -> Option<Place> {
        match self {
            Numbering::Flat => {
                let ino = u32::try_from(node.0).ok().filter(|&i| i > 0)?;
                Some(Place::Mount(0, Ino(ino)))
            }
            Numbering::Layered => match node {
                Node::ROOT => Some(Place::Top),
                Node::DESCRIPTION => Some(Place::Description),
                Node::LAYERS => Some(Place::Layers),
                Node(number) => {
                    let number = number.checked_sub(RESERVED)?;
                    let mount = usize::try_from(number >> MOUNT_SHIFT).ok()?;
                    let ino = u32::try_from(number & ((1 << MOUNT_SHIFT) - 1)).ok().filter(|&i| i > 0)?;
                    Some(Place::Mount(mount, Ino(ino)))
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_leads_back_to_its_inode() {
        for (mount, ino) in [(0, 1), (0, u32::MAX), (1, 1), (1, u32::MAX), (1 << 20, 77)] {
            let node = Numbering::Layered.node(mount, Ino(ino));
            assert_eq!(Numbering::Layered.place(node), Some(Place::Mount(mount, Ino(ino))));
        }
        assert_eq!(Numbering::Flat.node(0, Ino::ROOT), Node::ROOT);
        assert_eq!(Numbering::Flat.place(Node::ROOT), Some(Place::Mount(0, Ino::ROOT)));
    }

    #[test]
    fn the_numbers_of_a_session_stay_what_they_were() {
        assert_eq!(Numbering::Layered.node(0, Ino::ROOT), Node(16));
        assert_eq!(Numbering::Layered.node(2, Ino(5)), Node((2 << 40) + 20));
    }

    #[test]
    fn a_number_never_given_out_leads_nowhere() {
        for node in [0, 4, 15, (1 << 40) - 1, (1 << 40) + 15] {
            assert_eq!(Numbering::Layered.place(Node(node)), None, "{node}");
        }
        for node in [0, 1 << 32, u64::MAX] {
            assert_eq!(Numbering::Flat.place(Node(node)), None, "{node}");
        }
    }
}
