//! No symlink leads out, whatever names of whatever age the kernel walks.
//!
//! A model of the kernel's cache that keeps every name it was ever given, and uses now an old one, now a new one, over
//! trees that are being filled at random, finished, and replaced.

use std::collections::HashMap;
use std::io::Cursor;

use super::*;
use crate::index::{BriefStat, DataFile, Grower, Index, Order, write_index};
use crate::tarfile::{Content, Entry, EntryKind};

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn name(&mut self) -> String {
        ["a", "b", "c", "d"][self.below(4)].to_owned()
    }

    fn path(&mut self) -> String {
        let names: Vec<String> = (0..1 + self.below(6)).map(|_| self.name()).collect();
        names.join("/")
    }

    fn target(&mut self) -> String {
        let parts: Vec<String> = (0..1 + self.below(8))
            .map(|_| if self.below(2) == 0 { "..".to_owned() } else { self.name() })
            .collect();
        format!("{}{}", if self.below(3) == 0 { "/" } else { "" }, parts.join("/"))
    }
}

/// A name in the kernel's cache.
struct Dentry {
    above: usize,
    node: Node,
    file_type: FileType,
}

struct Kernel {
    dentries: Vec<Dentry>,
    /// What a name of a directory has led to, oldest first.
    names: HashMap<(usize, Vec<u8>), Vec<usize>>,
    /// A directory has one place.
    directories: HashMap<Node, usize>,
    answers: HashMap<Node, Vec<u8>>,
    followed: usize,
}

/// The walk ended somewhere inside.
struct Ended;

impl Kernel {
    fn new() -> Kernel {
        let root = Dentry { above: usize::MAX, node: Node::ROOT, file_type: FileType::Directory };
        Kernel {
            dentries: vec![root],
            names: HashMap::new(),
            directories: HashMap::from([(Node::ROOT, 0)]),
            answers: HashMap::new(),
            followed: 0,
        }
    }

    /// Enters what a name leads to.
    fn enter(&mut self, above: usize, name: &[u8], node: Node, file_type: FileType) -> Result<usize, Ended> {
        if file_type == FileType::Directory
            && let Some(&known) = self.directories.get(&node)
        {
            let mut at = above;
            while at != 0 {
                if at == known {
                    return Err(Ended);
                }
                at = self.dentries[at].above;
            }
            if known != 0 {
                // d_splice_alias moves it, with all that is beneath.
                self.dentries[known].above = above;
            }
            return Ok(known);
        }
        let dentry = self.dentries.len();
        self.dentries.push(Dentry { above, node, file_type });
        if file_type == FileType::Directory {
            self.directories.insert(node, dentry);
        }
        self.names.entry((above, name.to_vec())).or_default().push(dentry);
        Ok(dentry)
    }

    fn step(&mut self, view: &View, numbers: &mut Numbers, at: usize, name: &[u8]) -> Result<usize, Ended> {
        let known = self.names.get(&(at, name.to_vec())).map_or(0, Vec::len);
        let choice = numbers.below(known + 2);
        if choice < known {
            return Ok(self.names[&(at, name.to_vec())][choice]);
        }
        match view.lookup(self.dentries[at].node, name) {
            Ok(Some(found)) => self.enter(at, name, found.node, found.file_type),
            _ => Err(Ended),
        }
    }

    fn list(&mut self, view: &View, at: usize) {
        let mut listed = Vec::new();
        let _ = view.read_dir_plus(&self.dentries[at].node.into(), 2, &mut |entry, attributes| {
            assert_eq!(attributes.node, entry.node);
            listed.push((entry.name.to_vec(), entry.node, attributes.file_type));
            true
        });
        for (name, node, file_type) in listed {
            let _ = self.enter(at, &name, node, file_type);
        }
    }

    fn read_link(&mut self, view: &View, at: usize) -> Result<Vec<u8>, Ended> {
        let node = self.dentries[at].node;
        let target = view.read_link(node).map_err(|_| Ended)?;
        let first = self.answers.entry(node).or_insert_with(|| target.clone());
        assert_eq!(*first, target, "{node:?} had another answer");
        if let Ok(attributes) = view.attributes(node) {
            assert_eq!((attributes.node, attributes.size), (node, target.len() as u64));
        }
        Ok(target)
    }

    /// Walks as path_resolution(7) has it, and follows every symlink.
    fn walk(&mut self, view: &View, numbers: &mut Numbers, path: &str) -> Result<(), Ended> {
        let mut at = 0;
        let mut ahead: Vec<Vec<u8>> = path.split('/').rev().map(|name| name.as_bytes().to_vec()).collect();
        let mut followed = 0;
        while let Some(name) = ahead.pop() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    assert_ne!(at, 0, "{path} leads out of the mount");
                    at = self.dentries[at].above;
                    continue;
                }
                _ => {}
            }
            let found = self.step(view, numbers, at, &name)?;
            match self.dentries[found].file_type {
                FileType::Directory => at = found,
                FileType::Symlink if followed < 40 => {
                    followed += 1;
                    let target = self.read_link(view, found)?;
                    assert_ne!(target.first(), Some(&b'/'), "an absolute target");
                    let names =
                        target.split(|&b| b == b'/').skip_while(|name| matches!(*name, b".." | b"." | b""));
                    assert!(names.clone().all(|name| name != b".."), "{} climbs late", target.escape_ascii());
                    self.followed += usize::from(target.starts_with(b".."));
                    ahead.extend(target.rsplit(|&b| b == b'/').map(<[u8]>::to_vec));
                }
                _ => return Err(Ended),
            }
        }
        Ok(())
    }
}

/// A mount that comes piece by piece.
struct Stream {
    grower: Grower,
    left: usize,
}

impl Stream {
    fn new(numbers: &mut Numbers) -> (ViewMount, Stream) {
        let file = DataFile::owned(tempfile::tempfile().unwrap());
        let (sender, demands) = std::sync::mpsc::sync_channel(16);
        drop(demands);
        let (filesystem, grower) = Filesystem::filling(Order::Any, file, Some(sender));
        let mount =
            ViewMount { name: "rootfs".into(), destinations: Vec::new(), may_be_file: false, filesystem };
        (mount, Stream { grower, left: 20 + numbers.below(80) })
    }

    fn go_on(&mut self, numbers: &mut Numbers) {
        let Some(left) = self.left.checked_sub(1) else { return };
        self.left = left;
        if left == 0 {
            let Ok(()) = self.grower.finish() else { return self.grower.lose() };
            if numbers.below(2) == 0 {
                let mut written = Cursor::new(Vec::new());
                self.grower.with_tree(|tree| write_index(tree, &[0; 32], &mut written).unwrap());
                let index = Index::new(written.into_inner(), &[0; 32]).unwrap();
                let data = DataFile::owned(tempfile::tempfile().unwrap());
                self.grower.complete(Arc::new(index), vec![data]);
            }
            return;
        }
        let path = numbers.path();
        if numbers.below(6) == 0 {
            // What a daemon says ahead of the stream need not be true.
            let file_type = [FileType::Directory, FileType::Symlink, FileType::Regular][numbers.below(3)];
            let (perm, size, mtime) = (0o755, 0, Timestamp::default());
            return self.grower.found(path.as_bytes(), BriefStat { file_type, perm, size, mtime });
        }
        let kind = match numbers.below(8) {
            0 => EntryKind::Regular { size: 0, content: Content::Contiguous { at: 0 } },
            1 | 2 => EntryKind::HardLink(numbers.path().into_bytes()),
            3 | 4 => EntryKind::Directory,
            _ => EntryKind::Symlink(numbers.target().into_bytes()),
        };
        let mtime = Timestamp::default();
        let entry =
            Entry { path: path.into_bytes(), kind, perm: 0o755, uid: 0, gid: 0, mtime, xattrs: Vec::new() };
        // A hard link to a directory is an error, and the stream would end with it.
        let _ = self.grower.insert(entry);
    }
}

#[test]
fn no_symlink_leads_out_by_names_of_any_age() {
    let mut followed = 0;
    for seed in 1..=400 {
        let mut numbers = Numbers(seed * 0x9E37_79B9);
        numbers.below(1);
        let flat = seed % 4 != 0;
        let (mount, mut stream) = Stream::new(&mut numbers);
        let options = ViewOptions { flat, replaceable: true, ..ViewOptions::default() };
        let view = View::new(vec![mount], options).unwrap();
        let mut kernel = Kernel::new();
        for _ in 0..600 {
            match numbers.below(8) {
                0..3 => stream.go_on(&mut numbers),
                3 => kernel.list(&view, numbers.below(kernel.dentries.len())),
                4 if numbers.below(40) == 0 => {
                    let (mount, next) = Stream::new(&mut numbers);
                    view.replace(vec![mount]).unwrap();
                    stream = next;
                }
                _ => {
                    let path = numbers.path();
                    let path = if flat { path } else { format!("rootfs/{path}") };
                    let _ = kernel.walk(&view, &mut numbers, &path);
                }
            }
        }
        followed += kernel.followed;
    }
    assert!(followed > 2_000, "only {followed} targets climbed");
}

#[test]
fn a_link_that_has_an_answer_gets_another_number_for_a_name_nearer_to_the_root() {
    let file = DataFile::owned(tempfile::tempfile().unwrap());
    let (filesystem, grower) = Filesystem::filling(Order::Any, file, None);
    let mount = ViewMount { name: "rootfs".into(), destinations: Vec::new(), may_be_file: false, filesystem };
    let view = View::new(vec![mount], ViewOptions { flat: true, ..ViewOptions::default() }).unwrap();
    let insert = |path: &str, kind| {
        let (path, mtime) = (path.into(), Timestamp::default());
        grower.insert(Entry { path, kind, perm: 0o777, uid: 0, gid: 0, mtime, xattrs: Vec::new() }).unwrap()
    };
    let find = |path: &str| {
        let start = view.attributes(Node::ROOT).unwrap();
        path.split('/').fold(start, |dir, name| view.lookup(dir.node, name.as_bytes()).unwrap().expect(name))
    };
    insert("d/e/deep", EntryKind::Symlink(b"/etc/x".to_vec()));
    insert("d/e/plain", EntryKind::Symlink(b"x".to_vec()));
    let (deep, plain) = (find("d/e/deep"), find("d/e/plain"));
    assert_eq!(view.read_link(deep.node).unwrap(), b"../../etc/x");
    for (name, target) in [("top", "d/e/deep"), ("d/middle", "d/e/deep"), ("also", "d/e/plain")] {
        insert(name, EntryKind::HardLink(target.into()));
    }
    let (top, middle) = (find("top"), find("d/middle"));
    assert_eq!((view.read_link(top.node).unwrap(), top.size), (b"etc/x".to_vec(), 5));
    // That one serves for the name between the two as well: it does not climb too far from there.
    assert_eq!(middle.node, top.node);
    assert_eq!(view.read_link(deep.node).unwrap(), b"../../etc/x");
    assert_eq!(find("also").node, plain.node, "what climbs nowhere is one");
    grower.finish().unwrap();
    assert_eq!((find("top").node, find("d/e/deep").node), (top.node, deep.node));
    assert_eq!(view.attributes(top.node).unwrap().nlink, 3);
}

#[test]
fn a_directory_that_comes_nearer_to_the_root_than_a_daemon_said_is_refused() {
    let file = DataFile::owned(tempfile::tempfile().unwrap());
    let (sender, _demands) = std::sync::mpsc::sync_channel(16);
    let (filesystem, grower) = Filesystem::filling(Order::Any, file, Some(sender));
    let mount = ViewMount { name: "rootfs".into(), destinations: Vec::new(), may_be_file: false, filesystem };
    let view = View::new(vec![mount], ViewOptions { flat: true, ..ViewOptions::default() }).unwrap();
    let mtime = Timestamp::default();
    for path in ["a", "a/b"] {
        let file_type = FileType::Directory;
        grower.found(path.as_bytes(), BriefStat { file_type, perm: 0o755, size: 0, mtime });
    }
    let a = view.lookup(Node::ROOT, b"a").unwrap().unwrap();
    let b = view.lookup(a.node, b"b").unwrap().unwrap();
    for (path, kind) in [("a", EntryKind::Symlink(b".".to_vec())), ("a/b", EntryKind::Directory)] {
        let path = path.into();
        grower.insert(Entry { path, kind, perm: 0o755, uid: 0, gid: 0, mtime, xattrs: Vec::new() }).unwrap();
    }
    // The kernel would take what it has of `a/b`, links with two steps up among it, to the mountpoint.
    assert!(matches!(view.lookup(Node::ROOT, b"b"), Err(ViewError::Moved(node)) if node == b.node));
}
