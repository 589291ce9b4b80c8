//! Where a mount goes.

use std::io;
use std::path::{Component, Path, PathBuf};

use crate::cli::output::error::{CommandError, Kind};
use crate::cli::output::printer::Printer;
use crate::fuse::{SessionConfig, SessionError};

/// A place where a mount can go, once it has been made ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mountpoint {
    /// Absolute, and free of symlinks.
    pub path: PathBuf,
    /// How many directories are yet to be made, the mountpoint and those above it.
    pub absent: usize,
    /// A mount of ours stands there whose server is gone.
    pub stale: bool,
}

impl Mountpoint {
    /// Checks the path that the user named. With `mkdir`, nothing needs to be there yet.
    pub fn check(named: &Path, mkdir: bool, cache: &Path) -> Result<Mountpoint, CommandError> {
        let path = locate(named);
        // A mount there would hide the very files that it reads.
        if path.starts_with(locate(cache)) {
            let message = format!("the mountpoint {path:?} is inside the cache directory {cache:?}");
            return Err(CommandError::new(Kind::Mount, message).hint("choose another directory"));
        }
        let (absent, stale) = match SessionConfig::new(&path).check() {
            Ok(()) => (0, false),
            Err(SessionError::Stale(_)) => (0, true),
            Err(SessionError::MountpointMissing(_)) if mkdir => (missing(&path), false),
            Err(error @ SessionError::MountpointMissing(_)) => {
                return Err(
                    CommandError::from(error).hint("or give --mkdir to have it made for this mount alone")
                );
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Mountpoint { path, absent, stale })
    }

    /// Takes away the remains of a dead mount, and makes the directory, as far as either is needed.
    pub fn make_ready(&self, printer: &Printer) -> Result<(), CommandError> {
        if self.stale {
            printer.note(format!("taking over {:?}, where a mount stood whose server is gone", self.path));
            crate::fuse::unmount(&self.path, true)?;
        }
        if self.absent > 0 {
            std::fs::create_dir_all(&self.path).map_err(|e| {
                CommandError::new(Kind::Mount, format!("cannot make the mountpoint {:?}", self.path))
                    .caused_by(e)
            })?;
        }
        Ok(())
    }
}

/// The path that the user named, absolute, and free of symlinks as far as that can be found out.
///
/// Nothing needs to be there, and what is mounted there is not asked anything.
pub fn locate(named: &Path) -> PathBuf {
    let absolute = std::path::absolute(named).unwrap_or_else(|_| named.to_owned());
    // realpath(3) reads links alone: it asks no filesystem for attributes.
    if let Ok(path) = absolute.canonicalize() {
        return path;
    }
    let (there, missing) = absolute
        .ancestors()
        .find_map(|there| Some((there.canonicalize().ok()?, absolute.strip_prefix(there).ok()?)))
        .unwrap_or((absolute.clone(), Path::new("")));
    match missing.components().all(|part| matches!(part, Component::Normal(_))) {
        true => there.join(missing),
        false => absolute,
    }
}

/// How many directories must be made for `path` to be one.
fn missing(path: &Path) -> usize {
    path.ancestors()
        .take_while(|dir| matches!(dir.symlink_metadata(), Err(e) if e.kind() == io::ErrorKind::NotFound))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn refused(named: &Path, mkdir: bool, cache: &Path) -> CommandError {
        Mountpoint::check(named, mkdir, cache).unwrap_err()
    }

    #[test]
    fn only_an_empty_directory_outside_the_cache_will_do() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        let (cache, mountpoint) = (root.join("cache"), root.join("mnt"));
        for dir in [&cache, &mountpoint] {
            fs::create_dir(dir).unwrap();
        }
        let ready = Mountpoint { path: mountpoint.clone(), absent: 0, stale: false };
        assert_eq!(Mountpoint::check(&mountpoint, false, &cache).unwrap(), ready);

        let inside = refused(&cache.join("mnt"), true, &cache);
        assert!(inside.message().contains("inside the cache directory"), "{inside:?}");
        fs::write(mountpoint.join("file"), "").unwrap();
        assert!(refused(&mountpoint, true, &cache).message().contains("not empty"));
        assert!(refused(&mountpoint.join("file"), true, &cache).message().contains("not a directory"));
    }

    #[test]
    fn an_absent_mountpoint_is_made_only_if_asked_for() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        let error = refused(&root.join("mnt"), false, &root.join("cache"));
        assert!(error.message().contains("does not exist"));
        assert!(error.hints().iter().any(|hint| hint.contains("--mkdir")));

        let mountpoint = Mountpoint::check(&root.join("mnt"), true, &root.join("cache")).unwrap();
        assert_eq!(mountpoint.absent, 1);
        mountpoint.make_ready(&Printer::new(false, false)).unwrap();
        assert!(root.join("mnt").is_dir());
    }

    #[test]
    fn a_mountpoint_is_told_by_its_real_path() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        fs::create_dir(root.join("real")).unwrap();
        std::os::unix::fs::symlink("real", root.join("link")).unwrap();
        assert_eq!(locate(&root.join("link/")), root.join("real"));
        assert_eq!(locate(&root.join("link/absent")), root.join("real/absent"));
        assert_eq!(locate(&root.join("link/absent/too")), root.join("real/absent/too"));
        assert_eq!(locate(&root.join("absent/../too")), root.join("absent/../too"));
        assert_eq!(missing(&root.join("real/absent/too")), 2);
    }
}
