//! Sources in the foreground, each opened and waited for until all of it is there.

use std::ffi::OsStr;
use std::sync::Arc;

use super::context::Context;
use super::context::SourceArgs;
use super::watch::beside;
use crate::cache::Cache;
use crate::cli::output::error::CommandError;
use crate::cli::process::signals::Signals;
use crate::progress::Progress;
use crate::source::{self, Source};

/// Opens the sources of one command, one after the other. A signal ends it cleanly.
pub struct CompleteSources<'a> {
    context: &'a Context,
    cache: Cache,
    progress: Arc<Progress>,
    signals: Signals,
}

impl CompleteSources<'_> {
    /// Gets ready.
    pub fn begin(context: &Context) -> Result<CompleteSources<'_>, CommandError> {
        let progress = Arc::new(Progress::new());
        let signals = Signals::watch(&progress)?;
        Ok(CompleteSources { context, cache: context.cache()?, progress, signals })
    }

    /// Opens a source, shows how far it has come, and gives it when nothing is missing. `exact` is for a daemon's image.
    pub fn open(&self, spelled: &OsStr, args: &SourceArgs, exact: bool) -> Result<Source, CommandError> {
        let progress = &self.progress;
        progress.restart();
        let result = beside(&self.context.printer, spelled, progress, || {
            let context = source::Context { exact, ..args.context(&self.cache, progress) };
            let mut source = source::open(spelled, &context)?;
            source.wait()?;
            Ok(source)
        });
        self.signals.judge(result)
    }
}
