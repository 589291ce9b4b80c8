use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::candidates;
use super::context::Context;
use super::mounts::survey;
use crate::cli::output::error::{CommandError, Kind};
use crate::cli::server::mountpoint::locate;
use crate::cli::server::sessions::{Record, Register};
use crate::erofs;
use crate::fuse::{MountStatus, SessionError, mount_status, unmount};

/// How long a server may take to end after its mount is gone.
const PATIENCE: Duration = Duration::from_secs(15);

const EXAMPLES: &str = "\
Examples:
  imagefs umount /mnt/py
  imagefs umount --lazy /mnt/py    while a shell still stands in it
  imagefs umount --all             everything that you have mounted

Plain umount and fusermount3 -u do as well; this command also waits until
nothing is left.";

/// Unmount, and end the server behind the mount
///
/// Returns when nothing is left: no process, no record, and no directory that was
/// made for the mount.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct UmountArgs {
    /// Where to unmount
    #[arg(value_name = "MOUNTPOINT", required_unless_present = "all", conflicts_with = "all", add = candidates::mountpoints())]
    mountpoints: Vec<PathBuf>,
    /// Unmount everything that you have mounted
    #[arg(short, long)]
    all: bool,
    /// Unmount though files are in use
    ///
    /// The mount is gone at once. Processes that have files open in it can no longer read them.
    #[arg(short, long)]
    lazy: bool,
}

impl UmountArgs {
    /// Does it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let register = context.register()?;
        let records: Vec<Record> = survey(&register)?.into_iter().map(|(record, _)| record).collect();
        let mountpoints: Vec<PathBuf> = if self.all {
            records.iter().map(|record| record.mountpoint.clone()).collect()
        } else {
            self.mountpoints.iter().map(|named| locate(named)).collect()
        };
        let mut failures = Vec::new();
        for mountpoint in &mountpoints {
            let of_it: Vec<&Record> = records.iter().filter(|r| r.mountpoint == *mountpoint).collect();
            failures.extend(self.unmount(&register, mountpoint, &of_it).err());
        }
        // One that fails does not keep the others mounted. The last one's status is the command's.
        match failures.pop() {
            None => Ok(ExitCode::SUCCESS),
            Some(last) => {
                failures.iter().for_each(|failure| context.printer.error(failure));
                Err(last)
            }
        }
    }

    fn unmount(
        &self,
        register: &Register,
        mountpoint: &Path,
        records: &[&Record],
    ) -> Result<(), CommandError> {
        let failed =
            |e| CommandError::new(Kind::Mount, format!("cannot unmount {mountpoint:?}")).caused_by(e);
        if let Some(record) = records.iter().find(|record| record.kernel.is_some()) {
            erofs::unmount(mountpoint, self.lazy)?;
            register.forget(record);
            return Ok(());
        }
        let gone = match mount_status(mountpoint) {
            // There is not even a directory for it.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Err(SessionError::NotMounted(mountpoint.to_owned()))
            }
            // Nothing is in use where nothing answers.
            Ok(MountStatus::Stale | MountStatus::Hung) => unmount(mountpoint, true),
            Ok(_) => unmount(mountpoint, self.lazy),
            Err(e) => return Err(failed(e)),
        };
        match gone {
            // A server that has no mount: it is still reading the source, or about to end.
            Err(SessionError::NotMounted(_) | SessionError::NotOurs { .. }) if !records.is_empty() => {}
            Err(error @ SessionError::NotMounted(_)) => {
                return Err(CommandError::from(error).hint("`imagefs mounts` lists what is mounted"));
            }
            result => result?,
        }
        for record in records {
            end_server(record)?;
            register.forget(record);
        }
        Ok(())
    }
}

/// Sees to it that a server whose mount is gone ends.
fn end_server(record: &Record) -> Result<(), CommandError> {
    let pid = record.owner.pid();
    let failed =
        |e| CommandError::new(Kind::Failed, format!("cannot end the server, process {pid}")).caused_by(e);
    let Some(server) = record.owner.handle().map_err(failed)? else { return Ok(()) };
    // One that is past its mount does not mind.
    server.terminate().map_err(failed)?;
    if server.wait(PATIENCE).map_err(failed)? {
        Ok(())
    } else {
        let message = format!("the server, process {pid}, is still there after {} s", PATIENCE.as_secs());
        Err(CommandError::new(Kind::Mount, message)
            .hint(format!("its log is {:?}; `kill -9 {pid}` if nothing else helps", record.log)))
    }
}
