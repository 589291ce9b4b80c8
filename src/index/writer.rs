//! Writes a finished tree as an index.

use std::io::{self, BufWriter, Seek, SeekFrom, Write};

use zerocopy::IntoBytes;
use zerocopy::little_endian::{I64, U16, U32, U64};

use super::format::{DentryRecord, ExtentRecord, Header, InodeRecord, LinkRecord, MAGIC, Section, VERSION};
use super::growing::{Body, GrowingTree, Inode};
use super::{FileType, Ino, Summary, Tree};

/// Writes `tree` to `out`, from its first byte. The same tree gives the same bytes.
///
/// `identity` says what the tree was made from; a reader compares it with what it looks for.
pub fn write_index<W: Write + Seek>(tree: &GrowingTree, identity: &[u8; 32], out: W) -> io::Result<Summary> {
    let order = Order::of(tree);
    let mut out = SectionWriter { out: BufWriter::with_capacity(1 << 18, out), offset: 0, open: None };
    let summary = tree.summary();
    out.write(&[0; size_of::<Header>()])?;

    out.begin();
    out.write(tree.xattrs.bytes())?;
    let xattrs = out.end()?;

    out.begin();
    let name_bytes: u64 = order.dentries.iter().map(|&d| tree.name_of(d).len() as u64).sum();
    let link_targets_at = write_inodes(tree, &order, name_bytes, &mut out)?;
    let inodes = out.end()?;

    out.begin();
    let mut name = 0u64;
    for &dentry in &order.dentries {
        let len = tree.name_of(dentry).len() as u8;
        let ino = tree.dentries[dentry as usize].ino().unwrap_or(Ino::ROOT);
        let file_type = tree.inodes[ino.0 as usize - 1].body.file_type();
        out.write(
            DentryRecord {
                ino: U32::new(ino.0),
                name: U32::new(offset(name)?),
                name_len: len,
                file_type: (file_type.mode_bits() >> 12) as u8,
                reserved: U16::ZERO,
            }
            .as_bytes(),
        )?;
        name += u64::from(len);
    }
    let dentries = out.end()?;

    out.begin();
    for extent in &tree.extents {
        let record = ExtentRecord {
            offset: U64::new(extent.offset),
            len: U64::new(extent.len),
            at: U64::new(extent.at),
        };
        out.write(record.as_bytes())?;
    }
    let extents = out.end()?;

    out.begin();
    for &dentry in &order.dentries {
        out.write(tree.name_of(dentry))?;
    }
    for inode in &tree.inodes {
        if let Body::Symlink { target, len, .. } = inode.body {
            out.write(tree.target(target, len))?;
        }
    }
    for (_, target) in &tree.links_out {
        out.write(target)?;
    }
    let names = out.end()?;

    out.begin();
    let mut target_at = link_targets_at;
    for (ino, target) in &tree.links_out {
        let record = LinkRecord {
            ino: U32::new(ino.0),
            target: U32::new(offset(target_at)?),
            target_len: U32::new(target.len() as u32),
        };
        out.write(record.as_bytes())?;
        target_at += target.len() as u64;
    }
    let links = out.end()?;

    let mut header = Header {
        magic: MAGIC,
        version: U32::new(VERSION),
        checksum: U32::ZERO,
        identity: *identity,
        inodes,
        dentries,
        extents,
        names,
        xattrs,
        links,
        used_inodes: U64::new(summary.inodes),
        entries: U64::new(summary.entries),
        bytes: U64::new(summary.bytes),
        has_xattrs: U32::new(u32::from(summary.xattrs)),
        reserved: U32::ZERO,
    };
    header.checksum = U32::new(crc32fast::hash(header.as_bytes()));
    let mut out = out.out;
    out.seek(SeekFrom::Start(0))?;
    out.write_all(header.as_bytes())?;
    out.flush()?;
    Ok(summary)
}

/// The names of a tree in the order of the index: by directory, then by name.
struct Order {
    dentries: Vec<u32>,
    /// For each inode, where its names begin; one more at the end.
    starts: Vec<u32>,
}

impl Order {
    fn of(tree: &GrowingTree) -> Order {
        let live = || tree.dentries.iter().enumerate().filter(|(_, d)| !d.dead && d.ino().is_some());
        let mut starts = vec![0u32; tree.inodes.len() + 2];
        for (_, dentry) in live() {
            starts[dentry.parent.0 as usize + 1] += 1;
        }
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        let mut next = starts.clone();
        let mut dentries = vec![0u32; *starts.last().unwrap_or(&0) as usize];
        for (number, dentry) in live() {
            let slot = &mut next[dentry.parent.0 as usize];
            dentries[*slot as usize] = number as u32;
            *slot += 1;
        }
        drop(next);
        for bounds in starts.windows(2) {
            let names = &mut dentries[bounds[0] as usize..bounds[1] as usize];
            // Most archives are sorted already.
            if !names.is_sorted_by_key(|&d| tree.name_of(d)) {
                names.sort_unstable_by_key(|&d| tree.name_of(d));
            }
        }
        Order { dentries, starts }
    }
}

/// Returns where in the name section the symlinks' targets end.
fn write_inodes<W: Write + Seek>(
    tree: &GrowingTree,
    order: &Order,
    name_bytes: u64,
    out: &mut SectionWriter<W>,
) -> io::Result<u64> {
    out.write(InodeRecord::default().as_bytes())?;
    let mut target_at = name_bytes;
    for (i, inode) in tree.inodes.iter().enumerate() {
        let (size, body) = match inode.body {
            Body::Gone => {
                out.write(InodeRecord::default().as_bytes())?;
                continue;
            }
            Body::Directory { .. } => {
                let (first, end) = (order.starts[i + 1], order.starts[i + 2]);
                let parent = tree.above(Ino(i as u32 + 1));
                let flag = if inode.implicit { InodeRecord::IMPLICIT } else { 0 };
                let pair = InodeRecord::from_pair(first, end - first).get();
                (u64::from(parent.0), U64::new(pair | flag))
            }
            Body::Contiguous { at } => (inode.size, U64::new(at)),
            Body::Sparse { first, count } => {
                let pair = InodeRecord::from_pair(first, count).get();
                (inode.size, U64::new(pair | InodeRecord::SPARSE))
            }
            Body::Symlink { parent, len, .. } => {
                let target = offset(target_at)?;
                target_at += u64::from(len);
                (u64::from(parent.0), InodeRecord::from_pair(target, u32::from(len)))
            }
            Body::Device { major, minor, .. } => (0, InodeRecord::from_pair(major, minor)),
            Body::Fifo => (0, U64::ZERO),
        };
        let Inode { mtime, uid, gid, nlink, xattrs, perm, layer, .. } = *inode;
        let mode = inode.body.file_type().mode_bits() | perm;
        let record = InodeRecord {
            size: U64::new(size),
            body,
            mtime: I64::new(mtime.secs),
            mtime_nanos: U32::new(mtime.nanos),
            uid: U32::new(uid),
            gid: U32::new(gid),
            nlink: U32::new(nlink),
            xattrs: U32::new(xattrs),
            mode: U16::new(mode),
            layer: U16::new(layer.0),
        };
        out.write(record.as_bytes())?;
    }
    Ok(target_at)
}

fn offset(n: u64) -> io::Result<u32> {
    u32::try_from(n).map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, "more than 4 GiB of names"))
}

/// Knows where in the file it is, and sums up the section that is open.
struct SectionWriter<W: Write + Seek> {
    out: BufWriter<W>,
    offset: u64,
    open: Option<(u64, crc32fast::Hasher)>,
}

impl<W: Write + Seek> SectionWriter<W> {
    fn begin(&mut self) {
        self.open = Some((self.offset, crc32fast::Hasher::new()));
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some((_, sum)) = &mut self.open {
            sum.update(bytes);
        }
        self.offset += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn end(&mut self) -> io::Result<Section> {
        let (start, sum) = self.open.take().unwrap_or_else(|| (self.offset, crc32fast::Hasher::new()));
        Ok(Section {
            offset: U64::new(start),
            len: U64::new(self.offset - start),
            checksum: U32::new(sum.finalize()),
            reserved: U32::ZERO,
        })
    }
}

const _: () = assert!(FileType::Socket.mode_bits() >> 12 <= u8::MAX as u16);
