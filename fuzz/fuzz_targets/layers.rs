//! Tars one behind the other, each a layer upon those before it, merged.
#![no_main]

use imagefs::tarfile::EndMark;
use imagefs::index::{GrowingTree, Index, Merge};
use imagefs_fuzz::{IDENTITY, compare, grow, index, mutate_tar};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

/// Layers that are merged; the rest is left out.
const LAYERS: usize = 4;

fuzz_target!(|tars: &[u8]| {
    let (mut merge, mut counting) = (Merge::new(), Merge::new());
    let mut rest = tars;
    for _ in 0..LAYERS {
        let mut tree = GrowingTree::of_layer();
        let Some(len) = grow(rest, EndMark::Unneeded, &mut tree) else { break };
        compare(&tree);
        let bytes = index(&tree);
        let layer = Index::new(&bytes, &IDENTITY).expect("what was written is read");
        let (added, counted) = (merge.add(&layer), counting.add_counted(&layer));
        assert_eq!(added.is_ok(), counted.is_ok(), "counting makes no difference");
        if added.is_err() {
            return;
        }
        rest = &rest[len..];
        if rest.is_empty() {
            break;
        }
    }
    let (Ok(tree), Ok(counted)) = (merge.finish(), counting.finish()) else { return };
    assert_eq!(index(&tree), index(&counted), "counting makes no difference");
    compare(&tree);
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate_tar(data, size, max_size, seed)
});
