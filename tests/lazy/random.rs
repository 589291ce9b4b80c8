//! Random trees that come with random pauses, while they are looked up, listed and read at random.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use imagefs::index::scan::Entry;

use super::stream::{Live, Numbers, Stream, What, entry};
use super::{PATIENCE, error, names};
use crate::support::wait_until;

/// The entries of a tree, in the order of a depth-first walk.
fn tree(numbers: &mut Numbers) -> Vec<(String, What)> {
    let mut entries = Vec::new();
    grow(numbers, "", 0, &mut entries);
    entries
}

fn grow(numbers: &mut Numbers, dir: &str, depth: usize, entries: &mut Vec<(String, What)>) {
    for i in 0..numbers.below(12) + 2 {
        let path = if dir.is_empty() { format!("n{i}") } else { format!("{dir}/n{i}") };
        let file = entries.iter().rev().find(|(_, what)| matches!(what, What::File(_)));
        let target = file.map(|(path, _)| path.clone());
        match (numbers.below(8), target) {
            (0 | 1, _) if depth < 4 => {
                entries.push((path.clone(), What::Directory));
                grow(numbers, &path, depth + 1, entries);
            }
            (2, _) => entries.push((path, What::Symlink(format!("n{}", numbers.below(20))))),
            (3, Some(target)) => entries.push((path, What::Link(target))),
            _ => {
                let byte = numbers.below(256) as u8;
                entries.push((path, What::File(vec![byte; numbers.below(40_000)])));
            }
        }
    }
}

/// What a finished mount of the entries shows.
struct Model<'a> {
    entries: &'a [(String, What)],
    /// What a path shows: its own entry, or that of the hard link's target.
    shown: BTreeMap<&'a str, (&'a str, &'a What)>,
    children: BTreeMap<&'a str, BTreeSet<String>>,
}

impl Model<'_> {
    fn of(entries: &[(String, What)]) -> Model<'_> {
        let mut shown = BTreeMap::new();
        let mut children = BTreeMap::from([("", BTreeSet::new())]);
        for (path, what) in entries {
            let target = match what {
                What::Link(target) => shown[target.as_str()],
                _ => (path.as_str(), what),
            };
            shown.insert(path.as_str(), target);
            let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
            children.get_mut(dir).unwrap().insert(name.to_owned());
            if *what == What::Directory {
                children.insert(path, BTreeSet::new());
            }
        }
        Model { entries, shown, children }
    }

    /// Asks one question about an entry, and checks the answer. `inodes` knows the numbers that were seen.
    fn ask(&self, live: &Live, numbers: &mut Numbers, inodes: &Mutex<BTreeMap<String, u64>>) {
        let (path, _) = &self.entries[numbers.below(self.entries.len())];
        let (first, what) = self.shown[path.as_str()];
        let at = live.path(path);
        match (numbers.below(4), what) {
            (0, What::Directory) => assert_eq!(names(&at).unwrap(), self.children[path.as_str()], "{path}"),
            (0, What::File(bytes)) => assert!(fs::read(&at).unwrap() == *bytes, "{path}"),
            (0, What::Symlink(target)) => assert_eq!(fs::read_link(&at).unwrap(), Path::new(target)),
            (1, What::Directory) => {
                assert_eq!(error(fs::symlink_metadata(at.join("no"))), Some(libc::ENOENT))
            }
            (1, What::File(_)) => assert_eq!(error(fs::symlink_metadata(at.join("no"))), Some(libc::ENOTDIR)),
            _ => {
                let found = fs::symlink_metadata(&at).unwrap();
                assert_attributes(path, &found, &entry(first, what, 0));
                let known = *inodes.lock().unwrap().entry(first.to_owned()).or_insert(found.ino());
                assert_eq!(found.ino(), known, "{path}: one file, one number");
            }
        }
    }

    fn check_all(&self, live: &Live, inodes: &Mutex<BTreeMap<String, u64>>) {
        for (dir, children) in &self.children {
            assert_eq!(names(&live.path(dir)).unwrap(), *children, "{dir}");
        }
        let inodes = inodes.lock().unwrap();
        for (path, (first, what)) in &self.shown {
            let found = fs::symlink_metadata(live.path(path)).unwrap();
            assert_attributes(path, &found, &entry(first, what, 0));
            assert_eq!(found.ino(), *inodes.get(*first).unwrap_or(&found.ino()), "{path}: the number stays");
            if let What::File(bytes) = what {
                assert!(fs::read(live.path(path)).unwrap() == *bytes, "{path}");
                // The kernel may keep a count from before for a second.
                let links = self.shown.values().filter(|(other, _)| other == first).count() as u64;
                let counted = || fs::symlink_metadata(live.path(path)).unwrap().nlink() == links;
                assert!(wait_until(counted), "{path}: {links} links");
            }
        }
    }
}

fn assert_attributes(path: &str, found: &fs::Metadata, expected: &Entry) {
    let (mode, times) = (found.mode() & 0o7777, (found.mtime(), found.mtime_nsec()));
    assert_eq!(
        (mode, found.uid(), found.gid(), times),
        (
            expected.perm.into(),
            expected.uid,
            expected.gid,
            (expected.mtime.secs, expected.mtime.nanos.into())
        ),
        "{path}"
    );
}

/// Streams a random tree while four threads ask at random.
fn run(seed: u64, mut stream: Stream) {
    let mut numbers = Numbers(seed);
    let entries = tree(&mut numbers);
    let model = Model::of(&entries);
    let live = Live::start(&stream, "rootfs", PATIENCE);
    let inodes = Mutex::default();
    let finished = AtomicBool::new(false);
    thread::scope(|scope| {
        for asker in 0..4 {
            let (model, live, inodes, finished) = (&model, &live, &inodes, &finished);
            let mut numbers = Numbers(seed ^ (asker + 1) << 40);
            scope.spawn(move || {
                let mut more = 20;
                while more > 0 {
                    model.ask(live, &mut numbers, inodes);
                    more -= usize::from(finished.load(Ordering::SeqCst));
                }
            });
        }
        for (path, what) in &entries {
            if numbers.below(4) == 0 {
                thread::sleep(Duration::from_micros(numbers.below(2000) as u64));
            }
            stream.put(path, what);
        }
        stream.finish();
        finished.store(true, Ordering::SeqCst);
    });
    model.check_all(&live, &inodes);
}

#[test]
fn a_depth_first_stream_is_never_seen_otherwise_than_it_is_in_the_end() {
    for seed in 1..13 {
        run(seed, Stream::new());
    }
}

#[test]
fn a_stream_of_unknown_order_is_never_seen_otherwise_than_it_is_in_the_end() {
    for seed in 101..107 {
        run(seed, Stream::of_unknown_order());
    }
}
