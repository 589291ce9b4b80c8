//! What a walk is about to read, put into the kernel's page cache before it asks.
//!
//! A program that searches or packs a tree lists a directory and then reads one file after another, in the order of the
//! listing. A request for a small file costs many times what its bytes do. So the requests are watched: once some have
//! come in that order, the small files that follow in the directory are stored unasked (FUSE_NOTIFY_STORE), and so are
//! those of the directories that are listed next. What is stored is not asked for any more, so that nothing tells
//! whether it was of use: each request that comes in order pays for a number of directories, and when they are used up
//! the next file is left to be asked for.
//!
//! Nothing is stored for a program that only lists, or that reads single files. Must not import `fuser`.
//!
//! A store waits while the kernel has the page locked, which is until a READ of it has been answered. So nothing is stored
//! of a file whose READ the same thread is about to answer, whoever answers requests that have waited stores nothing, and
//! there must be one more thread that answers: one is enough, since only one stores at a time.

use std::io;
use std::num::NonZeroUsize;
use std::sync::{Mutex, OnceLock, TryLockError};

use lru::LruCache;

use super::node::Node;
use super::operations::Operations;
use super::view::OpenDir;
use crate::index::{Certainty, FileType};

/// The largest file that is stored, in bytes. For larger ones the kernel's own read-ahead does as well.
const SMALL: u64 = 128 * 1024;

/// The most that is stored on one occasion: a process waits meanwhile, and may want none of it.
const MAX_BYTES: u64 = 1024 * 1024;
const MAX_FILES: usize = 512;

/// Requests in order, one after another, that make a walk.
const WALK: u32 = 2;

/// How many requests out of order a long walk survives.
const MAX_STREAK: u32 = 8;

/// Directories that a request in order pays for.
const CREDIT: u32 = 64;

/// Directories whose next file is remembered.
const MAX_EXPECTED: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Entries that are taken out of a listing at a time.
const BATCH: usize = 64;

/// Puts the content of a file into the kernel's page cache. After an error it makes no sense to go on.
type Store = Box<dyn Fn(Node, &[u8]) -> io::Result<()> + Send + Sync>;

/// What is foreseen in one session.
#[derive(Default)]
pub(super) struct Readahead {
    store: OnceLock<Store>,
    habit: Mutex<Habit>,
}

/// How the files of a session are being read.
struct Habit {
    /// Requests that have come in order.
    streak: u32,
    /// Directories whose files may be stored before another request comes.
    credit: u32,
    /// The file that comes next in a directory, and where the listing goes on after it.
    expected: LruCache<Node, Position>,
}

/// A place in the listing of a directory.
#[derive(Clone, Copy)]
struct Position {
    dir: Node,
    offset: u64,
}

impl Readahead {
    /// How to store. Nothing is stored before this is known.
    pub fn connect(&self, store: impl Fn(Node, &[u8]) -> io::Result<()> + Send + Sync + 'static) {
        let _ = self.store.set(Box::new(store));
    }

    /// The listing of `dir` has come to its end: the kernel knows all the files in it.
    pub fn listed(&self, view: &dyn Operations, dir: Node) {
        self.with(|habit, store| {
            let paid = habit.credit > 0;
            habit.credit = habit.credit.saturating_sub(1);
            habit.go_on(view, Position { dir, offset: 0 }, None, paid.then_some(store));
        });
    }

    /// The first bytes of a file have been asked for, and the answer is about to be given.
    pub fn asked(&self, view: &dyn Operations, file: Node) {
        self.with(|habit, store| match habit.expected.pop(&file) {
            None if small(view, file).is_some() => habit.streak = habit.streak.saturating_sub(1),
            None => {}
            Some(position) => {
                habit.streak = (habit.streak + 1).min(MAX_STREAK);
                let walk = habit.streak >= WALK;
                if walk {
                    habit.credit = CREDIT;
                }
                habit.go_on(view, position, Some(file), walk.then_some(store));
            }
        });
    }

    /// Does nothing while another thread is at it: what is missed then is asked for.
    fn with(&self, act: impl FnOnce(&mut Habit, &Store)) {
        let Some(store) = self.store.get() else { return };
        match self.habit.try_lock() {
            Ok(mut habit) => act(&mut habit, store),
            Err(TryLockError::Poisoned(poisoned)) => act(&mut poisoned.into_inner(), store),
            Err(TryLockError::WouldBlock) => {}
        }
    }
}

impl Default for Habit {
    fn default() -> Habit {
        Habit { streak: 0, credit: 0, expected: LruCache::new(MAX_EXPECTED) }
    }
}

impl Habit {
    /// Stores the files that follow a position, as many as one occasion allows, but not the one that is `busy`. What comes
    /// after them will be asked for.
    fn go_on(
        &mut self,
        view: &dyn Operations,
        mut position: Position,
        busy: Option<Node>,
        store: Option<&Store>,
    ) {
        let (mut bytes_left, mut files_left) = (MAX_BYTES, MAX_FILES);
        let mut bytes = Vec::new();
        loop {
            let batch = files(view, &mut position);
            // Another hard link may well follow.
            for (file, offset) in batch.iter().filter(|(file, _)| Some(*file) != busy) {
                let Some(size) = small(view, *file) else { continue };
                let Some(store) = store.filter(|_| size <= bytes_left && files_left > 0) else {
                    self.expected.put(*file, Position { offset: *offset, ..position });
                    return;
                };
                bytes_left -= size;
                files_left -= 1;
                bytes.resize(usize::try_from(size).unwrap_or(0), 0);
                // What cannot be read is left to be asked for, and the error to whoever asks.
                let Ok(n) = view.read(*file, 0, &mut bytes) else { continue };
                if let Err(error) = store(*file, &bytes[..n]) {
                    tracing::debug!("{}: cannot be stored: {error}", view.describe(*file));
                    self.credit = 0;
                    return;
                }
            }
            if batch.len() < BATCH {
                return;
            }
        }
    }
}

/// The next regular files of a listing, each with the offset after it. Moves the position past them.
fn files(view: &dyn Operations, position: &mut Position) -> Vec<(Node, u64)> {
    let mut files = Vec::with_capacity(BATCH);
    let from = position.offset;
    let listing = view.read_dir(&OpenDir::from(position.dir), from, &mut |entry| {
        let room = files.len() < BATCH;
        if room {
            position.offset = entry.next;
            if entry.file_type == FileType::Regular {
                files.push((entry.node, entry.next));
            }
        }
        room
    });
    // Whoever lists it is told of an error.
    listing.map_or_else(|_| Vec::new(), |()| files)
}

/// The size of a file that is small but not empty, if nothing of it will change.
fn small(view: &dyn Operations, file: Node) -> Option<u64> {
    let attributes = view.attributes(file).ok()?;
    let wanted = (1..=SMALL).contains(&attributes.size) && attributes.certainty == Certainty::Final;
    wanted.then_some(attributes.size)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::fuse::testing::Builder;
    use crate::fuse::view::{View, ViewMount, ViewOptions};

    /// Files and what was stored of each.
    type Stored = Vec<(Node, Vec<u8>)>;

    /// A session whose stores are written down.
    struct Session {
        view: View,
        readahead: Readahead,
        stored: Arc<Mutex<Stored>>,
    }

    impl Session {
        fn new(builder: Builder) -> Session {
            let mount = ViewMount {
                name: "rootfs".into(),
                destinations: Vec::new(),
                may_be_file: false,
                filesystem: builder.finish(),
            };
            let options = ViewOptions { flat: true, ..ViewOptions::default() };
            let (readahead, stored) = (Readahead::default(), Arc::new(Mutex::new(Vec::new())));
            let log = Arc::clone(&stored);
            readahead.connect(move |node, bytes| {
                log.lock().unwrap().push((node, bytes.to_vec()));
                Ok(())
            });
            Session { view: View::new(vec![mount], options).unwrap(), readahead, stored }
        }

        fn node(&self, path: &str) -> Node {
            let lookup =
                |dir: Node, name: &str| self.view.lookup(dir, name.as_bytes()).unwrap().unwrap().node;
            path.split('/').filter(|name| !name.is_empty()).fold(Node::ROOT, lookup)
        }

        /// What is stored when a directory has been listed.
        fn list(&self, path: &str) -> Stored {
            self.readahead.listed(&self.view, self.node(path));
            std::mem::take(&mut self.stored.lock().unwrap())
        }

        /// What is stored when a file is asked for.
        fn ask(&self, path: &str) -> Stored {
            self.readahead.asked(&self.view, self.node(path));
            std::mem::take(&mut self.stored.lock().unwrap())
        }

        fn contents(&self, files: &[(&str, &[u8])]) -> Stored {
            files.iter().map(|(path, bytes)| (self.node(path), bytes.to_vec())).collect()
        }
    }

    #[test]
    fn files_that_are_read_in_order_bring_those_that_follow() {
        let large = vec![7; SMALL as usize + 1];
        let files = Builder::new().file("a", b"A").dir("b").symlink("c", "a").file("d", b"D").file("e", b"");
        let session = Session::new(files.file("f", &large).file("g", b"GG").file("h", b"H"));
        assert!(session.list("").is_empty());
        assert!(session.ask("a").is_empty());
        assert_eq!(session.ask("d"), session.contents(&[("g", b"GG"), ("h", b"H")]));
    }

    #[test]
    fn a_walk_brings_the_files_of_the_directories_that_are_listed_next() {
        let mut builder = Builder::new().file("a", b"A").file("b", b"B");
        for dir in 0..=CREDIT {
            builder = builder.dir(&format!("dir{dir}")).file(&format!("dir{dir}/file"), b"content");
        }
        let session = Session::new(builder);
        session.list("");
        session.ask("a");
        session.ask("b");
        for dir in 0..CREDIT {
            let file = format!("dir{dir}/file");
            assert_eq!(session.list(&format!("dir{dir}")), session.contents(&[(&file, b"content")]));
        }
        // Nobody has asked for anything for a long time: it has to show that it is still wanted.
        let (last, file) = (format!("dir{CREDIT}"), format!("dir{CREDIT}/file"));
        assert!(session.list(&last).is_empty());
        session.ask(&file);
        assert_eq!(session.list("dir0"), session.contents(&[("dir0/file", b"content")]));
    }

    #[test]
    fn listing_alone_and_single_files_bring_nothing() {
        let session =
            Session::new(Builder::new().file("a", b"A").file("b", b"B").file("c", b"C").file("d", b"D"));
        for _ in 0..3 {
            assert!(session.list("").is_empty());
            assert!(session.ask("a").is_empty());
            assert!(session.ask("d").is_empty());
            assert!(session.ask("c").is_empty());
        }
    }

    #[test]
    fn what_one_occasion_brings_is_bounded() {
        let bytes = vec![1; SMALL as usize];
        let mut builder = Builder::new();
        for file in 0..20 {
            builder = builder.file(&format!("{file:02}"), &bytes);
        }
        let session = Session::new(builder);
        session.list("");
        session.ask("00");
        let stored = session.ask("01");
        assert_eq!(stored.len() as u64, MAX_BYTES / SMALL);
        assert_eq!(stored[0].0, session.node("02"));
        // It goes on where it ended.
        assert_eq!(session.ask("10")[0].0, session.node("11"));
    }

    /// The kernel waits for the answer to that very request before it takes anything.
    #[test]
    fn another_link_to_the_file_that_is_asked_for_is_not_stored() {
        let files =
            Builder::new().file("a", b"A").file("b", b"B").link("c", "b").file("d", b"D").link("e", "b");
        let session = Session::new(files);
        session.list("");
        session.ask("a");
        assert_eq!(session.ask("b"), session.contents(&[("d", b"D")]));
    }

    #[test]
    fn an_error_ends_it() {
        let mut session =
            Session::new(Builder::new().file("a", b"A").file("b", b"B").dir("d").file("d/f", b"F"));
        session.readahead = Readahead::default();
        session.readahead.connect(|_, _| Err(io::ErrorKind::InvalidInput.into()));
        session.list("");
        session.ask("a");
        session.ask("b");
        session.list("d");
        assert_eq!(session.readahead.habit.lock().unwrap().credit, 0);
    }
}
