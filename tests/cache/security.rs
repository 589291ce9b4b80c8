//! Who may read and write the cache, and which directories are no cache.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};

use imagefs::cache::Damage;

use super::processes::Child;
use super::*;

const NOBODY: u32 = 65534;

fn refused(place: &Place) -> (String, String) {
    let error = Cache::open(Some(place.root())).expect_err("it must be refused");
    (error.to_string(), error.hint().unwrap_or_default())
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn only_the_owner_may_enter_whatever_the_umask() {
    for umask in ["000", "077", "277"] {
        let place = Place::new();
        let mut child = Child::with_umask(umask, &place.root(), "fill", "a");
        assert_eq!(child.wait(), Some(0), "umask {umask}");
        let mut todo = vec![place.root()];
        let mut files = 0;
        while let Some(path) = todo.pop() {
            let meta = fs::metadata(&path).unwrap();
            if meta.is_dir() {
                // The others cannot even pass: what a umask takes from the owner is the owner's affair.
                assert_eq!(meta.mode() & 0o077, 0, "{path:?}");
                todo.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            } else {
                assert_eq!(meta.mode() & 0o7777, 0o600, "{path:?}");
                files += 1;
            }
        }
        assert_eq!(files, 5);
    }
}

#[test]
fn the_directory_is_marked_as_a_cache() {
    let place = Place::new();
    let tag = place.root().join("CACHEDIR.TAG");
    drop(place.cache());
    assert!(fs::read(&tag).unwrap().starts_with(b"Signature: 8a477f597d28d172789f06886806bc55\n"));
    // One that was cut short is mended.
    fs::write(&tag, "Sig").unwrap();
    drop(place.cache());
    assert!(fs::read(&tag).unwrap().starts_with(b"Signature: 8a477f597d28d172789f06886806bc55\n"));
}

#[test]
fn a_directory_of_another_user_is_refused() {
    let place = Place::new();
    fs::create_dir(place.root()).unwrap();
    chown(place.root(), Some(NOBODY), Some(NOBODY)).expect("this test gives a file away: it needs root");
    let (message, hint) = refused(&place);
    assert_eq!(message, format!("the cache directory {:?} belongs to uid 65534, not to uid 0", place.root()));
    assert_eq!(hint, "under sudo, `sudo -H` uses root's own cache; or choose another with --cache-dir");
    assert_eq!(names(&place.root()), [""; 0]);
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    for mode in [0o770, 0o702, 0o1777] {
        let place = Place::new();
        fs::create_dir(place.root()).unwrap();
        chmod(&place.root(), mode);
        let (message, hint) = refused(&place);
        assert_eq!(
            message,
            format!("the cache directory {:?} can be written by others (mode {mode:04o})", place.root())
        );
        assert_eq!(hint, format!("if all in it is yours: chmod -R go-w {:?}", place.root()));
        assert_eq!(names(&place.root()), [""; 0]);
    }
}

#[test]
fn a_directory_in_it_that_others_can_write_is_refused() {
    for part in ["", "entries", "staging", "temporary", "locks"] {
        let place = Place::new();
        put(&place.cache(), "a");
        chmod(&place.root(), 0o755);
        let part = place.root().join(Path::new("v1").join(part).components().as_path());
        chmod(&part, 0o777);
        let (message, hint) = refused(&place);
        assert_eq!(message, format!("the cache directory {part:?} can be written by others (mode 0777)"));
        assert_eq!(hint, format!("if all in it is yours: chmod -R go-w {part:?}"));
        chmod(&part, 0o700);
        chown(&part, Some(NOBODY), None).unwrap();
        let (message, _) = refused(&place);
        assert_eq!(message, format!("the cache directory {part:?} belongs to uid 65534, not to uid 0"));
    }
}

#[test]
fn an_entry_that_others_can_write_is_damage() {
    for file in ["", "index", "data", "meta.json", ".complete"] {
        let place = Place::new();
        let cache = place.cache();
        let key = put(&cache, "a");
        let file = place.entry(key).join(file);
        for spoil in
            [|file: &Path| chmod(file, 0o720), |file: &Path| chown(file, Some(NOBODY), None).unwrap()]
        {
            spoil(&file);
            assert_eq!(cache.verify(&[key]).unwrap()[0].damage, Some(Damage::Exposed), "{file:?}");
            assert!(cache.lookup(key).unwrap().is_none());
            put(&cache, "a");
        }
    }
}

#[test]
fn a_directory_with_something_else_in_it_is_left_alone() {
    let place = Place::new();
    let home = place.dir.path().join("home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("thesis.tex"), "").unwrap();
    // As if somebody had put the symlink where the cache was about to be made.
    symlink(&home, place.root()).unwrap();
    let (message, _) = refused(&place);
    assert_eq!(message, format!("{:?} is not empty, and no cache of imagefs", place.root()));
    assert_eq!(names(&home), ["thesis.tex"]);
}

#[test]
fn a_symlink_to_a_cache_of_ones_own_is_fine() {
    let place = Place::new();
    let disk = place.dir.path().join("disk");
    fs::create_dir(&disk).unwrap();
    symlink(&disk, place.root()).unwrap();
    put(&place.cache(), "a");
    assert!(disk.join("CACHEDIR.TAG").exists());
}

#[test]
fn an_entry_that_is_a_symlink_is_not_followed() {
    let place = Place::new();
    let cache = place.cache();
    let key = put(&cache, "a");
    let away = place.dir.path().join("away");
    fs::rename(place.entry(key), &away).unwrap();
    symlink(&away, place.entry(key)).unwrap();
    assert!(cache.lookup(key).unwrap().is_none());
    assert_eq!(names(&away).len(), 4);
    assert!(!place.entry(key).is_symlink());
}

#[test]
fn another_user_has_a_cache_of_their_own_and_no_way_into_this_one() {
    let place = Place::new();
    put(&place.cache(), "a");
    chmod(place.dir.path(), 0o755);
    assert_eq!(Child::as_nobody(&place.root(), "lookup", "a").failure(), "Permission denied (os error 13)");

    let theirs = place.dir.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    chown(&theirs, Some(NOBODY), Some(NOBODY)).unwrap();
    assert_eq!(Child::as_nobody(&theirs.join("deep/cache"), "fill", "a").wait(), Some(0));
    let meta = fs::metadata(theirs.join("deep/cache")).unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o7777), (NOBODY, 0o700));
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let place = Place::new();
    chmod(place.dir.path(), 0o755);
    assert_eq!(Child::as_nobody(&place.root(), "fill", "a").failure(), "Permission denied (os error 13)");
}
