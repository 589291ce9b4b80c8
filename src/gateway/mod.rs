//! Reading a source without mounting it: the library's public face.
//!
//! A [`Gateway`] has the mounts of a source, the root filesystem first, and answers three questions about each of
//! them, addressed by its index in the mount table: [`read_file`](Gateway::read_file),
//! [`read_dir`](Gateway::read_dir) and [`stat_file`](Gateway::stat_file). The mounts are not stitched together, so no
//! link is ever followed from one into another: who wants that asks the other mount.
//!
//! - A path is cleaned as text, absolute and relative alike, and begins at the mount's root; `..` stops there.
//! - Symlinks are resolved inside the mount, where `/` is the container's root: never on the host.
//! - A source that is still being read is waited for, as long as anything comes. Single files of an image that is not
//!   in the cache, and of a volume of Docker's, are fetched alone where the answer is the same; the first listing has all
//!   of it read.
//!
//! ```no_run
//! use std::sync::Arc;
//! use imagefs::cache::Cache;
//! use imagefs::gateway::{Gateway, Pattern};
//! use imagefs::progress::Progress;
//! use imagefs::source::Context;
//!
//! let cache = Cache::open(None)?;
//! let progress = Arc::new(Progress::new());
//! let gateway = Gateway::open("python:3.12", &Context::new(&cache, &progress))?;
//! for (index, mount) in gateway.mounts().iter().enumerate() {
//!     println!("{index} {} {}", mount.name, mount.destination);
//! }
//! let release = gateway.read_file(0, "/etc/os-release", ..)?;
//! let first_line = gateway.read_file(0, "/etc/passwd", ..80)?;
//! for file in gateway.read_dir(0, "/etc", Some(&Pattern::new("*.conf")))? {
//!     println!("{:o} {:>10} {}", file.mode(), file.size, file.path.display());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Uses [`source`] and [`index`](crate::index); knows nothing of FUSE or of the command line.

mod error;
mod file;
mod pattern;
mod stat;
mod wait;
mod walk;

use std::ffi::OsStr;
use std::ops::{Bound, RangeBounds};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::index::{FileType, Ino};
use crate::progress::Progress;
use crate::source::{self, Context, Fetched, Found, Mount, SinglePaths, Source, SourceError};
use crate::tarfile::{Entry, EntryKind};

use self::error::to_path;
use self::wait::Question;
use self::walk::{Last, Row, Table};

pub use self::error::GatewayError;
pub use self::file::FileReader;
pub use self::pattern::Pattern;
pub use self::stat::{FileStat, Inode, Xattrs};

/// The most that [`Gateway::read_file`] reads at once, in bytes: 256 MiB.
pub const MAX_READ: u64 = 256 << 20;

/// How long an answer is waited for while nothing at all comes.
const PATIENCE: Duration = Duration::from_secs(30);

/// An open source. To be used from any number of threads.
pub struct Gateway {
    source: Source,
    table: Table,
    progress: Arc<Progress>,
}

impl Gateway {
    /// Opens whatever `imagefs mount` takes. No FUSE, no mountpoint and no root are needed.
    ///
    /// # Errors
    /// As [`source::open`].
    pub fn open(source: impl AsRef<OsStr>, context: &Context<'_>) -> Result<Gateway, GatewayError> {
        let source = source::open_when_asked(source.as_ref(), context)?;
        Ok(Gateway::new(source, Arc::clone(context.progress)))
    }

    /// Reads a source that is open already. Every call fails once `progress` is cancelled.
    pub fn new(source: Source, progress: Arc<Progress>) -> Gateway {
        let rows = source.mounts.iter().map(|mount| Row::new(&mount.name, mount.may_be_file()));
        Gateway { table: Table::new(rows.collect(), Arc::clone(source.destinations())), source, progress }
    }

    /// What was opened.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The mount table: the root filesystem first.
    pub fn mounts(&self) -> &[Mount] {
        &self.source.mounts
    }

    /// The index of the mount of this name.
    ///
    /// # Errors
    /// [`GatewayError::MountName`].
    pub fn mount_index(&self, name: &str) -> Result<i64, GatewayError> {
        let position = self.mounts().iter().position(|mount| mount.name == name);
        position.and_then(|index| i64::try_from(index).ok()).ok_or_else(|| GatewayError::MountName {
            name: name.to_owned(),
            available: self.mounts().iter().map(|mount| mount.name.clone()).collect(),
        })
    }

    /// The mount that a container has at `path`, and the path of the same there. Links on the way are not followed: who asks
    /// the mount is told by [`GatewayError::LeadsOut`] where one leads to another.
    pub fn locate(&self, path: impl AsRef<Path>) -> (i64, PathBuf) {
        let names = crate::source::clean(path.as_ref().as_os_str().as_bytes());
        let names: Vec<Vec<u8>> = names.into_iter().map(<[u8]>::to_vec).collect();
        let (mount, depth) = match self.mounts().len() {
            1 => (0, 0),
            _ => self.table.owner(&names).unwrap_or((0, 0)),
        };
        // A single file stands in a directory of its own, under its last name.
        let alone = depth == names.len() && self.source.destinations().is_file(mount);
        let within = if alone { self.source.destinations().get(mount).last() } else { None };
        let within: Vec<&[u8]> = within.into_iter().chain(&names[depth..]).map(Vec::as_slice).collect();
        (i64::try_from(mount).unwrap_or(0), to_path(&walk::absolute(&within)))
    }

    /// The attributes of what stands at `path`, symlinks followed.
    ///
    /// A symlink at its end that leads out of the mount, or by way of the root to nothing, is itself the answer: the
    /// client may resolve it.
    ///
    /// # Errors
    /// [`GatewayError::NotFound`], [`GatewayError::Unavailable`], and whatever else keeps the source from being read.
    pub fn stat_file(&self, mount_index: i64, path: impl AsRef<Path>) -> Result<FileStat, GatewayError> {
        self.stat(mount_index, path.as_ref(), Last::FollowInside)
    }

    /// As [`Gateway::stat_file`], but a symlink that cannot be followed is an error.
    ///
    /// # Errors
    /// As [`Gateway::read_file`].
    pub fn stat_target(&self, mount_index: i64, path: impl AsRef<Path>) -> Result<FileStat, GatewayError> {
        self.stat(mount_index, path.as_ref(), Last::Follow)
    }

    /// As [`Gateway::stat_file`], but a symlink at the end of `path` is never followed.
    ///
    /// # Errors
    /// As there.
    pub fn stat_link(&self, mount_index: i64, path: impl AsRef<Path>) -> Result<FileStat, GatewayError> {
        self.stat(mount_index, path.as_ref(), Last::Keep)
    }

    /// The files of a directory, sorted by name. With `include`, those alone whose name matches.
    ///
    /// # Errors
    /// [`GatewayError::NotADirectory`], and as [`Gateway::read_file`].
    pub fn read_dir(
        &self,
        mount_index: i64,
        path: impl AsRef<Path>,
        include: Option<&Pattern>,
    ) -> Result<Vec<FileStat>, GatewayError> {
        let asked = self.asked(mount_index, path.as_ref())?;
        asked.available(asked.read_dir(include))
    }

    /// The bytes of a regular file, symlinks followed: those of `range`, as far as there are any.
    ///
    /// # Errors
    /// [`GatewayError::NotFound`]; [`GatewayError::NotAFile`]; [`GatewayError::LeadsOut`] for a symlink into another
    /// mount; [`GatewayError::TooLarge`] for more than [`MAX_READ`]; and whatever keeps the source from being read.
    pub fn read_file(
        &self,
        mount_index: i64,
        path: impl AsRef<Path>,
        range: impl RangeBounds<u64>,
    ) -> Result<Vec<u8>, GatewayError> {
        let path = path.as_ref();
        let mut file = self.open_file(mount_index, path)?;
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last.saturating_add(1),
            Bound::Excluded(&end) => end,
            Bound::Unbounded => u64::MAX,
        };
        let size = end.min(file.size()).saturating_sub(start);
        if size > MAX_READ {
            return Err(GatewayError::TooLarge { path: path.to_owned(), size });
        }
        if size == 0 {
            return Ok(Vec::new());
        }
        file.seek(start)?;
        file.read_some(usize::try_from(size).unwrap_or(0))
    }

    /// Opens a regular file, symlinks followed, to read it piece by piece.
    ///
    /// # Errors
    /// As [`Gateway::read_file`].
    pub fn open_file(
        &self,
        mount_index: i64,
        path: impl AsRef<Path>,
    ) -> Result<FileReader<'_>, GatewayError> {
        let asked = self.asked(mount_index, path.as_ref())?;
        let found = asked.available(asked.open())?;
        Ok(match found {
            Opened::File(ino, size) => FileReader::new(asked.question, ino, size),
            Opened::Fetched(file, size) => FileReader::of_stream(asked.question, file, size),
        })
    }

    fn stat(&self, mount_index: i64, path: &Path, last: Last) -> Result<FileStat, GatewayError> {
        let asked = self.asked(mount_index, path)?;
        asked.available(asked.stat(last))
    }

    fn asked(&self, mount_index: i64, path: &Path) -> Result<Asked<'_>, GatewayError> {
        let available = self.mounts().len();
        let found = usize::try_from(mount_index).ok().and_then(|own| Some((own, self.mounts().get(own)?)));
        let (own, mount) = found.ok_or(GatewayError::MountIndex { index: mount_index, available })?;
        let names = crate::source::clean(path.as_os_str().as_bytes());
        let names: Vec<Vec<u8>> = names.into_iter().map(<[u8]>::to_vec).collect();
        let question = Question {
            filesystem: &mount.filesystem,
            mount: Some(mount),
            progress: &self.progress,
            patience: PATIENCE,
            path: walk::absolute(&names),
        };
        Ok(Asked { gateway: self, own, mount, names, question })
    }
}

/// A path of a mount, taken apart, and who answers what is asked about it.
struct Asked<'a> {
    gateway: &'a Gateway,
    own: usize,
    mount: &'a Mount,
    names: Vec<Vec<u8>>,
    question: Question<'a>,
}

impl Asked<'_> {
    /// The answer, unless it is only that there is nothing in a mount that cannot be read.
    fn available<T>(&self, answer: Result<T, GatewayError>) -> Result<T, GatewayError> {
        match self.mount.unavailable() {
            Some(why) => Err(GatewayError::Unavailable(why.to_string())),
            None => answer,
        }
    }

    fn stat(&self, last: Last) -> Result<FileStat, GatewayError> {
        let path = to_path(&self.question.path);
        let mut found = self.stat_alone(last != Last::Keep)?;
        if last == Last::FollowInside && matches!(found, Some(Found::Nothing)) {
            found = match self.stat_alone(false)? {
                // It may lead over the root by way of another link.
                Some(Found::File(link)) if !leads_over_the_root(&link.entry, self.names.len()) => None,
                link => link,
            };
        }
        match found {
            Some(Found::File(file)) => return Ok(FileStat::of_entry(&path, file.entry)),
            Some(Found::Nothing) => return Err(GatewayError::NotFound(path)),
            Some(Found::Unclear) | None => {}
        }
        let ino = self.walk(last)?;
        FileStat::of(&self.question, path, ino)
    }

    fn read_dir(&self, include: Option<&Pattern>) -> Result<Vec<FileStat>, GatewayError> {
        let dir = self.walk(Last::Follow)?;
        let mut names: Vec<(Vec<u8>, Ino)> = Vec::new();
        self.question.read_dir(dir, |entry| {
            if include.is_none_or(|include| include.matches(entry.name)) {
                names.push((entry.name.to_vec(), entry.ino));
            }
        })?;
        names.sort_unstable();
        let stat = |(name, ino): (Vec<u8>, Ino)| {
            let path = to_path(&self.question.path).join(OsStr::from_bytes(&name));
            FileStat::of(&self.question, path, ino)
        };
        names.into_iter().map(stat).collect()
    }

    fn open(&self) -> Result<Opened, GatewayError> {
        let not_a_file = || GatewayError::NotAFile(to_path(&self.question.path));
        match self.open_alone()? {
            Some(Found::File(file)) => {
                let stat = FileStat::of_entry(&to_path(&self.question.path), file.entry.clone());
                match stat.file_type {
                    FileType::Regular => Ok(Opened::Fetched(file, stat.size)),
                    _ => Err(not_a_file()),
                }
            }
            Some(Found::Nothing) => Err(GatewayError::NotFound(to_path(&self.question.path))),
            Some(Found::Unclear) | None => {
                let ino = self.walk(Last::Follow)?;
                let stat = self.question.provisional_stat(ino)?;
                match stat.file_type {
                    FileType::Regular => Ok(Opened::File(ino, stat.size)),
                    _ => Err(not_a_file()),
                }
            }
        }
    }

    fn walk(&self, last: Last) -> Result<Ino, GatewayError> {
        // The root of a mount that nobody has looked into looks like any directory.
        self.question.filesystem.wake();
        walk::walk(&self.question, &self.gateway.table, self.own, &self.names, last)
    }

    /// What a daemon that is asked for this path alone says of it; `None` where the mount knows, or will.
    fn stat_alone(&self, follow: bool) -> Result<Option<Found>, GatewayError> {
        self.single_paths(|single_paths, path| single_paths.stat(path, follow))
    }

    /// The same, for who wants the bytes alone.
    fn open_alone(&self) -> Result<Option<Found>, GatewayError> {
        self.single_paths(SinglePaths::open)
    }

    fn single_paths(
        &self,
        ask: impl FnOnce(&SinglePaths, &[u8]) -> Result<Found, SourceError>,
    ) -> Result<Option<Found>, GatewayError> {
        let Some(single_paths) = self.mount.single_paths() else { return Ok(None) };
        let found = ask(single_paths, &self.names.join(&b'/'));
        self.question.progress.check()?;
        Ok(Some(found?))
    }
}

/// A regular file, and its length in bytes.
enum Opened {
    File(Ino, u64),
    Fetched(Box<Fetched>, u64),
}

/// Whether a symlink of that depth (1 for one in the root directory) has a target from the root, or above it.
fn leads_over_the_root(entry: &Entry, depth: usize) -> bool {
    let EntryKind::Symlink(target) = &entry.kind else { return false };
    let climbs = target.split(|&b| b == b'/').take_while(|name| matches!(*name, b"" | b"." | b".."));
    target.starts_with(b"/") || climbs.filter(|name| *name == b"..").count() >= depth
}
