//! A directory as EROFS stores it: blocks, each with its entries and then their names, in the order of the names.

use std::io;

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U64};

use super::format::Dirent;

/// How long a directory is that is made of names of these lengths.
#[derive(Clone, Copy)]
pub(super) struct Measure {
    block: u64,
    full: u64,
    used: u64,
}

impl Measure {
    pub(super) fn new(block: u64) -> Measure {
        Measure { block, full: 0, used: 0 }
    }

    /// Takes in one more name; tells whether it begins a block.
    pub(super) fn add(&mut self, name: usize) -> bool {
        let needed = (size_of::<Dirent>() + name) as u64;
        let begins = self.used + needed > self.block;
        if begins {
            self.full += 1;
            self.used = 0;
        }
        self.used += needed;
        begins
    }

    /// In bytes.
    pub(super) fn size(&self) -> u64 {
        self.full * self.block + self.used
    }
}

/// Lays out the blocks of a directory, one at a time.
pub(super) struct Packer {
    measure: Measure,
    entries: Vec<Dirent>,
    names: Vec<u8>,
}

impl Packer {
    pub(super) fn new(block: u64) -> Packer {
        Packer { measure: Measure::new(block), entries: Vec::new(), names: Vec::new() }
    }

    /// Adds an entry; a block that is full is handed to `full`, in its whole length.
    pub(super) fn add(
        &mut self,
        name: &[u8],
        nid: u64,
        file_type: u8,
        full: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.measure.add(name.len()) {
            let mut block = self.take();
            block.resize(self.measure.block as usize, 0);
            full(&block)?;
        }
        let offset = self.names.len() as u16;
        self.entries.push(Dirent {
            nid: U64::new(nid),
            name_offset: U16::new(offset),
            file_type,
            reserved: 0,
        });
        self.names.extend_from_slice(name);
        Ok(())
    }

    /// What is left, which may be as long as a block.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.take()
    }

    fn take(&mut self) -> Vec<u8> {
        let names = (self.entries.len() * size_of::<Dirent>()) as u16;
        for entry in &mut self.entries {
            entry.name_offset += names;
        }
        let mut block = self.entries.as_bytes().to_vec();
        block.append(&mut self.names);
        self.entries.clear();
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_is_what_is_packed() {
        for (count, length) in [(1, 1), (10, 200), (40, 1), (39, 1), (500, 255), (1000, 7)] {
            let (mut measure, mut packer, mut blocks) = (Measure::new(512), Packer::new(512), 0);
            for i in 0..count {
                let mut name = format!("{i:04}").into_bytes();
                name.resize(length, b'x');
                measure.add(name.len());
                packer
                    .add(&name, i, 1, &mut |block| {
                        assert_eq!(block.len(), 512);
                        blocks += 1;
                        Ok(())
                    })
                    .unwrap();
            }
            let rest = packer.finish();
            assert!(rest.len() <= 512 && !rest.is_empty());
            assert_eq!(measure.size(), blocks * 512 + rest.len() as u64, "{count} names of {length}");
        }
    }
}
