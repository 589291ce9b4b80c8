//! A source in the foreground: opened, and waited for until all of it is there.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::bar::{self, Bar};
use super::error::{CommandError, Kind};
use super::{Context, SourceArgs};
use crate::progress::Progress;
use crate::source::{self, Source};

/// Opens a source, shows how far it has come, and gives it when nothing is missing. `exact` is for a daemon's image.
///
/// SIGINT and SIGTERM end the reading; what it made elsewhere is removed.
pub fn open(
    context: &Context,
    spelled: &OsStr,
    args: &SourceArgs,
    exact: bool,
) -> Result<Source, CommandError> {
    let cache = context.cache()?;
    let progress = &Arc::new(Progress::new());
    let failed = |e| CommandError::new(Kind::Failed, "cannot handle signals").caused_by(e);
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
    let handle = signals.handle();
    let asked = AtomicI32::new(0);
    let show_bar = context.global.verbose == 0 && !context.global.quiet;
    let mut bar = show_bar.then(|| Bar::new(&spelled.to_string_lossy()));
    let result = thread::scope(|scope| {
        let (running, ended) = channel::<()>();
        scope.spawn(|| {
            for signal in &mut signals {
                asked.store(signal, Ordering::Relaxed);
                progress.cancel();
            }
        });
        let drawing = &mut bar;
        scope.spawn(move || {
            while ended.recv_timeout(bar::INTERVAL) == Err(RecvTimeoutError::Timeout) {
                if let Some(bar) = drawing {
                    bar.draw(progress);
                }
            }
        });
        let result = source::open(spelled, &source::Context { exact, ..args.context(&cache, progress) })
            .and_then(|mut source| {
                source.wait()?;
                Ok(source)
            });
        drop(running);
        handle.close();
        result
    });
    match asked.load(Ordering::Relaxed) {
        0 => Ok(result?),
        signal => Err(CommandError::new(Kind::Interrupted(signal), "interrupted")),
    }
}
