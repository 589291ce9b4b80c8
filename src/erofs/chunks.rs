//! The maps of sparse files: one address for each chunk, of which those in holes say so.

use super::ErofsError;
use crate::index::{Ino, Segment, Tree, TreeError};

/// The most chunks that the map of one file has.
const MAX_CHUNKS: u64 = 1 << 20;

/// The most chunks that the exact maps of all files have together: what an archive can make an image grow by.
const MAX_ALL_CHUNKS: u64 = 1 << 26;

/// The most that the format says of a chunk's size.
const MAX_BITS: u32 = 31;

/// A run of data of a sparse file.
#[derive(Clone, Copy, Debug)]
pub(super) struct DataRun {
    pub(super) offset: u64,
    pub(super) len: u64,
    /// In the data file.
    pub(super) at: u64,
}

/// The runs of data of a regular file, in their order.
pub(super) fn data_runs(
    tree: &dyn Tree,
    ino: Ino,
    each: &mut dyn FnMut(DataRun) -> Result<(), ErofsError>,
) -> Result<(), ErofsError> {
    let mut offset: u64 = 0;
    loop {
        let step = match tree.segment(ino, offset)? {
            Segment::End => return Ok(()),
            Segment::Hole { len } => len,
            Segment::Data { at, len } => {
                each(DataRun { offset, len, at })?;
                len
            }
        };
        offset = offset.checked_add(step).ok_or(TreeError::Corrupt("an extent past 2^64"))?;
    }
}

/// How a sparse file is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// A chunk has `block << bits` bytes.
    pub(super) bits: u32,
    /// How many there are.
    pub(super) count: u64,
    /// Whether chunks with data are copied into the image: where the runs lie does not allow anything else.
    pub(super) copied: bool,
}

/// What is to be known of a file's runs to cut it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alignment {
    runs: u64,
    /// All offsets that chunks have to begin at, by bitwise or.
    offsets: u64,
    /// The same of places on devices.
    places: u64,
    /// Whether all of it is on devices.
    placed: bool,
}

impl Alignment {
    pub(super) fn new() -> Alignment {
        Alignment { runs: 0, offsets: 0, places: 0, placed: true }
    }

    /// Takes in a run of a file of `size` bytes that stands at byte `place` of a device, if it stands on one.
    pub(super) fn add(&mut self, run: DataRun, size: u64, place: Option<u64>) {
        self.runs += 1;
        let end = run.offset.saturating_add(run.len);
        // What is behind the end of the file is nobody's: there a chunk may go on.
        self.offsets |= run.offset | if end < size { end } else { 0 };
        match place {
            Some(place) => self.places |= place,
            None => self.placed = false,
        }
    }

    /// How a file of `size` bytes with these runs is cut. `left` is how many chunks the exact maps of all files may still have.
    pub(super) fn cut(self, size: u64, block: u64, left: &mut u64) -> Result<Cut, ErofsError> {
        let block_bits = block.trailing_zeros();
        let exact = self.offsets.trailing_zeros().min(block_bits + MAX_BITS);
        // No larger than it takes to have the whole file in one.
        let whole = size.checked_next_power_of_two().unwrap_or(1 << 63).trailing_zeros();
        let bits = exact.min(whole).max(block_bits);
        let count = size.div_ceil(1 << bits);
        if count <= MAX_CHUNKS && count <= *left {
            *left -= count;
            let lies_well = self.placed && self.places.is_multiple_of(block) && exact >= block_bits;
            return Ok(Cut { bits: bits - block_bits, count, copied: !lies_well });
        }
        // Coarser holes, which have to be copied, and as many addresses as there are runs to speak of.
        let most = (self.runs.saturating_mul(64).saturating_add(1024)).min(MAX_CHUNKS);
        let bits = size.div_ceil(most).next_power_of_two().trailing_zeros().max(block_bits);
        if bits > block_bits + MAX_BITS {
            return Err(ErofsError::TooLarge("a sparse file"));
        }
        Ok(Cut { bits: bits - block_bits, count: size.div_ceil(1 << bits), copied: true })
    }
}

/// How many chunks the exact maps of all files may have together.
pub(super) const ALL_CHUNKS: u64 = MAX_ALL_CHUNKS;

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(size: u64, runs: &[(u64, u64, u64)]) -> Cut {
        let mut alignment = Alignment::new();
        for &(offset, len, at) in runs {
            alignment.add(DataRun { offset, len, at }, size, Some(at));
        }
        alignment.cut(size, 512, &mut ALL_CHUNKS.clone()).unwrap()
    }

    #[test]
    fn a_file_is_cut_where_its_holes_begin_and_end() {
        assert_eq!(cut(1 << 20, &[(4096, 8192, 512)]), Cut { bits: 3, count: 256, copied: false });
        // The last run may end anywhere.
        assert_eq!(cut(100_000, &[(65536, 34464, 512)]), Cut { bits: 7, count: 2, copied: false });
        // Nothing but a hole.
        assert_eq!(cut(1 << 30, &[]), Cut { bits: 21, count: 1, copied: false });
        // Runs that lie at no block are copied.
        for odd in [(100, 50, 512), (512, 512, 513)] {
            assert_eq!(cut(10_000, &[odd]), Cut { bits: 0, count: 20, copied: true }, "{odd:?}");
        }
    }

    #[test]
    fn an_archive_cannot_make_the_maps_grow_at_will() {
        let huge = cut(1 << 40, &[(512, 512, 512)]);
        assert!(huge.copied && huge.count <= 2048, "{huge:?}");
        let mut left = 10;
        let mut alignment = Alignment::new();
        alignment.add(DataRun { offset: 512, len: 512, at: 512 }, 5120, Some(512));
        assert_eq!(alignment.cut(5120, 512, &mut left).unwrap(), Cut { bits: 0, count: 10, copied: false });
        assert!(alignment.cut(5120, 512, &mut left).unwrap().copied);
        assert!(alignment.cut(u64::MAX, 512, &mut left).is_err());
    }
}
