//! The directory of what lives as long as the machine's present boot: records and logs of live mounts.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::cli::output::error::{CommandError, Kind};

/// Why there is no directory to use.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeDirError {
    /// The system does not allow it.
    #[error("cannot use the runtime directory {path:?}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another user owns it, or may write to it, or it is no directory.
    #[error("the runtime directory {0:?} is not a directory of yours alone")]
    Unsafe(PathBuf),
}

impl RuntimeDirError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            RuntimeDirError::Io { .. } => {
                Some("set XDG_RUNTIME_DIR to a directory that you own and can write to".into())
            }
            RuntimeDirError::Unsafe(path) => {
                Some(format!("remove it, or `chmod 0700 {path:?}` if it is yours"))
            }
        }
    }
}

impl From<RuntimeDirError> for CommandError {
    fn from(error: RuntimeDirError) -> CommandError {
        CommandError::of(Kind::Failed, &error).maybe_hint(error.hint())
    }
}

/// What decides where the directory is.
pub struct Surroundings {
    /// `XDG_RUNTIME_DIR`, see the XDG base directory specification.
    pub xdg_runtime_dir: Option<PathBuf>,
    /// The effective user id.
    pub uid: u32,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_this_process() -> Surroundings {
        Surroundings {
            xdg_runtime_dir: std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
            uid: rustix::process::geteuid().as_raw(),
        }
    }

    /// Where the directory is: below `XDG_RUNTIME_DIR` if that is this user's; else below `/run` for root and below
    /// `/tmp` for everybody else.
    pub fn runtime_dir(&self) -> PathBuf {
        let ours = |dir: &PathBuf| {
            dir.is_absolute() && fs::metadata(dir).is_ok_and(|m| m.is_dir() && m.uid() == self.uid)
        };
        match self.xdg_runtime_dir.as_ref().filter(|dir| ours(dir)) {
            Some(dir) => dir.join("imagefs"),
            None if self.uid == 0 => PathBuf::from("/run/imagefs"),
            None => PathBuf::from(format!("/tmp/imagefs-{}", self.uid)),
        }
    }
}

/// Makes the directory if it is not there, and makes sure that it belongs to `uid` alone.
pub fn prepare(path: &Path, uid: u32) -> Result<(), RuntimeDirError> {
    let failed = |source| RuntimeDirError::Io { path: path.to_owned(), source };
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(e)),
        _ => {}
    }
    // In a directory where everybody may create files another user may have been here first. Nobody but the owner can
    // replace what passes this check, for /tmp is sticky.
    let found = fs::symlink_metadata(path).map_err(failed)?;
    if found.is_dir() && found.uid() == uid && found.mode() & 0o022 == 0 {
        Ok(())
    } else {
        Err(RuntimeDirError::Unsafe(path.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_runtime_directory_that_is_not_ours_is_passed_over() {
        let at = |dir: Option<&str>, uid| {
            Surroundings { xdg_runtime_dir: dir.map(PathBuf::from), uid }.runtime_dir()
        };
        assert_eq!(at(None, 0), Path::new("/run/imagefs"));
        assert_eq!(at(None, 1000), Path::new("/tmp/imagefs-1000"));
        assert_eq!(at(Some("relative"), 1000), Path::new("/tmp/imagefs-1000"));
        assert_eq!(at(Some("/"), 4_000_000), Path::new("/tmp/imagefs-4000000"));
        assert_eq!(at(Some("/"), 0), Path::new("/imagefs"));
    }

    #[test]
    fn a_directory_that_others_could_write_to_is_refused() {
        let uid = rustix::process::geteuid().as_raw();
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("imagefs");
        prepare(&dir, uid).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        prepare(&dir, uid).unwrap();
        assert!(matches!(prepare(&dir, uid + 1), Err(RuntimeDirError::Unsafe(_))));

        fs::set_permissions(&dir, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(prepare(&dir, uid), Err(RuntimeDirError::Unsafe(_))));

        let link = temp.path().join("link");
        std::os::unix::fs::symlink(temp.path(), &link).unwrap();
        assert!(matches!(prepare(&link, uid), Err(RuntimeDirError::Unsafe(_))));

        let absent = temp.path().join("a/b");
        assert!(matches!(prepare(&absent, uid), Err(RuntimeDirError::Io { .. })));
    }
}
