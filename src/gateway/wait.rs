//! Asking a filesystem that may still be on its way.

use std::time::{Duration, Instant};

use super::GatewayError;
use super::error::to_path;
use super::stat::Xattrs;
use crate::index::{DirCookie, DirEntry, Filesystem, Ino, Listing, ReadError, Stat, Tree as _, TreeError};
use crate::progress::Progress;
use crate::source::Mount;

/// How often a filesystem is looked at while an answer is waited for.
const POLL: Duration = Duration::from_millis(1);

/// Questions about one path. What has not come yet is waited for, as long as anything comes.
pub(super) struct Question<'a> {
    pub filesystem: &'a Filesystem,
    /// Whose filesystem it is, to be asked why something does not come.
    pub mount: Option<&'a Mount>,
    pub progress: &'a Progress,
    /// How long nothing at all may come.
    pub patience: Duration,
    /// For messages.
    pub path: Vec<u8>,
}

impl Question<'_> {
    pub fn ask<T, E: Into<ReadError>>(
        &self,
        mut ask: impl FnMut(&Filesystem) -> Result<T, E>,
    ) -> Result<T, GatewayError> {
        let begun = Instant::now();
        loop {
            self.progress.check()?;
            let generation = self.filesystem.generation();
            match ask(self.filesystem).map_err(Into::into) {
                Err(ReadError::Tree(TreeError::NotYet)) => self.wait(generation, begun)?,
                answer => return answer.map_err(|error| self.error(error)),
            }
        }
    }

    /// Why there is no answer.
    pub fn error(&self, error: impl Into<ReadError>) -> GatewayError {
        match (GatewayError::tree(&self.path, error), self.mount) {
            (GatewayError::Lost { path, .. }, Some(mount)) => {
                // What is lost says why in a moment: the container that it was read through goes first.
                let begun = Instant::now();
                while mount.failure().is_none() && begun.elapsed() < self.patience {
                    if let Err(cancelled) = self.progress.check() {
                        return cancelled.into();
                    }
                    std::thread::sleep(POLL);
                }
                GatewayError::Lost { path, cause: mount.failure().cloned() }
            }
            (error, _) => error,
        }
    }

    /// Waits until an answer may have become another one.
    fn wait(&self, generation: u64, begun: Instant) -> Result<(), GatewayError> {
        loop {
            std::thread::sleep(POLL);
            self.progress.check()?;
            if self.filesystem.generation() != generation {
                return Ok(());
            }
            let latest = self.filesystem.last_progress().map_or(begun, |progress| progress.max(begun));
            if latest.elapsed() > self.patience {
                return Err(GatewayError::Stalled { path: to_path(&self.path), patience: self.patience });
            }
        }
    }

    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Option<Ino>, GatewayError> {
        self.ask(|filesystem| filesystem.lookup(dir, name))
    }

    /// The attributes as far as they are known: the type, in any case.
    pub fn provisional_stat(&self, ino: Ino) -> Result<Stat, GatewayError> {
        self.ask(|filesystem| filesystem.provisional_stat(ino)).map(|provisional_stat| provisional_stat.stat)
    }

    pub fn stat(&self, ino: Ino) -> Result<Stat, GatewayError> {
        self.ask(|filesystem| filesystem.stat(ino))
    }

    pub fn read_link(&self, ino: Ino) -> Result<Vec<u8>, GatewayError> {
        self.ask(|filesystem| filesystem.read_link(ino))
    }

    pub fn xattrs(&self, ino: Ino) -> Result<Xattrs, GatewayError> {
        self.ask(|filesystem| {
            let mut found = Vec::new();
            filesystem.xattrs(ino, &mut |name, value| {
                found.push((name.to_vec(), value.to_vec()));
                true
            })?;
            Ok::<_, TreeError>(found)
        })
    }

    /// Hands every name of a directory to `emit`, once.
    pub fn read_dir(&self, dir: Ino, mut emit: impl FnMut(&DirEntry<'_>)) -> Result<(), GatewayError> {
        // The order in which names come is another one as soon as all of them are there.
        let pinned = self.filesystem.pin();
        let mut from = DirCookie::START;
        let mut odd = false;
        self.ask(|filesystem| {
            let start = from;
            let mut take = |entry: DirEntry<'_>| {
                from = entry.cookie;
                odd = !is_plain(entry.name);
                if !odd {
                    emit(&entry);
                }
                !odd
            };
            let listing = match &pinned {
                Some(pinned) => pinned.read_dir(dir, start, &mut take),
                None => filesystem.read_dir(dir, start, &mut take),
            };
            match listing? {
                _ if odd => Err(TreeError::Corrupt("a name that no file can have")),
                Listing::NotYet => Err(TreeError::NotYet),
                Listing::End | Listing::Stopped => Ok(()),
            }
        })
    }
}

/// Whether a name stands for one step down, wherever it is put.
fn is_plain(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, b'/' | 0))
}
