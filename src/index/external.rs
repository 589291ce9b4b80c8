//! Which bytes of a data file stand in files of their own.
//!
//! A kernel that reads a file by itself (FUSE_PASSTHROUGH) needs one that begins with the file's first byte. So the content
//! of a large member may stand beside the data file, which goes on behind it as if it had not been there.

use std::fs::File;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A run of the bytes of a data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Run {
    /// The first.
    pub at: u64,
    /// How many.
    pub len: u64,
}

impl Run {
    fn end(&self) -> u64 {
        self.at.saturating_add(self.len)
    }
}

/// The runs that are set apart, each with the file that holds it and nothing else. They ascend and do not overlap.
///
/// A clone is the same list: what is added while a data file is being written is found by those who read it already.
#[derive(Clone, Debug, Default)]
pub struct ExternalRuns(Arc<RwLock<List>>);

type List = Vec<(Run, Arc<File>)>;

/// Where a byte of a data file stands.
pub(super) struct Place {
    /// `None` for the data file itself.
    pub file: Option<Arc<File>>,
    /// Where in that file.
    pub at: u64,
    /// How many bytes stand there from this one on, at least 1.
    pub left: u64,
}

impl ExternalRuns {
    /// Adds a run. `false`, and nothing happens, if it is empty, or not behind all others.
    pub fn add(&self, run: Run, file: File) -> bool {
        let mut list = self.write();
        let is_behind = list.last().is_none_or(|(last, _)| last.end() <= run.at);
        let fits = is_behind && run.len > 0 && run.at.checked_add(run.len).is_some();
        if fits {
            list.push((run, Arc::new(file)));
        }
        fits
    }

    /// Forgets the runs that begin at byte `at` or behind it.
    pub(super) fn forget_from(&self, at: u64) {
        self.write().retain(|(run, _)| run.at < at);
    }

    /// The runs with their files.
    pub fn list(&self) -> Vec<(Run, Arc<File>)> {
        self.read().clone()
    }

    /// The file that holds these bytes and no others.
    pub(super) fn file_of(&self, wanted: Run) -> Option<Arc<File>> {
        let list = self.read();
        let found = list.binary_search_by_key(&wanted.at, |(run, _)| run.at).ok()?;
        list.get(found).filter(|(run, _)| *run == wanted).map(|(_, file)| Arc::clone(file))
    }

    /// Where byte `at` stands.
    pub(super) fn place(&self, at: u64) -> Place {
        let list = self.read();
        let next = list.partition_point(|(run, _)| run.end() <= at);
        let before: u64 = list.iter().take(next).map(|(run, _)| run.len).sum();
        match list.get(next) {
            Some((run, file)) if run.at <= at => {
                Place { file: Some(Arc::clone(file)), at: at - run.at, left: run.end() - at }
            }
            Some((run, _)) => Place { file: None, at: at - before, left: run.at - at },
            None => Place { file: None, at: at - before, left: u64::MAX },
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, List> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, List> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_cannot_be_are_refused() {
        let external = ExternalRuns::default();
        let add = |at, len| external.add(Run { at, len }, tempfile::tempfile().unwrap());
        assert!(add(10, 5));
        assert!(!add(14, 5), "it overlaps");
        assert!(!add(0, 5), "it comes before");
        assert!(!add(20, 0), "it is empty");
        assert!(!add(20, u64::MAX), "it goes past 2^64");
        assert!(add(15, 5));
        let runs: Vec<Run> = external.list().into_iter().map(|(run, _)| run).collect();
        assert_eq!(runs, [Run { at: 10, len: 5 }, Run { at: 15, len: 5 }]);
    }
}
