//! Random stacks of layers against a model that applies them one by one, in the plainest way.

use std::collections::BTreeMap;

use imagefs::index::{Changes, FileType, Index, Ino, Merge, Tree};
use proptest::prelude::*;

use super::build::{IDENTITY, index, merge, written};
use crate::index::{
    Entry, Model, Node, What, apply, archive, assert_equals, entries, implicit_directory, path, sensible,
};

type Path = Vec<u8>;

/// A layer: entries that stand for themselves, and hard links that lead to the layers below.
#[derive(Clone, Debug)]
struct Layer {
    own: Vec<Entry>,
    links_out: Vec<(Path, Path)>,
}

fn beneath(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() && !path.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.starts_with(b"/"))
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&b| b == b'/').map_or(b"", |slash| &path[..slash])
}

fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|&b| b == b'/').next().unwrap_or_default()
}

/// As [`apply`], but a whiteout beneath what is no directory does nothing.
fn apply_layer(entries: &[Entry]) -> Model {
    let mut counted: Vec<Entry> = Vec::new();
    for entry in entries {
        let moot = matches!(entry, Entry::Node(path, _) if name(path).starts_with(b".wh.") && {
            let model = apply(&counted);
            let above = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(slash, _)| &path[..slash]);
            above.into_iter().any(|dir| model.get(dir).is_some_and(|node| node.what != What::Directory))
        });
        if !moot {
            counted.push(entry.clone());
        }
    }
    apply(&counted)
}

/// Leaves of the links that lead out only those whose meaning nobody could doubt: their target is a file below, and
/// neither they nor their targets meet anything of their own layer.
fn sensible_links(layer: &mut Layer, below: &Model) {
    let own = apply_layer(&layer.own);
    let mut taken: Vec<Path> = own.into_keys().filter(|path| !path.is_empty()).collect();
    layer.links_out.retain(|(path, target)| {
        let is_file = below.get(target).is_some_and(|node| node.what != What::Directory);
        let free = |path: &[u8]| {
            !taken.iter().any(|other| other == path || beneath(other, path) || beneath(path, other))
        };
        let keep = is_file && free(path) && free(target) && path != target && !beneath(path, target);
        if keep {
            taken.extend([path.clone(), target.clone()]);
        }
        keep
    });
}

/// What is left of `below` with `layer` on top, and how many paths that adds, changes and removes.
fn put_on(below: &Model, layer: &Layer, number: usize) -> (Model, Changes) {
    let mut own = apply_layer(&layer.own);
    for node in own.values_mut().filter(|node| node.file != 0) {
        node.file += number * 10_000;
    }
    for (path, target) in &layer.links_out {
        own.insert(path.clone(), below[target].clone());
        for (slash, _) in path.iter().enumerate().filter(|(_, b)| **b == b'/') {
            own.entry(path[..slash].to_vec()).or_insert_with(implicit_directory);
        }
    }
    let mut merged = below.clone();
    for path in own.keys() {
        match name(path).strip_prefix(b".wh.") {
            Some(b".wh..opq") => merged.retain(|other, _| !beneath(other, parent(path))),
            Some(gone) => {
                let dir = parent(path);
                let gone = if dir.is_empty() { gone.to_vec() } else { [dir, gone].join(&b'/') };
                merged.retain(|other, _| *other != gone && !beneath(other, &gone));
            }
            None => {}
        }
    }
    let is_whiteout = |path: &[u8]| path.split(|&b| b == b'/').any(|name| name.starts_with(b".wh."));
    own.retain(|path, _| !is_whiteout(path));
    // A directory that was only the way to a whiteout adds nothing.
    while let Some(idle) = own.iter().find_map(|(path, node)| {
        let idle = node.what == What::Directory && node.file == 0 && !path.is_empty();
        (idle && !own.keys().any(|other| beneath(other, path))).then(|| path.clone())
    }) {
        own.remove(&idle);
    }
    let mut changes = Changes::default();
    for (path, node) in own {
        let passes_through = path.is_empty()
            || node.what == What::Directory && node.file == 0 && {
                merged.get(&path).is_some_and(|known| known.what == What::Directory)
            };
        match below.contains_key(&path) {
            false => changes.added += 1,
            true if passes_through => {}
            true => changes.changed += 1,
        }
        let is_directory = merged.get(&path).is_some_and(|known| known.what == What::Directory);
        if node.what != What::Directory || !is_directory {
            merged.retain(|other, _| !beneath(other, &path));
        } else if node.file == 0 {
            continue;
        }
        merged.insert(path, node);
    }
    changes.removed = below.keys().filter(|path| !merged.contains_key(*path)).count() as u64;
    (merged, changes)
}

fn layer() -> impl Strategy<Value = Layer> {
    let whiteout =
        (prop::option::of(path()), prop::sample::select(vec![&b".wh."[..], b".wh..wh..opq"]), path())
            .prop_map(|(dir, kind, gone)| {
                let name: Path = match kind {
                    b".wh." => [kind, name(&gone)].concat(),
                    opaque => opaque.to_vec(),
                };
                let node = Node { what: What::File(Vec::new()), ..implicit_directory() };
                Entry::Node([dir.unwrap_or_default(), name].join(&b'/'), node)
            });
    let whiteout = whiteout.prop_map(|entry| match entry {
        Entry::Node(path, node) => Entry::Node(path.strip_prefix(b"/").unwrap_or(&path).to_vec(), node),
        link => link,
    });
    let links = prop::collection::vec((path(), path()), 0..6);
    (entries(), prop::collection::vec(whiteout, 0..4), links, any::<prop::sample::Index>()).prop_map(
        |(mut own, whiteouts, links_out, place)| {
            let place = place.index(own.len() + 1);
            own.splice(place..place, whiteouts);
            Layer { own: sensible(own, apply_layer), links_out }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn layers_merge_as_if_applied_one_by_one(mut layers in prop::collection::vec(layer(), 1..5)) {
        let mut model = Model::from([(Vec::new(), implicit_directory())]);
        let mut tars = Vec::new();
        let mut counting = Merge::new();
        for (number, layer) in layers.iter_mut().enumerate() {
            sensible_links(layer, &model);
            let (above, changes) = put_on(&model, layer, number);
            model = above;
            let links = layer.links_out.iter().map(|(path, target)| Entry::Link(path.clone(), target.clone()));
            tars.push(archive(&layer.own.iter().cloned().chain(links).collect::<Vec<_>>()));
            prop_assert_eq!(counting.add_counted(&index(&tars[number])).unwrap(), changes);
        }
        let tree = merge(&tars).unwrap();
        assert_equals(&tree, &model, &tars);
        let inodes = tree.summary().inodes as u32;
        prop_assert!((1..=inodes).all(|n| tree.stat(Ino(n)).is_ok()), "a number is not used");
        let bytes = written(&tree);
        assert_equals(&Index::new(&bytes, &IDENTITY).unwrap(), &model, &tars);
        prop_assert_eq!(written(&merge(&tars).unwrap()), bytes, "the same layers give the same index");
    }

    #[test]
    fn a_layer_holds_what_its_tar_holds(layer in layer()) {
        let tar = archive(&layer.own);
        let mut model = apply_layer(&layer.own);
        for (path, node) in &mut model {
            if name(path).starts_with(b".wh.") {
                let kind = if name(path) == b".wh..wh..opq" { &b"opaque"[..] } else { b"whiteout" };
                node.xattrs.push((b"user.imagefs.whiteout".to_vec(), kind.to_vec()));
            }
        }
        assert_equals(&index(&tar), &model, std::slice::from_ref(&tar));
    }
}

#[test]
fn a_layer_knows_what_it_does_not_hold() {
    let node = |what| Node { what, file: 1, ..implicit_directory() };
    let layer = index(&archive(&[
        Entry::Node(b"d".to_vec(), node(What::Directory)),
        Entry::Node(b"e/f".to_vec(), node(What::File(b"f".to_vec()))),
        Entry::Link(b"d/far".to_vec(), b"lib/below".to_vec()),
        Entry::Link(b"d/further".to_vec(), b"d/far".to_vec()),
        Entry::Link(b"d/near".to_vec(), b"e/f".to_vec()),
    ]));
    let root = imagefs::index::Ino::ROOT;
    let [d, e] = [b"d", b"e"].map(|name| layer.lookup(root, name).unwrap().unwrap());
    assert!(layer.is_implicit(root).unwrap() && layer.is_implicit(e).unwrap());
    assert!(!layer.is_implicit(d).unwrap());
    let far = layer.lookup(d, b"far").unwrap().unwrap();
    let links: BTreeMap<_, _> = layer.links_out().map(Result::unwrap).collect();
    assert_eq!(links, BTreeMap::from([(far, &b"lib/below"[..])]));
    assert_eq!(layer.lookup(d, b"further").unwrap(), Some(far), "both lead to the same file");
    let stat = layer.stat(far).unwrap();
    assert_eq!((stat.file_type, stat.size, stat.nlink), (FileType::Regular, 0, 2));
}
