//! What a server does besides answering the kernel: it keeps its record up to date, and does what commands ask of it.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::control::{Answer, Caller, Listener, Request};
use super::layout::{Shown, view_mounts};
use super::sessions::{Record, Registration, Stage};
use crate::cache::Cache;
use crate::cli::output::bar;
use crate::cli::output::error::{CommandError, Kind};
use crate::cli::process::scoped_task::{Ended, Woken, during};
use crate::fuse::Notifier;
use crate::progress::Progress;
use crate::source::{Context, MountState, Source};

/// How often a record is brought up to date while the source is being read.
pub const RECORD_INTERVAL: Duration = Duration::from_secs(1);

/// The server's other half.
pub struct Supervisor<'a> {
    shown: &'a Shown,
    /// How far the source that is shown has come.
    progress: Arc<Progress>,
    cache: Cache,
    notifier: Notifier,
    registration: &'a mut Registration,
    listener: Option<Listener>,
    /// What has failed, as far as it was told.
    told: Vec<String>,
    /// Sources that were shown before, and of which somebody still has a file open.
    retired: Vec<Source>,
}

impl<'a> Supervisor<'a> {
    /// Enters into the record what is shown, and takes requests.
    pub fn new(
        shown: &'a Shown,
        progress: Arc<Progress>,
        cache: Cache,
        notifier: Notifier,
        registration: &'a mut Registration,
    ) -> Result<Supervisor<'a>, CommandError> {
        registration.update(|record| tell(record, &lock(shown), &progress))?;
        let listener = Listener::open(registration.socket_path())
            .inspect_err(|error| tracing::warn!("the mount cannot be refreshed: {error}"))
            .ok();
        Ok(Supervisor {
            shown,
            progress,
            cache,
            notifier,
            registration,
            listener,
            told: Vec::new(),
            retired: Vec::new(),
        })
    }

    /// Does its work until the session has ended.
    pub fn serve(mut self, ended: &Ended) {
        let mut coming = true;
        loop {
            let busy = coming || !self.retired.is_empty();
            let listener = self.listener.as_ref().map(Listener::as_fd);
            match ended.or_ready(listener, busy.then_some(RECORD_INTERVAL)) {
                Woken::Ended => return,
                Woken::Ready => self.receive(ended),
                Woken::Neither => self.retire(),
            }
            coming = self.follow();
        }
    }

    /// Keeps the record up to date, and tells of whatever failed. Returns whether more is to come.
    fn follow(&mut self) -> bool {
        // Looked at first: what comes to its end meanwhile is recorded the next time.
        let coming = is_coming(&lock(self.shown));
        self.record();
        let mut failures = lock(self.shown).failures();
        failures.retain(|failure| !self.told.contains(failure));
        for failure in failures {
            tracing::error!("{failure}; what had come stays readable");
            self.told.push(failure);
        }
        coming
    }

    /// Lets go of what was shown before, as far as nobody uses it any more.
    fn retire(&mut self) {
        self.retired.retain(Source::is_in_use);
        if !self.retired.is_empty() {
            self.notifier.withdraw();
        }
    }

    /// Does what the next command wants.
    fn receive(&mut self, ended: &Ended) {
        let caller = self.listener.as_ref().map(Listener::accept).transpose();
        let caller = match caller {
            Ok(caller) => caller.flatten(),
            Err(error) => {
                tracing::warn!("no more requests are taken: {error}");
                self.listener = None;
                return;
            }
        };
        let Some(caller) = caller else { return };
        let done = match caller.request() {
            Ok(Request::Refresh) => self.refresh(&caller, ended),
            Err(error) => Err(CommandError::new(Kind::Failed, "cannot read the request").caused_by(error)),
        };
        match done {
            Ok(()) => caller.tell(&Answer::Done),
            Err(error) => {
                tracing::warn!("{}", error.message());
                caller.tell(&Answer::Failed(error))
            }
        };
    }

    /// Shows the source as it is now. What was shown before stays for whoever has a file of it open.
    fn refresh(&mut self, caller: &Caller, ended: &Ended) -> Result<(), CommandError> {
        let progress = Arc::new(Progress::new());
        let watch = |done: &Ended| {
            while !done.within(bar::INTERVAL) {
                let here =
                    caller.tell(&Answer::Progress { bytes: progress.bytes(), entries: progress.entries() });
                if !here || ended.within(Duration::ZERO) {
                    progress.cancel();
                }
            }
        };
        let new = during(watch, || {
            let mut new = lock(self.shown).renew(&Context::new(&self.cache, &progress))?;
            // Until all of it is there, what is shown is better.
            new.wait()?;
            Ok(new)
        })?;
        self.notifier.replace(view_mounts(&new))?;
        let old = std::mem::replace(&mut *self.shown.write().unwrap_or_else(PoisonError::into_inner), new);
        self.retired.push(old);
        self.progress = progress;
        self.told.clear();
        self.record();
        Ok(())
    }

    /// Writes down what is shown now, where that has changed.
    fn record(&mut self) {
        let mut now = self.registration.record().clone();
        tell(&mut now, &lock(self.shown), &self.progress);
        if now != *self.registration.record() {
            record(self.registration, |record| *record = now);
        }
    }
}

/// What is shown now.
pub fn lock(shown: &Shown) -> std::sync::RwLockReadGuard<'_, Source> {
    shown.read().unwrap_or_else(PoisonError::into_inner)
}

/// Whether something of a source is being read, or will be once somebody looks into it.
pub fn is_coming(source: &Source) -> bool {
    source.mounts.iter().any(|mount| matches!(mount.state(), MountState::NotFetched | MountState::Fetching))
}

/// Changes the record of this server.
pub fn record(registration: &mut Registration, change: impl FnOnce(&mut Record)) {
    // The mount does not depend on what is told of it.
    if let Err(e) = registration.update(change) {
        tracing::debug!("{e}");
    }
}

/// Writes down how far a source is.
pub fn tell(record: &mut Record, source: &Source, progress: &Progress) {
    record.id.clone_from(&source.identity);
    record.archive = source.archive_in_place().unwrap_or(Path::new("")).to_owned();
    let failures = source.failures();
    record.failure = (!failures.is_empty()).then(|| failures.join("; "));
    let filling = source.mounts.iter().any(|mount| mount.state() == MountState::Fetching);
    record.stage = match record.failure {
        Some(_) => Stage::Broken,
        None if filling => Stage::Filling,
        None => Stage::Ready,
    };
    (record.bytes, record.entries) = (progress.bytes(), progress.entries());
    if record.stage == Stage::Ready {
        let summaries = || source.mounts.iter().map(|mount| mount.filesystem.tree().summary());
        record.bytes = summaries().fold(0, |sum, summary| sum.saturating_add(summary.bytes));
        record.entries = summaries().fold(0, |sum, summary| sum.saturating_add(summary.entries));
    }
}
