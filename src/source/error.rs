//! Why a source cannot be served.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::buildkit::BuildError;
use crate::cache::{CacheError, Kind};
use crate::compress::UnpackError;
use crate::docker::{BadName, DockerError, EndpointError};
use crate::image::Digest;
use crate::index::{GrowError, MergeError, TreeError};
use crate::oci::OciError;
use crate::progress::Cancelled;
use crate::registry::{BadRemoteName, RegistryError};
use crate::tarfile::ScanError;

/// Why a source cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It is all that an engine has, and not one thing.
    #[error("local: is all that the engine has, and not one image or container")]
    Many,
    /// The transport is one that imagefs does not read.
    #[error("the transport {transport}: is not supported")]
    Transport {
        /// The word before the colon.
        transport: &'static str,
        /// What to do instead.
        instead: &'static str,
    },
    /// The name of an image has to be text.
    #[error("\"{}\" is not the name of an image: it is not UTF-8", .0.as_bytes().escape_ascii())]
    NotUtf8(OsString),
    /// The name of an image is malformed.
    #[error(transparent)]
    BadName(#[from] BadName),
    /// The name of an image in a registry is malformed.
    #[error(transparent)]
    BadRemoteName(#[from] BadRemoteName),
    /// A registry does not give what it was asked for.
    #[error(transparent)]
    Registry(RegistryError),
    /// The daemon's address is malformed.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The daemon did not do what it was asked.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// A build could not be made, or what it left cannot be read.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// An image in an archive or a layout cannot be used.
    #[error(transparent)]
    Oci(OciError),
    /// A layer of an image is not what it should be.
    #[error("cannot use {}: layer {layer}: {problem}", quote(Path::new(source_name)))]
    Layer {
        /// The source.
        source_name: OsString,
        /// The layer's diff id.
        layer: Digest,
        /// What is wrong with it.
        problem: ContentProblem,
    },
    /// The cache is in trouble.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A file of the user's cannot be read.
    #[error("cannot read {}: {error}", quote(path))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A tar has to be a regular file.
    #[error("{} is not a regular file", quote(.0))]
    NotAFile(PathBuf),
    /// A file was written to while it was read.
    #[error("{} was changed while it was being indexed", quote(.0))]
    ChangedMeanwhile(PathBuf),
    /// The archive is not what it should be.
    #[error("cannot use {}: {problem}", quote(Path::new(source_name)))]
    Content {
        /// The source.
        source_name: OsString,
        /// What is wrong with it.
        problem: ContentProblem,
    },
    /// Unpacking failed.
    #[error("{} {problem}", quote(Path::new(source_name)))]
    Unpack {
        /// The source.
        source_name: OsString,
        /// Why.
        problem: UnpackError,
    },
    /// A second attempt brought other bytes than the first.
    #[error("the export of {} broke off, and a new one differs from it", quote(Path::new(.0)))]
    Different(OsString),
    /// A mount of a container is not there to be read: it is shown as empty.
    #[error("{} cannot be read: {why}", quote(Path::new(mount)))]
    Unavailable {
        /// Where the container has it.
        mount: String,
        /// Why.
        why: String,
    },
    /// A whole stream had nothing of the directory that was to be taken from it.
    #[error("it has no such directory, or has a link on the way to it")]
    NoSuchPart,
    /// There is nothing to read.
    #[error("there is no stream to read")]
    NoStream,
    /// The machine has no room for a thread.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// Nothing is known of the layers that it consists of.
    #[error("the layers of {} are not known", quote(Path::new(.source_name)))]
    NoLayers {
        /// What the user named.
        source_name: OsString,
        /// What it is.
        kind: Kind,
        /// The image that it was made of, if it is a container.
        image: Option<String>,
    },
    /// It is what it is.
    #[error("there is nothing to refresh: {} is no container, and never changes", quote(Path::new(.0)))]
    Unchanging(OsString),
    /// The user lost patience.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// What others who wait for the same were told too: see [`SourceError::original`].
    #[error(transparent)]
    Shared(Arc<SourceError>),
}

/// What to do about what ends too early.
const BROKEN: &str = "what made or carried it failed on the way: make or fetch it again";

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum ContentProblem {
    /// As a tar.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// As a tree.
    #[error(transparent)]
    Grow(#[from] GrowError),
    /// As one of several layers.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// An index that was made of it cannot be walked.
    #[error(transparent)]
    Walk(#[from] TreeError),
}

impl From<OciError> for SourceError {
    fn from(error: OciError) -> SourceError {
        match error {
            // Archives are unpacked into the cache.
            OciError::Spool { doing, directory, source } => CacheError::io(doing, &directory, source).into(),
            OciError::Cancelled(cancelled) => SourceError::Cancelled(cancelled),
            OciError::Registry(error) => error.into(),
            error => SourceError::Oci(error),
        }
    }
}

impl From<RegistryError> for SourceError {
    fn from(error: RegistryError) -> SourceError {
        match error {
            RegistryError::Cancelled(cancelled) => SourceError::Cancelled(cancelled),
            error => SourceError::Registry(error),
        }
    }
}

impl SourceError {
    /// The error itself, whoever else was told of it.
    pub fn original(&self) -> &SourceError {
        match self {
            SourceError::Shared(error) => error.original(),
            error => error,
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self.original() {
            SourceError::Transport { instead, .. } => Some((*instead).to_owned()),
            SourceError::Many => {
                Some("mount it, and look below the mountpoint: imagefs mount local: DIR".to_owned())
            }
            SourceError::Endpoint(e) => e.hint(),
            SourceError::Docker(e) => e.hint(),
            SourceError::Build(e) => e.hint(),
            SourceError::Oci(e) => e.hint(),
            SourceError::Registry(e) => e.hint(),
            SourceError::Cache(e) => e.hint(),
            SourceError::NoLayers { image: Some(image), .. } => {
                Some(format!("those of the image that it was made of are: name {image}"))
            }
            SourceError::NoLayers { kind: Kind::Tar, .. } => {
                Some("name an image: a tar of a root filesystem has no layers".to_owned())
            }
            SourceError::NoLayers { .. } => Some("-o exact gets a daemon's image layer by layer".to_owned()),
            SourceError::Unchanging(_) => {
                Some("a name may lead to another image by now: unmount, and mount it again".to_owned())
            }
            SourceError::ChangedMeanwhile(_) => Some("try again when nobody writes to it".to_owned()),
            SourceError::Content { problem: ContentProblem::Scan(ScanError::NotATar), .. } => Some(
                "a tar of a root filesystem is wanted, plain or compressed with gzip, zstd, xz, bzip2, lzma or lzip".to_owned(),
            ),
            SourceError::Unpack { problem, .. } => Some(problem.hint().unwrap_or(BROKEN).to_owned()),
            SourceError::Content {
                problem: ContentProblem::Scan(ScanError::Truncated { .. } | ScanError::TrailingData { .. }),
                ..
            } => Some(BROKEN.to_owned()),
            _ => None,
        }
    }

    /// Whether there is no image of that name, be it that none can have it.
    pub(super) fn is_no_image(&self) -> bool {
        matches!(
            self.original(),
            SourceError::BadName(_) | SourceError::Docker(DockerError::ImageNotFound { .. })
        )
    }

    /// Whether it took more of the disk than there is or may be taken: then what has come is not kept.
    pub(super) fn is_out_of_room(&self) -> bool {
        match self.original() {
            SourceError::Cache(error) => matches!(error, CacheError::NoSpace { .. }),
            SourceError::Unpack { problem, .. } => problem.is_limit(),
            _ => false,
        }
    }

    pub(super) fn read(path: &Path, error: io::Error) -> SourceError {
        SourceError::Read { path: path.to_owned(), error }
    }

    pub(super) fn content(source: &OsStr, problem: impl Into<ContentProblem>) -> SourceError {
        SourceError::Content { source_name: source.to_owned(), problem: problem.into() }
    }

    /// For an error that came up while a stream was read and written: it knows itself which of the two failed.
    pub(super) fn stream(source: &OsStr, error: io::Error) -> SourceError {
        fn own<E: Into<SourceError> + std::error::Error + Send + Sync + 'static>(
            error: io::Error,
        ) -> Result<SourceError, io::Error> {
            error.downcast::<E>().map(Into::into)
        }
        own::<DockerError>(error)
            .or_else(own::<BuildError>)
            .or_else(own::<CacheError>)
            .or_else(own::<OciError>)
            .or_else(own::<Cancelled>)
            .or_else(|error| {
                let unpack = |problem| SourceError::Unpack { source_name: source.to_owned(), problem };
                error.downcast().map(unpack)
            })
            .unwrap_or_else(|error| SourceError::read(Path::new(source), error))
    }
}

fn quote(path: &Path) -> String {
    format!("\"{}\"", path.as_os_str().as_bytes().escape_ascii())
}
