//! The server behind a mount, in the background or in the foreground: from the check of the mountpoint to the
//! removal of its last trace.

use std::ffi::OsStr;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;

use super::background::Detached;
use super::layout::Shown;
use super::local::LocalEngine;
use super::mountpoint::Mountpoint;
use super::sessions::{Record, Register, Registration, Remains, Stage};
use super::supervisor::{self, Supervisor, is_coming, lock};
use crate::cache::Cache;
use crate::cleanup;
use crate::cli::output::bar;
use crate::cli::output::error::{CommandError, Kind};
use crate::cli::output::printer::Printer;
use crate::cli::output::time::now;
use crate::cli::process::scoped_task::{Ended, during};
use crate::cli::process::signals::{self, PATIENCE};
use crate::fuse::{self, End, Session, SessionConfig, Stopper, View};
use crate::owner::Owner;
use crate::progress::{Phase, Progress};

/// How long of [`PATIENCE`] is left to a server that has not ended by itself.
const LAST: Duration = Duration::from_secs(1);

/// What there is to mount, once it has been opened.
pub struct Prepared {
    /// How it is mounted.
    pub config: SessionConfig,
    /// What is shown.
    pub content: MountContent,
    /// What the command ends with, once the mount stands.
    pub exit_status: u8,
}

/// What a mount shows.
pub enum MountContent {
    /// One source, as `view` lays it out. It may still be on its way; `cache` is where a container that is refreshed goes.
    Source { view: Box<View>, source: Shown, cache: Cache },
    /// All that an engine has.
    Engine(Box<LocalEngine>),
}

/// What runs beside a session until it has ended.
type Companion<'a> = Box<dyn FnOnce(&Ended) + Send + 'a>;

/// What the server is told by the command that starts it.
pub struct Errand<'a> {
    /// What the user named.
    pub source: &'a OsStr,
    /// Where it goes.
    pub mountpoint: &'a Mountpoint,
    /// Where the mount is entered.
    pub register: Register,
    /// The log file that the user chose.
    pub log_file: Option<&'a Path>,
    /// What the user is told through.
    pub printer: &'a Printer,
    /// Tells the command that waits for a server in the background.
    pub detached: Option<Detached>,
}

/// Mounts what `prepare` gives, and serves it until it is unmounted or a signal comes. If it gives nothing, there is nothing to do.
pub fn serve(
    errand: Errand<'_>,
    prepare: impl FnOnce(&Arc<Progress>) -> Result<Option<Prepared>, CommandError>,
) -> Result<ExitCode, CommandError> {
    let Errand { mountpoint, printer, .. } = errand;
    let progress = Arc::new(Progress::new());
    let ending = Ending::new(Arc::clone(&progress));
    ending.watch_signals(errand.detached.is_some())?;
    if let Some(detached) = &errand.detached {
        let ending = ending.clone();
        detached.watch(move || ending.ask(SIGHUP));
    }

    // Dropped after the session: the record is the last trace of it.
    let mut registration = register(&errand)?;
    ending.lock().remains = Some(registration.remains());
    mountpoint.make_ready(printer)?;
    printer.begin_bar(&registration.record().source.to_string_lossy());
    let prepared = during(|ended| show(&progress, &mut registration, printer, ended), || prepare(&progress));
    printer.end_bar();
    ending.check()?;
    let Some(Prepared { config, content, exit_status }) = prepared? else {
        drop(registration);
        if let Some(detached) = errand.detached {
            detached.leave(0)?;
        }
        return Ok(ExitCode::SUCCESS);
    };

    let log = registration.record().log.clone();
    // Dropped last: what is still being read is given up then, and its container removed.
    let (source, engine);
    let (session, coming, companion): (Session, bool, Companion<'_>) = match content {
        MountContent::Source { view, source: shown, cache } => {
            source = shown;
            let session = fuse::mount(*view, &config)?;
            ending.arm(session.stopper());
            let notifier = session.notifier();
            let supervisor = Supervisor::new(&source, progress, cache, notifier, &mut registration)?;
            let coming = is_coming(&lock(&source));
            (session, coming, Box::new(|ended| supervisor.serve(ended)))
        }
        MountContent::Engine(opened) => {
            engine = opened;
            let session = fuse::mount_catalog(Arc::clone(&engine.catalog), &config)?;
            ending.arm(session.stopper());
            let notifier = session.notifier();
            engine.record(&mut registration);
            let (engine, registration) = (&engine, &mut registration);
            (session, false, Box::new(move |ended| engine.serve(&notifier, registration, ended)))
        }
    };
    announce(printer, &mountpoint.path, coming, errand.detached.is_none());
    // A mount answers from here on, so a signal ends it as it ends one that has stood for hours. Only the command that
    // waits for a server in the background is not told of a mount that goes at once.
    let mut told = Ok(());
    if let Some(detached) = errand.detached {
        told = ending.check();
        if told.is_ok() {
            detached.ready(&log, exit_status)?;
        }
    }
    let end = during(companion, || {
        let end = session.wait();
        ending.disarm();
        Ok(end?)
    })?;
    match end {
        End::Unmounted => tracing::info!("unmounted"),
        End::Stopped => tracing::info!("stopped"),
        End::StoppedInUse => tracing::warn!("stopped while files in the mount were in use"),
    }
    told.map(|()| ExitCode::from(exit_status))
}

/// Tells whoever waits that the mount is there: a service manager, and a person at a terminal.
fn announce(printer: &Printer, mountpoint: &Path, coming: bool, foreground: bool) {
    if foreground {
        // Without a service manager it does nothing; one that is gone is missed by nobody.
        let status = if coming { "mounted; the source is still being read" } else { "mounted" };
        let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status)]);
    }
    if io::stderr().is_terminal() {
        match (coming, foreground) {
            (true, true) => {
                printer.note(format!("{mountpoint:?} is ready, and still filling; Ctrl-C unmounts"))
            }
            (false, true) => printer.note(format!("{mountpoint:?} is ready; Ctrl-C unmounts")),
            (true, false) => {
                printer.note(format!("{mountpoint:?} is still filling: `imagefs mounts` says how far it is"));
            }
            (false, false) => {}
        }
    }
}

/// Adds this server to the register, in place of a dead one that had the same mountpoint.
pub fn register(errand: &Errand<'_>) -> Result<Registration, CommandError> {
    let Errand { source, mountpoint, register, log_file, .. } = errand;
    let owner = Owner::this_process()
        .map_err(|e| CommandError::new(Kind::Failed, "cannot tell when this process started").caused_by(e))?;
    let log = match log_file {
        Some(path) => std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()),
        None => register.log_path(&owner),
    };
    let made_before = register.take_over(&mountpoint.path)?;
    let registration = register.add(Record {
        source: source.to_os_string(),
        id: String::new(),
        mountpoint: mountpoint.path.clone(),
        made_directories: mountpoint.absent.max(made_before),
        owner: owner.clone(),
        since: now(),
        log,
        stage: Stage::Filling,
        bytes: 0,
        entries: 0,
        failure: None,
        kernel: None,
        archive: PathBuf::new(),
        open: Vec::new(),
    })?;
    // Two that start at once both see each other here; neither then hides the other's mount beneath its own.
    let others = register.records()?;
    let rival =
        others.iter().find(|r| r.mountpoint == mountpoint.path && r.owner != owner && r.owner.is_alive());
    match rival {
        None => Ok(registration),
        Some(rival) => {
            registration.abandon();
            let message = format!("{:?} is already being mounted at {:?}", rival.source, mountpoint.path);
            Err(CommandError::new(Kind::Mount, message)
                .hint(format!("`imagefs umount {:?}` ends that", mountpoint.path)))
        }
    }
}

/// Shows on the terminal and in the record how the source is being opened.
fn show(progress: &Progress, registration: &mut Registration, printer: &Printer, ended: &Ended) {
    let mut recorded = Instant::now();
    // The bar says so itself, where there is one.
    let mut to_tell = !printer.has_bar();
    while !ended.within(bar::INTERVAL) {
        printer.draw(progress);
        if progress.phase() == Phase::Waiting && std::mem::take(&mut to_tell) {
            printer.note(format!("{}: {}", registration.record().source.to_string_lossy(), bar::FOR_ANOTHER));
        }
        if recorded.elapsed() >= supervisor::RECORD_INTERVAL {
            recorded = Instant::now();
            supervisor::record(registration, |record| {
                (record.bytes, record.entries) = (progress.bytes(), progress.entries());
            });
        }
    }
}

/// The wish that the server end, from whatever side it comes. All clones share it.
#[derive(Clone)]
struct Ending {
    progress: Arc<Progress>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The signal that asked for the end.
    asked: Option<i32>,
    /// Ends the session, once there is one.
    stopper: Option<Stopper>,
    /// What is to be removed if the reading of the source does not end by itself.
    remains: Option<Remains>,
}

impl Ending {
    fn new(progress: Arc<Progress>) -> Ending {
        Ending { progress, state: Arc::default() }
    }

    /// From now on the [signals](signals::to_handle) ask for the end, however often they come, but for SIGHUP in the background.
    fn watch_signals(&self, background: bool) -> Result<(), CommandError> {
        let mut incoming = Signals::new(signals::to_handle())
            .map_err(|e: io::Error| CommandError::new(Kind::Failed, "cannot handle signals").caused_by(e))?;
        let ending = self.clone();
        thread::spawn(move || {
            for signal in incoming.forever() {
                // A server in the background has no terminal that could be gone.
                if signal != SIGHUP || !background {
                    ending.ask(signal);
                }
            }
        });
        Ok(())
    }

    /// Asks for the end on behalf of `signal`.
    fn ask(&self, signal: i32) {
        let mut state = self.lock();
        state.asked.get_or_insert(signal);
        match &state.stopper {
            Some(stopper) => stopper.stop(),
            None => {
                self.progress.cancel();
                drop(state);
                self.limit();
            }
        }
    }

    /// Says that the session is over, and limits what is still to be done.
    fn disarm(&self) {
        self.lock().stopper = None;
        self.limit();
    }

    /// Lets go of what the process holds and ends it, if it has not ended by itself when that is due, unless a session begins
    /// meanwhile.
    fn limit(&self) {
        let ending = self.clone();
        thread::spawn(move || {
            thread::sleep(PATIENCE - LAST);
            let mut state = ending.lock();
            if state.stopper.is_none() {
                if let Some(remains) = state.remains.take() {
                    remains.remove();
                }
                let status = state.asked.map_or(0, |signal| Kind::Interrupted(signal).exit_status());
                cleanup::exit(status, LAST);
            }
        });
    }

    /// Says how the session is ended, now that there is one.
    fn arm(&self, stopper: Stopper) {
        let mut state = self.lock();
        if state.asked.is_some() {
            stopper.stop();
        }
        state.stopper = Some(stopper);
    }

    /// Whether the server should go on.
    fn check(&self) -> Result<(), CommandError> {
        match self.lock().asked {
            None => Ok(()),
            Some(signal) => {
                Err(CommandError::new(Kind::Interrupted(signal), "interrupted before the mount was ready"))
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
