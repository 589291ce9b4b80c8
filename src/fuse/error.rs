//! Why a session cannot be started or ended, and what to do about it.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use super::mount_status::FILESYSTEM_TYPE;

/// Why a session cannot be started or ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The mountpoint cannot be looked at.
    #[error("cannot use mountpoint {path:?}: {source}")]
    Mountpoint {
        /// The mountpoint.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is nothing at the mountpoint's path.
    #[error("mountpoint {0:?} does not exist")]
    MountpointMissing(PathBuf),
    /// Something else than a directory is there.
    #[error("mountpoint {0:?} is not a directory")]
    MountpointNotADirectory(PathBuf),
    /// The directory has entries.
    #[error("mountpoint {0:?} is not empty")]
    MountpointNotEmpty(PathBuf),
    /// Something is mounted there.
    #[error("something is already mounted at {path:?} ({filesystem_type:?})")]
    AlreadyMounted {
        /// The mountpoint.
        path: PathBuf,
        /// What is mounted.
        filesystem_type: OsString,
    },
    /// A session is mounted there whose server is gone.
    #[error("an imagefs mount whose server is gone is still at {0:?}")]
    Stale(PathBuf),
    /// The kernel has no FUSE.
    #[error("there is no FUSE on this system: /dev/fuse cannot be opened: {0}")]
    NoDevice(io::Error),
    /// The helper that mounts for ordinary users is not installed.
    #[error("cannot mount as an ordinary user: fusermount3 is not installed")]
    HelperMissing,
    /// The helper that mounts for ordinary users did not run.
    #[error("cannot run fusermount3: {0}")]
    Helper(io::Error),
    /// The helper that mounts for ordinary users refused.
    #[error("fusermount3 refused to mount at {path:?}: {message:?}")]
    HelperRefused {
        /// The mountpoint.
        path: PathBuf,
        /// What it said.
        message: String,
    },
    /// `allow_other` is root's privilege unless the administrator gave it to all.
    #[error("allow_other is not permitted to ordinary users on this system")]
    AllowOther,
    /// An option that only root may give.
    #[error("option {0} is permitted to root only")]
    Privileged(&'static str),
    /// mount(2) refused.
    #[error("cannot mount at {path:?}: {source}")]
    Mount {
        /// The mountpoint.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// mount(2) refused to change what is mounted.
    #[error("cannot change what is mounted at {path:?}: {source}")]
    Remount {
        /// The mountpoint.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Kernel and server did not come to terms.
    #[error("the kernel did not start the session: {0}")]
    Start(io::Error),
    /// Kernel and server lost each other.
    #[error("the connection to the kernel broke: {0}")]
    Broken(io::Error),
    /// What is mounted could not be replaced.
    #[error("cannot show other mounts: {0}")]
    Replace(io::Error),
    /// Nothing is mounted there.
    #[error("nothing is mounted at {0:?}")]
    NotMounted(PathBuf),
    /// Something else is mounted there.
    #[error("what is mounted at {path:?} is not an imagefs mount but {filesystem_type:?}")]
    NotOurs {
        /// The mountpoint.
        path: PathBuf,
        /// What is mounted.
        filesystem_type: OsString,
    },
    /// Files are open or a process has its working directory there.
    #[error("{0:?} is in use")]
    Busy(PathBuf),
    /// The mount belongs to another user.
    #[error("cannot unmount {path:?}: {message:?}")]
    UnmountRefused {
        /// The mountpoint.
        path: PathBuf,
        /// What the system or the helper says.
        message: String,
    },
}

impl SessionError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            SessionError::MountpointMissing(path) => format!("create it: mkdir -p {path:?}"),
            SessionError::MountpointNotADirectory(_) => "name a directory".to_owned(),
            SessionError::MountpointNotEmpty(_) => {
                "name an empty directory: a mount would hide what is there".to_owned()
            }
            SessionError::Remount { .. } => {
                "as another user than root, unmount it, and mount it again".to_owned()
            }
            SessionError::AlreadyMounted { path, .. } if path.parent().is_none() => {
                "name an empty directory".to_owned()
            }
            SessionError::AlreadyMounted { path, filesystem_type } if filesystem_type != FILESYSTEM_TYPE => {
                format!("name an empty directory; {path:?} is in use by something else")
            }
            SessionError::AlreadyMounted { path, .. } => {
                format!("name another directory, or unmount that first: umount {path:?}")
            }
            SessionError::Stale(path) => format!("remove it: imagefs umount {path:?}"),
            SessionError::NoDevice(error) => match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    "run as root, or let users open /dev/fuse; in a container, add --device /dev/fuse \
                     --cap-add SYS_ADMIN"
                        .to_owned()
                }
                _ => "load the module: modprobe fuse; in a container, add --device /dev/fuse".to_owned(),
            },
            SessionError::HelperMissing => "install it (apt install fuse3), or run as root".to_owned(),
            SessionError::AllowOther => {
                "put the line user_allow_other into /etc/fuse.conf, or run as root".to_owned()
            }
            SessionError::Privileged(_) => "leave it out, or run as root".to_owned(),
            SessionError::Mount { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "run as root, or install fuse3 for mounting as an ordinary user".to_owned()
            }
            SessionError::NotOurs { path, .. } => format!("unmount it with umount {path:?} if you mean it"),
            SessionError::Busy(path) => {
                format!("see what uses it with fuser -vm {path:?}, or detach it at once with --lazy")
            }
            SessionError::UnmountRefused { .. } => {
                "only the user who mounted it and root may unmount it".to_owned()
            }
            SessionError::Mountpoint { .. }
            | SessionError::Helper(_)
            | SessionError::HelperRefused { .. }
            | SessionError::Mount { .. }
            | SessionError::Start(_)
            | SessionError::Broken(_)
            | SessionError::Replace(_)
            | SessionError::NotMounted(_) => return None,
        })
    }
}
