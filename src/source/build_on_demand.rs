//! Brings single paths of a build's filesystem before the stream does, through the helper that reads it.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc::Receiver;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::SourceError;
use crate::buildkit::{Attributes, Helper, MAX_READ};
use crate::index::{BriefStat, Demand, FileType, Grower, MAX_FETCHED, Timestamp};
use crate::progress::Progress;
use crate::tarfile::{Content, Entry, EntryKind};

/// Grants the wishes of a filesystem whose stream is under way. To be shared by as many threads as may ask at a time.
pub(super) struct OnDemand<'a> {
    helper: &'a Helper,
    mount: usize,
    /// Where in the mount the filesystem's root is.
    inside: &'a str,
    grower: &'a Grower,
    progress: &'a Progress,
    /// Paths that are being fetched.
    under_way: Mutex<HashSet<Vec<u8>>>,
    fetched: Condvar,
}

impl<'a> OnDemand<'a> {
    pub fn new(
        helper: &'a Helper,
        mount: usize,
        inside: &'a str,
        grower: &'a Grower,
        progress: &'a Progress,
    ) -> OnDemand<'a> {
        let (under_way, fetched) = (Mutex::default(), Condvar::new());
        OnDemand { helper, mount, inside, grower, progress, under_way, fetched }
    }

    /// Grants wishes until there can be no more.
    pub fn serve(&self, wished: &Mutex<Receiver<Demand>>) {
        loop {
            let demand = lock(wished).recv();
            let Ok(demand) = demand else { return };
            if self.progress.check().is_err() || !self.grower.wants(&demand) {
                continue;
            }
            if let Err(error) = self.grant(&demand) {
                tracing::debug!("left to the stream: {error}");
            }
        }
    }

    fn grant(&self, demand: &Demand) -> Result<(), SourceError> {
        let path = demand.path();
        let _turn = self.turn(path);
        if !self.grower.wants(demand) {
            return Ok(());
        }
        let place = match self.inside {
            "" => path.to_vec(),
            inside => [inside.as_bytes(), b"/", path].concat(),
        };
        let found = self.helper.stat(self.mount, &place)?;
        let Some((entry, brief)) = found.as_ref().and_then(|found| describe(path, found)) else {
            self.grower.absent(path);
            return Ok(());
        };
        // One answer tells all that there is to know.
        self.grower.found(path, brief);
        self.grower.header(path, entry);
        match demand {
            Demand::Content(_) if brief.file_type == FileType::Regular && brief.size <= MAX_FETCHED => {
                self.content(path, &place, brief.size)
            }
            _ => Ok(()),
        }
    }

    fn content(&self, path: &[u8], place: &[u8], size: u64) -> Result<(), SourceError> {
        let Some(mut incoming) = self.grower.content(path, size) else { return Ok(()) };
        let mut done = 0;
        while done < size {
            self.progress.check()?;
            let bytes = self.helper.read(self.mount, place, done, MAX_READ)?;
            if bytes.is_empty() {
                break;
            }
            let bytes = &bytes[..bytes.len().min(usize::try_from(size - done).unwrap_or(usize::MAX))];
            incoming.write_all(bytes).map_err(|e| SourceError::stream(OsStr::from_bytes(path), e))?;
            done += bytes.len() as u64;
        }
        Ok(())
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

/// What the stream will say of a file; `None` if it is one that streams leave out.
fn describe(path: &[u8], found: &Attributes) -> Option<(Entry, BriefStat)> {
    let file_type = FileType::from_mode((found.mode & 0o177777) as u16)?;
    let kind = match file_type {
        FileType::Socket => return None,
        FileType::Regular => EntryKind::Regular { size: found.size, content: Content::Contiguous { at: 0 } },
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink(found.target.clone()),
        FileType::Fifo => EntryKind::Fifo,
        device => EntryKind::Device(device, found.device),
    };
    let perm = (found.mode & 0o7777) as u16;
    let mtime = Timestamp { secs: found.mtime.0, nanos: found.mtime.1.min(999_999_999) };
    let brief = BriefStat { file_type, perm, size: found.size, mtime };
    let (uid, gid, xattrs) = (found.uid, found.gid, found.xattrs.clone());
    Some((Entry { path: path.to_vec(), kind, perm, uid, gid, mtime, xattrs }, brief))
}
