//! What the fuzz targets share: making trees of archives, asking trees everything, and putting checksums right.
//!
//! The law of every target: an error is fine; a panic, a walk without end and memory without bound are bugs.

use std::io::Cursor;

use imagefs::tarfile::{EndMark, Scanner};
use imagefs::index::{
    DirCookie, FileType, GrowingTree, Index, Ino, Listing, Segment, Tree, TreeError, write_index,
};
use libfuzzer_sys::fuzzer_mutate;

/// What every index here says that it was made from.
pub const IDENTITY: [u8; 32] = [7; 32];

const BLOCK: usize = 512;
/// Where a tar header keeps its checksum.
const CHECKSUM: std::ops::Range<usize> = 148..156;
/// Segments of one file that are asked for, one behind the other.
const SEGMENTS: usize = 256;
/// Names of a damaged index that are followed.
const NAMES: usize = 2048;

/// Puts the entries of an archive into `tree`, as far as they are good. Says how long the archive is, if it is one.
pub fn grow(tar: &[u8], end_mark: EndMark, tree: &mut GrowingTree) -> Option<usize> {
    let mut scanner = Scanner::new(tar, end_mark);
    while let Some(entry) = scanner.next_entry().ok()? {
        tree.insert(entry).ok()?;
    }
    tree.finish().ok()?;
    usize::try_from(scanner.position()).ok()
}

/// The index of a finished tree.
pub fn index(tree: &GrowingTree) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    write_index(tree, &IDENTITY, &mut out).expect("memory takes whatever is written");
    out.into_inner()
}

/// Asks a finished tree and its index everything, and compares the answers.
pub fn compare(growing: &GrowingTree) {
    let bytes = index(growing);
    let index = Index::new(&bytes, &IDENTITY).expect("what was written is read");
    index.verify().expect("its checksums are right");
    assert_eq!(growing.summary(), index.summary());
    let (mut entries, mut inodes) = (0, std::collections::HashSet::from([Ino::ROOT]));
    let mut todo = vec![Ino::ROOT];
    while let Some(dir) = todo.pop() {
        let mut names = list(growing, dir);
        names.sort_unstable();
        assert_eq!(list(&index, dir), names);
        let mut directories = 0;
        for (name, ino, is_directory) in names {
            entries += 1;
            assert_eq!(growing.lookup(dir, &name).unwrap(), Some(ino));
            assert_eq!(index.lookup(dir, &name).unwrap(), Some(ino));
            if inodes.insert(ino) {
                assert_same_inode(growing, &index, ino);
            }
            if is_directory {
                directories += 1;
                assert_eq!(index.parent(ino).unwrap(), dir);
                todo.push(ino);
            }
        }
        assert_eq!(index.stat(dir).unwrap().nlink, 2 + directories, "a directory's links");
        assert_eq!(growing.lookup(dir, b"/").unwrap(), None);
    }
    assert_same_inode(growing, &index, Ino::ROOT);
    assert_eq!((entries, inodes.len() as u64), (index.summary().entries, index.summary().inodes));
}

fn assert_same_inode(growing: &GrowingTree, index: &dyn Tree, ino: Ino) {
    let stat = index.stat(ino).unwrap();
    assert_eq!(growing.stat(ino).unwrap(), stat);
    assert_eq!(growing.read_link(ino).ok(), index.read_link(ino).ok());
    assert_eq!(growing.parent(ino).ok(), index.parent(ino).ok());
    assert_eq!(xattrs(growing, ino), xattrs(index, ino));
    assert_eq!(stat.has_xattrs, !xattrs(index, ino).unwrap().is_empty());
    assert_eq!(segments(growing, ino), segments(index, ino));
}

/// Asks a tree everything that can be asked of it, whatever it answers.
pub fn ask_everything(tree: &dyn Tree) {
    let mut todo = vec![Ino::ROOT];
    // A name in a damaged index can lead anywhere, also back.
    let mut left = NAMES;
    while let Some(dir) = todo.pop().filter(|_| left > 0) {
        for ino in [dir, Ino(dir.0.wrapping_add(1)), Ino(u32::MAX)] {
            let _ = tree.stat(ino);
            let _ = tree.parent(ino);
            let _ = tree.read_link(ino);
            let _ = tree.lookup(ino, b"name");
            let _ = xattrs(tree, ino);
            let _ = segments(tree, ino);
        }
        let _ = tree.read_dir(dir, DirCookie(u64::MAX), &mut |_| true);
        let _ = tree.read_dir(dir, DirCookie::START, &mut |entry| {
            let _ = tree.lookup(dir, entry.name);
            todo.push(entry.ino);
            left -= 1;
            left > 0
        });
    }
}

type Name = (Vec<u8>, Ino, bool);

/// The entries of a directory, asked for a few at a time, as by a kernel with a small buffer.
fn list(tree: &dyn Tree, dir: Ino) -> Vec<Name> {
    let mut names = Vec::new();
    let mut from = DirCookie::START;
    loop {
        let mut room = 1 + names.len();
        let listing = tree.read_dir(dir, from, &mut |entry| {
            if room == 0 {
                return false;
            }
            room -= 1;
            from = entry.cookie;
            names.push((entry.name.to_vec(), entry.ino, entry.file_type == FileType::Directory));
            true
        });
        match listing.unwrap() {
            Listing::Stopped => {}
            Listing::End => return names,
            Listing::NotYet => panic!("a finished tree has more to come"),
        }
    }
}

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

fn xattrs(tree: &dyn Tree, ino: Ino) -> Option<Xattrs> {
    let mut found = Vec::new();
    let result: Result<(), TreeError> = tree.xattrs(ino, &mut |name, value| {
        found.push((name.to_vec(), value.to_vec()));
        true
    });
    result.ok().map(|()| found)
}

/// The segments of a file, the first ones and those about its end.
fn segments(tree: &dyn Tree, ino: Ino) -> Option<Vec<Segment>> {
    let size = tree.stat(ino).ok()?.size;
    let mut found = Vec::new();
    let mut offset = 0u64;
    while found.len() < SEGMENTS {
        let segment = tree.segment(ino, offset).ok()?;
        found.push(segment);
        let (Segment::Data { len, .. } | Segment::Hole { len }) = segment else { break };
        assert!(len > 0, "a segment of no length");
        assert!(len <= size - offset, "a segment that goes on behind the end");
        offset += len;
    }
    for offset in [size.saturating_sub(1), size, u64::MAX] {
        found.push(tree.segment(ino, offset).ok()?);
    }
    Some(found)
}

/// Changes a tar: mostly within one block, so that those behind it stay where they are; then puts checksums right.
pub fn mutate_tar(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let blocks = size / BLOCK;
    let pick = |salt: u32| (seed >> 3).wrapping_mul(salt) as usize % blocks.max(1) * BLOCK;
    let size = match seed % 8 {
        0 => fuzzer_mutate(data, size, max_size),
        1 if blocks > 0 && size + BLOCK <= max_size => {
            let (from, to) = (pick(1), pick(0x9e37_79b1));
            let block = data[from..][..BLOCK].to_vec();
            data.copy_within(to..size, to + BLOCK);
            data[to..][..BLOCK].copy_from_slice(&block);
            size + BLOCK
        }
        _ if blocks > 0 => {
            fuzzer_mutate(&mut data[pick(1)..][..BLOCK], BLOCK, BLOCK);
            size
        }
        _ => fuzzer_mutate(data, size, max_size),
    };
    repair_tar(&mut data[..size]);
    size
}

/// Makes every block a header that looks like one: a checksum stands in it, which is put right.
pub fn repair_tar(tar: &mut [u8]) {
    for block in tar.as_chunks_mut::<BLOCK>().0 {
        let looks = |field: &[u8]| {
            field.iter().all(|b| matches!(b, b'0'..=b'7' | b' ' | 0)) && field.iter().any(u8::is_ascii_digit)
        };
        if looks(&block[CHECKSUM]) || block[257..262] == *b"ustar" {
            block[CHECKSUM].fill(b' ');
            let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
            block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}
