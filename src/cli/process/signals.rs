//! Which signals end a command or a server, and how they end a command in the foreground.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals as Incoming;

use crate::cleanup;
use crate::cli::output::error::{CommandError, Kind};
use crate::progress::Progress;

/// How long a command or a server may take to end once that is asked for. What it then leaves behind is as if it had been
/// killed: a container of its own is removed by the next command that needs one, a directory in the cache by the next
/// that opens the cache.
///
/// The manual promises five seconds, of which some are needed to get there.
pub const PATIENCE: Duration = Duration::from_millis(4_500);

/// How long of it a command has to end by itself, and to say that it was interrupted.
const BY_ITSELF: Duration = Duration::from_millis(500);

/// The signals that ask this process to end, to be found out before any of them is handled: SIGTERM, and of SIGHUP and SIGINT those
/// that it was not started to ignore, as by nohup(1), or with a `&` by a shell without job control.
pub fn to_handle() -> Vec<i32> {
    let ignored = ignored();
    let heeded = |signal: &i32| ignored >> (signal - 1) & 1 == 0;
    [SIGHUP, SIGINT].into_iter().filter(heeded).chain([SIGTERM]).collect()
}

/// Has a file that must not grow any further fail to be written (EFBIG), as a full disk does, where SIGXFSZ would end the
/// process at once, and leave behind what it has made.
pub fn outlive_file_size_limit() {
    // Nobody wants to know: a signal that is handled in any way ends nothing.
    if let Err(error) = signal_hook::flag::register(SIGXFSZ, Arc::default()) {
        tracing::debug!("cannot handle SIGXFSZ: {error}");
    }
}

/// The signals that this process ignores, the lowest bit for signal 1: proc_pid_status(5).
fn ignored() -> u64 {
    let status = fs::read("/proc/self/status").unwrap_or_default();
    let status = String::from_utf8_lossy(&status);
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// The signal that has asked the command to end, if one has.
pub struct Signals {
    told: Arc<AtomicI32>,
}

impl Signals {
    /// From now on a signal ends the command. It cancels the reading; and if that does not end the process soon, because whoever
    /// has to write or wait is blocked in it, it lets go of what the process [holds](crate::cleanup) and ends it.
    pub fn watch(progress: &Arc<Progress>) -> Result<Signals, CommandError> {
        let mut incoming = Incoming::new(to_handle())
            .map_err(|e| CommandError::new(Kind::Failed, "cannot handle signals").caused_by(e))?;
        let (progress, told) = (Arc::clone(progress), Arc::new(AtomicI32::new(0)));
        let telling = Arc::clone(&told);
        std::thread::spawn(move || {
            if let Some(signal) = incoming.forever().next() {
                telling.store(signal, Ordering::Relaxed);
                progress.cancel();
                std::thread::sleep(BY_ITSELF);
                cleanup::exit(Kind::Interrupted(signal).exit_status(), PATIENCE - BY_ITSELF);
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
