//! Where the log goes, and how much of it there is.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing_subscriber::EnvFilter;

use crate::cli::output::error::{CommandError, Kind};

/// What a server writes to its log in all its life, in bytes, unless the user chose the file.
const MAX_SERVER_LOG: u64 = 16 << 20;

/// Who writes the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// A command that somebody waits for.
    Command,
    /// A server, whose log is read long after.
    Server,
}

/// Begins the log. `verbosity` is −1 for errors alone, 0 for warnings too, then info, debug, trace.
///
/// `RUST_LOG` goes before `verbosity`. Without a `file` the log goes to standard error.
pub fn begin(verbosity: i8, writer: Writer, file: Option<&Path>) -> Result<(), CommandError> {
    let level = match verbosity {
        ..0 => "error",
        0 => "warn",
        1 => "info",
        2 => "debug",
        3.. => "trace",
    };
    let wanted = std::env::var("RUST_LOG").ok().filter(|wanted| !wanted.is_empty());
    let filter =
        EnvFilter::try_new(wanted.as_deref().unwrap_or(&format!("warn,imagefs={level}"))).map_err(|e| {
            CommandError::new(Kind::Usage, "RUST_LOG cannot be understood")
                .caused_by(e)
                .hint("write it as in RUST_LOG=imagefs=debug")
        })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    match (file, writer) {
        (Some(path), _) => log.with_writer(Mutex::new(open(path)?)).init(),
        (None, Writer::Server) => log.with_writer(|| Bounded(io::stderr())).init(),
        (None, Writer::Command) => log.without_time().with_target(false).with_writer(io::stderr).init(),
    }
    Ok(())
}

/// Opens a log file, new or to go on with, that nobody else can read.
pub fn open(path: &Path) -> Result<File, CommandError> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(|e| {
        CommandError::new(Kind::Failed, format!("cannot open the log file {path:?}")).caused_by(e)
    })
}

/// Drops what goes beyond [`MAX_SERVER_LOG`]: a damaged image can cause an error for every read, for years.
struct Bounded<W>(W);

static WRITTEN: AtomicU64 = AtomicU64::new(0);

impl<W: Write> Write for Bounded<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let before = WRITTEN.fetch_add(line.len() as u64, Ordering::Relaxed);
        if before < MAX_SERVER_LOG { self.0.write(line) } else { Ok(line.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
