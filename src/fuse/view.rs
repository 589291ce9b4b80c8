//! The filesystem's answers.
//!
//! A [`View`] shows container mounts as one directory tree and answers what a kernel asks about it: by inode
//! number, one question at a time, without any state between two questions. Everything that is decided about
//! what a user sees is decided here. Must not import `fuser`: nothing here needs a kernel.
//!
//! A mount's tree may still be growing. Every answer may then be
//! [`TreeError::NotYet`], and asking again later is all it takes.

use std::collections::HashSet;
use std::ffi::OsString;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::node::{Node, Numbering, Place};
use super::symlink::{self, Destination, SymlinkError};
use crate::index::{
    Certainty, FileType, Filesystem, FillState, Ino, ReadError, Stat, Timestamp, TreeError, Whence,
};

mod attributes;
mod layers;
mod listing;

pub use attributes::{Attributes, Space};
pub use layers::{LayerLabel, Layers};
pub use listing::{ListedEntry, OpenDir};

/// The file in the top directory that describes the session.
const DESCRIPTION_NAME: &[u8] = b".imagefs.json";

/// The extended attribute that gives the stored target of a symlink. It is never listed, so that copies stay
/// exact. The kernel lets no `user.` attribute of a symlink through (xattr(7)); `system.` ones it leaves to the
/// filesystem.
const TARGET_XATTR: &[u8] = b"system.imagefs.target";

/// The longest name, in bytes: `NAME_MAX`.
const MAX_NAME: usize = 255;

/// One container mount, as a session shows it.
pub struct ViewMount {
    /// The directory's name in the top directory; not shown by a flat session.
    pub name: OsString,
    /// Where the container has it; `None` for the root filesystem, which is mount 0.
    pub destination: Option<PathBuf>,
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
    pub description: Vec<u8>,
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
    /// The container mounts, and then the layers that are shown.
    mounts: Vec<ViewMount>,
    /// How many of them are container mounts.
    containers: usize,
    labels: Vec<LayerLabel>,
    lists_labels: bool,
    destinations: Vec<Destination>,
    numbering: Numbering,
    answers_xattrs: bool,
    options: ViewOptions,
}

impl View {
    /// Shows `mounts`, in this order. Mount 0 is the root filesystem.
    pub fn new(mounts: Vec<ViewMount>, options: ViewOptions) -> Result<View, BadMount> {
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
        let destinations = if options.flat { Vec::new() } else { destinations(&mounts) };
        let answers_xattrs = match options.xattrs {
            XattrMode::On => true,
            XattrMode::Off => false,
            // The kernel takes a no for ever.
            XattrMode::Auto => mounts
                .iter()
                .any(|m| m.filesystem.state() != FillState::Ready || m.filesystem.tree().summary().xattrs),
        };
        let numbering = if options.flat { Numbering::Flat } else { Numbering::Layered };
        let containers = mounts.len();
        let (labels, lists_labels) = (Vec::new(), false);
        Ok(View {
            mounts,
            containers,
            labels,
            lists_labels,
            destinations,
            numbering,
            answers_xattrs,
            options,
        })
    }

    /// The attributes of a node.
    pub fn attributes(&self, node: Node) -> Result<Attributes, ViewError> {
        match self.place(node)? {
            Place::Top => Ok(self.top()),
            Place::Description => Ok(self.description()),
            Place::Layers => self.layers_directory().ok_or(ViewError::NoSuchNode(node)),
            Place::Mount(mount, ino) => {
                let filesystem = self.filesystem(mount, node)?;
                // Asked first: what was read while it was being filled is not final because it is full now.
                let certainty = match filesystem.state() {
                    FillState::Ready => Certainty::Final,
                    FillState::Filling | FillState::Broken => Certainty::Growing,
                    FillState::Dormant => Certainty::Ahead,
                };
                let stat = filesystem.tree().stat(ino)?;
                self.of_stat(mount, &stat, certainty)
            }
        }
    }

    /// The attributes of a node as far as they are known without waiting for them.
    fn glimpse(&self, node: Node) -> Result<Attributes, ViewError> {
        let Place::Mount(mount, ino) = self.place(node)? else { return self.attributes(node) };
        let glimpse = self.filesystem(mount, node)?.glimpse(ino)?;
        match glimpse.stat.file_type {
            // The kernel does not let a device change its number.
            FileType::CharDevice | FileType::BlockDevice if glimpse.certainty == Certainty::Ahead => {
                Ok(Attributes { certainty: Certainty::Ahead, ..self.attributes(node)? })
            }
            // Its length takes its target, which only who follows it wants.
            FileType::Symlink if glimpse.certainty == Certainty::Ahead => {
                Ok(self.plain(node, &glimpse.stat, Certainty::Ahead))
            }
            _ => match self.of_stat(mount, &glimpse.stat, glimpse.certainty) {
                Err(error) if error.is_not_yet() => {
                    let plain = self.plain(node, &glimpse.stat, Certainty::Ahead);
                    Ok(Attributes { size: glimpse.stat.size, ..plain })
                }
                known => known,
            },
        }
    }

    /// The node that `name` names in the directory `dir`; `None` if it names none.
    ///
    /// What is not known of its attributes yet is not waited for.
    pub fn lookup(&self, dir: Node, name: &[u8]) -> Result<Option<Attributes>, ViewError> {
        if name.len() > MAX_NAME {
            return Err(ViewError::NameTooLong);
        }
        match self.place(dir)? {
            Place::Description => Err(ViewError::NotADirectory(dir)),
            Place::Top if name == DESCRIPTION_NAME => Ok(Some(self.description())),
            Place::Top if name == layers::DIRECTORY_NAME => Ok(self.layers_directory()),
            Place::Top => self.lookup_mount(0..self.containers, name),
            Place::Layers => self.lookup_mount(self.containers..self.mounts.len(), name),
            Place::Mount(mount, ino) => match self.filesystem(mount, dir)?.tree().lookup(ino, name)? {
                Some(found) => self.glimpse(self.numbering.node(mount, found)).map(Some),
                None => Ok(None),
            },
        }
    }

    fn lookup_mount(&self, among: Range<usize>, name: &[u8]) -> Result<Option<Attributes>, ViewError> {
        let found = self.mounts.get(among.clone()).and_then(|mounts| {
            let place = mounts.iter().position(|m| m.name.as_bytes() == name)?;
            Some(self.numbering.node(among.start + place, Ino::ROOT))
        });
        found.map(|node| self.attributes(node)).transpose()
    }

    /// The target of a symlink: at most 4,095 bytes.
    pub fn read_link(&self, node: Node) -> Result<Vec<u8>, ViewError> {
        let Place::Mount(mount, ino) = self.place(node)? else { return Err(ViewError::NotASymlink(node)) };
        let tree = self.filesystem(mount, node)?.tree();
        // Asked for first: with it the rest is known.
        let stored = tree.read_link(ino)?;
        match self.options.symlinks {
            SymlinkMode::Raw => Ok(stored),
            SymlinkMode::Contain => self.contained_target(mount, &tree.stat(ino)?, stored),
        }
    }

    /// Fills `buf` from byte `offset` of a regular file. Fewer bytes mean the end of the file.
    pub fn read(&self, node: Node, offset: u64, buf: &mut [u8]) -> Result<usize, ViewError> {
        match self.place(node)? {
            Place::Top | Place::Layers => Err(ViewError::NotAFile(node)),
            Place::Description => {
                let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                let rest = self.options.description.get(offset..).unwrap_or_default();
                let n = rest.len().min(buf.len());
                buf[..n].copy_from_slice(&rest[..n]);
                Ok(n)
            }
            Place::Mount(mount, ino) => Ok(self.filesystem(mount, node)?.read(ino, offset, buf)?),
        }
    }

    /// The first byte at or after `offset` that is data, or that is a hole; see lseek(2).
    pub fn seek(&self, node: Node, offset: u64, whence: Whence) -> Result<u64, ViewError> {
        let found = match self.place(node)? {
            Place::Top | Place::Layers => return Err(ViewError::NotAFile(node)),
            Place::Description => {
                let size = self.options.description.len() as u64;
                (offset < size).then_some(if whence == Whence::Data { offset } else { size })
            }
            Place::Mount(mount, ino) => self.filesystem(mount, node)?.seek(ino, offset, whence)?,
        };
        found.ok_or(ViewError::PastTheEnd)
    }

    /// Whether [`View::xattr`] and [`View::xattr_names`] ever answer anything but [`ViewError::NoXattrs`].
    pub fn answers_xattrs(&self) -> bool {
        self.answers_xattrs
    }

    /// The value of an extended attribute.
    pub fn xattr(&self, node: Node, name: &[u8]) -> Result<Vec<u8>, ViewError> {
        let Some((tree, ino)) = self.xattr_holder(node)? else { return Err(ViewError::NoSuchXattr) };
        if let Some(value) = self.label_xattr(node, name)? {
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
        if let Some((tree, ino)) = self.xattr_holder(node)? {
            tree.xattrs(ino, &mut |name, _| {
                names.extend_from_slice(name);
                names.push(0);
                true
            })?;
            self.list_label_xattrs(node, &mut names)?;
        }
        Ok(names)
    }

    /// What access(2) finds where the kernel leaves it to the filesystem: whoever got in may read everything,
    /// write nothing, and execute what anybody may.
    pub fn access(&self, node: Node, access: Access) -> Result<(), ViewError> {
        let attributes = self.glimpse(node)?;
        if access.write {
            return Err(ViewError::ReadOnly);
        }
        let refused =
            access.execute && attributes.file_type == FileType::Regular && attributes.perm & 0o111 == 0;
        if refused { Err(ViewError::NotExecutable) } else { Ok(()) }
    }

    /// Whether everything that is shown is there, so that nothing is waited for any more.
    pub fn is_ready(&self) -> bool {
        self.shown().iter().all(|mount| mount.filesystem.state() == FillState::Ready)
    }

    /// A number that changes whenever an answer about this node may have become another one.
    pub fn generation(&self, node: Node) -> u64 {
        self.mount_of(node).map_or(0, |mount| mount.filesystem.generation())
    }

    /// When something came last in the mount of this node; `None` where nothing is to come.
    pub fn last_progress(&self, node: Node) -> Option<Instant> {
        self.mount_of(node)?.filesystem.last_progress()
    }

    /// Names a node in a message for people.
    pub fn describe(&self, node: Node) -> String {
        match self.numbering.place(node) {
            Some(Place::Top) => "the top directory".to_owned(),
            Some(Place::Description) => ".imagefs.json".to_owned(),
            Some(Place::Layers) => "the directory of the layers".to_owned(),
            Some(Place::Mount(mount, ino)) if mount < self.mounts.len() => {
                format!("inode {ino} of {:?}", self.mounts[mount].name)
            }
            _ => format!("{node:?}"),
        }
    }

    fn place(&self, node: Node) -> Result<Place, ViewError> {
        self.numbering.place(node).ok_or(ViewError::NoSuchNode(node))
    }

    fn filesystem(&self, mount: usize, node: Node) -> Result<&Filesystem, ViewError> {
        self.mounts.get(mount).map(|m| &*m.filesystem).ok_or(ViewError::NoSuchNode(node))
    }

    fn mount_of(&self, node: Node) -> Option<&ViewMount> {
        match self.numbering.place(node)? {
            Place::Mount(mount, _) => self.mounts.get(mount),
            Place::Top | Place::Description | Place::Layers => None,
        }
    }

    fn shown(&self) -> &[ViewMount] {
        if self.options.flat { &self.mounts[..1] } else { &self.mounts }
    }

    fn xattr_holder(&self, node: Node) -> Result<Option<(&dyn crate::index::Tree, Ino)>, ViewError> {
        if !self.answers_xattrs {
            return Err(ViewError::NoXattrs);
        }
        match self.place(node)? {
            Place::Top | Place::Description | Place::Layers => Ok(None),
            Place::Mount(mount, ino) => Ok(Some((self.filesystem(mount, node)?.tree(), ino))),
        }
    }

    fn contained_target(&self, mount: usize, link: &Stat, stored: Vec<u8>) -> Result<Vec<u8>, ViewError> {
        let tree = self.filesystem(mount, self.numbering.node(mount, link.ino))?.tree();
        // A layer is nowhere in a container: its links stay in it.
        let destinations = if mount < self.containers { &self.destinations[..] } else { &[] };
        Ok(symlink::contain(tree, link, stored, mount, destinations)?)
    }
}

fn destinations(mounts: &[ViewMount]) -> Vec<Destination> {
    let of = |(index, mount): (usize, &ViewMount)| {
        let path = match &mount.destination {
            _ if index == 0 => &b"/"[..],
            Some(path) => path.as_os_str().as_bytes(),
            None => return None,
        };
        Some(Destination::new(index, path, mount.name.as_bytes()))
    };
    mounts.iter().enumerate().filter_map(of).collect()
}

#[cfg(test)]
mod tests;
