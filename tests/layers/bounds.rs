//! What an archive may not cost, however small it is.

use imagefs::index::{GrowError, GrowingTree, Index, Merge, Timestamp};
use imagefs::tarfile::{Content, Entry, EntryKind};

use super::build::{IDENTITY, written};

const TOO_FAR: &str =
    "its paths lead through more than 16 MiB of symbolic links' targets, and 256 bytes for each entry";

fn grow(entries: impl IntoIterator<Item = (String, EntryKind)>) -> Result<GrowingTree, GrowError> {
    let mut tree = GrowingTree::of_layer();
    for (path, kind) in entries {
        let (path, mtime) = (path.into_bytes(), Timestamp::default());
        tree.insert(Entry { path, kind, perm: 0o755, uid: 0, gid: 0, mtime, xattrs: Vec::new() })?;
    }
    tree.finish()?;
    Ok(tree)
}

fn symlink(path: String, target: String) -> (String, EntryKind) {
    (path, EntryKind::Symlink(target.into_bytes()))
}

fn file(path: String) -> (String, EntryKind) {
    (path, EntryKind::Regular { size: 0, content: Content::Contiguous { at: 0 } })
}

/// Links `l0`, `l1`, …, each of which leads to `end` by way of 38 others that go in and out of a directory 800 times each.
fn maze(links: usize) -> Vec<(String, EntryKind)> {
    let mut entries = vec![("d".to_owned(), EntryKind::Directory), ("end".to_owned(), EntryKind::Directory)];
    for number in 0..38 {
        let next = if number == 37 { "end".to_owned() } else { format!("s{}", number + 1) };
        entries.push(symlink(format!("s{number}"), "d/../".repeat(800) + &next));
    }
    entries.extend((0..links).map(|number| symlink(format!("l{number}"), "s0".to_owned())));
    entries
}

fn files(links: usize) -> impl Iterator<Item = (String, EntryKind)> {
    (0..links).map(|number| file(format!("l{number}/f{number}")))
}

fn merge(layers: [GrowingTree; 2]) -> Result<GrowingTree, String> {
    let mut merge = Merge::new();
    for layer in layers {
        let index = Index::new(written(&layer), &IDENTITY).unwrap();
        merge.add(&index).map_err(|error| error.to_string())?;
    }
    merge.finish().map_err(|error| error.to_string())
}

#[test]
fn a_maze_of_symlinks_is_left() {
    let in_one = |links| grow(maze(links).into_iter().chain(files(links)));
    assert!(in_one(20).is_ok());
    assert_eq!(in_one(200).err().unwrap().to_string(), TOO_FAR);

    let in_two = |links| merge([grow(maze(links)).unwrap(), grow(files(links)).unwrap()]);
    assert!(in_two(20).is_ok());
    assert_eq!(in_two(200).err().unwrap(), TOO_FAR);

    let linked = |number| (format!("h{number}"), EntryKind::HardLink(b"l0/f0".to_vec()));
    let names = grow(maze(1).into_iter().chain(files(1)).chain((0..200).map(linked)));
    assert_eq!(names.err().unwrap().to_string(), TOO_FAR);
}

#[test]
fn a_symlink_that_leads_to_nothing_does_not_make_directories_without_end() {
    // Two thousand for each of the names that it has.
    let nothing = symlink("l".to_owned(), "a/".repeat(2000));
    let named = |number| (format!("d{number}/l"), EntryKind::HardLink(b"l".to_vec()));
    let through = |number| file(format!("d{number}/l/f"));
    let made = grow([nothing].into_iter().chain((0..100).flat_map(|n| [named(n), through(n)])));
    assert_eq!(made.err().unwrap().to_string(), TOO_FAR);
}

#[test]
fn a_large_archive_may_lead_through_symlinks_everywhere() {
    let link = symlink("lib".to_owned(), "./".repeat(80) + "usr/lib");
    let everywhere = (0..120_000).map(|number| file(format!("lib/{number}/f")));
    assert!(grow([link].into_iter().chain(everywhere)).is_ok());
}

#[test]
fn extended_attributes_that_differ_are_limited_and_others_are_kept_once() {
    let tree = |differing: bool| {
        let mut tree = GrowingTree::of_layer();
        for number in 0..4_000u32 {
            let (path, kind) = file(number.to_string());
            let stamp = if differing { number } else { 0 };
            let value = stamp.to_le_bytes().repeat(15_000);
            let xattrs = vec![(b"user.a".to_vec(), value)];
            let (path, mtime) = (path.into_bytes(), Timestamp::default());
            tree.insert(Entry { path, kind, perm: 0o644, uid: 0, gid: 0, mtime, xattrs })?;
        }
        tree.finish().map(|()| tree)
    };
    let error = tree(true).err().unwrap().to_string();
    assert_eq!(error, "more than 128 MiB of different extended attributes");
    let index = written(&tree(false).unwrap());
    assert!(index.len() < 1 << 20, "{} bytes", index.len());
}
