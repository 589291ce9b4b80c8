//! A tree together with the bytes of its files, finished or on its way.

use std::fs::File;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use super::data::{DataFile, ReadError};
use super::external::Run;
use super::filling::Filling;
use super::{DirCookie, DirEntry, Ino, Listing, Order, Segment, Stat, Summary, Tree, TreeError};
use crate::index::provisional::{Aliases, DemandSender};

mod grower;

pub use grower::{Grower, Incoming};

/// Which end of a data extent lseek(2) looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    /// `SEEK_DATA`
    Data,
    /// `SEEK_HOLE`
    Hole,
}

/// One filesystem: a tree, and one data file for each of its layers.
///
/// One that is still being filled answers what it knows, and [`TreeError::NotYet`] for the rest. It goes over to
/// the finished tree without anybody noticing: an inode keeps the number under which it was seen first.
pub struct Filesystem {
    content: Content,
}

enum Content {
    Finished(Finished),
    Live(Arc<Live>),
}

/// A filesystem that was not finished when it was made.
struct Live {
    filling: Filling,
    finished: OnceLock<Finished>,
    dormant: AtomicBool,
    /// What ends the dormancy.
    start: Mutex<Option<Start>>,
}

type Start = Box<dyn FnOnce(Grower) + Send>;

struct Finished {
    /// Whether the tree was made from the growing one, in front of everybody.
    grown: bool,
    tree: Arc<dyn Tree>,
    data: Vec<DataFile>,
    aliases: Aliases,
}

enum Side<'a> {
    Finished(&'a Finished),
    Filling(Hold<&'a Live>),
}

/// The growing tree, kept though the filesystem be finished meanwhile.
struct Hold<L: Deref<Target = Live>>(L);

impl<L: Deref<Target = Live>> Hold<L> {
    /// `None` if it has been given up already: then the filesystem is finished.
    fn new(live: L) -> Option<Hold<L>> {
        live.filling.pin().then(|| Hold(live))
    }
}

impl<L: Deref<Target = Live>> Deref for Hold<L> {
    type Target = Filling;

    fn deref(&self) -> &Filling {
        &self.0.filling
    }
}

impl<L: Deref<Target = Live>> Drop for Hold<L> {
    fn drop(&mut self) {
        self.0.filling.unpin();
    }
}

/// How far a filesystem has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillState {
    /// Nobody has asked for anything yet: whoever does has it filled.
    Dormant,
    /// Everything is there.
    Ready,
    /// It is being filled.
    Filling,
    /// What is not there will not come.
    Broken,
}

/// The attributes of an inode as far as they are known without waiting.
#[derive(Clone, Copy, Debug)]
pub struct ProvisionalStat {
    /// The attributes.
    pub stat: Stat,
    /// How much of them is known.
    pub certainty: Certainty,
}

/// How much is known of an inode's attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Certainty {
    /// The stream has not come to it: owner, device number and link target may be missing, and its number may turn
    /// out to be one of several for the same inode.
    Provisional,
    /// What the stream has brought so far: it may get more links, and a directory other attributes.
    Growing,
    /// All that there is to know.
    Final,
}

impl Filesystem {
    /// A finished one. `data` holds the data file of each layer, in the order of [`LayerNo`](super::LayerNo).
    pub fn new(tree: Arc<dyn Tree>, data: Vec<DataFile>) -> Filesystem {
        Filesystem {
            content: Content::Finished(Finished { grown: false, tree, data, aliases: Aliases::default() }),
        }
    }

    /// One that is about to be filled by the [`Grower`]. `data` is the file that the bytes are being written to.
    ///
    /// `wishes` is told what is asked for before it has come, and may bring it by another way.
    pub fn filling(order: Order, data: DataFile, demands: Option<DemandSender>) -> (Arc<Filesystem>, Grower) {
        let live = Live::new(Filling::new(order, demands), None);
        let grower = Grower { live: Arc::clone(&live) };
        grower.store_in(data);
        (Arc::new(Filesystem { content: Content::Live(live) }), grower)
    }

    /// One that `start` has filled once somebody asks for more than how its root directory looks from outside. Until
    /// then the root has the attributes of a directory that no archive describes.
    ///
    /// `start` is called by whoever asks first, and should leave the work to another thread.
    pub fn dormant(
        order: Order,
        demands: Option<DemandSender>,
        start: impl FnOnce(Grower) + Send + 'static,
    ) -> Arc<Filesystem> {
        let live = Live::new(Filling::new(order, demands), Some(Box::new(start)));
        Arc::new(Filesystem { content: Content::Live(live) })
    }

    /// Has a dormant one filled now.
    pub fn wake(&self) {
        if let Content::Live(live) = &self.content {
            live.wake();
        }
    }

    /// The names and attributes.
    pub fn tree(&self) -> &dyn Tree {
        self
    }

    /// How far it has come.
    pub fn state(&self) -> FillState {
        match self.asleep() {
            Side::Finished(_) => FillState::Ready,
            Side::Filling(filling) if filling.is_lost() => FillState::Broken,
            Side::Filling(_) if self.is_dormant() => FillState::Dormant,
            Side::Filling(_) => FillState::Filling,
        }
    }

    /// When something came last; `None` where nothing is to come.
    pub fn last_progress(&self) -> Option<Instant> {
        match self.asleep() {
            Side::Finished(_) => None,
            Side::Filling(filling) => Some(filling.last_progress()),
        }
    }

    /// A number that changes whenever an answer may have become another one.
    pub fn generation(&self) -> u64 {
        match self.asleep() {
            Side::Finished(_) => u64::MAX,
            Side::Filling(filling) => filling.generation(),
        }
    }

    /// The attributes of an inode, where waiting for them can be left for later.
    pub fn provisional_stat(&self, ino: Ino) -> Result<ProvisionalStat, TreeError> {
        match self.side_for(ino) {
            Side::Finished(finished) => {
                Ok(ProvisionalStat { stat: finished.stat(ino)?, certainty: Certainty::Final })
            }
            Side::Filling(filling) if self.is_dormant() => {
                Ok(ProvisionalStat { certainty: Certainty::Provisional, ..filling.brief_stat(ino)? })
            }
            Side::Filling(filling) => filling.brief_stat(ino),
        }
    }

    /// Keeps the order of a directory's names while it is being listed, though the filesystem be finished meanwhile.
    ///
    /// `None` where it is finished already.
    pub fn pin(&self) -> Option<Pinned> {
        match &self.content {
            Content::Live(live) => Hold::new(Arc::clone(live)).map(Pinned),
            Content::Finished(_) => None,
        }
    }

    /// Reads from byte `offset` of a regular file. Fewer bytes than `buf` holds means the end of the file.
    pub fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize, ReadError> {
        match self.side() {
            Side::Finished(finished) => finished.read(ino, offset, buf),
            Side::Filling(filling) => filling.read(ino, offset, buf),
        }
    }

    /// The file that holds the bytes of a regular file and no others, if there is one.
    ///
    /// `None` as long as the filesystem is not finished.
    pub fn own_file(&self, ino: Ino) -> Result<Option<Arc<File>>, TreeError> {
        match self.side() {
            Side::Finished(finished) => finished.own_file(ino),
            Side::Filling(_) => Ok(None),
        }
    }

    /// The data file of each layer. `None` unless it was finished when it was made: then its inodes have no other numbers than
    /// those of its tree.
    pub fn data_files(&self) -> Option<&[DataFile]> {
        match &self.content {
            Content::Finished(finished) => Some(&finished.data),
            Content::Live(_) => None,
        }
    }

    /// The runs of its data files that stand in files of their own, and these.
    ///
    /// None as long as the filesystem is not finished.
    pub fn external(&self) -> Vec<(Run, Arc<File>)> {
        match self.asleep() {
            Side::Finished(finished) => {
                finished.data.iter().flat_map(|data| data.external().list()).collect()
            }
            Side::Filling(_) => Vec::new(),
        }
    }

    /// The first byte at or after `offset` that is data, or that is a hole (the end of a file counts as one).
    ///
    /// `None` where lseek(2) says ENXIO: `offset` is past the end, or no data follows.
    pub fn seek(&self, ino: Ino, offset: u64, whence: Whence) -> Result<Option<u64>, TreeError> {
        if let Side::Filling(filling) = self.side()
            && let Some(size) = filling.size_without_holes(ino)?
        {
            // Where its holes are comes with the stream. lseek(2) lets a file have none: whoever asks goes on reading.
            return Ok((offset < size).then_some(if whence == Whence::Data { offset } else { size }));
        }
        let mut position = offset;
        loop {
            match (self.segment(ino, position)?, whence) {
                (Segment::Data { .. }, Whence::Data) | (Segment::Hole { .. }, Whence::Hole) => {
                    return Ok(Some(position));
                }
                (Segment::Data { len, .. }, Whence::Hole) | (Segment::Hole { len }, Whence::Data) => {
                    position = position.checked_add(len).ok_or(TreeError::Corrupt("an extent past 2^64"))?;
                }
                (Segment::End, Whence::Hole) if position > offset => return Ok(Some(position)),
                (Segment::End, _) => return Ok(None),
            }
        }
    }

    /// Who answers now.
    fn side(&self) -> Side<'_> {
        let side = self.asleep();
        if let (Side::Filling(_), Content::Live(live)) = (&side, &self.content) {
            live.wake();
        }
        side
    }

    /// Who answers now what is seen of an inode from its directory. For the root, nothing has to be fetched.
    fn side_for(&self, ino: Ino) -> Side<'_> {
        if ino == Ino::ROOT { self.asleep() } else { self.side() }
    }

    /// Who answers now what needs nothing to be fetched.
    fn asleep(&self) -> Side<'_> {
        match &self.content {
            Content::Finished(finished) => Side::Finished(finished),
            Content::Live(live) => loop {
                if let Some(finished) = live.finished.get() {
                    break Side::Finished(finished);
                }
                // Held until the question is answered, or the tree could go in the middle of the answer.
                if let Some(hold) = Hold::new(&**live) {
                    break Side::Filling(hold);
                }
            },
        }
    }

    fn is_dormant(&self) -> bool {
        matches!(&self.content, Content::Live(live) if live.dormant.load(Ordering::Acquire))
    }
}

impl Live {
    fn new(filling: Filling, start: Option<Start>) -> Arc<Live> {
        Arc::new(Live {
            filling,
            finished: OnceLock::new(),
            dormant: AtomicBool::new(start.is_some()),
            start: Mutex::new(start),
        })
    }

    fn wake(self: &Arc<Live>) {
        if self.dormant.load(Ordering::Acquire) && self.dormant.swap(false, Ordering::AcqRel) {
            let start = self.start.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(start) = start {
                self.filling.await_root();
                start(Grower { live: Arc::clone(self) });
            }
        }
    }
}

impl Finished {
    fn stat(&self, ino: Ino) -> Result<Stat, TreeError> {
        Ok(Stat { ino, ..self.tree.stat(self.aliases.inward(ino)?)? })
    }

    fn read_dir(
        &self,
        dir: Ino,
        from: DirCookie,
        emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<Listing, TreeError> {
        if self.aliases.is_empty() {
            return self.tree.read_dir(dir, from, emit);
        }
        self.tree.read_dir(self.aliases.inward(dir)?, from, &mut |entry| {
            emit(DirEntry { ino: self.aliases.outward(entry.ino), ..entry })
        })
    }

    fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize, ReadError> {
        let ino = self.aliases.inward(ino)?;
        let data = self.data_of(&self.tree.stat(ino)?)?;
        read_segments(&*self.tree, ino, offset, buf, |at, buf| data.read_exact_at(buf, at))
    }

    fn own_file(&self, ino: Ino) -> Result<Option<Arc<File>>, TreeError> {
        let ino = self.aliases.inward(ino)?;
        let stat = self.tree.stat(ino)?;
        match self.tree.segment(ino, 0)? {
            // No less than the whole file: a sparse one begins with a run of it.
            Segment::Data { at, len } if len == stat.size => Ok(self.data_of(&stat)?.file_of(at, len)),
            _ => Ok(None),
        }
    }

    fn data_of(&self, stat: &Stat) -> Result<&DataFile, TreeError> {
        let data = self.data.get(usize::from(stat.layer.0));
        data.ok_or(TreeError::Corrupt("an inode of an unknown layer"))
    }
}

/// Reads a file segment by segment; `data` fetches bytes of the data file.
pub(super) fn read_segments(
    tree: &dyn Tree,
    ino: Ino,
    offset: u64,
    buf: &mut [u8],
    data: impl Fn(u64, &mut [u8]) -> Result<(), ReadError>,
) -> Result<usize, ReadError> {
    let mut done = 0;
    while done < buf.len() {
        let Some(position) = offset.checked_add(done as u64) else { break };
        let rest = &mut buf[done..];
        match tree.segment(ino, position)? {
            Segment::End => break,
            Segment::Data { at, len } => {
                let n = clamp(len, rest.len());
                data(at, &mut rest[..n])?;
                done += n;
            }
            Segment::Hole { len } => {
                let n = clamp(len, rest.len());
                rest[..n].fill(0);
                done += n;
            }
        }
    }
    Ok(done)
}

fn clamp(len: u64, room: usize) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX).min(room)
}

impl Tree for Filesystem {
    fn stat(&self, ino: Ino) -> Result<Stat, TreeError> {
        match self.side_for(ino) {
            Side::Finished(f) => f.stat(ino),
            Side::Filling(filling) => filling.stat(ino),
        }
    }

    fn inode_bound(&self) -> u64 {
        match self.asleep() {
            Side::Finished(f) if f.aliases.is_empty() => f.tree.inode_bound(),
            Side::Finished(_) | Side::Filling(_) => u64::from(u32::MAX) + 1,
        }
    }

    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Option<Ino>, TreeError> {
        match self.side() {
            Side::Finished(f) => {
                Ok(f.tree.lookup(f.aliases.inward(dir)?, name)?.map(|ino| f.aliases.outward(ino)))
            }
            Side::Filling(filling) => filling.lookup(dir, name),
        }
    }

    fn parent(&self, ino: Ino) -> Result<Ino, TreeError> {
        match self.side() {
            Side::Finished(f) => f.tree.parent(f.aliases.inward(ino)?).map(|ino| f.aliases.outward(ino)),
            Side::Filling(filling) => filling.parent(ino),
        }
    }

    fn read_dir(
        &self,
        dir: Ino,
        from: DirCookie,
        emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<Listing, TreeError> {
        match self.side() {
            Side::Finished(finished) => finished.read_dir(dir, from, emit),
            Side::Filling(filling) => filling.read_dir(dir, from, emit),
        }
    }

    fn read_link(&self, ino: Ino) -> Result<Vec<u8>, TreeError> {
        match self.side() {
            Side::Finished(f) => f.tree.read_link(f.aliases.inward(ino)?),
            Side::Filling(filling) => filling.read_link(ino),
        }
    }

    fn xattrs(&self, ino: Ino, emit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), TreeError> {
        match self.side_for(ino) {
            Side::Finished(f) => f.tree.xattrs(f.aliases.inward(ino)?, emit),
            Side::Filling(filling) => filling.xattrs(ino, emit),
        }
    }

    fn segment(&self, ino: Ino, offset: u64) -> Result<Segment, TreeError> {
        match self.side() {
            Side::Finished(f) => f.tree.segment(f.aliases.inward(ino)?, offset),
            Side::Filling(filling) => filling.segment(ino, offset),
        }
    }

    fn summary(&self) -> Summary {
        match self.asleep() {
            Side::Finished(f) => f.tree.summary(),
            Side::Filling(filling) => filling.summary(),
        }
    }
}

/// A filling filesystem, held so that a listing can be finished in the order in which it was begun.
pub struct Pinned(Hold<Arc<Live>>);

impl Pinned {
    /// As [`Tree::read_dir`] of the filesystem that was pinned.
    pub fn read_dir(
        &self,
        dir: Ino,
        from: DirCookie,
        emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<Listing, TreeError> {
        let live = &self.0.0;
        live.wake();
        match live.finished.get() {
            // The growing tree has shown nothing whose order would have to be kept.
            Some(finished) if !finished.grown => finished.read_dir(dir, from, emit),
            _ => self.0.read_dir(dir, from, emit),
        }
    }
}
