//! `.imagefs.json`, which says what is shown at the moment when it is opened.
//!
//! The kernel may never be asked when a file is opened, and keeps what it has read. So each state of the description is
//! a file of its own, with a number of its own, and the name leads to the latest: it is replaced as a whole, as by
//! rename(2), and whoever has it open goes on reading what he opened.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::index::{Certainty, Timestamp};

/// What `.imagefs.json` says.
#[derive(Clone)]
pub enum Description {
    /// Always the same.
    Fixed(Vec<u8>),
    /// What this returns whenever somebody looks.
    Live(Arc<dyn Fn() -> Vec<u8> + Send + Sync>),
}

impl Default for Description {
    fn default() -> Description {
        Description::Fixed(Vec::new())
    }
}

impl From<Vec<u8>> for Description {
    fn from(bytes: Vec<u8>) -> Description {
        Description::Fixed(bytes)
    }
}

impl fmt::Debug for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Description::Fixed(bytes) => write!(f, "Fixed({} bytes)", bytes.len()),
            Description::Live(_) => f.write_str("Live"),
        }
    }
}

/// One state of the description.
pub(super) struct Edition {
    pub bytes: Vec<u8>,
    /// Since when it is what the description says.
    pub mtime: Timestamp,
}

/// The latest edition, and those from before that the kernel still holds.
pub(super) struct Editions {
    description: Description,
    shelf: Mutex<Shelf>,
}

struct Shelf {
    latest: u64,
    /// Each with how often the kernel was given it, and has not let go of it.
    editions: BTreeMap<u64, (Arc<Edition>, u64)>,
}

impl Editions {
    pub fn new(description: Description, mtime: Timestamp) -> Editions {
        let bytes = match &description {
            Description::Fixed(bytes) => bytes.clone(),
            Description::Live(describe) => describe(),
        };
        let first = (Arc::new(Edition { bytes, mtime }), 0);
        Editions {
            description,
            shelf: Mutex::new(Shelf { latest: 0, editions: BTreeMap::from([(0, first)]) }),
        }
    }

    /// For how long the name leads to the latest edition.
    pub fn certainty(&self) -> Certainty {
        match self.description {
            Description::Fixed(_) => Certainty::Final,
            Description::Live(_) => Certainty::Provisional,
        }
    }

    /// The number of the edition that holds now, and the edition.
    pub fn latest(&self) -> (u64, Arc<Edition>) {
        self.look(0)
    }

    /// As [`Editions::latest`]; the kernel is about to be given it.
    pub fn hold_latest(&self) -> (u64, Arc<Edition>) {
        self.look(1)
    }

    fn look(&self, holds: u64) -> (u64, Arc<Edition>) {
        // Before the lock: what is described may have locks of its own.
        let now = match &self.description {
            Description::Fixed(_) => None,
            Description::Live(describe) => Some(describe()),
        };
        let mut shelf = self.shelf();
        let latest = shelf.latest;
        match (shelf.editions.get_mut(&latest), now) {
            (Some((edition, held)), now) if now.as_ref().is_none_or(|bytes| *bytes == edition.bytes) => {
                *held = held.saturating_add(holds);
                (latest, Arc::clone(edition))
            }
            (_, now) => {
                let edition = Arc::new(Edition { bytes: now.unwrap_or_default(), mtime: now_stamp() });
                shelf.latest = latest.saturating_add(1);
                let number = shelf.latest;
                shelf.editions.insert(number, (Arc::clone(&edition), holds));
                shelf.sweep();
                (number, edition)
            }
        }
    }

    /// An edition, as long as it is the latest or held.
    pub fn get(&self, number: u64) -> Option<Arc<Edition>> {
        self.shelf().editions.get(&number).map(|(edition, _)| Arc::clone(edition))
    }

    /// Notes that the kernel is about to be given this edition. Tells whether it is there.
    pub fn hold(&self, number: u64) -> bool {
        let mut shelf = self.shelf();
        let edition = shelf.editions.get_mut(&number);
        edition.map(|(_, held)| *held = held.saturating_add(1)).is_some()
    }

    /// Notes that the kernel has let go of it.
    pub fn let_go(&self, number: u64, times: u64) {
        let mut shelf = self.shelf();
        if let Some((_, held)) = shelf.editions.get_mut(&number) {
            *held = held.saturating_sub(times);
            shelf.sweep();
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn sweep(&mut self) {
        let latest = self.latest;
        self.editions.retain(|number, (_, held)| *number == latest || *held > 0);
    }
}

fn now_stamp() -> Timestamp {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp { secs: i64::try_from(now.as_secs()).unwrap_or(i64::MAX), nanos: now.subsec_nanos() }
}
