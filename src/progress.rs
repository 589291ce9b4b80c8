//! How far a long task has come, told by the task and read by whoever shows it; and the wish that it stop.
//!
//! The task and its watcher share a [`Progress`] by reference. Nothing here prints or blocks, so the library reports without
//! knowing of terminals. Must not import anything of the crate.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// What a long task is about just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Finding out what the source is.
    Resolving,
    /// Another process is making the same cache entry.
    Waiting,
    /// Bytes come in and are indexed.
    Reading,
    /// All bytes are there; the entry is being completed.
    Finishing,
    /// Nothing is left to do.
    Done,
}

impl Phase {
    const ALL: [Phase; 5] = [Phase::Resolving, Phase::Waiting, Phase::Reading, Phase::Finishing, Phase::Done];
}

/// The task was [cancelled](Progress::cancel).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

/// The state of one long task. All counts begin at zero.
///
/// Each value is exact, but values read one after the other may stem from different moments.
#[derive(Debug, Default)]
pub struct Progress {
    phase: AtomicU8,
    bytes: AtomicU64,
    entries: AtomicU64,
    /// 0 stands for unknown.
    total: AtomicU64,
    cancelled: AtomicBool,
    wakers: Mutex<Vec<Weak<Waker>>>,
}

type Waker = dyn Fn() + Send + Sync;

/// What [`Progress::on_cancel`] was asked for. Dropped, it is no longer done.
pub struct OnCancel(Arc<Waker>);

impl Progress {
    /// A task that has not begun.
    pub fn new() -> Progress {
        Progress::default()
    }

    /// Tells what the task is about from now on.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    /// What the task is about.
    pub fn phase(&self) -> Phase {
        Phase::ALL.get(usize::from(self.phase.load(Relaxed))).copied().unwrap_or(Phase::Done)
    }

    /// Counts `n` more bytes of the stream as taken in.
    pub fn add_bytes(&self, n: u64) {
        self.bytes.fetch_add(n, Relaxed);
    }

    /// Bytes of the stream taken in.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Counts `n` more entries (files, directories, links, …) as found.
    pub fn add_entries(&self, n: u64) {
        self.entries.fetch_add(n, Relaxed);
    }

    /// Entries found.
    pub fn entries(&self) -> u64 {
        self.entries.load(Relaxed)
    }

    /// Tells how many bytes the stream will have, where that is known.
    pub fn expect_bytes(&self, total: u64) {
        self.total.store(total, Relaxed);
    }

    /// How many bytes the stream will have, where that is known.
    pub fn expected_bytes(&self) -> Option<u64> {
        match self.total.load(Relaxed) {
            0 => None,
            total => Some(total),
        }
    }

    /// Starts the counts anew, for another source.
    pub fn restart(&self) {
        self.bytes.store(0, Relaxed);
        self.entries.store(0, Relaxed);
        self.expect_bytes(0);
    }

    /// Asks the task to give up soon and clean up after itself.
    pub fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
        let wakers = self.wakers().clone();
        wakers.iter().filter_map(Weak::upgrade).for_each(|wake| wake());
    }

    /// Calls `wake` when the task is cancelled, at once if it was already: for what waits and cannot
    /// [check](Progress::check). It must not block, and may be called twice.
    #[must_use]
    pub fn on_cancel(&self, wake: impl Fn() + Send + Sync + 'static) -> OnCancel {
        let wake: Arc<Waker> = Arc::new(wake);
        let mut wakers = self.wakers();
        wakers.retain(|waker| waker.strong_count() > 0);
        wakers.push(Arc::downgrade(&wake));
        drop(wakers);
        // Looked at after it was put on the list, so that one of the two sees the other.
        if self.check().is_err() {
            wake();
        }
        OnCancel(wake)
    }

    fn wakers(&self) -> MutexGuard<'_, Vec<Weak<Waker>>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a task calls now and then, at least once for each chunk of the stream.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.cancelled.load(Relaxed) { Err(Cancelled) } else { Ok(()) }
    }
}

impl fmt::Debug for OnCancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnCancel").field(&Arc::as_ptr(&self.0)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_is_read_back_as_it_was_told() {
        let progress = Progress::new();
        assert_eq!(progress.phase(), Phase::Resolving);
        for phase in Phase::ALL {
            progress.enter(phase);
            assert_eq!(progress.phase(), phase);
        }
    }

    #[test]
    fn a_cancelled_task_learns_of_it_at_its_next_check() {
        let progress = Progress::new();
        assert_eq!(progress.check(), Ok(()));
        progress.cancel();
        assert_eq!(progress.check(), Err(Cancelled));
    }

    #[test]
    fn who_waits_is_woken_by_the_cancellation_and_whoever_comes_later_at_once() {
        let progress = Progress::new();
        let woken = Arc::new(AtomicU64::new(0));
        let wake = |amount: u64| {
            let woken = Arc::clone(&woken);
            move || _ = woken.fetch_add(amount, Relaxed)
        };
        let _first = progress.on_cancel(wake(1));
        drop(progress.on_cancel(wake(10)));
        assert_eq!(woken.load(Relaxed), 0);
        progress.cancel();
        assert_eq!(woken.load(Relaxed), 1);
        let _late = progress.on_cancel(wake(100));
        assert_eq!(woken.load(Relaxed), 101);
    }

    #[test]
    fn an_unknown_total_is_not_zero() {
        let progress = Progress::new();
        assert_eq!(progress.expected_bytes(), None);
        progress.expect_bytes(7);
        assert_eq!(progress.expected_bytes(), Some(7));
    }
}
