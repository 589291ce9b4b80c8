//! What the kernel is told unasked: that names lead nowhere any more.
//!
//! To take note, the kernel locks the directory that the names are in, and waits while somebody looks up a name there. That
//! may be a request which waits for what has not come. So it is told by threads of their own, for which nobody waits, or
//! not for long.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use fuser::INodeNo;

use super::catalog::IdleName;
use super::error::SessionError;
use super::view::{Outdated, View, ViewMount};

/// How long it may take until the kernel has taken note that mounts were replaced. At the mountpoint nobody looks up what has
/// to be waited for, so it takes a moment.
const PATIENCE: Duration = Duration::from_secs(20);

/// How much longer than the work itself the pause is after what was shown before was taken out of the kernel's sight: whoever
/// works in it has it taken out again and again.
const LEISURE: u32 = 50;
const MAX_LEISURE: Duration = Duration::from_secs(60);

/// Replaces what a session shows, from any thread, and tells the kernel.
#[derive(Clone)]
pub struct Notifier {
    /// None where the session shows a catalog.
    view: Option<Arc<View>>,
    kernel: fuser::Notifier,
    /// Whether a thread is withdrawing names, or rests from it.
    withdrawing: Arc<AtomicBool>,
}

impl Notifier {
    pub(super) fn new(view: Option<Arc<View>>, kernel: fuser::Notifier) -> Notifier {
        Notifier { view, kernel, withdrawing: Arc::default() }
    }

    /// Shows other mounts from now on, as [`View::replace`] has it. When this returns, no name leads to the old ones any
    /// more.
    ///
    /// Not to be called by whoever answers the session's requests: the kernel may wait for an answer before it takes note.
    ///
    /// # Errors
    /// [`SessionError::Replace`]. If it was the kernel that failed, it may still have old names.
    pub fn replace(&self, mounts: Vec<ViewMount>) -> Result<(), SessionError> {
        let Some(view) = &self.view else {
            return Err(SessionError::Replace(io::ErrorKind::Unsupported.into()));
        };
        let outdated = view.replace(mounts).map_err(|e| SessionError::Replace(io::Error::other(e)))?;
        let notifier = self.clone();
        let (done, told) = sync_channel(1);
        thread::Builder::new()
            .name("imagefs-notify".into())
            .spawn(move || {
                // The listing, too, also if there was no name in it.
                let listing = || notifier.kernel.inval_inode(INodeNo(outdated.dir.0), 0, 0);
                // Nobody may be listening any more.
                let _ = done.send(notifier.tell(&outdated).and_then(|()| listing()));
            })
            .map_err(SessionError::Replace)?;
        let told = match told.recv_timeout(PATIENCE) {
            Ok(told) => told,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel does not take note"))
            }
        };
        told.map_err(SessionError::Replace)
    }

    /// Sees to it that what was replaced, and is still in use, goes when that ends. To be called now and then; it leaves the
    /// work to another thread, which does it as often as it may cost the kernel a microsecond for each name.
    pub fn withdraw(&self) {
        let Some(view) = self.view.clone() else { return };
        if self.withdrawing.swap(true, Ordering::AcqRel) {
            return;
        }
        let notifier = self.clone();
        let spawned = thread::Builder::new().name("imagefs-notify".into()).spawn(move || {
            let begun = Instant::now();
            let mut told = Ok(());
            view.withdraw(&mut |outdated| {
                if told.is_ok() {
                    told = notifier.tell(&outdated);
                }
            });
            if let Err(error) = told {
                tracing::debug!("names of what was replaced: {error}");
            }
            thread::sleep((begun.elapsed() * LEISURE).min(MAX_LEISURE));
            notifier.withdrawing.store(false, Ordering::Release);
        });
        if spawned.is_err() {
            self.withdrawing.store(false, Ordering::Release);
        }
    }

    /// Has the kernel drop names of a catalog, with all that it knows beneath, as far as nobody uses it; by a thread of its own,
    /// unless the one from before is still at it.
    pub fn drop_names(&self, names: Vec<IdleName>) {
        if names.is_empty() || self.withdrawing.swap(true, Ordering::AcqRel) {
            return;
        }
        let notifier = self.clone();
        let spawned = thread::Builder::new().name("imagefs-notify".into()).spawn(move || {
            for IdleName { dir, name } in names {
                if let Err(error) = notifier.kernel.inval_entry(INodeNo(dir.0), OsStr::from_bytes(&name)) {
                    tracing::debug!("the name of an idle source: {error}");
                }
            }
            notifier.withdrawing.store(false, Ordering::Release);
        });
        if spawned.is_err() {
            self.withdrawing.store(false, Ordering::Release);
        }
    }

    fn tell(&self, outdated: &Outdated) -> io::Result<()> {
        let dir = INodeNo(outdated.dir.0);
        outdated.names.iter().try_for_each(|name| self.kernel.inval_entry(dir, name))
    }
}
