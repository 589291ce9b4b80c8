//! A filesystem that is being filled: a growing tree, the bytes that have come, and what was fetched ahead.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use super::data::{DataFile, ReadError};
use super::early::{Aliases, Early, Glance, Resolved, Wish, Wishes};
use super::filesystem::{Certainty, Glimpse, read_segments};
use super::scan::{Entry, EntryKind};
use super::spool::{MAX_FETCHED, Piece};
use super::{
    DirCookie, DirEntry, FileType, GrowError, GrowingTree, Ino, Listing, Order, Segment, Stat, Summary, Tree,
    TreeError,
};

/// Names that are taken out of the tree at once: nobody is called while it is locked.
const BATCH: usize = 64;

pub(super) struct Filling {
    tree: RwLock<GrowingTree>,
    /// Locked after the tree, never before.
    early: Mutex<Early>,
    /// Known as soon as the filling has begun.
    data: OnceLock<DataFile>,
    /// Bytes of the data file before this one may be read.
    readable: AtomicU64,
    generation: AtomicU64,
    started: Instant,
    /// Milliseconds after the start.
    progress: AtomicU64,
    lost: AtomicBool,
    /// Whether the root directory, which somebody has begun to look into, may still turn out otherwise at once.
    awaits_root: AtomicBool,
    /// Questions and listings that were begun here.
    pins: AtomicUsize,
    retired: AtomicBool,
    wishes: Mutex<Option<Wishes>>,
}

impl Filling {
    pub fn new(order: Order, wishes: Option<Wishes>) -> Filling {
        Filling {
            tree: RwLock::new(GrowingTree::new(order)),
            early: Mutex::default(),
            data: OnceLock::new(),
            readable: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            started: Instant::now(),
            progress: AtomicU64::new(0),
            lost: AtomicBool::new(false),
            awaits_root: AtomicBool::new(false),
            pins: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            wishes: Mutex::new(wishes),
        }
    }

    /// What stands for the root directory until now is not shown any more: the stream begins with the true one.
    pub fn await_root(&self) {
        self.awaits_root.store(true, Ordering::Release);
    }

    // What comes in.

    pub fn store_in(&self, data: DataFile) {
        let _ = self.data.set(data);
    }

    pub fn insert(&self, entry: Entry) -> Result<(), GrowError> {
        let path = (!self.early().is_empty()).then(|| entry.path.clone());
        let new_inode = !matches!(entry.kind, EntryKind::HardLink(_));
        {
            let mut tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
            let ino = tree.insert(entry)?;
            // Settled before anyone can see the tree's number.
            if let (Some(path), Some(ino)) = (path, ino) {
                self.early().settle(&path, ino, new_inode);
            }
        }
        self.awaits_root.store(false, Ordering::Release);
        self.alive();
        Ok(())
    }

    /// What comes from here on is of another stream, as [`GrowingTree::begin_again`] has it.
    pub fn begin_again(&self, readable: u64) {
        self.tree.write().unwrap_or_else(PoisonError::into_inner).begin_again(readable);
        self.alive();
    }

    pub fn alive(&self) {
        let now = self.started.elapsed().as_millis() as u64;
        self.progress.store(now, Ordering::Relaxed);
        self.changed();
    }

    pub fn confirm(&self, position: u64) {
        self.readable.store(position, Ordering::Release);
        self.alive();
    }

    pub fn finish(&self) -> Result<(), GrowError> {
        {
            let mut tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
            tree.finish()?;
            self.early().settle_rest(|path| tree.find(path));
        }
        self.awaits_root.store(false, Ordering::Release);
        self.confirm(u64::MAX);
        Ok(())
    }

    pub fn lose(&self) {
        self.lost.store(true, Ordering::Release);
        self.no_more_wishes();
        self.changed();
    }

    /// The finished tree answers from now on.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        self.no_more_wishes();
        self.early().retire();
        self.release();
        self.changed();
    }

    pub fn found(&self, path: &[u8], glance: Glance) {
        // What the stream has brought meanwhile has its number already.
        let tree = self.tree();
        if tree.find(path).is_none() {
            self.early().found(path, glance);
        }
        drop(tree);
        self.changed();
    }

    pub fn absent(&self, path: &[u8]) {
        self.early().absent(path);
        self.changed();
    }

    pub fn header(&self, path: &[u8], entry: Entry) {
        self.early().header(path, entry);
        self.changed();
    }

    pub fn spool_in(&self, file: File) {
        self.early().spool.store_in(file);
    }

    /// Makes room for the bytes of what was found at `path`.
    pub fn begin_content(&self, path: &[u8], size: u64) -> Option<Piece> {
        self.early().spool.reserve(path, size)
    }

    /// So many of the bytes are there; `false` if nobody needs them any more.
    pub fn content_arrived(&self, path: &[u8], arrived: u64) -> bool {
        self.early().spool.arrived(path, arrived);
        self.changed();
        !self.is_lost() && !self.retired.load(Ordering::SeqCst)
    }

    pub fn end_content(&self, path: &[u8]) {
        self.early().end_content(path);
        self.changed();
    }

    /// Whether a wish is still to be granted.
    pub fn wants(&self, wish: &Wish) -> bool {
        let has_come = |path: &[u8]| self.tree().find(path).is_some();
        match wish {
            Wish::Existence(path) => !has_come(path) && !self.early().knows(path),
            Wish::Header(path) | Wish::Target(path) => !has_come(path) && !self.early().knows_header(path),
            Wish::Content(path) => !has_come(path) && self.early().spool.get(path).is_none(),
        }
    }

    fn changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    fn no_more_wishes(&self) {
        *self.wishes.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    // How far it is.

    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    pub fn last_progress(&self) -> Instant {
        self.started + Duration::from_millis(self.progress.load(Ordering::Relaxed))
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub fn aliases(&self) -> Aliases {
        self.early().aliases.clone()
    }

    pub fn with_tree<R>(&self, read: impl FnOnce(&GrowingTree) -> R) -> R {
        read(&self.tree())
    }

    /// Keeps the growing tree in memory until [`Filling::unpin`]. `false` if it is too late for that.
    pub fn pin(&self) -> bool {
        self.pins.fetch_add(1, Ordering::SeqCst);
        // In this order, as `release` looks at the two in the other one.
        let in_time = !self.retired.load(Ordering::SeqCst);
        if !in_time {
            self.unpin();
        }
        in_time
    }

    pub fn unpin(&self) {
        self.pins.fetch_sub(1, Ordering::SeqCst);
        self.release();
    }

    /// Frees the memory, once nobody needs it any more.
    fn release(&self) {
        if self.retired.load(Ordering::SeqCst) && self.pins.load(Ordering::SeqCst) == 0 {
            *self.tree.write().unwrap_or_else(PoisonError::into_inner) = GrowingTree::default();
        }
    }

    // What is asked.

    pub fn stat(&self, ino: Ino) -> Result<Stat, TreeError> {
        if ino == Ino::ROOT && self.awaits_root.load(Ordering::Acquire) {
            return Err(self.not_yet());
        }
        let (tree, mut early) = (self.tree(), self.early());
        match early.resolve(ino)? {
            Resolved::Tree(known) => Ok(Stat { ino, ..tree.stat(known)? }),
            Resolved::Ahead(node) => match node.stat(ino) {
                Some(stat) => Ok(stat),
                None => {
                    let wish = Wish::Header(node.path.clone());
                    Err(self.wish(&mut early, wish))
                }
            },
        }
    }

    /// The attributes of an inode as far as they are known.
    pub fn glance(&self, ino: Ino) -> Result<Glimpse, TreeError> {
        let (tree, early) = (self.tree(), self.early());
        Ok(match early.resolve(ino)? {
            Resolved::Tree(known) => {
                Glimpse { stat: Stat { ino, ..tree.stat(known)? }, certainty: Certainty::Growing }
            }
            Resolved::Ahead(node) => {
                let stat = node.stat(ino).unwrap_or_else(|| node.glance(ino));
                Glimpse { stat, certainty: Certainty::Ahead }
            }
        })
    }

    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Option<Ino>, TreeError> {
        let (tree, mut early) = (self.tree(), self.early());
        let above = match early.resolve(dir)? {
            Resolved::Tree(known) => match tree.lookup(known, name) {
                Ok(found) => return Ok(found.map(|ino| early.aliases.outward(ino))),
                Err(TreeError::NotYet) => tree.path_of(known),
                Err(error) => return Err(error),
            },
            Resolved::Ahead(node) if node.glance(dir).file_type != FileType::Directory => {
                return Err(TreeError::NotADirectory(dir));
            }
            Resolved::Ahead(node) => node.path.clone(),
        };
        let path = if above.is_empty() { name.to_vec() } else { [&above, &b"/"[..], name].concat() };
        match early.look(&path, dir) {
            Some(known) => Ok(known),
            None => Err(self.wish(&mut early, Wish::Existence(path))),
        }
    }

    pub fn parent(&self, ino: Ino) -> Result<Ino, TreeError> {
        let (tree, early) = (self.tree(), self.early());
        match early.resolve(ino)? {
            Resolved::Tree(known) => tree.parent(known).map(|ino| early.aliases.outward(ino)),
            Resolved::Ahead(node) => Ok(node.parent),
        }
    }

    pub fn read_dir(
        &self,
        dir: Ino,
        mut from: DirCookie,
        emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<Listing, TreeError> {
        loop {
            let mut batch: Vec<(Vec<u8>, Ino, FileType, DirCookie)> = Vec::with_capacity(BATCH);
            let listing = {
                let (tree, early) = (self.tree(), self.early());
                let Resolved::Tree(known) = early.resolve(dir)? else {
                    return if self.is_lost() { Err(TreeError::Lost) } else { Ok(Listing::NotYet) };
                };
                tree.read_dir(known, from, &mut |entry| {
                    if batch.len() == BATCH {
                        return false;
                    }
                    let ino = early.aliases.outward(entry.ino);
                    batch.push((entry.name.to_vec(), ino, entry.file_type, entry.cookie));
                    true
                })?
            };
            for (name, ino, file_type, cookie) in batch {
                if !emit(DirEntry { name: &name, ino, file_type, cookie }) {
                    return Ok(Listing::Stopped);
                }
                from = cookie;
            }
            match listing {
                Listing::Stopped => {}
                Listing::NotYet if self.is_lost() => return Err(TreeError::Lost),
                ended => return Ok(ended),
            }
        }
    }

    pub fn read_link(&self, ino: Ino) -> Result<Vec<u8>, TreeError> {
        let (tree, mut early) = (self.tree(), self.early());
        match early.resolve(ino)? {
            Resolved::Tree(known) => tree.read_link(known),
            Resolved::Ahead(node) => match node.entry() {
                Some(Entry { kind: EntryKind::Symlink(target), .. }) => Ok(target.clone()),
                Some(_) => Err(TreeError::NotASymlink(ino)),
                None => {
                    let wish = Wish::Target(node.path.clone());
                    Err(self.wish(&mut early, wish))
                }
            },
        }
    }

    pub fn xattrs(&self, ino: Ino, emit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), TreeError> {
        let mut found = Vec::new();
        {
            let (tree, mut early) = (self.tree(), self.early());
            match early.resolve(ino)? {
                Resolved::Tree(known) => tree.xattrs(known, &mut |name, value| {
                    found.push((name.to_vec(), value.to_vec()));
                    true
                })?,
                Resolved::Ahead(node) => match node.entry() {
                    Some(entry) => found.clone_from(&entry.xattrs),
                    None => {
                        let wish = Wish::Header(node.path.clone());
                        return Err(self.wish(&mut early, wish));
                    }
                },
            }
        }
        found.iter().all(|(name, value)| emit(name, value));
        Ok(())
    }

    pub fn segment(&self, ino: Ino, offset: u64) -> Result<Segment, TreeError> {
        let (tree, early) = (self.tree(), self.early());
        match early.resolve(ino)? {
            Resolved::Tree(known) => tree.segment(known, offset),
            Resolved::Ahead(_) => Err(self.not_yet()),
        }
    }

    pub fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize, ReadError> {
        let tree = self.tree();
        let (known, wish, fetched) = {
            let early = self.early();
            let fetched = early.fetched(ino).cloned();
            match early.resolve(ino)? {
                Resolved::Tree(known) => (Some(known), None, fetched),
                Resolved::Ahead(node) => {
                    let fits = node.glance(ino).size <= MAX_FETCHED;
                    (None, fits.then(|| Wish::Content(node.path.clone())), fetched)
                }
            }
        };
        // What was fetched goes on being read, though the stream has come to it and not yet past it.
        if let Some(read) = fetched.and_then(|piece| piece.read(offset, buf)) {
            return Ok(read?);
        }
        match (known, wish) {
            (Some(known), _) => read_segments(&*tree, known, offset, buf, |at, buf| {
                if at.saturating_add(buf.len() as u64) > self.readable.load(Ordering::Acquire) {
                    return Err(self.not_yet().into());
                }
                let data = self.data.get().ok_or_else(|| self.not_yet())?;
                data.read_exact_at(buf, at)
            }),
            (None, Some(wish)) => Err(self.wish(&mut self.early(), wish).into()),
            (None, None) => Err(self.not_yet().into()),
        }
    }

    pub fn summary(&self) -> Summary {
        self.tree().summary()
    }

    /// Asks for something to be brought before its turn; the error to answer with meanwhile.
    fn wish(&self, early: &mut Early, wish: Wish) -> TreeError {
        if let Some(wishes) = &*self.wishes.lock().unwrap_or_else(PoisonError::into_inner) {
            early.wish(wish, wishes);
        }
        self.not_yet()
    }

    fn not_yet(&self) -> TreeError {
        if self.is_lost() { TreeError::Lost } else { TreeError::NotYet }
    }

    fn tree(&self) -> RwLockReadGuard<'_, GrowingTree> {
        self.tree.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn early(&self) -> MutexGuard<'_, Early> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
