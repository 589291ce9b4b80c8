//! The verbs, each a file beside this one.

use std::process::ExitCode;

use clap::Subcommand;

use super::blame::BlameArgs;
use super::build::BuildArgs;
use super::cache::CacheArgs;
use super::cat::CatArgs;
use super::completions::{CompleteArgs, CompletionsArgs};
use super::context::Context;
use super::cp::CpArgs;
use super::diff::DiffArgs;
use super::du::DuArgs;
use super::erofs::ErofsArgs;
use super::find::FindArgs;
use super::grep::GrepArgs;
use super::history::HistoryArgs;
use super::inspect::InspectArgs;
use super::ls::LsArgs;
use super::mount::MountArgs;
use super::mounts::MountsArgs;
use super::refresh::RefreshArgs;
use super::stat::StatArgs;
use super::tree::TreeArgs;
use super::umount::UmountArgs;
use crate::cli::output::error::CommandError;

/// All verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    Mount(MountArgs),
    Build(BuildArgs),
    #[command(visible_alias = "unmount")]
    Umount(UmountArgs),
    Mounts(MountsArgs),
    Refresh(RefreshArgs),
    Ls(LsArgs),
    Cat(CatArgs),
    Stat(StatArgs),
    Tree(TreeArgs),
    Find(FindArgs),
    Grep(GrepArgs),
    Du(DuArgs),
    Cp(CpArgs),
    Erofs(ErofsArgs),
    Inspect(InspectArgs),
    Diff(DiffArgs),
    History(HistoryArgs),
    Blame(BlameArgs),
    Cache(CacheArgs),
    Completions(CompletionsArgs),
    #[command(hide = true)]
    Complete(CompleteArgs),
}

impl Command {
    /// Does it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        match self {
            Command::Mount(args) => args.run(context),
            Command::Build(args) => args.run(context),
            Command::Umount(args) => args.run(context),
            Command::Mounts(args) => args.run(context),
            Command::Refresh(args) => args.run(context),
            Command::Ls(args) => args.run(context),
            Command::Cat(args) => args.run(context),
            Command::Stat(args) => args.run(context),
            Command::Tree(args) => args.run(context),
            Command::Find(args) => args.run(context),
            Command::Grep(args) => args.run(context),
            Command::Du(args) => args.run(context),
            Command::Cp(args) => args.run(context),
            Command::Erofs(args) => args.run(context),
            Command::Inspect(args) => args.run(context),
            Command::Diff(args) => args.run(context),
            Command::History(args) => args.run(context),
            Command::Blame(args) => args.run(context),
            Command::Cache(args) => args.run(context),
            Command::Completions(args) => args.run(context),
            Command::Complete(args) => args.run(context),
        }
    }
}
