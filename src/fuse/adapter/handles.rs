//! The directories that are open in a session whose mounts are being filled.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::FileHandle;

use crate::fuse::node::Node;
use crate::fuse::operations::Operations;
use crate::fuse::view::{OpenDir, ViewError};

/// The handle of a directory that needs none.
const NONE: FileHandle = FileHandle(0);

/// As many as processes keep open; the system bounds that (`fs.file-max`).
#[derive(Default)]
pub(super) struct Handles(Mutex<Table>);

#[derive(Default)]
struct Table {
    open: HashMap<u64, Arc<OpenDir>>,
    last: u64,
}

/// What OPENDIR is told.
pub(super) enum Opening {
    /// That no directory ever needs opening again.
    Needless,
    /// A handle; whether the kernel may keep what is listed by it.
    Handle { handle: FileHandle, keep: bool },
}

impl Handles {
    pub fn open(&self, view: &dyn Operations, node: Node) -> Result<Opening, ViewError> {
        // The kernel sends no RELEASEDIR any more once it was told that no directory needs opening, so it may be told
        // only when none is open that does. A view that is final stays so: under the lock nothing comes between.
        let mut table = self.table();
        if view.is_final() {
            return Ok(match table.open.is_empty() {
                true => Opening::Needless,
                false => Opening::Handle { handle: NONE, keep: true },
            });
        }
        let dir = view.open_dir(node)?;
        if !dir.is_pinned() {
            return Ok(Opening::Handle { handle: NONE, keep: view.keeps_listing(node) });
        }
        table.last += 1;
        let number = table.last;
        table.open.insert(number, Arc::new(dir));
        Ok(Opening::Handle { handle: FileHandle(number), keep: false })
    }

    /// The directory to list for a handle that was opened for `node`.
    pub fn get(&self, handle: FileHandle, node: Node) -> Arc<OpenDir> {
        let pinned = if handle == NONE { None } else { self.table().open.get(&handle.0).cloned() };
        pinned.unwrap_or_else(|| Arc::new(node.into()))
    }

    pub fn close(&self, handle: FileHandle) {
        let closed = self.table().open.remove(&handle.0);
        // Not under the lock: it may free a whole tree.
        drop(closed);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
