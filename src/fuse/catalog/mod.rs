//! Many sources in one session: directories of names, and behind each name a source that is opened when somebody enters it.
//!
//! A [`Catalog`] is told the names, as often as they change, and how a source is opened. It gives the kernel directories for
//! the names, and passes everything within a source to the [`View`](super::View) of that source. What a source holds, and how
//! it comes, it does not know.
//!
//! | file | what it holds |
//! |---|---|
//! | `number` | how the nodes of many views are numbered in one session |
//! | `slots` | which directories and sources the kernel knows of |
//! | `sources` | which sources are open: opening them, and closing those that nobody uses |
//! | `answers` | the operations |
//!
//! Names may be others at any moment, so the kernel keeps none of them: it asks each time. A source that a name no longer
//! leads to stays, under its number, for whoever is inside. Must not import `fuser`.

mod answers;
mod number;
mod slots;
mod sources;
#[cfg(test)]
mod tests;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock};

use super::names::Directory;
use super::node::Node;
use crate::index::Timestamp;
use slots::Slots;
use sources::Sources;

pub use sources::{OpenedSource, Provider};

/// How a catalog looks.
#[derive(Clone, Debug, Default)]
pub struct CatalogOptions {
    /// The owner of every directory of names.
    pub uid: u32,
    /// The group of every directory of names.
    pub gid: u32,
    /// The modification time of every directory of names.
    pub mtime: Timestamp,
}

/// Directories of names, each with the view of a source behind it.
pub struct Catalog {
    names: RwLock<Arc<Directory>>,
    slots: RwLock<Slots>,
    sources: Arc<Sources>,
    /// Counts the changes of the names, so that a refreshed source is another one.
    refreshed: AtomicU64,
    options: CatalogOptions,
}

/// A name that the kernel may drop, with all it knows beneath, as far as nobody uses it.
#[derive(Debug, PartialEq, Eq)]
pub struct IdleName {
    /// The directory that the name is in.
    pub dir: Node,
    /// The name.
    pub name: Vec<u8>,
}

/// What a catalog holds at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CatalogUse {
    /// Sources that are open.
    pub open: usize,
    /// Those of them that are being read.
    pub filling: usize,
}

impl Catalog {
    /// Shows `names`; `provider` opens what they lead to.
    ///
    /// # Errors
    /// The threads that open sources cannot be started.
    pub fn new(
        names: Directory,
        provider: Arc<dyn Provider>,
        options: CatalogOptions,
    ) -> std::io::Result<Catalog> {
        Ok(Catalog {
            names: RwLock::new(Arc::new(names)),
            slots: RwLock::default(),
            sources: Sources::start(provider)?,
            refreshed: AtomicU64::new(0),
            options,
        })
    }

    /// Shows other names from now on. Whoever is inside a source that has lost its name stays there.
    pub fn show(&self, names: Directory) {
        let names = Arc::new(names);
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&names);
        self.retire();
    }

    /// Has what can change opened anew by whoever enters it next. Who is inside stays with what he has.
    pub fn refresh(&self) {
        self.refreshed.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        self.retire();
    }

    /// What is open.
    pub fn usage(&self) -> CatalogUse {
        self.sources.usage()
    }

    /// The names by which what is open is known to the kernel.
    pub fn open_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .slots
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter(|(_, slot)| slot.held > 0)
            .filter(|(_, slot)| match &slot.role {
                slots::Role::Source(source) => self.sources.opened(&source.key).is_some(),
                slots::Role::Directory => false,
            })
            .map(|(_, slot)| String::from_utf8_lossy(&slot.path).into_owned())
            .collect();
        names.sort();
        names
    }

    /// Why sources could not be opened or read, the latest of each.
    pub fn failures(&self) -> Vec<String> {
        self.sources.failures()
    }

    fn names(&self) -> Arc<Directory> {
        Arc::clone(&self.names.read().unwrap_or_else(PoisonError::into_inner))
    }
}
