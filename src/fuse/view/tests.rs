use std::sync::Arc;

use super::*;
use crate::fuse::testing::Builder;
use crate::index::{Certainty, DataFile, Order};
use crate::tarfile::{Entry, EntryKind};

fn options() -> ViewOptions {
    ViewOptions { description: b"{\"a\":1}".to_vec().into(), ..ViewOptions::default() }
}

fn view_of(filesystem: Arc<Filesystem>, options: ViewOptions) -> View {
    View::new(
        vec![ViewMount { name: "rootfs".into(), destinations: Vec::new(), may_be_file: false, filesystem }],
        options,
    )
    .unwrap()
}

fn flat(builder: Builder) -> View {
    view_of(builder.finish(), ViewOptions { flat: true, ..ViewOptions::default() })
}

fn walk(view: &View, path: &str) -> Attributes {
    path.split('/').fold(view.attributes(Node::ROOT).unwrap(), |dir, name| {
        view.lookup(dir.node, name.as_bytes()).unwrap().expect(name)
    })
}

/// The names of a listing that is asked for `chunk` entries at a time, as the kernel does.
fn names(view: &View, dir: Node, chunk: usize) -> Vec<String> {
    let (mut names, mut offset) = (Vec::new(), 0);
    loop {
        let (from, mut taken) = (offset, 0);
        let mut take = |entry: ListedEntry<'_>| {
            if taken == chunk {
                return false;
            }
            taken += 1;
            offset = entry.next;
            names.push(String::from_utf8(entry.name.to_vec()).unwrap());
            true
        };
        view.read_dir(&dir.into(), from, &mut take).unwrap();
        if taken == 0 {
            return names;
        }
    }
}

#[test]
fn the_top_directory_lists_the_description_and_the_mounts_in_their_order() {
    let mount = |name: &str| ViewMount {
        name: name.into(),
        destinations: Vec::new(),
        may_be_file: false,
        filesystem: Builder::new().file("in", name.as_bytes()).finish(),
    };
    let view = View::new(vec![mount("rootfs"), mount("zz"), mount("aa")], options()).unwrap();
    for chunk in [1, 2, 100] {
        assert_eq!(names(&view, Node::ROOT, chunk), [".", "..", ".imagefs.json", "rootfs", "zz", "aa"]);
    }
    let top = view.attributes(Node::ROOT).unwrap();
    assert_eq!((top.file_type, top.perm, top.nlink), (FileType::Directory, 0o555, 5));
    let mut buf = [0; 8];
    for name in ["rootfs", "zz", "aa"] {
        let n = view.read(walk(&view, &format!("{name}/in")).node, 0, &mut buf).unwrap();
        assert_eq!(&buf[..n], name.as_bytes());
    }
    assert!(view.lookup(Node::ROOT, b"bb").unwrap().is_none());
    assert!(matches!(view.attributes(Node((3 << 40) + 16)), Err(ViewError::NoSuchNode(_))));
}

#[test]
fn the_description_is_read_like_any_file() {
    let view = view_of(Builder::new().finish(), options());
    let file = walk(&view, ".imagefs.json");
    assert_eq!((file.node, file.size, file.perm), (Node::DESCRIPTION, 7, 0o444));
    let mut buf = [0; 4];
    assert_eq!(view.read(file.node, 5, &mut buf).unwrap(), 2);
    assert_eq!(&buf[..2], b"1}");
    assert_eq!(view.read(file.node, u64::MAX, &mut buf).unwrap(), 0);
    assert_eq!(view.seek(file.node, 3, Whence::Hole).unwrap(), 7);
    assert!(matches!(view.seek(file.node, 7, Whence::Data), Err(ViewError::PastTheEnd)));
}

#[test]
fn a_flat_session_is_the_root_filesystem_and_nothing_else() {
    let view = flat(Builder::new().file("a", b"").dir("b"));
    let mut listed = names(&view, Node::ROOT, 10);
    listed.sort();
    assert_eq!(listed, [".", "..", "a", "b"]);
    assert_eq!(view.attributes(Node::ROOT).unwrap().perm, 0o755);
}

#[test]
fn names_that_no_directory_can_have_are_refused() {
    let mounts = |names: &[&str]| {
        let mount = |name: &&str| ViewMount {
            name: (*name).into(),
            destinations: Vec::new(),
            may_be_file: false,
            filesystem: Builder::new().finish(),
        };
        View::new(names.iter().map(mount).collect(), options()).err()
    };
    for bad in ["", ".", "..", "a/b", "a\0b", ".imagefs.json", &"x".repeat(256)] {
        assert_eq!(mounts(&["rootfs", bad]), Some(BadMount::Name(bad.into())));
    }
    assert_eq!(mounts(&["a", "b", "a"]), Some(BadMount::Twice("a".into())));
    assert_eq!(mounts(&[]), Some(BadMount::None));
}

#[test]
fn a_long_listing_comes_once_and_whole_with_attributes() {
    let mut builder = Builder::new();
    for i in 0..300 {
        builder = builder.file(&format!("d/f{i}"), &[b'x'; 3]);
    }
    let view = flat(builder);
    let dir = walk(&view, "d").node;
    for chunk in [1, 63, 64, 65, 1000] {
        let (mut seen, mut offset) = (Vec::new(), 0);
        loop {
            let (from, mut taken) = (offset, 0);
            let mut take = |entry: ListedEntry<'_>, attributes: &Attributes| {
                if taken == chunk {
                    return false;
                }
                taken += 1;
                offset = entry.next;
                assert_eq!(attributes.node, entry.node);
                assert_eq!(attributes.size, if entry.name.starts_with(b"f") { 3 } else { 4096 });
                seen.push(entry.name.to_vec());
                true
            };
            view.read_dir_plus(&dir.into(), from, &mut take).unwrap();
            if taken == 0 {
                break;
            }
        }
        assert_eq!(seen.len(), 302);
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 302);
    }
}

#[test]
fn what_has_not_come_is_not_yet_rather_than_absent() {
    let view = view_of(Builder::new().file("d/f", b"").unfinished(), options());
    let dir = walk(&view, "rootfs/d").node;
    let not_yet = |error: &ViewError| matches!(error, ViewError::Tree(TreeError::NotYet));
    assert!(not_yet(&view.lookup(dir, b"later").unwrap_err()));

    let mut last = 0;
    let mut listed = Vec::new();
    view.read_dir_plus(&dir.into(), 0, &mut |entry, _| {
        listed.push(entry.name.to_vec());
        last = entry.next;
        true
    })
    .unwrap();
    assert_eq!(listed, [&b"."[..], b"..", b"f"]);
    assert!(not_yet(&view.read_dir_plus(&dir.into(), last, &mut |_, _| true).unwrap_err()));
    assert!(not_yet(&view.read_dir(&dir.into(), last, &mut |_| true).unwrap_err()));
}

#[test]
fn sizes_and_blocks_are_what_du_expects() {
    let view = flat(
        Builder::new()
            .file("empty", b"")
            .file("one", b"x")
            .file("block", &[1; 512])
            .sparse("sparse", 1 << 40, &[(4096, &[1; 1000]), (1 << 20, &[2; 24])])
            .symlink("link", "one")
            .device("dev", (7, 70000)),
    );
    let sizes = |path: &str| {
        let a = walk(&view, path);
        (a.size, a.blocks)
    };
    assert_eq!(sizes("empty"), (0, 0));
    assert_eq!(sizes("one"), (1, 1));
    assert_eq!(sizes("block"), (512, 1));
    assert_eq!(sizes("sparse"), (1 << 40, 2));
    assert_eq!(sizes("link"), (3, 0));
    assert_eq!(sizes("dev"), (0, 0));
    assert_eq!(walk(&view, "dev").device, (7, 70000));
    assert_eq!(view.attributes(Node::ROOT).unwrap().size, 4096);
    let space = view.space();
    assert_eq!((space.blocks, space.files, space.name_max), (1, 7, 255));
}

#[test]
fn holes_read_as_zeros_and_are_found() {
    let view = flat(Builder::new().sparse("s", 10_000, &[(4096, b"abc"), (8192, b"z")]));
    let file = walk(&view, "s").node;
    let mut buf = [9; 6];
    assert_eq!(view.read(file, 4094, &mut buf).unwrap(), 6);
    assert_eq!(&buf, b"\0\0abc\0");
    assert_eq!(view.seek(file, 0, Whence::Data).unwrap(), 4096);
    assert_eq!(view.seek(file, 4096, Whence::Hole).unwrap(), 4099);
    assert_eq!(view.seek(file, 4099, Whence::Data).unwrap(), 8192);
    assert!(matches!(view.seek(file, 8193, Whence::Data), Err(ViewError::PastTheEnd)));
}

#[test]
fn a_symlink_is_as_long_as_what_readlink_returns() {
    let filesystem = || Builder::new().dir("a").symlink("a/l", "/etc/passwd").finish();
    let contained = view_of(filesystem(), options());
    let link = walk(&contained, "rootfs/a/l");
    assert_eq!(contained.read_link(link.node).unwrap(), b"../etc/passwd");
    assert_eq!(link.size, 13);
    let raw = view_of(filesystem(), ViewOptions { symlinks: SymlinkMode::Raw, ..options() });
    let link = walk(&raw, "rootfs/a/l");
    assert_eq!(raw.read_link(link.node).unwrap(), b"/etc/passwd");
    assert_eq!(link.size, 11);
    assert!(matches!(raw.read_link(Node::ROOT), Err(ViewError::NotASymlink(_))));
}

#[test]
fn a_symlink_that_cannot_be_made_relative_can_still_be_listed() {
    let target = format!("/{}", "x/".repeat(2047));
    let view = flat(Builder::new().dir("d").symlink("d/l", &target));
    let link = walk(&view, "d/l");
    assert_eq!(link.size, target.len() as u64);
    let error = view.read_link(link.node).unwrap_err();
    assert_eq!(crate::fuse::errno::errno(&error), rustix::io::Errno::NAMETOOLONG);
}

#[test]
fn extended_attributes_are_answered_where_there_are_any() {
    let file = |builder: Builder| {
        builder.file_with("f", b"", |entry| {
            entry.xattrs = vec![(b"user.a".to_vec(), b"1".to_vec()), (b"security.b".to_vec(), b"".to_vec())];
        })
    };
    let with = || file(Builder::new()).symlink("l", "/f").finish();
    let view = view_of(with(), options());
    let (f, l) = (walk(&view, "rootfs/f").node, walk(&view, "rootfs/l").node);
    assert_eq!(view.xattr(f, b"user.a").unwrap(), b"1");
    assert_eq!(view.xattr(f, b"security.b").unwrap(), b"");
    assert_eq!(view.xattr_names(f).unwrap(), b"user.a\0security.b\0");
    assert!(matches!(view.xattr(f, b"user.c"), Err(ViewError::NoSuchXattr)));
    assert!(matches!(view.xattr(f, b"system.imagefs.target"), Err(ViewError::NoSuchXattr)));
    assert!(matches!(view.xattr(Node::ROOT, b"user.a"), Err(ViewError::NoSuchXattr)));
    assert_eq!(view.xattr(l, b"system.imagefs.target").unwrap(), b"/f");
    assert_eq!(view.xattr_names(l).unwrap(), b"");

    let answers =
        |filesystem, xattrs| view_of(filesystem, ViewOptions { xattrs, ..options() }).answers_xattrs();
    let without = || Builder::new().file("f", b"").finish();
    assert!(answers(with(), XattrMode::Auto) && answers(without(), XattrMode::On));
    assert!(!answers(without(), XattrMode::Auto) && !answers(with(), XattrMode::Off));
    // Nobody knows yet, and a no would be for ever.
    let file = DataFile::owned(tempfile::tempfile().unwrap());
    let (filling, _grower) = Filesystem::filling(Order::Any, file, None);
    assert!(answers(filling, XattrMode::Auto));
    let off = view_of(with(), ViewOptions { xattrs: XattrMode::Off, ..options() });
    assert!(matches!(off.xattr_names(f), Err(ViewError::NoXattrs)));
}

#[test]
fn an_owner_can_be_put_in_place_of_the_stored_ones() {
    let stored = || Builder::new().file_with("f", b"", |e| (e.uid, e.gid) = (5, 6)).finish();
    let owner = |options| {
        let f = walk(&view_of(stored(), options), "rootfs/f");
        (f.uid, f.gid)
    };
    assert_eq!(owner(options()), (5, 6));
    assert_eq!(owner(ViewOptions { uid: Some(1000), ..options() }), (1000, 6));
    assert_eq!(owner(ViewOptions { gid: Some(7), ..options() }), (5, 7));
}

#[test]
fn whoever_got_in_reads_all_writes_nothing_and_executes_what_anybody_may() {
    let view = flat(
        Builder::new().file_with("secret", b"", |e| e.perm = 0).file_with("program", b"", |e| e.perm = 0o001),
    );
    let (secret, program) = (walk(&view, "secret").node, walk(&view, "program").node);
    let read = Access { write: false, execute: false };
    let execute = Access { execute: true, ..read };
    assert!(view.access(secret, read).is_ok());
    assert!(view.access(program, execute).is_ok());
    assert!(view.access(Node::ROOT, execute).is_ok());
    assert!(matches!(view.access(secret, execute), Err(ViewError::NotExecutable)));
    assert!(matches!(view.access(program, Access { write: true, ..read }), Err(ViewError::ReadOnly)));
}

#[test]
fn hard_links_are_one_inode_and_dot_dot_is_the_directory_above() {
    let view = view_of(Builder::new().file("a/f", b"").link("a/b/g", "a/f").finish(), options());
    let (f, g) = (walk(&view, "rootfs/a/f"), walk(&view, "rootfs/a/b/g"));
    assert_eq!((f.node, f.nlink), (g.node, 2));
    let up = |path: &str| {
        let mut up = None;
        let dir = walk(&view, path).node;
        view.read_dir(&dir.into(), 1, &mut |entry| {
            up = Some((entry.name.to_vec(), entry.node));
            false
        })
        .unwrap();
        up.unwrap()
    };
    assert_eq!(up("rootfs/a/b"), (b"..".to_vec(), walk(&view, "rootfs/a").node));
    assert_eq!(up("rootfs"), (b"..".to_vec(), Node::ROOT));
}

#[test]
fn a_question_to_the_wrong_kind_of_node_is_refused() {
    use crate::fuse::errno::errno;
    use rustix::io::Errno;

    let view = view_of(Builder::new().file("f", b"").entry("p", EntryKind::Fifo, |_| {}).finish(), options());
    let (f, p, root) = (walk(&view, "rootfs/f").node, walk(&view, "rootfs/p").node, Node(16));
    let mut buf = [0; 1];
    assert_eq!(errno(&view.lookup(f, b"x").unwrap_err()), Errno::NOTDIR);
    assert_eq!(errno(&view.lookup(Node::DESCRIPTION, b"x").unwrap_err()), Errno::NOTDIR);
    assert_eq!(errno(&view.read_dir(&f.into(), 0, &mut |_| true).unwrap_err()), Errno::NOTDIR);
    assert_eq!(errno(&view.read_link(f).unwrap_err()), Errno::INVAL);
    assert_eq!(errno(&view.read(root, 0, &mut buf).unwrap_err()), Errno::INVAL);
    assert_eq!(errno(&view.read(p, 0, &mut buf).unwrap_err()), Errno::INVAL);
    assert_eq!(errno(&view.attributes(Node(16 + 1000)).unwrap_err()), Errno::STALE);
}

/// A mount of that name with one file, `f`, and whether its filesystem is still there.
fn one_file(name: &str, content: &[u8]) -> (ViewMount, std::sync::Weak<Filesystem>) {
    let filesystem = Builder::new().file("f", content).symlink("l", "f").finish();
    let there = Arc::downgrade(&filesystem);
    (ViewMount { name: name.into(), destinations: Vec::new(), may_be_file: false, filesystem }, there)
}

fn content(view: &View, node: Node) -> Vec<u8> {
    let mut buf = [0; 16];
    let n = view.read(node, 0, &mut buf).unwrap();
    buf[..n].to_vec()
}

#[test]
fn what_is_replaced_is_readable_until_it_is_forgotten() {
    let (old, there) = one_file("rootfs", b"old");
    let view = View::new(vec![old], ViewOptions { replaceable: true, ..options() }).unwrap();
    assert!(!view.is_final());
    let (root, file) = (walk(&view, "rootfs"), walk(&view, "rootfs/f"));
    let listed = {
        let mut nodes = Vec::new();
        view.read_dir_plus(&root.node.into(), 0, &mut |entry, _| {
            nodes.push(entry.node);
            nodes.len() < 4
        })
        .unwrap();
        nodes
    };
    assert_eq!(listed.len(), 4);

    let outdated = view.replace(vec![one_file("rootfs", b"new").0, one_file("added", b"").0]).unwrap();
    assert_eq!(outdated, Outdated { dir: Node::ROOT, names: vec!["added".into(), "rootfs".into()] });
    let new = walk(&view, "rootfs/f");
    assert_ne!(new.node, file.node);
    assert_eq!((content(&view, new.node), content(&view, file.node)), (b"new".to_vec(), b"old".to_vec()));
    assert_eq!(view.lookup(root.node, b"f").unwrap().unwrap().node, file.node, "from within");

    // Twice looked up in `rootfs`, and listed; `l` was listed and not taken, and nobody takes `.` and `..`.
    view.forget(root.node, 2);
    view.forget(file.node, 2);
    assert!(there.upgrade().is_some());
    view.forget(file.node, 1);
    assert!(there.upgrade().is_none(), "kept though nobody has it");
    assert!(matches!(view.attributes(file.node), Err(ViewError::NoSuchNode(_))));
    assert_eq!(content(&view, new.node), b"new");
}

#[test]
fn what_nobody_has_goes_when_it_is_replaced() {
    let (old, there) = one_file("rootfs", b"old");
    let view = View::new(vec![old], ViewOptions { replaceable: true, ..options() }).unwrap();
    assert!(view.lookup(Node::ROOT, b"absent").unwrap().is_none());
    view.replace(vec![one_file("rootfs", b"new").0]).unwrap();
    assert!(there.upgrade().is_none());
    assert_eq!(view.replace(Vec::new()).unwrap_err(), BadMount::None);
    assert_eq!(content(&view, walk(&view, "rootfs/f").node), b"new");
}

#[test]
fn the_root_of_a_flat_session_goes_from_each_mount_to_the_next() {
    let (old, there) = one_file("rootfs", b"old");
    let view = View::new(vec![old], ViewOptions { flat: true, replaceable: true, ..options() }).unwrap();
    assert_eq!(view.absence(Node::ROOT), Certainty::Provisional);
    let file = walk(&view, "f");
    let outdated = view.replace(vec![one_file("rootfs", b"new").0]).unwrap();
    assert_eq!(outdated, Outdated { dir: Node::ROOT, names: vec!["f".into(), "l".into()] });
    let new = walk(&view, "f");
    assert_ne!(new.node, file.node);
    assert_eq!((content(&view, new.node), content(&view, file.node)), (b"new".to_vec(), b"old".to_vec()));
    view.forget(file.node, 1);
    assert!(there.upgrade().is_none());
    assert_eq!(view.attributes(Node::ROOT).unwrap().node, Node::ROOT);
}

#[test]
fn the_names_of_what_was_replaced_are_withdrawn_until_nobody_asks_for_one() {
    for flat in [false, true] {
        let builder = || Builder::new().file("d/f", b"").dir("d/e").finish();
        let mount = || {
            vec![ViewMount {
                name: "rootfs".into(),
                destinations: Vec::new(),
                may_be_file: false,
                filesystem: builder(),
            }]
        };
        let view = View::new(mount(), ViewOptions { flat, replaceable: true, ..options() }).unwrap();
        let d = walk(&view, if flat { "d" } else { "rootfs/d" }).node;
        let withdrawn = || {
            let mut names = Vec::new();
            view.withdraw(&mut |outdated| {
                names.extend(outdated.names.into_iter().map(|n| (outdated.dir, n)))
            });
            names
        };
        assert_eq!(withdrawn(), []);
        view.replace(mount()).unwrap();
        let names = withdrawn();
        assert!(names.contains(&(d, "f".into())) && names.contains(&(d, "e".into())), "{names:?}");
        // Nothing that is shown now.
        assert!(names.iter().all(|(dir, _)| *dir != Node::ROOT), "{names:?}");
        assert_eq!(withdrawn(), []);
        view.lookup(d, b"f").unwrap().unwrap();
        assert_eq!(withdrawn(), names);
    }
}

#[test]
fn a_listing_of_the_mountpoint_that_was_begun_before_goes_on_in_what_is_shown() {
    let file = DataFile::owned(tempfile::tempfile().unwrap());
    let (old, grower) = Filesystem::filling(Order::Any, file, None);
    for name in ["a", "b"] {
        let (path, kind, mtime) = (name.into(), EntryKind::Fifo, Timestamp::default());
        grower.insert(Entry { path, kind, perm: 0o644, uid: 0, gid: 0, mtime, xattrs: Vec::new() }).unwrap();
    }
    let mount = |filesystem| ViewMount {
        name: "rootfs".into(),
        destinations: Vec::new(),
        may_be_file: false,
        filesystem,
    };
    let options = ViewOptions { flat: true, replaceable: true, ..options() };
    let view = View::new(vec![mount(old)], options).unwrap();
    let dir = view.open_dir(Node::ROOT);
    assert!(dir.is_pinned());
    view.replace(vec![mount(Builder::new().dir("x").file("a", b"new").finish())]).unwrap();
    let mut a = None;
    view.read_dir(&dir, 0, &mut |entry| {
        a = (entry.name == b"a").then_some(entry.node).or(a);
        true
    })
    .unwrap();
    assert_eq!(a, Some(walk(&view, "a").node));
}

#[test]
fn the_description_is_what_it_says_when_it_is_looked_up() {
    let state = Arc::new(std::sync::Mutex::new(b"one".to_vec()));
    let told = Arc::clone(&state);
    let description = Description::Live(Arc::new(move || told.lock().unwrap().clone()));
    let view = view_of(Builder::new().finish(), ViewOptions { description, ..options() });
    let one = walk(&view, ".imagefs.json");
    assert_eq!((one.node, one.size, one.certainty), (Node::DESCRIPTION, 3, Certainty::Provisional));
    assert_eq!(walk(&view, ".imagefs.json").node, one.node);
    *state.lock().unwrap() = b"three".to_vec();
    let three = walk(&view, ".imagefs.json");
    assert_eq!(three.size, 5);
    assert_eq!((content(&view, one.node), content(&view, three.node)), (b"one".to_vec(), b"three".to_vec()));
    view.forget(one.node, 2);
    assert!(matches!(view.attributes(one.node), Err(ViewError::NoSuchNode(_))));
    view.forget(three.node, 1);
    assert_eq!(content(&view, three.node), b"three");
}

#[test]
fn a_container_mount_may_be_called_layers() {
    let mount = |name: &str| ViewMount {
        name: name.into(),
        destinations: Vec::new(),
        may_be_file: false,
        filesystem: Builder::new().file("f", b"").finish(),
    };
    let view = View::new(vec![mount("rootfs"), mount("layers")], ViewOptions::default()).unwrap();
    let layers = view.lookup(Node::ROOT, b"layers").unwrap().expect("it is listed");
    assert!(view.lookup(layers.node, b"f").unwrap().is_some());
}
