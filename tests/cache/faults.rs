//! Damage: nothing partial or corrupt is ever served.

use std::os::unix::fs::FileExt as _;
use std::process::Command;

use imagefs::cache::{CacheError, Damage, State};

use super::*;

/// Damages the entry called "a" and asserts that it is not served, and that it can be made again.
fn assert_made_again(what: &str, damage: impl Fn(&Path)) {
    let place = Place::new();
    let cache = place.cache();
    let key = put(&cache, "a");
    damage(&place.entry(key));
    assert!(cache.find(|_| true).unwrap().is_none(), "{what}: found");
    assert!(cache.lookup(key).unwrap().is_none(), "{what}: served");
    assert!(!place.entry(key).exists(), "{what}: not removed");
    put(&cache, "a");
    damage(&place.entry(key));
    assert!(
        matches!(cache.ls().unwrap()[0].state, State::Damaged(_)) || what.contains("index"),
        "{what}: listed"
    );
    // `fill` alone finds it too.
    put(&cache, "a");
    assert_eq!(read(&cache.lookup(key).unwrap().unwrap()), text("a"));
    place.assert_nothing_left();
}

#[test]
fn a_partial_entry_is_made_again() {
    for file in [".complete", "meta.json", "index", "data"] {
        assert_made_again(&format!("no {file}"), |entry| fs::remove_file(entry.join(file)).unwrap());
        assert_made_again(&format!("empty {file}"), |entry| fs::write(entry.join(file), "").unwrap());
        assert_made_again(&format!("short {file}"), |entry| {
            let file = File::options().write(true).open(entry.join(file)).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        });
    }
}

#[test]
fn an_entry_under_anothers_name_is_not_served() {
    let place = Place::new();
    let cache = place.cache();
    let (a, b) = (put(&cache, "a"), content("b").key());
    fs::rename(place.entry(a), place.entry(b)).unwrap();
    assert!(cache.lookup(b).unwrap().is_none());
}

#[test]
fn metadata_with_any_flipped_byte_is_not_served() {
    let place = Place::new();
    let cache = place.cache();
    let key = put(&cache, "a");
    for file in ["meta.json", ".complete"] {
        let sound = fs::read(place.entry(key).join(file)).unwrap();
        for at in 0..sound.len() {
            let mut flipped = sound.clone();
            flipped[at] ^= 1;
            fs::write(place.entry(key).join(file), &flipped).unwrap();
            assert!(matches!(cache.ls().unwrap()[0].state, State::Damaged(_)), "byte {at} of {file}");
        }
        fs::write(place.entry(key).join(file), &sound).unwrap();
    }
    assert!(cache.lookup(key).unwrap().is_some());
}

#[test]
fn verify_finds_and_removes_what_a_lookup_does_not_see() {
    for (file, damage) in [
        ("data", Damage::DataChecksum),
        ("index", Damage::Index("damaged: the names' checksum is wrong".into())),
    ] {
        let place = Place::new();
        let cache = place.cache();
        let (bad, good) = (put(&cache, "bad"), put(&cache, "good"));
        let path = place.entry(bad).join(file);
        let bytes = fs::read(&path).unwrap();
        let at = match file {
            "index" => bytes.windows(4).position(|w| w == b"file").unwrap(),
            _ => bytes.len() / 2,
        };
        let open = File::options().write(true).open(&path).unwrap();
        open.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
        // Who uses it goes on, and nobody else gets it.
        let held = cache.lookup(bad).unwrap().unwrap();
        let verified = cache.verify(&[bad, good, content("absent").key()]).unwrap();
        let told: Vec<_> = verified.into_iter().map(|v| (v.key, v.damage)).collect();
        assert_eq!(told, [(bad, Some(damage)), (good, None)]);
        assert!(cache.lookup(bad).unwrap().is_none());
        assert!(held.filesystem().is_ok());
        put(&cache, "bad");
        drop(held);
        drop(place.cache());
        place.assert_nothing_left();
    }
}

#[test]
fn an_entry_that_its_user_finds_wrong_is_made_again() {
    let place = Place::new();
    let cache = place.cache();
    let key = put(&cache, "a");
    let entry = cache.lookup(key).unwrap().unwrap();
    cache.discard(entry, "it does not look right").unwrap();
    assert!(cache.lookup(key).unwrap().is_none());
    // The new one is not taken for the old one.
    let stale = {
        put(&cache, "a");
        cache.lookup(key).unwrap().unwrap()
    };
    fs::rename(place.entry(key), place.dir.path().join("away")).unwrap();
    put(&cache, "a");
    cache.discard(stale, "it does not look right").unwrap();
    assert!(cache.lookup(key).unwrap().is_some());
}

/// A small filesystem of its own.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf) -> SmallDisk {
        fs::create_dir(&at).unwrap();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs"])
            .arg(&at)
            .status();
        assert!(status.unwrap().success(), "this test mounts a tmpfs: it needs root");
        SmallDisk(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_told_with_what_to_do_and_leaves_nothing() {
    let place = Place::new();
    let disk = SmallDisk::mount(place.root());
    let cache = place.cache();
    let old = put(&cache, "old");
    let filler = claim_filler(&cache, content("new"));
    let mut data = filler.create_data().unwrap();
    let error = loop {
        if let Err(error) = data.write_all(&[1; 4096]) {
            break error;
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    let error = CacheError::within(&error).expect("the cache's own error");
    let path = place.part("staging").join(filler.key().to_string()).join("data");
    assert_eq!(error.to_string(), format!("no space left in the cache: cannot write {path:?}"));
    let hint = error.hint().unwrap();
    assert!(hint.starts_with("0 MiB are free there; `imagefs cache prune"), "{hint}");

    // The disk is full to the last block, and yet there is a way out.
    assert!(cache.lookup(old).unwrap().is_some());
    let mut index = filler.create_index().unwrap();
    let error = filler.index_error(index.write_all(&[1; 8192]).unwrap_err());
    assert!(matches!(error, CacheError::NoSpace { free: Some((0, _)), .. }), "{error:?}");
    assert_eq!(cache.prune(0).unwrap().removed.len(), 1);
    drop((data, filler));
    place.assert_nothing_left();
    put(&cache, "new");
    // Before the disk is taken away.
    drop((cache, index));
    drop(disk);
}
