//! How two filesystems differ: names, attributes and content.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroUsize;

use lru::LruCache;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{DirCookie, FileType, Filesystem, Ino, ReadError, Stat};

/// Bytes that are compared at a time.
const CHUNK: usize = 256 << 10;

/// Pairs of hard-linked files whose comparison is remembered until another of their names comes.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1 << 16).unwrap();

/// What is different about a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// From the root, without a leading slash; empty for the root itself.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: DifferenceKind,
}

/// How a path differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DifferenceKind {
    /// Only the second has it.
    Added,
    /// Only the first has it.
    Removed,
    /// Both have it, with different attributes: at least one.
    Changed(Vec<Change>),
}

/// An attribute that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Which one.
    pub attribute: Attribute,
    /// What it is in the first, for people.
    pub before: String,
    /// What it is in the second.
    pub after: String,
}

/// What two entries of the same name can differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Attribute {
    /// The kind of thing. Where it differs, nothing else is compared.
    Type,
    /// Permissions, in octal.
    Mode,
    /// Numeric owner.
    Uid,
    /// Numeric group.
    Gid,
    /// Seconds since 1970, negative before, with nine decimals.
    Mtime,
    /// Hard links, but of directories.
    Links,
    /// Which file a name leads to: the first of that file's names that both have.
    Name,
    /// A file's length in bytes.
    Size,
    /// A file's bytes: the SHA-256 of both.
    Content,
    /// A symlink's stored target.
    Target,
    /// Major and minor number.
    Device,
    /// Extended attributes: the names of those that differ.
    Xattrs,
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Attribute::Type => "type",
            Attribute::Mode => "mode",
            Attribute::Uid => "uid",
            Attribute::Gid => "gid",
            Attribute::Mtime => "mtime",
            Attribute::Links => "links",
            Attribute::Name => "name",
            Attribute::Size => "size",
            Attribute::Content => "content",
            Attribute::Target => "target",
            Attribute::Device => "device",
            Attribute::Xattrs => "xattrs",
        })
    }
}

/// A name of either or both of two directories.
struct Pair {
    name: Vec<u8>,
    inodes: [Option<Ino>; 2],
}

/// A directory that is being walked.
struct Level {
    /// How much of the path is the directory's.
    path_len: usize,
    rest: std::vec::IntoIter<Pair>,
}

/// Hands all differences between two complete filesystems to `emit` until it returns `false`: each directory before
/// what is in it, names in the order of their bytes. What stands beneath an added or removed directory is told too.
pub fn compare(
    before: &Filesystem,
    after: &Filesystem,
    emit: &mut dyn FnMut(Difference) -> bool,
) -> Result<(), ReadError> {
    let sides = [before, after];
    let mut contents = Contents { sides, known: LruCache::new(REMEMBERED) };
    let mut names = FirstNames::default();
    let mut path = Vec::new();
    let root = Pair { name: Vec::new(), inodes: [Some(Ino::ROOT); 2] };
    let mut levels = vec![Level { path_len: 0, rest: vec![root].into_iter() }];
    while let Some(level) = levels.last_mut() {
        path.truncate(level.path_len);
        let Some(Pair { name, inodes }) = level.rest.next() else {
            levels.pop();
            continue;
        };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        let stat = |side: usize| inodes[side].map(|ino| sides[side].tree().stat(ino)).transpose();
        let stats = [stat(0)?, stat(1)?];
        let kind = match stats {
            [Some(a), Some(b)] => Some(changes(&mut contents, &mut names, &path, [a, b])?)
                .filter(|changes| !changes.is_empty())
                .map(DifferenceKind::Changed),
            [None, _] => Some(DifferenceKind::Added),
            [_, None] => Some(DifferenceKind::Removed),
        };
        if let Some(kind) = kind
            && !emit(Difference { path: path.clone(), kind })
        {
            return Ok(());
        }
        let rest = pairs(sides, stats)?.into_iter();
        levels.push(Level { path_len: path.len(), rest });
    }
    Ok(())
}

/// The names in two directories, sorted; none where there is no directory.
fn pairs(sides: [&Filesystem; 2], stats: [Option<Stat>; 2]) -> Result<Vec<Pair>, ReadError> {
    let mut pairs = Vec::new();
    for (side, stat) in stats.into_iter().enumerate() {
        let Some(Stat { ino, file_type: FileType::Directory, .. }) = stat else { continue };
        let mut emit = |entry: super::DirEntry<'_>| {
            let mut inodes = [None; 2];
            inodes[side] = Some(entry.ino);
            pairs.push(Pair { name: entry.name.to_vec(), inodes });
            true
        };
        sides[side].tree().read_dir(ino, DirCookie::START, &mut emit)?;
    }
    pairs.sort_by(|a, b| a.name.cmp(&b.name));
    pairs.dedup_by(|second, first| {
        let same = second.name == first.name;
        if same {
            first.inodes = [first.inodes[0].or(second.inodes[0]), first.inodes[1].or(second.inodes[1])];
        }
        same
    });
    Ok(pairs)
}

fn changes(
    contents: &mut Contents<'_>,
    names: &mut FirstNames,
    path: &[u8],
    stats: [Stat; 2],
) -> Result<Vec<Change>, ReadError> {
    let sides = contents.sides;
    let mut changes = Vec::new();
    let mut note = |attribute, [before, after]: [String; 2]| {
        if before != after {
            changes.push(Change { attribute, before, after });
        }
    };
    let [a, b] = stats;
    if a.file_type != b.file_type {
        note(Attribute::Type, stats.map(|s| format!("{:?}", s.file_type).to_lowercase()));
        return Ok(changes);
    }
    note(Attribute::Mode, stats.map(|s| format!("{:04o}", s.perm)));
    note(Attribute::Uid, stats.map(|s| s.uid.to_string()));
    note(Attribute::Gid, stats.map(|s| s.gid.to_string()));
    note(Attribute::Mtime, stats.map(|s| s.mtime.to_string()));
    if a.file_type != FileType::Directory {
        note(Attribute::Links, stats.map(|s| s.nlink.to_string()));
        if stats.iter().any(|stat| stat.nlink > 1) {
            note(Attribute::Name, names.of(path, stats));
        }
    }
    match a.file_type {
        FileType::Regular => {
            note(Attribute::Size, stats.map(|s| s.size.to_string()));
            if let Some(digests) = contents.differing(stats)? {
                note(Attribute::Content, digests);
            }
        }
        FileType::Symlink => {
            let target = |side: usize| sides[side].tree().read_link(stats[side].ino);
            note(Attribute::Target, [target(0)?, target(1)?].map(|t| t.escape_ascii().to_string()));
        }
        FileType::CharDevice | FileType::BlockDevice => {
            note(Attribute::Device, stats.map(|s| format!("{},{}", s.device.0, s.device.1)));
        }
        FileType::Directory | FileType::Fifo | FileType::Socket => {}
    }
    let [before, after] = [xattrs(sides[0], &a)?, xattrs(sides[1], &b)?];
    let only = |these: &Xattrs, others: &Xattrs| {
        let names = these.iter().filter(|attribute| !others.contains(attribute));
        names.map(|(name, _)| name.escape_ascii().to_string()).collect::<Vec<_>>().join(" ")
    };
    let differing = [only(&before, &after), only(&after, &before)];
    if differing.iter().any(|names| !names.is_empty()) {
        let [before, after] = differing;
        changes.push(Change { attribute: Attribute::Xattrs, before, after });
    }
    Ok(changes)
}

/// Names and values.
type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

fn xattrs(side: &Filesystem, stat: &Stat) -> Result<Xattrs, ReadError> {
    let mut found = Vec::new();
    side.tree().xattrs(stat.ino, &mut |name, value| {
        found.push((name.to_vec(), value.to_vec()));
        true
    })?;
    Ok(found)
}

/// The first names of the files that have several, in the order of the walk.
#[derive(Default)]
struct FirstNames([HashMap<Ino, String>; 2]);

impl FirstNames {
    /// The first names of what both have as `path`. Names that only one of them has would be told of anyway.
    fn of(&mut self, path: &[u8], stats: [Stat; 2]) -> [String; 2] {
        let own = || format!("/{}", path.escape_ascii());
        let [before, after] = &mut self.0;
        let first = |names: &mut HashMap<Ino, String>, stat: Stat| match stat.nlink {
            ..=1 => own(),
            _ => names.entry(stat.ino).or_insert_with(own).clone(),
        };
        [first(before, stats[0]), first(after, stats[1])]
    }
}

/// The bytes of files, those with several names read once.
struct Contents<'a> {
    sides: [&'a Filesystem; 2],
    known: LruCache<[Ino; 2], Option<[String; 2]>>,
}

impl Contents<'_> {
    /// The digests of two files, if these differ.
    fn differing(&mut self, stats: [Stat; 2]) -> Result<Option<[String; 2]>, ReadError> {
        let (sides, inodes) = (self.sides, stats.map(|stat| stat.ino));
        if let Some(known) = self.known.get(&inodes) {
            return Ok(known.clone());
        }
        let differing = if stats[0].size == stats[1].size && same_bytes(sides, stats)? {
            None
        } else {
            Some([digest(sides[0], inodes[0])?, digest(sides[1], inodes[1])?])
        };
        if stats.iter().all(|stat| stat.nlink > 1) {
            self.known.put(inodes, differing.clone());
        }
        Ok(differing)
    }
}

/// Whether two files of the same size have the same bytes.
fn same_bytes(sides: [&Filesystem; 2], stats: [Stat; 2]) -> Result<bool, ReadError> {
    let mut buffers = [vec![0; CHUNK], vec![0; CHUNK]];
    let mut offset = 0;
    while offset < stats[0].size {
        let [a, b] = &mut buffers;
        let (n, m) = (sides[0].read(stats[0].ino, offset, a)?, sides[1].read(stats[1].ino, offset, b)?);
        if a[..n] != b[..m] {
            return Ok(false);
        }
        if n == 0 {
            break;
        }
        offset += n as u64;
    }
    Ok(true)
}

fn digest(side: &Filesystem, ino: Ino) -> Result<String, ReadError> {
    let (mut hash, mut buffer, mut offset) = (Sha256::new(), vec![0; CHUNK], 0);
    loop {
        match side.read(ino, offset, &mut buffer)? {
            0 => break,
            n => {
                hash.update(&buffer[..n]);
                offset += n as u64;
            }
        }
    }
    let digest =
        hash.finalize().iter().fold(String::from("sha256:"), |text, byte| text + &format!("{byte:02x}"));
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::index::{
        DataFile, DirEntry, GrowingTree, Listing, Order, Segment, Summary, Timestamp, Tree, TreeError,
    };
    use crate::tarfile::{Content, Entry, EntryKind};

    /// A tree that counts how often it is asked where bytes are.
    struct Counting {
        tree: GrowingTree,
        asked: Arc<AtomicUsize>,
    }

    impl Tree for Counting {
        fn segment(&self, ino: Ino, offset: u64) -> Result<Segment, TreeError> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            self.tree.segment(ino, offset)
        }

        fn stat(&self, ino: Ino) -> Result<Stat, TreeError> {
            self.tree.stat(ino)
        }

        fn inode_bound(&self) -> u64 {
            self.tree.inode_bound()
        }

        fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Option<Ino>, TreeError> {
            self.tree.lookup(dir, name)
        }

        fn parent(&self, ino: Ino) -> Result<Ino, TreeError> {
            self.tree.parent(ino)
        }

        fn read_dir(
            &self,
            dir: Ino,
            from: DirCookie,
            emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
        ) -> Result<Listing, TreeError> {
            self.tree.read_dir(dir, from, emit)
        }

        fn read_link(&self, ino: Ino) -> Result<Vec<u8>, TreeError> {
            self.tree.read_link(ino)
        }

        fn xattrs(&self, ino: Ino, emit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), TreeError> {
            self.tree.xattrs(ino, emit)
        }

        fn summary(&self) -> Summary {
            self.tree.summary()
        }
    }

    /// A file of four bytes with that many names.
    fn filesystem(names: usize, bytes: &[u8]) -> (Filesystem, Arc<AtomicUsize>) {
        let mut tree = GrowingTree::new(Order::Any);
        for name in 0..names {
            let kind = match name {
                0 => EntryKind::Regular { size: 4, content: Content::Contiguous { at: 0 } },
                _ => EntryKind::HardLink(b"0".to_vec()),
            };
            let (path, mtime) = (name.to_string().into_bytes(), Timestamp::default());
            let entry = Entry { path, kind, perm: 0o644, uid: 0, gid: 0, mtime, xattrs: Vec::new() };
            tree.insert(entry).unwrap();
        }
        tree.finish().unwrap();
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0).unwrap();
        let asked = Arc::default();
        let tree = Counting { tree, asked: Arc::clone(&asked) };
        (Filesystem::new(Arc::new(tree), vec![DataFile::owned(file)]), asked)
    }

    #[test]
    fn a_file_with_several_names_is_read_once() {
        for (bytes, differing) in [(b"same", 0), (b"some", 3)] {
            let reads = |names| {
                let ((before, _), (after, asked)) = (filesystem(names, b"same"), filesystem(names, bytes));
                let mut found = Vec::new();
                let mut emit = |difference: Difference| {
                    found.push(difference.kind);
                    true
                };
                compare(&before, &after, &mut emit).unwrap();
                assert_eq!(found.len(), differing.min(names));
                // Every name is told of alike.
                assert!(found.iter().all(|kind| *kind == found[0]));
                asked.load(Ordering::Relaxed)
            };
            assert_eq!(reads(3), reads(1));
        }
    }
}
