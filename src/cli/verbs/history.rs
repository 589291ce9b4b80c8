use std::ffi::OsString;
use std::process::ExitCode;

use clap::Args;

use super::candidates;
use super::complete_sources::CompleteSources;
use super::context::Context;
use super::context::SourceArgs;
use crate::cli::output::error::CommandError;
use crate::cli::output::size;

/// Show the layers of an image, and what each of them does
///
/// One line a layer, the lowest first: its number and diff id, the bytes it is stored in, how many paths its tar has
/// entries for, how many it adds to the layers below, changes and removes, and the command that made it. An image of the
/// daemon's is got layer by layer for this, as `mount -o exact` does; the bytes are then those of the layer's tar.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// An image, as `imagefs mount` takes it
    #[arg(add = candidates::sources())]
    source: OsString,
    /// Print a JSON array, with whole digests and commands and sizes in bytes
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source_args: SourceArgs,
}

/// The most that is shown of a command in a table.
const SHOWN: usize = 60;

impl HistoryArgs {
    /// Does it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let history =
            CompleteSources::begin(context)?.open(&self.source, &self.source_args, true)?.history()?;
        if self.json {
            context.printer.json(&history)?;
            return Ok(ExitCode::SUCCESS);
        }
        let rows: Vec<_> = history
            .iter()
            .enumerate()
            .map(|(number, layer)| {
                [
                    number.to_string(),
                    layer.details.diff_id.short(),
                    size::show(layer.details.size),
                    layer.entries.to_string(),
                    layer.changes.added.to_string(),
                    layer.changes.changed.to_string(),
                    layer.changes.removed.to_string(),
                    shortened(layer.details.created_by.as_deref()),
                ]
            })
            .collect();
        let heading = ["LAYER", "DIFF ID", "SIZE", "ENTRIES", "ADDED", "CHANGED", "REMOVED", "CREATED BY"];
        context.printer.table(heading, &rows)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A command on one line that is not too long.
pub fn shortened(command: Option<&str>) -> String {
    let words = command.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(SHOWN) {
        None => words,
        Some((end, _)) => format!("{}…", &words[..end]),
    }
}
