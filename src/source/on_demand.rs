//! Brings single paths of an image before the stream does, from the container that is being exported.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc::Receiver;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::docker::{ByteStream, Daemon, Engine, PathStat, Throwaway};
use crate::index::{BriefStat, Demand, FileType, Grower, MAX_FETCHED, Timestamp};
use crate::progress::Progress;
use crate::tarfile::{self, EndMark, Entry, EntryKind, Forward, Scanner};

use super::SourceError;
use super::image::Current;

/// The longest file whose bytes are taken along when only its header is wanted, in bytes: both come together.
const MAX_ALONG: u64 = 1 << 20;

/// Symlinks whose target is remembered until somebody follows them.
const MAX_TARGETS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// What is read of a file at one time, in bytes.
const CHUNK: usize = 128 << 10;

/// Grants the wishes of a filesystem whose stream is under way. To be shared by as many threads as may ask at a time.
///
/// Podman is only asked whether there is something: it tells neither who owns a file nor what a symlink's target is.
pub(super) struct OnDemand<'a> {
    daemon: &'a Daemon,
    container: &'a Throwaway,
    /// Paths that the daemon has and the image has not.
    leave_out: &'a [&'a [u8]],
    grower: &'a Grower,
    progress: &'a Progress,
    current: &'a Current,
    /// Where symlinks lead in the end, by path.
    targets: Mutex<LruCache<Vec<u8>, Vec<u8>>>,
    /// Paths that are being fetched.
    under_way: Mutex<HashSet<Vec<u8>>>,
    fetched: Condvar,
}

impl<'a> OnDemand<'a> {
    pub fn new(
        daemon: &'a Daemon,
        container: &'a Throwaway,
        leave_out: &'a [&'a [u8]],
        grower: &'a Grower,
        progress: &'a Progress,
        current: &'a Current,
    ) -> OnDemand<'a> {
        let targets = Mutex::new(LruCache::new(MAX_TARGETS));
        let (under_way, fetched) = (Mutex::default(), Condvar::new());
        OnDemand { daemon, container, leave_out, grower, progress, current, targets, under_way, fetched }
    }

    /// Grants wishes until there can be no more.
    pub fn serve(&self, wished: &Mutex<Receiver<Demand>>) {
        loop {
            let demand = lock(wished).recv();
            let Ok(demand) = demand else { return };
            if self.progress.check().is_err() || !self.grower.wants(&demand) {
                continue;
            }
            let granted = match &demand {
                Demand::Existence(path) => self.look(path).map(|found| found.is_some()),
                _ if self.daemon.engine() == Engine::Podman => Ok(false),
                Demand::Target(path) => self.follow(path),
                Demand::Header(_) => self.bring(&demand, MAX_ALONG),
                Demand::Content(_) => self.bring(&demand, MAX_FETCHED),
            };
            match granted {
                Ok(true) => {}
                Ok(false) => tracing::debug!("left to the stream: {demand:?}"),
                Err(error) => tracing::debug!("left to the stream: {error}"),
            }
        }
    }

    /// Finds out whether there is something at a path. `None` if that cannot be told.
    fn look(&self, path: &[u8]) -> Result<Option<Seen>, SourceError> {
        let stat = match self.leave_out.contains(&path) {
            true => None,
            false => self.container.stat_path(&absolute(path))?,
        };
        Ok(match stat.as_ref().map(brief_stat) {
            // An export leaves sockets out.
            None | Some(Some(BriefStat { file_type: FileType::Socket, .. })) => {
                self.grower.absent(path);
                Some(Seen::Nothing)
            }
            Some(Some(brief_stat)) => {
                if let Some(target) = stat.and_then(|stat| stat.resolved) {
                    lock(&self.targets).put(path.to_vec(), target.into_bytes());
                }
                self.grower.found(path, brief_stat);
                Some(Seen::This(brief_stat))
            }
            Some(None) => None,
        })
    }

    /// Brings the target of a symlink. Who wants it goes there next, so what is there is brought first.
    fn follow(&self, path: &[u8]) -> Result<bool, SourceError> {
        let target = lock(&self.targets).pop(path);
        if let Some(Err(error)) = target.map(|target| self.prepare(&target)) {
            tracing::debug!("not looked at in advance: {error}");
        }
        // The daemon reads one path of a container at a time, and the stream goes on meanwhile.
        self.bring(&Demand::Target(path.to_vec()), MAX_ALONG)
    }

    /// Looks at every component of a path without symlinks, and brings the small file that it leads to.
    fn prepare(&self, path: &[u8]) -> Result<(), SourceError> {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        // The daemon has replaced what is not UTF-8.
        if path.is_empty() || path.windows(3).any(|bytes| bytes == "\u{fffd}".as_bytes()) {
            return Ok(());
        }
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain([path.len()]) {
            let part = &path[..end];
            if !self.grower.wants(&Demand::Existence(part.to_vec())) {
                continue;
            }
            match self.look(part)? {
                Some(Seen::This(BriefStat { file_type: FileType::Regular, size, .. }))
                    if size <= MAX_ALONG =>
                {
                    self.bring(&Demand::Content(part.to_vec()), MAX_ALONG)?;
                }
                Some(Seen::This(_)) => {}
                Some(Seen::Nothing) | None => break,
            }
        }
        Ok(())
    }

    /// Brings the attributes of a wish's path, and its bytes if it is a regular file of at most `limit` bytes.
    fn bring(&self, demand: &Demand, limit: u64) -> Result<bool, SourceError> {
        let path = demand.path();
        let _turn = self.turn(path);
        if !self.grower.wants(demand) {
            return Ok(true);
        }
        let Answer::File(file) = fetch(self.container, path, |stream| self.current.add(stream))? else {
            return Ok(false);
        };
        let (entry, content) = *file;
        let size = match &entry.kind {
            EntryKind::Regular { size, .. } if *size <= limit => Some(*size),
            _ => None,
        };
        self.grower.header(path, entry);
        match size.and_then(|size| self.grower.content(path, size)) {
            Some(incoming) => {
                let copied = self.copy(content, incoming);
                copied.map_err(|e| SourceError::stream(OsStr::from_bytes(path), e))?;
                Ok(true)
            }
            None => Ok(!matches!(demand, Demand::Content(_))),
        }
    }

    fn copy(&self, mut content: Content, mut to: impl Write) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            self.progress.check().map_err(io::Error::other)?;
            match content.read(&mut buffer)? {
                0 => return Ok(()),
                n => to.write_all(&buffer[..n])?,
            }
        }
    }

    /// Waits until nobody else fetches this path.
    fn turn<'s>(&'s self, path: &'s [u8]) -> Turn<'s, 'a> {
        let under_way = lock(&self.under_way);
        let taken = |paths: &mut HashSet<Vec<u8>>| paths.contains(path);
        let mut under_way = self.fetched.wait_while(under_way, taken).unwrap_or_else(PoisonError::into_inner);
        under_way.insert(path.to_vec());
        Turn { ahead: self, path }
    }
}

/// What was seen at a path.
enum Seen {
    Nothing,
    This(BriefStat),
}

/// The right to fetch a path.
struct Turn<'s, 'a> {
    ahead: &'s OnDemand<'a>,
    path: &'s [u8],
}

impl Drop for Turn<'_, '_> {
    fn drop(&mut self) {
        lock(&self.ahead.under_way).remove(self.path);
        self.ahead.fetched.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the daemon gives a symlink as it is. Podman gives what it leads to instead, under the link's name.
pub(super) fn gives_links(daemon: &Daemon) -> bool {
    daemon.engine() == Engine::Docker
}

/// What the daemon has at a path.
pub(super) enum Answer {
    Nothing,
    /// Something that does not come out of an archive of its own.
    Unclear,
    File(Box<(Entry, Content)>),
}

/// The bytes of a file, as they come.
pub(super) struct Content {
    stream: ByteStream,
    left: u64,
}

impl Read for Content {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let room = buf.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.stream.read(&mut buf[..room])?;
        if n == 0 && room > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n as u64;
        Ok(n)
    }
}

/// Asks for an archive of what stands at a path, and reads its first header.
///
/// `begun` is told of the answer's stream before it is waited for.
pub(super) fn fetch(
    container: &Throwaway,
    path: &[u8],
    begun: impl FnOnce(&ByteStream),
) -> Result<Answer, SourceError> {
    let Some(stream) = container.archive_with(&absolute(path), begun)? else { return Ok(Answer::Nothing) };
    let name = path.rsplit(|&b| b == b'/').next().unwrap_or(path);
    let mut scanner = Scanner::new(Forward(stream), EndMark::Optional);
    let scan_error = |e| SourceError::content(OsStr::from_bytes(path), e);
    Ok(match scanner.next_entry().map_err(scan_error)? {
        Some(entry) if entry.path == name => {
            let left = match &entry.kind {
                EntryKind::Regular { size, content: tarfile::Content::Contiguous { .. } } => *size,
                EntryKind::Regular { .. } | EntryKind::HardLink(_) => return Ok(Answer::Unclear),
                _ => 0,
            };
            Answer::File(Box::new((entry, Content { stream: scanner.into_input().0, left })))
        }
        _ => Answer::Unclear,
    })
}

fn brief_stat(stat: &PathStat) -> Option<BriefStat> {
    let mode = (stat.mode & 0o177777) as u16;
    Some(BriefStat {
        file_type: FileType::from_mode(mode)?,
        perm: mode & 0o7777,
        size: stat.size,
        // To the second, as an export has it.
        mtime: Timestamp { secs: stat.mtime.map_or(0, |mtime| mtime.as_second()), nanos: 0 },
    })
}

fn absolute(path: &[u8]) -> Vec<u8> {
    [b"/", path].concat()
}
