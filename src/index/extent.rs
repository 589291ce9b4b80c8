//! Where the runs of a sparse file are: the search that both trees share.

use super::Segment;
use crate::tarfile::Extent;

/// What stands at `offset` of a sparse file that goes on for `left` bytes; `extent(i)` is the i-th of `count`.
pub(super) fn sparse_segment(
    count: usize,
    extent: impl Fn(usize) -> Option<Extent>,
    offset: u64,
    left: u64,
) -> Segment {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        match extent(middle) {
            Some(e) if e.offset.saturating_add(e.len) <= offset => low = middle + 1,
            _ => high = middle,
        }
    }
    match extent(low).filter(|_| low < count) {
        Some(e) if e.offset <= offset => {
            let inside = offset - e.offset;
            Segment::Data {
                at: e.at.saturating_add(inside),
                len: e.len.saturating_sub(inside).min(left).max(1),
            }
        }
        Some(e) => Segment::Hole { len: (e.offset - offset).min(left).max(1) },
        None => Segment::Hole { len: left },
    }
}
