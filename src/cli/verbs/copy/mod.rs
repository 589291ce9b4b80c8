//! Copying files out of a source: to a directory, or as a tar.
//!
//! A [`Sink`](walk::Sink) takes files one by one, a directory before what is in it. [`Disk`] makes them, [`Archive`] writes them
//! down. Both get names that are relative, made of plain components: nothing that an image says leads elsewhere.

mod archive;
mod disk;
mod walk;

pub use archive::Archive;
pub use disk::Disk;
pub use walk::{Tally, copy};
