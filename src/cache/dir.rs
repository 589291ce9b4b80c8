//! An open directory, and what can be done in it: nothing here follows a symlink or builds a path.

use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;

use super::CacheError;
use super::error::LOCK;

const PRIVATE_DIR: Mode = Mode::RWXU;
const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

/// An open directory of the cache. Names in it are single components.
#[derive(Debug)]
pub(super) struct Dir {
    file: File,
    /// For messages only: what it was called when it was opened.
    path: PathBuf,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Dir {
    /// Opens a directory by its path; a symlink is followed.
    pub(super) fn open_path(path: &Path) -> io::Result<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        Ok(Dir { file, path: path.to_owned() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its path as it is now, absolute and free of symlinks, as the table of mounts has it: it may have been renamed.
    pub(super) fn real_path(&self) -> Result<PathBuf, CacheError> {
        let link = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        std::fs::read_link(link).map_err(|e| self.error("find", "", e))
    }

    /// An error about `name` in this directory.
    pub(super) fn error(
        &self,
        action: &'static str,
        name: impl AsRef<OsStr>,
        source: impl Into<io::Error>,
    ) -> CacheError {
        match name.as_ref() {
            name if name.is_empty() => CacheError::io(action, &self.path, source),
            name => CacheError::io(action, &self.path.join(name), source),
        }
    }

    /// Its attributes.
    pub(super) fn stat(&self) -> Result<Stat, CacheError> {
        rustix::fs::fstat(&self.file).map_err(|e| self.error("read", "", e))
    }

    /// Fails unless it is this user's, and nobody else's to write to.
    pub(super) fn check_private(&self) -> Result<(), CacheError> {
        let stat = self.stat()?;
        let (dir, user) = (self.path.clone(), user());
        if stat.st_uid != user {
            return Err(CacheError::ForeignOwner { dir, owner: stat.st_uid, user });
        }
        if !is_private(&stat) {
            return Err(CacheError::Exposed { dir, mode: stat.st_mode & 0o7777 });
        }
        Ok(())
    }

    /// The attributes of `name`, if there is one.
    pub(super) fn stat_at(&self, name: impl AsRef<OsStr>) -> Result<Option<Stat>, CacheError> {
        let name = name.as_ref();
        match rustix::fs::statat(&self.file, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(self.error("read", name, e)),
        }
    }

    /// Whether `name` still means `dir`.
    pub(super) fn holds(&self, name: impl AsRef<OsStr>, dir: &Dir) -> Result<bool, CacheError> {
        let (there, here) = (self.stat_at(name)?, dir.stat()?);
        Ok(there.is_some_and(|there| (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)))
    }

    /// The attributes of `name`, if there is something else than a directory. Nothing of ours has the name of a key and is none.
    pub(super) fn stray(&self, name: impl AsRef<OsStr>) -> Result<Option<Stat>, CacheError> {
        let is_dir = |stat: &Stat| FileType::from_raw_mode(stat.st_mode).is_dir();
        Ok(self.stat_at(name)?.filter(|stat| !is_dir(stat)))
    }

    /// Opens the directory `name`, if there is one.
    pub(super) fn dir(&self, name: impl AsRef<OsStr>) -> Result<Option<Dir>, CacheError> {
        let name = name.as_ref();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.file, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Dir { file: fd.into(), path: self.path.join(name) })),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(e) => Err(self.error("open", name, e)),
        }
    }

    /// Makes the directory `name`, which must not be there, private to the user.
    pub(super) fn make_dir(&self, name: impl AsRef<OsStr>) -> Result<Dir, CacheError> {
        let name = name.as_ref();
        rustix::fs::mkdirat(&self.file, name, PRIVATE_DIR).map_err(|e| self.error("make", name, e))?;
        self.dir(name)?.ok_or_else(|| self.error("open", name, Errno::NOENT))
    }

    /// Opens the directory `name`, and makes it first if need be. Like the cache directory itself, it must be nobody
    /// else's to write to.
    pub(super) fn dir_or_make(&self, name: impl AsRef<OsStr>) -> Result<Dir, CacheError> {
        let name = name.as_ref();
        if self.stat_at(name)?.is_none() {
            match rustix::fs::mkdirat(&self.file, name, PRIVATE_DIR) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(self.error("make", name, e)),
            }
        }
        let dir = self.dir(name)?.ok_or_else(|| self.error("open", name, Errno::NOTDIR))?;
        dir.check_private()?;
        Ok(dir)
    }

    /// Opens the regular file `name` for reading, if there is one.
    pub(super) fn file(&self, name: &str) -> Result<Option<File>, CacheError> {
        // A FIFO may have that name: do not wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.file, name, flags, Mode::empty()) {
            Ok(fd) => {
                let stat = rustix::fs::fstat(&fd).map_err(|e| self.error("read", name, e))?;
                Ok(FileType::from_raw_mode(stat.st_mode).is_file().then(|| fd.into()))
            }
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => Ok(None),
            Err(e) => Err(self.error("open", name, e)),
        }
    }

    /// Opens the regular file `name` for reading, which must be there.
    pub(super) fn existing_file(&self, name: &str) -> Result<File, CacheError> {
        self.file(name)?.ok_or_else(|| self.error("open", name, io::ErrorKind::NotFound))
    }

    /// Makes the file `name`, which must not be there, for writing and reading, with mode 0600 whatever the umask.
    pub(super) fn make_file(&self, name: &str) -> Result<File, CacheError> {
        self.writable(name, OFlags::CREATE | OFlags::EXCL)
    }

    /// Opens the file `name` for writing and reading, and makes it first if need be.
    pub(super) fn file_or_make(&self, name: &str) -> Result<File, CacheError> {
        self.writable(name, OFlags::CREATE)
    }

    fn writable(&self, name: &str, how: OFlags) -> Result<File, CacheError> {
        let flags = how | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.file, name, flags, PRIVATE_FILE)
            .map_err(|e| self.error("create", name, e))?;
        rustix::fs::fchmod(&fd, PRIVATE_FILE).map_err(|e| self.error("create", name, e))?;
        Ok(fd.into())
    }

    /// Opens the regular file `name` for reading, if there is one that nobody else could have written to.
    pub(super) fn private_file(&self, name: &str) -> Result<Option<File>, CacheError> {
        let Some(file) = self.file(name)? else { return Ok(None) };
        let stat = rustix::fs::fstat(&file).map_err(|e| self.error("read", name, e))?;
        Ok(is_private(&stat).then_some(file))
    }

    /// Makes a file without a name, for writing and reading: it goes when it is closed.
    pub(super) fn unnamed_file(&self) -> Result<File, CacheError> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.file, ".", flags, PRIVATE_FILE);
        opened.map(File::from).map_err(|e| self.error("make a file in", "", e))
    }

    /// Gives a name to a file without one. Where another process was first, its file stays.
    pub(super) fn give_name(&self, file: &File, name: &str) -> Result<(), CacheError> {
        let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
        match rustix::fs::linkat(CWD, unnamed, &self.file, name, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(e) => Err(self.error("write", name, e)),
        }
    }

    /// The content of the file `name`, at most `limit` bytes of it, if there is one.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, CacheError> {
        let Some(file) = self.file(name)? else { return Ok(None) };
        let mut content = Vec::new();
        file.take(limit).read_to_end(&mut content).map_err(|e| self.error("read", name, e))?;
        Ok(Some(content))
    }

    /// Makes the file `name` with this content.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<File, CacheError> {
        let mut file = self.make_file(name)?;
        file.write_all(content).map_err(|e| self.error("write", name, e))?;
        Ok(file)
    }

    /// Every name in it, in no order.
    pub(super) fn names(&self) -> Result<Vec<OsString>, CacheError> {
        let failed = |e| self.error("list", "", e);
        let mut names = Vec::new();
        let entries = match rustix::fs::Dir::read_from(&self.file) {
            // The directory itself was removed meanwhile.
            Err(Errno::NOENT) => return Ok(names),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }

    /// Moves the directory `name` to `to/new`; fails with `ENOTEMPTY` or `EEXIST` where something is there.
    pub(super) fn rename(&self, name: impl AsRef<OsStr>, to: &Dir, new: &str) -> Result<(), Errno> {
        rustix::fs::renameat(&self.file, name.as_ref(), &to.file, new)
    }

    pub(super) fn remove_file(&self, name: impl AsRef<OsStr>) -> Result<(), CacheError> {
        self.remove(name.as_ref(), AtFlags::empty())
    }

    pub(super) fn remove_dir(&self, name: impl AsRef<OsStr>) -> Result<(), CacheError> {
        self.remove(name.as_ref(), AtFlags::REMOVEDIR)
    }

    /// Removes `name`, unless it is a directory.
    pub(super) fn remove_stray(&self, name: impl AsRef<OsStr>) -> Result<(), CacheError> {
        match rustix::fs::unlinkat(&self.file, name.as_ref(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => Ok(()),
            Err(e) => Err(self.error("remove", name, e)),
        }
    }

    /// Removes `name`, whatever it is, with all that is in it.
    pub(super) fn remove_all(&self, name: impl AsRef<OsStr>) -> Result<(), CacheError> {
        let name = name.as_ref();
        self.remove_stray(name)?;
        match self.dir(name)? {
            Some(dir) => dir.clear().and_then(|()| self.remove_dir(name)),
            None => Ok(()),
        }
    }

    /// Removes all that is in it.
    pub(super) fn clear(&self) -> Result<(), CacheError> {
        self.names()?.iter().try_for_each(|name| self.remove_all(name))
    }

    fn remove(&self, name: &OsStr, flags: AtFlags) -> Result<(), CacheError> {
        match rustix::fs::unlinkat(&self.file, name, flags) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(self.error("remove", name, e)),
        }
    }

    /// Sets the modification time of `name` to now.
    pub(super) fn touch(&self, name: &str) -> Result<(), CacheError> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        };
        rustix::fs::utimensat(&self.file, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| self.error("touch", name, e))
    }

    /// Returns when the names in it are on the disk.
    pub(super) fn sync(&self) -> Result<(), CacheError> {
        self.file.sync_all().map_err(|e| self.error("sync", "", e))
    }

    /// The bytes that it and the files in it occupy.
    pub(super) fn size_on_disk(&self) -> Result<u64, CacheError> {
        let mut total = size_on_disk(&self.stat()?);
        for name in self.names()? {
            total += self.stat_at(&name)?.as_ref().map_or(0, size_on_disk);
        }
        Ok(total)
    }

    /// Takes the directory's lock together with others; waits for one who has it alone.
    pub(super) fn lock_shared(&self) -> Result<(), CacheError> {
        loop {
            match self.file.lock_shared() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map_err(|e| self.error(LOCK, "", e)),
            }
        }
    }

    /// Takes the directory's lock alone, unless anybody has it.
    pub(super) fn try_lock(&self) -> Result<bool, CacheError> {
        try_lock(&self.file).map_err(|e| self.error(LOCK, "", e))
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        unlock(&self.file);
    }
}

/// Whether something is this user's, and nobody else's to write to.
pub(super) fn is_private(stat: &Stat) -> bool {
    stat.st_uid == user() && stat.st_mode & 0o022 == 0
}

/// As whom this process looks for files.
fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The bytes that something occupies by itself.
pub(super) fn size_on_disk(stat: &Stat) -> u64 {
    // stat(2): st_blocks counts units of 512 bytes, whatever the filesystem's block is.
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}

/// Lets go of a file's flock(2), if it has one.
///
/// Closing the file would not do: a child that another thread has just forked holds it open until it executes.
pub(super) fn unlock(file: &File) {
    if let Err(e) = file.unlock() {
        tracing::debug!("cannot unlock: {e}");
    }
}

/// Takes a file's flock(2) alone, unless anybody has it.
pub(super) fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(e),
    }
}
