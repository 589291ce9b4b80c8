//! One pass over the headers of a tar, for the names and places of its members; pax(1), tar(5).
//!
//! Reads no content but what it is asked for, so an archive of any size is walked in the time its headers
//! take. It knows as much of the format as image archives use; their layers are read elsewhere.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::error::OciError;

const BLOCK: u64 = 512;

/// The most that one PAX header or long name may take, bytes.
const MAX_METADATA: u64 = 1 << 20;

/// Where a tar comes from.
pub(super) trait Input {
    /// Fills `buf` as far as there are bytes, and says how far.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize>;
    /// Goes `n` bytes forward as far as there are bytes, and says how far.
    fn skip(&mut self, n: u64) -> io::Result<u64>;
}

/// A file, of which only what is asked for is read.
pub(super) struct FileInput<'a> {
    file: &'a File,
    position: u64,
    len: u64,
}

impl<'a> FileInput<'a> {
    pub(super) fn new(file: &'a File) -> io::Result<FileInput<'a>> {
        Ok(FileInput { file, position: 0, len: file.metadata()?.len() })
    }
}

impl Input for FileInput<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], self.position) {
                Ok(0) => break,
                Ok(n) => {
                    done += n;
                    self.position += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn skip(&mut self, n: u64) -> io::Result<u64> {
        let n = n.min(self.len.saturating_sub(self.position));
        self.position += n;
        Ok(n)
    }
}

/// A stream, all of which is read.
pub(super) struct StreamInput<R>(pub(super) R);

impl<R: Read> Input for StreamInput<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read(&mut buf[done..]) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn skip(&mut self, n: u64) -> io::Result<u64> {
        io::copy(&mut (&mut self.0).take(n), &mut io::sink())
    }
}

/// What a member is, as far as an image archive is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Member {
    /// A regular file: where its content starts in the tar, and how many bytes it has.
    File { offset: u64, size: u64 },
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A hard link to another member.
    HardLink(Vec<u8>),
    /// A directory.
    Directory,
    /// A device, a FIFO, a sparse file or something unheard of.
    Other,
}

/// Walks the members of a tar in their order.
pub(super) struct Scanner<I> {
    input: I,
    path: PathBuf,
    position: u64,
    /// Content of the present member that nobody has read, and the zeros that fill its last block.
    unread: u64,
    padding: u64,
    started: bool,
}

/// What the headers before a member's own say of it.
#[derive(Default)]
struct Overrides {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl<I: Input> Scanner<I> {
    /// `path` is what errors call the archive.
    pub(super) fn new(input: I, path: &Path) -> Scanner<I> {
        Scanner { input, path: path.to_owned(), position: 0, unread: 0, padding: 0, started: false }
    }

    /// The next member and its name as stored; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(Vec<u8>, Member)>, OciError> {
        let mut overrides = Overrides::default();
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            let size = header.entry_size().map_err(|_| self.damaged("the size is not a number"))?;
            match header.entry_type().as_byte() {
                b'x' => self.extensions(size, &mut overrides)?,
                b'g' => self.content(size)?,
                b'L' => overrides.name = Some(self.long_name(size)?),
                b'K' => overrides.link = Some(self.long_name(size)?),
                kind => return self.member(&header, kind, size, overrides).map(Some),
            }
        }
    }

    /// The content of the member that `next` gave last, if it is a file of at most `limit` bytes.
    pub(super) fn read_content(&mut self, limit: u64) -> Result<Option<Vec<u8>>, OciError> {
        if self.unread > limit {
            return Ok(None);
        }
        let content = self.read(self.unread)?;
        self.unread = 0;
        Ok(Some(content))
    }

    fn member(
        &mut self,
        header: &tar::Header,
        kind: u8,
        size: u64,
        overrides: Overrides,
    ) -> Result<(Vec<u8>, Member), OciError> {
        let name = overrides.name.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = || {
            overrides
                .link
                .clone()
                .unwrap_or_else(|| header.link_name_bytes().map(|l| l.into_owned()).unwrap_or_default())
        };
        let size = overrides.size.unwrap_or(size);
        let member = match kind {
            b'1' => Member::HardLink(link()),
            b'2' => Member::Symlink(link()),
            b'5' => Member::Directory,
            b'3' | b'4' | b'6' => Member::Other,
            // The oldest format marks a directory by its name alone.
            0 if name.ends_with(b"/") => Member::Directory,
            0 | b'0' | b'7' if !overrides.sparse => {
                self.content(size)?;
                Member::File { offset: self.position, size }
            }
            b'S' => {
                self.skip_sparse_map(header)?;
                self.content(size)?;
                Member::Other
            }
            _ => {
                self.content(size)?;
                Member::Other
            }
        };
        Ok((name, member))
    }

    /// The next header that is one; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<tar::Header>, OciError> {
        let (unread, padding) = (self.unread, self.padding);
        self.skip(unread)?;
        // The zeros after the last member may be missing altogether.
        self.position += self.input.skip(padding).map_err(|e| self.failed(e))?;
        (self.unread, self.padding) = (0, 0);

        let mut header = tar::Header::new_old();
        let block = header.as_mut_bytes();
        let n = self.input.read(block).map_err(|e| self.failed(e))?;
        if (n == 0 && self.started) || (n == block.len() && block.iter().all(|b| *b == 0)) {
            return if self.started { Ok(None) } else { Err(OciError::NotATar(self.path.clone())) };
        }
        if n < block.len() || !checksum_is_right(&header) {
            return Err(match self.started {
                true => self.damaged("there is no tar header"),
                false => OciError::NotATar(self.path.clone()),
            });
        }
        self.position += BLOCK;
        self.started = true;
        Ok(Some(header))
    }

    /// Notes that `size` bytes of content and their padding follow.
    fn content(&mut self, size: u64) -> Result<(), OciError> {
        if self.position.checked_add(size).is_none_or(|end| end > i64::MAX as u64 - BLOCK) {
            return Err(self.damaged("the size is absurd"));
        }
        self.unread = size;
        self.padding = size.next_multiple_of(BLOCK) - size;
        Ok(())
    }

    /// Reads all the content of a metadata header.
    fn metadata(&mut self, size: u64) -> Result<Vec<u8>, OciError> {
        self.content(size)?;
        match self.read_content(MAX_METADATA)? {
            Some(bytes) => Ok(bytes),
            None => Err(self.damaged("a name or PAX header has more than 1 MiB")),
        }
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, OciError> {
        let mut name = self.metadata(size)?;
        if let Some(end) = name.iter().position(|b| *b == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    /// `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record; pax(1), "pax Extended Header".
    fn extensions(&mut self, size: u64, overrides: &mut Overrides) -> Result<(), OciError> {
        let bytes = self.metadata(size)?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (key, value, after) =
                pax_record(rest).ok_or_else(|| self.damaged("a PAX header is malformed"))?;
            match key {
                b"path" => overrides.name = Some(value.to_owned()),
                b"linkpath" => overrides.link = Some(value.to_owned()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                    overrides.size = Some(size.ok_or_else(|| self.damaged("a PAX size is not a number"))?);
                }
                key if key.starts_with(b"GNU.sparse.") => overrides.sparse = true,
                _ => {}
            }
            rest = after;
        }
        Ok(())
    }

    fn skip_sparse_map(&mut self, header: &tar::Header) -> Result<(), OciError> {
        let mut more = header.as_gnu().is_some_and(|gnu| gnu.is_extended());
        while more {
            let block = self.read(BLOCK)?;
            // The flag stands behind 21 pairs of 12-byte numbers.
            more = block.get(21 * 24) == Some(&1);
        }
        Ok(())
    }

    fn read(&mut self, n: u64) -> Result<Vec<u8>, OciError> {
        let mut bytes = vec![0; usize::try_from(n).map_err(|_| self.damaged("the size is absurd"))?];
        let got = self.input.read(&mut bytes).map_err(|e| self.failed(e))?;
        self.position += got as u64;
        if got < bytes.len() { Err(self.damaged("the archive ends here")) } else { Ok(bytes) }
    }

    fn skip(&mut self, n: u64) -> Result<(), OciError> {
        let got = self.input.skip(n).map_err(|e| self.failed(e))?;
        self.position += got;
        if got < n { Err(self.damaged("the archive ends here")) } else { Ok(()) }
    }

    fn damaged(&self, reason: &'static str) -> OciError {
        OciError::DamagedArchive { path: self.path.clone(), at: self.position, reason }
    }

    fn failed(&self, error: io::Error) -> OciError {
        match error.downcast::<OciError>() {
            Ok(error) => error,
            Err(source) => OciError::Io { doing: "read", path: self.path.clone(), source },
        }
    }
}

/// The first record: its key and value, and what follows it.
fn pax_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(8).position(|b| *b == b' ')?;
    let len: usize = std::str::from_utf8(bytes.get(..space)?).ok()?.parse().ok()?;
    let record = bytes.get(space + 1..len)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &bytes[len..]))
}

/// Whether a header's bytes sum to what it says, its checksum field taken as spaces. Some old tars summed signed
/// chars.
fn checksum_is_right(header: &tar::Header) -> bool {
    let Ok(expected) = header.cksum() else { return false };
    let bytes =
        || header.as_bytes().iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { b' ' } else { *b });
    let unsigned: u32 = bytes().map(u32::from).sum();
    let signed: i32 = bytes().map(|b| i32::from(b as i8)).sum();
    unsigned == expected || i64::from(signed) == i64::from(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(tar: &[u8]) -> Result<Vec<(String, Member)>, String> {
        let mut scanner = Scanner::new(StreamInput(tar), Path::new("a.tar"));
        let mut members = Vec::new();
        while let Some((name, member)) = scanner.next().map_err(|e| e.to_string())? {
            members.push((String::from_utf8_lossy(&name).into_owned(), member));
        }
        Ok(members)
    }

    fn header(name: &str, kind: u8, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        header
    }

    fn entry(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = header(name, kind, content.len() as u64).as_bytes().to_vec();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    #[test]
    fn a_pax_size_and_a_name_with_a_newline_count_for_the_next_member_only() {
        let mut big = header("x", b'0', 0).as_bytes().to_vec();
        big.extend([b'!'; 512]);
        let tar = [
            entry("pax", b'x', b"12 path=a\nb\n12 size=512\n"),
            big,
            entry("long", b'L', b"a/long/name\0"),
            entry("y", b'0', b"four"),
            vec![0; 1024],
        ]
        .concat();
        let file = |offset, size| Member::File { offset, size };
        assert_eq!(
            scan(&tar).unwrap(),
            [("a\nb".into(), file(1536, 512)), ("a/long/name".into(), file(3584, 4))]
        );
    }

    #[test]
    fn an_archive_cut_short_says_where() {
        let tar = [entry("a", b'0', b"1234"), entry("b", b'0', &[1; 1000])].concat();
        assert_eq!(
            scan(&tar[..1024 + 512 + 999]).unwrap_err(),
            "a.tar is damaged at byte 2535: the archive ends here"
        );
        assert_eq!(
            scan(&tar[..1024 + 100]).unwrap_err(),
            "a.tar is damaged at byte 1024: there is no tar header"
        );
        // The last block's padding and the end marker may be missing.
        assert_eq!(scan(&tar[..1024 + 512 + 1000]).unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_tar_is_said_to_be_none() {
        for bytes in [&b""[..], b"hello", &[0; 4096], &[b'x'; 4096]] {
            assert_eq!(scan(bytes).unwrap_err(), "a.tar is not a tar archive");
        }
    }

    #[test]
    fn metadata_is_bounded() {
        let tar = [header("x", b'L', 1 << 40).as_bytes().to_vec(), vec![b'a'; 4096]].concat();
        assert_eq!(
            scan(&tar).unwrap_err(),
            "a.tar is damaged at byte 512: a name or PAX header has more than 1 MiB"
        );
        for record in ["99 path=a\n", "path=a\n", "9 path=a", "0 a=b\n", "8 size=x\n", "11 size=-1\n"] {
            let tar = [entry("pax", b'x', record.as_bytes()), entry("a", b'0', b"")].concat();
            assert!(scan(&tar).unwrap_err().contains("PAX"), "{record}");
        }
    }

    #[test]
    fn every_prefix_and_every_flipped_byte_ends_without_a_panic() {
        let tar = [
            entry("pax", b'x', b"12 path=a\nb\n"),
            entry("x", b'0', b"content"),
            entry("l", b'2', b""),
            entry("s", b'S', b"12345"),
            vec![0; 1024],
        ]
        .concat();
        let good = scan(&tar).unwrap();
        for i in 0..tar.len() {
            assert!(!scan(&tar[..i]).is_ok_and(|members| members.len() > good.len()));
            let mut flipped = tar.clone();
            flipped[i] ^= 0xff;
            let header = i / 512 * 512;
            if [0, 1024, 2048, 2560].contains(&header) {
                let checked = &mut flipped[header..header + 512];
                let mut resummed = tar::Header::new_old();
                resummed.as_mut_bytes().copy_from_slice(checked);
                resummed.set_cksum();
                checked.copy_from_slice(resummed.as_bytes());
            }
            let _ = scan(&flipped);
        }
    }
}
