//! EROFS: what a view shows, written as a filesystem that the kernel reads by itself, and mounted by it.
//!
//! | file | what it holds |
//! |---|---|
//! | `format` | the on-disk layout: types and constants |
//! | `devices` | block addresses: those of the image, and of the data files that are its devices |
//! | `directory` | the blocks of a directory |
//! | `xattrs` | extended attributes, each stored once |
//! | `chunks` | the maps of sparse files |
//! | `area` | a part of the image that is written from front to end |
//! | `writer` | the passes over a view: one measures, one writes an inode after the other, and in the end the superblock |
//! | `mount` | mounting an image with its devices |
//! | `error` | why there is no image, or no mount |
//!
//! The tree is asked of a [`View`](crate::fuse::View), which decides what a user sees: so a kernel mount shows what a session
//! would. Uses `fuse` and `index` and nothing else of the crate.

mod area;
mod chunks;
mod devices;
mod directory;
mod error;
mod format;
mod mount;
mod writer;
mod xattrs;

pub use devices::{Device, Placement};
pub use error::{ErofsError, KernelError};
pub use mount::{Detached, KernelConfig, unmount};
pub use writer::{Image, ImageOptions, devices, left_out, write};
