//! The index without a mount: what goes into a tar comes out of both trees, and damage is never worse than an error.

use std::collections::BTreeMap;
use std::io::Cursor;

use imagefs::index::{
    DirCookie, FileType, GrowingTree, Index, Ino, Listing, Order, Segment, Timestamp, Tree, TreeError,
    write_index,
};
use imagefs::tarfile::{EndMark, Oddity, Scanner};
use proptest::prelude::*;

const IDENTITY: [u8; 32] = [7; 32];

/// What one path of the model leads to.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub what: What,
    pub perm: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: i64,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Names with the same number are hard links of one file.
    pub file: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub enum What {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Fifo,
    Device(u32, u32),
}

/// One entry of the archive.
#[derive(Clone, Debug)]
pub enum Entry {
    Node(Vec<u8>, Node),
    Link(Vec<u8>, Vec<u8>),
}

pub type Model = BTreeMap<Vec<u8>, Node>;

pub fn implicit_directory() -> Node {
    let what = What::Directory;
    Node { what, perm: 0o755, uid: 0, gid: 0, mtime: 0, xattrs: vec![], file: 0 }
}

/// Applies entries one by one, in the plainest way that can be thought of.
pub fn apply(entries: &[Entry]) -> Model {
    let mut model = Model::from([(Vec::new(), implicit_directory())]);
    for (number, entry) in entries.iter().enumerate() {
        let (path, mut node) = match entry {
            Entry::Node(path, node) => (path, node.clone()),
            Entry::Link(path, target) => match model.get(target) {
                Some(node) if node.what != What::Directory => (path, node.clone()),
                _ => continue,
            },
        };
        if let Entry::Node(..) = entry {
            node.file = number + 1;
        }
        for (slash, _) in path.iter().enumerate().filter(|(_, b)| **b == b'/') {
            if model.get(&path[..slash]).is_none_or(|parent| parent.what != What::Directory) {
                model.insert(path[..slash].to_vec(), implicit_directory());
            }
        }
        if node.what != What::Directory {
            let beneath = [path, &b"/"[..]].concat();
            model.retain(|other, _| !other.starts_with(&beneath));
        }
        model.insert(path.clone(), node);
    }
    model
}

/// The entries that `apply` knows what to do with: a link needs a target that is there and is not removed by the link
/// itself.
pub fn sensible(entries: Vec<Entry>, apply: fn(&[Entry]) -> Model) -> Vec<Entry> {
    let mut kept = Vec::new();
    for entry in entries {
        if let Entry::Link(path, target) = &entry {
            let beneath = [path, &b"/"[..]].concat();
            let model = apply(&kept);
            let fine = model.get(target).is_some_and(|node| node.what != What::Directory);
            let above = [target, &b"/"[..]].concat();
            if !fine || target.starts_with(&beneath) || path.starts_with(&above) {
                continue;
            }
        }
        kept.push(entry);
    }
    kept
}

fn pax_record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

pub fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        let (path, data): (_, &[u8]) = match entry {
            Entry::Link(path, target) => {
                header.set_entry_type(tar::EntryType::Link);
                header.set_link_name_literal(target).unwrap();
                (path, &[])
            }
            Entry::Node(path, node) => {
                header.set_mode(node.perm.into());
                header.set_uid(node.uid.into());
                header.set_gid(node.gid.into());
                let mut records = Vec::new();
                if node.mtime >= 0 {
                    header.set_mtime(node.mtime as u64);
                } else {
                    records.extend(pax_record(b"mtime", node.mtime.to_string().as_bytes()));
                }
                for (name, value) in &node.xattrs {
                    records.extend(pax_record(&[b"SCHILY.xattr.", &name[..]].concat(), value));
                }
                if !records.is_empty() {
                    let mut pax = tar::Header::new_ustar();
                    pax.set_entry_type(tar::EntryType::XHeader);
                    pax.set_size(records.len() as u64);
                    pax.set_cksum();
                    builder.append(&pax, &records[..]).unwrap();
                }
                let (entry_type, data) = match &node.what {
                    What::Directory => (tar::EntryType::Directory, &[][..]),
                    What::File(content) => (tar::EntryType::Regular, &content[..]),
                    What::Symlink(target) => {
                        header.set_link_name_literal(target).unwrap();
                        (tar::EntryType::Symlink, &[][..])
                    }
                    What::Fifo => (tar::EntryType::Fifo, &[][..]),
                    What::Device(major, minor) => {
                        header.set_device_major(*major).unwrap();
                        header.set_device_minor(*minor).unwrap();
                        (tar::EntryType::Char, &[][..])
                    }
                };
                header.set_entry_type(entry_type);
                (path, data)
            }
        };
        header.set_size(data.len() as u64);
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }
    builder.into_inner().unwrap()
}

fn grow(tar: &[u8]) -> GrowingTree {
    let mut scanner = Scanner::new(tar, EndMark::Required);
    let mut tree = GrowingTree::default();
    while let Some(entry) = scanner.next_entry().unwrap() {
        tree.insert(entry).unwrap();
    }
    tree.finish().unwrap();
    tree
}

fn index(tree: &GrowingTree) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    write_index(tree, &IDENTITY, &mut out).unwrap();
    out.into_inner()
}

fn list(tree: &dyn Tree, dir: Ino) -> Vec<(Vec<u8>, Ino, FileType)> {
    let mut names = Vec::new();
    let mut from = DirCookie::START;
    loop {
        // Two at a time, as a kernel with a small buffer would.
        let mut room = 2;
        let listing = tree.read_dir(dir, from, &mut |entry| {
            if room == 0 {
                return false;
            }
            room -= 1;
            from = entry.cookie;
            names.push((entry.name.to_vec(), entry.ino, entry.file_type));
            true
        });
        match listing.unwrap() {
            Listing::Stopped => {}
            Listing::End => return names,
            Listing::NotYet => panic!("a finished tree has more to come"),
        }
    }
}

fn content(tree: &dyn Tree, ino: Ino, archives: &[Vec<u8>]) -> Vec<u8> {
    let archive = &archives[usize::from(tree.stat(ino).unwrap().layer.0)];
    let mut bytes = Vec::new();
    loop {
        match tree.segment(ino, bytes.len() as u64).unwrap() {
            Segment::End => return bytes,
            Segment::Hole { len } => bytes.resize(bytes.len() + len as usize, 0),
            Segment::Data { at, len } => bytes.extend_from_slice(&archive[at as usize..(at + len) as usize]),
        }
    }
}

/// Compares a tree with the model, both ways, by everything that can be asked. `archives` has one for each layer.
pub fn assert_equals(tree: &dyn Tree, model: &Model, archives: &[Vec<u8>]) {
    let mut inodes: BTreeMap<usize, Ino> = BTreeMap::new();
    let mut seen = 0;
    let mut todo = vec![(Vec::new(), Ino::ROOT)];
    while let Some((path, ino)) = todo.pop() {
        seen += 1;
        let shown = path.escape_ascii();
        let node = model.get(&path).unwrap_or_else(|| panic!("{shown} is in the tree alone"));
        let stat = tree.stat(ino).unwrap();
        let names_of_file = model.values().filter(|other| node.file != 0 && other.file == node.file).count();
        if node.file != 0 {
            assert_eq!(*inodes.entry(node.file).or_insert(ino), ino, "{shown}: one file, one inode");
        }
        assert_eq!((stat.perm, stat.uid, stat.gid), (node.perm, node.uid, node.gid), "{shown}");
        assert_eq!(stat.mtime, Timestamp { secs: node.mtime, nanos: 0 }, "{shown}");
        let mut xattrs = Vec::new();
        tree.xattrs(ino, &mut |name, value| {
            xattrs.push((name.to_vec(), value.to_vec()));
            true
        })
        .unwrap();
        assert_eq!(xattrs, node.xattrs, "{shown}");
        assert_eq!(stat.has_xattrs, !xattrs.is_empty(), "{shown}");
        let file_type = match &node.what {
            What::Directory => {
                let children = list(tree, ino);
                let directories = children.iter().filter(|(_, _, t)| *t == FileType::Directory).count();
                assert_eq!(stat.nlink as usize, 2 + directories, "{shown}: links");
                for (name, child, file_type) in children {
                    assert_eq!(tree.lookup(ino, &name).unwrap(), Some(child), "{shown}");
                    assert_eq!(tree.stat(child).unwrap().file_type, file_type, "{shown}");
                    if file_type == FileType::Directory {
                        assert_eq!(tree.parent(child).unwrap(), ino, "{shown}");
                    }
                    let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
                    todo.push(([&path, slash, &name].concat(), child));
                }
                assert_eq!(tree.lookup(ino, b"no such name").unwrap(), None);
                FileType::Directory
            }
            What::File(bytes) => {
                assert_eq!(stat.size, bytes.len() as u64, "{shown}");
                assert_eq!(&content(tree, ino, archives), bytes, "{shown}");
                FileType::Regular
            }
            What::Symlink(target) => {
                assert_eq!(&tree.read_link(ino).unwrap(), target, "{shown}");
                assert_eq!(stat.size, target.len() as u64, "{shown}");
                FileType::Symlink
            }
            What::Fifo => FileType::Fifo,
            What::Device(major, minor) => {
                assert_eq!(stat.device, (*major, *minor), "{shown}");
                FileType::CharDevice
            }
        };
        assert_eq!(stat.file_type, file_type, "{shown}");
        if file_type != FileType::Directory {
            assert_eq!(stat.nlink as usize, names_of_file, "{shown}: links");
            assert!(matches!(tree.lookup(ino, b"x"), Err(TreeError::NotADirectory(_))), "{shown}");
        }
    }
    assert_eq!(seen, model.len(), "paths that the tree lacks");
    assert_eq!(tree.summary().entries as usize, model.len() - 1);
}

pub fn path() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        4 => prop::sample::select(vec![&b"a"[..], b"b", b"c"]).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(prop::num::u8::ANY.prop_filter("a name", |b| *b != b'/' && *b != 0), 1..9)
            .prop_filter("a name", |name| name != b"." && name != b".."),
    ];
    prop::collection::vec(name, 1..5).prop_map(|names| names.join(&b'/'))
}

pub fn node() -> impl Strategy<Value = Node> {
    let what = prop_oneof![
        3 => Just(What::Directory),
        4 => prop::collection::vec(prop::num::u8::ANY, 0..1500).prop_map(What::File),
        1 => Just(What::Fifo),
        1 => (0u32..4096, 0u32..100_000).prop_map(|(major, minor)| What::Device(major, minor)),
    ];
    let xattr = (
        prop::sample::select(vec![b"user.a".to_vec(), b"security.b".to_vec()]),
        prop::collection::vec(prop::num::u8::ANY, 0..40),
    );
    let xattrs = prop::collection::btree_map(xattr.0, xattr.1, 0..3);
    (what, 0u16..0o10000, 0u32..0o7777777, 0u32..0o7777777, -4_000_000_000i64..8_000_000_000, xattrs)
        .prop_map(|(what, perm, uid, gid, mtime, xattrs)| Node {
            what,
            perm,
            uid,
            gid,
            mtime,
            xattrs: xattrs.into_iter().collect(),
            file: 0,
        })
}

pub fn entries() -> impl Strategy<Value = Vec<Entry>> {
    // Symlinks get names that nothing stands beneath: what a path through a link means has tests of its own.
    let link_node =
        (node(), prop::collection::vec(prop::num::u8::ANY.prop_filter("no NUL", |b| *b != 0), 1..90))
            .prop_map(|(node, target)| Node { what: What::Symlink(target), ..node });
    let entry = prop_oneof![
        6 => (path(), node()).prop_map(|(path, node)| Entry::Node(path, node)),
        1 => (path(), link_node).prop_map(|(path, node)| Entry::Node([&path, &b"/symlink"[..]].concat(), node)),
        2 => (path(), path()).prop_map(|(path, target)| Entry::Link(path, target)),
    ];
    prop::collection::vec(entry, 0..40).prop_map(|entries| sensible(entries, apply))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_goes_into_a_tar_comes_out_of_both_trees(entries in entries()) {
        let tar = archive(&entries);
        let model = apply(&entries);
        let growing = grow(&tar);
        assert_equals(&growing, &model, std::slice::from_ref(&tar));
        let bytes = index(&growing);
        let finished = Index::new(&bytes, &IDENTITY).unwrap();
        finished.verify().unwrap();
        assert_equals(&finished, &model, std::slice::from_ref(&tar));
        prop_assert_eq!(index(&grow(&tar)), bytes, "the same tar gives the same index");
    }

    #[test]
    fn both_trees_number_their_inodes_alike(entries in entries()) {
        let growing = grow(&archive(&entries));
        let bytes = index(&growing);
        let finished = Index::new(&bytes, &IDENTITY).unwrap();
        for number in 0..=entries.len() as u32 * 5 + 2 {
            let (a, b) = (growing.stat(Ino(number)), finished.stat(Ino(number)));
            prop_assert_eq!(a.ok(), b.ok());
        }
    }
}

/// Asks a tree everything, from its root and by number; panics are what this is for.
fn ask_everything(tree: &dyn Tree) {
    let mut steps = 0;
    let mut todo = vec![Ino::ROOT];
    let mut visit = |ino: Ino, todo: &mut Vec<Ino>| {
        let _ = tree.stat(ino);
        let _ = tree.parent(ino);
        let _ = tree.read_link(ino);
        let _ = tree.xattrs(ino, &mut |_, _| true);
        for offset in [0, 1, 511, u64::from(u32::MAX), u64::MAX] {
            let _ = tree.segment(ino, offset);
        }
        for name in [&b"a"[..], b"", b"zzz", b"\xff"] {
            let _ = tree.lookup(ino, name);
        }
        let _ = tree.read_dir(ino, DirCookie::START, &mut |entry| {
            steps += 1;
            if entry.file_type == FileType::Directory {
                todo.push(entry.ino);
            }
            true
        });
        assert!(steps < 100_000, "a walk that does not end");
    };
    while let Some(dir) = todo.pop() {
        visit(dir, &mut todo);
    }
    for number in 0..64 {
        visit(Ino(number), &mut Vec::new());
    }
}

fn sample() -> Vec<Entry> {
    let node = |what| Node {
        what,
        perm: 0o644,
        uid: 1,
        gid: 2,
        mtime: -5,
        xattrs: vec![(b"user.a".to_vec(), b"1".to_vec())],
        file: 0,
    };
    let entry = |path: &[u8], what| Entry::Node(path.to_vec(), node(what));
    vec![
        entry(b"a", What::Directory),
        entry(b"a/b", What::Directory),
        entry(b"a/b/c", What::File(b"content".to_vec())),
        entry(b"a/s", What::Symlink(b"/a/b".to_vec())),
        Entry::Link(b"l".to_vec(), b"a/b/c".to_vec()),
        entry(b"dev", What::Device(1, 3)),
        entry(b"fifo", What::Fifo),
    ]
}

/// The sample, and a sparse file, which `archive` cannot write.
fn sample_index() -> Vec<u8> {
    let mut tar = archive(&sample());
    tar.truncate(tar.len() - 1024);
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_path("sparse").unwrap();
    header.set_mode(0o600);
    header.set_size(6);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(1 << 20);
    for (i, (offset, len)) in [(512u64, 3u64), (8192, 3)].into_iter().enumerate() {
        gnu.sparse[i].set_offset(offset);
        gnu.sparse[i].set_length(len);
    }
    header.set_cksum();
    tar.extend_from_slice(header.as_bytes());
    tar.extend_from_slice(b"onetwo");
    tar.resize(tar.len() + 506 + 1024, 0);
    index(&grow(&tar))
}

#[test]
fn an_index_cut_off_anywhere_is_an_error_and_never_a_panic() {
    let whole = sample_index();
    for length in 0..whole.len() {
        assert!(Index::new(&whole[..length], &IDENTITY).is_err(), "cut off after {length} bytes");
    }
}

#[test]
fn a_flipped_bit_is_never_a_panic_and_always_found_by_verify() {
    let whole = sample_index();
    for position in 0..whole.len() {
        for bit in 0..8 {
            let mut damaged = whole.clone();
            damaged[position] ^= 1 << bit;
            let Ok(index) = Index::new(&damaged, &IDENTITY) else { continue };
            ask_everything(&index);
            assert!(index.verify().is_err(), "bit {bit} of byte {position} is not covered by any checksum");
        }
    }
}

#[test]
fn random_bytes_behind_a_sound_header_are_never_a_panic() {
    let whole = sample_index();
    let mut state = 1u64;
    for _ in 0..2000 {
        let mut damaged = whole.clone();
        for byte in &mut damaged[200..] {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            if state >> 62 == 0 {
                *byte = (state >> 33) as u8;
            }
        }
        if let Ok(index) = Index::new(&damaged, &IDENTITY) {
            ask_everything(&index);
        }
    }
}

#[test]
fn an_index_of_something_else_or_of_another_version_says_so() {
    let whole = sample_index();
    let error = Index::new(&whole, &[8; 32]).err().unwrap().to_string();
    assert_eq!(error, "made from something else");
    let mut newer = whole.clone();
    newer[8] = 99;
    let error = Index::new(&newer, &IDENTITY).err().unwrap().to_string();
    assert_eq!(error, "format version 99, this imagefs reads version 1");
    assert!(Index::new(b"#!/bin/sh", &IDENTITY).is_err());
}

#[test]
fn holes_are_told_from_data() {
    let bytes = sample_index();
    let index = Index::new(&bytes, &IDENTITY).unwrap();
    let sparse = index.lookup(Ino::ROOT, b"sparse").unwrap().unwrap();
    assert_eq!(index.stat(sparse).unwrap().size, 1 << 20);
    assert_eq!(index.segment(sparse, 0).unwrap(), Segment::Hole { len: 512 });
    let Segment::Data { at, len: 3 } = index.segment(sparse, 512).unwrap() else { panic!("no data at 512") };
    assert_eq!(index.segment(sparse, 8193).unwrap(), Segment::Data { at: at + 4, len: 2 });
    assert_eq!(index.segment(sparse, 8195).unwrap(), Segment::Hole { len: (1 << 20) - 8195 });
    assert_eq!(index.segment(sparse, 1 << 20).unwrap(), Segment::End);
}

fn file(path: &str) -> Entry {
    let what = What::File(path.as_bytes().to_vec());
    Entry::Node(path.into(), Node { what, file: 0, ..implicit_directory() })
}

fn link(path: &str, target: &str) -> Entry {
    Entry::Link(path.into(), target.into())
}

fn symlink(path: &str, target: &str) -> Entry {
    let what = What::Symlink(target.into());
    Entry::Node(path.into(), Node { what, ..implicit_directory() })
}

#[test]
fn a_hard_link_may_come_before_its_target_and_by_way_of_others() {
    let entries = [link("z", "y"), link("y", "x"), link("x", "dir/file"), file("dir/file"), link("w", "z")];
    let tree = grow(&archive(&entries));
    let file = tree.lookup(tree.lookup(Ino::ROOT, b"dir").unwrap().unwrap(), b"file").unwrap();
    for name in [b"z", b"y", b"x", b"w"] {
        assert_eq!(tree.lookup(Ino::ROOT, name).unwrap(), file);
    }
    assert_eq!(tree.stat(file.unwrap()).unwrap().nlink, 5);
}

#[test]
fn a_hard_link_that_leads_back_to_itself_or_to_a_directory_is_left_out_and_counted() {
    let links =
        [link("a", "b"), link("b", "c"), link("c", "a"), link("e", "d/f"), link("x", "d"), link("d", "d/f")];
    let tar =
        archive(&[&links[..4], &[file("d/f")], &links[4..], &[link("y", "late"), file("late/f")]].concat());
    let mut scanner = Scanner::new(&tar[..], EndMark::Required);
    let mut tree = GrowingTree::default();
    while let Some(entry) = scanner.next_entry().unwrap() {
        tree.insert(entry).unwrap();
    }
    tree.finish().unwrap();
    let is_there = |name: &str| tree.lookup(Ino::ROOT, name.as_bytes()).unwrap().is_some();
    let names = ["a", "b", "c", "d", "e", "x", "y", "late"];
    assert_eq!(names.map(is_there), [false, false, false, false, true, false, false, true]);
    assert_eq!(tree.oddities().of(Oddity::LinkCycle), 4);
    assert_eq!(tree.oddities().of(Oddity::LinkToDirectory), 2);
}

#[test]
fn a_path_through_a_symlink_goes_where_the_link_leads_within_the_tree() {
    let entries = [
        file("real/one"),
        symlink("inside", "real"),
        symlink("outside", "../../../real"),
        symlink("absolute", "/inside"),
        file("inside/two"),
        file("outside/three"),
        file("absolute/four"),
        symlink("loop", "loop"),
        file("loop/five"),
    ];
    let tree = grow(&archive(&entries));
    let names = |dir: &[u8]| {
        let dir = tree.lookup(Ino::ROOT, dir).unwrap().unwrap();
        list(&tree, dir).into_iter().map(|(name, ..)| String::from_utf8(name).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(names(b"real"), ["one", "two", "three", "four"]);
    assert_eq!(names(b"loop"), ["five"], "what leads nowhere is replaced by the directory that is needed");
}

#[test]
fn one_path_follows_no_more_symlinks_than_the_kernel_would() {
    let path = |links: usize, name: &str| "s/".repeat(links) + name;
    let tree = grow(&archive(&[symlink("s", "."), file(&path(40, "forty"))]));
    assert!(tree.lookup(Ino::ROOT, b"forty").unwrap().is_some());
    let tree = grow(&archive(&[symlink("s", "."), file(&path(41, "more"))]));
    assert_eq!(tree.lookup(Ino::ROOT, b"more").unwrap(), None);
    let replaced = tree.lookup(Ino::ROOT, b"s").unwrap().unwrap();
    assert!(tree.lookup(replaced, b"more").unwrap().is_some(), "what leads nowhere is replaced");
}

#[test]
fn a_growing_tree_does_not_say_no_before_it_knows() {
    let tar = archive(&[file("a/b")]);
    let mut scanner = Scanner::new(&tar[..], EndMark::Required);
    let mut tree = GrowingTree::default();
    tree.insert(scanner.next_entry().unwrap().unwrap()).unwrap();
    assert!(matches!(tree.lookup(Ino::ROOT, b"c"), Err(TreeError::NotYet)));
    let a = tree.lookup(Ino::ROOT, b"a").unwrap().unwrap();
    assert_eq!(tree.read_dir(a, DirCookie::START, &mut |_| true).unwrap(), Listing::NotYet);
    tree.finish().unwrap();
    assert_eq!(tree.lookup(Ino::ROOT, b"c").unwrap(), None);
    assert_eq!(tree.read_dir(a, DirCookie::START, &mut |_| true).unwrap(), Listing::End);
}

#[test]
fn a_hard_link_whose_target_has_not_come_is_neither_denied_nor_passed_over() {
    let link = Entry::Link(b"d/link".to_vec(), b"e/target".to_vec());
    let tar = archive(&[link, file("d/after"), file("e/target")]);
    let mut scanner = Scanner::new(&tar[..], EndMark::Required);
    let mut tree = GrowingTree::new(Order::DepthFirst);
    for _ in 0..3 {
        tree.insert(scanner.next_entry().unwrap().unwrap()).unwrap();
    }
    let d = tree.lookup(Ino::ROOT, b"d").unwrap().unwrap();
    assert!(matches!(tree.lookup(d, b"link"), Err(TreeError::NotYet)));
    assert_eq!(tree.lookup(d, b"absent").unwrap(), None);
    assert_eq!(tree.read_dir(d, DirCookie::START, &mut |_| true).unwrap(), Listing::NotYet);
    tree.finish().unwrap();
    let names: Vec<_> = list(&tree, d).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, [&b"link"[..], b"after"]);
}
