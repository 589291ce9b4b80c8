//! The operations of a catalog.

use std::fs::File;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use super::number::{inward, outward};
use super::slots::{Role, Slot, Slots, SourceKey, SourceSlot, TOP};
use super::sources::Opened;
use super::{Catalog, IdleName};
use crate::fuse::names::{Directory, Item, MAX_NAME, Outline};
use crate::fuse::node::{Node, Numbering};
use crate::fuse::operations::Operations;
use crate::fuse::view::{Access, Attributes, DESCRIPTION_NAME, ListedEntry, OpenDir, Space, View, ViewError};
use crate::index::{Certainty, DIRECTORY_SIZE, FileType, Ino, Run, Timestamp, Whence};

/// The name of mount 0 in the top directory of a source.
const ROOTFS: &[u8] = b"rootfs";

/// An odd number whose multiples are far from each other.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// What a node of a catalog stands for.
enum Spot {
    /// The directory of names at this path.
    Names(Vec<u8>),
    /// Something within a source.
    Source { slot: u16, source: Arc<SourceSlot>, local: Node },
}

impl Catalog {
    fn spot(&self, node: Node) -> Result<Spot, ViewError> {
        let (number, local) = inward(node);
        let slots = self.slots();
        match slots.get(number).map(|slot| (&slot.role, slot)) {
            Some((Role::Directory, slot)) if local == Node::ROOT => Ok(Spot::Names(slot.path.clone())),
            Some((Role::Source(source), _)) => {
                Ok(Spot::Source { slot: number, source: Arc::clone(source), local })
            }
            _ => Err(ViewError::NoSuchNode(node)),
        }
    }

    /// Asks the view of the source that a node is in, which is opened if it is not.
    fn in_source<T>(
        &self,
        node: Node,
        otherwise: ViewError,
        ask: impl FnOnce(&View, Node) -> Result<T, ViewError>,
    ) -> Result<T, ViewError> {
        match self.spot(node)? {
            Spot::Names(_) => Err(otherwise),
            Spot::Source { source, local, .. } => ask(&self.sources.open(&source.key)?.source.view, local),
        }
    }

    /// The slot of an entry of a directory of names; the caller has it until it is let go of, if it is to be held.
    fn slot_for(&self, path: &[u8], item: &Item, hold: bool) -> Result<u16, ViewError> {
        let role = Role::of(item, self.refreshed.load(Ordering::Acquire));
        let mut slots = self.slots_mut();
        let number = slots.slot(path, role).ok_or(ViewError::TooManyNodes)?;
        if hold {
            slots.hold(number);
        }
        Ok(number)
    }

    fn names_attributes(&self, slot: u16, directory: Option<&Directory>) -> Attributes {
        // Every entry is a directory.
        let nlink = directory.map_or(0, |directory| directory.entries().len()).saturating_add(2);
        self.directory(slot, Node::ROOT, self.options.mtime, u32::try_from(nlink).unwrap_or(u32::MAX), 0o555)
    }

    fn directory(&self, slot: u16, local: Node, mtime: Timestamp, nlink: u32, perm: u16) -> Attributes {
        Attributes {
            node: outward(slot, local).unwrap_or(Node::ROOT),
            file_type: FileType::Directory,
            perm,
            nlink,
            uid: self.options.uid,
            gid: self.options.gid,
            size: DIRECTORY_SIZE,
            blocks: DIRECTORY_SIZE / 512,
            block_size: 4096,
            mtime,
            device: (0, 0),
            certainty: Certainty::Provisional,
        }
    }

    /// The directory of a source, as it is seen from outside.
    fn top_of(&self, slot: u16, source: &SourceSlot) -> Result<Attributes, ViewError> {
        match self.sources.opened(&source.key) {
            Some(opened) => {
                let view = &opened.source.view;
                let found =
                    if view.is_flat() { view.attributes(Node::ROOT)? } else { self.unopened(slot, source) };
                Ok(Attributes { certainty: Certainty::Provisional, ..outside(slot, found)? })
            }
            None => Ok(Attributes {
                node: outward(slot, Node::ROOT).unwrap_or(Node::ROOT),
                ..self.unopened(slot, source)
            }),
        }
    }

    fn unopened(&self, slot: u16, source: &SourceSlot) -> Attributes {
        let attributes = self.directory(slot, Node::ROOT, source.name.mtime, 3, 0o555);
        Attributes { node: Node::ROOT, ..attributes }
    }

    /// The root filesystem of a source that nobody has entered.
    fn unopened_root(&self, slot: u16, source: &SourceSlot) -> Attributes {
        self.directory(slot, root_of_mount_0(), source.name.mtime, 2, 0o755)
    }

    /// The description of a source that nobody has entered. What it says takes the source, and so does its length: until it
    /// is read it has none, as a file of procfs.
    fn unopened_description(&self, slot: u16, source: &SourceSlot) -> Attributes {
        Attributes {
            node: outward(slot, Node::DESCRIPTION).unwrap_or(Node::ROOT),
            file_type: FileType::Regular,
            perm: 0o444,
            nlink: 1,
            size: 0,
            blocks: 0,
            ..self.unopened_root(slot, source)
        }
    }

    /// What a name in the top directory of an unopened source leads to, where that can be told.
    fn in_outline(&self, slot: u16, source: &SourceSlot, name: &[u8]) -> Option<Option<Attributes>> {
        match (source.name.outline, name) {
            (Outline::Unknown, _) => None,
            (_, DESCRIPTION_NAME) => Some(Some(self.unopened_description(slot, source))),
            (_, ROOTFS) => Some(Some(self.unopened_root(slot, source))),
            _ => Some(None),
        }
    }

    fn hold(&self, slot: u16) {
        self.slots_mut().hold(slot);
    }

    /// Drops slots and sources whose names lead to something else, as far as the kernel has nothing of them.
    pub(super) fn retire(&self) {
        let (names, epoch) = (self.names(), self.refreshed.load(Ordering::Acquire));
        self.slots_mut().drop_where(|slot| !is_current(&names, slot, epoch));
    }

    /// Closes what nobody uses, and names what the kernel should drop so that it can be closed. To be called now and then,
    /// not by whoever answers the kernel.
    pub fn housekeep(&self, idle: Duration, most: usize) -> Vec<IdleName> {
        self.retire();
        let (names, epoch) = (self.names(), self.refreshed.load(Ordering::Acquire));
        let mut by_age = self.sources.all();
        by_age.sort_by_key(|(_, opened)| opened.idle());
        let surplus: Vec<SourceKey> = by_age.iter().skip(most).map(|(key, _)| key.clone()).collect();
        let mut unheld = Vec::new();
        let mut asked = Vec::new();
        for (key, opened) in &by_age {
            let (mut held, mut named) = (false, false);
            let slots = self.slots();
            for (_, slot) in slots.iter().filter(|(_, slot)| is_of(slot, key)) {
                held |= slot.held > 0;
                named |= is_current(&names, slot, epoch);
                let old = opened.idle() >= idle || surplus.contains(key);
                if let (true, true, Some((dir, name))) = (slot.held > 0, old, slot.parent())
                    && let Some(dir) = slots.directory(dir).and_then(|dir| outward(dir, Node::ROOT))
                {
                    asked.push(IdleName { dir, name: name.to_vec() });
                }
            }
            let wanted = named && opened.idle() < idle && !surplus.contains(key);
            if !held && !wanted && !opened.source.view.is_filling() {
                unheld.push(key.clone());
            }
        }
        self.sources.close_where(|key, _| {
            // Looked at again: it may have been entered meanwhile.
            unheld.contains(key) && !self.slots().iter().any(|(_, slot)| is_of(slot, key) && slot.held > 0)
        });
        asked
    }

    fn slots(&self) -> RwLockReadGuard<'_, Slots> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots_mut(&self) -> RwLockWriteGuard<'_, Slots> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn list_names(
        &self,
        path: &[u8],
        names: &Directory,
        offset: u64,
        emit: &mut dyn FnMut(ListedEntry<'_>, &Item) -> bool,
    ) -> Result<(), ViewError> {
        // One that is gone is empty.
        let gone = Directory::default();
        let directory = names.at(path).unwrap_or(&gone);
        let (own, up) = {
            let slots = self.slots();
            let own = slots.directory(path).unwrap_or(TOP);
            let up = slots.get(own).and_then(|slot| slots.directory(slot.parent()?.0)).unwrap_or(TOP);
            (own, up)
        };
        let node = |slot| outward(slot, Node::ROOT).unwrap_or(Node::ROOT);
        let itself = Item::Directory(Directory::default());
        let dots = [(&b"."[..], node(own)), (b"..", node(up))];
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for ((name, node), next) in dots.into_iter().zip(1..).skip(skip) {
            if !emit(ListedEntry { name, node, file_type: FileType::Directory, next }, &itself) {
                return Ok(());
            }
        }
        for ((name, item), next) in directory.entries().zip(3..).skip(skip.saturating_sub(2)) {
            let slot = self.slot_for(&join(path, name), item, false)?;
            if !emit(ListedEntry { name, node: node(slot), file_type: FileType::Directory, next }, item) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The entries of the top of a source that is not open, where they can be told: names, nodes, types.
    fn list_outline(slot: u16, dir: Node, offset: u64, emit: &mut dyn FnMut(ListedEntry<'_>) -> bool) {
        let entries = [
            (&b"."[..], dir, FileType::Directory),
            (b"..", dir, FileType::Directory),
            (DESCRIPTION_NAME, outward(slot, Node::DESCRIPTION).unwrap_or(dir), FileType::Regular),
            (ROOTFS, outward(slot, root_of_mount_0()).unwrap_or(dir), FileType::Directory),
        ];
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for ((name, node, file_type), next) in entries.into_iter().zip(1..).skip(skip) {
            if !emit(ListedEntry { name, node, file_type, next }) {
                return;
            }
        }
    }
}

fn root_of_mount_0() -> Node {
    Numbering::Layered.node(0, Ino::ROOT)
}

/// Whether a name still leads to what a slot stands for.
fn is_current(names: &Directory, slot: &Slot, epoch: u64) -> bool {
    match &slot.role {
        Role::Directory => names.at(&slot.path).is_some(),
        Role::Source(source) => names
            .find(&slot.path)
            .is_some_and(|item| matches!(Role::of(&item, epoch), Role::Source(now) if now.key == source.key)),
    }
}

fn is_of(slot: &Slot, key: &SourceKey) -> bool {
    matches!(&slot.role, Role::Source(source) if source.key == *key)
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

/// The attributes that a view gives, under the session's number.
fn outside(slot: u16, found: Attributes) -> Result<Attributes, ViewError> {
    let node = outward(slot, found.node).ok_or(ViewError::TooManyNodes)?;
    Ok(Attributes { node, ..found })
}

impl Operations for Catalog {
    fn lookup(&self, dir: Node, name: &[u8]) -> Result<Option<Attributes>, ViewError> {
        if name.len() > MAX_NAME {
            return Err(ViewError::NameTooLong);
        }
        match self.spot(dir)? {
            Spot::Names(path) => {
                let (names, path) = (self.names(), join(&path, name));
                let Some(item) = names.find(&path) else { return Ok(None) };
                let slot = self.slot_for(&path, &item, true)?;
                let found = match Role::of(&item, self.refreshed.load(Ordering::Acquire)) {
                    Role::Directory => {
                        let Item::Directory(directory) = &*item else { return Ok(None) };
                        Ok(self.names_attributes(slot, Some(directory)))
                    }
                    Role::Source(source) => self.top_of(slot, &source),
                };
                if found.is_err() {
                    self.slots_mut().let_go(slot, 1);
                }
                found.map(Some)
            }
            Spot::Source { slot, source, local } => {
                let unopened = local == Node::ROOT && self.sources.opened(&source.key).is_none();
                let told = if unopened { self.in_outline(slot, &source, name) } else { None };
                let found = match told {
                    Some(told) => told,
                    None => {
                        let found = self.sources.open(&source.key)?.source.view.lookup(local, name)?;
                        found.map(|found| outside(slot, found)).transpose()?
                    }
                };
                if found.is_some() {
                    self.hold(slot);
                }
                Ok(found)
            }
        }
    }

    fn absence(&self, dir: Node) -> Certainty {
        match self.spot(dir) {
            Ok(Spot::Source { source, local, .. }) if local != Node::ROOT => self
                .sources
                .opened(&source.key)
                .map_or(Certainty::Provisional, |opened| opened.source.view.absence(local)),
            _ => Certainty::Provisional,
        }
    }

    fn forget(&self, node: Node, times: u64) {
        let (number, local) = inward(node);
        if let Ok(Spot::Source { source, .. }) = self.spot(node)
            && let Some(opened) = self.sources.opened(&source.key)
        {
            opened.source.view.forget(local, times);
        }
        self.slots_mut().let_go(number, times);
    }

    fn attributes(&self, node: Node) -> Result<Attributes, ViewError> {
        match self.spot(node)? {
            Spot::Names(path) => {
                let names = self.names();
                Ok(self.names_attributes(inward(node).0, names.at(&path)))
            }
            Spot::Source { slot, source, local: Node::ROOT } => self.top_of(slot, &source),
            Spot::Source { slot, source, local } => {
                let told = source.name.outline == Outline::RootAndDescription;
                match self.sources.opened(&source.key) {
                    None if told && local == root_of_mount_0() => Ok(self.unopened_root(slot, &source)),
                    None if told && local == Node::DESCRIPTION => {
                        Ok(self.unopened_description(slot, &source))
                    }
                    Some(opened) => outside(slot, opened.source.view.attributes(local)?),
                    None => outside(slot, self.sources.open(&source.key)?.source.view.attributes(local)?),
                }
            }
        }
    }

    fn attributes_of_open(&self, node: Node) -> Result<Attributes, ViewError> {
        match self.spot(node)? {
            Spot::Source { slot, source, local } if local != Node::ROOT => {
                outside(slot, self.sources.open(&source.key)?.source.view.attributes(local)?)
            }
            _ => self.attributes(node),
        }
    }

    fn access(&self, node: Node, access: Access) -> Result<(), ViewError> {
        match self.spot(node)? {
            Spot::Source { source, local, .. }
                if local != Node::ROOT && self.sources.opened(&source.key).is_some() =>
            {
                self.sources.open(&source.key)?.source.view.access(local, access)
            }
            _ if access.write => Err(ViewError::ReadOnly),
            _ => Ok(()),
        }
    }

    fn read_link(&self, node: Node) -> Result<Vec<u8>, ViewError> {
        self.in_source(node, ViewError::NotASymlink(node), |view, local| view.read_link(local))
    }

    fn read(&self, node: Node, offset: u64, buf: &mut [u8]) -> Result<usize, ViewError> {
        self.in_source(node, ViewError::NotAFile(node), |view, local| view.read(local, offset, buf))
    }

    fn seek(&self, node: Node, offset: u64, whence: Whence) -> Result<u64, ViewError> {
        self.in_source(node, ViewError::NotAFile(node), |view, local| view.seek(local, offset, whence))
    }

    fn xattr(&self, node: Node, name: &[u8]) -> Result<Vec<u8>, ViewError> {
        match self.spot(node)? {
            // ENOSYS would hold for the whole session.
            Spot::Source { source, local, .. } if local != Node::ROOT => {
                match self.sources.opened(&source.key) {
                    Some(opened) => match opened.source.view.xattr(local, name) {
                        Err(ViewError::NoXattrs) => Err(ViewError::NoSuchXattr),
                        answer => answer,
                    },
                    None => Err(ViewError::NoSuchXattr),
                }
            }
            _ => Err(ViewError::NoSuchXattr),
        }
    }

    fn xattr_names(&self, node: Node) -> Result<Vec<u8>, ViewError> {
        match self.spot(node)? {
            Spot::Source { source, local, .. } if local != Node::ROOT => {
                match self.sources.opened(&source.key) {
                    Some(opened) => match opened.source.view.xattr_names(local) {
                        Err(ViewError::NoXattrs) => Ok(Vec::new()),
                        answer => answer,
                    },
                    None => Ok(Vec::new()),
                }
            }
            _ => Ok(Vec::new()),
        }
    }

    fn open_dir(&self, node: Node) -> Result<OpenDir, ViewError> {
        match self.spot(node)? {
            Spot::Names(_) => Ok(OpenDir::of_names(node, self.names())),
            Spot::Source { source, local: Node::ROOT, .. }
                if source.name.outline == Outline::RootAndDescription
                    && self.sources.opened(&source.key).is_none() =>
            {
                Ok(node.into())
            }
            Spot::Source { source, local, .. } => {
                Ok(self.sources.open(&source.key)?.source.view.open_dir(local).outside(node))
            }
        }
    }

    fn keeps_listing(&self, dir: Node) -> bool {
        match self.spot(dir) {
            Ok(Spot::Source { source, local, .. }) if local != Node::ROOT => {
                self.sources.opened(&source.key).is_some_and(|opened| opened.source.view.keeps_listing(local))
            }
            _ => false,
        }
    }

    fn read_dir(
        &self,
        dir: &OpenDir,
        offset: u64,
        emit: &mut dyn FnMut(ListedEntry<'_>) -> bool,
    ) -> Result<(), ViewError> {
        match self.spot(dir.node())? {
            Spot::Names(path) => {
                let names = dir.names().cloned().unwrap_or_else(|| self.names());
                self.list_names(&path, &names, offset, &mut |entry, _| emit(entry))
            }
            Spot::Source { slot, source, local } => {
                let told = local == Node::ROOT && source.name.outline == Outline::RootAndDescription;
                match self.sources.opened(&source.key) {
                    None if told => {
                        Catalog::list_outline(slot, dir.node(), offset, emit);
                        Ok(())
                    }
                    opened => {
                        let opened = opened.map_or_else(|| self.sources.open(&source.key), Ok)?;
                        opened.source.view.list(local, dir, offset, &mut |entry| {
                            outward(slot, entry.node).is_some_and(|node| emit(ListedEntry { node, ..entry }))
                        })
                    }
                }
            }
        }
    }

    fn read_dir_plus(
        &self,
        dir: &OpenDir,
        offset: u64,
        emit: &mut dyn FnMut(ListedEntry<'_>, &Attributes) -> bool,
    ) -> Result<(), ViewError> {
        let mut give = |slot: u16, entry: ListedEntry<'_>, attributes: &Attributes| {
            let real = !matches!(entry.name, b"." | b"..");
            if real {
                self.hold(slot);
            }
            let taken = emit(entry, attributes);
            if real && !taken {
                self.slots_mut().let_go(slot, 1);
            }
            taken
        };
        match self.spot(dir.node())? {
            Spot::Names(path) => {
                let names = dir.names().cloned().unwrap_or_else(|| self.names());
                let epoch = self.refreshed.load(Ordering::Acquire);
                let mut failed = None;
                self.list_names(&path, &names, offset, &mut |entry, item| {
                    let slot = inward(entry.node).0;
                    let found = match Role::of(item, epoch) {
                        Role::Directory => {
                            let Item::Directory(directory) = item else { return false };
                            Ok(self.names_attributes(slot, Some(directory)))
                        }
                        Role::Source(source) => self.top_of(slot, &source),
                    };
                    match found {
                        Ok(attributes) => give(slot, entry, &attributes),
                        Err(error) => {
                            failed = Some(error);
                            false
                        }
                    }
                })?;
                failed.map_or(Ok(()), Err)
            }
            Spot::Source { slot, source, local } => {
                let told = local == Node::ROOT && source.name.outline == Outline::RootAndDescription;
                match self.sources.opened(&source.key) {
                    None if told => {
                        Catalog::list_outline(slot, dir.node(), offset, &mut |entry| {
                            let attributes = match entry.name {
                                ROOTFS => self.unopened_root(slot, &source),
                                DESCRIPTION_NAME => self.unopened_description(slot, &source),
                                _ => Attributes { node: entry.node, ..self.unopened(slot, &source) },
                            };
                            give(slot, entry, &attributes)
                        });
                        Ok(())
                    }
                    opened => {
                        let opened = opened.map_or_else(|| self.sources.open(&source.key), Ok)?;
                        opened.source.view.list_plus(local, dir, offset, &mut |entry, found| match (
                            outward(slot, entry.node),
                            outside(slot, *found),
                        ) {
                            (Some(node), Ok(found)) => give(slot, ListedEntry { node, ..entry }, &found),
                            _ => false,
                        })
                    }
                }
            }
        }
    }

    fn space(&self) -> Space {
        Space { blocks: 0, files: 0, block_size: 4096, name_max: MAX_NAME as u32 }
    }

    fn own_file(&self, _node: Node) -> Result<Option<Arc<File>>, ViewError> {
        Ok(None)
    }

    fn external(&self) -> Vec<(Run, Arc<File>)> {
        Vec::new()
    }

    fn is_final(&self) -> bool {
        false
    }

    fn generation(&self, node: Node) -> u64 {
        let of_source = match self.spot(node) {
            Ok(Spot::Source { source, local, .. }) => self
                .sources
                .opened(&source.key)
                .map_or(0, |opened: Arc<Opened>| opened.source.view.generation(local)),
            _ => 0,
        };
        // Spread, since that of a view which is complete is the highest there is.
        of_source.wrapping_add(self.sources.generation().wrapping_mul(SPREAD))
    }

    fn last_progress(&self, node: Node) -> Option<Instant> {
        match self.spot(node) {
            Ok(Spot::Source { source, local, .. }) => match self.sources.opened(&source.key) {
                Some(opened) => opened.source.view.last_progress(local),
                // Whoever opens it has deadlines of his own.
                None => self.sources.is_opening(&source.key).then(Instant::now),
            },
            _ => None,
        }
    }

    fn describe(&self, node: Node) -> String {
        match self.spot(node) {
            Ok(Spot::Names(path)) => format!("the directory {:?}", String::from_utf8_lossy(&path)),
            Ok(Spot::Source { slot, source, local }) => {
                let path = self.slots().get(slot).map(|slot| slot.path.clone()).unwrap_or_default();
                let within =
                    self.sources.opened(&source.key).map(|opened| opened.source.view.describe(local));
                format!("{:?}: {}", String::from_utf8_lossy(&path), within.as_deref().unwrap_or("not open"))
            }
            Err(_) => format!("{node:?}"),
        }
    }
}
