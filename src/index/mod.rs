//! Trees: what a filesystem looks like to whoever serves it, and how one comes out of a tar stream.
//!
//! [`tarfile`](crate::tarfile) reads a tar and says what its entries are; the [`GrowingTree`] puts them in their places;
//! [`write_index`] lays the finished tree down on disk, where the [`Index`] reads it. Both trees answer the
//! [`Tree`] interface; a [`Filesystem`] is a tree with the files that hold its bytes. Imports [`tarfile`](crate::tarfile) alone.

mod compare;
mod data;
mod extent;
mod external;
mod filesystem;
mod filling;
mod format;
mod growing;
mod provisional;
mod reader;
mod spool;
mod tree;
mod whiteout;
mod writer;
mod xattrs;

pub use crate::tarfile::{FileType, Timestamp};
pub use compare::{Attribute, Change, Difference, DifferenceKind, compare};
pub use data::{DataFile, FileIdentity, ReadError};
pub use external::{ExternalRuns, Run};
pub use filesystem::{Certainty, Filesystem, FillState, Grower, Incoming, Pinned, ProvisionalStat, Whence};
pub use format::VERSION as FORMAT_VERSION;
pub use growing::{Changes, GrowError, GrowingTree, Merge, MergeError, Order};
pub use provisional::{BriefStat, Demand, DemandSender};
pub use reader::{Index, OpenError};
pub use spool::MAX_FETCHED;
pub use tree::{
    DIRECTORY_SIZE, DirCookie, DirEntry, Ino, LayerNo, Listing, Segment, Stat, Summary, Tree, TreeError,
};
pub use whiteout::Whiteout;
pub use writer::write_index;
