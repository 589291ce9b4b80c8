//! How a session numbers its inodes.
//!
//! The number follows from the mount index and the tree's own number, so it is the same after a remount and
//! needs no table. A mount that replaces another gets a slot of its own, and so numbers that no other has. Must not
//! import anything but `index`.

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

/// Leaves 32 bits of inode and room to spare.
const SLOT_SHIFT: u32 = 40;

/// The mounts that a session can show in its life: those that replace others count anew.
pub(super) const MAX_SLOTS: usize = 1 << 22;

/// Added to the number of each edition of the description but the first, which is [`Node::DESCRIPTION`].
const EDITIONS: u64 = 1 << 63;

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
    /// `.imagefs.json`, in this edition.
    Description(u64),
    /// The directory that lists the layers.
    Layers,
    /// An inode of the mount in this slot. Of a flat session, the root of whatever mount is shown is in slot 0.
    Mount(usize, Ino),
}

impl Numbering {
    /// The number of an inode of a mount.
    pub(super) fn node(self, slot: usize, ino: Ino) -> Node {
        let number = ((slot as u64) << SLOT_SHIFT) + u64::from(ino.0);
        match self {
            // What stands at the mountpoint keeps its number, whatever is shown there.
            Numbering::Flat if ino == Ino::ROOT => Node::ROOT,
            Numbering::Flat => Node(number),
            Numbering::Layered => Node(number + RESERVED),
        }
    }

    /// The number of an edition of the description.
    pub(super) fn edition(self, edition: u64) -> Node {
        match edition {
            0 => Node::DESCRIPTION,
            later => Node(EDITIONS | later),
        }
    }

    /// What a number stands for; `None` if this session cannot have given it out.
    pub(super) fn place(self, node: Node) -> Option<Place> {
        let mount = |number: u64| {
            let slot = usize::try_from(number >> SLOT_SHIFT).ok().filter(|&slot| slot < MAX_SLOTS)?;
            let ino = u32::try_from(number & ((1 << SLOT_SHIFT) - 1)).ok().filter(|&i| i > 0)?;
            Some(Place::Mount(slot, Ino(ino)))
        };
        match (self, node) {
            (Numbering::Flat, Node(number)) => mount(number),
            (Numbering::Layered, Node::ROOT) => Some(Place::Top),
            (Numbering::Layered, Node::DESCRIPTION) => Some(Place::Description(0)),
            (Numbering::Layered, Node::LAYERS) => Some(Place::Layers),
            (Numbering::Layered, Node(number)) if number > EDITIONS => {
                Some(Place::Description(number ^ EDITIONS))
            }
            (Numbering::Layered, Node(number)) => mount(number.checked_sub(RESERVED)?),
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
        for (slot, ino) in [(0, 2), (0, u32::MAX), (1, 2), (7, u32::MAX)] {
            let node = Numbering::Flat.node(slot, Ino(ino));
            assert_eq!(Numbering::Flat.place(node), Some(Place::Mount(slot, Ino(ino))));
        }
        for slot in [0, 7] {
            assert_eq!(Numbering::Flat.node(slot, Ino::ROOT), Node::ROOT);
        }
        assert_eq!(Numbering::Flat.place(Node::ROOT), Some(Place::Mount(0, Ino::ROOT)));
        for edition in [0, 1, 1 << 40] {
            let node = Numbering::Layered.edition(edition);
            assert_eq!(Numbering::Layered.place(node), Some(Place::Description(edition)));
        }
    }

    #[test]
    fn the_numbers_of_a_session_stay_what_they_were() {
        assert_eq!(Numbering::Layered.node(0, Ino::ROOT), Node(16));
        assert_eq!(Numbering::Layered.node(2, Ino(5)), Node((2 << 40) + 20));
    }

    #[test]
    fn a_number_never_given_out_leads_nowhere() {
        for node in [0, 4, 15, (1 << 40) - 1, (1 << 40) + 15, 1 << 62, 1 << 63] {
            assert_eq!(Numbering::Layered.place(Node(node)), None, "{node}");
        }
        for node in [0, 1 << 32, u64::MAX] {
            assert_eq!(Numbering::Flat.place(Node(node)), None, "{node}");
        }
    }
}
