//! Writes all that is below a directory as a tar: depth first, the names of a directory in order, everything as it is stored.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::{device, is_device, xattr};

/// The unit of a tar, in bytes.
const BLOCK: u64 = 512;

/// Runs of a sparse file whose list may be sent: more of them are sent as one.
const MAX_RUNS: usize = 1024;

/// Writes what stands at `root`: a directory with all that is in it, or a single file by its own name.
pub fn write(root: &Path, output: &mut impl Write) -> io::Result<()> {
    let mut writer = Writer { output: io::BufWriter::with_capacity(256 << 10, output), names: HashMap::new() };
    let metadata = fs::symlink_metadata(root).map_err(|error| at(root, error))?;
    if metadata.is_dir() {
        writer.entry(root, b"./", &metadata)?;
        writer.dir(root, b"")?;
    } else {
        let name = root.file_name().unwrap_or_default().as_bytes();
        writer.entry(root, name, &metadata)?;
    }
    writer.output.write_all(&[0; 2 * BLOCK as usize])?;
    writer.output.flush()
}

struct Writer<W: Write> {
    output: io::BufWriter<W>,
    /// The first names of files that have several.
    names: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> Writer<W> {
    fn dir(&mut self, dir: &Path, path: &[u8]) -> io::Result<()> {
        let names = fs::read_dir(dir).map_err(|error| at(dir, error))?;
        let mut names: Vec<OsString> =
            names.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>().map_err(|error| at(dir, error))?;
        names.sort_unstable();
        for name in names {
            let place = dir.join(&name);
            let metadata = fs::symlink_metadata(&place).map_err(|error| at(&place, error))?;
            let mut path = [path, name.as_bytes()].concat();
            match metadata.is_dir() {
                true => {
                    path.push(b'/');
                    self.entry(&place, &path, &metadata)?;
                    self.dir(&place, &path)?;
                }
                // A tar has no sockets.
                false if metadata.file_type().is_socket() => {}
                false => self.entry(&place, &path, &metadata)?,
            }
        }
        Ok(())
    }

    fn entry(&mut self, place: &Path, path: &[u8], metadata: &Metadata) -> io::Result<()> {
        let failed = |error| at(place, error);
        let kind = metadata.file_type();
        let mut header = Header::new(path, metadata);
        let mut content = None;
        if metadata.nlink() > 1 && !kind.is_dir() {
            let inode = (metadata.dev(), metadata.ino());
            if let Some(first) = self.names.get(&inode) {
                header.kind = b'1';
                header.target.clone_from(first);
                return header.write(&mut self.output);
            }
            self.names.insert(inode, path.to_vec());
        }
        if kind.is_symlink() {
            header.kind = b'2';
            header.target = fs::read_link(place).map_err(failed)?.into_os_string().into_vec();
        } else if kind.is_dir() {
            header.kind = b'5';
        } else if is_device(&kind) {
            header.kind = if kind.is_char_device() { b'3' } else { b'4' };
            header.device = device(metadata.rdev());
        } else if kind.is_fifo() {
            header.kind = b'6';
        } else {
            let file = File::open(place).map_err(failed)?;
            header.size = metadata.size();
            // Fewer blocks than it has bytes: some of them are holes.
            let sparse = metadata.blocks().saturating_mul(BLOCK) < metadata.size();
            let runs = if sparse { xattr::runs(&file, metadata.size()).map_err(failed)? } else { Vec::new() };
            let sparse = sparse && runs.len() <= MAX_RUNS;
            header.runs = sparse.then(|| runs.clone());
            content = Some((file, if sparse { runs } else { vec![(0, metadata.size())] }));
        }
        header.xattrs = xattr::all(place).map_err(failed)?;
        header.write(&mut self.output)?;
        if let Some((file, runs)) = content {
            self.content(file, &runs).map_err(failed)?;
        }
        Ok(())
    }

    fn content(&mut self, mut file: File, runs: &[(u64, u64)]) -> io::Result<()> {
        let mut written = 0;
        for &(start, len) in runs {
            if len == 0 {
                continue;
            }
            if start > 0 {
                file.seek(SeekFrom::Start(start))?;
            }
            let copied = io::copy(&mut (&mut file).take(len), &mut self.output)?;
            if copied < len {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was read"));
            }
            written += len;
        }
        pad(&mut self.output, written)
    }
}

fn at(place: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{place:?}: {error}"))
}

fn pad(output: &mut impl Write, written: u64) -> io::Result<()> {
    let rest = written % BLOCK;
    let missing = if rest == 0 { 0 } else { BLOCK - rest };
    output.write_all(&[0; BLOCK as usize][..missing as usize])
}

struct Header {
    path: Vec<u8>,
    kind: u8,
    perm: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: (i64, i64),
    target: Vec<u8>,
    device: (u32, u32),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// What of a sparse file is no hole.
    runs: Option<Vec<(u64, u64)>>,
}

impl Header {
    fn new(path: &[u8], metadata: &Metadata) -> Header {
        Header {
            path: path.to_vec(),
            kind: b'0',
            perm: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            size: 0,
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            target: Vec::new(),
            device: (0, 0),
            xattrs: Vec::new(),
            runs: None,
        }
    }

    /// Writes the header, a PAX header before it for what does not fit in, and a sparse file's map behind it.
    fn write(&self, output: &mut impl Write) -> io::Result<()> {
        let map = self.runs.as_ref().map(|runs| {
            // A run of nothing at the end says how long the file is where that ends with a hole.
            let runs = runs.iter().copied().chain([(self.size, 0)]);
            let lines: String = runs.map(|(start, len)| format!("{start}\n{len}\n")).collect();
            format!("{}\n{lines}", self.runs.as_ref().map_or(0, Vec::len) + 1).into_bytes()
        });
        let stored = match (&self.runs, &map) {
            (Some(runs), Some(map)) => {
                (map.len() as u64).next_multiple_of(BLOCK) + runs.iter().map(|(_, len)| len).sum::<u64>()
            }
            _ => self.size,
        };
        let pax = self.pax(stored);
        if !pax.is_empty() {
            let len = pax.len() as u64;
            output.write_all(&block(b"pax", b'x', 0o644, 0, 0, len, 0, b"", (0, 0)))?;
            output.write_all(&pax)?;
            pad(output, len)?;
        }
        let mtime = u64::try_from(self.mtime.0).unwrap_or(0);
        output.write_all(&block(
            &self.path,
            self.kind,
            self.perm,
            self.uid,
            self.gid,
            stored,
            mtime,
            &self.target,
            self.device,
        ))?;
        if let Some(map) = map {
            output.write_all(&map)?;
            pad(output, map.len() as u64)?;
        }
        Ok(())
    }

    /// What an ustar header has no room for.
    fn pax(&self, stored: u64) -> Vec<u8> {
        let mut pax = Vec::new();
        if self.path.len() > 100 {
            record(&mut pax, b"path", &self.path);
        }
        if self.target.len() > 100 {
            record(&mut pax, b"linkpath", &self.target);
        }
        let (secs, nanos) = self.mtime;
        if nanos != 0 || !(0..1 << 33).contains(&secs) {
            // A negative time is counted down from the second.
            let text = match (secs, nanos) {
                (secs, nanos) if secs < 0 && nanos > 0 => {
                    format!("-{}.{:09}", -(secs + 1), 1_000_000_000 - nanos)
                }
                (secs, nanos) => format!("{secs}.{nanos:09}"),
            };
            record(&mut pax, b"mtime", text.as_bytes());
        }
        for (name, id) in [(&b"uid"[..], self.uid), (b"gid", self.gid)] {
            if id > 0o7_777_777 {
                record(&mut pax, name, id.to_string().as_bytes());
            }
        }
        if stored >= 1 << 33 {
            record(&mut pax, b"size", stored.to_string().as_bytes());
        }
        if self.runs.is_some() {
            record(&mut pax, b"GNU.sparse.major", b"1");
            record(&mut pax, b"GNU.sparse.minor", b"0");
            record(&mut pax, b"GNU.sparse.name", &self.path);
            record(&mut pax, b"GNU.sparse.realsize", self.size.to_string().as_bytes());
        }
        for (name, value) in &self.xattrs {
            record(&mut pax, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        pax
    }
}

/// A record, which begins with its own length.
fn record(pax: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let rest = name.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    pax.extend(len.to_string().bytes());
    pax.push(b' ');
    pax.extend(name);
    pax.push(b'=');
    pax.extend(value);
    pax.push(b'\n');
}

#[allow(clippy::too_many_arguments)]
fn block(
    path: &[u8],
    kind: u8,
    perm: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: u64,
    target: &[u8],
    device: (u32, u32),
) -> [u8; BLOCK as usize] {
    let mut block = [0; BLOCK as usize];
    let mut put = |at: usize, room: usize, bytes: &[u8]| {
        let n = bytes.len().min(room);
        block[at..at + n].copy_from_slice(&bytes[..n]);
    };
    // What is too large stands in the PAX header.
    let octal = |number: u64, digits: usize| {
        let text = format!("{number:0digits$o}");
        if text.len() > digits { "0".repeat(digits) } else { text }
    };
    put(0, 100, path);
    put(100, 8, octal(perm.into(), 7).as_bytes());
    put(108, 8, octal(uid.into(), 7).as_bytes());
    put(116, 8, octal(gid.into(), 7).as_bytes());
    put(124, 12, octal(size, 11).as_bytes());
    put(136, 12, octal(mtime, 11).as_bytes());
    put(148, 8, b"        ");
    put(156, 1, &[kind]);
    put(157, 100, target);
    put(257, 8, b"ustar\x0000");
    put(329, 8, octal(device.0.into(), 7).as_bytes());
    put(337, 8, octal(device.1.into(), 7).as_bytes());
    let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
