//! Unpacking what is compressed, in bounded memory and at a bounded cost.
//!
//! The bytes decide how something is compressed; names and media types are only claims. An [`Unpacker`] hands on what a stream
//! unpacks to, until that costs more than the [`Limits`] allow. Imports nothing of the crate but [`crate::sparse_file`].

mod decoder;
mod error;
mod format;
mod limits;
mod unpacker;

pub use error::UnpackError;
pub(crate) use format::Compression;
pub use limits::Limits;
pub(crate) use unpacker::Unpacker;
