use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::context::Context;
use crate::cache::{Content, tar_identity};
use crate::cli::output::error::CommandError;
use crate::cli::output::escape::name;
use crate::cli::output::size;
use crate::cli::output::text;
use crate::cli::server::local::LOCAL;
use crate::cli::server::sessions::{Record, Register, Stage};
use crate::fuse::{MountStatus, mount_status};
use crate::index::FileIdentity;

const STATES: &str = "\
States:
  filling  the source is being read
  ready    all of it is there
  broken   the reading failed: what had come is there, the rest gives
           input/output errors; or a tar was written to, and its files
           cannot be read any more
  ending   it is being unmounted
  hung     its server does not answer
  stale    its server is gone; `imagefs umount` cleans up, and so does
           mounting there again";

/// List what is mounted
///
/// Shows every mount that you made and that is still there: where it is, what it shows, the process that serves it, since
/// when, and its state.
#[derive(Debug, Args)]
#[command(after_long_help = STATES)]
pub struct MountsArgs {
    /// Print a JSON array, with sizes, log files and full ids
    #[arg(long)]
    json: bool,
}

/// How a mount does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The source is being read.
    Filling,
    /// All of it is there.
    Ready,
    /// Some of it will never come.
    Broken,
    /// It is being unmounted.
    Ending,
    /// Its server does not answer.
    Hung,
    /// Its server is gone.
    Stale,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Filling => "filling",
            State::Ready => "ready",
            State::Broken => "broken",
            State::Ending => "ending",
            State::Hung => "hung",
            State::Stale => "stale",
        }
    }
}

/// How a mount does: what its record says, by what the kernel says. `None` if nothing of it is left but the record.
pub fn state(stage: Stage, server_alive: bool, mount_status: &MountStatus) -> Option<State> {
    match (server_alive, mount_status) {
        (true, MountStatus::Hung) => Some(State::Hung),
        (true, MountStatus::Live) => Some(match stage {
            Stage::Filling => State::Filling,
            Stage::Ready => State::Ready,
            Stage::Broken => State::Broken,
        }),
        (true, MountStatus::Nothing | MountStatus::Stale | MountStatus::Other { .. }) => Some(match stage {
            Stage::Filling => State::Filling,
            Stage::Ready | Stage::Broken => State::Ending,
        }),
        (false, MountStatus::Stale) => Some(State::Stale),
        // Whatever else stands there is not this mount.
        (false, _) => None,
    }
}

/// All mounts of the register with their states. What a server left that is gone without its mount is removed.
pub fn survey(register: &Register) -> Result<Vec<(Record, State)>, CommandError> {
    let mut found = Vec::new();
    for mut record in register.records()? {
        if let Some(kernel) = &record.kernel {
            match kernel.stands_at(&record.mountpoint) {
                true => found.push((record, State::Ready)),
                // It is about to be attached.
                false if record.owner.is_alive() => found.push((record, State::Filling)),
                false => register.forget(&record),
            }
            continue;
        }
        let mount_status = mount_status(&record.mountpoint).unwrap_or(MountStatus::Nothing);
        match state(record.stage, record.owner.is_alive(), &mount_status) {
            Some(State::Ready) if is_outdated(&record) => {
                record.failure = Some(format!("{} was changed while it was mounted", name(&record.archive)));
                found.push((record, State::Broken));
            }
            Some(state) => found.push((record, state)),
            None => register.forget(&record),
        }
    }
    Ok(found)
}

/// Whether the tar that a mount reads is no longer what was indexed: nobody tells its server before a file is read.
fn is_outdated(record: &Record) -> bool {
    if record.archive.as_os_str().is_empty() {
        return false;
    }
    let identity = File::open(&record.archive).and_then(|file| FileIdentity::of(&file));
    identity.map_or(true, |now| tar_identity(&now) != record.id)
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(with = "text")]
    source: &'a OsString,
    id: &'a str,
    #[serde(with = "text")]
    mountpoint: &'a PathBuf,
    /// None where the kernel serves it.
    pid: Option<i32>,
    since: &'a str,
    state: State,
    bytes: u64,
    entries: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    open: &'a [String],
    #[serde(with = "text")]
    log: &'a PathBuf,
}

impl MountsArgs {
    /// Does it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let found = survey(&context.register()?)?;
        if self.json {
            let rows: Vec<Row> = found.iter().map(|(record, state)| row(record, *state)).collect();
            context.printer.json(&rows)?;
        } else {
            let rows: Vec<_> = found.iter().map(|(record, state)| cells(record, *state)).collect();
            context.printer.table(["MOUNTPOINT", "SOURCE", "ID", "PID", "SINCE", "STATE"], &rows)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The process that serves a mount, if one does.
fn pid(record: &Record) -> Option<i32> {
    record.kernel.is_none().then(|| record.owner.pid())
}

fn row(record: &Record, state: State) -> Row<'_> {
    Row {
        source: &record.source,
        id: &record.id,
        mountpoint: &record.mountpoint,
        pid: pid(record),
        since: &record.since,
        state,
        bytes: record.bytes,
        entries: record.entries,
        failure: record.failure.as_deref(),
        open: &record.open,
        log: &record.log,
    }
}

fn cells(record: &Record, state: State) -> [String; 6] {
    let state = match state {
        State::Filling => {
            format!("filling: {}, {} entries", size::show(record.bytes), record.entries)
        }
        state => match &record.failure {
            Some(why) => format!("{}: {why}", state.name()),
            None => state.name().to_owned(),
        },
    };
    [
        name(&record.mountpoint),
        name(&record.source),
        match record.source == LOCAL {
            true => format!("{} open", record.open.len()),
            false => short_id(&record.id),
        },
        pid(record).map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
        record.since.clone(),
        state,
    ]
}

/// The first 12 digits of an image's or a container's id, as docker shows it; of a tar, those of its key, as `cache ls`
/// does.
fn short_id(id: &str) -> String {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    let is_digest = digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    match is_digest || id.is_empty() {
        true => digits.chars().take(12).collect(),
        false => Content::of_tar(id.to_owned()).key().short(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_has_the_last_word_on_a_record() {
        let other = MountStatus::Other { filesystem_type: "ext4".into() };
        for (stage, alive, mount_status, expected) in [
            (Stage::Ready, true, MountStatus::Live, Some(State::Ready)),
            (Stage::Filling, true, MountStatus::Live, Some(State::Filling)),
            (Stage::Filling, true, MountStatus::Nothing, Some(State::Filling)),
            (Stage::Ready, true, MountStatus::Nothing, Some(State::Ending)),
            (Stage::Ready, true, MountStatus::Hung, Some(State::Hung)),
            (Stage::Ready, false, MountStatus::Stale, Some(State::Stale)),
            (Stage::Ready, false, MountStatus::Nothing, None),
            (Stage::Ready, false, MountStatus::Live, None),
            (Stage::Filling, false, other, None),
        ] {
            assert_eq!(state(stage, alive, &mount_status), expected, "{stage:?} {alive} {mount_status:?}");
        }
    }

    #[test]
    fn an_id_is_shown_short() {
        assert_eq!(short_id(&format!("sha256:{}", "0123456789abcdef".repeat(4))), "0123456789ab");
        assert_eq!(short_id(&"0123456789abcdef".repeat(4)), "0123456789ab");
        assert_eq!(short_id(""), "");
    }
}
