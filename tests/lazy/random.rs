//! Random trees that come with random pauses, while they are looked up, listed and read at random.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use imagefs::index::{BriefStat, Demand, FileType, Grower};
use imagefs::tarfile::Entry;

use super::stream::{Live, Numbers, Stream, What, entry};
use super::{PATIENCE, error, names};
use crate::support::wait_until;

/// The entries of a tree, in the order of a depth-first walk.
fn tree(numbers: &mut Numbers, links: bool) -> Vec<(String, What)> {
    let mut entries = Vec::new();
    grow(numbers, "", 0, links, &mut entries);
    entries
}

fn grow(numbers: &mut Numbers, dir: &str, depth: usize, links: bool, entries: &mut Vec<(String, What)>) {
    for i in 0..numbers.below(12) + 2 {
        let path = if dir.is_empty() { format!("n{i}") } else { format!("{dir}/n{i}") };
        let file = entries.iter().rev().find(|(_, what)| matches!(what, What::File(_)));
        let target = file.map(|(path, _)| path.clone());
        match (numbers.below(8), target) {
            (0 | 1, _) if depth < 4 => {
                entries.push((path.clone(), What::Directory));
                grow(numbers, &path, depth + 1, links, entries);
            }
            (2, _) => entries.push((path, What::Symlink(format!("n{}", numbers.below(20))))),
            (3, Some(target)) if links => entries.push((path, What::Link(target))),
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

/// Grants wishes out of a model, as a daemon does that is asked for single paths: some not, and some not to the end. Returns
/// how many files it gave whole.
fn grant(model: &Model, mut numbers: Numbers, grower: &Grower, wished: Receiver<Demand>) -> usize {
    let mut given = 0;
    for wish in wished {
        let path = wish.path();
        let found = model.shown.get(std::str::from_utf8(path).unwrap());
        let Some((_, what)) = found else {
            grower.absent(path);
            continue;
        };
        if numbers.below(4) == 0 || !grower.wants(&wish) {
            continue;
        }
        thread::sleep(Duration::from_micros(numbers.below(500) as u64));
        let entry = entry(std::str::from_utf8(path).unwrap(), what, 0);
        let (file_type, size) = match what {
            What::Directory => (FileType::Directory, 0),
            What::Symlink(_) => (FileType::Symlink, 0),
            What::File(bytes) => (FileType::Regular, bytes.len() as u64),
            What::Link(_) => unreachable!("the model shows what a link leads to"),
        };
        match (&wish, what) {
            (Demand::Existence(_), _) => {
                let Entry { perm, mtime, .. } = entry;
                grower.found(path, BriefStat { file_type, perm, size, mtime });
            }
            (Demand::Content(_), What::File(bytes)) => {
                let Some(mut incoming) = grower.content(path, size) else { continue };
                let end = if numbers.below(3) == 0 { bytes.len() / 2 } else { bytes.len() };
                let written = bytes[..end].chunks(10_000).try_for_each(|piece| incoming.write_all(piece));
                given += usize::from(written.is_ok() && end == bytes.len());
            }
            _ => grower.header(path, entry),
        }
    }
    given
}

/// Streams a random tree while four threads ask at random. With `wished`, what they ask for may come before its
/// turn; returns how many files did.
fn run(seed: u64, mut stream: Stream, wished: Option<Receiver<Demand>>) -> usize {
    let mut numbers = Numbers(seed);
    // Nobody can know of what was fetched alone that it is another name of the same file.
    let entries = tree(&mut numbers, wished.is_none());
    let model = Model::of(&entries);
    let grower = stream.grower.clone();
    let live = Live::start(&stream, "rootfs", PATIENCE);
    let inodes = Mutex::default();
    let finished = AtomicBool::new(false);
    let given = thread::scope(|scope| {
        let granting = wished.map(|wished| {
            let (model, grower) = (&model, &grower);
            scope.spawn(move || grant(model, Numbers(seed), grower, wished))
        });
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
        granting.map_or(0, |granting| granting.join().unwrap())
    });
    model.check_all(&live, &inodes);
    given
}

#[test]
fn a_depth_first_stream_is_never_seen_otherwise_than_it_is_in_the_end() {
    for seed in 1..13 {
        run(seed, Stream::new(), None);
    }
}

#[test]
fn a_stream_of_unknown_order_is_never_seen_otherwise_than_it_is_in_the_end() {
    for seed in 101..107 {
        run(seed, Stream::of_unknown_order(), None);
    }
}

#[test]
fn what_is_fetched_alone_is_never_seen_otherwise_than_it_is_in_the_end() {
    let given = (201..213).map(|seed| {
        let (stream, wished) = Stream::with_wishes();
        run(seed, stream, Some(wished))
    });
    assert!(given.sum::<usize>() > 0);
}
