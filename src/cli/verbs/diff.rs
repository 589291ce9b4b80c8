use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::candidates;
use super::complete_sources::CompleteSources;
use super::context::Context;
use super::context::SourceArgs;
use crate::cli::output::error::{CommandError, Kind};
use crate::cli::output::escape::name;
use crate::cli::output::text;
use crate::index::{Attribute, Change, Difference, DifferenceKind, ReadError, compare};
use crate::source::Source;

/// Show how the root filesystems of two sources differ
///
/// One line a path: whether the second source added or removed it, or changed it and in which attributes. Content is
/// compared byte by byte. Of names that are hard links of one file, all are compared with the first of them: `name /a -> /b`
/// is the same file as /a in the first source, and as /b in the second. Exits with status 1 if they differ.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The first source, as `imagefs mount` takes it
    #[arg(add = candidates::sources())]
    before: OsString,
    /// The second source
    #[arg(add = candidates::sources())]
    after: OsString,
    /// Print a JSON array, with the digests of content that differs
    #[arg(long)]
    json: bool,
    /// Get a daemon's image as its layers are stored, as `mount -o exact` does
    #[arg(long)]
    exact: bool,
    #[command(flatten)]
    source_args: SourceArgs,
}

#[derive(Serialize)]
struct Row {
    #[serde(with = "text")]
    path: OsString,
    change: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attributes: Vec<Change>,
}

impl From<Difference> for Row {
    fn from(difference: Difference) -> Row {
        let path = [b"/", &difference.path[..]].concat();
        let (change, attributes) = match difference.kind {
            DifferenceKind::Added => ("added", Vec::new()),
            DifferenceKind::Removed => ("removed", Vec::new()),
            DifferenceKind::Changed(attributes) => ("changed", attributes),
        };
        Row { path: OsStr::from_bytes(&path).to_owned(), change, attributes }
    }
}

impl DiffArgs {
    /// Does it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let whole = CompleteSources::begin(context)?;
        let open = |source: &OsStr| whole.open(source, &self.source_args, self.exact);
        let (before, after) = (open(&self.before)?, open(&self.after)?);
        let (mut rows, mut differ, mut printed) = (Vec::new(), false, Ok(()));
        let compared = self.compare(&before, &after, &mut |row| {
            differ = true;
            if self.json {
                rows.push(row);
            } else {
                printed = context.printer.line(line(&row));
            }
            printed.is_ok()
        });
        printed?;
        compared?;
        if self.json {
            context.printer.json(&rows)?;
        }
        Ok(if differ { ExitCode::from(Kind::Negative.exit_status()) } else { ExitCode::SUCCESS })
    }

    fn compare(
        &self,
        before: &Source,
        after: &Source,
        emit: &mut dyn FnMut(Row) -> bool,
    ) -> Result<(), CommandError> {
        let [Some(before), Some(after)] = [before, after].map(|source| source.mounts.first()) else {
            return Err(CommandError::new(Kind::Failed, "a source has no root filesystem"));
        };
        compare(&before.filesystem, &after.filesystem, &mut |difference| emit(difference.into())).map_err(
            |error: ReadError| {
                let sources = format!("{} and {}", name(&self.before), name(&self.after));
                CommandError::new(Kind::Input, format!("cannot compare {sources}")).caused_by(error)
            },
        )
    }
}

/// A row for people. The values of what is long are left to JSON.
fn line(row: &Row) -> String {
    let attributes: Vec<String> = row
        .attributes
        .iter()
        .map(|Change { attribute, before, after }| match attribute {
            Attribute::Content => attribute.to_string(),
            Attribute::Xattrs => format!("{attribute} [{before}] -> [{after}]"),
            _ => format!("{attribute} {before} -> {after}"),
        })
        .collect();
    let line = format!("{:8} {}  {}", row.change, name(&row.path), attributes.join(", "));
    line.trim_end().to_owned()
}
