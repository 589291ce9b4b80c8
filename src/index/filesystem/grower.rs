//! What is put into a filling filesystem.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use super::{Finished, Live};
use crate::index::provisional::{Aliases, BriefStat, Demand};
use crate::index::spool::Piece;
use crate::index::{DataFile, GrowError, GrowingTree, Tree};
use crate::tarfile::Entry;

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

    /// The entries from here on are those of another archive of the same files, which may have changed since the first one
    /// broke off: only what is lacking is put in. What is not before byte `readable` of the data file is lacking.
    pub fn resume_from(&self, readable: u64) {
        self.live.filling.resume_from(readable);
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
    pub fn found(&self, path: &[u8], brief_stat: BriefStat) {
        self.live.filling.found(path, brief_stat);
    }

    /// There is nothing at `path`.
    pub fn absent(&self, path: &[u8]) {
        self.live.filling.absent(path);
    }

    /// The true attributes of what was found at `path`.
    pub fn header(&self, path: &[u8], entry: Entry) {
        self.live.filling.header(path, entry);
    }

    /// The file into which what is fetched ahead of the stream is written: nobody else's, and best without a name. Without
    /// one, no [content](Grower::content) is taken. To be called once.
    pub fn spool_in(&self, file: File) {
        self.live.filling.spool_in(file);
    }

    /// Gives back the disk that is taken by what was fetched ahead, and takes no more.
    pub fn discard_fetched(&self) {
        self.live.filling.discard_fetched();
    }

    /// Takes the `size` bytes of the regular file that was found at `path`. `None` if there is no room for them, or if they
    /// are there or on their way already.
    pub fn content(&self, path: &[u8], size: u64) -> Option<Incoming> {
        let piece = self.live.filling.begin_content(path, size)?;
        Some(Incoming { live: Arc::clone(&self.live), path: path.to_vec(), piece })
    }

    /// Whether a wish is still to be granted: the stream may have come by meanwhile.
    pub fn wants(&self, demand: &Demand) -> bool {
        self.live.filling.wants(demand)
    }
}

/// The bytes of one file that are being fetched ahead of the stream. They can be read as they are written.
///
/// Dropped before all of them have come, they are forgotten: then the stream brings them.
pub struct Incoming {
    live: Arc<Live>,
    path: Vec<u8>,
    piece: Piece,
}

impl Write for Incoming {
    /// # Errors
    /// `FileTooLarge` for more bytes than there should be, `BrokenPipe` once nobody needs them any more; or the disk is full.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let arrived = self.piece.write(bytes)?;
        match self.live.filling.content_arrived(&self.path, arrived) {
            true => Ok(bytes.len()),
            false => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.live.filling.end_content(&self.path);
    }
}
