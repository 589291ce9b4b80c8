//! The merge against `umoci unpack` of the same layers, attribute by attribute.

use std::os::unix::fs::FileExt;
use std::process::Command;

use imagefs::index::{Index, Ino, Merge, Whence};

use super::build::{IDENTITY, Layer, index_bytes, merged};
use crate::support::{Manifest, succeed};

/// What umoci makes of layers.
#[track_caller]
fn umoci(layers: &[Vec<u8>]) -> Manifest {
    let directory = tempfile::tempdir().unwrap();
    let umoci = |args: &[&str]| succeed(Command::new("umoci").args(args).current_dir(directory.path()));
    umoci(&["init", "--layout", "l"]);
    umoci(&["new", "--image", "l:a"]);
    for tar in layers {
        std::fs::write(directory.path().join("layer.tar"), tar).unwrap();
        umoci(&["raw", "add-layer", "--image", "l:a", "layer.tar"]);
    }
    umoci(&["unpack", "--image", "l:a", "b"]);
    Manifest::read(&directory.path().join("b/rootfs"))
}

/// Both make the same of `layers`; the first of them has to describe the root directory.
#[track_caller]
fn same(layers: impl IntoIterator<Item = Layer>) {
    let layers: Vec<_> = layers.into_iter().map(Layer::tar).collect();
    umoci(&layers).assert_same(&Manifest::of(&merged(&layers)));
}

/// As [`same`], where a whiteout comes after the entry of the directory that it takes something from: umoci gives that
/// directory the time of the unpacking, but the entry says what it is.
#[track_caller]
fn same_but_mtime(dir: &str, layers: impl IntoIterator<Item = Layer>) {
    let layers: Vec<_> = layers.into_iter().map(Layer::tar).collect();
    umoci(&layers).without_attribute(dir, "mtime").assert_same(&Manifest::of(&merged(&layers)));
}

fn base() -> Layer {
    Layer::new(0)
        .dir("./")
        .dir("d/")
        .file("d/a", "a of 0")
        .file("d/b", "b of 0")
        .dir("d/sub/")
        .file("d/sub/x", "x of 0")
        .file("f", "f of 0")
        .link("f-link", "f")
        .dir("usr/")
        .dir("usr/lib/")
        .file("usr/lib/libc", "libc of 0")
        .symlink("lib", "usr/lib")
        .symlink("abs", "/usr/lib")
        .fifo("pipe")
}

fn top() -> Layer {
    Layer::new(1)
}

#[test]
fn a_whiteout_takes_what_is_below() {
    same([base(), top().without("f").without("d/a").without("pipe")]);
    same([base(), top().without("d")]);
    same([base(), top().without("lib").without("f-link")]);
    same([base(), top().without("d/sub"), Layer::new(2).dir("d/sub/").file("d/sub/y", "y of 2")]);
}

#[test]
fn a_whiteout_of_nothing_does_nothing() {
    same([base(), top().without("none").without("d/none").file("new", "")]);
    same([base(), top().without("none/none")]);
    same([top().dir("./").without("first")]);
}

#[test]
fn a_whiteout_spares_its_own_layer_wherever_it_stands() {
    same([base(), top().without("f").file("f", "new")]);
    same([base(), top().file("f", "new").without("f")]);
    same([base(), top().without("d").dir("d/").file("d/new", "new")]);
    same_but_mtime("d", [base(), top().dir("d/").file("d/new", "new").without("d")]);
    same_but_mtime("d", [base(), top().dir("d/").file("d/a", "new").without("d/b").without("d/a")]);
}

#[test]
fn an_opaque_directory_hides_what_is_below_and_not_its_siblings() {
    same([base(), top().dir("d/").opaque("d").file("d/new", "new")]);
    same([base(), top().dir("d/").file("d/new", "new").opaque("d")]);
    same_but_mtime(
        "d/sub",
        [base(), top().dir("d/").file("d/a", "new").dir("d/sub/").file("d/sub/y", "y").opaque("d")],
    );
    same([base(), top().opaque("d")]);
    same([base(), top().opaque("d"), Layer::new(2).file("d/late", "late")]);
    same([base(), top().opaque(".").file("only", "only")]);
}

#[test]
fn a_directory_keeps_its_children_and_takes_the_new_attributes() {
    same([base(), top().dir("d/")]);
    same([base(), top().dir("./").dir("usr/")]);
    same([base(), top().dir("d/"), Layer::new(2).dir("d/sub/")]);
}

#[test]
fn a_directory_that_is_only_passed_through_stays_as_it_was() {
    same([base(), top().file("d/new", "new").file("d/sub/new", "new")]);
    same([base(), top().without("d/sub/x")]);
}

#[test]
fn one_kind_of_thing_replaces_another() {
    same([base(), top().file("d", "now a file")]);
    same([base(), top().file("d", "now a file"), Layer::new(2).dir("d/").file("d/again", "again")]);
    same([base(), top().dir("f/").file("f/inside", "inside")]);
    same([base(), top().symlink("f", "d").fifo("d/a").file("pipe", "no pipe")]);
    same([base(), top().dir("lib/").file("lib/own", "own")]);
    same([base(), top().symlink("d", "usr")]);
}

#[test]
fn a_whiteout_in_a_directory_that_is_none_any_more_does_nothing() {
    // What umoci writes when a directory becomes something else.
    same([base(), top().file("d", "now a file").without("d/a").without("d/sub/x")]);
    same([base(), top().without("d/a").file("d", "now a file").without("d/b")]);
    same([base(), top().fifo("d").opaque("d")]);
    same([base(), top().link("d", "f").without("d/a")]);
    same([base(), top().symlink("d", "none").without("d/a")]);
    same([base(), top().file("new", "new").symlink("d", "new").without("d/a")]);
    // umoci cannot unpack what it writes of this.
    let layers = [base().tar(), top().symlink("d", "d").without("d/a").tar()];
    assert_eq!(Manifest::of(&merged(&layers)).get("d", "target"), Some("d"));
}

#[test]
fn a_hard_link_can_lead_to_the_layers_below() {
    same([base(), top().link("second", "f")]);
    same([base(), top().link("d/one", "d/a").link("two", "d/one")]);
    same([base(), top().link("x", "lib/libc")]);
    same([base(), top().link("to-symlink", "lib")]);
    same([base(), top().link("g", "f").without("f").without("f-link")]);
    same([base(), top().file("other", "1"), Layer::new(2).link("a", "f").link("b", "other").link("c", "f")]);
}

#[test]
fn a_hard_link_leads_to_the_file_of_its_own_layer_wherever_that_stands() {
    let layers = [base(), top().link("x", "d/a").file("d/a", "a of 1")].map(Layer::tar);
    let ours = Manifest::of(&merged(&layers));
    assert_eq!((ours.get("x", "links"), ours.get("d/a", "nlink")), (Some("d/a"), Some("2")));
    // One entry after the other, this is a link to what was there before.
    assert_eq!(umoci(&layers).get("x", "nlink"), Some("1"));
    // Where nothing was, there is but one meaning.
    let layers = [base(), top().link("x", "new").file("new", "new")].map(Layer::tar);
    assert_eq!(Manifest::of(&merged(&layers)).get("x", "links"), Some("new"));
}

#[test]
fn a_hard_link_and_its_target_go_their_own_ways() {
    same([base(), top().file("f", "replaced")]);
    same([base(), top().file("f-link", "replaced"), Layer::new(2).link("third", "f")]);
    same([base(), top().without("f"), Layer::new(2).link("again", "f-link")]);
    same([base(), top().link("f", "d/a")]);
    same([base(), top().file("p", "p").link("q", "p"), Layer::new(2).file("p", "new").link("r", "q")]);
}

#[test]
fn a_path_through_a_symlink_goes_where_it_leads() {
    same([base(), top().file("lib/libm", "libm")]);
    same([base(), top().file("abs/libm", "libm").without("lib/libc")]);
    same([base(), top().file("lib/libc", "newer"), Layer::new(2).without("usr/lib/libc")]);
    same([base(), top().opaque("lib").file("lib/only", "only")]);
    same([base(), top().symlink("lib64", "usr/lib").file("lib64/libm", "libm")]);
    same([base(), top().symlink("up", "../../../usr").file("up/lib/libm", "libm")]);
    same([base(), top().dir("usr/").dir("usr/lib/").file("lib/libm", "libm")]);
}

#[test]
fn a_sparse_file_keeps_its_holes_where_another_is_gone() {
    // Each of these files has an extent at its start and one at its end.
    let sparse = |names: [&str; 2]| {
        let directory = tempfile::tempdir().unwrap();
        for name in names {
            let file = std::fs::File::create(directory.path().join(name)).unwrap();
            file.write_all_at(name.as_bytes(), 0).unwrap();
            file.write_all_at(name.as_bytes(), 1 << 20).unwrap();
        }
        let tar = ["--create", "--sparse", "--format=posix", "."];
        succeed(Command::new("tar").args(tar).current_dir(directory.path()))
    };
    let layers = [sparse(["a", "b"]), sparse(["b", "c"]), Layer::new(2).without("a").tar()];
    let merged = merged(&layers);
    umoci(&layers).assert_same(&Manifest::of(&merged));
    for name in [b"b", b"c"] {
        let ino = merged.tree().lookup(Ino::ROOT, name).unwrap().unwrap();
        let data = merged.seek(ino, 64 << 10, Whence::Data).unwrap();
        assert_eq!(data, Some(1 << 20), "the hole ends where the second extent begins");
    }
}

#[test]
fn a_thousand_layers_are_as_good_as_one() {
    let layers: Vec<_> = (0..300)
        .map(|i| {
            let layer = Layer::new(i).dir("./").dir("d/").file(&format!("d/{i}"), "x");
            (if i % 3 == 2 { layer.without(&format!("d/{}", i - 1)) } else { layer }).tar()
        })
        .collect();
    let manifest = Manifest::of(&merged(&layers));
    assert_eq!(manifest.len(), 2 + 200);
    assert_eq!(manifest.get("d", "uid"), Some((1000 + 299 * 100 + 2).to_string().as_str()));
}

#[test]
fn a_symlink_that_leads_to_nothing_is_made_to_lead_somewhere() {
    // umoci makes the same directories, but they and theirs get the time of the unpacking.
    for layers in [
        vec![base(), top().symlink("o", "opt/app").file("o/f", "f")],
        vec![base().symlink("o", "/opt/app"), top().file("o/f", "f")],
    ] {
        let layers: Vec<_> = layers.into_iter().map(Layer::tar).collect();
        let (ours, theirs) = (Manifest::of(&merged(&layers)), umoci(&layers));
        assert_eq!(ours.get("o", "type"), Some("symlink"));
        let without = |m: Manifest| {
            [".", "opt", "opt/app"].into_iter().fold(m, |m, dir| m.without_attribute(dir, "mtime"))
        };
        without(theirs).assert_same(&without(ours));
    }
    // One that cannot lead anywhere gives way.
    let layers = [base().symlink("loop", "loop").tar(), top().file("loop/f", "f").tar()];
    assert_eq!(Manifest::of(&merged(&layers)).get("loop/f", "type"), Some("file"));
    let layers = [base().symlink("l", "f/x").tar(), top().file("l/f", "f").tar()];
    assert_eq!(Manifest::of(&merged(&layers)).get("f", "type"), Some("file"));
}

#[test]
fn a_hard_link_to_nothing_or_to_a_directory_below_is_an_empty_file() {
    let manifest = Manifest::of(&merged(&[base().tar(), top().link("x", "none").link("y", "x").tar()]));
    assert_eq!((manifest.get("x", "size"), manifest.get("x", "nlink")), (Some("0"), Some("2")));
    let manifest = Manifest::of(&merged(&[base().tar(), top().link("x", "d").tar()]));
    assert_eq!((manifest.get("x", "type"), manifest.get("d", "type")), (Some("file"), Some("directory")));
}

#[test]
fn damage_in_a_layer_is_never_worse_than_an_error() {
    let sound = index_bytes(&base().link("far", "away").opaque("d").tar());
    for place in 0..sound.len() {
        for bit in [1, 0x80] {
            let mut damaged = sound.clone();
            damaged[place] ^= bit;
            if let Ok(index) = Index::new(damaged, &IDENTITY) {
                let mut merge = Merge::new();
                if merge.add(&index).is_ok() && merge.add(&index).is_ok() {
                    let _ = merge.finish();
                }
            }
        }
    }
}
