//! The block addresses of an image: those of the file itself, and behind them those of its devices, the data files.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::ErofsError;
use crate::index::{DataFile, Filesystem, LayerNo, Run, TreeError};

/// Where the bytes of regular files are to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Where they lie: the data files are the image's devices.
    Devices,
    /// In the image itself.
    Inside,
}

/// A file that is a device of the image.
#[derive(Debug)]
pub struct Device {
    /// It, open for reading.
    pub file: File,
    /// How long it is, in bytes.
    pub len: u64,
    id: (u64, u64),
    /// In blocks; set when all addresses before it are known.
    pub(super) start: u32,
    pub(super) blocks: u32,
}

/// The devices, and which bytes of a data file stand on which.
pub(super) struct Devices {
    pub(super) all: Vec<Device>,
    block: u64,
    /// For each tree and layer.
    maps: Vec<Vec<DataMap>>,
}

/// Where the bytes of one data file stand.
struct DataMap {
    main: usize,
    /// What stands apart: each with its device, and how many bytes do before it.
    apart: Vec<(Run, usize, u64)>,
}

impl Devices {
    /// None at all.
    pub(super) fn none(block: u64) -> Devices {
        Devices { all: Vec::new(), block, maps: Vec::new() }
    }

    /// The data files of these trees.
    pub(super) fn of(trees: &[Arc<Filesystem>], block: u64) -> Result<Devices, ErofsError> {
        let mut devices = Devices::none(block);
        for tree in trees {
            let mut maps = Vec::new();
            for data in tree.data_files().ok_or(ErofsError::NotFinal)? {
                maps.push(devices.map(data)?);
            }
            devices.maps.push(maps);
        }
        Ok(devices)
    }

    fn map(&mut self, data: &DataFile) -> Result<DataMap, ErofsError> {
        if data.is_borrowed() {
            return Err(ErofsError::Borrowed);
        }
        let main = self.add(data.file())?;
        let (mut apart, mut before) = (Vec::new(), 0);
        for (run, file) in data.external().list() {
            apart.push((run, self.add(&file)?, before));
            before += run.len;
        }
        Ok(DataMap { main, apart })
    }

    /// A file is one device, however often it is met: a layer that is also shown by itself has the same data.
    fn add(&mut self, file: &File) -> Result<usize, ErofsError> {
        let metadata = file.metadata()?;
        let id = (metadata.dev(), metadata.ino());
        if let Some(known) = self.all.iter().position(|device| device.id == id) {
            return Ok(known);
        }
        let blocks = u32::try_from(metadata.len().div_ceil(self.block));
        let blocks = blocks.map_err(|_| ErofsError::TooLarge("a data file"))?;
        self.all.push(Device { file: file.try_clone()?, len: metadata.len(), id, start: 0, blocks });
        Ok(self.all.len() - 1)
    }

    /// Gives addresses to the devices, from block `start` on. Returns where they end.
    pub(super) fn place(&mut self, start: u32) -> Result<(), ErofsError> {
        let mut next = start;
        for device in &mut self.all {
            device.start = next;
            next = next.checked_add(device.blocks).ok_or(ErofsError::TooLarge("all data files together"))?;
        }
        if next == u32::MAX { Err(ErofsError::TooLarge("all data files together")) } else { Ok(()) }
    }

    /// The device and the byte in it where `len` bytes of a data file stand together; `None` if they do not.
    pub(super) fn locate(
        &self,
        tree: usize,
        LayerNo(layer): LayerNo,
        at: u64,
        len: u64,
    ) -> Result<Option<(usize, u64)>, ErofsError> {
        let map = self.maps.get(tree).and_then(|maps| maps.get(usize::from(layer)));
        let map = map.ok_or(TreeError::Corrupt("an inode of an unknown layer"))?;
        let end = at.checked_add(len).ok_or(TreeError::Corrupt("content past 2^64"))?;
        let next = map.apart.partition_point(|(run, ..)| run.at.saturating_add(run.len) <= at);
        let found = match map.apart.get(next) {
            Some(&(run, device, _)) if run.at <= at => {
                (end - run.at <= run.len).then_some((device, at - run.at))
            }
            Some(&(run, _, before)) => (end <= run.at).then_some((map.main, at - before)),
            None => {
                let before = map.apart.last().map_or(0, |(run, _, before)| before + run.len);
                Some((map.main, at - before))
            }
        };
        let is_there = |&(device, at): &(usize, u64)| {
            self.all.get(device).is_some_and(|device| at.saturating_add(len) <= device.len)
        };
        match found {
            Some(found) if !is_there(&found) => Err(crate::index::ReadError::Short { wanted: end }.into()),
            found => Ok(found),
        }
    }

    /// The address of a byte of a device that begins a block.
    pub(super) fn address(&self, device: usize, at: u64) -> Result<u32, ErofsError> {
        let start = self.all.get(device).map_or(0, |device| device.start);
        u32::try_from(at / self.block)
            .ok()
            .and_then(|block| block.checked_add(start))
            .ok_or(ErofsError::TooLarge("all data files together"))
    }
}
