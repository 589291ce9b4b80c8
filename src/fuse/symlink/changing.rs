//! Targets for a session whose trees may still change.
//!
//! A proof that is made against the tree of the moment is worth nothing there: the kernel walks names that it was given
//! earlier, of any age. What holds whatever the tree does: no `..` follows a name, and there are no more of them than
//! the least depth at which the kernel was ever shown the link. Then no step of a walk climbs but the first ones, which
//! end at the mount's root at most, and the names that follow can only lead to other links of that kind.

use super::{MAX_TARGET, Position, Surroundings, SymlinkError, Target, Walk, depth as depth_in, relative};
use crate::index::Ino;

/// What a link is answered with.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::fuse) struct Answer {
    pub target: Vec<u8>,
    /// Whether the same question has the same answer whatever comes into the trees.
    pub lasting: bool,
}

/// The target to answer for a symlink that was shown `depth` directories below its mount's root and nowhere nearer,
/// and whose stored target is `stored`. It is taken to stand in `directory`.
pub(in crate::fuse) fn contain_changing(
    mounts: &Surroundings<'_>,
    link: Ino,
    directory: Ino,
    depth: usize,
    stored: Vec<u8>,
) -> Result<Answer, SymlinkError> {
    let tree = mounts.tree;
    let target = Target::parse(&stored);
    let enters = mounts.may_be_entered(target.rest);
    let leaves_own = !mounts.own_path().is_empty() && (target.absolute || target.ups > 0);
    if !target.climbs_later && !enters && !leaves_own {
        // The tree has no say in it.
        return match target.absolute || target.ups > depth {
            true => bounded(link, Answer { target: relative(depth, &[target.rest]), lasting: true }),
            false => Ok(Answer { target: stored, lasting: true }),
        };
    }
    // The same as `depth`, but where the link has names in several directories.
    let stands = depth_in(tree, directory)?;
    let leaves = target.absolute || target.ups > stands;
    let shown = if leaves && !mounts.own_path().is_empty() {
        let path = target.in_container(mounts.own_path(), stands);
        match mounts.owner(&path) {
            Some((destination, inside)) if destination.mount == mounts.own => relative(depth, &[inside]),
            Some(found) => mounts.lead(depth, found)?,
            None => relative(depth, &[&path]),
        }
    } else {
        let (ups, rest) = if target.climbs_later {
            let start = if target.absolute { Position::root(stands) } else { Position::at(directory) };
            let walked = Walk::new(mounts, start, stands, &stored).run()?;
            (walked.ups, walked.rest)
        } else {
            (if leaves { stands } else { target.ups }, target.rest.to_vec())
        };
        let mut from = directory;
        for _ in 0..ups {
            from = tree.parent(from)?;
        }
        match mounts.entered(from, stands - ups, &rest) {
            Some(found) => mounts.lead(depth, found)?,
            None if !target.climbs_later && !leaves && ups <= depth => stored,
            // What leads to the root does so from the place that was shown.
            None => relative(if ups == stands { depth } else { ups.min(depth) }, &[&rest]),
        }
    };
    bounded(link, Answer { target: shown, lasting: false })
}

fn bounded(link: Ino, answer: Answer) -> Result<Answer, SymlinkError> {
    if answer.target.len() > MAX_TARGET { Err(SymlinkError::TooLong(link)) } else { Ok(answer) }
}
