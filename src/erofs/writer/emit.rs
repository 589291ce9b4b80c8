//! One inode, written: itself, its attributes, and its content as far as the image holds that.

use std::io;

use zerocopy::IntoBytes;
use zerocopy::little_endian::{I64, U16, U32, U64};

use super::{Content, Item, Shape, Spot, Writer};
use crate::erofs::ErofsError;
use crate::erofs::area::Area;
use crate::erofs::chunks::{self, Cut, DataRun};
use crate::erofs::directory::Packer;
use crate::erofs::format::{self, DataLayout, Inode, NULL_ADDR, SLOT};
use crate::fuse::{Attributes, Node, NodeKind};
use crate::index::{FileType, Ino, ReadError, TreeError};

/// What is copied at once, in bytes.
const COPY: usize = 1 << 20;

/// The two parts of the image that are written side by side.
pub(super) struct Parts<'a, 'f> {
    pub(super) inodes: &'a mut Area<'f>,
    pub(super) blocks: &'a mut Area<'f>,
}

impl Writer<'_> {
    /// Writes an inode, and its content as far as it is to stand in the image: what takes blocks begins with block `start`.
    pub(super) fn emit(
        &mut self,
        item: &Item,
        shape: &Shape,
        spot: &Spot,
        start: u32,
        parts: &mut Parts<'_, '_>,
    ) -> Result<(), ErofsError> {
        let Parts { inodes, blocks } = parts;
        let mut behind = Vec::new();
        if spot.blocks > 0 {
            blocks.pass_to(u64::from(start) * self.block)?;
        }
        let first = if spot.blocks > 0 { start } else { NULL_ADDR };
        let flat = if spot.inline > 0 { DataLayout::FlatInline } else { DataLayout::FlatPlain };
        let (layout, body) = match &shape.content {
            Content::None => match item.attributes.file_type {
                FileType::Regular => (DataLayout::FlatPlain, NULL_ADDR),
                _ => (DataLayout::FlatPlain, format::device_number(item.attributes.device)),
            },
            Content::Inside(bytes) => {
                let (whole, tail) = bytes.split_at(bytes.len() - spot.inline as usize);
                blocks.write(whole)?;
                behind.extend_from_slice(tail);
                (flat, first)
            }
            Content::Gathered => {
                match item.attributes.file_type {
                    FileType::Directory => self.gather_directory(item.node, spot, blocks, &mut behind)?,
                    _ => self.gather_file(item.node, shape.size, spot, blocks, &mut behind)?,
                }
                (flat, first)
            }
            Content::On(device, at) => (DataLayout::FlatPlain, self.devices.address(*device, *at)?),
            Content::Chunks(cut, _) => (DataLayout::ChunkBased, cut.bits),
        };
        let Attributes { file_type, perm, nlink, uid, gid, mtime, .. } = item.attributes;
        let inode = Inode {
            format: U16::new(layout.format()),
            xattr_count: U16::new(shape.xattrs.count()),
            mode: U16::new(file_type.mode_bits() | perm),
            size: U64::new(shape.size),
            body: U32::new(body),
            ino: U32::new((spot.at / SLOT) as u32),
            uid: U32::new(uid),
            gid: U32::new(gid),
            mtime: I64::new(mtime.secs),
            mtime_nanos: U32::new(mtime.nanos),
            nlink: U32::new(nlink),
            ..Inode::default()
        };
        inodes.write(inode.as_bytes())?;
        inodes.write(shape.xattrs.bytes())?;
        if let (Content::Chunks(cut, _), NodeKind::Inode(tree, ino)) = (&shape.content, item.kind) {
            return self.emit_map(item, (tree, ino), *cut, start, parts);
        }
        if behind.len() as u64 != spot.inline {
            return Err(TreeError::Corrupt("it answered otherwise the second time").into());
        }
        Ok(inodes.write(&behind)?)
    }

    fn gather_directory(
        &self,
        node: Node,
        spot: &Spot,
        blocks: &mut Area<'_>,
        behind: &mut Vec<u8>,
    ) -> Result<(), ErofsError> {
        let mut packer = Packer::new(self.block);
        self.list(node, &mut |name, node, file_type| {
            let nid = self.nid(node).ok_or(TreeError::Corrupt("a name leads to nothing"))?;
            let file_type = format::dirent_type(file_type);
            Ok(packer.add(name, nid.into(), file_type, &mut |block| blocks.write(block))?)
        })?;
        let rest = packer.finish();
        match spot.inline {
            0 => blocks.write(&rest)?,
            _ => *behind = rest,
        }
        Ok(())
    }

    fn gather_file(
        &self,
        node: Node,
        size: u64,
        spot: &Spot,
        blocks: &mut Area<'_>,
        behind: &mut Vec<u8>,
    ) -> Result<(), ErofsError> {
        self.copy(node, 0, size - spot.inline, blocks)?;
        behind.resize(spot.inline as usize, 0);
        self.read(node, size - spot.inline, behind)
    }

    /// Writes the map of a sparse file, and copies what is to be copied of it.
    fn emit_map(
        &self,
        item: &Item,
        (number, ino): (usize, Ino),
        cut: Cut,
        start: u32,
        parts: &mut Parts<'_, '_>,
    ) -> Result<(), ErofsError> {
        let Parts { inodes, blocks } = parts;
        let Some(tree) = self.trees.get(number) else { return Ok(()) };
        let chunk = self.block << cut.bits;
        let (mut copied, mut next) = (Copied::default(), 0);
        chunks::data_runs(&**tree, ino, &mut |run| {
            if cut.copied {
                let nth = copied.take(run, chunk, &mut |number, nth| {
                    holes(inodes, number - next)?;
                    next = number + 1;
                    let address = u64::from(start) + (nth << cut.bits);
                    Ok(inodes.write(&(address as u32).to_le_bytes())?)
                })?;
                blocks.pass_to(u64::from(start) * self.block + nth * chunk + run.offset % chunk)?;
                return self.copy(item.node, run.offset, run.len, blocks);
            }
            let place = self.devices.locate(number, item.layer, run.at, run.len)?;
            let (device, place) = place.ok_or(TreeError::Corrupt("a run on no device"))?;
            holes(inodes, run.offset / chunk - next)?;
            next = (run.offset + run.len).div_ceil(chunk);
            for number in run.offset / chunk..next {
                let address = self.devices.address(device, place + (number * chunk - run.offset))?;
                inodes.write(&address.to_le_bytes())?;
            }
            Ok(())
        })?;
        Ok(holes(inodes, cut.count - next)?)
    }

    /// Copies bytes of a file.
    fn copy(&self, node: Node, mut at: u64, mut left: u64, to: &mut Area<'_>) -> Result<(), ErofsError> {
        let mut buffer = vec![0; COPY.min(usize::try_from(left).unwrap_or(COPY))];
        while left > 0 {
            let n = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let piece = buffer.get_mut(..n).unwrap_or_default();
            self.read(node, at, piece)?;
            to.write(piece)?;
            at += n as u64;
            left -= n as u64;
        }
        Ok(())
    }

    /// Fills `buf` from byte `at` of a file, which does not end before.
    fn read(&self, node: Node, at: u64, buf: &mut [u8]) -> Result<(), ErofsError> {
        match self.view.read(node, at, buf)? == buf.len() {
            true => Ok(()),
            false => Err(ReadError::Short { wanted: at.saturating_add(buf.len() as u64) }.into()),
        }
    }
}

/// The chunks of a sparse file that are copied.
#[derive(Default)]
pub(super) struct Copied {
    /// How many there are.
    pub(super) count: u64,
    next: u64,
}

impl Copied {
    /// Takes in a run of data, and says which of the chunks that are copied it begins in; `new` is told the number of each chunk
    /// that no run before it needs, and which it is of those that are copied.
    pub(super) fn take(
        &mut self,
        run: DataRun,
        chunk: u64,
        new: &mut dyn FnMut(u64, u64) -> Result<(), ErofsError>,
    ) -> Result<u64, ErofsError> {
        let first = run.offset / chunk;
        let nth = self.count - u64::from(first < self.next);
        let end = run.offset.saturating_add(run.len).div_ceil(chunk);
        for number in first.max(self.next)..end {
            new(number, self.count)?;
            self.count += 1;
        }
        self.next = self.next.max(end);
        Ok(nth)
    }
}

/// Writes addresses of holes.
fn holes(inodes: &mut Area<'_>, count: u64) -> io::Result<()> {
    (0..count).try_for_each(|_| inodes.write(&NULL_ADDR.to_le_bytes()))
}
