//! Which sources are open: opening them in threads of their own, and closing those that nobody uses.
//!
//! A source is opened once, by whichever of its names it is entered first, and shared by all of them.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::slots::SourceKey;
use crate::fuse::view::{View, ViewError};
use crate::index::TreeError;

/// Sources that are opened at one time.
const OPENERS: usize = 4;

/// Sources that wait for being opened. Who asks for one more waits himself.
const MAX_WAITING: usize = 4096;

/// How long a source that could not be opened is not tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Opens sources.
pub trait Provider: Send + Sync + 'static {
    /// Opens the source of this key. It need not be complete, but what takes long belongs into a thread of its own.
    ///
    /// # Errors
    /// Why it cannot be opened, for the log.
    fn open(&self, key: &str) -> Result<OpenedSource, String>;
}

/// An open source.
pub struct OpenedSource {
    /// What is shown of it.
    pub view: View,
    /// What has to live as long as that. Dropped when nobody needs the source any more, which may take a moment.
    pub keep: Box<dyn Any + Send + Sync>,
}

/// A source that is open, and when it was last used.
pub(super) struct Opened {
    pub source: OpenedSource,
    begun: Instant,
    used: AtomicU64,
}

impl Opened {
    /// Notes that somebody uses it.
    pub fn touch(&self) {
        self.used.store(self.begun.elapsed().as_secs(), Ordering::Relaxed);
    }

    /// How long nobody has used it.
    pub fn idle(&self) -> Duration {
        let used = Duration::from_secs(self.used.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(used)
    }
}

enum SourceState {
    Opening,
    Open(Arc<Opened>),
    Failed(Instant, String),
}

/// The sources of a catalog.
pub(super) struct Sources {
    states: RwLock<HashMap<SourceKey, SourceState>>,
    jobs: Mutex<Option<SyncSender<SourceKey>>>,
    /// Changes whenever a source was opened, or could not be.
    generation: AtomicU64,
}

impl Sources {
    pub fn start(provider: Arc<dyn Provider>) -> std::io::Result<Arc<Sources>> {
        let (sender, jobs) = sync_channel(MAX_WAITING);
        let sources = Arc::new(Sources {
            states: RwLock::default(),
            jobs: Mutex::new(Some(sender)),
            generation: AtomicU64::new(0),
        });
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..OPENERS {
            let (jobs, provider) = (Arc::clone(&jobs), Arc::clone(&provider));
            let sources = Arc::downgrade(&sources);
            thread::Builder::new()
                .name("imagefs-open".into())
                .spawn(move || serve(&jobs, &*provider, &sources))?;
        }
        Ok(sources)
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The source, if it is open.
    pub fn opened(&self, key: &SourceKey) -> Option<Arc<Opened>> {
        match self.read().get(key) {
            Some(SourceState::Open(opened)) => Some(Arc::clone(opened)),
            _ => None,
        }
    }

    /// Whether the source is being opened.
    pub fn is_opening(&self, key: &SourceKey) -> bool {
        matches!(self.read().get(key), Some(SourceState::Opening))
    }

    /// The source, which is opened if it is not.
    ///
    /// # Errors
    /// [`TreeError::NotYet`] until it is open; [`ViewError::Unavailable`] if it could not be opened.
    pub fn open(&self, key: &SourceKey) -> Result<Arc<Opened>, ViewError> {
        if let Some(opened) = self.opened(key) {
            opened.touch();
            return Ok(opened);
        }
        {
            let mut states = self.states.write().unwrap_or_else(PoisonError::into_inner);
            match states.get(key) {
                Some(SourceState::Open(opened)) => return Ok(Arc::clone(opened)),
                Some(SourceState::Opening) => return Err(TreeError::NotYet.into()),
                Some(SourceState::Failed(when, why)) if when.elapsed() < RETRY => {
                    return Err(ViewError::Unavailable(why.clone()));
                }
                Some(SourceState::Failed(..)) | None => {}
            }
            states.insert(key.clone(), SourceState::Opening);
        }
        let jobs = self.jobs().clone();
        match jobs.is_some_and(|jobs| jobs.try_send(key.clone()).is_ok()) {
            true => Err(TreeError::NotYet.into()),
            false => {
                self.settle(key, Err("too many sources are being opened".to_owned()));
                Err(ViewError::Unavailable("too many sources are being opened".to_owned()))
            }
        }
    }

    fn settle(&self, key: &SourceKey, outcome: Result<OpenedSource, String>) {
        let state = match outcome {
            Ok(source) => {
                let opened = Opened { source, begun: Instant::now(), used: AtomicU64::new(0) };
                SourceState::Open(Arc::new(opened))
            }
            Err(why) => {
                tracing::error!("{}: {why}", key.key);
                SourceState::Failed(Instant::now(), why)
            }
        };
        self.states.write().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), state);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Closes what `unused` says it of. May take a moment.
    pub fn close_where(&self, unused: impl Fn(&SourceKey, &Opened) -> bool) {
        let mut closed = Vec::new();
        {
            let mut states = self.states.write().unwrap_or_else(PoisonError::into_inner);
            states.retain(|key, state| match state {
                SourceState::Open(opened) if unused(key, opened) => {
                    closed.push(Arc::clone(opened));
                    false
                }
                SourceState::Failed(when, _) => when.elapsed() < RETRY,
                SourceState::Open(_) | SourceState::Opening => true,
            });
        }
        // Not under the lock: a source may have to end what it is doing.
        drop(closed);
    }

    /// All that are open.
    pub fn all(&self) -> Vec<(SourceKey, Arc<Opened>)> {
        let open = |(key, state): (&SourceKey, &SourceState)| match state {
            SourceState::Open(opened) => Some((key.clone(), Arc::clone(opened))),
            _ => None,
        };
        self.read().iter().filter_map(open).collect()
    }

    pub fn usage(&self) -> super::CatalogUse {
        let open = self.all();
        let filling = open.iter().filter(|(_, opened)| opened.source.view.is_filling()).count();
        super::CatalogUse { open: open.len(), filling }
    }

    pub fn failures(&self) -> Vec<String> {
        let failed = |(key, state): (&SourceKey, &SourceState)| match state {
            SourceState::Failed(_, why) => Some(format!("{}: {why}", key.key)),
            _ => None,
        };
        self.read().iter().filter_map(failed).collect()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<SourceKey, SourceState>> {
        self.states.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn jobs(&self) -> MutexGuard<'_, Option<SyncSender<SourceKey>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens one source after another, until the catalog is gone.
fn serve(jobs: &Mutex<Receiver<SourceKey>>, provider: &dyn Provider, sources: &Weak<Sources>) {
    loop {
        // Held while it waits: the others wait for their turn in the same way.
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(key) = job else { return };
        let outcome = provider.open(&key.key);
        match sources.upgrade() {
            Some(sources) => sources.settle(&key, outcome),
            None => return,
        }
    }
}
