//! A copy as a tar: POSIX format, with extended headers (pax(1)) for what the plain ones cannot say.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use tar::{Builder, EntryType, Header};

use super::walk::{PIECE, Sink, Tally};
use crate::cli::output::error::CommandError;
use crate::cli::output::printer::cannot_write;
use crate::gateway::{FileReader, FileStat};
use crate::index::FileType;

const BLOCK: u64 = 512;
/// The largest numbers that a plain header's fields hold.
const MAX_ID: u32 = 0o7_777_777;
const MAX_SIZE: u64 = 0o77_777_777_777;

/// Writes a tar. Holes are written out as zeros.
pub struct Archive<W: Write> {
    builder: Builder<W>,
    tally: Tally,
}

impl<W: Write> Archive<W> {
    /// Writes to `to`.
    pub fn new(to: W) -> Archive<W> {
        Archive { builder: Builder::new(to), tally: Tally::default() }
    }

    /// What was written to, to be flushed.
    pub fn into_inner(self) -> io::Result<W> {
        self.builder.into_inner()
    }

    fn header(
        &mut self,
        name: &Path,
        file: &FileStat,
        entry_type: EntryType,
        target: &Path,
    ) -> io::Result<()> {
        let mut header = Header::new_ustar();
        let mut records: Vec<(String, Vec<u8>)> = Vec::new();
        header.set_entry_type(entry_type);
        header.set_mode(file.perm.into());
        let mut name = name.as_os_str().as_bytes().to_vec();
        if entry_type == EntryType::Directory {
            name.push(b'/');
        }
        for (key, value, field) in
            [("path", name.as_slice(), 0..100), ("linkpath", target.as_os_str().as_bytes(), 157..257)]
        {
            let room = &mut header.as_mut_bytes()[field];
            let fits = value.len().min(room.len());
            room[..fits].copy_from_slice(&value[..fits]);
            if value.len() > room.len() {
                records.push((key.to_owned(), value.to_vec()));
            }
        }
        let mut number = |key: &str, value: u64, max: u64| match value > max {
            true => {
                records.push((key.to_owned(), value.to_string().into_bytes()));
                0
            }
            false => value,
        };
        header.set_uid(number("uid", file.uid.into(), MAX_ID.into()));
        header.set_gid(number("gid", file.gid.into(), MAX_ID.into()));
        let size = if entry_type == EntryType::Regular { file.size } else { 0 };
        header.set_size(number("size", size, MAX_SIZE));
        let whole = u64::try_from(file.mtime.secs).ok().filter(|&secs| secs <= MAX_SIZE);
        header.set_mtime(whole.unwrap_or(0));
        if whole.is_none() || file.mtime.nanos != 0 {
            records.push(("mtime".to_owned(), decimal(file).into_bytes()));
        }
        if matches!(entry_type, EntryType::Char | EntryType::Block) {
            header.set_device_major(file.device.0)?;
            header.set_device_minor(file.device.1)?;
        }
        // A link to a file brings the attributes that the file has already.
        if entry_type != EntryType::Link {
            for (key, value) in &file.xattrs {
                // The name of a record is text, and ends at its first `=`.
                match std::str::from_utf8(key) {
                    Ok(key) if !key.contains('=') => {
                        records.push((format!("SCHILY.xattr.{key}"), value.clone()));
                    }
                    _ => self.tally.xattrs_lost += 1,
                }
            }
        }
        header.set_cksum();
        let records: Vec<(&str, &[u8])> = records.iter().map(|(key, value)| (&**key, &**value)).collect();
        if !records.is_empty() {
            self.builder.append_pax_extensions(records)?;
        }
        self.tally.files += 1;
        self.builder.append(&header, io::empty())
    }

    fn content(&mut self, file: &FileStat, mut content: FileReader<'_>) -> Result<(), CommandError> {
        let mut piece = vec![0; PIECE];
        let mut left = file.size;
        while left > 0 {
            let room = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let n = content.read(&mut piece[..room])?;
            // A tar cannot take back the length that it has announced.
            if n == 0 {
                return Err(cannot_write(io::ErrorKind::UnexpectedEof.into()));
            }
            self.builder.get_mut().write_all(&piece[..n]).map_err(cannot_write)?;
            left -= n as u64;
        }
        self.tally.bytes += file.size;
        let padding = (BLOCK - file.size % BLOCK) % BLOCK;
        self.builder.get_mut().write_all(&[0; BLOCK as usize][..padding as usize]).map_err(cannot_write)
    }
}

impl<W: Write> Sink for Archive<W> {
    fn put(
        &mut self,
        name: &Path,
        file: &FileStat,
        content: Option<FileReader<'_>>,
    ) -> Result<(), CommandError> {
        let entry_type = match file.file_type {
            FileType::Regular => EntryType::Regular,
            FileType::Directory => EntryType::Directory,
            FileType::Symlink => EntryType::Symlink,
            FileType::CharDevice => EntryType::Char,
            FileType::BlockDevice => EntryType::Block,
            FileType::Fifo => EntryType::Fifo,
            // A tar has no type for it, as little as sense in it.
            FileType::Socket => return Ok(()),
        };
        let target = file.link_target.as_deref().unwrap_or(Path::new(""));
        self.header(name, file, entry_type, target).map_err(cannot_write)?;
        match content {
            Some(content) => self.content(file, content),
            None => Ok(()),
        }
    }

    fn link(&mut self, name: &Path, file: &FileStat, first: &Path) -> Result<(), CommandError> {
        self.header(name, file, EntryType::Link, first).map_err(cannot_write)
    }

    fn finish(&mut self) -> Result<Tally, CommandError> {
        self.builder.finish().map_err(cannot_write)?;
        Ok(self.tally)
    }
}

/// A modification time as an extended header has it.
fn decimal(file: &FileStat) -> String {
    let ns = file.mtime_ns();
    let (sign, ns) = if ns < 0 { ("-", -ns) } else { ("", ns) };
    let (whole, fraction) = (ns / 1_000_000_000, ns % 1_000_000_000);
    let digits = format!("{sign}{whole}.{fraction:09}");
    digits.trim_end_matches('0').trim_end_matches('.').to_owned()
}
