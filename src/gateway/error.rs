//! Why the gateway has no answer.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::index::{ReadError, TreeError};
use crate::progress::Cancelled;
use crate::source::SourceError;

/// Why the gateway has no answer. Paths are those of the mount, cleaned.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The source cannot be opened or read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// There is no mount of that index.
    #[error("mount index {index} is out of bounds ({available} available)")]
    MountIndex {
        /// What was asked for.
        index: i64,
        /// How many mounts there are: the last index and one.
        available: usize,
    },
    /// There is no mount of that name.
    #[error("there is no mount {}", quote(Path::new(name)))]
    MountName {
        /// What was asked for.
        name: String,
        /// The names that there are, by mount index.
        available: Vec<String>,
    },
    /// The mount cannot be read, for this reason.
    #[error("{0}")]
    Unavailable(String),
    /// Nothing stands at the path.
    #[error("no such file or directory: {}", quote(.0))]
    NotFound(PathBuf),
    /// Something on the way, or at the end of it, had to be a directory.
    #[error("not a directory: {}", quote(.0))]
    NotADirectory(PathBuf),
    /// A regular file was asked for.
    #[error("not a regular file: {}", quote(.0))]
    NotAFile(PathBuf),
    /// More symbolic links than path_resolution(7) allows.
    #[error("too many levels of symbolic links: {}", quote(.0))]
    Loop(PathBuf),
    /// A symbolic link leads out of the mount.
    #[error("{} leads out of its mount, to {} of the container", quote(path), quote(target))]
    LeadsOut {
        /// What was asked for.
        path: PathBuf,
        /// Where it leads, as a path of the container.
        target: PathBuf,
        /// The mount that it leads to, and the path there.
        mount: (String, PathBuf),
        /// The path there instead, should the mount be a single file: nobody knows before it is read.
        or_file: Option<PathBuf>,
    },
    /// The range is longer than is read at once.
    #[error("{} bytes of {} are too many to be read at once", size, quote(path))]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// How many bytes were asked for.
        size: u64,
    },
    /// The stream has stopped bringing anything.
    #[error("{}: nothing has come for {} s", quote(path), patience.as_secs_f32())]
    Stalled {
        /// What was asked for.
        path: PathBuf,
        /// How long it was waited for.
        patience: Duration,
    },
    /// The stream broke off before it brought what was asked for.
    #[error("{} was not read before the source broke off", quote(path))]
    Lost {
        /// What was asked for.
        path: PathBuf,
        /// Why the stream broke off.
        #[source]
        cause: Option<Arc<SourceError>>,
    },
    /// The tree or the bytes of the source are not what they should be.
    #[error("cannot read {}: {error}", quote(path))]
    Read {
        /// What was asked for.
        path: PathBuf,
        /// Why.
        error: ReadError,
    },
    /// The stream of a single file ended too soon, or could not be read.
    #[error("cannot read {}: {error}", quote(path))]
    Stream {
        /// What was asked for.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The user lost patience.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl GatewayError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            GatewayError::Source(error) => error.hint(),
            GatewayError::Lost { cause, .. } => cause.as_ref().and_then(|cause| cause.hint()),
            GatewayError::MountIndex { available, .. } => match available {
                0 | 1 => Some("the only mount is 0, the root filesystem".to_owned()),
                n => Some(format!("mounts are numbered from 0 to {}", n - 1)),
            },
            GatewayError::MountName { available, .. } => {
                let names: Vec<String> = available.iter().map(|name| quote(Path::new(name))).collect();
                Some(format!("there is {}", names.join(", ")))
            }
            GatewayError::LeadsOut { mount: (name, path), or_file, .. } => {
                let hint = format!("ask mount {} for {}", quote(Path::new(name)), quote(path));
                Some(match or_file {
                    Some(file) => format!("{hint}, or for {} if it is a single file", quote(file)),
                    None => hint,
                })
            }
            GatewayError::TooLarge { .. } => Some("read it piece by piece".to_owned()),
            GatewayError::Stalled { .. } => Some("see whether the daemon still answers".to_owned()),
            _ => None,
        }
    }

    pub(super) fn tree(path: &[u8], error: impl Into<ReadError>) -> GatewayError {
        let path = to_path(path);
        match error.into() {
            ReadError::Tree(TreeError::Lost) => GatewayError::Lost { path, cause: None },
            ReadError::Tree(TreeError::NotADirectory(_)) => GatewayError::NotADirectory(path),
            ReadError::Tree(TreeError::NotAFile(_)) => GatewayError::NotAFile(path),
            error => GatewayError::Read { path, error },
        }
    }
}

pub(super) fn to_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

fn quote(path: &Path) -> String {
    format!("\"{}\"", path.as_os_str().as_bytes().escape_ascii())
}
