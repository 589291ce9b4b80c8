//! A copy on the disk.
//!
//! Everything is made by a descriptor of its directory and one plain name; directories are opened name by name, from
//! the one that the user named, and no symbolic link is ever followed. So a copy stays where it was sent, whatever an
//! image's names and links say, and whatever stands there already.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType as RawType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chmod, chownat,
    fchmod, fchown, fsetxattr, ftruncate, futimens, linkat, lsetxattr, makedev, mkdirat, mknodat, openat,
    symlinkat, unlinkat, utimensat,
};
use rustix::io::{Errno, pwrite};

use super::walk::{PIECE, Sink, Tally};
use crate::cli::output::error::{CommandError, Kind};
use crate::cli::output::escape;
use crate::gateway::{FileReader, FileStat};
use crate::index::FileType;

const SPECIAL_BITS: u16 = 0o6000;

/// Makes files below a directory.
pub struct Disk {
    root: OwnedFd,
    /// For messages.
    root_path: PathBuf,
    /// Whether files that are there already give way.
    force: bool,
    /// The directory that was used last, and its name.
    recent: Option<(PathBuf, OwnedFd)>,
    /// Directories, whose attributes are set when they are complete.
    directories: Vec<(PathBuf, FileStat)>,
    tally: Tally,
}

/// What is made, and where.
struct Place<'a> {
    dir: BorrowedFd<'a>,
    name: &'a OsStr,
}

impl Disk {
    /// Makes files below the directory `root`, which is opened as the user spelled it.
    pub fn open(root: &Path, force: bool) -> Result<Disk, CommandError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = rustix::fs::open(root, flags, Mode::empty()).map_err(|e| cannot("open", root, e))?;
        Ok(Disk {
            root: descriptor,
            root_path: root.to_owned(),
            force,
            recent: None,
            directories: Vec::new(),
            tally: Tally::default(),
        })
    }

    /// Opens the directory of a name, and remembers it.
    fn enter(&mut self, name: &Path) -> Result<(), CommandError> {
        let wanted = name.parent().unwrap_or(Path::new(""));
        if self.recent.as_ref().is_some_and(|(known, _)| known == wanted) {
            return Ok(());
        }
        let opened = descend(self.root.as_fd(), wanted).map_err(|e| self.cannot("open", wanted, e))?;
        self.recent = Some((wanted.to_owned(), opened));
        Ok(())
    }

    fn place<'a>(&'a self, name: &'a Path) -> Result<Place<'a>, CommandError> {
        let plain = name.file_name().filter(|_| name.components().next_back().is_some_and(is_plain));
        match (&self.recent, plain) {
            (Some((_, dir)), Some(name)) => Ok(Place { dir: dir.as_fd(), name }),
            _ => Err(self.cannot("make", name, Errno::INVAL)),
        }
    }

    /// Makes something, over what is there if that was asked for.
    fn make<T>(
        &self,
        name: &Path,
        make: impl Fn(&Place<'_>) -> rustix::io::Result<T>,
    ) -> Result<T, CommandError> {
        let place = self.place(name)?;
        let made = match make(&place) {
            Err(Errno::EXIST) if self.force => {
                unlinkat(place.dir, place.name, AtFlags::empty()).and_then(|()| make(&place))
            }
            made => made,
        };
        made.map_err(|e| match e {
            Errno::EXIST => {
                let message = format!("{} exists already", escape::name(self.root_path.join(name)));
                CommandError::new(Kind::Failed, message).hint("--force replaces files that exist")
            }
            e => self.cannot("make", name, e),
        })
    }

    fn directory(&mut self, name: &Path, file: &FileStat) -> Result<(), CommandError> {
        // Into a directory that exists, only what is in the source's goes.
        if name.as_os_str().is_empty() {
            return Ok(());
        }
        self.enter(name)?;
        let made = {
            let place = self.place(name)?;
            // The umask may have taken away what it takes to fill it.
            let made = mkdirat(place.dir, place.name, Mode::RWXU)
                .and_then(|()| chmod_at(place.dir, place.name, Mode::RWXU));
            match made {
                Err(Errno::EXIST) if self.force => open_dir(place.dir, place.name).map(|_| ()),
                made => made,
            }
        };
        match made {
            Ok(()) => self.directories.push((name.to_owned(), file.clone())),
            Err(Errno::EXIST) => self.make(name, |_| Err(Errno::EXIST))?,
            Err(e) => return Err(self.cannot("make", name, e)),
        }
        self.tally.files += 1;
        Ok(())
    }

    fn regular(
        &mut self,
        name: &Path,
        file: &FileStat,
        mut content: FileReader<'_>,
    ) -> Result<(), CommandError> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = self.make(name, |place| openat(place.dir, place.name, flags, Mode::RUSR | Mode::WUSR))?;
        let cannot_write = |e| self.cannot("write", name, e);
        let mut piece = vec![0; PIECE];
        let mut bytes = 0;
        loop {
            let run = content.next_data()?;
            let mut position = run.start;
            while position < run.end {
                let room = usize::try_from(run.end - position).unwrap_or(PIECE).min(PIECE);
                let n = content.read(&mut piece[..room])?;
                if n == 0 {
                    return Err(cannot_write(Errno::IO));
                }
                write_all(&made, &piece[..n], position).map_err(cannot_write)?;
                position += n as u64;
            }
            bytes += position - run.start;
            if position >= content.size() {
                break;
            }
        }
        // A hole at the end is nowhere written.
        ftruncate(&made, content.size()).map_err(cannot_write)?;
        self.tally.bytes += bytes;
        self.attributes(name, made.as_fd(), file)
    }

    /// Sets what a file or directory that is open has besides its content.
    fn attributes(&mut self, name: &Path, made: BorrowedFd<'_>, file: &FileStat) -> Result<(), CommandError> {
        let owned = self.owned(|uid, gid| fchown(made, Some(uid), Some(gid)), file);
        let perm = self.permissions(file, owned);
        fchmod(made, perm).map_err(|e| self.cannot("set the mode of", name, e))?;
        for (key, value) in &file.xattrs {
            self.tally.xattrs_lost += u64::from(fsetxattr(made, key, value, XattrFlags::empty()).is_err());
        }
        futimens(made, &times(file)).map_err(|e| self.cannot("set the time of", name, e))
    }

    /// Sets what anything else has; it cannot be opened without doing something.
    fn attributes_at(&mut self, name: &Path, file: &FileStat) -> Result<(), CommandError> {
        let (dir, last) = {
            let place = self.place(name)?;
            let dir = place.dir.try_clone_to_owned();
            (dir.map_err(|e| self.cannot("open", name, e))?, place.name.to_owned())
        };
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        let owned = self.owned(|uid, gid| chownat(&dir, &last, Some(uid), Some(gid), nofollow), file);
        let known = format!("/proc/self/fd/{}", dir.as_raw_fd());
        if file.file_type != FileType::Symlink {
            let perm = self.permissions(file, owned);
            chmod_at(dir.as_fd(), &last, perm).map_err(|e| self.cannot("set the mode of", name, e))?;
        }
        for (key, value) in &file.xattrs {
            let set = lsetxattr(Path::new(&known).join(&last), key, value, XattrFlags::empty());
            self.tally.xattrs_lost += u64::from(set.is_err());
        }
        utimensat(&dir, &last, &times(file), nofollow).map_err(|e| self.cannot("set the time of", name, e))
    }

    fn owned(&mut self, chown: impl FnOnce(Uid, Gid) -> rustix::io::Result<()>, file: &FileStat) -> bool {
        // The highest number means none to chown(2).
        let valid = file.uid != u32::MAX && file.gid != u32::MAX;
        let owned = valid && chown(Uid::from_raw(file.uid), Gid::from_raw(file.gid)).is_ok();
        self.tally.owners_lost += u64::from(!owned);
        owned
    }

    /// The bits that a file may have: what makes it run as its owner must not make it run as somebody else.
    fn permissions(&mut self, file: &FileStat, owned: bool) -> Mode {
        let mut perm = file.perm;
        if !owned && perm & SPECIAL_BITS != 0 && file.file_type != FileType::Directory {
            self.tally.special_bits_lost += 1;
            perm &= !SPECIAL_BITS;
        }
        Mode::from_raw_mode(perm.into())
    }

    fn cannot(&self, what: &str, name: &Path, error: impl Into<io::Error>) -> CommandError {
        cannot(what, &self.root_path.join(name), error)
    }
}

impl Sink for Disk {
    fn put(
        &mut self,
        name: &Path,
        file: &FileStat,
        content: Option<FileReader<'_>>,
    ) -> Result<(), CommandError> {
        let node = match (file.file_type, content) {
            (FileType::Directory, _) => return self.directory(name, file),
            (FileType::Regular, Some(content)) => {
                self.enter(name)?;
                self.tally.files += 1;
                return self.regular(name, file, content);
            }
            (FileType::Symlink | FileType::Regular, _) => None,
            (FileType::CharDevice, _) => Some(RawType::CharacterDevice),
            (FileType::BlockDevice, _) => Some(RawType::BlockDevice),
            (FileType::Fifo, _) => Some(RawType::Fifo),
            (FileType::Socket, _) => Some(RawType::Socket),
        };
        self.enter(name)?;
        match node {
            None => {
                let target = file.link_target.as_deref().unwrap_or(Path::new(""));
                self.make(name, |place| symlinkat(target, place.dir, place.name))?;
            }
            Some(node) => {
                let device = makedev(file.device.0, file.device.1);
                let mode = Mode::RUSR | Mode::WUSR;
                let made = self.make(name, |place| {
                    match mknodat(place.dir, place.name, node, mode, device) {
                        // Only root makes devices.
                        Err(Errno::PERM) => Ok(false),
                        made => made.map(|()| true),
                    }
                })?;
                if !made {
                    self.tally.devices_lost += 1;
                    return Ok(());
                }
            }
        }
        self.tally.files += 1;
        self.attributes_at(name, file)
    }

    fn link(&mut self, name: &Path, _file: &FileStat, first: &Path) -> Result<(), CommandError> {
        let above = first.parent().unwrap_or(Path::new(""));
        let from = descend(self.root.as_fd(), above).map_err(|e| self.cannot("open", above, e))?;
        let Some(first) = first.file_name() else { return Err(self.cannot("link", name, Errno::INVAL)) };
        self.enter(name)?;
        self.make(name, |place| match linkat(&from, first, place.dir, place.name, AtFlags::empty()) {
            // What could not be made has no second name either.
            Err(Errno::NOENT) => Ok(()),
            made => made,
        })?;
        self.tally.files += 1;
        Ok(())
    }

    fn finish(&mut self) -> Result<Tally, CommandError> {
        // The innermost first: a directory may take away the right to enter it.
        for (name, file) in std::mem::take(&mut self.directories).into_iter().rev() {
            self.recent = None;
            self.enter(&name)?;
            let opened = {
                let place = self.place(&name)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                openat(place.dir, place.name, flags, Mode::empty())
            };
            let opened = opened.map_err(|e| self.cannot("open", &name, e))?;
            self.attributes(&name, opened.as_fd(), &file)?;
        }
        Ok(self.tally)
    }
}

/// Opens a directory below another one, name by name.
fn descend(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let mut dir = root.try_clone_to_owned()?;
    for component in path.components() {
        if !is_plain(component) {
            return Err(Errno::INVAL.into());
        }
        dir = open_dir(dir.as_fd(), component.as_os_str())?;
    }
    Ok(dir)
}

fn open_dir(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

/// There is no other way to set a mode without following a link: fchmodat(2), AT_SYMLINK_NOFOLLOW.
fn chmod_at(dir: BorrowedFd<'_>, name: &OsStr, perm: Mode) -> rustix::io::Result<()> {
    let node = openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    chmod(format!("/proc/self/fd/{}", node.as_raw_fd()), perm)
}

fn is_plain(component: Component<'_>) -> bool {
    matches!(component, Component::Normal(name) if !name.as_bytes().contains(&0))
}

fn write_all(file: &OwnedFd, mut bytes: &[u8], mut position: u64) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match pwrite(file, bytes, position) {
            Ok(n) => {
                bytes = bytes.get(n..).unwrap_or_default();
                position += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn times(file: &FileStat) -> Timestamps {
    let time = Timespec { tv_sec: file.mtime.secs, tv_nsec: file.mtime.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn cannot(what: &str, path: &Path, error: impl Into<io::Error>) -> CommandError {
    let message = format!("cannot {what} {}", escape::name(path));
    CommandError::new(Kind::Failed, message).caused_by(error.into())
}
