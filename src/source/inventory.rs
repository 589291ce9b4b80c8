//! What an engine has, and what becomes of it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::SourceError;
use crate::docker::{
    ContainerSummary, Daemon, DockerError, Endpoint, EventKind, Events, HangUp, ImageSummary, VolumeSummary,
};

/// How long more news are waited for before a list is asked for again: they come in bursts.
const BURST: Duration = Duration::from_millis(50);

/// The pause before an engine that has gone is looked for again.
const PAUSE: Duration = Duration::from_millis(500);

/// How long a list that the engine refused is not asked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// How far clocks of one machine may be apart.
const SKEW: SignedDuration = SignedDuration::from_secs(2);

/// All that an engine has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Its images.
    pub images: Vec<ImageSummary>,
    /// Its containers.
    pub containers: Vec<ContainerSummary>,
    /// Its volumes.
    pub volumes: Vec<VolumeSummary>,
    /// Which lists the engine refuses to give, and why. Podman 4.3 does so with that of all images while it has one without
    /// any layer, and another that is there for other platforms alone.
    pub refused: Vec<(EventKind, String)>,
}

impl Inventory {
    /// Asks for it: three requests.
    fn of(daemon: &Daemon) -> Result<Inventory, DockerError> {
        let mut inventory = Inventory::default();
        for kind in [EventKind::Image, EventKind::Container, EventKind::Volume] {
            inventory.ask_again(daemon, kind)?;
        }
        Ok(inventory)
    }

    /// Asks for one of its lists again. One that the engine refuses stays as it was.
    fn ask_again(&mut self, daemon: &Daemon, kind: EventKind) -> Result<(), DockerError> {
        let told = match kind {
            EventKind::Image => daemon.images().map(|images| self.images = images),
            EventKind::Container => daemon.containers().map(|containers| self.containers = containers),
            EventKind::Volume => daemon.volumes().map(|volumes| self.volumes = volumes),
        };
        let before =
            self.refused.iter().position(|(of, _)| *of == kind).map(|at| self.refused.swap_remove(at));
        match told {
            Err(error @ DockerError::Refused { .. }) => {
                let why = error.to_string();
                if before.is_none_or(|(_, before)| before != why) {
                    tracing::warn!("{why}; its names stay as they were");
                }
                self.refused.push((kind, why));
                Ok(())
            }
            told => told,
        }
    }
}

/// An engine whose inventory is followed.
pub struct EngineWatch {
    endpoint: Endpoint,
    name: String,
    state: Mutex<WatchState>,
    moved: Condvar,
}

#[derive(Default)]
struct WatchState {
    stopped: bool,
    /// Which lists have changed.
    changed: Vec<EventKind>,
    /// Whether the news have ended.
    silent: bool,
    news: Option<HangUp>,
}

impl EngineWatch {
    /// Finds the engine that `host`, or else the environment names, and asks what it has.
    ///
    /// # Errors
    /// There is none, or it does not answer.
    pub fn connect(host: Option<&str>) -> Result<(EngineWatch, Inventory), SourceError> {
        let endpoint = Endpoint::from_environment(host)?;
        let daemon = Daemon::connect(&endpoint)?;
        let inventory = Inventory::of(&daemon)?;
        let name = format!("{} at {}", daemon.engine(), endpoint.address);
        let watch = EngineWatch { endpoint, name, state: Mutex::default(), moved: Condvar::new() };
        Ok((watch, inventory))
    }

    /// Who the engine is and where, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tells what the engine has, now and whenever that changes, until it is [stopped](EngineWatch::stop). While the engine
    /// is away, nothing changes.
    pub fn follow(&self, mut tell: impl FnMut(&Inventory)) {
        let mut away = false;
        while !self.state().stopped {
            if let Err(error) = self.follow_once(&mut tell, &mut away)
                && !std::mem::replace(&mut away, true)
            {
                tracing::warn!("{error}; what is in the cache goes on");
            }
            let state = self.state();
            let running = |state: &mut WatchState| !state.stopped;
            drop(self.moved.wait_timeout_while(state, PAUSE, running));
        }
    }

    /// Ends the following, from another thread.
    pub fn stop(&self) {
        let news = {
            let mut state = self.state();
            state.stopped = true;
            state.news.take()
        };
        self.moved.notify_all();
        if let Some(news) = news {
            news.hang_up();
        }
    }

    /// Follows the engine until its news end.
    fn follow_once(&self, tell: &mut impl FnMut(&Inventory), away: &mut bool) -> Result<(), DockerError> {
        let daemon = Daemon::connect(&self.endpoint)?;
        // From before the lists are asked for, so that nothing falls between.
        let mut events = daemon.events(Timestamp::now() - SKEW)?;
        {
            let mut state = self.state();
            if state.stopped {
                return Ok(());
            }
            (state.silent, state.news) = (false, Some(events.hang_up_handle()));
            state.changed.clear();
        }
        thread::scope(|scope| {
            let reader = scope.spawn(|| self.receive(&mut events));
            let told = self.list(&daemon, tell, away);
            let news = self.state().news.take();
            if let Some(news) = news {
                news.hang_up();
            }
            let heard = reader.join().unwrap_or(Ok(()));
            told.and(heard)
        })
    }

    /// Takes note of the news as they come.
    fn receive(&self, events: &mut Events) -> Result<(), DockerError> {
        let ended = loop {
            match events.receive() {
                Ok(Some(kind)) => {
                    let mut state = self.state();
                    if !state.changed.contains(&kind) {
                        state.changed.push(kind);
                    }
                }
                Ok(None) => break Ok(()),
                Err(DockerError::HungUp { .. }) => break Ok(()),
                // Nothing has happened for long.
                Err(DockerError::Stalled { .. }) => break Ok(()),
                Err(error) => break Err(error),
            }
            self.moved.notify_all();
        };
        self.state().silent = true;
        self.moved.notify_all();
        ended
    }

    /// Asks for the lists that have changed, until the news end.
    fn list(
        &self,
        daemon: &Daemon,
        tell: &mut impl FnMut(&Inventory),
        away: &mut bool,
    ) -> Result<(), DockerError> {
        let mut inventory = Inventory::of(daemon)?;
        if std::mem::replace(away, false) {
            tracing::info!("{} is back", self.name);
        }
        tell(&inventory);
        loop {
            let quiet = |state: &mut WatchState| state.changed.is_empty() && !state.silent && !state.stopped;
            let wait = if inventory.refused.is_empty() { Duration::from_secs(3600) } else { AGAIN };
            let waited = self.moved.wait_timeout_while(self.state(), wait, quiet);
            let state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.stopped || state.silent {
                return Ok(());
            }
            drop(state);
            thread::sleep(BURST);
            let mut changed = std::mem::take(&mut self.state().changed);
            changed.extend(inventory.refused.iter().map(|(kind, _)| *kind));
            for kind in changed {
                inventory.ask_again(daemon, kind)?;
            }
            tell(&inventory);
        }
    }

    fn state(&self) -> MutexGuard<'_, WatchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
