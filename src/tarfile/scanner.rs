//! The walk over the headers of an archive.

use std::io;

use super::error::ScanError;
use super::header::{BLOCK, GnuSparse, RawHeader, until_nul};
use super::input::TarInput;
use super::pax::{PaxHeader, PaxSparse};
use super::{Content, Entry, EntryKind, FileType, Oddities, Oddity, sparse};

/// The most that the headers of one entry may take, in bytes.
pub(super) const MAX_METADATA: u64 = 1 << 20;
/// `NAME_MAX`
const MAX_NAME: usize = 255;
/// `PATH_MAX`
const MAX_PATH: usize = 4096;
/// Who is shown for an owner that cannot be; `/proc/sys/kernel/overflowuid`
const OVERFLOW_ID: u32 = 65534;

/// How an archive has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndMark {
    /// With two zero blocks: a stream that just stops was cut off.
    Required,
    /// However the archive of a user's ends, as far as its entries are whole: a file's length is known. The end mark may be
    /// missing or halved, and what follows it is passed over, as by GNU tar; both are [oddities](Scanner::oddities).
    Optional,
    /// Anywhere after an entry, even without the padding of its content: a digest tells that all of it is there. What
    /// follows two zero blocks means nothing.
    Unneeded,
}

/// Reads entries from the front of an archive.
pub struct Scanner<R> {
    input: R,
    end_mark: EndMark,
    pub(super) position: u64,
    /// Content of the last entry that is still to be passed over.
    behind: u64,
    /// What fills the last block of it up.
    padding: u64,
    globals: PaxHeader,
    finished: bool,
    oddities: Oddities,
}

/// What the headers before an entry's own say of it.
#[derive(Default)]
struct Pending {
    pax: Option<PaxHeader>,
    gnu_path: Option<Vec<u8>>,
    gnu_link: Option<Vec<u8>>,
    size: u64,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.size == 0
    }
}

impl<R: TarInput> Scanner<R> {
    /// Nothing is read yet.
    pub fn new(input: R, end_mark: EndMark) -> Scanner<R> {
        Scanner {
            input,
            end_mark,
            position: 0,
            behind: 0,
            padding: 0,
            globals: PaxHeader::default(),
            finished: false,
            oddities: Oddities::default(),
        }
    }

    /// Bytes of the archive that have been read or passed over.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Where the content of the last entry ends, without its padding.
    pub fn content_end(&self) -> u64 {
        self.position.saturating_add(self.behind)
    }

    /// What is not handed out as the archive has it.
    pub fn oddities(&self) -> &Oddities {
        &self.oddities
    }

    /// The input, to be exchanged for another one after an error.
    pub fn input_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// What follows is another archive, from its front: the rest of the last entry's content does not come.
    pub fn resume_from(&mut self) {
        (self.behind, self.padding) = (0, 0);
        self.globals = PaxHeader::default();
        self.finished = false;
    }

    /// The input, after the last entry.
    pub fn into_input(self) -> R {
        self.input
    }

    /// The next entry; `None` once the archive has ended as it should.
    ///
    /// When an entry is handed out, its content need not have been read yet. After an error the scanner is where
    /// it was before: [`Scanner::position`] is the byte from which another input has to go on.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ScanError> {
        let before = (self.position, self.behind, self.padding, self.oddities.clone());
        let result = self.read_entry();
        if result.is_err() {
            (self.position, self.behind, self.padding, self.oddities) = before;
            self.finished = false;
        }
        result
    }

    fn read_entry(&mut self) -> Result<Option<Entry>, ScanError> {
        let mut pending = Pending::default();
        let mut start = self.content_end().saturating_add(self.padding);
        while !self.finished {
            self.skip_content()?;
            let at = self.position;
            let Some(block) = self.read_block("a header")? else {
                self.finish_without_mark(at, &pending)?;
                break;
            };
            if block == [0; BLOCK] {
                if !pending.is_empty() {
                    return Err(ScanError::Truncated { at, what: "an entry's headers" });
                }
                self.read_end_mark()?;
                break;
            }
            let header = RawHeader::parse(&block, at)?;
            if let Some(entry) = self.interpret(&header, &mut pending, at)? {
                return Ok(Some(entry));
            }
            if pending.is_empty() {
                start = self.content_end().saturating_add(self.padding);
            }
            if self.position.saturating_sub(start) > MAX_METADATA {
                return Err(ScanError::TooMuchMetadata { at: start });
            }
        }
        Ok(None)
    }

    /// One header: either it completes an entry, or it says something about the next one.
    fn interpret(
        &mut self,
        header: &RawHeader<'_>,
        pending: &mut Pending,
        at: u64,
    ) -> Result<Option<Entry>, ScanError> {
        let size = header.size()?;
        match header.type_flag() {
            b'x' | b'X' => {
                let records = self.read_metadata(size, pending, at)?;
                // Of several in a row the last one counts.
                pending.pax.insert(self.globals.clone()).add(&records, at)?;
            }
            b'g' => {
                let records = self.read_metadata(size, pending, at)?;
                self.globals.add(&records, at)?;
                self.globals.keep_global();
                pending.size = 0;
            }
            b'L' => {
                let name = self.read_metadata(size, pending, at)?;
                pending.gnu_path = Some(until_nul(&name).to_vec());
            }
            b'K' => {
                let name = self.read_metadata(size, pending, at)?;
                pending.gnu_link = Some(until_nul(&name).to_vec());
            }
            // A volume label names the archive, not a file.
            b'V' => self.expect_content(size),
            b'M' => return Err(ScanError::MultiVolume { at }),
            type_flag => return self.entry(header, type_flag, size, std::mem::take(pending), at),
        }
        Ok(None)
    }

    fn entry(
        &mut self,
        header: &RawHeader<'_>,
        type_flag: u8,
        size: u64,
        pending: Pending,
        at: u64,
    ) -> Result<Option<Entry>, ScanError> {
        let mut pax = pending.pax.unwrap_or_else(|| self.globals.clone());
        let oddities = std::mem::take(&mut pax.oddities);
        let is_unusable = oddities.of(Oddity::PaxEntry) > 0;
        self.oddities.add(&oddities);
        if is_unusable {
            if !matches!(type_flag, b'1'..=b'6') {
                self.expect_content(pax.size.unwrap_or(size));
            }
            return Ok(None);
        }
        let xattrs = pax.take_xattrs();
        let raw_path = match pax.sparse.name.clone().or(pax.path).or(pending.gnu_path) {
            Some(path) => path,
            None => header.path(),
        };
        let path = clean_path(&raw_path, at)?;
        let link = |pax_link: Option<Vec<u8>>| {
            let target = pax_link.or(pending.gnu_link).unwrap_or_else(|| header.link_name());
            match target.len() {
                MAX_PATH.. => Err(ScanError::TooLong { what: "link target", name: target, at }),
                _ => Ok(target),
            }
        };
        let kind = match type_flag {
            b'5' => EntryKind::Directory,
            b'2' => EntryKind::Symlink(link(pax.link_path)?),
            b'1' => match link(pax.link_path)? {
                target if target.is_empty() => EntryKind::HardLink(target),
                target => EntryKind::HardLink(clean_path(&target, at)?),
            },
            b'3' => EntryKind::Device(FileType::CharDevice, header.device()?),
            b'4' => EntryKind::Device(FileType::BlockDevice, header.device()?),
            b'6' => EntryKind::Fifo,
            // GNU's incremental archives list a directory's names in its content.
            b'D' => {
                self.expect_content(pax.size.unwrap_or(size));
                EntryKind::Directory
            }
            // Before POSIX had a type for it, a directory was a file whose name ends in a slash. It has no content, whatever
            // its size, as one of the type has none.
            b'0' | 0 if raw_path.ends_with(b"/") => EntryKind::Directory,
            b'S' => {
                self.old_gnu_sparse(header.gnu_sparse()?.ok_or(ScanError::BadSparse { at })?, size, at)?
            }
            // An unknown type is a regular file; see pax(1), "ustar Interchange Format", typeflag.
            _ => self.regular(&pax.sparse, pax.size.unwrap_or(size), at)?,
        };
        if path.is_empty() && kind != EntryKind::Directory {
            self.oddities.count(Oddity::RootNotDirectory);
            return Ok(None);
        }
        if kind == EntryKind::Symlink(Vec::new()) {
            self.oddities.count(Oddity::EmptySymlink);
            return Ok(None);
        }
        let mut owner =
            |pax: Option<u32>, header: Result<Option<u32>, ScanError>| -> Result<u32, ScanError> {
                let owner = pax.map_or(header, |id| Ok(Some(id)))?;
                if owner.is_none() {
                    self.oddities.count(Oddity::Owner);
                }
                Ok(owner.unwrap_or(OVERFLOW_ID))
            };
        let (uid, gid) = (owner(pax.uid, header.uid())?, owner(pax.gid, header.gid())?);
        Ok(Some(Entry {
            path,
            kind,
            perm: header.perm()?,
            uid,
            gid,
            mtime: pax.mtime.map_or_else(|| header.mtime(), Ok)?,
            xattrs,
        }))
    }

    fn regular(&mut self, sparse: &PaxSparse, stored: u64, at: u64) -> Result<EntryKind, ScanError> {
        let content_end =
            self.position.checked_add(stored).ok_or(ScanError::BadField { field: "size", at })?;
        let extents = if sparse.map_in_data() {
            sparse::read_map(self, stored, at)?
        } else if sparse.size.is_some() {
            sparse.extents.clone()
        } else {
            self.expect_content(stored);
            return Ok(EntryKind::Regular {
                size: stored,
                content: Content::Contiguous { at: self.position },
            });
        };
        let data = self.position;
        let room = content_end.checked_sub(data).ok_or(ScanError::BadSparse { at })?;
        self.expect_content(room);
        let size = sparse.size.ok_or(ScanError::BadSparse { at })?;
        Ok(EntryKind::Regular { size, content: sparse::extents(&extents, size, data, room, at)? })
    }

    fn old_gnu_sparse(
        &mut self,
        mut sparse: GnuSparse,
        stored: u64,
        at: u64,
    ) -> Result<EntryKind, ScanError> {
        while sparse.extended {
            if self.position - at > MAX_METADATA {
                return Err(ScanError::TooMuchMetadata { at });
            }
            let block = self.read_block("a sparse map")?;
            let block = block.ok_or(ScanError::Truncated { at: self.position, what: "a sparse map" })?;
            sparse.extended = sparse::extension(&block, &mut sparse.extents);
        }
        self.position.checked_add(stored).ok_or(ScanError::BadField { field: "size", at })?;
        self.expect_content(stored);
        let content = sparse::extents(&sparse.extents, sparse.size, self.position, stored, at)?;
        Ok(EntryKind::Regular { size: sparse.size, content })
    }

    /// The content of an extended header.
    fn read_metadata(&mut self, size: u64, pending: &mut Pending, at: u64) -> Result<Vec<u8>, ScanError> {
        pending.size = pending.size.saturating_add(size).saturating_add(BLOCK as u64);
        if pending.size > MAX_METADATA {
            return Err(ScanError::TooMuchMetadata { at });
        }
        let mut records = vec![0; padded(size) as usize];
        self.read_exact(&mut records, "an extended header")?;
        records.truncate(size as usize);
        Ok(records)
    }

    /// The archive ended where a header might stand.
    fn finish_without_mark(&mut self, at: u64, pending: &Pending) -> Result<(), ScanError> {
        self.finished = true;
        match self.end_mark {
            _ if !pending.is_empty() => Err(ScanError::Truncated { at, what: "an entry's headers" }),
            EndMark::Required => Err(ScanError::Truncated { at, what: "the archive (there is no end mark)" }),
            EndMark::Optional if at == 0 => Err(ScanError::NotATar),
            EndMark::Optional => {
                self.oddities.count(Oddity::NoEndMark);
                Ok(())
            }
            EndMark::Unneeded => Ok(()),
        }
    }

    /// The first zero block was read: a second one has to follow, and then, as far as it matters, nothing but zeros.
    fn read_end_mark(&mut self) -> Result<(), ScanError> {
        self.finished = true;
        let first = self.position;
        if self.end_mark == EndMark::Unneeded {
            return match self.read_block("the end mark") {
                Ok(Some(block)) if block != [0; BLOCK] => {
                    Err(ScanError::TrailingData { at: first, found: block[..200].to_vec() })
                }
                Ok(_) | Err(ScanError::Truncated { .. }) => Ok(()),
                Err(error) => Err(error),
            };
        }
        loop {
            let here = match self.input.fill_buf() {
                Ok(here) => here,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            };
            if here.is_empty() {
                break;
            }
            if let Some(stray) = here.iter().position(|&b| b != 0) {
                if self.end_mark == EndMark::Optional {
                    self.oddities.count(Oddity::TrailingData);
                    // What is compressed shows only at its end whether it is whole.
                    self.position += self.input.skip(u64::MAX)?;
                    break;
                }
                let found = here[stray..].iter().take(200).copied().collect();
                return Err(ScanError::TrailingData { at: self.position + stray as u64, found });
            }
            let n = here.len();
            self.input.consume(n);
            self.position += n as u64;
        }
        if self.end_mark == EndMark::Required && self.position - first < BLOCK as u64 {
            return Err(ScanError::Truncated { at: self.position, what: "the end mark" });
        }
        Ok(())
    }

    /// A whole block; `None` where the input ends just before it.
    pub(super) fn read_block(&mut self, what: &'static str) -> Result<Option<[u8; BLOCK]>, ScanError> {
        let start = self.position;
        let mut block = [0; BLOCK];
        match self.read_exact(&mut block, what) {
            Ok(()) => Ok(Some(block)),
            Err(ScanError::Truncated { at, .. }) if at == start => Ok(None),
            Err(ScanError::Truncated { .. }) if start == 0 => Err(ScanError::NotATar),
            Err(e) => Err(e),
        }
    }

    fn read_exact(&mut self, mut buf: &mut [u8], what: &'static str) -> Result<(), ScanError> {
        while !buf.is_empty() {
            match self.input.read(buf) {
                Ok(0) => return Err(ScanError::Truncated { at: self.position, what }),
                Ok(n) => {
                    buf = &mut buf[n..];
                    self.position += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Notes that content follows: it begins with a block.
    fn expect_content(&mut self, size: u64) {
        (self.behind, self.padding) = (size, padded(size).saturating_sub(size));
    }

    /// Goes to the block after the last entry's content.
    fn skip_content(&mut self) -> Result<(), ScanError> {
        let (content, padding) = (std::mem::take(&mut self.behind), std::mem::take(&mut self.padding));
        if self.end_mark != EndMark::Unneeded {
            return self.skip(content.saturating_add(padding), "a file's content");
        }
        self.skip(content, "a file's content")?;
        match self.skip(padding, "a file's content") {
            Err(ScanError::Truncated { .. }) => Ok(()),
            other => other,
        }
    }

    fn skip(&mut self, n: u64, what: &'static str) -> Result<(), ScanError> {
        let passed = self.input.skip(n)?;
        self.position += passed;
        if passed < n { Err(ScanError::Truncated { at: self.position, what }) } else { Ok(()) }
    }
}

/// `n` rounded up to whole blocks.
fn padded(n: u64) -> u64 {
    n.saturating_add(BLOCK as u64 - 1) / BLOCK as u64 * BLOCK as u64
}

/// Takes a stored path apart and puts it together without empty, `.` and `..` components.
///
/// `..` takes back the component before it and stops at the root: the archive's own root, never the host's.
fn clean_path(raw: &[u8], at: u64) -> Result<Vec<u8>, ScanError> {
    if raw.is_empty() {
        return Err(ScanError::NoName { at });
    }
    let mut path = Vec::with_capacity(raw.len());
    for component in raw.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => path.truncate(path.iter().rposition(|&b| b == b'/').unwrap_or(0)),
            name if name.len() > MAX_NAME => {
                return Err(ScanError::TooLong { what: "name", name: name.to_vec(), at });
            }
            name => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
            }
        }
    }
    if path.len() > MAX_PATH {
        return Err(ScanError::TooLong { what: "path", name: path, at });
    }
    Ok(path)
}
