//! Connections that wait to be used again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::connection::{Connection, Origin};

/// How many wait for each origin.
const MAX_IDLE: usize = 8;

/// How long one waits: servers hang up after a minute or so.
const MAX_AGE: Duration = Duration::from_secs(45);

/// Connections on which nothing is under way.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<HashMap<Origin, Vec<(Connection, Instant)>>>);

impl Pool {
    /// The one that was used last. It may have been closed at the other end meanwhile.
    pub(super) fn take(&self, origin: &Origin) -> Option<Connection> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = idle.get_mut(origin)?;
        waiting.retain(|(_, since)| since.elapsed() < MAX_AGE);
        waiting.pop().map(|(connection, _)| connection)
    }

    pub(super) fn put(&self, origin: Origin, connection: Connection) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = idle.entry(origin).or_default();
        if waiting.len() == MAX_IDLE {
            waiting.remove(0);
        }
        waiting.push((connection, Instant::now()));
    }
}
