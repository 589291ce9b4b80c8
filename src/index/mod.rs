//! Trees: what a filesystem looks like to whoever serves it, and how one comes out of a tar stream.

mod filesystem;
mod tree;

pub use filesystem::{DataFile, FileIdentity, Filesystem, ReadError, Whence};
pub use tree::{
    DirCookie, DirEntry, FileType, Ino, LayerNo, Listing, Segment, Stat, Summary, Timestamp, Tree, TreeError,
};
