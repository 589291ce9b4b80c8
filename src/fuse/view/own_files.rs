//! Which files stand in files of their own.

use std::fs::File;
use std::sync::Arc;

use super::{Spot, View, ViewError};
use crate::fuse::node::Node;
use crate::index::Run;

impl View {
    /// The file that holds the bytes of a regular file and no others, if there is one.
    pub fn own_file(&self, node: Node) -> Result<Option<Arc<File>>, ViewError> {
        match self.spot(node)? {
            Spot::Top | Spot::Description(..) | Spot::Layers => Ok(None),
            Spot::Mount(mounted, ino) => Ok(mounted.filesystem().own_file(ino)?),
        }
    }

    /// What stands in files of its own, and these.
    pub fn external(&self) -> Vec<(Run, Arc<File>)> {
        // The layers are another look at the bytes of the root filesystem.
        let table = self.tables.current();
        let shown = table.shown(self.options.flat).iter().take(table.containers);
        shown.flat_map(|mount| mount.filesystem.external()).collect()
    }
}
