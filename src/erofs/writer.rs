//! Writes a view as an EROFS image, in two passes: the first gives every inode its place, the second writes.
//!
//! ```text
//! superblock, devices │ attributes that are shared │ inodes, each with what fits behind it │ blocks
//! ```
//!
//! Between the passes 4 bytes are kept for each inode and 8 for each directory. The same view gives the same bytes.

mod emit;
mod listing;
mod superblock;

use std::fs::File;
use std::sync::Arc;

use self::emit::{Copied, Parts};
use super::ErofsError;
use super::area::Area;
use super::chunks::{self, ALL_CHUNKS, Alignment, Cut};
use super::devices::{Device, Devices, Placement};
use super::directory::Measure;
use super::format::{DeviceSlot, Inode, SLOT, SUPER_OFFSET, SuperBlock};
use super::xattrs::{Body, Xattrs};
use crate::fuse::{Attributes, Node, NodeKind, View};
use crate::index::{FileType, Filesystem, Ino, LayerNo, Timestamp, Tree, TreeError};

pub use self::superblock::left_out;

/// The block of an image in which nothing lies where a tar has it: a page, which `st_blksize` then tells.
const PAGE: u64 = 4096;

/// The block of a tar, and so of an image that points into one.
const TAR_BLOCK: u64 = 512;

/// How an image is written.
#[derive(Clone, Debug)]
pub struct ImageOptions {
    /// Where the bytes of files are to be found.
    pub placement: Placement,
    /// Names the image; what it was made from, if two are to have the same bytes.
    pub uuid: [u8; 16],
    /// When it counts as made.
    pub made: Timestamp,
}

/// An image that was written.
#[derive(Debug)]
pub struct Image {
    /// The data files that have to be given when it is mounted, in this order.
    pub devices: Vec<Device>,
    /// What `st_blksize` will be.
    pub block_size: u64,
    /// How many inodes it has.
    pub inodes: u64,
    /// How long it is, in bytes.
    pub size: u64,
    /// Extended attributes that are missing in it: EROFS has no room for their values, or nothing for their namespace.
    pub left_out: u64,
}

/// Writes what `view` shows to `out`, an empty file.
///
/// # Errors
/// [`ErofsError::NotFinal`] for what is still on its way; [`ErofsError::Borrowed`] where an archive of the user's would become a
/// device; and what else there may be.
pub fn write(view: &View, options: &ImageOptions, out: &File) -> Result<Image, ErofsError> {
    if !view.is_final() {
        return Err(ErofsError::NotFinal);
    }
    let trees = view.trees();
    let block = match options.placement {
        Placement::Inside => PAGE,
        Placement::Devices => TAR_BLOCK,
    };
    let devices = match options.placement {
        Placement::Inside => Devices::none(block),
        Placement::Devices => Devices::of(&trees, block)?,
    };
    let mut writer = Writer {
        view,
        placement: options.placement,
        block,
        nids: trees.iter().map(|tree| vec![0; usize::try_from(tree.inode_bound()).unwrap_or(0)]).collect(),
        trees,
        own: Vec::new(),
        devices,
        xattrs: Xattrs::default(),
        xattr_start: 0,
        directories: Vec::new(),
        chunks_left: ALL_CHUNKS,
        inodes: 0,
    };
    writer.run(options, out)
}

/// The devices that an image of `view` has, in the order in which they have to be given.
///
/// # Errors
/// As [`write()`].
pub fn devices(view: &View, placement: Placement) -> Result<Vec<Device>, ErofsError> {
    let mut devices = match placement {
        Placement::Inside => Devices::none(PAGE),
        Placement::Devices => Devices::of(&view.trees(), TAR_BLOCK)?,
    };
    Ok(std::mem::take(&mut devices.all))
}

struct Writer<'v> {
    view: &'v View,
    placement: Placement,
    block: u64,
    trees: Vec<Arc<Filesystem>>,
    /// For each tree and inode, where it stands.
    nids: Vec<Vec<u32>>,
    /// The same of the view's own nodes.
    own: Vec<(Node, u32)>,
    devices: Devices,
    xattrs: Xattrs,
    xattr_start: u64,
    /// How long the directories are, in the order in which they are met.
    directories: Vec<u64>,
    /// How many chunks exact maps may still have.
    chunks_left: u64,
    inodes: u64,
}

/// An inode of the image.
struct Item {
    node: Node,
    kind: NodeKind,
    attributes: Attributes,
    layer: LayerNo,
    has_xattrs: bool,
}

/// What there is to write of an inode.
struct Shape {
    xattrs: Body,
    size: u64,
    content: Content,
}

enum Content {
    /// Nothing, or a device's number.
    None,
    /// Bytes of the image.
    Inside(Vec<u8>),
    /// Bytes of the image, which are gathered when they are written: a directory or a file.
    Gathered,
    /// A byte of a device that begins a block.
    On(usize, u64),
    /// A map, and how many chunks of the file are copied into the image.
    Chunks(Cut, u64),
}

/// Where the parts of an inode stand.
struct Spot {
    at: u64,
    /// Blocks elsewhere.
    blocks: u64,
    /// Bytes behind it.
    inline: u64,
}

/// How far the places of inodes and blocks have been given away.
struct Cursor {
    inode: u64,
    blocks: u64,
}

impl Writer<'_> {
    fn run(&mut self, options: &ImageOptions, out: &File) -> Result<Image, ErofsError> {
        let slots = self.devices.all.len() as u64 * size_of::<DeviceSlot>() as u64;
        self.xattr_start =
            (SUPER_OFFSET + size_of::<SuperBlock>() as u64 + slots).next_multiple_of(self.block);
        let mut xattrs = Area::new(out, self.xattr_start);
        let mut cursor = Cursor { inode: SLOT, blocks: 0 };
        self.each(&mut |writer, item| {
            let shape = writer.measure(&item, Some(&mut xattrs))?;
            let spot = writer.spot(&shape, &mut cursor);
            let nid =
                u32::try_from(spot.at / SLOT).map_err(|_| ErofsError::TooLarge("all inodes together"))?;
            writer.inodes += 1;
            match item.kind {
                NodeKind::Own => writer.own.push((item.node, nid)),
                NodeKind::Inode(tree, Ino(ino)) => {
                    if let Some(place) = writer.nids.get_mut(tree).and_then(|nids| nids.get_mut(ino as usize))
                    {
                        *place = nid;
                    }
                }
            }
            Ok(())
        })?;
        xattrs.flush()?;
        let meta = xattrs.position().next_multiple_of(self.block);
        let blocks = (meta + cursor.inode).next_multiple_of(self.block);
        let end = blocks + cursor.blocks * self.block;
        let total = u32::try_from(end / self.block).map_err(|_| ErofsError::TooLarge("the image"))?;
        self.devices.place(total)?;

        self.chunks_left = ALL_CHUNKS;
        self.directories.reverse();
        let mut second = Cursor { inode: SLOT, blocks: 0 };
        let (mut inodes, mut content) = (Area::new(out, meta), Area::new(out, blocks));
        self.each(&mut |writer, item| {
            let shape = writer.measure(&item, None)?;
            let start = blocks / writer.block + second.blocks;
            let spot = writer.spot(&shape, &mut second);
            inodes.pass_to(meta + spot.at)?;
            let mut parts = Parts { inodes: &mut inodes, blocks: &mut content };
            writer.emit(&item, &shape, &spot, start as u32, &mut parts)
        })?;
        if (second.inode, second.blocks) != (cursor.inode, cursor.blocks) {
            return Err(TreeError::Corrupt("it answered otherwise the second time").into());
        }
        inodes.flush()?;
        content.flush()?;
        out.set_len(end)?;
        self.write_head(options, meta, total, out)?;
        Ok(Image {
            devices: std::mem::take(&mut self.devices.all),
            block_size: self.block,
            inodes: self.inodes,
            size: end,
            left_out: self.xattrs.left_out,
        })
    }

    /// Goes through all inodes, what stands at the mountpoint first.
    fn each(
        &mut self,
        visit: &mut dyn FnMut(&mut Self, Item) -> Result<(), ErofsError>,
    ) -> Result<(), ErofsError> {
        for node in self.view.own_nodes() {
            let attributes = self.view.attributes(node)?;
            let item =
                Item { node, kind: NodeKind::Own, attributes, layer: LayerNo::default(), has_xattrs: false };
            visit(self, item)?;
        }
        let labelled = self.view.lists_labels();
        let answers = self.view.answers_xattrs();
        for number in 0..self.trees.len() {
            let Some(tree) = self.trees.get(number).map(Arc::clone) else { continue };
            for ino in (1..tree.inode_bound()).filter_map(|ino| u32::try_from(ino).ok()).map(Ino) {
                let stat = match tree.stat(ino) {
                    // What was replaced in the archive leaves a gap.
                    Err(TreeError::NoSuchInode(_)) => continue,
                    stat => stat?,
                };
                let node = self.view.node_of(number, ino);
                let attributes = self.view.attributes(node)?;
                let has_xattrs = answers && (stat.has_xattrs || labelled);
                let kind = NodeKind::Inode(number, ino);
                visit(self, Item { node, kind, attributes, layer: stat.layer, has_xattrs })?;
            }
        }
        Ok(())
    }

    fn measure(&mut self, item: &Item, area: Option<&mut Area<'_>>) -> Result<Shape, ErofsError> {
        let first_pass = area.is_some();
        let xattrs = match item.has_xattrs {
            true => {
                let mut attributes = Vec::new();
                for name in
                    self.view.xattr_names(item.node)?.split(|&b| b == 0).filter(|name| !name.is_empty())
                {
                    attributes.push((name.to_vec(), self.view.xattr(item.node, name)?));
                }
                self.xattrs.body(&attributes, self.xattr_start, area)?
            }
            false => Body::default(),
        };
        let size = item.attributes.size;
        let (size, content) = match (item.attributes.file_type, item.kind) {
            (FileType::Directory, _) => {
                let size = match first_pass {
                    true => {
                        let mut measure = Measure::new(self.block);
                        self.list(item.node, &mut |name, _, _| {
                            measure.add(name.len());
                            Ok(())
                        })?;
                        self.directories.push(measure.size());
                        measure.size()
                    }
                    false => self.directories.pop().unwrap_or(0),
                };
                (size, Content::Gathered)
            }
            (FileType::Symlink, _) => {
                let target = self.view.read_link(item.node)?;
                (target.len() as u64, Content::Inside(target))
            }
            (FileType::Regular, _) if size == 0 => (0, Content::None),
            (FileType::Regular, NodeKind::Own) => (size, Content::Gathered),
            (FileType::Regular, NodeKind::Inode(tree, ino)) => (size, self.locate(tree, ino, item)?),
            (FileType::CharDevice | FileType::BlockDevice | FileType::Fifo | FileType::Socket, _) => {
                (0, Content::None)
            }
        };
        Ok(Shape { xattrs, size, content })
    }

    /// Where the bytes of a regular file are to stand.
    fn locate(&mut self, number: usize, ino: Ino, item: &Item) -> Result<Content, ErofsError> {
        let size = item.attributes.size;
        let Some(tree) = self.trees.get(number).map(Arc::clone) else { return Ok(Content::None) };
        let (mut whole, mut alignment) = (None, Alignment::new());
        chunks::data_runs(&*tree, ino, &mut |run| {
            let place = match self.placement {
                Placement::Devices => self.devices.locate(number, item.layer, run.at, run.len)?,
                Placement::Inside => None,
            };
            if run.offset == 0 && run.len == size {
                whole = Some(place);
            }
            alignment.add(run, size, place.map(|(_, at)| at));
            Ok(())
        })?;
        Ok(match whole {
            Some(Some((device, at))) if at.is_multiple_of(self.block) => Content::On(device, at),
            Some(_) => Content::Gathered,
            None => {
                let cut = alignment.cut(size, self.block, &mut self.chunks_left)?;
                let mut copied = Copied::default();
                if cut.copied {
                    chunks::data_runs(&*tree, ino, &mut |run| {
                        copied.take(run, self.block << cut.bits, &mut |_, _| Ok(())).map(drop)
                    })?;
                }
                Content::Chunks(cut, copied.count)
            }
        })
    }

    /// Gives an inode its place.
    fn spot(&self, shape: &Shape, cursor: &mut Cursor) -> Spot {
        let fixed = size_of::<Inode>() as u64 + shape.xattrs.len();
        let mut at = cursor.inode.next_multiple_of(SLOT);
        let (mut blocks, mut inline) = (0, 0);
        match &shape.content {
            Content::None | Content::On(..) => {}
            Content::Inside(_) | Content::Gathered => {
                let tail = shape.size % self.block;
                blocks = shape.size / self.block;
                if tail > 0 && fixed + tail <= self.block {
                    inline = tail;
                    // The kernel wants the inode and what stands behind it in one block.
                    if at % self.block + fixed + tail > self.block {
                        at = at.next_multiple_of(self.block);
                    }
                } else {
                    blocks += u64::from(tail > 0);
                }
            }
            Content::Chunks(cut, copied) => {
                inline = cut.count * 4;
                blocks = copied << cut.bits;
            }
        }
        cursor.inode = at + fixed + inline;
        cursor.blocks = cursor.blocks.saturating_add(blocks);
        Spot { at, blocks, inline }
    }
}
