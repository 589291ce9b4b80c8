//! What a filling filesystem knows of paths that its stream has not brought yet.
//!
//! Such a path may be [wished](Demand) for, and be brought by another way. Its inode then has a number from a range
//! of its own; when the stream brings the path, the number becomes an [alias](Aliases) of the tree's.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::mpsc::SyncSender;

use lru::LruCache;

use super::growing::LIMIT;
use super::spool::{Piece, Spool};
use super::{FileType, Ino, LayerNo, Stat, Timestamp, TreeError};
use crate::tarfile::{Entry, EntryKind};

/// Paths that are known not to exist.
const MAX_ABSENT: NonZeroUsize = NonZeroUsize::new(16 << 10).unwrap();
/// Paths that may be ahead of the stream at one time.
const MAX_AHEAD: usize = 1 << 16;

/// Something that was asked for before the stream has brought it. Paths are as in [`Entry::path`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Demand {
    /// Whether there is something at this path.
    Existence(Vec<u8>),
    /// The attributes of what is there.
    Header(Vec<u8>),
    /// The target of the symlink that is there, which somebody follows.
    Target(Vec<u8>),
    /// The bytes of the regular file that is there, which are no more than [`MAX_FETCHED`](super::MAX_FETCHED).
    Content(Vec<u8>),
}

impl Demand {
    /// What it is about.
    pub fn path(&self) -> &[u8] {
        match self {
            Demand::Existence(path) | Demand::Header(path) | Demand::Target(path) | Demand::Content(path) => {
                path
            }
        }
    }
}

/// Where wishes go. One that does not fit in is dropped: the stream comes to everything in the end.
pub type DemandSender = SyncSender<Demand>;

/// What is seen of a path at first sight: no owner, no link target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BriefStat {
    /// What it is.
    pub file_type: FileType,
    /// `mode & 07777`
    pub perm: u16,
    /// A regular file's length.
    pub size: u64,
    /// Modification time.
    pub mtime: Timestamp,
}

/// Numbers under which inodes were seen before the tree knew them.
#[derive(Clone, Debug, Default)]
pub(super) struct Aliases {
    inward: HashMap<Ino, Ino>,
    outward: HashMap<Ino, Ino>,
}

impl Aliases {
    pub fn is_empty(&self) -> bool {
        self.inward.is_empty()
    }

    /// The tree's number for one that was given out.
    pub fn inward(&self, ino: Ino) -> Result<Ino, TreeError> {
        match ino.0 {
            0..LIMIT => Ok(ino),
            _ => self.inward.get(&ino).copied().ok_or(TreeError::NoSuchInode(ino)),
        }
    }

    /// The number to give out for the tree's.
    pub fn outward(&self, ino: Ino) -> Ino {
        self.outward.get(&ino).copied().unwrap_or(ino)
    }
}

/// Where an inode number leads.
pub(super) enum Resolved<'a> {
    /// To an inode of the tree.
    Tree(Ino),
    /// To a path that is ahead of the stream.
    Provisional(&'a Node),
}

/// A path that is ahead of the stream.
pub(super) struct Node {
    pub path: Vec<u8>,
    pub parent: Ino,
    known: PathKnowledge,
}

/// What is known of what stands at a path.
struct PathKnowledge {
    brief_stat: BriefStat,
    entry: Option<Entry>,
}

#[derive(Default)]
pub(super) struct Provisional {
    pub aliases: Aliases,
    nodes: Vec<Node>,
    by_path: HashMap<Vec<u8>, Ino>,
    /// What was found before anybody has looked it up, and so has no number.
    unseen: HashMap<Vec<u8>, PathKnowledge>,
    /// Wishes that were passed on and not granted, perhaps not yet.
    asked: HashSet<Demand>,
    absent: Option<LruCache<Vec<u8>, ()>>,
    pub spool: Spool,
}

impl Provisional {
    /// Whether nothing is known ahead of the stream.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.unseen.is_empty()
    }

    pub fn resolve(&self, ino: Ino) -> Result<Resolved<'_>, TreeError> {
        if let Ok(ino) = self.aliases.inward(ino) {
            return Ok(Resolved::Tree(ino));
        }
        self.node(ino).map(Resolved::Provisional).ok_or(TreeError::NoSuchInode(ino))
    }

    /// Whether it is known what stands at `path`.
    pub fn knows(&self, path: &[u8]) -> bool {
        self.by_path.contains_key(path) || self.unseen.contains_key(path)
    }

    /// Whether the true header of what stands at `path` is known.
    pub fn knows_header(&self, path: &[u8]) -> bool {
        let known = match self.by_path.get(path) {
            Some(&ino) => self.node(ino).map(|node| &node.known),
            None => self.unseen.get(path),
        };
        known.is_some_and(|known| known.entry.is_some())
    }

    /// What is known of `path`, which is asked for in the directory `parent`.
    pub fn look(&mut self, path: &[u8], parent: Ino) -> Option<Option<Ino>> {
        if let Some(&ino) = self.by_path.get(path) {
            return Some(Some(ino));
        }
        if let Some(known) = self.unseen.remove(path) {
            let ino = Ino(LIMIT + self.nodes.len() as u32);
            self.nodes.push(Node { path: path.to_vec(), parent, known });
            self.by_path.insert(path.to_vec(), ino);
            return Some(Some(ino));
        }
        self.absent.as_mut()?.get(path).map(|()| None)
    }

    /// Passes a wish on, unless it is under way. One that was not granted is not repeated: the stream will bring it.
    pub fn demand(&mut self, demand: Demand, demands: &DemandSender) {
        if self.asked.len() < MAX_AHEAD
            && self.nodes.len() < MAX_AHEAD
            && !self.asked.contains(&demand)
            && demands.try_send(demand.clone()).is_ok()
        {
            self.asked.insert(demand);
        }
    }

    pub fn found(&mut self, path: &[u8], brief_stat: BriefStat) {
        self.asked.remove(&Demand::Existence(path.to_vec()));
        if self.unseen.len() < MAX_AHEAD && !self.knows(path) {
            self.unseen.insert(path.to_vec(), PathKnowledge { brief_stat, entry: None });
        }
    }

    pub fn absent(&mut self, path: &[u8]) {
        self.asked.remove(&Demand::Existence(path.to_vec()));
        self.absent.get_or_insert_with(|| LruCache::new(MAX_ABSENT)).put(path.to_vec(), ());
    }

    pub fn header(&mut self, path: &[u8], entry: Entry) {
        self.asked.remove(&Demand::Header(path.to_vec()));
        self.asked.remove(&Demand::Target(path.to_vec()));
        let known = match self.by_path.get(path) {
            Some(ino) => self.nodes.get_mut((ino.0 - LIMIT) as usize).map(|node| &mut node.known),
            None => self.unseen.get_mut(path),
        };
        if let Some(known) = known {
            known.entry = Some(entry);
        }
    }

    /// The bytes of an inode that were fetched, as far as they have come.
    pub fn fetched(&self, ino: Ino) -> Option<&Piece> {
        self.spool.get(&self.node(ino)?.path)
    }

    /// No more bytes come of what was found at `path`.
    pub fn end_content(&mut self, path: &[u8]) {
        if self.spool.end(path) {
            self.asked.remove(&Demand::Content(path.to_vec()));
        }
    }

    /// The stream has brought `path` as this inode. `first` tells whether it is the inode's first name.
    pub fn settle(&mut self, path: &[u8], ino: Ino, first: bool) {
        let Some(alias) = self.by_path.remove(path) else {
            self.unseen.remove(path);
            return;
        };
        self.aliases.inward.insert(alias, ino);
        if first {
            self.aliases.outward.insert(ino, alias);
        }
    }

    /// The stream has ended: settles what it brought without saying so, as a hard link that came before its target.
    pub fn settle_rest(&mut self, find: impl Fn(&[u8]) -> Option<Ino>) {
        let paths: Vec<Vec<u8>> = self.by_path.keys().cloned().collect();
        for path in paths {
            if let Some(ino) = find(&path) {
                self.settle(&path, ino, false);
            }
        }
    }

    /// Nothing more will be asked.
    pub fn retire(&mut self) {
        *self = Provisional { aliases: std::mem::take(&mut self.aliases), ..Provisional::default() };
    }

    fn node(&self, ino: Ino) -> Option<&Node> {
        self.nodes.get(ino.0.checked_sub(LIMIT)? as usize)
    }
}

impl Node {
    /// Its true header, if that has come.
    pub fn entry(&self) -> Option<&Entry> {
        self.known.entry.as_ref()
    }

    /// What a GETATTR may be told: the true attributes, if they have come.
    pub fn stat(&self, ino: Ino) -> Option<Stat> {
        let entry = self.entry()?;
        let mut stat = self.brief_stat(ino);
        (stat.perm, stat.uid, stat.gid, stat.mtime) = (entry.perm, entry.uid, entry.gid, entry.mtime);
        stat.has_xattrs = !entry.xattrs.is_empty();
        match &entry.kind {
            EntryKind::Symlink(target) => stat.size = target.len() as u64,
            EntryKind::Device(file_type, device) => (stat.file_type, stat.device) = (*file_type, *device),
            _ => {}
        }
        Some(stat)
    }

    /// What a LOOKUP may be told at once: the owner is not known.
    pub fn brief_stat(&self, ino: Ino) -> Stat {
        let BriefStat { file_type, perm, size, mtime } = self.known.brief_stat;
        Stat {
            ino,
            file_type,
            perm,
            nlink: if file_type == FileType::Directory { 2 } else { 1 },
            uid: 0,
            gid: 0,
            size: if file_type == FileType::Regular { size } else { 0 },
            mtime,
            device: (0, 0),
            layer: LayerNo(0),
            has_xattrs: false,
        }
    }
}
