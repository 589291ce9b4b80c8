//! The filesystem's answers.
//!
//! A [`View`] shows container mounts as one directory tree and answers what a kernel asks about it: by inode
//! number, one question at a time. Between two questions it remembers one thing: how often the kernel was given a
//! number, so that mounts which were [replaced](View::replace) can go when nobody uses them any more. Everything that is
//! decided about what a user sees is decided here. Must not import `fuser`: nothing here needs a kernel.
//!
//! A mount's tree may still be growing. Every answer may then be
//! [`TreeError::NotYet`], and asking again later is all it takes.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::names::MAX_NAME;
use super::node::{Node, Numbering, Place};
use super::symlink::SymlinkError;
use crate::index::{FileType, Filesystem, FillState, Ino, ReadError, Timestamp, TreeError, Whence};

use description::{Edition, Editions};
use table::{Mounted, Table, Tables};

mod attributes;
mod description;
mod everything;
mod layers;
mod listing;
mod lookup;
mod own_files;
mod replace;
mod shown;
mod table;

pub use attributes::{Attributes, Space};
pub use description::Description;
pub use everything::NodeKind;
pub use layers::{LayerLabel, Layers};
pub use listing::{ListedEntry, OpenDir};
pub use replace::Outdated;

/// The file in the top directory that describes the session.
pub(super) const DESCRIPTION_NAME: &[u8] = b".imagefs.json";

/// The extended attribute that gives the stored target of a symlink. It is never listed, so that copies stay
/// exact. The kernel lets no `user.` attribute of a symlink through (xattr(7)); `system.` ones it leaves to the
/// filesystem.
const TARGET_XATTR: &[u8] = b"system.imagefs.target";

/// One container mount, as a session shows it.
pub struct ViewMount {
    /// The directory's name in the top directory; not shown by a flat session.
    pub name: OsString,
    /// Where the container has it, and how else that is spelled, by way of links; none for the root filesystem, which is mount 0.
    pub destinations: Vec<PathBuf>,
    /// Whether it may be a single file, which is shown in a directory of its own.
    pub may_be_file: bool,
    /// What is in it.
    pub filesystem: Arc<Filesystem>,
}

/// What `readlink` returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SymlinkMode {
    /// A target that stays inside its mount.
    #[default]
    Contain,
    /// The stored target.
    Raw,
}

/// Whether a session answers questions about extended attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum XattrMode {
    /// If any entry of it carries one, or may do so once it has come.
    #[default]
    Auto,
    /// Yes.
    On,
    /// No.
    Off,
}

/// How a [`View`] shows its mounts.
#[derive(Clone, Debug, Default)]
pub struct ViewOptions {
    /// Shows mount 0 itself at the mountpoint, and nothing else.
    pub flat: bool,
    /// What `readlink` returns.
    pub symlinks: SymlinkMode,
    /// Whether extended attributes are answered.
    pub xattrs: XattrMode,
    /// The owner of everything, instead of what is stored.
    pub uid: Option<u32>,
    /// The group of everything, instead of what is stored.
    pub gid: Option<u32>,
    /// The contents of `.imagefs.json`; not shown by a flat session.
    pub description: Description,
    /// Whether the mounts may be [replaced](View::replace) by others.
    pub replaceable: bool,
    /// The modification time of the top directory and of `.imagefs.json`.
    pub mtime: Timestamp,
}

/// Why container mounts cannot be shown.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadMount {
    /// There is none to show.
    #[error("there is no container mount to show")]
    None,
    /// The name cannot be a directory's.
    #[error("{0:?} cannot be the name of a container mount's directory")]
    Name(OsString),
    /// Two mounts have this name.
    #[error("two container mounts have the name {0:?}")]
    Twice(OsString),
    /// There are no numbers left for their inodes.
    #[error("this session has shown as many container mounts as it can")]
    TooMany,
}

/// Why a [`View`] has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The tree did not answer.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The bytes of a file could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The target of a symlink could not be told.
    #[error(transparent)]
    Symlink(#[from] SymlinkError),
    /// No such number was ever given out.
    #[error("there is no {0:?}")]
    NoSuchNode(Node),
    /// A directory was asked for.
    #[error("{0:?} is not a directory")]
    NotADirectory(Node),
    /// It was shown at a deeper place before, and the kernel may still have it there.
    #[error("{0:?} has come nearer to the root than it was")]
    Moved(Node),
    /// No name is longer than 255 bytes.
    #[error("name too long")]
    NameTooLong,
    /// A regular file was asked for.
    #[error("{0:?} is not a regular file")]
    NotAFile(Node),
    /// A symlink was asked for.
    #[error("{0:?} is not a symbolic link")]
    NotASymlink(Node),
    /// lseek(2) found nothing there.
    #[error("no data or hole follows that offset")]
    PastTheEnd,
    /// The session answers no extended attributes.
    #[error("this session has no extended attributes")]
    NoXattrs,
    /// The entry has no attribute of that name.
    #[error("no such extended attribute")]
    NoSuchXattr,
    /// The file may be executed by nobody.
    #[error("not executable")]
    NotExecutable,
    /// Nothing can be written.
    #[error("read-only filesystem")]
    ReadOnly,
    /// The source that it is in could not be opened.
    #[error("{0}")]
    Unavailable(String),
    /// A session of many sources has no number left for it.
    #[error("no inode number is left")]
    TooManyNodes,
}

impl ViewError {
    /// Whether the answer has not come yet: asking again later is all it takes.
    pub fn is_not_yet(&self) -> bool {
        matches!(
            self,
            ViewError::Tree(TreeError::NotYet)
                | ViewError::Read(ReadError::Tree(TreeError::NotYet))
                | ViewError::Symlink(SymlinkError::Tree(TreeError::NotYet))
        )
    }
}

/// What access(2) asks for; see there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// `W_OK`
    pub write: bool,
    /// `X_OK`
    pub execute: bool,
}

/// Container mounts as one read-only filesystem.
pub struct View {
    tables: Tables,
    editions: Editions,
    labels: Vec<LayerLabel>,
    lists_labels: bool,
    numbering: Numbering,
    answers_xattrs: bool,
    /// Whether what it shows was not final from the start.
    changes: bool,
    options: ViewOptions,
}

/// What a node stands for, with what it takes to answer for it.
enum Spot {
    /// The directory that lists the mounts.
    Top,
    /// `.imagefs.json`
    Description(u64, Arc<Edition>),
    /// The directory that lists the layers.
    Layers,
    /// An inode of a mount.
    Mount(Mounted, Ino),
}

impl View {
    /// Shows `mounts`, in this order. Mount 0 is the root filesystem.
    pub fn new(mounts: Vec<ViewMount>, mut options: ViewOptions) -> Result<View, BadMount> {
        let answers_xattrs = match options.xattrs {
            XattrMode::On => true,
            XattrMode::Off => false,
            // The kernel takes a no for ever.
            XattrMode::Auto => {
                let may_have = |m: &ViewMount| {
                    m.filesystem.state() != FillState::Ready || m.filesystem.tree().summary().xattrs
                };
                options.replaceable || mounts.iter().any(may_have)
            }
        };
        let numbering = if options.flat { Numbering::Flat } else { Numbering::Layered };
        let tables = Tables::new(mounts, options.flat)?;
        let editions = Editions::new(std::mem::take(&mut options.description), options.mtime);
        let (labels, lists_labels) = (Vec::new(), false);
        let changes = false;
        let mut view =
            View { tables, editions, labels, lists_labels, numbering, answers_xattrs, changes, options };
        view.changes = !view.is_final();
        Ok(view)
    }

    /// Fills `buf` from byte `offset` of a regular file. Fewer bytes mean the end of the file.
    pub fn read(&self, node: Node, offset: u64, buf: &mut [u8]) -> Result<usize, ViewError> {
        match self.spot(node)? {
            Spot::Top | Spot::Layers => Err(ViewError::NotAFile(node)),
            Spot::Description(_, edition) => {
                let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                let rest = edition.bytes.get(offset..).unwrap_or_default();
                let n = rest.len().min(buf.len());
                buf[..n].copy_from_slice(&rest[..n]);
                Ok(n)
            }
            Spot::Mount(mounted, ino) => Ok(mounted.filesystem().read(ino, offset, buf)?),
        }
    }

    /// The first byte at or after `offset` that is data, or that is a hole; see lseek(2).
    pub fn seek(&self, node: Node, offset: u64, whence: Whence) -> Result<u64, ViewError> {
        let found = match self.spot(node)? {
            Spot::Top | Spot::Layers => return Err(ViewError::NotAFile(node)),
            Spot::Description(_, edition) => {
                let size = edition.bytes.len() as u64;
                (offset < size).then_some(if whence == Whence::Data { offset } else { size })
            }
            Spot::Mount(mounted, ino) => mounted.filesystem().seek(ino, offset, whence)?,
        };
        found.ok_or(ViewError::PastTheEnd)
    }

    /// Whether [`View::xattr`] and [`View::xattr_names`] ever answer anything but [`ViewError::NoXattrs`].
    pub fn answers_xattrs(&self) -> bool {
        self.answers_xattrs
    }

    /// The value of an extended attribute.
    pub fn xattr(&self, node: Node, name: &[u8]) -> Result<Vec<u8>, ViewError> {
        let Some((mounted, ino)) = self.xattr_holder(node)? else { return Err(ViewError::NoSuchXattr) };
        let tree = mounted.filesystem().tree();
        if let Some(value) = self.label_xattr(&mounted, ino, name)? {
            return Ok(value);
        }
        let mut value = None;
        tree.xattrs(ino, &mut |key, bytes| {
            if key == name {
                value = Some(bytes.to_vec());
            }
            value.is_none()
        })?;
        match value {
            Some(value) => Ok(value),
            None if name == TARGET_XATTR => match tree.read_link(ino) {
                Err(TreeError::NotASymlink(_)) => Err(ViewError::NoSuchXattr),
                target => Ok(target?),
            },
            None => Err(ViewError::NoSuchXattr),
        }
    }

    /// The names of all extended attributes, each followed by a NUL, as listxattr(2) has them.
    pub fn xattr_names(&self, node: Node) -> Result<Vec<u8>, ViewError> {
        let mut names = Vec::new();
        if let Some((mounted, ino)) = self.xattr_holder(node)? {
            mounted.filesystem().tree().xattrs(ino, &mut |name, _| {
                names.extend_from_slice(name);
                names.push(0);
                true
            })?;
            self.list_label_xattrs(&mounted, ino, &mut names)?;
        }
        Ok(names)
    }

    /// What access(2) finds where the kernel leaves it to the filesystem: whoever got in may read everything,
    /// write nothing, and execute what anybody may.
    pub fn access(&self, node: Node, access: Access) -> Result<(), ViewError> {
        let attributes = self.provisional_stat(node)?;
        if access.write {
            return Err(ViewError::ReadOnly);
        }
        let refused =
            access.execute && attributes.file_type == FileType::Regular && attributes.perm & 0o111 == 0;
        if refused { Err(ViewError::NotExecutable) } else { Ok(()) }
    }

    /// Whether nothing that is shown will ever become another thing: all of it is there, and stays.
    pub fn is_final(&self) -> bool {
        !self.options.replaceable && table::are_ready(self.tables.current().shown(self.options.flat))
    }

    /// Whether the mountpoint is the root filesystem itself.
    pub(super) fn is_flat(&self) -> bool {
        self.options.flat
    }

    /// Whether any of it is being read.
    pub(super) fn is_filling(&self) -> bool {
        let table = self.tables.current();
        table.mounts.iter().any(|mount| mount.filesystem.state() == FillState::Filling)
    }

    /// A number that changes whenever an answer about this node may have become another one.
    pub fn generation(&self, node: Node) -> u64 {
        let sum = |sum: u64, filesystem: &Filesystem| sum.wrapping_add(filesystem.generation());
        match self.spot(node) {
            Ok(Spot::Mount(mounted, _)) => {
                // What stands at the mountpoint of a flat session may be another mount's by now.
                mounted.filesystems().fold(spread(mounted.slot()), sum)
            }
            Ok(Spot::Top | Spot::Layers) => {
                let table = self.tables.current();
                table.mounts.iter().map(|mount| &*mount.filesystem).fold(spread(table.slot(0)), sum)
            }
            Ok(Spot::Description(..)) | Err(_) => 0,
        }
    }

    /// When something came last of what answers about this node; `None` where nothing is to come.
    pub fn last_progress(&self, node: Node) -> Option<Instant> {
        match self.spot(node).ok()? {
            Spot::Mount(mounted, _) => mounted.filesystems().filter_map(Filesystem::last_progress).max(),
            Spot::Top | Spot::Layers => {
                let table = self.tables.current();
                table.mounts.iter().filter_map(|mount| mount.filesystem.last_progress()).max()
            }
            Spot::Description(..) => None,
        }
    }

    /// Names a node in a message for people.
    pub fn describe(&self, node: Node) -> String {
        match self.spot(node) {
            Ok(Spot::Top) => "the top directory".to_owned(),
            Ok(Spot::Description(..)) => ".imagefs.json".to_owned(),
            Ok(Spot::Layers) => "the directory of the layers".to_owned(),
            Ok(Spot::Mount(mounted, ino)) => format!("inode {ino} of {:?}", mounted.mount().name),
            Err(_) => format!("{node:?}"),
        }
    }

    fn spot(&self, node: Node) -> Result<Spot, ViewError> {
        let spot = match self.numbering.place(node) {
            Some(Place::Top) => Some(Spot::Top),
            Some(Place::Layers) => Some(Spot::Layers),
            Some(Place::Description(number)) => {
                self.editions.get(number).map(|edition| Spot::Description(number, edition))
            }
            // The one number that goes from each mount to the next.
            Some(Place::Mount(_, Ino::ROOT)) if self.options.flat => {
                Mounted::new(self.tables.current(), 0).map(|mounted| Spot::Mount(mounted, Ino::ROOT))
            }
            Some(Place::Mount(slot, ino)) => self.tables.get(slot).map(|mounted| {
                let real = mounted.shown().real(ino);
                Spot::Mount(mounted, real)
            }),
            None => None,
        };
        spot.ok_or(ViewError::NoSuchNode(node))
    }

    fn mount_of(&self, node: Node) -> Option<(Mounted, Ino)> {
        match self.spot(node).ok()? {
            Spot::Mount(mounted, ino) => Some((mounted, ino)),
            Spot::Top | Spot::Description(..) | Spot::Layers => None,
        }
    }

    fn xattr_holder(&self, node: Node) -> Result<Option<(Mounted, Ino)>, ViewError> {
        if !self.answers_xattrs {
            return Err(ViewError::NoXattrs);
        }
        match self.spot(node)? {
            Spot::Top | Spot::Description(..) | Spot::Layers => Ok(None),
            Spot::Mount(mounted, ino) => Ok(Some((mounted, ino))),
        }
    }
}

/// So far from those of other slots that no generation of theirs is met.
fn spread(slot: usize) -> u64 {
    (slot as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod stale_names_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod waking_tests;
