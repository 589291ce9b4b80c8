//! What is mounted at a path.
//!
//! The answer comes from the [table of mounts](crate::mountinfo), since asking about the path itself may
//! wait for a server that hangs. Must not import `fuser`.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use crate::mountinfo::{MountEntry, read_table, topmost};

/// The filesystem type of a session.
pub(super) const FILESYSTEM_TYPE: &str = "fuse.imagefs";

/// How long a session may take to answer before it counts as not answering.
const PROBE: Duration = Duration::from_secs(1);

/// Symlinks that are followed to a mountpoint.
const MAX_FOLLOWED: usize = 40;

/// What is mounted at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountStatus {
    /// Nothing.
    Nothing,
    /// A session that answers.
    Live,
    /// A session whose server is gone: every access ends in `ENOTCONN`.
    Stale,
    /// A session whose server is there but does not answer.
    Hung,
    /// Another filesystem.
    Other {
        /// Its type, as `/proc/filesystems` spells it.
        filesystem_type: OsString,
    },
}

/// Tells what is mounted at `path`. Nothing needs to exist there.
pub fn mount_status(path: &Path) -> io::Result<MountStatus> {
    let table = read_table()?;
    let path = locate(path, &table)?;
    let Some(mount) = topmost(&table, &path) else { return Ok(MountStatus::Nothing) };
    if mount.filesystem_type != FILESYSTEM_TYPE {
        return Ok(MountStatus::Other { filesystem_type: mount.filesystem_type.clone() });
    }
    Ok(probe(path))
}

/// `path`, absolute and free of symlinks, without touching what may be mounted there.
pub(super) fn locate(path: &Path, table: &[MountEntry]) -> io::Result<PathBuf> {
    let mut path = std::path::absolute(path)?;
    for _ in 0..MAX_FOLLOWED {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return path.canonicalize();
        };
        let candidate = parent.canonicalize()?.join(name);
        if topmost(table, &candidate).is_some() {
            return Ok(candidate);
        }
        match candidate.read_link() {
            Ok(target) => path = candidate.parent().unwrap_or(Path::new("/")).join(target),
            Err(_) => return Ok(candidate),
        }
    }
    Err(Errno::LOOP.into())
}

/// Asks a session for its size: the one question that a server answers without looking anything up, so that
/// only a dead or stopped one leaves it open. The thread that asks is left behind if it gets no answer.
fn probe(mountpoint: PathBuf) -> MountStatus {
    let (sender, answer) = mpsc::channel();
    let asking = thread::Builder::new().name("imagefs-probe".into()).spawn(move || {
        // Nobody may be listening any more.
        let _ = sender.send(rustix::fs::statfs(&mountpoint));
    });
    match (asking, answer.recv_timeout(PROBE)) {
        (Err(_), _) | (_, Ok(Ok(_))) => MountStatus::Live,
        (_, Ok(Err(Errno::NOTCONN | Errno::CONNABORTED))) => MountStatus::Stale,
        // Whoever may not enter finds a server there all the same.
        (_, Ok(Err(_))) => MountStatus::Live,
        (_, Err(_)) => MountStatus::Hung,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_stands_at_a_plain_directory_and_something_else_at_proc() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(mount_status(dir.path()).unwrap(), MountStatus::Nothing);
        assert_eq!(mount_status(&dir.path().join("missing")).unwrap(), MountStatus::Nothing);
        std::os::unix::fs::symlink("/proc", dir.path().join("link")).unwrap();
        let proc = MountStatus::Other { filesystem_type: "proc".into() };
        assert_eq!(mount_status(&dir.path().join("link")).unwrap(), proc);
        assert_eq!(mount_status(Path::new("/proc/")).unwrap(), proc);
    }
}
