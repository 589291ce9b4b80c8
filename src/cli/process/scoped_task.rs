//! A task that runs beside another one, and ends with it.

use std::io::{self, PipeReader};
use std::os::fd::BorrowedFd;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cli::output::error::{CommandError, Kind};

/// What tells a companion that the task which it runs beside has ended.
pub struct Ended(PipeReader);

impl Ended {
    /// Waits for the end, no longer than `limit`; tells whether it came.
    pub fn within(&self, limit: Duration) -> bool {
        matches!(self.or_ready(None, Some(limit)), Woken::Ended)
    }

    /// Waits for the end, or until there is something to be read from `other`, or its other side is gone.
    pub fn or_ready(&self, other: Option<BorrowedFd<'_>>, limit: Option<Duration>) -> Woken {
        let timeout = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut fds = vec![PollFd::new(&self.0, PollFlags::IN)];
        fds.extend(other.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        // Interrupted, or out of memory: whoever asks asks again.
        let _ = poll(&mut fds, timeout.as_ref());
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        match (ready.next(), ready.next()) {
            (Some(true), _) => Woken::Ended,
            (_, Some(true)) => Woken::Ready,
            _ => Woken::Neither,
        }
    }
}

/// What came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The end of the task.
    Ended,
    /// Something to read.
    Ready,
    /// Neither, within the limit.
    Neither,
}

/// Runs `task`, and beside it `companion`, which is to return soon after the task has.
pub fn during<T>(
    scoped_task: impl FnOnce(&Ended) + Send,
    task: impl FnOnce() -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let failed = |e: io::Error| CommandError::new(Kind::Failed, "cannot watch a task").caused_by(e);
    let (ended, running) = io::pipe().map_err(failed)?;
    thread::scope(|scope| {
        let ended = Ended(ended);
        scope.spawn(move || scoped_task(&ended));
        let result = task();
        // The other end of the pipe tells.
        drop(running);
        result
    })
}
