use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::candidates;
use super::complete_sources::CompleteSources;
use super::context::Context;
use super::context::SourceArgs;
use super::history::shortened;
use super::source_path;
use crate::cli::output::error::{CommandError, Kind};
use crate::cli::output::escape::name;
use crate::source::{LayerChange, LayerDetails};

/// Show which layers of an image added, changed, replaced or removed a path
///
/// The lowest layer comes first. What a layer removed can be read in `layers/` of a mount with `-o layers`.
#[derive(Debug, Args)]
pub struct BlameArgs {
    /// An image, as `imagefs mount` takes it
    #[arg(add = candidates::sources())]
    source: OsString,
    /// A path from the root of the image
    ///
    /// Symlinks are followed but in its last component.
    #[arg(value_name = "PATH")]
    path: Option<OsString>,
    /// Print a JSON array, with whole digests and commands
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source_args: SourceArgs,
}

#[derive(Serialize)]
struct Row<'a> {
    layer: usize,
    #[serde(rename = "deed")]
    change: LayerChange,
    #[serde(flatten)]
    details: &'a LayerDetails,
}

impl BlameArgs {
    /// Does it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let (image, behind) = source_path::split(&self.source);
        let path = match (behind, &self.path) {
            (Some(path), None) => path.as_os_str(),
            (None, Some(path)) => path,
            _ => {
                return Err(CommandError::new(Kind::Usage, "one path of the image is to be given")
                    .hint("write SOURCE PATH, or SOURCE:/PATH"));
            }
        };
        let source = CompleteSources::begin(context)?.open(image, &self.source_args, true)?;
        let layers = &source.details.layers;
        let rows: Vec<Row> = source
            .blame(path.as_bytes())?
            .into_iter()
            .filter_map(|(layer, change)| Some(Row { layer, change, details: layers.get(layer)? }))
            .collect();
        if rows.is_empty() {
            let message = format!("no layer of {} has ever had {}", name(image), name(path));
            return Err(CommandError::new(Kind::NotFound, message));
        }
        if self.json {
            context.printer.json(&rows)?;
            return Ok(ExitCode::SUCCESS);
        }
        let rows: Vec<_> = rows
            .iter()
            .map(|row| {
                let change = match row.change {
                    LayerChange::Added => "added",
                    LayerChange::Changed => "changed",
                    LayerChange::Replaced => "replaced",
                    LayerChange::Removed => "removed",
                };
                let made_by = shortened(row.details.created_by.as_deref());
                [row.layer.to_string(), row.details.diff_id.short(), change.to_owned(), made_by]
            })
            .collect();
        context.printer.table(["LAYER", "DIFF ID", "DEED", "CREATED BY"], &rows)?;
        Ok(ExitCode::SUCCESS)
    }
}
