use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Args};
use serde::Serialize;

use super::candidates;
use super::complete_sources::CompleteSources;
use super::context::Context;
use super::history::shortened;
use super::reading::{ReadArgs, Reading};
use crate::cli::output::error::CommandError;
use crate::cli::output::printer::Output;
use crate::cli::output::{size, text};
use crate::gateway::FileStat;
use crate::index::FileType;
use crate::source::LayerUse;

const EXAMPLES: &str = "\
Examples:
  imagefs du -hd1 python:3.12               what is large?
  imagefs du -sh python:3.12 /usr /var
  imagefs du --layers python:3.12           what does each layer waste?

Counted is the length of files, holes included, of each file once, however
many names it has; in KiB, rounded up, unless -h or -b is given.";

/// Show how large directories of a source are, or its layers
///
/// With --layers, one line a layer, the lowest first: the bytes of the files that it brings, how many of them the image does not
/// show, because a later layer replaces or removes them, and the command that made it. An image of the daemon's is got layer by
/// layer for that.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, disable_help_flag = true)]
pub struct DuArgs {
    #[command(flatten)]
    read: ReadArgs,
    /// Directories or files of the source; its root if none is given
    #[arg(value_name = "PATH", add = candidates::paths())]
    paths: Vec<PathBuf>,
    /// Show files, too
    #[arg(short, long)]
    all: bool,
    /// Show the paths that were named alone
    #[arg(short, long, conflicts_with_all = ["all", "max_depth"])]
    summarize: bool,
    /// Show no deeper than N directories
    #[arg(short = 'd', long, value_name = "N")]
    max_depth: Option<usize>,
    /// Show sizes with a unit, as in 1.5 KiB
    #[arg(short, long, conflicts_with = "bytes")]
    human_readable: bool,
    /// Show sizes in bytes
    #[arg(short, long)]
    bytes: bool,
    /// Show the layers of an image instead
    #[arg(long, conflicts_with_all = ["paths", "all", "summarize", "max_depth"])]
    layers: bool,
    /// Print a JSON array, with sizes in bytes
    #[arg(long)]
    json: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

#[derive(Serialize)]
struct Row {
    #[serde(with = "text")]
    path: PathBuf,
    bytes: u64,
}

/// A directory on the way down: what is left of it, and what it comes to so far.
struct Level {
    directory: FileStat,
    left: std::vec::IntoIter<FileStat>,
    bytes: u64,
}

impl DuArgs {
    /// Does it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        if self.layers {
            return self.run_layers(context);
        }
        let paths = self.read.paths(&self.paths, Some("/"));
        self.read.read(context, |reading| {
            let mut output = context.printer.output();
            let mut rows = Vec::new();
            let mut seen = HashSet::new();
            for path in &paths {
                let top = reading.stat_link(path)?;
                self.measure(reading, top, &mut seen, &mut |row| {
                    if self.json {
                        rows.push(row);
                        return Ok(());
                    }
                    self.print(&row, &mut output)
                })?;
            }
            output.finish()?;
            if self.json { context.printer.json(&rows) } else { Ok(()) }
        })?;
        Ok(ExitCode::SUCCESS)
    }

    /// Tells the size of a directory after those of the directories in it, as du(1) does.
    fn measure(
        &self,
        reading: &Reading,
        top: FileStat,
        seen: &mut HashSet<(i64, u32)>,
        tell: &mut dyn FnMut(Row) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        let deepest = if self.summarize { 0 } else { self.max_depth.unwrap_or(usize::MAX) };
        let mut bytes_of = |file: &FileStat| match (file.file_type, file.inode) {
            (FileType::Regular, Some(inode))
                if inode.links > 1 && !seen.insert((reading.mount_of(file), inode.number)) =>
            {
                0
            }
            (FileType::Regular, _) => file.size,
            _ => 0,
        };
        if top.file_type != FileType::Directory {
            return tell(Row { bytes: bytes_of(&top), path: top.path });
        }
        let open = |directory: FileStat| -> Result<Level, CommandError> {
            let left = reading.read_dir(&directory.path)?.into_iter();
            Ok(Level { directory, left, bytes: 0 })
        };
        let mut levels = vec![open(top)?];
        while let Some(level) = levels.last_mut() {
            match level.left.next() {
                Some(file) if file.file_type == FileType::Directory => levels.push(open(file)?),
                Some(file) => {
                    let bytes = bytes_of(&file);
                    level.bytes = level.bytes.saturating_add(bytes);
                    if self.all && levels.len() <= deepest {
                        tell(Row { path: file.path, bytes })?;
                    }
                }
                None => {
                    let Some(Level { directory, bytes, .. }) = levels.pop() else { break };
                    if let Some(above) = levels.last_mut() {
                        above.bytes = above.bytes.saturating_add(bytes);
                    }
                    if levels.len() <= deepest {
                        tell(Row { path: directory.path, bytes })?;
                    }
                }
            }
        }
        Ok(())
    }

    fn print(&self, row: &Row, output: &mut Output) -> Result<(), CommandError> {
        output.text(&format!("{}\t", self.spelled(row.bytes)))?;
        output.name(&row.path)?;
        output.text("\n")
    }

    fn spelled(&self, bytes: u64) -> String {
        match (self.human_readable, self.bytes) {
            (true, _) => size::show(bytes),
            (_, true) => bytes.to_string(),
            (false, false) => bytes.div_ceil(1024).to_string(),
        }
    }

    fn run_layers(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let (source, args) = self.read.whole();
        let layers = CompleteSources::begin(context)?.open(&source, args, true)?.layer_use()?;
        if self.json {
            context.printer.json(&layers)?;
            return Ok(ExitCode::SUCCESS);
        }
        let row = |(number, layer): (usize, &LayerUse)| {
            [
                number.to_string(),
                layer.details.diff_id.short(),
                size::show(layer.bytes),
                size::show(layer.wasted),
                shortened(layer.details.created_by.as_deref()),
            ]
        };
        let rows: Vec<_> = layers.iter().enumerate().map(row).collect();
        context.printer.table(["LAYER", "DIFF ID", "FILES", "WASTED", "CREATED BY"], &rows)?;
        let sum = |of: fn(&LayerUse) -> u64| layers.iter().map(of).fold(0, u64::saturating_add);
        let (bytes, wasted) = (sum(|layer| layer.bytes), sum(|layer| layer.wasted));
        // As dive(1) reckons it: what is shown of what is stored.
        let efficiency = if bytes == 0 { 1.0 } else { (bytes - wasted) as f64 / bytes as f64 };
        let (bytes, wasted) = (size::show(bytes), size::show(wasted));
        context.printer.line("")?;
        let efficiency = 100.0 * efficiency;
        context.printer.line(format!("{bytes} in files, {wasted} wasted: {efficiency:.1} % efficient"))?;
        Ok(ExitCode::SUCCESS)
    }
}
