//! Reads a tar archive from the front, once, and says what its entries are.
//!
//! [`Scanner`] understands v7, ustar, PAX (pax(1)) and GNU headers with long names, sparse files of every
//! format, extended attributes and base-256 numbers. It does not know about trees: where an entry goes, and what
//! it replaces, is the affair of the [growing tree](crate::index::GrowingTree). Imports no other room.
//!
//! The archive is hostile until shown otherwise: whatever it claims about itself is bounded or refused.

mod acl;
mod entry;
mod error;
mod header;
mod input;
mod oddity;
mod pax;
mod scanner;
mod sparse;

pub use entry::{Content, Entry, EntryKind, Extent, FileType, Timestamp};
pub use error::ScanError;
pub use input::{FileInput, Forward, TarInput, Tee};
pub use oddity::{Oddities, Oddity};
pub use scanner::{EndMark, Scanner};
