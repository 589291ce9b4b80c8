//! The command line: what the user says, and what the user is told.
//!
//! One file a verb; its doc comments are its help text. Everything printed goes through [`printer`], every failure
//! becomes a [`CommandError`], which decides the exit status. May use everything of the crate;
//! nothing uses it.

mod background;
mod bar;
mod blame;
mod cache;
mod cat;
mod complete;
mod control;
mod copy;
mod cp;
mod diff;
mod error;
mod files;
mod find;
mod history;
mod inspect;
mod logging;
mod ls;
mod mount;
mod mountpoint;
mod mounts;
mod open_files;
mod options;
mod printer;
mod reading;
mod refresh;
mod runtime_dir;
mod scoped_task;
mod serve;
mod sessions;
mod signals;
mod size;
mod stat;
mod supervisor;
mod text;
mod tree;
mod umount;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::builder::Resettable;
use clap::{ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use error::{CommandError, EXIT_STATUS_HELP, Kind};
use printer::Printer;
use runtime_dir::Surroundings;
use sessions::Register;

use crate::cache::Cache;
use crate::image::Platform;
use crate::progress::Progress;
use crate::source;

/// Look inside container images and containers without unpacking, running or pulling them
///
/// imagefs presents an image or a container that the Docker or Podman daemon has, an image in an archive, or a tar of a root
/// filesystem, as a read-only directory tree: list it, search it, read it, compare it with the tools you have. Or read it
/// without mounting, with ls, cat, find and others.
#[derive(Debug, Parser)]
#[command(version, after_long_help = EXIT_STATUS_HELP, propagate_version = false)]
struct CommandLine {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct GlobalArgs {
    /// Log what happens; twice: how; three times: everything
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    verbose: u8,
    /// Print nothing but results and errors
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Write the log to FILE
    ///
    /// Without it, the log goes to standard error, and that of a mount in the background to a file that `imagefs mounts
    /// --json` names. What is logged is also set by RUST_LOG, as in RUST_LOG=imagefs=debug.
    #[arg(long, global = true, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// Keep the cache in DIR
    ///
    /// Without it, the cache is in $XDG_CACHE_HOME/imagefs or ~/.cache/imagefs.
    #[arg(long, global = true, value_name = "DIR", env = "IMAGEFS_CACHE_DIR", hide_env_values = true)]
    cache_dir: Option<PathBuf>,
    /// Keep the cache below SIZE, as in 10GiB
    ///
    /// After an image was added, those that were used longest ago are removed, but for what is mounted.
    #[arg(long, global = true, value_name = "SIZE", env = "IMAGEFS_CACHE_LIMIT", hide_env_values = true,
        default_value = "20GiB", value_parser = size::parse)]
    cache_limit: u64,
    #[arg(long = background::SERVER_FLAG, hide = true)]
    server: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Mount(mount::MountArgs),
    #[command(visible_alias = "unmount")]
    Umount(umount::UmountArgs),
    Mounts(mounts::MountsArgs),
    Refresh(refresh::RefreshArgs),
    Ls(ls::LsArgs),
    Cat(cat::CatArgs),
    Stat(stat::StatArgs),
    Tree(tree::TreeArgs),
    Find(find::FindArgs),
    Cp(cp::CpArgs),
    Inspect(inspect::InspectArgs),
    Diff(diff::DiffArgs),
    History(history::HistoryArgs),
    Blame(blame::BlameArgs),
    Cache(cache::CacheArgs),
}

impl Command {
    fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        match self {
            Command::Mount(args) => args.run(context),
            Command::Umount(args) => args.run(context),
            Command::Mounts(args) => args.run(context),
            Command::Refresh(args) => args.run(context),
            Command::Ls(args) => args.run(context),
            Command::Cat(args) => args.run(context),
            Command::Stat(args) => args.run(context),
            Command::Tree(args) => args.run(context),
            Command::Find(args) => args.run(context),
            Command::Cp(args) => args.run(context),
            Command::Inspect(args) => args.run(context),
            Command::Diff(args) => args.run(context),
            Command::History(args) => args.run(context),
            Command::Blame(args) => args.run(context),
            Command::Cache(args) => args.run(context),
        }
    }
}

/// How a source is found; the same for every verb that takes one.
#[derive(Debug, Args)]
struct SourceArgs {
    /// The daemon to ask, as in unix:///run/podman/podman.sock
    ///
    /// Without it, the daemon that the docker command would ask: DOCKER_HOST, then the current docker context, then
    /// unix:///var/run/docker.sock.
    #[arg(short = 'H', long, value_name = "URL")]
    host: Option<String>,
    /// The platform that the image must be for, as in linux/arm64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Refuse a layer, or a compressed archive, that unpacks to more than SIZE
    ///
    /// Without it, 64GiB. What unpacks to more than a thousand times its size is refused in any case.
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    max_size: Option<u64>,
}

impl SourceArgs {
    fn context<'a>(&'a self, cache: &'a Cache, progress: &'a Arc<Progress>) -> source::Context<'a> {
        source::Context {
            cache,
            host: self.host.as_deref(),
            platform: self.platform.as_ref(),
            max_size: self.max_size,
            exact: false,
            progress,
        }
    }
}

/// What every verb works with.
struct Context {
    global: GlobalArgs,
    printer: Printer,
}

impl Context {
    /// The cache directory that the user chose, if any.
    fn cache_dir(&self) -> Option<PathBuf> {
        self.global.cache_dir.clone()
    }

    fn cache(&self) -> Result<Cache, CommandError> {
        Ok(Cache::open(self.cache_dir())?.with_limit(self.global.cache_limit))
    }

    fn register(&self) -> Result<Register, CommandError> {
        let surroundings = Surroundings::of_this_process();
        let dir = surroundings.runtime_dir();
        runtime_dir::prepare(&dir, surroundings.uid)?;
        Ok(Register::new(dir))
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    open_files::allow();
    signals::outlive_file_size_limit();
    let matches = command_here().get_matches_from(find::spell_out(std::env::args_os()));
    let CommandLine { global, command } =
        CommandLine::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let writer = if global.server { logging::Writer::Server } else { logging::Writer::Command };
    let verbosity = if global.quiet { -1 } else { i8::try_from(global.verbose).unwrap_or(i8::MAX) };
    let begun = logging::begin(verbosity, writer, global.log_file.as_deref());
    let context = Context { printer: Printer::new(global.quiet, global.verbose > 0), global };
    begun.and_then(|()| command.run(&context)).unwrap_or_else(|error| {
        if error.kind() != Kind::NoReader {
            context.printer.error(&error);
        }
        ExitCode::from(error.kind().exit_status())
    })
}

/// The whole command line, for those who write its manual.
pub fn command() -> clap::Command {
    CommandLine::command()
}

/// The command line in this environment, in which a variable that is empty counts as unset.
fn command_here() -> clap::Command {
    let is_empty =
        |arg: &clap::Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    CommandLine::command().mut_args(|arg| if is_empty(&arg) { arg.env(Resettable::Reset) } else { arg })
}

/// The present time as RFC 3339, in UTC.
fn now() -> String {
    let now = jiff::Timestamp::now();
    rfc3339(u64::try_from(now.as_second()).unwrap_or(0)).unwrap_or_else(|| now.to_string())
}

/// A time, given in seconds since 1970-01-01 UTC, as RFC 3339.
fn rfc3339(seconds: u64) -> Option<String> {
    let time = jiff::Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?;
    Some(time.to_string())
}

/// The candidate that was probably meant by `word`, if any is near enough.
fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_and_the_library_agree_on_the_cache_limit() {
        let line = CommandLine::parse_from(["imagefs", "mounts"]);
        assert_eq!(line.global.cache_limit, crate::cache::DEFAULT_LIMIT);
    }
}
