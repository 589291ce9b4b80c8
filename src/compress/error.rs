//! Why something is not unpacked.

use std::io;

/// Why something is not unpacked. A message about it begins with its name.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It is damaged, cut short, or wants more memory than it may have.
    #[error("cannot be unpacked: {0}")]
    Decode(#[source] io::Error),
    /// It unpacks to more than is allowed.
    #[error("unpacks to more than {limit} bytes")]
    TooLarge {
        /// Bytes allowed.
        limit: u64,
    },
    /// It takes absurdly more of the disk than it has bytes.
    #[error("unpacks to more than {ratio} times its size, zeros not counted")]
    Bomb {
        /// The factor allowed.
        ratio: u64,
    },
}

impl UnpackError {
    /// Whether nothing is wrong but that more would have to be unpacked than may be.
    pub fn is_limit(&self) -> bool {
        matches!(self, UnpackError::TooLarge { .. } | UnpackError::Bomb { .. })
    }

    /// What the user can do about it; `None` for what is damaged.
    pub fn hint(&self) -> Option<&'static str> {
        let UnpackError::Decode(source) = self else { return Some("--max-size sets the limit") };
        // The zstd library tells its errors apart by their words alone.
        let zstd = source.to_string() == "Frame requires too much memory for decoding";
        let xz = matches!(
            source.get_ref().and_then(|inner| inner.downcast_ref()),
            Some(liblzma::stream::Error::MemLimit)
        );
        (zstd || xz).then_some(
            "it may be whole, but was compressed with a larger window than is unpacked here: compress it again with zstd \
             --long=27 (128 MiB) or less, or with xz -9 or less",
        )
    }
}

impl From<UnpackError> for io::Error {
    fn from(error: UnpackError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}
