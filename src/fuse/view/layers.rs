//! What a session shows of the layers of an image: where each file comes from, and what each layer holds.

use std::os::unix::ffi::OsStrExt;

use super::table::Mounted;
use super::{BadMount, View, ViewError, ViewMount, XattrMode};
use crate::index::{FileType, Ino, LayerNo};

/// The directory of the layers in the top directory.
pub(super) const DIRECTORY_NAME: &[u8] = b"layers";

/// The names of what a [`LayerLabel`] says. The kernel refuses `user.` attributes on everything but files and
/// directories (xattr(7)), and leaves `system.` ones to the filesystem.
const NAMESPACES: [&[u8]; 2] = [b"user.imagefs.", b"system.imagefs."];
const LAYER: &[u8] = b"layer";
const CREATED_BY: &[u8] = b"created_by";

/// The most that a value may have, in bytes; a longer history line is cut: `XATTR_SIZE_MAX`.
const MAX_VALUE: usize = 64 << 10;

/// What is told of everything that comes from one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerLabel {
    /// Its number and diff id: the extended attribute `user.imagefs.layer`.
    pub layer: String,
    /// The command that made it, where that is known: `user.imagefs.created_by`.
    pub created_by: Option<String>,
}

/// The layers of mount 0, as far as a session tells of them.
#[derive(Default)]
pub struct Layers {
    /// One for each layer, the lowest first.
    pub labels: Vec<LayerLabel>,
    /// Whether the labels are among the attributes that are listed; answered by name they are in any case.
    pub listed: bool,
    /// The layers themselves in the same order, each a directory of `layers`; none, if they are not to be shown.
    pub shown: Vec<ViewMount>,
}

impl View {
    /// Adds what is known of the layers. Not for a flat session, if any is to be shown.
    pub fn with_layers(mut self, layers: Layers) -> Result<View, BadMount> {
        let Layers { labels, listed, shown } = layers;
        if let Some(mount) = self.tables.current().mounts.iter().find(|m| m.name.as_bytes() == DIRECTORY_NAME)
            && !shown.is_empty()
        {
            return Err(BadMount::Twice(mount.name.clone()));
        }
        if let Some(layer) = shown.first()
            && self.options.flat
        {
            return Err(BadMount::Name(layer.name.clone()));
        }
        if self.options.xattrs == XattrMode::Auto && !labels.is_empty() {
            self.answers_xattrs = true;
        }
        (self.labels, self.lists_labels) = (labels, listed);
        self.tables.add_layers(shown);
        self.changes |= !self.is_final();
        Ok(self)
    }

    /// Whether files and directories list attributes that tell their layer.
    pub fn lists_labels(&self) -> bool {
        self.lists_labels
    }

    /// The label of the layer that an inode comes from, and what kind of thing it is.
    fn label(&self, mounted: &Mounted, ino: Ino) -> Result<Option<(&LayerLabel, FileType)>, ViewError> {
        let is_other = mounted.layer().is_none() && mounted.index > 0;
        if self.labels.is_empty() || is_other {
            return Ok(None);
        }
        let stat = mounted.filesystem().tree().stat(ino)?;
        let LayerNo(number) = stat.layer;
        let number = mounted.layer().unwrap_or(usize::from(number));
        Ok(self.labels.get(number).map(|label| (label, stat.file_type)))
    }

    /// What the label says under this name, if it is one of a label.
    pub(super) fn label_xattr(
        &self,
        mounted: &Mounted,
        ino: Ino,
        name: &[u8],
    ) -> Result<Option<Vec<u8>>, ViewError> {
        let Some(word) = NAMESPACES.iter().find_map(|namespace| name.strip_prefix(*namespace)) else {
            return Ok(None);
        };
        Ok(self.label(mounted, ino)?.and_then(|(label, _)| match word {
            LAYER => Some(label.layer.clone().into_bytes()),
            CREATED_BY => label.created_by.as_ref().map(|line| line.bytes().take(MAX_VALUE).collect()),
            _ => None,
        }))
    }

    /// Adds the names that the label answers to, as listxattr(2) has them, if they are to be listed.
    pub(super) fn list_label_xattrs(
        &self,
        mounted: &Mounted,
        ino: Ino,
        names: &mut Vec<u8>,
    ) -> Result<(), ViewError> {
        if !self.lists_labels {
            return Ok(());
        }
        let Some((label, FileType::Regular | FileType::Directory)) = self.label(mounted, ino)? else {
            return Ok(());
        };
        let created_by = label.created_by.as_ref().map(|_| CREATED_BY);
        for word in [Some(LAYER), created_by].into_iter().flatten() {
            names.extend_from_slice(NAMESPACES[0]);
            names.extend_from_slice(word);
            names.push(0);
        }
        Ok(())
    }
}
