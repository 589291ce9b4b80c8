//! The index: a finished tree, read where it lies.
//!
//! Opening reads the header and nothing else. Whatever the bytes say is checked before it is used: a damaged
//! index gives [`TreeError::Corrupt`] or a wrong answer, never a panic, an endless walk or a read outside of it.

use std::fs::File;
use std::io;
use std::ops::Range;

use memmap2::Mmap;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::extent::sparse_segment;
use super::format::{DentryRecord, ExtentRecord, Header, InodeRecord, LinkRecord, MAGIC, Section, VERSION};
use super::xattrs::read_set;
use super::{
    DirCookie, DirEntry, FileType, Ino, LayerNo, Listing, Segment, Stat, Summary, Timestamp, Tree, TreeError,
};
use crate::tarfile::{Content, Extent};

/// Why a file is not used as an index.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It does not begin as an index does.
    #[error("not an imagefs index")]
    NotAnIndex,
    /// Another version of imagefs wrote it.
    #[error("format version {found}, this imagefs reads version {VERSION}")]
    Version {
        /// The version it is of.
        found: u32,
    },
    /// It was made from something else.
    #[error("made from something else")]
    Identity,
    /// A checksum or a bound is wrong.
    #[error("damaged: {0}")]
    Damaged(&'static str),
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A finished tree over the bytes of an index: a memory map, or memory.
pub struct Index<B> {
    bytes: B,
    inodes: Range<usize>,
    dentries: Range<usize>,
    extents: Range<usize>,
    names: Range<usize>,
    xattrs: Range<usize>,
    links: Range<usize>,
    summary: Summary,
}

impl Index<Mmap> {
    /// Maps an index file into memory and checks its header. `identity` is what it has to be made from.
    pub fn open(file: &File, identity: &[u8; 32]) -> Result<Index<Mmap>, OpenError> {
        Index::new(map(file)?, identity)
    }
}

// A map is sound as long as nobody shortens or rewrites the file under it. Index files are private to their
// owner (mode 0600 in a directory of mode 0700), written once, renamed into place, and only ever unlinked.
#[allow(unsafe_code)]
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: see above.
    unsafe { Mmap::map(file) }
}

impl<B: AsRef<[u8]>> Index<B> {
    /// Checks the header of the index that `bytes` are.
    pub fn new(bytes: B, identity: &[u8; 32]) -> Result<Index<B>, OpenError> {
        let all = bytes.as_ref();
        let (header, _) = Header::read_from_prefix(all).map_err(|_| OpenError::NotAnIndex)?;
        if header.magic != MAGIC {
            return Err(OpenError::NotAnIndex);
        }
        if header.version.get() != VERSION {
            return Err(OpenError::Version { found: header.version.get() });
        }
        let unsummed = Header { checksum: 0.into(), ..header };
        if crc32fast::hash(unsummed.as_bytes()) != header.checksum.get() {
            return Err(OpenError::Damaged("the header's checksum is wrong"));
        }
        if header.identity != *identity {
            return Err(OpenError::Identity);
        }
        let section = |section: &Section, record: usize| {
            let start = usize::try_from(section.offset.get()).ok();
            let len = usize::try_from(section.len.get()).ok().filter(|len| len % record == 0);
            let end = start.zip(len).and_then(|(start, len)| start.checked_add(len));
            match (start, end.filter(|&end| end <= all.len())) {
                (Some(start), Some(end)) => Ok(start..end),
                _ => Err(OpenError::Damaged("a section lies outside of the file")),
            }
        };
        let index = Index {
            inodes: section(&header.inodes, size_of::<InodeRecord>())?,
            dentries: section(&header.dentries, size_of::<DentryRecord>())?,
            extents: section(&header.extents, size_of::<ExtentRecord>())?,
            names: section(&header.names, 1)?,
            xattrs: section(&header.xattrs, 1)?,
            links: section(&header.links, size_of::<LinkRecord>())?,
            summary: Summary {
                inodes: header.used_inodes.get(),
                entries: header.entries.get(),
                bytes: header.bytes.get(),
                xattrs: header.has_xattrs.get() != 0,
            },
            bytes,
        };
        Ok(index)
    }

    /// Reads everything and compares the checksums.
    pub fn verify(&self) -> Result<(), OpenError> {
        let all = self.bytes.as_ref();
        let (header, _) = Header::read_from_prefix(all).map_err(|_| OpenError::NotAnIndex)?;
        for (range, section, what) in [
            (&self.inodes, &header.inodes, "the inodes' checksum is wrong"),
            (&self.dentries, &header.dentries, "the names' order has a wrong checksum"),
            (&self.extents, &header.extents, "the extents' checksum is wrong"),
            (&self.names, &header.names, "the names' checksum is wrong"),
            (&self.xattrs, &header.xattrs, "the extended attributes' checksum is wrong"),
            (&self.links, &header.links, "the links' checksum is wrong"),
        ] {
            if crc32fast::hash(&all[range.clone()]) != section.checksum.get() {
                return Err(OpenError::Damaged(what));
            }
        }
        Ok(())
    }

    fn section(&self, range: &Range<usize>) -> &[u8] {
        self.bytes.as_ref().get(range.clone()).unwrap_or_default()
    }

    fn record<T>(&self, section: &Range<usize>, number: u64) -> Option<T>
    where
        T: FromBytes + KnownLayout + Immutable + Unaligned + Copy,
    {
        let start = usize::try_from(number).ok()?.checked_mul(size_of::<T>())?;
        let bytes = self.section(section).get(start..start.checked_add(size_of::<T>())?)?;
        T::read_from_bytes(bytes).ok()
    }

    fn inode(&self, ino: Ino) -> Result<(InodeRecord, FileType), TreeError> {
        let record: Option<InodeRecord> = self.record(&self.inodes, ino.0.into());
        let record = record.filter(|record| record.nlink.get() != 0).ok_or(TreeError::NoSuchInode(ino))?;
        let file_type =
            FileType::from_mode(record.mode.get()).ok_or(TreeError::Corrupt("an inode of no type"))?;
        Ok((record, file_type))
    }

    /// The dentries of a directory.
    fn directory(&self, dir: Ino) -> Result<Directory<'_>, TreeError> {
        let (record, file_type) = self.inode(dir)?;
        if file_type != FileType::Directory {
            return Err(TreeError::NotADirectory(dir));
        }
        let (first, count) = record.pair();
        let start = (first as usize).checked_mul(size_of::<DentryRecord>());
        let len = (count as usize).checked_mul(size_of::<DentryRecord>());
        let range = start.zip(len).and_then(|(start, len)| Some(start..start.checked_add(len)?));
        let bytes = range.and_then(|range| self.section(&self.dentries).get(range));
        let bytes = bytes.ok_or(TreeError::Corrupt("a directory's names lie outside of the index"))?;
        let dentries = <[DentryRecord]>::ref_from_bytes(bytes);
        let dentries = dentries.map_err(|_| TreeError::Corrupt("a directory's names are cut"))?;
        Ok(Directory { dentries, names: self.section(&self.names) })
    }

    fn parent_of(&self, ino: Ino) -> Result<Ino, TreeError> {
        let (record, file_type) = self.inode(ino)?;
        let parent = u32::try_from(record.size.get()).map(Ino).ok();
        match (file_type, parent) {
            (FileType::Directory, Some(Ino::ROOT)) if ino == Ino::ROOT => Ok(Ino::ROOT),
            // A directory comes before what is in it, so a way up always ends at the root.
            (FileType::Directory, Some(parent)) if parent < ino => Ok(parent),
            (FileType::Symlink, Some(parent)) => Ok(parent),
            (FileType::Directory, _) | (FileType::Symlink, None) => {
                Err(TreeError::Corrupt("an inode whose directory comes after it"))
            }
            _ => Err(TreeError::NotADirectory(ino)),
        }
    }

    /// What a dentry of `dir` names. A directory has to know that it stands there: so no walk goes in circles.
    fn child(&self, dir: Ino, dentry: &DentryRecord) -> Result<(Ino, FileType), TreeError> {
        let ino = Ino(dentry.ino.get());
        let file_type = FileType::from_mode(u16::from(dentry.file_type) << 12);
        match file_type.ok_or(TreeError::Corrupt("a name of no type"))? {
            FileType::Directory if self.parent_of(ino)? != dir => {
                Err(TreeError::Corrupt("a directory stands in two places"))
            }
            file_type => Ok((ino, file_type)),
        }
    }
}

/// What a merge has to know of a layer's tree.
impl<B: AsRef<[u8]>> Index<B> {
    /// Whether no entry of the archive describes this directory: paths lead through it, that is all.
    pub fn is_implicit(&self, ino: Ino) -> Result<bool, TreeError> {
        match self.inode(ino)? {
            (record, FileType::Directory) => Ok(record.body.get() & InodeRecord::IMPLICIT != 0),
            _ => Err(TreeError::NotADirectory(ino)),
        }
    }

    /// How many paths the archive has entries for, the root's included: all but the [implicit](Index::is_implicit)
    /// directories.
    pub fn described(&self) -> u64 {
        let inodes = self.inodes.len() / size_of::<InodeRecord>();
        let inodes = (1..=u32::MAX).map(Ino).take(inodes.saturating_sub(1));
        let implicit = inodes.filter(|&ino| self.is_implicit(ino).unwrap_or(false)).count() as u64;
        self.summary.entries.saturating_add(1).saturating_sub(implicit)
    }

    /// The hard links that lead out of a layer: the empty file that stands for each, and the path of the file in the
    /// layers below.
    pub fn links_out(&self) -> impl Iterator<Item = Result<(Ino, &[u8]), TreeError>> {
        let count = self.links.len() / size_of::<LinkRecord>();
        (0..count as u64).map(|i| {
            let record: Option<LinkRecord> = self.record(&self.links, i);
            let found = record.and_then(|record| {
                let start = record.target.get() as usize;
                let end = start.checked_add(record.target_len.get() as usize)?;
                Some((Ino(record.ino.get()), self.section(&self.names).get(start..end)?))
            });
            found.ok_or(TreeError::Corrupt("a link's target lies outside of the index"))
        })
    }

    /// Where the bytes of a regular file are.
    pub(super) fn content(&self, ino: Ino) -> Result<Content, TreeError> {
        let (record, file_type) = self.inode(ino)?;
        if file_type != FileType::Regular {
            return Err(TreeError::NotAFile(ino));
        }
        if record.body.get() & InodeRecord::SPARSE == 0 {
            return Ok(Content::Contiguous { at: record.body.get() });
        }
        let (first, count) = record.pair();
        // Ends at the first that is not there, whatever the count says.
        let extents = (u64::from(first)..).take(count as usize).map(|i| self.extent(i));
        let extents: Option<Vec<Extent>> = extents.collect();
        extents.map(Content::Sparse).ok_or(TreeError::Corrupt("extents lie outside of the index"))
    }

    fn extent(&self, number: u64) -> Option<Extent> {
        let record: ExtentRecord = self.record(&self.extents, number)?;
        Some(Extent { offset: record.offset.get(), len: record.len.get(), at: record.at.get() })
    }

    /// The names of a directory, sorted.
    pub(super) fn children(
        &self,
        dir: Ino,
    ) -> Result<impl Iterator<Item = Result<DirEntry<'_>, TreeError>>, TreeError> {
        self.children_from(dir, DirCookie::START)
    }

    /// The same, for a walk of the whole tree that began with `left` at [`Index::names`]: a damaged index, where a name
    /// stands for more than one, would have a walk that doubles with every directory.
    pub(super) fn children_of_walk<'a>(
        &'a self,
        dir: Ino,
        left: &'a mut usize,
    ) -> Result<impl Iterator<Item = Result<DirEntry<'a>, TreeError>>, TreeError> {
        Ok(self.children(dir)?.map(|entry| {
            *left = left.checked_sub(1).ok_or(TreeError::Corrupt("more names than there are"))?;
            entry
        }))
    }

    /// How many names there is room for.
    pub(super) fn names(&self) -> usize {
        self.dentries.len() / size_of::<DentryRecord>()
    }

    /// As [`Index::children`], without the names before a place in it: a cookie counts them.
    fn children_from(
        &self,
        dir: Ino,
        from: DirCookie,
    ) -> Result<impl Iterator<Item = Result<DirEntry<'_>, TreeError>>, TreeError> {
        let directory = self.directory(dir)?;
        let first = usize::try_from(from.0).unwrap_or(usize::MAX).min(directory.dentries.len());
        Ok(directory.dentries[first..].iter().zip(first as u64 + 1..).map(move |(dentry, place)| {
            let (ino, file_type) = self.child(dir, dentry)?;
            Ok(DirEntry { name: directory.name(dentry)?, ino, file_type, cookie: DirCookie(place) })
        }))
    }
}

#[derive(Clone, Copy)]
struct Directory<'a> {
    dentries: &'a [DentryRecord],
    names: &'a [u8],
}

impl<'a> Directory<'a> {
    fn name(&self, dentry: &DentryRecord) -> Result<&'a [u8], TreeError> {
        let start = dentry.name.get() as usize;
        let name = start.checked_add(dentry.name_len.into()).and_then(|end| self.names.get(start..end));
        name.filter(|name| !name.is_empty()).ok_or(TreeError::Corrupt("a name lies outside of the index"))
    }
}

impl<B: AsRef<[u8]> + Send + Sync> Tree for Index<B> {
    fn stat(&self, ino: Ino) -> Result<Stat, TreeError> {
        let (record, file_type) = self.inode(ino)?;
        let (high, low) = record.pair();
        let (size, device) = match file_type {
            FileType::Regular => (record.size.get(), (0, 0)),
            FileType::Symlink => (u64::from(low), (0, 0)),
            FileType::CharDevice | FileType::BlockDevice => (0, (high, low)),
            FileType::Directory | FileType::Fifo | FileType::Socket => (0, (0, 0)),
        };
        Ok(Stat {
            ino,
            file_type,
            perm: record.mode.get() & 0o7777,
            nlink: record.nlink.get(),
            uid: record.uid.get(),
            gid: record.gid.get(),
            size,
            mtime: Timestamp { secs: record.mtime.get(), nanos: record.mtime_nanos.get().min(999_999_999) },
            device,
            layer: LayerNo(record.layer.get()),
            has_xattrs: record.xattrs.get() != 0,
        })
    }

    fn inode_bound(&self) -> u64 {
        (self.inodes.len() / size_of::<InodeRecord>()) as u64
    }

    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Option<Ino>, TreeError> {
        let directory = self.directory(dir)?;
        let (mut low, mut high) = (0, directory.dentries.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let dentry = &directory.dentries[middle];
            match directory.name(dentry)?.cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    let (ino, named) = self.child(dir, dentry)?;
                    return match self.inode(ino) {
                        Ok((_, file_type)) if file_type == named => Ok(Some(ino)),
                        _ => Err(TreeError::Corrupt("a name leads to something of another type")),
                    };
                }
            }
        }
        Ok(None)
    }

    fn parent(&self, ino: Ino) -> Result<Ino, TreeError> {
        self.parent_of(ino)
    }

    fn read_dir(
        &self,
        dir: Ino,
        from: DirCookie,
        emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<Listing, TreeError> {
        for entry in self.children_from(dir, from)? {
            if !emit(entry?) {
                return Ok(Listing::Stopped);
            }
        }
        Ok(Listing::End)
    }

    fn read_link(&self, ino: Ino) -> Result<Vec<u8>, TreeError> {
        let (record, file_type) = self.inode(ino)?;
        if file_type != FileType::Symlink {
            return Err(TreeError::NotASymlink(ino));
        }
        let (start, len) = record.pair();
        let end = (start as usize).checked_add(len as usize).filter(|_| len < 4096);
        let target = end.and_then(|end| self.section(&self.names).get(start as usize..end));
        target.map(<[u8]>::to_vec).ok_or(TreeError::Corrupt("a symlink's target lies outside of the index"))
    }

    fn xattrs(&self, ino: Ino, emit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), TreeError> {
        let at = self.inode(ino)?.0.xattrs.get();
        let set = read_set(self.section(&self.xattrs), at, emit);
        set.ok_or(TreeError::Corrupt("extended attributes lie outside of the index"))
    }

    fn segment(&self, ino: Ino, offset: u64) -> Result<Segment, TreeError> {
        let (record, file_type) = self.inode(ino)?;
        if file_type != FileType::Regular {
            return Err(TreeError::NotAFile(ino));
        }
        let left = match record.size.get().checked_sub(offset) {
            None | Some(0) => return Ok(Segment::End),
            Some(left) => left,
        };
        if record.body.get() & InodeRecord::SPARSE == 0 {
            let at = record.body.get().checked_add(offset);
            return Ok(Segment::Data { at: at.ok_or(TreeError::Corrupt("content past 2^64"))?, len: left });
        }
        let (first, count) = record.pair();
        let extent = |i: usize| self.extent(u64::from(first) + i as u64);
        Ok(sparse_segment(count as usize, extent, offset, left))
    }

    fn summary(&self) -> Summary {
        self.summary
    }
}
