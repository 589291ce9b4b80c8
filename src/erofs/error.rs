//! Why there is no EROFS image of a view, or no mount of one.

use std::io;
use std::path::PathBuf;

use crate::fuse::ViewError;
use crate::index::{ReadError, TreeError};

/// Why a view could not be written as EROFS.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    /// What is shown may still change.
    #[error("what is shown may still become another thing")]
    NotFinal,
    /// The bytes are read where they lie, in a file that others may change.
    #[error("the archive is served in place, and may be changed by others")]
    Borrowed,
    /// A number of the format has no room for it.
    #[error("it is too large for EROFS: {0}")]
    TooLarge(&'static str),
    /// The view did not answer.
    #[error(transparent)]
    View(#[from] ViewError),
    /// Writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<TreeError> for ErofsError {
    fn from(error: TreeError) -> ErofsError {
        ErofsError::View(error.into())
    }
}

impl From<ReadError> for ErofsError {
    fn from(error: ReadError) -> ErofsError {
        ErofsError::View(error.into())
    }
}

/// Why the kernel did not mount an image.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// There is no EROFS in this kernel.
    #[error("this kernel has no EROFS")]
    NoErofs(#[source] io::Error),
    /// It has, but takes block devices alone: Linux before 6.12, or CONFIG_EROFS_FS_BACKED_BY_FILE is off.
    #[error("this kernel mounts EROFS from block devices alone, or not from the filesystem of {0:?}")]
    NotFromFiles(PathBuf, #[source] io::Error),
    /// Only root may.
    #[error("only root may have the kernel mount it")]
    NotPermitted(#[source] io::Error),
    /// The kernel takes no parameter of that length.
    #[error("the path of the image is longer than 255 bytes: {0:?}")]
    PathTooLong(PathBuf),
    /// Something else.
    #[error("the kernel refused to mount {image:?}{}", said(.log))]
    Refused {
        /// The image.
        image: PathBuf,
        /// What the kernel said.
        log: String,
        /// The error.
        #[source]
        source: io::Error,
    },
    /// Somebody uses it.
    #[error("the mount at {0:?} is in use")]
    Busy(PathBuf),
    /// The mountpoint does not do.
    #[error("cannot mount or unmount at {path:?}")]
    Mountpoint {
        /// Where.
        path: PathBuf,
        /// The error.
        #[source]
        source: io::Error,
    },
}

impl KernelError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            KernelError::NoErofs(_) => {
                Some("`modprobe erofs` may bring it; without -o kernel it is a FUSE mount")
            }
            KernelError::NotFromFiles(..) => Some(
                "it takes Linux 6.12, and a cache on a disk: not on tmpfs or overlayfs; --cache-dir says where it is",
            ),
            KernelError::NotPermitted(_) => {
                Some("without -o kernel it is a FUSE mount, which anybody may make")
            }
            KernelError::PathTooLong(_) => Some("choose a cache directory with a shorter path: --cache-dir"),
            KernelError::Busy(_) => Some("`fuser -vm MOUNTPOINT` shows by whom; or give --lazy"),
            KernelError::Refused { .. } | KernelError::Mountpoint { .. } => None,
        }
    }
}

fn said(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!(" ({log})") }
}
