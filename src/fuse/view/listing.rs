//! What readdir returns: `.` and `..`, then the entries, each with the offset from which to go on.

use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::table::{Mounted, Table};
use super::{Attributes, DESCRIPTION_NAME, Spot, View, ViewError, layers};
use crate::fuse::names::Directory;
use crate::fuse::node::Node;
use crate::index::{DirCookie, DirEntry, FileType, Ino, Listing, Pinned, Tree, TreeError};

/// One entry of a directory, as readdir(3) returns it.
#[derive(Clone, Copy, Debug)]
pub struct ListedEntry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// What it names.
    pub node: Node,
    /// What that is.
    pub file_type: FileType,
    /// Where to go on after this entry.
    pub next: u64,
}

/// A directory that is being listed.
///
/// An offset in the listing of a mount that is being filled is good for the same `OpenDir` only.
pub struct OpenDir {
    node: Node,
    pinned: Option<PinnedListing>,
}

/// What is being listed, whatever becomes of it meanwhile.
enum PinnedListing {
    /// The order in which a mount came, and its slot.
    Tree(usize, Pinned),
    /// The names of a catalog.
    Names(Arc<Directory>),
}

impl OpenDir {
    /// A directory of names in a catalog.
    pub(in crate::fuse) fn of_names(node: Node, names: Arc<Directory>) -> OpenDir {
        OpenDir { node, pinned: Some(PinnedListing::Names(names)) }
    }

    /// The same directory, under the number that it has in a catalog.
    pub(in crate::fuse) fn outside(self, node: Node) -> OpenDir {
        OpenDir { node, ..self }
    }

    /// The directory.
    pub(in crate::fuse) fn node(&self) -> Node {
        self.node
    }

    /// The names that are being listed.
    pub(in crate::fuse) fn names(&self) -> Option<&Arc<Directory>> {
        match &self.pinned {
            Some(PinnedListing::Names(names)) => Some(names),
            _ => None,
        }
    }

    /// Whether it has to be kept until the listing is done; else one made [from](From) the node does as well.
    pub fn is_pinned(&self) -> bool {
        self.pinned.is_some()
    }
}

/// A directory that is listed in the order of a finished mount.
impl From<Node> for OpenDir {
    fn from(node: Node) -> OpenDir {
        OpenDir { node, pinned: None }
    }
}

/// The offset after `.`; the one after `..` follows.
const AFTER_DOT: u64 = 1;
const AFTER_DOT_DOT: u64 = 2;

/// The offsets of a tree's entries are its cookies, moved up by this.
const COOKIE_SHIFT: u64 = AFTER_DOT_DOT;

/// Entries that are gathered before their attributes are asked for.
const BATCH: usize = 64;

impl View {
    /// Begins to list a directory.
    pub fn open_dir(&self, node: Node) -> OpenDir {
        let pin = |(mounted, _): (Mounted, Ino)| {
            Some(PinnedListing::Tree(mounted.slot(), mounted.filesystem().pin()?))
        };
        OpenDir { node, pinned: self.mount_of(node).and_then(pin) }
    }

    /// Hands the entries of `dir` from `offset` on to `emit` until it returns `false` or there are no more.
    ///
    /// `offset` is 0, or the `next` of an entry. An entry for which `emit` returned `false` counts as not taken.
    /// While the mount is being filled, what has come is handed out; only where that is nothing, the answer is
    /// [`TreeError::NotYet`].
    pub fn read_dir(
        &self,
        dir: &OpenDir,
        offset: u64,
        emit: &mut dyn FnMut(ListedEntry<'_>) -> bool,
    ) -> Result<(), ViewError> {
        self.list(dir.node, dir, offset, emit)
    }

    /// As [`View::read_dir`], of a directory that is `node` here, and may have another number outside.
    pub(in crate::fuse) fn list(
        &self,
        node: Node,
        dir: &OpenDir,
        offset: u64,
        emit: &mut dyn FnMut(ListedEntry<'_>) -> bool,
    ) -> Result<(), ViewError> {
        match self.spot(node)? {
            Spot::Description(..) => Err(ViewError::NotADirectory(node)),
            Spot::Top => {
                self.list_top(offset, emit);
                Ok(())
            }
            Spot::Layers => {
                self.list_layers(offset, emit);
                Ok(())
            }
            Spot::Mount(mounted, ino) => self.list_tree(&mounted, (node, ino), dir, offset, emit),
        }
    }

    /// As [`View::read_dir`], with the attributes of each entry as far as they are known. The caller has what it takes, but
    /// for `.` and `..`, until it is [forgotten](View::forget).
    pub fn read_dir_plus(
        &self,
        dir: &OpenDir,
        offset: u64,
        emit: &mut dyn FnMut(ListedEntry<'_>, &Attributes) -> bool,
    ) -> Result<(), ViewError> {
        self.list_plus(dir.node, dir, offset, emit)
    }

    /// As [`View::read_dir_plus`], of a directory that is `node` here, and may have another number outside.
    pub(in crate::fuse) fn list_plus(
        &self,
        node: Node,
        dir: &OpenDir,
        mut offset: u64,
        emit: &mut dyn FnMut(ListedEntry<'_>, &Attributes) -> bool,
    ) -> Result<(), ViewError> {
        let mut emitted = false;
        loop {
            // A tree may hold a lock while it hands out entries, so it is not asked for attributes meanwhile.
            let mut batch = Batch::default();
            let more = match self.list(node, dir, offset, &mut |entry| batch.push(entry)) {
                Ok(()) => !batch.entries.is_empty(),
                Err(error) if batch.entries.is_empty() && !emitted => return Err(error),
                // What has been found is worth having; the error comes up again when the caller goes on.
                Err(_) => false,
            };
            for entry in batch.iter() {
                match self.give(node, entry, emit) {
                    Ok(true) => {
                        emitted = true;
                        offset = entry.next;
                    }
                    Ok(false) => return Ok(()),
                    Err(_) if emitted => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Hands out one entry with its attributes; tells whether it was taken.
    fn give(
        &self,
        dir: Node,
        entry: ListedEntry<'_>,
        emit: &mut dyn FnMut(ListedEntry<'_>, &Attributes) -> bool,
    ) -> Result<bool, ViewError> {
        if matches!(entry.name, b"." | b"..") {
            return Ok(emit(entry, &self.provisional_stat(entry.node)?));
        }
        let attributes = match (self.mount_of(dir), self.mount_of(entry.node)) {
            (Some((_, dir)), Some((mounted, ino))) => self.show(&mounted, dir, ino)?,
            _ => self.provisional_stat(entry.node)?,
        };
        let entry = ListedEntry { node: attributes.node, ..entry };
        // What is at the top may have been replaced since it was listed.
        if !self.hold(entry.node) {
            return Err(ViewError::NoSuchNode(entry.node));
        }
        let taken = emit(entry, &attributes);
        if !taken {
            self.forget(entry.node, 1);
        }
        Ok(taken)
    }

    fn list_top(&self, offset: u64, emit: &mut dyn FnMut(ListedEntry<'_>) -> bool) {
        let description = self.numbering.edition(self.editions.latest().0);
        let own = [
            (&b"."[..], Node::ROOT, FileType::Directory),
            (b"..", Node::ROOT, FileType::Directory),
            (DESCRIPTION_NAME, description, FileType::Regular),
        ];
        let table = self.tables.current();
        let layers = (table.containers < table.mounts.len()).then_some((
            layers::DIRECTORY_NAME,
            Node::LAYERS,
            FileType::Directory,
        ));
        let mounts = self.directories(&table).take(table.containers);
        list(own.into_iter().chain(mounts).chain(layers), offset, emit);
    }

    fn list_layers(&self, offset: u64, emit: &mut dyn FnMut(ListedEntry<'_>) -> bool) {
        let dots = [(&b"."[..], Node::LAYERS, FileType::Directory), (b"..", Node::ROOT, FileType::Directory)];
        let table = self.tables.current();
        list(dots.into_iter().chain(self.directories(&table).skip(table.containers)), offset, emit);
    }

    /// The directories of the container mounts, and then of the layers.
    fn directories<'t>(&self, table: &'t Table) -> impl Iterator<Item = (&'t [u8], Node, FileType)> {
        table.mounts.iter().enumerate().map(|(index, mount)| {
            let node = self.numbering.node(table.slot(index), Ino::ROOT);
            (mount.name.as_bytes(), node, FileType::Directory)
        })
    }

    fn list_tree(
        &self,
        mounted: &Mounted,
        (node, ino): (Node, Ino),
        dir: &OpenDir,
        offset: u64,
        emit: &mut dyn FnMut(ListedEntry<'_>) -> bool,
    ) -> Result<(), ViewError> {
        mounted.touch();
        let filesystem = mounted.filesystem();
        let mut emitted = false;
        let mut give = |name: &[u8], node: Node, file_type: FileType, next: u64| {
            let taken = emit(ListedEntry { name, node, file_type, next });
            emitted |= taken;
            taken
        };
        if offset < AFTER_DOT_DOT {
            let up = match ino {
                Ino::ROOT if mounted.layer().is_none() => Node::ROOT,
                Ino::ROOT => Node::LAYERS,
                _ => self.numbering.node(mounted.slot(), filesystem.parent(ino)?),
            };
            let dots = [(&b"."[..], node, AFTER_DOT), (b"..", up, AFTER_DOT_DOT)];
            for (name, node, next) in dots.into_iter().filter(|(_, _, next)| *next > offset) {
                if !give(name, node, FileType::Directory, next) {
                    return Ok(());
                }
            }
        }
        let from = DirCookie(offset.saturating_sub(COOKIE_SHIFT));
        let mut give_entry = |entry: DirEntry<'_>| {
            let node = self.numbering.node(mounted.slot(), entry.ino);
            give(entry.name, node, entry.file_type, entry.cookie.0.saturating_add(COOKIE_SHIFT))
        };
        // The root of a flat session may be another mount's by now: then it is that one which is listed.
        let listing = match &dir.pinned {
            Some(PinnedListing::Tree(slot, pinned)) if *slot == mounted.slot() => {
                pinned.read_dir(ino, from, &mut give_entry)
            }
            _ => filesystem.read_dir(ino, from, &mut give_entry),
        };
        match listing {
            Ok(Listing::End | Listing::Stopped) => Ok(()),
            // What has been found is worth having; what is the matter comes up again when the caller goes on.
            Ok(Listing::NotYet) | Err(_) if emitted => Ok(()),
            Ok(Listing::NotYet) => Err(TreeError::NotYet.into()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Hands out entries that are at hand; the offset after each is its place, counted from 1.
fn list<'a>(
    entries: impl Iterator<Item = (&'a [u8], Node, FileType)>,
    offset: u64,
    emit: &mut dyn FnMut(ListedEntry<'_>) -> bool,
) {
    let skip = usize::try_from(offset).unwrap_or(usize::MAX);
    for (next, (name, node, file_type)) in (1..).zip(entries).skip(skip) {
        if !emit(ListedEntry { name, node, file_type, next }) {
            return;
        }
    }
}

/// Entries that were taken out of a listing, their names one after the other.
#[derive(Default)]
struct Batch {
    names: Vec<u8>,
    entries: Vec<(usize, Node, FileType, u64)>,
}

impl Batch {
    /// Takes the entry, unless the batch is full.
    fn push(&mut self, entry: ListedEntry<'_>) -> bool {
        if self.entries.len() == BATCH {
            return false;
        }
        self.names.extend_from_slice(entry.name);
        self.entries.push((self.names.len(), entry.node, entry.file_type, entry.next));
        true
    }

    fn iter(&self) -> impl Iterator<Item = ListedEntry<'_>> {
        let mut start = 0;
        self.entries.iter().map(move |&(end, node, file_type, next)| {
            let name = &self.names[start..end];
            start = end;
            ListedEntry { name, node, file_type, next }
        })
    }
}
