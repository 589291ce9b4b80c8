//! How many exports may be under way at one time.
//!
//! A program that walks over all that an engine has enters one source after another, and a daemon that exports a hundred of
//! them at once serves nobody. Who comes first is served first.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::progress::{Cancelled, Progress};

/// How often who waits looks whether he still wants to.
const TICK: Duration = Duration::from_millis(200);

/// A number of exports that may be under way at one time. A clone is the same limit.
#[derive(Clone, Debug)]
pub struct ExportLimit(Arc<Gate>);

#[derive(Debug)]
struct Gate {
    queue: Mutex<Queue>,
    moved: Condvar,
}

#[derive(Debug)]
struct Queue {
    free: usize,
    /// Who waits, by number.
    waiting: VecDeque<u64>,
    last: u64,
}

/// The right to export. Given back when dropped.
#[derive(Debug)]
pub(super) struct ExportPermit(Arc<Gate>);

impl ExportLimit {
    /// At most `exports` at one time, and at least one.
    pub fn new(exports: usize) -> ExportLimit {
        let queue = Queue { free: exports.max(1), waiting: VecDeque::new(), last: 0 };
        ExportLimit(Arc::new(Gate { queue: Mutex::new(queue), moved: Condvar::new() }))
    }

    /// Waits for its turn; calls `waiting` now and then meanwhile.
    pub(super) fn acquire(
        &self,
        progress: &Progress,
        mut waiting: impl FnMut(),
    ) -> Result<ExportPermit, Cancelled> {
        let gate = &self.0;
        let mut queue = gate.lock();
        queue.last += 1;
        let number = queue.last;
        queue.waiting.push_back(number);
        loop {
            if queue.free > 0 && queue.waiting.front() == Some(&number) {
                queue.waiting.pop_front();
                queue.free -= 1;
                drop(queue);
                gate.moved.notify_all();
                return Ok(ExportPermit(Arc::clone(gate)));
            }
            if let Err(cancelled) = progress.check() {
                queue.waiting.retain(|&other| other != number);
                drop(queue);
                gate.moved.notify_all();
                return Err(cancelled);
            }
            waiting();
            queue = gate.moved.wait_timeout(queue, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ExportPermit {
    fn drop(&mut self) {
        self.0.lock().free += 1;
        self.0.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    #[test]
    fn who_comes_first_is_served_first_and_who_gives_up_is_not_waited_for() {
        let limit = ExportLimit::new(1);
        let held = limit.acquire(&Progress::new(), || {}).unwrap();
        let (served, order) = channel();
        let impatient = Arc::new(Progress::new());
        let mut threads = Vec::new();
        for number in 0..3 {
            let (limit, served, impatient) = (limit.clone(), served.clone(), Arc::clone(&impatient));
            let (queued, is_queued) = channel();
            threads.push(thread::spawn(move || {
                let own = Progress::new();
                let progress = if number == 0 { &impatient } else { &own };
                let permit = limit.acquire(progress, || {
                    let _ = queued.send(());
                });
                served.send((number, permit.is_ok())).unwrap();
            }));
            is_queued.recv().unwrap();
        }
        impatient.cancel();
        assert_eq!(order.recv().unwrap(), (0, false));
        drop(held);
        assert_eq!(order.recv().unwrap(), (1, true));
        assert_eq!(order.recv().unwrap(), (2, true));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
