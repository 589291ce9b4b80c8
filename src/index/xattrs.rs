//! Sets of extended attributes, each kept once, in the form that they have in the index.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::growing::GrowError;

/// The most that the different sets of one tree may take, in bytes.
const MAX_TOTAL: usize = 128 << 20;

/// Names and values.
pub(super) type XattrSet = Vec<(Vec<u8>, Vec<u8>)>;

/// The sets of a growing tree: the whole section of the index that has them.
pub(super) struct XattrSets {
    bytes: Vec<u8>,
    count: u32,
    /// Where each set stands, and a hash of it.
    known: HashTable<(u32, u64)>,
    hash: RandomState,
}

impl Default for XattrSets {
    fn default() -> XattrSets {
        // The number of sets stands first, so that no set stands at 0.
        XattrSets { bytes: vec![0; 4], count: 0, known: HashTable::new(), hash: RandomState::new() }
    }
}

impl XattrSets {
    /// Where a set stands in the section; 0 for an empty one.
    pub fn intern(&mut self, set: &XattrSet) -> Result<u32, GrowError> {
        if set.is_empty() {
            return Ok(0);
        }
        let at = self.bytes.len();
        let put_number = |bytes: &mut Vec<u8>, n: usize| bytes.extend((n as u32).to_le_bytes());
        put_number(&mut self.bytes, set.len());
        for (name, value) in set {
            put_number(&mut self.bytes, name.len());
            put_number(&mut self.bytes, value.len());
            self.bytes.extend(name);
            self.bytes.extend(value);
        }
        let (before, new) = self.bytes.split_at(at);
        let hash = self.hash.hash_one(new);
        // A set says itself where it ends: what begins with another one is that one.
        let known = self.known.find(hash, |&(known, _)| before[known as usize..].starts_with(new));
        if let Some(&(known, _)) = known {
            self.bytes.truncate(at);
            return Ok(known);
        }
        if self.bytes.len() > MAX_TOTAL {
            return Err(GrowError::TooManyXattrs);
        }
        self.known.insert_unique(hash, (at as u32, hash), |&(_, hash)| hash);
        self.count += 1;
        self.bytes[..4].copy_from_slice(&self.count.to_le_bytes());
        Ok(at as u32)
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The section.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Hands the attributes of the set that stands at `at` of a section to `emit` until it returns `false`; `None` where the
/// section ends before the set does.
pub(super) fn read_set(section: &[u8], at: u32, emit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Option<()> {
    if at == 0 {
        return Some(());
    }
    let mut rest = section.get(at as usize..)?;
    let mut take = |n: usize| {
        let (head, tail) = rest.split_at_checked(n)?;
        rest = tail;
        Some(head)
    };
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_le_bytes) as usize;
    for _ in 0..number(take(4)?) {
        let (name_len, value_len) = (number(take(4)?), number(take(4)?));
        let (name, value) = (take(name_len)?, take(value_len)?);
        if !emit(name, value) {
            break;
        }
    }
    Some(())
}
