//! What is put into a filling filesystem.

use std::sync::Arc;

use super::{Finished, Live};
use crate::index::early::{Aliases, Glance};
use crate::index::scan::Entry;
use crate::index::{DataFile, GrowError, GrowingTree, Tree};

/// Puts into a filling filesystem what comes.
#[derive(Clone)]
pub struct Grower {
    pub(super) live: Arc<Live>,
}

impl Grower {
    /// The file that the bytes are being written to. To be called once.
    pub fn store_in(&self, data: DataFile) {
        self.live.filling.store_in(data);
    }

    /// The next entry of the stream.
    pub fn insert(&self, entry: Entry) -> Result<(), GrowError> {
        self.live.filling.insert(entry)
    }

    /// The stream is moving, though no entry may come for a while.
    pub fn alive(&self) {
        self.live.filling.alive();
    }

    /// All bytes of the data file before this one are there, and are what they should be.
    pub fn confirm(&self, position: u64) {
        self.live.filling.confirm(position);
    }

    /// All entries have come.
    pub fn finish(&self) -> Result<(), GrowError> {
        self.live.filling.finish()
    }

    /// Shows the tree as it is, to write it down.
    pub fn with_tree<R>(&self, read: impl FnOnce(&GrowingTree) -> R) -> R {
        self.live.filling.with_tree(read)
    }

    /// Hands over to the finished tree, which was made from this one.
    pub fn complete(&self, tree: Arc<dyn Tree>, data: Vec<DataFile>) {
        let aliases = self.live.filling.aliases();
        let _ = self.live.finished.set(Finished { grown: true, tree, data, aliases });
        self.live.filling.retire();
    }

    /// Hands over to a finished tree that was there already, when nothing has been put in yet.
    pub fn replace(&self, tree: Arc<dyn Tree>, data: Vec<DataFile>) {
        let aliases = Aliases::default();
        let _ = self.live.finished.set(Finished { grown: false, tree, data, aliases });
        self.live.filling.retire();
    }

    /// Nothing more will come: what is not there is an error from now on.
    pub fn lose(&self) {
        self.live.filling.lose();
    }

    /// There is something at `path` that the stream has not brought yet.
    pub fn found(&self, path: &[u8], glance: Glance) {
        self.live.filling.found(path, glance);
    }

    /// There is nothing at `path`.
    pub fn absent(&self, path: &[u8]) {
        self.live.filling.absent(path);
    }

    /// The true attributes of what was found at `path`.
    pub fn header(&self, path: &[u8], entry: Entry) {
        self.live.filling.header(path, entry);
    }

    /// All bytes of the regular file that was found at `path`.
    pub fn content(&self, path: &[u8], bytes: Vec<u8>) {
        self.live.filling.content(path, bytes);
    }
}
