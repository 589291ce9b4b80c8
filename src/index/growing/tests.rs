use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::index::{DirCookie, Listing, Tree};

/// What an entry makes of its name.
#[derive(Clone, Copy, Debug)]
enum Kind {
    File,
    Directory,
    Symlink,
    /// A hard link to the file of that number: an even one is there, an odd one never comes.
    Link(u8),
}

fn name(number: u8) -> String {
    format!("n{number}")
}

fn entry(path: String, kind: Kind) -> Entry {
    let kind = match kind {
        Kind::File => EntryKind::Regular { size: 1, content: Content::Contiguous { at: 0 } },
        Kind::Directory => EntryKind::Directory,
        Kind::Symlink => EntryKind::Symlink(b"x".to_vec()),
        Kind::Link(number) => EntryKind::HardLink(format!("f/{}", name(number)).into_bytes()),
    };
    let mtime = Timestamp::default();
    Entry { path: path.into_bytes(), kind, perm: 0o644, uid: 0, gid: 0, mtime, xattrs: Vec::new() }
}

/// One who lists a directory, a few names at a time.
struct Reader {
    cookie: DirCookie,
    told: Vec<Vec<u8>>,
}

impl Reader {
    fn read(&mut self, tree: &GrowingTree, dir: Ino, mut count: usize) -> Listing {
        let Reader { cookie, told } = self;
        tree.read_dir(dir, *cookie, &mut |entry| {
            let taken = count > 0;
            if taken {
                count -= 1;
                *cookie = entry.cookie;
                told.push(entry.name.to_vec());
            }
            taken
        })
        .unwrap()
    }
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::File), Just(Kind::Directory), Just(Kind::Symlink), (0u8..12).prop_map(Kind::Link)]
}

/// One moment of a directory tree: a walk through it.
type Moment = BTreeMap<(u8, u8), u64>;

/// As an archive has it: each directory, and what is in it.
fn walk(moment: &Moment) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut at = 0;
    for (&(dir, number), &size) in moment {
        let path = format!("d{dir}");
        if !entries.iter().any(|entry: &Entry| entry.path == path.as_bytes()) {
            entries.push(entry(path.clone(), Kind::Directory));
        }
        let kind = EntryKind::Regular { size, content: Content::Contiguous { at } };
        entries.push(Entry { kind, ..entry(format!("{path}/{}", name(number)), Kind::File) });
        at += size;
    }
    entries
}

/// Every path of a tree, and the size of what it is.
fn paths(tree: &GrowingTree) -> BTreeMap<Vec<u8>, u64> {
    let mut found = BTreeMap::new();
    let mut todo = vec![(Vec::new(), Ino::ROOT)];
    while let Some((path, dir)) = todo.pop() {
        let mut emit = |entry: crate::index::DirEntry<'_>| {
            let path = [&path, entry.name].join(&b"/"[..]);
            let fresh = found.insert(path.clone(), tree.stat(entry.ino).unwrap().size).is_none();
            assert!(fresh, "repeated: {}", quote(&path));
            if entry.file_type == crate::index::FileType::Directory {
                todo.push((path, entry.ino));
            }
            true
        };
        assert_eq!(tree.read_dir(dir, DirCookie::START, &mut emit).unwrap(), Listing::End);
    }
    found
}

proptest! {
    /// What a container is while it is looked at, and what it is a moment later.
    #[test]
    fn a_walk_that_broke_off_goes_on_in_another_one_without_taking_back_what_it_told(
        first in prop::collection::btree_map((0u8..4, 0u8..5), 1u64..9, 1..16),
        second in prop::collection::btree_map((0u8..4, 0u8..5), 1u64..9, 0..16),
        broken in 0usize..20,
    ) {
        let (first, second) = (walk(&first), walk(&second));
        let told = &first[..broken.min(first.len())];
        let mut tree = GrowingTree::new(Order::DepthFirst);
        let mut expected = BTreeMap::new();
        // The bytes of the last entry have not come, if it has any.
        let mut readable = u64::MAX;
        for entry in told {
            let kept = match &entry.kind {
                EntryKind::Regular { size, content: Content::Contiguous { at } } => {
                    readable = *at;
                    *size
                }
                _ => {
                    readable = u64::MAX;
                    0
                }
            };
            tree.insert(entry.clone()).unwrap();
            expected.insert([b"/", &entry.path[..]].concat(), kept);
        }
        if let Some(last) = told.last().filter(|_| readable != u64::MAX) {
            expected.remove(&[b"/", &last.path[..]].concat());
        }
        // The directories that the first walk has left are what they were.
        let left = told.last().map_or(&b""[..], |last| &last.path[..2]);
        tree.resume_from(readable);
        for entry in second {
            let size = match entry.kind {
                EntryKind::Regular { size, .. } => size,
                _ => 0,
            };
            let dir = &entry.path[..2];
            let was_left = dir < left && told.iter().any(|entry| entry.path == dir);
            if !was_left {
                expected.entry([b"/", &entry.path[..]].concat()).or_insert(size);
            }
            tree.insert(entry).unwrap();
        }
        tree.finish().unwrap();
        prop_assert_eq!(paths(&tree), expected);
    }
}

proptest! {
    /// However often an archive names something again, and whatever that was before.
    #[test]
    fn a_listing_that_is_begun_while_names_are_replaced_neither_misses_nor_repeats_one(
        steps in prop::collection::vec((0u8..12, kind(), 0usize..4), 1..60),
        order in prop_oneof![Just(Order::Any), Just(Order::DepthFirst)],
    ) {
        let mut tree = GrowingTree::new(order);
        for even in [0, 2, 4, 6, 8, 10] {
            tree.insert(entry(format!("f/{}", name(even)), Kind::File)).unwrap();
        }
        let dir = tree.insert(entry("d".into(), Kind::Directory)).unwrap().unwrap();
        let mut readers: BTreeMap<usize, Reader> = BTreeMap::new();
        let mut put = BTreeSet::new();
        for (step, (number, kind, count)) in steps.into_iter().enumerate() {
            tree.insert(entry(format!("d/{}", name(number)), kind)).unwrap();
            put.insert(name(number).into_bytes());
            readers.entry(step % 5).or_insert(Reader { cookie: DirCookie::START, told: Vec::new() });
            for reader in readers.values_mut() {
                reader.read(&tree, dir, count);
            }
        }
        tree.finish().unwrap();
        for (_, mut reader) in readers {
            prop_assert_eq!(reader.read(&tree, dir, usize::MAX), Listing::End);
            let told: BTreeSet<_> = reader.told.iter().cloned().collect();
            prop_assert_eq!(told.len(), reader.told.len(), "repeated: {:?}", reader.told);
            prop_assert_eq!(&told, &put);
        }
    }
}
