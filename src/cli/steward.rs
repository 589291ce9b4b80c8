//! What a server does besides answering the kernel: it keeps its record up to date, and does what commands ask of it.

use std::os::fd::AsFd as _;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::companion::{Ended, Woken, during};
use super::control::{Answer, Caller, Listener, Request};
use super::error::{CommandError, Kind};
use super::sessions::{Record, Registration, Stage};
use super::{bar, mount};
use crate::cache::Cache;
use crate::fuse::Notifier;
use crate::index::FillState;
use crate::progress::Progress;
use crate::source::{Context, Source};

/// How often a record is brought up to date while the source is being read.
pub const RECORD_INTERVAL: Duration = Duration::from_secs(1);

/// How much longer than the work itself the pause is after what was shown before was taken out of the kernel's sight: whoever
/// works in it has it taken out again and again.
const LEISURE: u32 = 50;

/// The source that is shown. Only the steward changes it.
pub type Shown = Arc<RwLock<Source>>;

/// The server's other half.
pub struct Steward<'a> {
    shown: &'a Shown,
    /// How far the source that is shown has come.
    progress: Arc<Progress>,
    cache: Cache,
    notifier: Notifier,
    registration: &'a mut Registration,
    listener: Option<Listener>,
    /// Sources that were shown before, and of which somebody still has a file open.
    retired: Vec<Source>,
    /// Until when it has done enough about them.
    rest: Instant,
}

impl<'a> Steward<'a> {
    /// Enters into the record what is shown, and takes requests.
    pub fn new(
        shown: &'a Shown,
        progress: Arc<Progress>,
        cache: Cache,
        notifier: Notifier,
        registration: &'a mut Registration,
    ) -> Result<Steward<'a>, CommandError> {
        registration.update(|record| tell(record, &lock(shown), &progress))?;
        let listener = Listener::open(registration.socket_path())
            .inspect_err(|error| tracing::warn!("the mount cannot be refreshed: {error}"))
            .ok();
        Ok(Steward {
            shown,
            progress,
            cache,
            notifier,
            registration,
            listener,
            retired: Vec::new(),
            rest: Instant::now(),
        })
    }

    /// Does its work until the session has ended.
    pub fn serve(mut self, ended: &Ended) {
        loop {
            let busy = self.registration.record().stage == Stage::Filling || !self.retired.is_empty();
            let listener = self.listener.as_ref().map(Listener::as_fd);
            match ended.or_ready(listener, busy.then_some(RECORD_INTERVAL)) {
                Woken::Ended => return,
                Woken::Ready => self.receive(ended),
                Woken::Neither => self.retire(),
            }
            self.follow();
        }
    }

    /// Keeps the record up to date until all of the source is there.
    fn follow(&mut self) {
        if self.registration.record().stage != Stage::Filling {
            return;
        }
        self.record();
        if let Some(failure) = lock(self.shown).failure() {
            tracing::error!("{failure}; what had come stays readable");
        }
    }

    /// Lets go of what was shown before, as far as nobody uses it any more.
    fn retire(&mut self) {
        self.retired.retain(Source::is_in_use);
        if !self.retired.is_empty() && self.rest < Instant::now() {
            let begun = Instant::now();
            if let Err(error) = self.notifier.withdraw() {
                tracing::debug!("{error}");
            }
            self.rest = Instant::now() + begun.elapsed() * LEISURE;
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
        self.notifier.replace(mount::view_mounts(&new))?;
        let old = std::mem::replace(&mut *self.shown.write().unwrap_or_else(PoisonError::into_inner), new);
        self.retired.push(old);
        self.progress = progress;
        self.record();
        Ok(())
    }

    /// Writes down what is shown now.
    fn record(&mut self) {
        let source = lock(self.shown);
        record(self.registration, |record| tell(record, &source, &self.progress));
    }
}

fn lock(shown: &Shown) -> std::sync::RwLockReadGuard<'_, Source> {
    shown.read().unwrap_or_else(PoisonError::into_inner)
}

/// Changes the record of this server.
pub fn record(registration: &mut Registration, change: impl FnOnce(&mut Record)) {
    // The mount does not depend on what is told of it.
    if let Err(e) = registration.update(change) {
        tracing::debug!("{e}");
    }
}

/// Writes down how far a source is.
fn tell(record: &mut Record, source: &Source, progress: &Progress) {
    record.id.clone_from(&source.identity);
    record.failure = source.failure().map(str::to_owned);
    // One that is broken says why in a moment.
    let under_way = |state| matches!(state, FillState::Filling | FillState::Broken);
    let filling = source.mounts.iter().any(|mount| under_way(mount.filesystem.state()));
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
