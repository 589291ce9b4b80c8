//! Where the cache is, and whether it may be trusted.

use std::ffi::OsString;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::{Path, PathBuf};

use super::CacheError;
use super::dir::Dir;

/// The first line is what <https://bford.info/cachedir/> asks for, so that backups leave the directory out.
const TAG: &str = "\
Signature: 8a477f597d28d172789f06886806bc55
# This directory is a cache of imagefs: everything in it can be made again.
# See https://bford.info/cachedir/
";
const TAG_NAME: &str = "CACHEDIR.TAG";

/// `explicit`, or else `$XDG_CACHE_HOME/imagefs`, or else `~/.cache/imagefs`; always absolute.
///
/// A relative `$XDG_CACHE_HOME` is ignored, as the XDG base directory specification says.
pub(super) fn locate(
    explicit: Option<PathBuf>,
    xdg_cache_home: Option<OsString>,
    home: Option<PathBuf>,
) -> Result<PathBuf, CacheError> {
    if let Some(dir) = explicit {
        return std::path::absolute(&dir).map_err(|e| CacheError::io("find", &dir, e));
    }
    let absolute = |path: &PathBuf| path.is_absolute();
    xdg_cache_home
        .map(PathBuf::from)
        .filter(absolute)
        .or_else(|| home.filter(absolute).map(|home| home.join(".cache")))
        .map(|base| base.join("imagefs"))
        .ok_or(CacheError::NoHome)
}

/// Opens the cache directory, and makes it first if need be.
///
/// It must belong to the user, be writable by nobody else, and be a cache already or empty. That is asked of the
/// open directory, not of its path: whatever a symlink on the way says, nothing of another's is entered, and
/// nothing that is no cache is written to.
pub(super) fn open(path: &Path) -> Result<Dir, CacheError> {
    let failed = |action| move |e| CacheError::io(action, path, e);
    let root = match Dir::open_path(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make"))?;
            Dir::open_path(path).map_err(failed("open"))?
        }
        opened => opened.map_err(failed("open"))?,
    };
    root.check_private()?;
    tag(&root)?;
    Ok(root)
}

/// Marks the directory as a cache, unless it is marked already.
fn tag(root: &Dir) -> Result<(), CacheError> {
    let present = root.read(TAG_NAME, TAG.len() as u64)?;
    if present.as_deref() == Some(TAG.as_bytes()) {
        return Ok(());
    }
    // A tag that was cut short is still a sign of ours. What `mkfs` leaves in a new filesystem does not count.
    if present.is_none() && root.names()?.iter().any(|name| name != "lost+found" && name != TAG_NAME) {
        return Err(CacheError::NotACache { dir: root.path().to_owned() });
    }
    // Written in place: processes that do so at the same time write the same bytes.
    let failed = |e| root.error("write", TAG_NAME, e);
    let file = root.file_or_make(TAG_NAME)?;
    file.write_all_at(TAG.as_bytes(), 0).map_err(failed)?;
    file.set_len(TAG.len() as u64).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_what_was_said_or_xdg_or_home() {
        let at = |explicit: Option<&str>, xdg: Option<&str>, home: Option<&str>| {
            locate(explicit.map(PathBuf::from), xdg.map(OsString::from), home.map(PathBuf::from)).ok()
        };
        let path = |p: &str| Some(PathBuf::from(p));
        assert_eq!(at(Some("/c"), Some("/x"), Some("/h")), path("/c"));
        assert_eq!(at(None, Some("/x"), Some("/h")), path("/x/imagefs"));
        assert_eq!(at(None, Some("x"), Some("/h")), path("/h/.cache/imagefs"));
        assert_eq!(at(None, Some(""), Some("/h")), path("/h/.cache/imagefs"));
        assert_eq!(at(None, None, Some("")), None);
        assert!(at(Some("c"), None, None).unwrap().is_absolute());
    }
}
