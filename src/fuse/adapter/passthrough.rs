//! Files that the kernel reads itself, without asking for their bytes: FUSE_PASSTHROUGH, from Linux 6.9 on, see
//! `Documentation/filesystems/fuse/fuse-passthrough.rst`.
//!
//! What stands in a file of its own is then read as fast as the cache's filesystem can, and is in the page cache once, not
//! twice. The price: the kernel must not be told that no file needs opening, so each open(2) and each last close(2), also of
//! other files, is a request.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use fuser::{BackingId, InitFlags, KernelConfig, ReplyOpen};

use crate::fuse::node::Node;
use crate::fuse::operations::Operations;
use crate::fuse::view::ViewError;
use crate::index::ReadError;

/// How many bytes in files of their own a session has for each of its inodes, at least, to pass them through.
///
/// To open and close a file takes 40 µs that are spared otherwise, and a GiB that is read for the first time 0.2 s less: 200 KiB
/// pay for one file (`docs/performance.md`).
const WORTH: u64 = 256 << 10;

/// How high the session stands in a stack of filesystems, of which Linux has two upon the lowest. With 1 the cache's filesystem
/// has to be the lowest, and an overlayfs can still be mounted over the session.
const STACK_DEPTH: u32 = 1;

/// The files that are passed through in a session.
pub(super) struct Passthrough {
    /// One of them.
    sample: Arc<File>,
    allowed: OnceLock<bool>,
    open: Mutex<HashMap<Node, Open>>,
}

/// A file that is open. The kernel takes one backing file for an inode, for as long as anybody has that open.
struct Open {
    backing: Arc<BackingId>,
    times: u64,
}

impl Passthrough {
    /// Agrees with the kernel on it, if that can do it and the session is worth it.
    pub fn agree(view: &dyn Operations, config: &mut KernelConfig) -> Option<Passthrough> {
        if !view.is_final() {
            return None;
        }
        let external = view.external();
        let (_, sample) = external.first()?;
        let bytes = external.iter().fold(0u64, |sum, (run, _)| sum.saturating_add(run.len));
        if bytes / WORTH < view.space().files {
            return None;
        }
        config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).ok()?;
        config.set_max_stack_depth(STACK_DEPTH).ok()?;
        Some(Passthrough { sample: Arc::clone(sample), allowed: OnceLock::new(), open: Mutex::default() })
    }

    /// Whether the kernel lets this process do it: not without CAP_SYS_ADMIN, nor if the cache lies on a stacked filesystem.
    ///
    /// The first who asks finds out, and it stays so: what is open was opened in one way or the other.
    pub fn is_allowed(&self, reply: &ReplyOpen) -> bool {
        *self.allowed.get_or_init(|| match reply.open_backing(&*self.sample) {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!("the kernel passes no file through: {error}");
                false
            }
        })
    }

    /// Opens a file; `None` if it is not passed through. For each time that it was, it is to be [closed](Passthrough::close).
    pub fn open(
        &self,
        view: &dyn Operations,
        node: Node,
        reply: &ReplyOpen,
    ) -> Result<Option<Arc<BackingId>>, ViewError> {
        let Some(file) = view.own_file(node)? else { return Ok(None) };
        let mut table = self.table();
        if let Some(open) = table.get_mut(&node) {
            open.times += 1;
            return Ok(Some(Arc::clone(&open.backing)));
        }
        let backing = Arc::new(reply.open_backing(&*file).map_err(ReadError::from)?);
        table.insert(node, Open { backing: Arc::clone(&backing), times: 1 });
        Ok(Some(backing))
    }

    /// Takes back what [`Passthrough::open`] did, if it was passed through.
    pub fn close(&self, node: Node) {
        let mut table = self.table();
        if let Some(open) = table.get_mut(&node) {
            open.times -= 1;
            if open.times == 0 {
                table.remove(&node);
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Node, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
