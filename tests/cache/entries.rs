//! What a single process sees: filling, finding, listing, eviction.

use std::fs::File;

use imagefs::cache::{DataRef, Removal, State};
use imagefs::index::FileIdentity;

use super::*;

#[test]
fn what_was_filled_is_found_with_every_byte() {
    let place = Place::new();
    let key = put(&place.cache(), "a");
    let entry = place.cache().lookup(key).unwrap().expect("a hit");
    assert_eq!(read(&entry), text("a"));
    assert_eq!(entry.meta().about.source, "a");
    assert_eq!(entry.meta().content, content("a"));
    assert!(place.cache().lookup(content("b").key()).unwrap().is_none());
    place.assert_nothing_left();
}

#[test]
fn an_entry_is_found_by_what_is_known_of_it() {
    let place = Place::new();
    let cache = place.cache();
    let old = put(&cache, "old");
    let new = put(&cache, "new");
    place.set_last_used(old, 1_000);
    place.set_last_used(new, 2_000);
    assert_eq!(cache.find(|_| true).unwrap().unwrap().key(), new);
    assert_eq!(cache.find(|meta| meta.content.identity == "old").unwrap().unwrap().key(), old);
    assert!(cache.find(|_| false).unwrap().is_none());
}

#[test]
fn a_filler_that_is_dropped_leaves_nothing() {
    let place = Place::new();
    let cache = place.cache();
    let filler = claim_filler(&cache, content("a"));
    write_data(&filler, "a");
    let key = filler.key();
    assert_eq!(cache.ls().unwrap()[0].state, State::Filling);
    drop(filler);
    place.assert_nothing_left();
    assert!(cache.lookup(key).unwrap().is_none());
    put(&cache, "a");
}

#[test]
fn a_growing_data_file_can_be_read() {
    let place = Place::new();
    let filler = claim_filler(&place.cache(), content("a"));
    let mut data = filler.create_data().unwrap();
    let grown = filler.open_data().unwrap();
    for piece in ["first ", "second"] {
        let at = data.size();
        data.write_all(piece.as_bytes()).unwrap();
        let mut seen = vec![0; piece.len()];
        grown.read_exact_at(&mut seen, at).unwrap();
        assert_eq!(seen, piece.as_bytes());
    }
    assert_eq!(data.size(), 12);
}

#[test]
fn a_temporary_entry_is_found_by_nobody_and_goes_with_its_owner() {
    let place = Place::new();
    let cache = place.cache();
    let make = || {
        let filler = claim_filler(&cache, content("snapshot"));
        let data = write_data(&filler, "snapshot");
        write_tree(&filler, "snapshot");
        filler.publish_temporary(about("snapshot"), vec![Data::Own(data)]).unwrap()
    };
    let (first, second) = (make(), make());
    assert!(cache.lookup(first.key()).unwrap().is_none());
    assert_eq!((read(&first), read(&second)), (text("snapshot"), text("snapshot")));
    let states: Vec<(State, bool)> = cache.ls().unwrap().into_iter().map(|i| (i.state, i.in_use)).collect();
    assert_eq!(states, vec![(State::Temporary, true); 2]);
    // Nobody takes it away meanwhile.
    cache.prune(0).unwrap();
    assert_eq!(
        read(&place.cache().find(|_| true).unwrap().map_or(first, |_| panic!("found"))),
        text("snapshot")
    );
    drop(second);
    place.assert_nothing_left();
}

#[test]
fn a_borrowed_archive_is_served_until_it_is_changed() {
    let place = Place::new();
    let cache = place.cache();
    let archive = place.dir.path().join("a \u{e9}.tar");
    fs::write(&archive, tar("a")).unwrap();
    let make = || {
        let identity = FileIdentity::of(&File::open(&archive).unwrap()).unwrap();
        let filler = claim_filler(&cache, content("a"));
        write_tree(&filler, "a");
        filler.publish(about("a"), vec![Data::Borrowed { path: archive.clone(), identity }]).unwrap()
    };
    let entry = make();
    assert_eq!(read(&entry), text("a"));
    let key = entry.key();
    drop(entry);
    assert_eq!(read(&cache.lookup(key).unwrap().unwrap()), text("a"));

    fs::write(&archive, tar("b")).unwrap();
    assert!(matches!(cache.ls().unwrap()[0].state, State::Damaged(_)));
    assert!(cache.lookup(key).unwrap().is_none());
    assert_eq!(cache.ls().unwrap(), []);

    drop(make());
    fs::remove_file(&archive).unwrap();
    assert_eq!(cache.prune(u64::MAX).unwrap().removed.len(), 1);
}

#[test]
fn prune_removes_what_was_used_longest_ago() {
    let place = Place::new();
    let cache = place.cache();
    for (secs, name) in [(3_000, "c"), (1_000, "a"), (4_000, "d"), (2_000, "b")] {
        let key = put(&cache, name);
        place.set_last_used(key, secs);
    }
    let listed: Vec<_> = cache.ls().unwrap().into_iter().map(|i| i.meta.unwrap().about.source).collect();
    assert_eq!(listed, ["d", "c", "b", "a"]);

    // A lookup counts as use.
    drop(cache.lookup(content("a").key()).unwrap().unwrap());
    let sizes = sizes(&cache);
    let pruned = cache.prune(sizes["a"] + sizes["d"]).unwrap();
    let removed: Vec<_> =
        pruned.removed.iter().map(|i| i.meta.as_ref().unwrap().about.source.clone()).collect();
    assert_eq!(removed, ["b", "c"]);
    assert_eq!((pruned.freed, pruned.kept), (sizes["b"] + sizes["c"], sizes["a"] + sizes["d"]));
    assert_eq!(cache.prune(pruned.kept).unwrap().removed, []);
    place.assert_nothing_left();
}

#[test]
fn what_is_in_use_is_never_evicted() {
    let place = Place::new();
    let cache = place.cache();
    let (used, unused) = (put(&cache, "used"), put(&cache, "unused"));
    let entry = cache.lookup(used).unwrap().unwrap();
    place.set_last_used(used, 1);

    let other = place.cache();
    let pruned = other.prune(0).unwrap();
    assert_eq!(pruned.removed.iter().map(|i| i.key).collect::<Vec<_>>(), [unused]);
    assert_eq!(other.rm(&[used, unused]).unwrap(), [(used, Removal::InUse), (unused, Removal::Absent)]);
    assert_eq!(read(&entry), text("used"));
    drop(entry);
    assert!(matches!(other.rm(&[used]).unwrap()[..], [(_, Removal::Removed { bytes: 1.. })]));
    assert_eq!(other.ls().unwrap(), []);
}

#[test]
fn a_fresh_entry_is_in_use_from_the_moment_it_is_published() {
    let place = Place::new();
    let cache = place.cache();
    let entry = finish(claim_filler(&cache, content("a")), "a");
    assert_eq!(place.cache().prune(0).unwrap().removed, []);
    assert_eq!(read(&entry), text("a"));
}

/// Two images that share a layer, and the layer.
fn images_with_a_layer(cache: &Cache) -> (Key, Key, Key) {
    let base = put_content(cache, layer("base"), "base");
    let image = |name| {
        let filler = claim_filler(cache, content(name));
        write_tree(&filler, "base");
        let layer = cache.lookup(base).unwrap().unwrap();
        filler.publish(about(name), vec![Data::Layer(Box::new(layer))]).unwrap().key()
    };
    (image("one"), image("two"), base)
}

#[test]
fn a_shared_layer_stays_as_long_as_an_image_needs_it() {
    let place = Place::new();
    let cache = place.cache();
    let (one, two, base) = images_with_a_layer(&cache);
    for key in [one, two] {
        assert_eq!(read(&cache.lookup(key).unwrap().unwrap()), text("base"));
    }
    let info = cache.ls().unwrap().into_iter().find(|info| info.key == base).unwrap();
    assert_eq!(info.needed_by.len(), 2);
    assert_eq!(cache.rm(&[base]).unwrap(), [(base, Removal::Needed { by: 2 })]);

    // The layer is the oldest, and yet the images that need it go first.
    for (secs, key) in [(1, base), (2, one), (3, two)] {
        place.set_last_used(key, secs);
    }
    let order = |max| cache.prune(max).unwrap().removed.iter().map(|i| i.key).collect::<Vec<_>>();
    let total: u64 = cache.ls().unwrap().iter().map(|info| info.size_on_disk).sum();
    assert_eq!(order(total - 1), [one]);
    assert_eq!(order(0), [two, base]);
}

#[test]
fn an_image_in_use_keeps_its_layers() {
    let place = Place::new();
    let cache = place.cache();
    let (one, two, base) = images_with_a_layer(&cache);
    let entry = cache.lookup(one).unwrap().unwrap();
    assert_eq!(cache.prune(0).unwrap().removed.iter().map(|i| i.key).collect::<Vec<_>>(), [two]);
    assert_eq!(read(&entry), text("base"));
    drop(entry);
    let removed = cache.rm(&[base, one]).unwrap();
    assert!(removed.iter().all(|(_, removal)| matches!(removal, Removal::Removed { .. })), "{removed:?}");
}

#[test]
fn an_image_whose_layer_is_gone_is_made_again() {
    let place = Place::new();
    let cache = place.cache();
    let (one, _, base) = images_with_a_layer(&cache);
    assert!(
        matches!(cache.lookup(one).unwrap().unwrap().meta().data[..], [DataRef::Layer { key }] if key == base)
    );
    fs::remove_dir_all(place.entry(base)).unwrap();
    assert!(cache.lookup(one).unwrap().is_none());
    assert!(!place.entry(one).exists());
}

#[test]
fn a_key_is_named_by_a_prefix_of_its_own() {
    let place = Place::new();
    let cache = place.cache();
    let key = put(&cache, "a");
    let other = put(&cache, "b");
    assert_ne!(key.short()[..4], other.short()[..4]);
    assert_eq!(cache.resolve(&key.short().to_uppercase()).unwrap(), key);
    assert_eq!(cache.resolve(&key.to_string()).unwrap(), key);
    let message = |prefix: &str| cache.resolve(prefix).unwrap_err().to_string();
    assert_eq!(message("abc"), r#""abc" is no key: give at least 4 of its hexadecimal digits"#);
    assert_eq!(message("../.."), r#""../.." is no key: give at least 4 of its hexadecimal digits"#);
    assert_eq!(message(&format!("{key}0")), format!("no cache entry begins with {key}0"));
    let twin = format!("{}{}", &key.to_string()[..8], &other.to_string()[8..]);
    fs::create_dir(place.part("entries").join(twin)).unwrap();
    assert_eq!(message(&key.short()[..4]), format!("2 cache entries begin with {}", &key.short()[..4]));
}

#[test]
fn entries_of_an_earlier_format_go_unless_they_are_in_use() {
    let place = Place::new();
    let cache = place.cache();
    let (used, unused) = (put(&cache, "used"), put(&cache, "unused"));
    drop(cache);
    fs::rename(place.part(""), place.root().join("v0")).unwrap();
    fs::create_dir(place.root().join("v2")).unwrap();
    let old = |key: Key| place.root().join("v0/entries").join(key.to_string());
    let held = File::open(old(used)).unwrap();
    held.lock_shared().unwrap();

    let cache = place.cache();
    assert!(cache.lookup(used).unwrap().is_none());
    cache.prune(u64::MAX).unwrap();
    assert!(old(used).exists() && !old(unused).exists());
    drop(held);
    cache.prune(u64::MAX).unwrap();
    assert_eq!(names(&place.root()), ["CACHEDIR.TAG", "v1", "v2"]);
}

#[test]
fn an_entry_is_found_by_what_was_noted_of_it_as_long_as_it_is_there() {
    let place = Place::new();
    let cache = place.cache();
    let (a, b) = (put(&cache, "a"), put(&cache, "b"));
    let origin = |number: usize| content(&number.to_string()).key();
    cache.lookup(a).unwrap().unwrap().note(origin(0), b"0");
    for number in 1..=1000 {
        cache.lookup(b).unwrap().unwrap().note(origin(number), number.to_string().as_bytes());
    }
    let found = |number| {
        let (entry, note) = cache.noted(origin(number)).unwrap()?;
        assert_eq!(note, number.to_string().as_bytes());
        Some(entry.key())
    };
    assert_eq!((found(0), found(1000), found(1001)), (Some(a), Some(b), None));
    assert!(names(&place.entry(b)).len() < 100, "notes are bounded");
    fs::write(place.entry(a).join("meta.json"), "").unwrap();
    assert_eq!(found(0), None, "a damaged entry is not found");
    cache.rm(&[b]).unwrap();
    put(&cache, "b");
    assert_eq!(found(1000), None, "a note goes with its entry");
    place.assert_nothing_left();
}

/// So long that it gets a file of its own.
const LARGE: usize = 64 << 20;

/// Data with a large content between two small ones, in pieces as a stream brings them, and where that content is.
fn large_data(salt: u8) -> (Vec<u8>, std::ops::Range<u64>) {
    let mut bytes: Vec<u8> = (0..LARGE + 3000).map(|i| (i / 7 % 251) as u8 ^ salt).collect();
    bytes[1000] = 1;
    (bytes, 1000..1000 + LARGE as u64)
}

/// Writes it as a stream would, of which the first piece ends `ahead` bytes after the header.
fn write_large(data: &mut imagefs::cache::DataWriter, salt: u8, ahead: usize) {
    let (bytes, content) = large_data(salt);
    let (first, rest) = bytes.split_at(content.start as usize + ahead);
    data.write_all(first).unwrap();
    data.set_apart(content).unwrap();
    for piece in rest.chunks(1 << 20) {
        data.write_all(piece).unwrap();
    }
}

fn publish_large(cache: &Cache, name: &str) -> Key {
    let filler = claim_filler(cache, content(name));
    let mut data = filler.create_data().unwrap();
    write_large(&mut data, 0, 300);
    write_tree(&filler, name);
    filler.publish(about(name), vec![Data::Own(data.finish())]).unwrap().key()
}

fn all(data: &imagefs::index::DataFile) -> Vec<u8> {
    let mut bytes = vec![0; LARGE + 3000];
    data.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn a_large_content_has_a_file_of_its_own() {
    let place = Place::new();
    let cache = place.cache();
    let key = publish_large(&cache, "a");
    let (bytes, content) = large_data(0);
    let own = fs::read(place.entry(key).join("data-1")).unwrap();
    assert!(own == bytes[1000..1000 + LARGE], "it begins with its first byte");
    assert_eq!(fs::metadata(place.entry(key).join("data")).unwrap().len(), 3000, "nothing is stored twice");
    let entry = cache.lookup(key).unwrap().unwrap();
    let data = entry.open_data().unwrap().remove(0);
    assert!(all(&data) == bytes);
    assert!(data.file_of(content.start, LARGE as u64).is_some());
    assert!(cache.ls().unwrap()[0].size_on_disk >= LARGE as u64);
    drop((entry, data));
    assert_eq!(cache.verify(&[key]).unwrap()[0].damage, None);
    cache.rm(&[key]).unwrap();
    assert_eq!(names(&place.part("entries")), [""; 0]);
}

#[test]
fn a_large_content_that_breaks_off_is_written_anew() {
    let place = Place::new();
    let filler = claim_filler(&place.cache(), content("a"));
    let mut data = filler.create_data().unwrap();
    let reader = filler.open_data().unwrap();
    write_large(&mut data, 1, 300);
    // The same stream again, from the content's first byte.
    data.rewind(1000).unwrap();
    let (bytes, content) = large_data(1);
    data.set_apart(content).unwrap();
    data.write_all(&bytes[1000..]).unwrap();
    assert!(all(&reader) == bytes);
    // Another one, from the front: what was read by then may have been seen.
    data.rewind(0).unwrap();
    write_large(&mut data, 2, 0);
    assert!(all(&reader) == large_data(2).0);
    assert_eq!(names(&place.part("staging").join(filler.key().to_string())), ["data", "data-1"]);
    write_tree(&filler, "a");
    let entry = filler.publish(about("a"), vec![Data::Own(data.finish())]).unwrap();
    assert_eq!(place.cache().verify(&[entry.key()]).unwrap()[0].damage, None);
}

#[test]
fn what_is_missing_or_short_of_a_large_content_is_damage() {
    let place = Place::new();
    let cache = place.cache();
    let spoil: [fn(&std::path::Path); 4] = [
        |file| fs::remove_file(file).unwrap(),
        |file| File::options().write(true).open(file).unwrap().set_len(LARGE as u64 - 1).unwrap(),
        |file| {
            fs::rename(file, file.with_file_name("elsewhere")).unwrap();
            std::os::unix::fs::symlink("elsewhere", file).unwrap();
        },
        |file| fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap(),
    ];
    for (n, spoil) in spoil.iter().enumerate() {
        let key = publish_large(&cache, "a");
        spoil(&place.entry(key).join("data-1"));
        assert!(matches!(cache.ls().unwrap()[0].state, State::Damaged(_)), "{n}");
        assert!(cache.lookup(key).unwrap().is_none(), "{n}");
        assert_eq!(cache.ls().unwrap(), [], "{n}");
    }
    let key = publish_large(&cache, "a");
    let file = File::options().write(true).open(place.entry(key).join("data-1")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"!", 12_345).unwrap();
    assert!(cache.verify(&[key]).unwrap()[0].damage.is_some());
}
