//! Layers whose index is damaged, merged: an error or a wrong answer, never worse.

use imagefs::index::{Index, Ino, Merge, Segment, Tree};

use super::build::{IDENTITY, Layer, index_bytes};

/// Where a section of an index begins, by its place in the header; `docs/format.md`.
fn section(index: &[u8], number: usize) -> usize {
    let at = 48 + 24 * number;
    u64::from_le_bytes(index[at..at + 8].try_into().unwrap()) as usize
}

const INODES: usize = 0;
const DENTRIES: usize = 1;

/// A directory (inode 2) and a file (inode 3).
fn layer() -> Vec<u8> {
    index_bytes(&Layer::new(0).dir("d").file("f", "content").tar())
}

fn merge(index: &[u8]) -> Merge {
    let mut merge = Merge::new();
    merge.add(&Index::new(index, &IDENTITY).unwrap()).unwrap();
    merge
}

#[test]
fn a_file_that_is_a_directory_is_an_error() {
    let mut index = layer();
    let name_of_file = section(&index, DENTRIES) + 12;
    index[name_of_file] = 2;
    let looked_up = Index::new(&index, &IDENTITY).unwrap().lookup(Ino::ROOT, b"f").unwrap_err();
    assert_eq!(looked_up.to_string(), "the index is damaged: a name leads to something of another type");
    let error = Merge::new().add(&Index::new(&index, &IDENTITY).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "layer 0: the index is damaged: the name of a file leads to a directory");
}

#[test]
fn content_that_ends_behind_everything_is_looked_for_there() {
    let mut index = layer();
    let file = section(&index, INODES) + 3 * 48;
    index[file..file + 8].fill(0xff);
    index[file + 8..file + 16].copy_from_slice(&(u64::MAX >> 1).to_le_bytes());
    let tree = merge(&index).finish().unwrap();
    let file = tree.lookup(Ino::ROOT, b"f").unwrap().unwrap();
    assert_eq!(tree.segment(file, u64::MAX - 1).unwrap(), Segment::Data { at: u64::MAX, len: 1 });
}

#[test]
fn a_directory_that_has_two_names_at_every_level_is_an_error() {
    let both = |layer: Layer, depth: usize| {
        let above = "a/".repeat(depth);
        layer.dir(&format!("{above}a")).dir(&format!("{above}b"))
    };
    let mut index = index_bytes(&(0..40).fold(Layer::new(0), both).tar());
    let names = section(&index, DENTRIES);
    for pair in index[names..names + 80 * 12].as_chunks_mut::<24>().0 {
        let (a, b) = pair.split_at_mut(12);
        b[..4].copy_from_slice(&a[..4]);
    }
    let damaged = Index::new(&index, &IDENTITY).unwrap();
    for error in [Merge::new().add(&damaged).err(), Merge::new().add_counted(&damaged).err()] {
        let error = error.unwrap().to_string();
        assert_eq!(error, "layer 0: the index is damaged: more names than there are");
    }
}
