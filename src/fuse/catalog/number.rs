//! How the nodes of many sources are numbered in one session.
//!
//! Each directory of names, and each source, has a slot. A node is its slot and the number that the source's own view gives
//! it, packed into 64 bits: one bit for an edition of the description, 16 for the slot, 47 for the rest.

use crate::fuse::node::Node;

/// Directories and sources that the kernel can know of at one time.
pub(super) const MAX_SLOTS: u32 = 1 << 16;

const SLOT_SHIFT: u32 = 47;
/// The bit that a view sets for an edition of the description.
const EDITION: u64 = 1 << 63;
/// Where a view has the number of a container mount, and where it is here.
const MOUNT_SHIFT: u32 = 40;
const PACKED_MOUNT_SHIFT: u32 = 34;

/// The node of the session for a node of the view in a slot; `None` if it does not fit, which takes 8,192 mounts in a view.
pub(super) fn outward(slot: u16, local: Node) -> Option<Node> {
    let slot = u64::from(slot) << SLOT_SHIFT;
    if local.0 & EDITION != 0 {
        let edition = local.0 ^ EDITION;
        return (edition >> SLOT_SHIFT == 0).then_some(Node(EDITION | slot | edition));
    }
    let (mount, inode) = (local.0 >> MOUNT_SHIFT, local.0 & ((1 << MOUNT_SHIFT) - 1));
    let fits = mount < 1 << (SLOT_SHIFT - PACKED_MOUNT_SHIFT) && inode < 1 << PACKED_MOUNT_SHIFT;
    fits.then_some(Node(slot | mount << PACKED_MOUNT_SHIFT | inode))
}

/// The slot of a node of the session, and the node of the view in it.
pub(super) fn inward(node: Node) -> (u16, Node) {
    let slot = (node.0 & !EDITION) >> SLOT_SHIFT;
    let rest = node.0 & ((1 << SLOT_SHIFT) - 1);
    let local = match node.0 & EDITION {
        0 => {
            let (mount, inode) = (rest >> PACKED_MOUNT_SHIFT, rest & ((1 << PACKED_MOUNT_SHIFT) - 1));
            mount << MOUNT_SHIFT | inode
        }
        _ => EDITION | rest,
    };
    // 16 bits are left of it.
    (slot as u16, Node(local))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::node::Numbering;
    use crate::index::Ino;

    #[test]
    fn a_number_leads_back_to_its_slot_and_node() {
        for numbering in [Numbering::Flat, Numbering::Layered] {
            for slot in [0, 1, 77, u16::MAX] {
                let mut nodes = vec![Node::ROOT, Node::DESCRIPTION, Node::LAYERS];
                nodes.extend([1, 2, 1 << 40].map(|edition| numbering.edition(edition)));
                for (mount, ino) in [(0, 1), (0, u32::MAX), (1, 1), (8191, u32::MAX)] {
                    nodes.push(numbering.node(mount, Ino(ino)));
                }
                for node in nodes {
                    let outside = outward(slot, node).unwrap();
                    assert_eq!(inward(outside), (slot, node), "{slot} {node:?} {outside:?}");
                }
            }
            assert_eq!(outward(1, numbering.node(8192, Ino(2))), None);
        }
        assert_eq!(outward(0, Node::ROOT), Some(Node::ROOT), "what stands at the mountpoint");
    }
}
