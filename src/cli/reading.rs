//! What the verbs share that read a source without mounting it.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::error::{CommandError, Kind};
use super::{Context, SourceArgs};
use crate::gateway::{FileStat, Gateway};
use crate::progress::Progress;
use crate::source;

/// How long a command may take to end once a signal asks for that. A container that it then leaves behind is removed by
/// the next command that asks the daemon.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where to read.
#[derive(Debug, Args)]
pub struct ReadArgs {
    /// What `imagefs mount` takes: an image, a tar, …
    source: OsString,
    #[command(flatten)]
    options: ReadOptions,
}

#[derive(Debug, Args)]
struct ReadOptions {
    /// Which mount to read: its index in the mount table, or its name
    #[arg(long, value_name = "INDEX|NAME", default_value = "0", allow_hyphen_values = true)]
    mount: String,
    /// Get a daemon's image as its layers are stored
    #[arg(long)]
    exact: bool,
    #[command(flatten)]
    source_args: SourceArgs,
}

/// A source that is open, and the mount of it that was chosen.
pub struct Reading {
    /// Reads it.
    pub gateway: Gateway,
    /// The index of the mount.
    pub mount: i64,
}

impl Reading {
    /// What stands in a directory, sorted; names that begin with a dot only if `all`.
    pub fn files(&self, dir: &Path, all: bool) -> Result<Vec<FileStat>, CommandError> {
        let mut files = self.gateway.read_dir(self.mount, dir, None)?;
        files.retain(|file| all || !file.name().as_encoded_bytes().starts_with(b"."));
        Ok(files)
    }
}

impl ReadArgs {
    /// Opens the source for as long as `read` takes. A signal ends it cleanly.
    pub fn read<T>(
        &self,
        context: &Context,
        read: impl FnOnce(&Reading) -> Result<T, CommandError>,
    ) -> Result<T, CommandError> {
        let progress = Arc::new(Progress::new());
        let signal = watch_signals(&progress)?;
        let result = self.open(context, &progress).and_then(|reading| read(&reading));
        match (result, signal.load(Ordering::Relaxed)) {
            (Err(_), signal) if signal != 0 => {
                Err(CommandError::new(Kind::Interrupted(signal), "interrupted"))
            }
            (result, _) => result,
        }
    }

    fn open(&self, context: &Context, progress: &Arc<Progress>) -> Result<Reading, CommandError> {
        let ReadOptions { mount, exact, source_args } = &self.options;
        let cache = context.cache()?;
        let source_context = source::Context { exact: *exact, ..source_args.context(&cache, progress) };
        let gateway = Gateway::open(&self.source, &source_context)?;
        gateway.source().notes.iter().for_each(|note| context.printer.note(note));
        let mount = match mount.parse() {
            Ok(index) => index,
            Err(_) => gateway.mount_index(mount)?,
        };
        Ok(Reading { gateway, mount })
    }
}

/// From now on a signal cancels the task, and ends the process if that does not end it. Gives where the signal is told.
fn watch_signals(progress: &Arc<Progress>) -> Result<Arc<AtomicI32>, CommandError> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])
        .map_err(|e| CommandError::new(Kind::Failed, "cannot handle signals").caused_by(e))?;
    let (progress, told) = (Arc::clone(progress), Arc::new(AtomicI32::new(0)));
    let telling = Arc::clone(&told);
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            telling.store(signal, Ordering::Relaxed);
            progress.cancel();
            std::thread::sleep(PATIENCE);
            std::process::exit(Kind::Interrupted(signal).exit_status().into());
        }
    });
    Ok(told)
}
