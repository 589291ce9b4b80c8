//! What the verbs share that read a source without mounting it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::candidates;
use super::context::Context;
use super::context::SourceArgs;
use super::source_path;
use super::watch::beside;
use crate::cli::output::error::{CommandError, Kind};
use crate::cli::output::size;
use crate::cli::process::signals::Signals;
use crate::gateway::{FileStat, Gateway};
use crate::progress::Progress;
use crate::source;

/// Where to read.
#[derive(Debug, Args)]
pub struct ReadArgs {
    /// What `imagefs mount` takes: an image, a tar, …; with :/PATH behind it, a path of it
    #[arg(add = candidates::sources())]
    source: OsString,
    #[command(flatten)]
    options: ReadOptions,
}

#[derive(Debug, Args)]
struct ReadOptions {
    /// Which mount to read: its index in the mount table, else its name
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

    /// Tells the log how much of an image in a registry was fetched.
    fn tell_fetched(&self, progress: &Progress) {
        let source = self.gateway.source();
        if source.details.manifest.is_some() {
            let total = source.details.layers.iter().map(|layer| layer.size).sum();
            tracing::info!("{} of {} fetched", size::show(progress.bytes()), size::show(total));
        }
    }
}

impl ReadArgs {
    /// The paths that are meant: what is behind the source's own colon, and then `beside`; `fallback` if there is neither.
    pub fn paths(&self, beside: &[PathBuf], fallback: Option<&str>) -> Vec<PathBuf> {
        source_path::paths(&self.source, beside, fallback)
    }

    /// The same, where there has to be one.
    pub fn some_paths(&self, beside: &[PathBuf]) -> Result<Vec<PathBuf>, CommandError> {
        let paths = self.paths(beside, None);
        if paths.is_empty() {
            let error = CommandError::new(Kind::Usage, "no path of the source was given");
            return Err(error.hint("write it behind the source: SOURCE PATH, or SOURCE:/PATH"));
        }
        Ok(paths)
    }

    /// The source, for who wants all of it at once, and how it is found.
    pub fn whole(&self) -> (OsString, &SourceArgs) {
        (source_path::source(&self.source), &self.options.source_args)
    }

    /// Opens the source for as long as `read` takes. A signal ends it cleanly.
    pub fn read<T>(
        &self,
        context: &Context,
        read: impl FnOnce(&Reading) -> Result<T, CommandError>,
    ) -> Result<T, CommandError> {
        let progress = Arc::new(Progress::new());
        let signals = Signals::watch(&progress)?;
        signals.judge(beside(&context.printer, &source_path::source(&self.source), &progress, || {
            self.open(context, &progress).and_then(|reading| {
                let result = read(&reading);
                reading.tell_fetched(&progress);
                result
            })
        }))
    }

    fn open(&self, context: &Context, progress: &Arc<Progress>) -> Result<Reading, CommandError> {
        let ReadOptions { mount, exact, source_args } = &self.options;
        let cache = context.cache()?;
        let source_context = source::Context { exact: *exact, ..source_args.context(&cache, progress) };
        let gateway = Gateway::open(source_path::source(&self.source), &source_context)?;
        gateway.source().notes.iter().for_each(|note| context.printer.note(note));
        let is_there =
            |index: &i64| usize::try_from(*index).is_ok_and(|index| index < gateway.mounts().len());
        let mount = match (mount.parse(), gateway.mount_index(mount)) {
            (Ok(index), _) if is_there(&index) => index,
            (_, Ok(named)) => named,
            // That there is none of that index is told by whatever is asked of it.
            (Ok(index), Err(_)) => index,
            (Err(_), Err(error)) => return Err(error.into()),
        };
        Ok(Reading { gateway, mount })
    }
}
