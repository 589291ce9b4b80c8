//! One live mount: from INIT to the last unmount.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use fuser::INodeNo;

use super::adapter::Adapter;
use super::attach;
use super::catalog::Catalog;
use super::error::SessionError;
use super::mount_status::{self, FILESYSTEM_TYPE, MountStatus};
use super::notifier::Notifier;
use super::operations::Operations;
use super::polling::Polling;
use super::readahead::Readahead;
use super::view::View;
use super::waiting::WaitingRoom;
use crate::mountinfo;

/// How long a detached session waits for the files that are open in it, before it leaves them behind.
const GRACE: Duration = Duration::from_secs(2);

/// How long the news of an unmount may be on its way.
const NEWS: Duration = Duration::from_millis(20);

/// What the kernel reads ahead, in KiB: eight times its default, and the most that fits into one request.
const READ_AHEAD_KB: &str = "1024";

/// How long a request waits, by default, while nothing comes of what it waits for.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How a session is mounted.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Where: an empty directory.
    pub mountpoint: PathBuf,
    /// What mount(8) and df(1) show as the source.
    pub fsname: OsString,
    /// Whether others than the mounting user may enter; the kernel then checks permissions.
    pub allow_other: bool,
    /// Whether set-user-id bits and file capabilities take effect. For root only.
    pub suid: bool,
    /// Whether devices can be opened. For root only.
    pub dev: bool,
    /// Whether programs can be run.
    pub exec: bool,
    /// How many threads answer; by default one for each CPU, from 2 to 8.
    pub threads: Option<usize>,
    /// How long a request for what has not come yet waits, from the last time that anything came, before it fails.
    pub timeout: Duration,
}

impl SessionConfig {
    /// The defaults of mount(8) and of this crate, at `mountpoint`.
    pub fn new(mountpoint: impl Into<PathBuf>) -> SessionConfig {
        SessionConfig {
            mountpoint: mountpoint.into(),
            fsname: "imagefs".into(),
            allow_other: false,
            suid: false,
            dev: false,
            exec: true,
            threads: None,
            timeout: TIMEOUT,
        }
    }

    /// Whether a session can be mounted at the mountpoint, as far as can be told beforehand.
    pub fn check(&self) -> Result<(), SessionError> {
        attach::check_mountpoint(&self.mountpoint).map(drop)
    }
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Somebody unmounted it.
    Unmounted,
    /// It was stopped, and nobody was using it.
    Stopped,
    /// It was stopped while files were open in it: they fail once the process ends.
    StoppedInUse,
}

/// What [`Session::wait`] waits for.
enum Event {
    Ended(io::Result<()>),
    Stop,
}

/// Ends a session from anywhere: another thread, or what a signal wakes.
#[derive(Clone, Debug)]
pub struct Stopper(Sender<Event>);

impl Stopper {
    /// Asks for the end. A session that has ended already does not mind.
    pub fn stop(&self) {
        let _ = self.0.send(Event::Stop);
    }
}

/// A live mount. Dropped without [`Session::wait`], it is detached.
pub struct Session {
    mountpoint: PathBuf,
    /// `st_dev` of what was mounted, if it could be told.
    device: Option<String>,
    events: Receiver<Event>,
    sender: Sender<Event>,
    /// Where requests wait, if the mounts were not ready from the start.
    waiting: Option<Arc<WaitingRoom>>,
    notifier: Notifier,
    over: bool,
}

/// Mounts `view`. The mount answers when this returns.
pub fn mount(view: View, config: &SessionConfig) -> Result<Session, SessionError> {
    let view = Arc::new(view);
    mount_operations(view.clone(), Some(view), config)
}

/// Mounts a catalog of many sources. The mount answers when this returns.
pub fn mount_catalog(catalog: Arc<Catalog>, config: &SessionConfig) -> Result<Session, SessionError> {
    mount_operations(catalog, None, config)
}

fn mount_operations(
    shown: Arc<dyn Operations>,
    view: Option<Arc<View>>,
    config: &SessionConfig,
) -> Result<Session, SessionError> {
    let mountpoint = attach::check_mountpoint(&config.mountpoint)?;
    let threads = config.threads.unwrap_or_else(default_threads).max(1);
    let readahead = Arc::new(Readahead::default());
    let device = attach::attach(&mountpoint, config)?;
    // Not before: its thread ends with the adapter.
    let waiting = match shown.is_final() {
        true => Ok(None),
        false => WaitingRoom::open(config.timeout).map(Some),
    };
    let waiting = waiting.map_err(|error| abandon(&mountpoint, error))?;
    // With a single CPU nobody can ask while the server polls.
    let polled = if cpus() > 1 { device.try_clone().ok() } else { None };
    let adapter = Adapter::new(shown, waiting.clone(), Arc::clone(&readahead), polled.map(Polling::new));
    let (sender, events) = mpsc::channel();

    let mut settings = fuser::Config::default();
    settings.n_threads = Some(threads);
    // Each thread answers on a descriptor of its own, so that they do not contend for one queue in the kernel.
    settings.clone_fd = true;
    // Who may enter is the kernel's business: it knows user, group and namespaces.
    let acl = fuser::SessionACL::All;
    let server = fuser::Session::from_fd(adapter, device, acl, settings)
        .map_err(|error| abandon(&mountpoint, error))?;
    let notifier = Notifier::new(view, server.notifier());
    let mut session = Session { mountpoint, device: None, events, sender, waiting, notifier, over: false };

    // What is stored may have to wait for a request that another thread answers.
    if threads > 1 {
        let notifier = server.notifier();
        readahead.connect(move |node, bytes| notifier.store(INodeNo(node.0), 0, bytes));
    }

    session.device = session.find().map(|mount| mount.device);
    let ended = session.sender.clone();
    thread::Builder::new()
        .name("imagefs-session".into())
        .spawn(move || {
            let result = server.run();
            let _ = ended.send(Event::Ended(result));
        })
        .map_err(SessionError::Start)?;
    session.raise_read_ahead();
    Ok(session)
}

/// Takes away a mount that does not come to answer.
fn abandon(mountpoint: &Path, error: io::Error) -> SessionError {
    if let Err(error) = attach::detach(mountpoint) {
        tracing::warn!("{error}");
    }
    SessionError::Start(error)
}

impl Session {
    /// The mountpoint, absolute and free of symlinks.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// What ends this session.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.sender.clone())
    }

    /// What replaces the mounts that this session shows.
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// Waits until the session is unmounted or stopped. Afterwards nothing is left of it at its mountpoint.
    ///
    /// # Errors
    /// When the session cannot be detached, or when the connection to the kernel broke.
    pub fn wait(mut self) -> Result<End, SessionError> {
        let event = self.events.recv();
        self.over = true;
        match event {
            Ok(Event::Stop) => self.stop(),
            Ok(Event::Ended(result)) => {
                self.remove_remains();
                result.map(|()| End::Unmounted).map_err(SessionError::Broken)
            }
            // Not before `self`, which holds a sender, is gone.
            Err(mpsc::RecvError) => Ok(End::Unmounted),
        }
    }

    fn stop(&mut self) -> Result<End, SessionError> {
        // An unmount that came first has freed the device number, and another session may have it by now.
        if let Ok(Event::Ended(_)) = self.events.recv_timeout(NEWS) {
            self.remove_remains();
            return Ok(End::Unmounted);
        }
        let detached = self.detach();
        self.dismiss();
        let end = if detached? { End::Stopped } else { End::Unmounted };
        loop {
            match self.events.recv_timeout(GRACE) {
                Ok(Event::Ended(_)) => return Ok(end),
                Ok(Event::Stop) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Ok(End::StoppedInUse);
                }
            }
        }
    }

    /// Detaches the mount, if it is still the one at the mountpoint, and says whether it was. Nobody may have seen
    /// the session end.
    fn detach(&self) -> Result<bool, SessionError> {
        match (self.find(), &self.device) {
            (Some(mount), Some(device)) if mount.device != *device => Ok(false),
            (None, Some(_)) => Ok(false),
            _ => match attach::detach(&self.mountpoint) {
                Err(SessionError::NotMounted(_)) => Ok(false),
                result => result.map(|()| true),
            },
        }
    }

    /// Answers everybody who waits: nothing that they wait for will be shown to them.
    fn dismiss(&self) {
        if let Some(room) = &self.waiting {
            room.close();
        }
    }

    /// Once the connection has ended, a mount that is still there was not unmounted but cut off (`abort` in
    /// fusectl): a dead mount, and nobody else's.
    fn remove_remains(&self) {
        if let Ok(MountStatus::Stale) = mount_status::mount_status(&self.mountpoint)
            && let Err(error) = self.detach()
        {
            tracing::warn!("{error}");
        }
    }

    /// The session at the mountpoint, be it this one or another.
    fn find(&self) -> Option<mountinfo::MountEntry> {
        let table = mountinfo::read_table().ok()?;
        let mount = mountinfo::topmost(&table, &self.mountpoint)?;
        (mount.filesystem_type == FILESYSTEM_TYPE).then(|| mount.clone())
    }

    /// Needs root; without it requests stay at 128 KiB.
    fn raise_read_ahead(&self) {
        if let Some(device) = &self.device {
            let setting = format!("/sys/class/bdi/{device}/read_ahead_kb");
            if let Err(error) = fs::write(&setting, READ_AHEAD_KB) {
                tracing::debug!("{setting}: {error}");
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.over || matches!(self.events.try_recv(), Ok(Event::Ended(_))) {
            return;
        }
        if let Err(error) = self.detach() {
            tracing::warn!("{error}");
        }
        self.dismiss();
    }
}

fn default_threads() -> usize {
    cpus().clamp(2, 8)
}

/// How many the process may use: those of its affinity, as far as its cgroup's quota goes.
fn cpus() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}
