//! What a signal does to a command in the foreground.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals as Incoming;

use super::error::{CommandError, Kind};
use crate::progress::{Phase, Progress};

/// How long a command or a server may take to end once that is asked for. A container that it then leaves behind is removed by
/// the next command that asks the daemon.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The signal that has asked the command to end, if one has.
pub struct Signals {
    told: Arc<AtomicI32>,
}

impl Signals {
    /// From now on a signal ends the command: at once where nothing is being read; else it cancels the reading, so that what
    /// that made elsewhere is removed, and ends the process if that does not.
    pub fn watch(progress: &Arc<Progress>) -> Result<Signals, CommandError> {
        let mut incoming = Incoming::new([SIGHUP, SIGINT, SIGTERM])
            .map_err(|e| CommandError::new(Kind::Failed, "cannot handle signals").caused_by(e))?;
        let (progress, told) = (Arc::clone(progress), Arc::new(AtomicI32::new(0)));
        let telling = Arc::clone(&told);
        std::thread::spawn(move || {
            if let Some(signal) = incoming.forever().next() {
                telling.store(signal, Ordering::Relaxed);
                if progress.phase() != Phase::Done {
                    progress.cancel();
                    std::thread::sleep(PATIENCE);
                }
                std::process::exit(Kind::Interrupted(signal).exit_status().into());
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
