//! Why an image cannot be read, and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::compress::UnpackError;
use crate::image::{Digest, Platform};
use crate::progress::Cancelled;
use crate::registry::RegistryError;
use crate::tarfile::ScanError;

/// Text from outside with its control characters escaped, fit for a terminal.
pub(super) fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// The names of several things, a long list cut short.
struct List<'a>(&'a [String]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 20;
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        for (i, item) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { ", " }, printable(item.as_bytes()))?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// A path, fit for a terminal.
pub(super) fn shown(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    printable(path.as_os_str().as_bytes())
}

/// Why an image cannot be read.
///
/// `blob` is always the name of the file inside the archive or layout.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OciError {
    /// The system refused.
    #[error("cannot {doing} {}: {source}", shown(path))]
    Io {
        /// `open`, `read`, …
        doing: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no room, or no right, to unpack an archive.
    #[error("cannot {doing} {}: {source}", shown(directory))]
    Spool {
        /// What was being done.
        doing: &'static str,
        /// [`OpenOptions::spool`](super::OpenOptions::spool).
        directory: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Neither an archive nor a directory that could be one of an image.
    #[error("{} is not a tar archive", shown(.0))]
    NotATar(PathBuf),
    /// A directory without `oci-layout`, or a tar that holds no image.
    #[error("{} holds no container image", shown(.0))]
    NotAnImage(PathBuf),
    /// What `docker save` wrote before Docker 1.10, of February 2016.
    #[error("{} holds images as docker save wrote them before Docker 1.10, which is not supported", shown(.0))]
    BeforeManifests(PathBuf),
    /// A file where the transport wants a directory, or the other way round.
    #[error("{} is not a {wanted}", shown(path))]
    WrongTransport {
        /// What the user named.
        path: PathBuf,
        /// What it should be.
        wanted: &'static str,
    },
    /// The tar around the image cannot be followed.
    #[error("cannot use {}: {problem}", shown(path))]
    DamagedArchive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it, and where in the (uncompressed) archive.
        problem: ScanError,
    },
    /// A file that the image needs is not there.
    #[error("the image lacks {}", printable(.0.as_bytes()))]
    Missing(String),
    /// A name that leads out of the archive or layout, or to something other than a file.
    #[error("{}: {reason}", printable(blob.as_bytes()))]
    BadPath {
        /// The name.
        blob: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A digest that cannot be one, or of an algorithm other than SHA-256.
    #[error("{} names a blob by {:?}, which is not a SHA-256 digest", printable(within.as_bytes()), digest)]
    BadDigest {
        /// The document.
        within: String,
        /// Its words, at most 100 characters of them.
        digest: String,
    },
    /// A blob has another size than its descriptor says.
    #[error("{} has {found} bytes where {expected} are declared", printable(blob.as_bytes()))]
    WrongSize {
        /// Which blob.
        blob: String,
        /// Bytes, by the descriptor.
        expected: u64,
        /// Bytes, by the file.
        found: u64,
    },
    /// A blob's content is not what its digest promises.
    #[error("{} has the digest {found} where {expected} is declared", printable(blob.as_bytes()))]
    WrongDigest {
        /// Which blob.
        blob: String,
        /// By the descriptor.
        expected: Digest,
        /// By its bytes.
        found: Digest,
    },
    /// A layer unpacks to something else than the image's configuration promises.
    #[error("layer {} unpacks to {found} where the configuration says {expected}", printable(blob.as_bytes()))]
    WrongDiffId {
        /// Which blob.
        blob: String,
        /// By the configuration.
        expected: Digest,
        /// By its bytes.
        found: Digest,
    },
    /// A layer, or an archive that is compressed as a whole, is not unpacked.
    #[error("{} {problem}", printable(blob.as_bytes()))]
    Unpack {
        /// Which.
        blob: String,
        /// Why not.
        problem: UnpackError,
    },
    /// A document beyond what one is allowed to have.
    #[error("{} has {size} bytes; at most {limit} are read", printable(blob.as_bytes()))]
    TooLarge {
        /// Which document.
        blob: String,
        /// Its bytes.
        size: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A document that is not the JSON it should be.
    #[error("{} is not what it should be: {source}", printable(blob.as_bytes()))]
    Json {
        /// Which document.
        blob: String,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// A document that contradicts itself or the specification.
    #[error("{}: {reason}", printable(blob.as_bytes()))]
    Invalid {
        /// Which document.
        blob: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Docker's image format of before 2016.
    #[error("{} is a manifest of schema version 1, which is not supported", printable(.0.as_bytes()))]
    Schema1(String),
    /// A signature, chart, cache or other thing that is stored like an image.
    #[error("{} is an artifact of type {:?}, not an image", printable(blob.as_bytes()), media_type)]
    Artifact {
        /// The manifest.
        blob: String,
        /// The type of its configuration.
        media_type: String,
    },
    /// A layer of a kind that nobody knows.
    #[error("layer {} is of the unknown type {:?}", printable(blob.as_bytes()), media_type)]
    UnknownLayer {
        /// Which blob.
        blob: String,
        /// Its media type.
        media_type: String,
    },
    /// A layer that its maker does not let others distribute.
    #[error("layer {} is not distributed with the image (type {media_type})", printable(blob.as_bytes()))]
    ForeignLayer {
        /// Which blob.
        blob: String,
        /// Its media type.
        media_type: String,
    },
    /// Indexes within indexes within indexes.
    #[error("image indexes are nested more than {} levels deep", super::MAX_INDEX_DEPTH)]
    NestedTooDeep,
    /// Several images, and no word which.
    #[error("{} holds several images: {}", shown(path), List(images))]
    SeveralImages {
        /// The archive or layout.
        path: PathBuf,
        /// What there is, each with the reference that chooses it.
        images: Vec<String>,
    },
    /// No image goes by the reference.
    #[error("{} has no image {:?}; it holds {}", shown(path), reference, List(images))]
    NoSuchImage {
        /// The archive or layout.
        path: PathBuf,
        /// What the user asked for.
        reference: String,
        /// What there is, each with the reference that chooses it.
        images: Vec<String>,
    },
    /// The image is not there for the platform.
    #[error("there is no image for {wanted}; there is {}", List(available))]
    NoSuchPlatform {
        /// What was asked for.
        wanted: Platform,
        /// What there is.
        available: Vec<String>,
    },
    /// The registry that the image is in does not give what it should.
    #[error(transparent)]
    Registry(RegistryError),
    /// The user lost patience.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl From<RegistryError> for OciError {
    fn from(error: RegistryError) -> OciError {
        match error {
            RegistryError::Cancelled(cancelled) => cancelled.into(),
            error => OciError::Registry(error),
        }
    }
}

impl OciError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        if let OciError::Unpack { problem, .. } = self
            && let Some(hint) = problem.hint()
        {
            return Some(hint.into());
        }
        Some(match self {
            OciError::NotAnImage(_) => {
                "an image is a docker-archive (docker save, podman save), an oci-archive, or a directory with an \
                 oci-layout file; a tar of a root filesystem is named tar:PATH"
                    .into()
            }
            OciError::WrongTransport { .. } => "leave the transport out to have it recognised by content".into(),
            OciError::DamagedArchive { .. }
            | OciError::Missing(_)
            | OciError::WrongSize { .. }
            | OciError::WrongDigest { .. }
            | OciError::WrongDiffId { .. }
            | OciError::Unpack { .. } => {
                "the image is incomplete or was altered: save or copy it again".into()
            }
            OciError::BeforeManifests(_) => {
                "convert it: docker load, of Docker 26 or older, and docker save write the present format".into()
            }
            OciError::Schema1(_) => "convert it: skopeo copy writes the present format".into(),
            OciError::SeveralImages { .. } => {
                "name one: append :NAME or :@NUMBER to the path, or choose with --platform".into()
            }
            OciError::Registry(error) => return error.hint(),
            OciError::NoSuchPlatform { .. } => "choose one with --platform".into(),
            _ => return None,
        })
    }

    /// Whether it is an archive of images nevertheless, whatever else the file might be: more would have to be unpacked than may
    /// be, or it is too old.
    pub fn is_final(&self) -> bool {
        matches!(self, OciError::BeforeManifests(_))
            || matches!(self, OciError::Unpack { problem, .. } if problem.is_limit())
    }

    /// For an error that came up while `blob` was read and unpacked: it knows itself which of the two failed.
    pub(super) fn of_stream(blob: &str, error: io::Error) -> OciError {
        let read = |source| OciError::Io { doing: "read", path: blob.into(), source };
        let unpack = |problem| OciError::Unpack { blob: blob.to_owned(), problem };
        error.downcast().or_else(|error| error.downcast().map(unpack)).unwrap_or_else(read)
    }

    /// The error of this module inside an [`io::Error`] that a [layer's stream](super::LayerStream) gave.
    pub fn of(error: &io::Error) -> Option<&OciError> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<OciError> for io::Error {
    fn from(error: OciError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}
