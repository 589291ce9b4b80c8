//! A tar → its tree → its index: the one says what the other says.
#![no_main]

use imagefs::tarfile::EndMark;
use imagefs::index::{GrowingTree, Order};
use imagefs_fuzz::{compare, grow, mutate_tar};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|tar: &[u8]| {
    for order in [Order::Any, Order::DepthFirst] {
        let mut tree = GrowingTree::new(order);
        if grow(tar, EndMark::Optional, &mut tree).is_some() {
            compare(&tree);
        }
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate_tar(data, size, max_size, seed)
});
