//! The table of mounts, as `/proc/self/mountinfo` has it (proc_pid_mountinfo(5)).
//!
//! Nothing that is mounted is asked for anything. Must not import anything of the crate.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    id: u64,
    parent: u64,
    /// `st_dev` of what is mounted, as `major:minor`.
    pub device: String,
    /// Where.
    pub mountpoint: PathBuf,
    /// What, as `/proc/filesystems` spells it.
    pub filesystem_type: OsString,
    /// Of what, as whoever mounted it has said.
    pub source: PathBuf,
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
        let filesystem_type = unescape(rest.next()?);
        let source = PathBuf::from(unescape(rest.next()?));
        Some(MountEntry { id, parent, device, mountpoint, filesystem_type, source })
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
pub fn read_table() -> io::Result<Vec<MountEntry>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|&b| b == b'\n').filter_map(MountEntry::parse).collect())
}

/// The mount that is seen at `path`, which must be absolute and free of symlinks.
///
/// Of several mounts at one path each is the parent of the one that hides it.
pub fn topmost<'t>(table: &'t [MountEntry], path: &Path) -> Option<&'t MountEntry> {
    let here: Vec<&MountEntry> = table.iter().filter(|m| m.mountpoint == path).collect();
    here.iter().copied().find(|m| !here.iter().any(|other| other.parent == m.id))
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
        assert_eq!(table[0].filesystem_type, "fuse.imagefs");
        assert_eq!(table[0].source, Path::new("a b"));
        assert_eq!(table[0].device, "98:0");
        assert_eq!(table[1].filesystem_type, "tmpfs");
    }

    #[test]
    fn the_mount_that_is_seen_is_the_one_on_top() {
        let table = table(
            "22 20 0:2 / /m ro - ext4 x rw\n21 30 0:1 / /m ro - fuse.imagefs x ro\n30 22 0:3 / /m ro - tmpfs x rw\n",
        );
        assert_eq!(topmost(&table, Path::new("/m")).unwrap().filesystem_type, "fuse.imagefs");
        assert_eq!(topmost(&table, Path::new("/n")), None);
    }
}
