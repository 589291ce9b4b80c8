//! What is mounted at a path.
//!
//! The answer comes from `/proc/self/mountinfo` (proc_pid_mountinfo(5)), since asking about the path itself may
//! wait for a server that hangs. Must not import `fuser`.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

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

/// One line of mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MountEntry {
    id: u64,
    parent: u64,
    /// `st_dev` of what is mounted, as `major:minor`.
    pub device: String,
    /// Where.
    pub mountpoint: PathBuf,
    /// What.
    pub filesystem_type: OsString,
}

impl MountEntry {
    /// `None` for a line that is not as the manual says.
    fn parse(line: &[u8]) -> Option<MountEntry> {
        let mut fields = line.split(|&b| b == b' ');
        let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
        let (id, parent) = (number()?, number()?);
        let device = String::from_utf8(fields.next()?.to_vec()).ok()?;
        let _root = fields.next()?;
        let mountpoint = PathBuf::from(unescape(fields.next()?));
        // The options are followed by any number of optional fields and a lone hyphen.
        let mut rest = fields.skip_while(|&field| field != b"-").skip(1);
        Some(MountEntry { id, parent, device, mountpoint, filesystem_type: unescape(rest.next()?) })
    }
}

/// Undoes `\ooo`, which stands for a byte that would break a line or a field.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        rest = match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if byte == b'\\' => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                after
            }
            _ => {
                bytes.push(byte);
                after
            }
        };
    }
    OsString::from_vec(bytes)
}

/// Every mount that this process sees.
pub(super) fn read_table() -> io::Result<Vec<MountEntry>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|&b| b == b'\n').filter_map(MountEntry::parse).collect())
}

/// The mount that is seen at `path`, which must be absolute and free of symlinks.
///
/// Of several mounts at one path each is the parent of the one that hides it.
pub(super) fn topmost<'t>(table: &'t [MountEntry], path: &Path) -> Option<&'t MountEntry> {
    let here: Vec<&MountEntry> = table.iter().filter(|m| m.mountpoint == path).collect();
    here.iter().copied().find(|m| !here.iter().any(|other| other.parent == m.id))
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

    fn table(text: &str) -> Vec<MountEntry> {
        text.lines().filter_map(|line| MountEntry::parse(line.as_bytes())).collect()
    }

    #[test]
    fn a_line_of_mountinfo_is_taken_apart_whatever_its_names_hold() {
        let table = table(
            "36 35 98:0 /mnt1 /mnt\\0402\\134x\\012 rw,noatime master:1 shared:2 - fuse.imagefs a\\040b ro,errors=-\n\
             37 35 0:51 / /- ro - tmpfs none rw\n\
             38 35 0:52 / /short ro\n\
             nonsense\n",
        );
        assert_eq!(table.len(), 2);
        assert_eq!(table[0].mountpoint, Path::new("/mnt 2\\x\n"));
        assert_eq!(table[0].filesystem_type, FILESYSTEM_TYPE);
        assert_eq!(table[0].device, "98:0");
        assert_eq!(table[1].filesystem_type, "tmpfs");
    }

    #[test]
    fn the_mount_that_is_seen_is_the_one_on_top() {
        let table = table(
            "22 20 0:2 / /m ro - ext4 x rw\n21 30 0:1 / /m ro - fuse.imagefs x ro\n30 22 0:3 / /m ro - tmpfs x rw\n",
        );
        assert_eq!(topmost(&table, Path::new("/m")).unwrap().filesystem_type, FILESYSTEM_TYPE);
        assert_eq!(topmost(&table, Path::new("/n")), None);
    }

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
