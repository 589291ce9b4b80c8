//! Why a tar is refused.

use std::io;

/// Why a tar was refused.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The first block is no tar header.
    #[error("not a tar archive")]
    NotATar,
    /// A later block is no tar header.
    #[error("damaged at byte {at}: a tar header was expected")]
    BadChecksum {
        /// Where the block stands.
        at: u64,
    },
    /// A header's field makes no sense.
    #[error("damaged at byte {at}: the {field} of a header is not valid")]
    BadField {
        /// Which field.
        field: &'static str,
        /// Where the header stands.
        at: u64,
    },
    /// An extended header makes no sense.
    #[error("damaged at byte {at}: an extended (PAX) header is not valid")]
    BadPax {
        /// Where the header stands.
        at: u64,
    },
    /// A sparse file's map makes no sense.
    #[error("damaged at byte {at}: the map of a sparse file is not valid")]
    BadSparse {
        /// Where the header stands.
        at: u64,
    },
    /// An entry has no name.
    #[error("damaged at byte {at}: an entry has no name")]
    NoName {
        /// Where the header stands.
        at: u64,
    },
    /// A name or path is longer than Linux allows.
    #[error("at byte {at}: {} bytes are too long for a {what}: {}", .name.len(), shorten(.name))]
    TooLong {
        /// "name", "path" or "link target".
        what: &'static str,
        /// The name.
        name: Vec<u8>,
        /// Where the header stands.
        at: u64,
    },
    /// The headers of one entry are beyond any reason.
    #[error("at byte {at}: the headers of one entry take more than 1 MiB")]
    TooMuchMetadata {
        /// Where the headers begin.
        at: u64,
    },
    /// The archive goes on in another file.
    #[error("at byte {at}: a part of a multi-volume archive cannot be read alone")]
    MultiVolume {
        /// Where the header stands.
        at: u64,
    },
    /// The archive ends in the middle of something.
    #[error("truncated: the archive ends at byte {at}, in the middle of {what}")]
    Truncated {
        /// Where it ends.
        at: u64,
        /// What was being read.
        what: &'static str,
    },
    /// Something other than zeros follows the end mark.
    #[error("the archive ends at byte {at}, but something else follows: {}", shorten(.found))]
    TrailingData {
        /// Where the stray bytes begin.
        at: u64,
        /// The first of them.
        found: Vec<u8>,
    },
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn shorten(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(120)];
    format!("\"{}{}\"", shown.escape_ascii(), if shown.len() < bytes.len() { "…" } else { "" })
}
