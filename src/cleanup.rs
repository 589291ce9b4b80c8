//! What this process has made outside itself and takes away again: a container, a directory in the cache.
//!
//! Whoever makes such a thing has a [`CleanupGuard`] of it, and it goes when that is dropped. A signal may end the process while the
//! thread that would drop it waits for something that never comes: [`exit`] lets go of all there is.
//! Must not import anything of the crate.

use std::fmt;
use std::process;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

/// How something is let go of; `None` if there is nothing, or nothing any more. It may wait, and must not make a [`CleanupGuard`].
pub type Cleanup = Option<Box<dyn FnOnce() + Send>>;

/// Something outside this process. It is let go of once: when this is dropped, or by [`exit`].
pub struct CleanupGuard(Arc<Mutex<Cleanup>>);

/// All there are. Locked for ever by [`exit`]: who would make another one then waits for the end.
static ALL: Mutex<Vec<Weak<Mutex<Cleanup>>>> = Mutex::new(Vec::new());

impl CleanupGuard {
    /// Makes something; `make` says through its argument how it is let go of. [`exit`] waits until it is made.
    ///
    /// # Errors
    /// Those of `make`. What it has said is done all the same.
    pub fn make<T, E>(make: impl FnOnce(&mut Cleanup) -> Result<T, E>) -> Result<(T, CleanupGuard), E> {
        let held = CleanupGuard(Arc::default());
        let mut clean_up = lock(&held.0);
        let mut all = lock(&ALL);
        all.retain(|held| held.strong_count() > 0);
        all.push(Arc::downgrade(&held.0));
        drop(all);
        let made = make(&mut clean_up);
        drop(clean_up);
        Ok((made?, held))
    }

    /// Makes something else of it, which may be let go of in another way, or not at all. [`exit`] waits meanwhile.
    pub fn change<T>(&self, change: impl FnOnce(&mut Cleanup) -> T) -> T {
        change(&mut lock(&self.0))
    }
}

impl Drop for CleanupGuard {
    fn drop(&mut self) {
        clean_up(&self.0);
    }
}

impl fmt::Debug for CleanupGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&Arc::as_ptr(&self.0)).finish()
    }
}

/// Lets go of all that this process holds, of each in a thread of its own, and ends the process when that is done, or
/// after `patience`.
pub fn exit(status: u8, patience: Duration) -> ! {
    let all = lock(&ALL);
    let (running, ended) = channel::<()>();
    for held in all.iter().filter_map(Weak::upgrade) {
        let running = running.clone();
        // Without a thread for it, it stays, as if this process had been killed.
        let _ = thread::Builder::new().spawn(move || {
            clean_up(&held);
            drop(running);
        });
    }
    drop(running);
    // Nothing is ever sent: it fails when the last of them has ended.
    let _ = ended.recv_timeout(patience);
    process::exit(status.into())
}

fn clean_up(held: &Mutex<Cleanup>) {
    // Locked until it is done, so that whoever comes second waits.
    let mut held = lock(held);
    if let Some(clean_up) = held.take() {
        clean_up();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    #[test]
    fn what_is_made_is_let_go_of_once_and_as_was_said_last() {
        let count = Arc::new(AtomicU32::new(0));
        let adding = |n: u32| -> Cleanup {
            let count = Arc::clone(&count);
            Some(Box::new(move || _ = count.fetch_add(n, Relaxed)))
        };
        let make = |n| {
            let made = CleanupGuard::make(|clean_up| {
                *clean_up = adding(n);
                Ok::<_, ()>(())
            });
            made.unwrap().1
        };
        drop(make(1));
        assert_eq!(count.load(Relaxed), 1);
        let other = make(10);
        other.change(|clean_up| *clean_up = adding(100));
        drop(other);
        assert_eq!(count.load(Relaxed), 101);
        make(1000).change(|clean_up| *clean_up = None);
        assert_eq!(count.load(Relaxed), 101);
        let failed = CleanupGuard::make(|clean_up| {
            *clean_up = adding(10_000);
            Err::<(), _>("half made")
        });
        assert_eq!((failed.unwrap_err(), count.load(Relaxed)), ("half made", 10_101));
    }
}
