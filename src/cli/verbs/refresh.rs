use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::candidates;
use super::context::Context;
use crate::cli::output::error::{CommandError, Kind};
use crate::cli::server::control::{self, Request};
use crate::cli::server::mountpoint::locate;
use crate::cli::server::sessions::Record;
use crate::fuse::{MountStatus, SessionError, mount_status};
use crate::progress::{Phase, Progress};

const EXAMPLES: &str = "\
Examples:
  imagefs mount container:web /mnt/web
  diff -r /mnt/web/rootfs/etc etc.before; imagefs refresh /mnt/web

Files that are open go on being what they were. So does a directory that a
process works in, or that is mounted elsewhere: enter it anew.";

/// Show a container as it is now
///
/// Takes a new snapshot of the root filesystem of a container that is mounted, and shows it once it is complete. Volumes and
/// other mounts are read anew when they are next looked into. If it fails, the mount stays as it was.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct RefreshArgs {
    /// Where the container is mounted
    #[arg(add = candidates::mountpoints())]
    mountpoint: PathBuf,
}

impl RefreshArgs {
    /// Does it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let register = context.register()?;
        let mountpoint = locate(&self.mountpoint);
        let records = register.records()?;
        let record = records.iter().find(|r| r.mountpoint == mountpoint && r.owner.is_alive());
        let record = record.ok_or_else(|| no_server(&mountpoint))?;

        context.printer.begin_bar(&record.source.to_string_lossy());
        let progress = Progress::new();
        progress.enter(Phase::Reading);
        let answer =
            control::ask(&register.socket_path(&record.owner), Request::Refresh, |bytes, entries| {
                progress.restart();
                progress.add_bytes(bytes);
                progress.add_entries(entries);
                context.printer.draw(&progress);
            });
        context.printer.end_bar();
        answer.map_err(|error| no_answer(record, error))??;
        Ok(ExitCode::SUCCESS)
    }
}

/// Why there is nobody to ask.
fn no_server(mountpoint: &Path) -> CommandError {
    let path = mountpoint.to_owned();
    match mount_status(mountpoint) {
        Ok(MountStatus::Other { filesystem_type }) => SessionError::NotOurs { path, filesystem_type }.into(),
        Ok(MountStatus::Stale) => SessionError::Stale(path).into(),
        Ok(MountStatus::Live | MountStatus::Hung) => {
            CommandError::new(Kind::Mount, format!("what is mounted at {path:?} is not a mount of yours"))
                .hint("its user can refresh it")
        }
        Ok(MountStatus::Nothing) | Err(_) => {
            CommandError::from(SessionError::NotMounted(path)).hint("`imagefs mounts` lists what is mounted")
        }
    }
}

fn no_answer(record: &Record, error: io::Error) -> CommandError {
    let message = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => "does not take requests",
        _ => "ended before it was done",
    };
    let pid = record.owner.pid();
    CommandError::new(Kind::Mount, format!("the server of {:?}, process {pid}, {message}", record.mountpoint))
        .hint(format!("its log is {:?}", record.log))
        .caused_by(error)
}
