//! The whole command line, from the arguments of the process to its exit status.

use std::process::ExitCode;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, CommandFactory as _, FromArgMatches as _, Parser};

use super::output::error::{EXIT_STATUS_HELP, Kind};
use super::output::printer::Printer;
use super::process::{logging, open_files, signals};
use super::verbs::context::{Context, GlobalArgs};
use super::verbs::{Command, spell_out};

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

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    open_files::allow();
    signals::outlive_file_size_limit();
    let arguments = spell_out(std::env::args_os().collect());
    let matches =
        command_here().try_get_matches_from(&arguments).unwrap_or_else(|error| advised(error).exit());
    let CommandLine { global, command: verb } =
        CommandLine::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let writer = if global.server { logging::Writer::Server } else { logging::Writer::Command };
    let verbosity = if global.quiet { -1 } else { i8::try_from(global.verbose).unwrap_or(i8::MAX) };
    let begun = logging::begin(verbosity, writer, global.log_file.as_deref());
    let context = Context { printer: Printer::new(global.quiet, global.verbose > 0), global, command };
    begun.and_then(|()| verb.run(&context)).unwrap_or_else(|error| {
        if error.kind() != Kind::NoReader {
            context.printer.error(&error);
        }
        ExitCode::from(error.kind().exit_status())
    })
}

/// The whole command line, for those who write its manual.
pub fn command() -> clap::Command {
    let command = CommandLine::command();
    let globals: Vec<Arg> =
        command.get_arguments().filter(|arg| arg.is_global_set()).map(|arg| arg.clone().hide(true)).collect();
    // They are told once, of all commands together.
    command.mut_subcommands(|verb| {
        let told = [verb.get_after_long_help(), verb.get_after_help()].into_iter().flatten().next().cloned();
        let all = told.map_or_else(|| GLOBAL_HELP.to_owned(), |told| format!("{told}\n\n{GLOBAL_HELP}"));
        verb.args(globals.clone()).after_long_help(all)
    })
}

/// What stands at the end of a verb's help.
const GLOBAL_HELP: &str = "Options of all commands, as -v, -q and --cache-dir: imagefs --help";

/// The error with advice that helps: what is no option of find here is one of find(1), and that a file may be named like an
/// option is on nobody's mind.
fn advised(mut error: clap::Error) -> clap::Error {
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    let similar = error.get(ContextKind::SuggestedArg).is_some();
    error.remove(ContextKind::Suggested);
    let usage = error.get(ContextKind::Usage).map(ToString::to_string).unwrap_or_default();
    if usage.contains("imagefs find") && !similar {
        let advice = "for what only find(1) can, mount the source, and let find(1) search it";
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![advice.into()]));
    }
    error
}

/// The command line in this environment, in which a variable that is empty counts as unset.
fn command_here() -> clap::Command {
    let is_empty =
        |arg: &clap::Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    command().mut_args(|arg| if is_empty(&arg) { arg.env(Resettable::Reset) } else { arg })
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
