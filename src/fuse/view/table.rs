//! The mounts that are shown, and those that were shown before and are still in use.
//!
//! The kernel keeps the numbers that it was given, and says how often when it lets go of them. A table that was replaced
//! is kept for as long as the kernel has any number of it: then whoever has a file open goes on reading it.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::shown::Shown;
use super::{BadMount, DESCRIPTION_NAME, ViewMount};
use crate::fuse::names::MAX_NAME;
use crate::fuse::node::MAX_SLOTS;
use crate::fuse::symlink::Destination;
use crate::index::{Filesystem, FillState};

/// Mounts that are shown together: the container mounts, and then the layers.
pub(super) struct Table {
    /// The slot of the first mount. Slots are counted through all tables of a session, so that no number comes twice.
    first: usize,
    pub mounts: Vec<ViewMount>,
    /// How many of them are container mounts.
    pub containers: usize,
    pub destinations: Vec<Destination>,
    /// What the kernel was shown of each of the mounts.
    shown: Vec<Shown>,
    /// How often the kernel was given a number of it, and has not let go of it.
    held: AtomicU64,
    /// Whether the kernel was told that none of its names leads anywhere, and has not asked for one since.
    withdrawn: AtomicBool,
}

impl Table {
    fn new(first: usize, mounts: Vec<ViewMount>, flat: bool) -> Result<Table, BadMount> {
        let mut names = HashSet::new();
        for mount in &mounts {
            let bytes = mount.name.as_bytes();
            let no_name = matches!(bytes, b"" | b"." | b"..") || bytes == DESCRIPTION_NAME;
            if no_name || bytes.len() > MAX_NAME || bytes.iter().any(|b| matches!(b, b'/' | 0)) {
                return Err(BadMount::Name(mount.name.clone()));
            }
            if !names.insert(bytes) {
                return Err(BadMount::Twice(mount.name.clone()));
            }
        }
        if mounts.is_empty() {
            return Err(BadMount::None);
        }
        if first.saturating_add(mounts.len()) > MAX_SLOTS {
            return Err(BadMount::TooMany);
        }
        let destinations = if flat { Vec::new() } else { destinations(&mounts) };
        let containers = mounts.len();
        Ok(Table {
            first,
            mounts,
            containers,
            destinations,
            shown: (0..containers).map(|_| Shown::default()).collect(),
            held: AtomicU64::new(0),
            withdrawn: AtomicBool::new(false),
        })
    }

    /// The number of one of its mounts among all that the session ever showed.
    pub fn slot(&self, index: usize) -> usize {
        self.first + index
    }

    /// Its mounts, if the kernel may have names of them.
    pub fn withdraw(self: &Arc<Table>) -> Vec<Mounted> {
        if self.withdrawn.swap(true, Ordering::AcqRel) {
            return Vec::new();
        }
        (0..self.mounts.len()).filter_map(|index| Mounted::new(Arc::clone(self), index)).collect()
    }

    /// The mounts that a session shows, flat or not.
    pub fn shown(&self, flat: bool) -> &[ViewMount] {
        if flat { self.mounts.get(..1).unwrap_or_default() } else { &self.mounts }
    }

    fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire) > 0
    }
}

fn destinations(mounts: &[ViewMount]) -> Vec<Destination> {
    let of = |(index, mount): (usize, &ViewMount)| {
        let paths: Vec<&[u8]> = match index {
            0 => vec![b"/"],
            _ => mount.destinations.iter().map(|path| path.as_os_str().as_bytes()).collect(),
        };
        let (path, spelled) = paths.split_first()?;
        let destination = Destination::new(index, path, mount.name.as_bytes(), mount.may_be_file);
        Some(spelled.iter().fold(destination, |destination, path| destination.or_spelled(path)))
    };
    mounts.iter().enumerate().filter_map(of).collect()
}

/// One mount of a table.
#[derive(Clone)]
pub(super) struct Mounted {
    table: Arc<Table>,
    /// Its place in the table.
    pub index: usize,
}

impl Mounted {
    /// `None` if the table has no such mount.
    pub fn new(table: Arc<Table>, index: usize) -> Option<Mounted> {
        (index < table.mounts.len()).then_some(Mounted { table, index })
    }

    /// Its number among all mounts that the session ever showed.
    pub fn slot(&self) -> usize {
        self.table.slot(self.index)
    }

    pub fn mount(&self) -> &ViewMount {
        &self.table.mounts[self.index]
    }

    pub fn filesystem(&self) -> &Filesystem {
        &self.mount().filesystem
    }

    /// What the kernel was shown of it.
    pub fn shown(&self) -> &Shown {
        &self.table.shown[self.index]
    }

    /// The root filesystem that it is shown beside.
    pub fn root(&self) -> &Filesystem {
        &self.table.mounts[0].filesystem
    }

    /// All that answers about what is in it, itself first: where a link leads, the root filesystem may know.
    pub fn filesystems(&self) -> impl Iterator<Item = &Filesystem> {
        let root = (self.index > 0 && self.layer().is_none()).then(|| self.root());
        std::iter::once(self.filesystem()).chain(root)
    }

    /// Notes that the kernel is about to learn of a name in it.
    pub fn touch(&self) {
        if self.table.withdrawn.load(Ordering::Acquire) {
            self.table.withdrawn.store(false, Ordering::Release);
        }
    }

    /// The number of the layer that it is, if it is one and no container mount.
    pub fn layer(&self) -> Option<usize> {
        self.index.checked_sub(self.table.containers)
    }

    /// Where its links may lead. A layer is nowhere in a container: its links stay in it.
    pub fn destinations(&self) -> &[Destination] {
        if self.layer().is_none() { &self.table.destinations } else { &[] }
    }
}

/// The table that is shown, and those from before that the kernel still holds.
pub(super) struct Tables(RwLock<Inner>);

struct Inner {
    current: Arc<Table>,
    older: Vec<Arc<Table>>,
}

impl Tables {
    pub fn new(mounts: Vec<ViewMount>, flat: bool) -> Result<Tables, BadMount> {
        let current = Arc::new(Table::new(0, mounts, flat)?);
        Ok(Tables(RwLock::new(Inner { current, older: Vec::new() })))
    }

    /// Adds the layers to the table. To be done before anything is shown of it.
    pub fn add_layers(&mut self, layers: Vec<ViewMount>) {
        let inner = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = Arc::get_mut(&mut inner.current) {
            table.shown.extend(layers.iter().map(|_| Shown::default()));
            table.mounts.extend(layers);
        }
    }

    pub fn current(&self) -> Arc<Table> {
        Arc::clone(&self.read().current)
    }

    /// The tables from before that are still held.
    pub fn older(&self) -> Vec<Arc<Table>> {
        self.read().older.clone()
    }

    /// The current table, which the kernel is about to be given a number of. If that does not come about, it is to be
    /// [let go](Tables::unhold) of.
    pub fn hold_current(&self) -> Arc<Table> {
        let inner = self.read();
        inner.current.held.fetch_add(1, Ordering::AcqRel);
        Arc::clone(&inner.current)
    }

    /// Takes back what [`Tables::hold_current`] did.
    pub fn unhold(&self, table: &Arc<Table>) {
        self.release(self.read(), table, 1);
    }

    /// The mount in a slot, as long as it is shown or held.
    pub fn get(&self, slot: usize) -> Option<Mounted> {
        self.read().get(slot)
    }

    /// Notes that the kernel is about to be given a number of this slot. Tells whether there is such a slot.
    pub fn hold(&self, slot: usize) -> bool {
        let inner = self.read();
        let mounted = inner.get(slot);
        if let Some(mounted) = &mounted {
            mounted.table.held.fetch_add(1, Ordering::AcqRel);
        }
        mounted.is_some()
    }

    /// Notes that the kernel has let go of numbers of this slot.
    pub fn let_go(&self, slot: usize, times: u64) {
        let inner = self.read();
        if let Some(Mounted { table, .. }) = inner.get(slot) {
            self.release(inner, &table, times);
        }
    }

    fn release(&self, inner: RwLockReadGuard<'_, Inner>, table: &Arc<Table>, times: u64) {
        let less = |held: u64| Some(held.saturating_sub(times));
        let _ = table.held.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        let gone = !table.is_held() && !Arc::ptr_eq(table, &inner.current);
        drop(inner);
        if gone {
            self.sweep();
        }
    }

    /// Shows other mounts from now on. Returns the table that was shown before.
    pub fn replace(&self, mounts: Vec<ViewMount>, flat: bool) -> Result<Arc<Table>, BadMount> {
        let before = {
            let mut inner = self.write();
            let first = inner.current.first + inner.current.mounts.len();
            let table = Arc::new(Table::new(first, mounts, flat)?);
            let before = std::mem::replace(&mut inner.current, table);
            inner.older.push(Arc::clone(&before));
            before
        };
        self.sweep();
        Ok(before)
    }

    /// Gives up the older tables that the kernel has nothing of any more.
    fn sweep(&self) {
        let mut inner = self.write();
        let (held, gone) = std::mem::take(&mut inner.older).into_iter().partition(|table| table.is_held());
        inner.older = held;
        drop(inner);
        // Not under the lock: it may free whole trees.
        drop::<Vec<Arc<Table>>>(gone);
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn get(&self, slot: usize) -> Option<Mounted> {
        let tables = std::iter::once(&self.current).chain(&self.older);
        tables.filter_map(|table| Mounted::new(Arc::clone(table), slot.checked_sub(table.first)?)).next()
    }
}

/// Whether there is nothing to come in any of these.
pub(super) fn are_ready(mounts: &[ViewMount]) -> bool {
    mounts.iter().all(|mount| mount.filesystem.state() == FillState::Ready)
}
