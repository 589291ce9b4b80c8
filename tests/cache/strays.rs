//! What does not belong into the cache and has a name that does.

use std::os::unix::fs::symlink;

use imagefs::cache::{Damage, Removal, State};
use rustix::fs::{CWD, FileType, Mode};

use super::*;

const KINDS: [&str; 4] = ["file", "symlink", "fifo", "directory"];

/// Puts something of that kind where `path` leads.
fn make(place: &Place, kind: &str, path: &Path) {
    match kind {
        "file" => fs::write(path, "stray").unwrap(),
        "symlink" => symlink(away(place), path).unwrap(),
        "fifo" => rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap(),
        "directory" => {
            fs::create_dir_all(path.join("deep/er")).unwrap();
            fs::write(path.join("deep/er/file"), "stray").unwrap();
            symlink(away(place), path.join("deep/link")).unwrap();
        }
        other => panic!("{other}"),
    }
}

/// A directory outside of the cache, with a file in it.
fn away(place: &Place) -> PathBuf {
    let away = place.dir.path().join("away");
    fs::create_dir_all(&away).unwrap();
    fs::write(away.join("thesis.tex"), "").unwrap();
    away
}

#[test]
fn a_stray_stops_no_maintenance_and_goes() {
    for kind in KINDS {
        for part in ["entries", "staging", "temporary", "locks"] {
            let place = Place::new();
            let sound = put(&place.cache(), "sound");
            let key = content("b").key();
            let name = if part == "temporary" { format!("{key}.0") } else { key.to_string() };
            make(&place, kind, &place.part(part).join(&name));

            let cache = place.cache();
            let listed = cache.ls().unwrap();
            if part == "entries" {
                let stray = listed.iter().find(|info| info.key == key).expect("it is named");
                let damage = if kind == "directory" { Damage::Incomplete } else { Damage::NotADirectory };
                assert_eq!(stray.state, State::Damaged(damage));
            }
            let verified = cache.verify(&[sound]).unwrap();
            assert!(verified.iter().all(|result| result.damage.is_none()), "{kind} in {part}: {verified:?}");
            cache.prune(u64::MAX).unwrap();
            assert_eq!(names(&place.part("entries")), [sound.to_string()], "{kind} in {part}");
            place.assert_nothing_left();
            put(&cache, "b");
            assert_eq!(names(&away(&place)), ["thesis.tex"]);
        }
    }
}

#[test]
fn a_stray_with_the_name_of_an_entry_is_removed_like_a_damaged_one() {
    for kind in KINDS {
        let place = Place::new();
        let cache = place.cache();
        let key = content("b").key();
        let stray = place.entry(key);
        make(&place, kind, &stray);
        assert!(matches!(cache.rm(&[key]).unwrap()[..], [(_, Removal::Removed { .. })]), "{kind}");
        make(&place, kind, &stray);
        assert!(cache.verify(&[key]).unwrap()[0].damage.is_some(), "{kind}");
        make(&place, kind, &stray);
        put(&cache, "b");
        assert_eq!(read(&cache.lookup(key).unwrap().unwrap()), text("b"));
        assert_eq!(names(&away(&place)), ["thesis.tex"]);
        place.assert_nothing_left();
    }
}

#[test]
fn an_entry_with_a_stray_in_it_is_removed_with_it() {
    let place = Place::new();
    let cache = place.cache();
    let key = put(&cache, "a");
    make(&place, "directory", &place.entry(key).join("stray"));
    assert_eq!(read(&cache.lookup(key).unwrap().unwrap()), text("a"), "it does no harm");
    assert!(matches!(cache.rm(&[key]).unwrap()[..], [(_, Removal::Removed { .. })]));
    assert_eq!(cache.ls().unwrap(), []);
    place.assert_nothing_left();
    assert_eq!(names(&away(&place)), ["thesis.tex"]);
}

#[test]
fn a_stray_in_the_place_of_a_file_of_an_entry_is_damage() {
    for kind in ["symlink", "fifo", "directory"] {
        for file in ["index", "data", "meta.json", ".complete"] {
            let place = Place::new();
            let cache = place.cache();
            let key = put(&cache, "a");
            let file = place.entry(key).join(file);
            fs::remove_file(&file).unwrap();
            make(&place, kind, &file);
            assert_eq!(cache.ls().unwrap().len(), 1);
            assert!(cache.lookup(key).unwrap().is_none(), "{kind} for {file:?}");
            put(&cache, "a");
            place.assert_nothing_left();
        }
    }
}

#[test]
fn an_earlier_version_that_is_no_cache_stops_no_maintenance() {
    let place = Place::new();
    let cache = place.cache();
    put(&cache, "a");
    fs::create_dir(place.root().join("v0")).unwrap();
    make(&place, "file", &place.root().join("v0/entries"));
    cache.prune(0).unwrap();
    assert_eq!(cache.ls().unwrap(), []);
}
