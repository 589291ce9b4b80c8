//! Why the cache cannot do what was asked.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfs;
use rustix::io::Errno;

/// Why the cache cannot do what was asked. A damaged entry is no error: it is removed, and made again.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Neither `$XDG_CACHE_HOME` nor a home directory is known.
    #[error("cannot tell where the cache belongs: there is no home directory")]
    NoHome,
    /// The cache directory, or one in it, is somebody else's, who could put into it what this user would then be shown.
    #[error("the cache directory {dir:?} belongs to uid {owner}, not to uid {user}")]
    ForeignOwner {
        /// The cache directory.
        dir: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who asks.
        user: u32,
    },
    /// The group or everybody may write to the cache directory, or to one in it.
    #[error("the cache directory {dir:?} can be written by others (mode {mode:04o})")]
    Exposed {
        /// The cache directory.
        dir: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The directory holds something, and no cache: it is left alone.
    #[error("{dir:?} is not empty, and no cache of imagefs")]
    NotACache {
        /// The directory.
        dir: PathBuf,
    },
    /// The disk is full, or the user's quota on it is used up.
    #[error("no space left in the cache: cannot {action} {path:?}")]
    NoSpace {
        /// What was being done, as a verb.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// How many bytes and how many inodes are free there, where that is known.
        free: Option<(u64, u64)>,
        /// What the kernel said: `ENOSPC` or `EDQUOT`.
        source: io::Error,
    },
    /// A system call failed.
    #[error("cannot {action} {path:?}")]
    Io {
        /// What was being done, as a verb.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The caller did not want to wait any longer for the process that fills the entry.
    #[error("gave up waiting for another imagefs that fetches the same content")]
    GaveUp,
    /// A key must be given by at least four hexadecimal digits.
    #[error("{0:?} is no key: give at least 4 of its hexadecimal digits")]
    BadKey(String),
    /// No entry's key begins so.
    #[error("no cache entry begins with {0}")]
    NoSuchKey(String),
    /// Several entries' keys begin so.
    #[error("{count} cache entries begin with {prefix}")]
    AmbiguousKey {
        /// What was given.
        prefix: String,
        /// How many it fits.
        count: usize,
    },
}

impl CacheError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            CacheError::NoHome => "set HOME, or say where with --cache-dir".to_owned(),
            CacheError::ForeignOwner { user: 0, .. } => {
                "under sudo, `sudo -H` uses root's own cache; or choose another with --cache-dir".to_owned()
            }
            CacheError::ForeignOwner { .. } => "choose a directory of your own with --cache-dir".to_owned(),
            CacheError::Exposed { dir, .. } => format!("if all in it is yours: chmod -R go-w {dir:?}"),
            CacheError::NotACache { .. } => "choose a directory that is empty or absent".to_owned(),
            CacheError::NoSpace { free, .. } => {
                let free = match free {
                    Some((_, 0)) => "no inode is free there; ".to_owned(),
                    Some((bytes, _)) => format!("{} MiB are free there; ", bytes >> 20),
                    None => String::new(),
                };
                format!(
                    "{free}`imagefs cache prune --max-size 0` removes all that no mount uses, \
                     --cache-dir chooses another disk"
                )
            }
            CacheError::Io { action: LOCK, .. } => {
                "the cache must lie on a filesystem of this machine: choose one with --cache-dir".to_owned()
            }
            CacheError::Io { source, .. } if Errno::from_io_error(source) == Some(Errno::MFILE) => {
                "each layer of an image takes two open files: raise the hard limit (ulimit -Hn)".to_owned()
            }
            CacheError::Io { source, .. } if Errno::from_io_error(source) == Some(Errno::FBIG) => {
                "files may not be as large here: see `ulimit -f`, or choose another disk with --cache-dir"
                    .to_owned()
            }
            CacheError::NoSuchKey(_) | CacheError::AmbiguousKey { .. } => {
                "`imagefs cache ls` lists the keys".to_owned()
            }
            CacheError::Io { source, .. }
                if matches!(
                    Errno::from_io_error(source),
                    Some(Errno::ROFS | Errno::ACCESS | Errno::PERM)
                ) =>
            {
                "choose a directory that you can write to with --cache-dir".to_owned()
            }
            CacheError::Io { .. } | CacheError::GaveUp | CacheError::BadKey(_) => return None,
        })
    }

    /// The cache's own error within one that a [`DataWriter`](super::DataWriter) returned.
    pub fn within(error: &io::Error) -> Option<&CacheError> {
        error.get_ref()?.downcast_ref()
    }

    /// A failed system call on `path`, which is of the cache.
    pub(crate) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> CacheError {
        let source = source.into();
        let path = path.to_owned();
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => {
                // What was to be made there need not be there.
                let free = std::iter::once(&*path)
                    .chain(path.parent())
                    .find_map(|there| rustix::fs::statvfs(there).ok())
                    .map(|fs| (fs.f_bavail.saturating_mul(fs.f_frsize), inodes_left(&fs)));
                CacheError::NoSpace { action, path, free, source }
            }
            _ => CacheError::Io { action, path, source },
        }
    }
}

/// How many inodes can be made; what has no fixed number of them (Btrfs) says that it has none at all.
fn inodes_left(fs: &StatVfs) -> u64 {
    if fs.f_files == 0 { u64::MAX } else { fs.f_favail }
}

/// The action of a failed flock(2).
pub(super) const LOCK: &str = "lock";
