//! The superblock and the table of devices behind it: written last, and what an image is known by.

use std::fs::File;
use std::os::unix::fs::FileExt;

use zerocopy::IntoBytes;
use zerocopy::little_endian::{I64, U16, U32, U64};

use super::{ImageOptions, PAGE, TAR_BLOCK, Writer};
use crate::erofs::ErofsError;
use crate::erofs::devices::Device;
use crate::erofs::format::{self, DeviceSlot, SUPER_OFFSET, SuperBlock};
use crate::index::{Ino, TreeError};

/// How many extended attributes are missing in an image that was written with these options, and that has these devices; `None` if
/// a file is no such image, or not a whole one.
pub fn left_out(file: &File, options: &ImageOptions, devices: &[Device]) -> Option<u64> {
    let mut head = SuperBlock::default();
    file.read_exact_at(head.as_mut_bytes(), SUPER_OFFSET).ok()?;
    let block =
        1u64.checked_shl(head.block_bits.into()).filter(|block| (TAR_BLOCK..=PAGE).contains(block))?;
    let mut summed = vec![0; (block - SUPER_OFFSET % block) as usize];
    file.read_exact_at(&mut summed, SUPER_OFFSET).ok()?;
    summed.get_mut(4..8)?.fill(0);
    let is_whole = head.magic.get() == format::MAGIC
        && head.checksum.get() == format::checksum(&summed)
        && head.uuid == options.uuid
        && file.metadata().ok()?.len() == u64::from(head.blocks.get()) * block;
    if !is_whole || usize::from(head.extra_devices.get()) != devices.len() {
        return None;
    }
    for (number, device) in devices.iter().enumerate() {
        let mut slot = DeviceSlot { tag: [0; 64], blocks: 0.into(), start: 0.into(), reserved: [0; 56] };
        let at = SUPER_OFFSET as usize + size_of::<SuperBlock>() + number * size_of::<DeviceSlot>();
        file.read_exact_at(slot.as_mut_bytes(), at as u64).ok()?;
        if u64::from(slot.blocks.get()) != device.len.div_ceil(block) {
            return None;
        }
    }
    let name = std::str::from_utf8(&head.volume_name).ok()?.trim_end_matches('\0').strip_prefix(VOLUME)?;
    if name.is_empty() { Some(0) } else { name.strip_prefix('-')?.parse().ok() }
}

/// The name of an image as a volume; how many attributes are missing may follow.
const VOLUME: &str = "imagefs";

impl Writer<'_> {
    pub(super) fn write_head(
        &self,
        options: &ImageOptions,
        meta: u64,
        blocks: u32,
        out: &File,
    ) -> Result<(), ErofsError> {
        let mut incompat = format::INCOMPAT_CHUNKED_FILE;
        if !self.devices.all.is_empty() {
            incompat |= format::INCOMPAT_DEVICE_TABLE;
        }
        let root = self.view.own_nodes().first().copied().unwrap_or_else(|| self.view.node_of(0, Ino::ROOT));
        let root = self.nid(root).ok_or(TreeError::NoSuchInode(Ino::ROOT))?;
        let table_at = SUPER_OFFSET as usize + size_of::<SuperBlock>();
        let devices = u16::try_from(self.devices.all.len());
        let mut volume_name = [0; 16];
        let name = match self.xattrs.left_out {
            0 => VOLUME.to_owned(),
            // With a zero behind it, as the kernel wants it.
            missing => format!("{VOLUME}-{}", missing.min(9_999_999)),
        };
        volume_name[..name.len()].copy_from_slice(name.as_bytes());
        let mut head = SuperBlock {
            magic: U32::new(format::MAGIC),
            feature_compat: U32::new(format::COMPAT_SB_CHKSUM | format::COMPAT_MTIME),
            block_bits: self.block.trailing_zeros() as u8,
            // The first of all, so that it has a small number.
            root_nid: U16::new(root as u16),
            inodes: U64::new(self.inodes),
            epoch: I64::new(options.made.secs),
            epoch_nanos: U32::new(options.made.nanos),
            blocks: U32::new(blocks),
            meta_block: U32::new((meta / self.block) as u32),
            xattr_block: U32::new((self.xattr_start / self.block) as u32),
            uuid: options.uuid,
            volume_name,
            feature_incompat: U32::new(incompat),
            extra_devices: U16::new(devices.map_err(|_| ErofsError::TooLarge("the number of data files"))?),
            device_table: U16::new((table_at / size_of::<DeviceSlot>()) as u16),
            ..SuperBlock::default()
        };
        let mut table = Vec::new();
        for (number, device) in self.devices.all.iter().enumerate() {
            let mut tag = [0; 64];
            let name = format!("data file {number}, {} bytes", device.len);
            tag[..name.len()].copy_from_slice(name.as_bytes());
            let slot = DeviceSlot {
                tag,
                blocks: U32::new(device.blocks),
                start: U32::new(device.start),
                reserved: [0; 56],
            };
            table.extend_from_slice(slot.as_bytes());
        }
        out.write_all_at(&table, table_at as u64)?;
        out.write_all_at(head.as_bytes(), SUPER_OFFSET)?;
        // The checksum is of the superblock's block from there on.
        let mut summed = vec![0; (self.block - SUPER_OFFSET % self.block) as usize];
        out.read_exact_at(&mut summed, SUPER_OFFSET)?;
        head.checksum = U32::new(format::checksum(&summed));
        Ok(out.write_all_at(head.as_bytes(), SUPER_OFFSET)?)
    }
}
