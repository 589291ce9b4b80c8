//! An index as anyone may have left it. A tar stands for its index, so that tars can be seeds.
#![no_main]

use imagefs::tarfile::EndMark;
use imagefs::index::{GrowingTree, Index, Merge};
use imagefs_fuzz::{IDENTITY, ask_everything, grow};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

const MAGIC: &[u8] = b"imagefs\x1a";
/// The header, and the places of its checksum and of the identity in it; `docs/format.md`.
const HEADER: usize = 224;
const CHECKSUM: std::ops::Range<usize> = 12..16;
const HEADER_IDENTITY: std::ops::Range<usize> = 16..48;

fuzz_target!(|bytes: &[u8]| {
    let made = index_of(bytes);
    let Ok(index) = Index::new(made.as_deref().unwrap_or(bytes), &IDENTITY) else { return };
    let _ = index.verify();
    ask_everything(&index);
    let _ = index.links_out().filter(Result::is_ok).take(1 << 16).count();
    let mut merge = Merge::new();
    if merge.add(&index).is_ok()
        && let Ok(tree) = merge.finish()
    {
        // What came of damage may be anything but worse than that.
        let bytes = imagefs_fuzz::index(&tree);
        let merged = Index::new(&bytes, &IDENTITY).expect("what was written is read");
        merged.verify().expect("its checksums are right");
        ask_everything(&tree);
        ask_everything(&merged);
    }
});

// The checksum of the header is put right: what is behind it is of interest.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, _seed: u32| {
    let mut size = size;
    if let Some(made) = index_of(&data[..size]).filter(|made| made.len() <= max_size) {
        size = made.len();
        data[..size].copy_from_slice(&made);
    }
    let size = fuzzer_mutate(data, size, max_size);
    if let Some(header) = data[..size].get_mut(..HEADER) {
        header[..MAGIC.len()].copy_from_slice(MAGIC);
        header[HEADER_IDENTITY].copy_from_slice(&IDENTITY);
        header[CHECKSUM].fill(0);
        let sum = crc32fast::hash(header);
        header[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
    }
    size
});

/// The index of a tar; `None` for what is an index.
fn index_of(bytes: &[u8]) -> Option<Vec<u8>> {
    if bytes.starts_with(MAGIC) {
        return None;
    }
    let mut tree = GrowingTree::of_layer();
    grow(bytes, EndMark::Optional, &mut tree)?;
    Some(imagefs_fuzz::index(&tree))
}
