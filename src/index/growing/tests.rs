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
