//! A session: container mounts, served to the kernel as one read-only filesystem.
//!
//! | file | what it holds |
//! |---|---|
//! | `view` | the filesystem's answers: runs and is tested without a kernel |
//! | `catalog` | many sources in one session, each opened when somebody enters it |
//! | `names` | a tree of names, each of which leads to a source |
//! | `symlink` | how a symlink's target is kept inside its mount |
//! | `operations` | what a session answers, whatever it shows |
//! | `node` | how a session numbers its inodes |
//! | `errno` | which error number an error becomes |
//! | `waiting` | where requests wait whose answers have not come yet |
//! | `caller` | whether the thread that waits for a reply is to end |
//! | `readahead` | what a walk is about to read, put into the page cache before it asks |
//! | `polling` | a look for the next request before a thread goes to sleep |
//! | `adapter` | FUSE requests to answers and back |
//! | `notifier` | what the kernel is told unasked |
//! | `session` | one live mount: from INIT to the last unmount |
//! | `attach` | mounting and unmounting, directly or through `fusermount3` |
//! | `mount_status` | what is mounted at a path |
//! | `error` | why a session cannot begin or end, and what to do |
//!
//! Uses `index` and nothing else of the crate. Only `adapter`, `notifier` and `session` may import `fuser`.

mod adapter;
mod attach;
mod caller;
mod catalog;
mod errno;
mod error;
mod mount_status;
mod names;
mod node;
mod notifier;
mod operations;
mod polling;
mod readahead;
mod session;
mod symlink;
mod view;
mod waiting;

#[cfg(test)]
mod testing;

pub use attach::{remount, unmount};
pub use catalog::{Catalog, CatalogOptions, CatalogUse, IdleName, OpenedSource, Provider};
pub use error::SessionError;
pub use mount_status::{MountStatus, mount_status};
pub use names::{Directory, Item, Outline, SourceName};
pub use node::Node;
pub use notifier::Notifier;
pub use session::{End, Session, SessionConfig, Stopper, mount, mount_catalog};
pub use symlink::SymlinkError;
pub use view::{
    Access, Attributes, BadMount, Description, LayerLabel, Layers, ListedEntry, NodeKind, OpenDir, Outdated,
    Space, SymlinkMode, View, ViewError, ViewMount, ViewOptions, XattrMode,
};
