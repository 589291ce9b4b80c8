//! What a session answers: the operations of a read-only filesystem, by node.
//!
//! A [`View`] answers for one source. The adapter, the readahead and the waiting requests know nothing else of what is shown.
//! Must not import `fuser`.

use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use super::node::Node;
use super::view::{Access, Attributes, ListedEntry, OpenDir, Space, View, ViewError};
use crate::index::{Certainty, Run, Whence};

/// See the methods of [`View`] that have these names.
pub(super) trait Operations: Send + Sync {
    fn lookup(&self, dir: Node, name: &[u8]) -> Result<Option<Attributes>, ViewError>;
    fn absence(&self, dir: Node) -> Certainty;
    fn forget(&self, node: Node, times: u64);
    fn attributes(&self, node: Node) -> Result<Attributes, ViewError>;
    /// The same for whoever has the file open, and is about to read as many bytes as it has.
    fn attributes_of_open(&self, node: Node) -> Result<Attributes, ViewError> {
        self.attributes(node)
    }
    fn access(&self, node: Node, access: Access) -> Result<(), ViewError>;
    fn read_link(&self, node: Node) -> Result<Vec<u8>, ViewError>;
    fn read(&self, node: Node, offset: u64, buf: &mut [u8]) -> Result<usize, ViewError>;
    fn seek(&self, node: Node, offset: u64, whence: Whence) -> Result<u64, ViewError>;
    fn xattr(&self, node: Node, name: &[u8]) -> Result<Vec<u8>, ViewError>;
    fn xattr_names(&self, node: Node) -> Result<Vec<u8>, ViewError>;
    fn open_dir(&self, node: Node) -> Result<OpenDir, ViewError>;
    /// Whether the kernel may keep the listing of a directory that needs no handle.
    fn keeps_listing(&self, dir: Node) -> bool;
    fn read_dir(
        &self,
        dir: &OpenDir,
        offset: u64,
        emit: &mut dyn FnMut(ListedEntry<'_>) -> bool,
    ) -> Result<(), ViewError>;
    fn read_dir_plus(
        &self,
        dir: &OpenDir,
        offset: u64,
        emit: &mut dyn FnMut(ListedEntry<'_>, &Attributes) -> bool,
    ) -> Result<(), ViewError>;
    fn space(&self) -> Space;
    fn own_file(&self, node: Node) -> Result<Option<Arc<File>>, ViewError>;
    fn external(&self) -> Vec<(Run, Arc<File>)>;
    fn is_final(&self) -> bool;
    fn generation(&self, node: Node) -> u64;
    fn last_progress(&self, node: Node) -> Option<Instant>;
    fn describe(&self, node: Node) -> String;
}

impl Operations for View {
    fn lookup(&self, dir: Node, name: &[u8]) -> Result<Option<Attributes>, ViewError> {
        self.lookup(dir, name)
    }

    fn absence(&self, dir: Node) -> Certainty {
        self.absence(dir)
    }

    fn forget(&self, node: Node, times: u64) {
        self.forget(node, times);
    }

    fn attributes(&self, node: Node) -> Result<Attributes, ViewError> {
        self.attributes(node)
    }

    fn access(&self, node: Node, access: Access) -> Result<(), ViewError> {
        self.access(node, access)
    }

    fn read_link(&self, node: Node) -> Result<Vec<u8>, ViewError> {
        self.read_link(node)
    }

    fn read(&self, node: Node, offset: u64, buf: &mut [u8]) -> Result<usize, ViewError> {
        self.read(node, offset, buf)
    }

    fn seek(&self, node: Node, offset: u64, whence: Whence) -> Result<u64, ViewError> {
        self.seek(node, offset, whence)
    }

    fn xattr(&self, node: Node, name: &[u8]) -> Result<Vec<u8>, ViewError> {
        self.xattr(node, name)
    }

    fn xattr_names(&self, node: Node) -> Result<Vec<u8>, ViewError> {
        self.xattr_names(node)
    }

    fn open_dir(&self, node: Node) -> Result<OpenDir, ViewError> {
        Ok(self.open_dir(node))
    }

    fn keeps_listing(&self, dir: Node) -> bool {
        // The top directory has a file whose number changes.
        dir != Node::ROOT
    }

    fn read_dir(
        &self,
        dir: &OpenDir,
        offset: u64,
        emit: &mut dyn FnMut(ListedEntry<'_>) -> bool,
    ) -> Result<(), ViewError> {
        self.read_dir(dir, offset, emit)
    }

    fn read_dir_plus(
        &self,
        dir: &OpenDir,
        offset: u64,
        emit: &mut dyn FnMut(ListedEntry<'_>, &Attributes) -> bool,
    ) -> Result<(), ViewError> {
        self.read_dir_plus(dir, offset, emit)
    }

    fn space(&self) -> Space {
        self.space()
    }

    fn own_file(&self, node: Node) -> Result<Option<Arc<File>>, ViewError> {
        self.own_file(node)
    }

    fn external(&self) -> Vec<(Run, Arc<File>)> {
        self.external()
    }

    fn is_final(&self) -> bool {
        self.is_final()
    }

    fn generation(&self, node: Node) -> u64 {
        self.generation(node)
    }

    fn last_progress(&self, node: Node) -> Option<Instant> {
        self.last_progress(node)
    }

    fn describe(&self, node: Node) -> String {
        self.describe(node)
    }
}
