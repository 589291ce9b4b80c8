//! What a signal does to a command in the foreground.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals as Incoming;

use super::error::{CommandError, Kind};
use crate::held;
use crate::progress::Progress;

/// How long a command or a server may take to end once that is asked for. What it then leaves behind is as if it had been
/// killed: a container of its own is removed by the next command that needs one, a directory in the cache by the next
/// that opens the cache.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How long of it a command has to end by itself, and to say that it was interrupted.
const BY_ITSELF: Duration = Duration::from_millis(500);

/// The signal that has asked the command to end, if one has.
pub struct Signals {
    told: Arc<AtomicI32>,
}

impl Signals {
    /// From now on a signal ends the command. It cancels the reading; and if that does not end the process soon, because whoever
    /// has to write or wait is blocked in it, it lets go of what the process [holds](held) and ends it.
    pub fn watch(progress: &Arc<Progress>) -> Result<Signals, CommandError> {
        let mut incoming = Incoming::new([SIGHUP, SIGINT, SIGTERM])
            .map_err(|e| CommandError::new(Kind::Failed, "cannot handle signals").caused_by(e))?;
        let (progress, told) = (Arc::clone(progress), Arc::new(AtomicI32::new(0)));
        let telling = Arc::clone(&told);
        std::thread::spawn(move || {
            if let Some(signal) = incoming.forever().next() {
                telling.store(signal, Ordering::Relaxed);
                progress.cancel();
                std::thread::sleep(BY_ITSELF);
                held::exit(Kind::Interrupted(signal).exit_status(), PATIENCE - BY_ITSELF);
            }
        });
        Ok(Signals { told })
    }

    /// What came of a task: where a signal made it fail, that is the error.
    pub fn judge<T>(&self, result: Result<T, CommandError>) -> Result<T, CommandError> {
        match (result, self.told.load(Ordering::Relaxed)) {
            (Err(_), signal) if signal != 0 => {
                Err(CommandError::new(Kind::Interrupted(signal), "interrupted"))
            }
            (result, _) => result,
        }
    }
}
