//! Which directories of names, and which sources, the kernel knows of.
//!
//! A slot is made when a name is looked up or listed. It goes when the kernel has let go of all its nodes and the name leads
//! to something else; or, where slots become scarce, to the same.

use std::collections::HashMap;
use std::sync::Arc;

use super::number::MAX_SLOTS;
use crate::fuse::names::{Item, SourceName};

/// The slot of the top directory.
pub(super) const TOP: u16 = 0;

/// Slots that are unused, and kept for names that are there.
const SPARE: usize = 16 << 10;

/// What a slot stands for.
#[derive(Clone, Debug)]
pub(super) enum Role {
    /// The directory of names at the slot's path.
    Directory,
    /// A source.
    Source(Arc<SourceSlot>),
}

/// A source that a name leads to.
#[derive(Debug)]
pub(super) struct SourceSlot {
    pub name: SourceName,
    pub key: SourceKey,
}

/// A source, as it is opened: another epoch is another opening of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SourceKey {
    pub key: String,
    pub epoch: u64,
}

pub(super) struct Slot {
    /// Names from the top, divided by `/`; empty for the top itself.
    pub path: Vec<u8>,
    pub role: Role,
    /// How often the kernel was given a node of it, and has not let go of it.
    pub held: u64,
}

/// What is found again by its path and its source.
type Identity = (Vec<u8>, Option<SourceKey>);

pub(super) struct Slots {
    by_number: HashMap<u16, Slot>,
    by_identity: HashMap<Identity, u16>,
    free: Vec<u16>,
    /// The first number that was never used.
    fresh: u32,
}

impl Default for Slots {
    fn default() -> Slots {
        let top = Slot { path: Vec::new(), role: Role::Directory, held: 1 };
        Slots {
            by_number: HashMap::from([(TOP, top)]),
            by_identity: HashMap::from([((Vec::new(), None), TOP)]),
            free: Vec::new(),
            fresh: u32::from(TOP) + 1,
        }
    }
}

impl Slot {
    fn identity(&self) -> Identity {
        let source = match &self.role {
            Role::Directory => None,
            Role::Source(source) => Some(source.key.clone()),
        };
        (self.path.clone(), source)
    }

    /// The directory that its name is in, and the name. `None` for the top.
    pub fn parent(&self) -> Option<(&[u8], &[u8])> {
        match self.path.iter().rposition(|&b| b == b'/') {
            Some(at) => Some((&self.path[..at], &self.path[at + 1..])),
            None if self.path.is_empty() => None,
            None => Some((b"", &self.path)),
        }
    }
}

impl Role {
    /// What an item is, in an epoch.
    pub fn of(item: &Item, epoch: u64) -> Role {
        match item {
            Item::Directory(_) => Role::Directory,
            Item::Source(source) => {
                let epoch = if source.renewable { epoch } else { 0 };
                let key = SourceKey { key: source.key.clone(), epoch };
                Role::Source(Arc::new(SourceSlot { name: source.clone(), key }))
            }
        }
    }
}

impl Slots {
    pub fn get(&self, number: u16) -> Option<&Slot> {
        self.by_number.get(&number)
    }

    /// The slot of the directory of names at a path.
    pub fn directory(&self, path: &[u8]) -> Option<u16> {
        self.by_identity.get(&(path.to_vec(), None)).copied()
    }

    /// The slot for what stands at a path, made if there is none. `None` if all are in use.
    pub fn slot(&mut self, path: &[u8], role: Role) -> Option<u16> {
        let slot = Slot { path: path.to_vec(), role, held: 0 };
        let identity = slot.identity();
        if let Some(&number) = self.by_identity.get(&identity) {
            return Some(number);
        }
        if self.by_number.len() >= SPARE {
            self.drop_where(|slot| slot.held == 0);
        }
        let number = self.free.pop().or_else(|| {
            let number = u16::try_from(self.fresh).ok()?;
            self.fresh += 1;
            (self.fresh <= MAX_SLOTS).then_some(number)
        })?;
        self.by_number.insert(number, slot);
        self.by_identity.insert(identity, number);
        Some(number)
    }

    /// Notes that the kernel is about to be given a node of a slot. Tells whether there is one.
    pub fn hold(&mut self, number: u16) -> bool {
        let slot = self.by_number.get_mut(&number);
        slot.map(|slot| slot.held = slot.held.saturating_add(1)).is_some()
    }

    /// Notes that the kernel has let go of nodes of a slot.
    pub fn let_go(&mut self, number: u16, times: u64) {
        if let Some(slot) = self.by_number.get_mut(&number).filter(|_| number != TOP) {
            slot.held = slot.held.saturating_sub(times);
        }
    }

    /// Drops what the kernel has nothing of and `gone` says it of.
    pub fn drop_where(&mut self, gone: impl Fn(&Slot) -> bool) {
        let (by_identity, free) = (&mut self.by_identity, &mut self.free);
        self.by_number.retain(|&number, slot| {
            let goes = number != TOP && slot.held == 0 && gone(slot);
            if goes {
                by_identity.remove(&slot.identity());
                free.push(number);
            }
            !goes
        });
    }

    pub fn iter(&self) -> impl Iterator<Item = (u16, &Slot)> {
        self.by_number.iter().map(|(&number, slot)| (number, slot))
    }
}
