//! The cache, as processes that share it see it.

mod entries;
mod faults;
mod processes;
mod security;
mod strays;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use imagefs::cache::{About, Cache, Claim, Content, Data, Entry, Filler, Key, Kind, Obtained, Written};
use imagefs::index::{GrowingTree, Ino, write_index};
use imagefs::tarfile::{EndMark, Scanner};

/// A cache in a directory of its own.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place { dir: tempfile::tempdir().unwrap() }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn cache(&self) -> Cache {
        Cache::open(Some(self.root())).unwrap()
    }

    fn part(&self, part: &str) -> PathBuf {
        self.root().join("v1").join(part)
    }

    fn entry(&self, key: Key) -> PathBuf {
        self.part("entries").join(key.to_string())
    }

    /// No lock, no leftover.
    fn assert_nothing_left(&self) {
        for part in ["staging", "temporary", "locks"] {
            assert_eq!(names(&self.part(part)), [""; 0], "left in {part}");
        }
    }

    /// Says when an entry was used last, in seconds since 1970.
    fn set_last_used(&self, key: Key, secs: u64) {
        let seal = File::open(self.entry(key).join(".complete")).unwrap();
        seal.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(secs)).unwrap();
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn content(name: &str) -> Content {
    Content {
        kind: Kind::Image,
        identity: name.to_owned(),
        platform: None,
        layers: Vec::new(),
        obtained: Obtained::DockerExport,
    }
}

fn layer(name: &str) -> Content {
    Content { kind: Kind::Layer, obtained: Obtained::Layers, ..content(name) }
}

fn about(name: &str) -> About {
    About { source: name.into(), entries: 1, bytes: name.len() as u64, details: serde_json::Value::Null }
}

/// What the one file of the filesystem called `name` holds.
fn text(name: &str) -> Vec<u8> {
    name.as_bytes().repeat(1000)
}

/// An archive of one file.
fn tar(name: &str) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size(text(name).len() as u64);
    header.set_mode(0o644);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, "file", &text(name)[..]).unwrap();
    builder.into_inner().unwrap()
}

fn no_wait(_: imagefs::cache::Waiting) -> ControlFlow<()> {
    panic!("another holds the key");
}

fn claim_filler(cache: &Cache, content: Content) -> Filler {
    match cache.fill(content, &mut no_wait).unwrap() {
        Claim::Filler(filler) => filler,
        Claim::Entry(_) => panic!("it is there already"),
    }
}

fn write_data(filler: &Filler, name: &str) -> Written {
    let mut data = filler.create_data().unwrap();
    data.write_all(&tar(name)).unwrap();
    data.finish()
}

fn write_tree(filler: &Filler, name: &str) {
    let mut tree = GrowingTree::default();
    let archive = tar(name);
    let mut scanner = Scanner::new(&archive[..], EndMark::Required);
    while let Some(entry) = scanner.next_entry().unwrap() {
        tree.insert(entry).unwrap();
    }
    tree.finish().unwrap();
    write_index(&tree, filler.key().as_bytes(), filler.create_index().unwrap()).unwrap();
}

fn finish(filler: Filler, name: &str) -> Entry {
    let data = write_data(&filler, name);
    write_tree(&filler, name);
    filler.publish(about(name), vec![Data::Own(data)]).unwrap()
}

/// Fills the entry called `name`, and lets go of it.
fn put(cache: &Cache, name: &str) -> Key {
    put_content(cache, content(name), name)
}

fn put_content(cache: &Cache, content: Content, name: &str) -> Key {
    finish(claim_filler(cache, content), name).key()
}

/// What the entry's one file holds, read through its filesystem.
fn read(entry: &Entry) -> Vec<u8> {
    let filesystem = entry.filesystem().unwrap();
    let ino = filesystem.tree().lookup(Ino::ROOT, b"file").unwrap().expect("a file");
    let mut bytes = vec![0; 1 << 16];
    let n = filesystem.read(ino, 0, &mut bytes).unwrap();
    bytes.truncate(n);
    bytes
}

/// The sizes on disk of all entries, by their source.
fn sizes(cache: &Cache) -> BTreeMap<String, u64> {
    let name = |info: &imagefs::cache::EntryInfo| {
        info.meta.as_ref().map_or("?".into(), |m| m.about.source.to_str().unwrap().to_owned())
    };
    cache.ls().unwrap().iter().map(|info| (name(info), info.size_on_disk)).collect()
}
