//! A filesystem that is being filled: a growing tree, the bytes that have come, and what was fetched ahead.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use super::data::{DataFile, ReadError};
use super::filesystem::{Certainty, ProvisionalStat, read_segments};
use super::provisional::{Aliases, BriefStat, Demand, DemandSender, Provisional, Resolved};
use super::spool::{MAX_FETCHED, Piece};
use super::{
    DirCookie, DirEntry, FileType, GrowError, GrowingTree, Ino, Listing, Order, Segment, Stat, Summary, Tree,
    TreeError,
};
use crate::tarfile::{Entry, EntryKind};

/// Names that are taken out of the tree at once: nobody is called while it is locked.
const BATCH: usize = 64;

pub(super) struct Filling {
    tree: RwLock<GrowingTree>,
    /// Locked after the tree, never before.
    provisional: Mutex<Provisional>,
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
    demands: Mutex<Option<DemandSender>>,
}

impl Filling {
    pub fn new(order: Order, demands: Option<DemandSender>) -> Filling {
        Filling {
            tree: RwLock::new(GrowingTree::new(order)),
            provisional: Mutex::default(),
            data: OnceLock::new(),
            readable: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            started: Instant::now(),
            progress: AtomicU64::new(0),
            lost: AtomicBool::new(false),
            awaits_root: AtomicBool::new(false),
            pins: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            demands: Mutex::new(demands),
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
        let new_inode = !matches!(entry.kind, EntryKind::HardLink(_));
        {
            let mut tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
            // Looked at with the tree locked: nobody gives a path another number from here on.
            let path = (!self.provisional().is_empty()).then(|| entry.path.clone());
            let ino = tree.insert(entry)?;
            // Settled before anyone can see the tree's number.
            if let (Some(path), Some(ino)) = (path, ino) {
                self.provisional().settle(&path, ino, new_inode);
            }
        }
        self.awaits_root.store(false, Ordering::Release);
        self.alive();
        Ok(())
    }

    /// What comes from here on is of another stream, as [`GrowingTree::resume_from`] has it.
    pub fn resume_from(&self, readable: u64) {
        self.tree.write().unwrap_or_else(PoisonError::into_inner).resume_from(readable);
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
            self.provisional().settle_rest(|path| tree.find(path));
        }
        self.awaits_root.store(false, Ordering::Release);
        self.confirm(u64::MAX);
        Ok(())
    }

    pub fn lose(&self) {
        self.lost.store(true, Ordering::Release);
        self.no_more_demands();
        self.changed();
    }

    /// The finished tree answers from now on.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        self.no_more_demands();
        self.provisional().retire();
        self.release();
        self.changed();
    }

    pub fn found(&self, path: &[u8], brief_stat: BriefStat) {
        // What the stream has brought meanwhile has its number already.
        let tree = self.tree();
        if tree.find(path).is_none() {
            self.provisional().found(path, brief_stat);
        }
        drop(tree);
        self.changed();
    }

    pub fn absent(&self, path: &[u8]) {
        self.provisional().absent(path);
        self.changed();
    }

    pub fn header(&self, path: &[u8], entry: Entry) {
        self.provisional().header(path, entry);
        self.changed();
    }

    pub fn spool_in(&self, file: File) {
        self.provisional().spool.store_in(file);
    }

    pub fn discard_fetched(&self) {
        self.provisional().spool.discard();
        self.changed();
    }

    /// Makes room for the bytes of what was found at `path`.
    pub fn begin_content(&self, path: &[u8], size: u64) -> Option<Piece> {
        self.provisional().spool.reserve(path, size)
    }

    /// So many of the bytes are there; `false` if nobody needs them any more.
    pub fn content_arrived(&self, path: &[u8], arrived: u64) -> bool {
        self.provisional().spool.arrived(path, arrived);
        self.changed();
        !self.is_lost() && !self.retired.load(Ordering::SeqCst)
    }

    pub fn end_content(&self, path: &[u8]) {
        self.provisional().end_content(path);
        self.changed();
    }

    /// Whether a wish is still to be granted.
    pub fn wants(&self, demand: &Demand) -> bool {
        let has_come = |path: &[u8]| self.tree().find(path).is_some();
        match demand {
            Demand::Existence(path) => !has_come(path) && !self.provisional().knows(path),
            Demand::Header(path) | Demand::Target(path) => {
                !has_come(path) && !self.provisional().knows_header(path)
            }
            Demand::Content(path) => !has_come(path) && self.provisional().spool.get(path).is_none(),
        }
    }

    fn changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    fn no_more_demands(&self) {
        *self.demands.lock().unwrap_or_else(PoisonError::into_inner) = None;
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
        self.provisional().aliases.clone()
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
        let (tree, mut provisional) = (self.tree(), self.provisional());
        match provisional.resolve(ino)? {
            Resolved::Tree(known) => Ok(Stat { ino, ..tree.stat(known)? }),
            Resolved::Provisional(node) => match node.stat(ino) {
                Some(stat) => Ok(stat),
                None => {
                    let demand = Demand::Header(node.path.clone());
                    Err(self.demand(&mut provisional, demand))
                }
            },
        }
    }

    /// The attributes of an inode as far as they are known.
    pub fn brief_stat(&self, ino: Ino) -> Result<ProvisionalStat, TreeError> {
        let (tree, provisional) = (self.tree(), self.provisional());
        Ok(match provisional.resolve(ino)? {
            Resolved::Tree(known) => {
                let awaited = ino == Ino::ROOT && self.awaits_root.load(Ordering::Acquire);
                let certainty = if awaited { Certainty::Provisional } else { Certainty::Growing };
                ProvisionalStat { stat: Stat { ino, ..tree.stat(known)? }, certainty }
            }
            Resolved::Provisional(node) => {
                let stat = node.stat(ino).unwrap_or_else(|| node.brief_stat(ino));
                ProvisionalStat { stat, certainty: Certainty::Provisional }
            }
        })
    }

    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Option<Ino>, TreeError> {
        let (tree, mut provisional) = (self.tree(), self.provisional());
        let above = match provisional.resolve(dir)? {
            Resolved::Tree(known) => match tree.lookup(known, name) {
                Ok(found) => return Ok(found.map(|ino| provisional.aliases.outward(ino))),
                Err(TreeError::NotYet) => tree.path_of(known),
                Err(error) => return Err(error),
            },
            Resolved::Provisional(node) if node.brief_stat(dir).file_type != FileType::Directory => {
                return Err(TreeError::NotADirectory(dir));
            }
            Resolved::Provisional(node) => node.path.clone(),
        };
        let path = if above.is_empty() { name.to_vec() } else { [&above, &b"/"[..], name].concat() };
        match provisional.look(&path, dir) {
            Some(known) => Ok(known),
            None => Err(self.demand(&mut provisional, Demand::Existence(path))),
        }
    }

    pub fn parent(&self, ino: Ino) -> Result<Ino, TreeError> {
        let (tree, provisional) = (self.tree(), self.provisional());
        match provisional.resolve(ino)? {
            Resolved::Tree(known) => tree.parent(known).map(|ino| provisional.aliases.outward(ino)),
            Resolved::Provisional(node) => Ok(node.parent),
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
                let (tree, provisional) = (self.tree(), self.provisional());
                let Resolved::Tree(known) = provisional.resolve(dir)? else {
                    return if self.is_lost() { Err(TreeError::Lost) } else { Ok(Listing::NotYet) };
                };
                tree.read_dir(known, from, &mut |entry| {
                    if batch.len() == BATCH {
                        return false;
                    }
                    let ino = provisional.aliases.outward(entry.ino);
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
        let (tree, mut provisional) = (self.tree(), self.provisional());
        match provisional.resolve(ino)? {
            Resolved::Tree(known) => tree.read_link(known),
            Resolved::Provisional(node) => match node.entry() {
                Some(Entry { kind: EntryKind::Symlink(target), .. }) => Ok(target.clone()),
                Some(_) => Err(TreeError::NotASymlink(ino)),
                None => {
                    let demand = Demand::Target(node.path.clone());
                    Err(self.demand(&mut provisional, demand))
                }
            },
        }
    }

    pub fn xattrs(&self, ino: Ino, emit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), TreeError> {
        let mut found = Vec::new();
        {
            let (tree, mut provisional) = (self.tree(), self.provisional());
            match provisional.resolve(ino)? {
                Resolved::Tree(known) => tree.xattrs(known, &mut |name, value| {
                    found.push((name.to_vec(), value.to_vec()));
                    true
                })?,
                Resolved::Provisional(node) => match node.entry() {
                    Some(entry) => found.clone_from(&entry.xattrs),
                    None => {
                        let demand = Demand::Header(node.path.clone());
                        return Err(self.demand(&mut provisional, demand));
                    }
                },
            }
        }
        found.iter().all(|(name, value)| emit(name, value));
        Ok(())
    }

    pub fn segment(&self, ino: Ino, offset: u64) -> Result<Segment, TreeError> {
        let (tree, provisional) = (self.tree(), self.provisional());
        match provisional.resolve(ino)? {
            Resolved::Tree(known) => tree.segment(known, offset),
            Resolved::Provisional(_) => Err(self.not_yet()),
        }
    }

    /// The length of a regular file of which the stream has not brought the header, and so nobody knows the holes.
    pub fn size_without_holes(&self, ino: Ino) -> Result<Option<u64>, TreeError> {
        match self.provisional().resolve(ino)? {
            Resolved::Tree(_) => Ok(None),
            Resolved::Provisional(node) => match node.brief_stat(ino) {
                Stat { file_type: FileType::Regular, size, .. } => Ok(Some(size)),
                _ => Err(TreeError::NotAFile(ino)),
            },
        }
    }

    pub fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize, ReadError> {
        let tree = self.tree();
        let (known, demand, fetched) = {
            let provisional = self.provisional();
            let fetched = provisional.fetched(ino).cloned();
            match provisional.resolve(ino)? {
                Resolved::Tree(known) => (Some(known), None, fetched),
                Resolved::Provisional(node) => {
                    let fits = node.brief_stat(ino).size <= MAX_FETCHED;
                    (None, fits.then(|| Demand::Content(node.path.clone())), fetched)
                }
            }
        };
        // What was fetched goes on being read, though the stream has come to it and not yet past it.
        if let Some(read) = fetched.and_then(|piece| piece.read(offset, buf)) {
            return Ok(read?);
        }
        match (known, demand) {
            (Some(known), _) => read_segments(&*tree, known, offset, buf, |at, buf| {
                if at.saturating_add(buf.len() as u64) > self.readable.load(Ordering::Acquire) {
                    return Err(self.not_yet().into());
                }
                let data = self.data.get().ok_or_else(|| self.not_yet())?;
                data.read_exact_at(buf, at)
            }),
            (None, Some(demand)) => Err(self.demand(&mut self.provisional(), demand).into()),
            (None, None) => Err(self.not_yet().into()),
        }
    }

    pub fn summary(&self) -> Summary {
        self.tree().summary()
    }

    /// Asks for something to be brought before its turn; the error to answer with meanwhile.
    fn demand(&self, provisional: &mut Provisional, demand: Demand) -> TreeError {
        if let Some(demands) = &*self.demands.lock().unwrap_or_else(PoisonError::into_inner) {
            provisional.demand(demand, demands);
        }
        self.not_yet()
    }

    fn not_yet(&self) -> TreeError {
        if self.is_lost() { TreeError::Lost } else { TreeError::NotYet }
    }

    fn tree(&self) -> RwLockReadGuard<'_, GrowingTree> {
        self.tree.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn provisional(&self) -> MutexGuard<'_, Provisional> {
        self.provisional.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
