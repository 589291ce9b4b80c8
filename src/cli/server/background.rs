//! Going to the background: a server that outlives the command that starts it.
//!
//! The command starts itself anew, in a session of its own, before any thread or runtime exists, with a pipe as the
//! server's standard output. The server tells over it that it is ready, and learns from it that nobody waits any more.
//! Until it is ready it speaks to the user on the standard error that it inherited.

use std::env;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, PipeWriter, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, chdir, pidfd_open, pidfd_send_signal, setsid};
use rustix::thread::set_name;
use signal_hook::iterator::Signals;

use crate::cli::output::error::{CommandError, Kind};
use crate::cli::process::logging;
use crate::cli::process::signals;

/// The hidden flag that makes a command the server.
pub const SERVER_FLAG: &str = "background-server";

/// What ps(1) and others call the server's process.
const NAME: &CStr = c"imagefs";

/// Starts this same command as a server, and waits until it is ready or has failed.
///
/// A signal that would end this process ends the server first, which cleans up.
pub fn launch() -> Result<ExitCode, CommandError> {
    let failed = |e: io::Error| CommandError::new(Kind::Failed, "cannot start the server").caused_by(e);
    // Before the server exists, so that no signal is lost.
    let mut incoming = Signals::new(signals::to_handle()).map_err(failed)?;
    let (mut readiness, told) = io::pipe().map_err(failed)?;
    let mut arguments = env::args_os();
    let mut server = Command::new("/proc/self/exe")
        .arg0(arguments.next().unwrap_or("imagefs".into()))
        .arg(format!("--{SERVER_FLAG}"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(told)
        .spawn()
        .map_err(failed)?;
    let handle =
        pidfd_open(Pid::from_child(&server), PidfdFlags::empty()).map_err(|e| failed(io::Error::from(e)))?;

    let caught = Arc::new(AtomicI32::new(0));
    let note = Arc::clone(&caught);
    thread::spawn(move || {
        for signal in incoming.forever() {
            note.store(signal, SeqCst);
            // If the server has ended meanwhile there is nothing left to end.
            let _ = pidfd_send_signal(&handle, Signal::TERM);
        }
    });

    let mut status = [0];
    let ready = readiness.read_exact(&mut status).is_ok();
    if ready && caught.load(SeqCst) == 0 {
        return Ok(ExitCode::from(status[0]));
    }
    let status = server.wait().map_err(failed)?;
    match (caught.load(SeqCst), status.code(), status.signal()) {
        (0, Some(0), _) => {
            Err(CommandError::new(Kind::Failed, "the server ended before the mount was there"))
        }
        // It has said why.
        (0, Some(code), _) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))),
        (0, None, signal) => {
            let signal = signal.unwrap_or_default();
            Err(CommandError::new(Kind::Failed, format!("the server was killed by signal {signal}")))
        }
        (signal, ..) => Ok(ExitCode::from(Kind::Interrupted(signal).exit_status())),
    }
}

/// The server's end, until it is ready.
#[derive(Debug)]
pub struct Detached {
    readiness: Arc<PipeWriter>,
    ready: Arc<AtomicBool>,
}

impl Detached {
    /// Makes this process a server: the first thing that it does.
    pub fn begin() -> Result<Detached, CommandError> {
        let failed = |e: rustix::io::Errno| {
            CommandError::new(Kind::Failed, "cannot go to the background").caused_by(io::Error::from(e))
        };
        // It fails where the process leads a session already, which is all that is wanted.
        let _ = setsid();
        // The kernel named it after /proc/self/exe, and ps, pgrep and top would show that.
        set_name(NAME).map_err(failed)?;
        let readiness: OwnedFd = rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3).map_err(failed)?;
        rustix::stdio::dup2_stdout(null().map_err(failed)?).map_err(failed)?;
        Ok(Detached { readiness: Arc::new(readiness.into()), ready: Arc::new(AtomicBool::new(false)) })
    }

    /// Calls `abandoned` if the command that waits for this server ends before the server is ready.
    pub fn watch(&self, abandoned: impl FnOnce() + Send + 'static) {
        let (readiness, ready) = (Arc::clone(&self.readiness), Arc::clone(&self.ready));
        thread::spawn(move || {
            // Without any event asked for, poll tells that the other end is closed.
            let mut fds = [PollFd::new(&*readiness, PollFlags::empty())];
            while poll(&mut fds, None) == Err(rustix::io::Errno::INTR) {}
            if !ready.load(SeqCst) {
                abandoned();
            }
        });
    }

    /// Lets go of the user's terminal and directory, and tells that the server is ready.
    ///
    /// From here on, standard error is the file `log`. The command that waits ends with `status`.
    pub fn ready(self, log: &Path, status: u8) -> Result<(), CommandError> {
        let log: File = logging::open(log)?;
        chdir("/").map_err(|e| failed(e.into()))?;
        io::stderr().flush().map_err(failed)?;
        rustix::stdio::dup2_stderr(log).map_err(|e| failed(e.into()))?;
        self.leave(status)
    }

    /// Tells the command that waits to wait no more, and to end with `status`.
    pub fn leave(self, status: u8) -> Result<(), CommandError> {
        self.ready.store(true, SeqCst);
        (&*self.readiness).write_all(&[status]).map_err(failed)
    }
}

fn failed(error: io::Error) -> CommandError {
    CommandError::new(Kind::Failed, "cannot tell that the mount is ready").caused_by(error)
}

fn null() -> rustix::io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}
