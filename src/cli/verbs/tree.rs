use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::candidates;
use super::context::Context;
use super::reading::{ReadArgs, Reading};
use crate::cli::output::colors::{Colors, When};
use crate::cli::output::error::CommandError;
use crate::cli::output::files::Row;
use crate::cli::output::printer::Output;
use crate::gateway::FileStat;
use crate::index::FileType;

/// Draw a directory of a source as a tree
#[derive(Debug, Args)]
pub struct TreeArgs {
    #[command(flatten)]
    read: ReadArgs,
    /// Directories of the source; its root if none is given
    #[arg(value_name = "PATH", add = candidates::paths())]
    paths: Vec<PathBuf>,
    /// Show directories alone
    #[arg(short, long)]
    directories: bool,
    /// Go no deeper than N directories
    #[arg(short = 'L', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    level: Option<u32>,
    /// Show names that begin with a dot
    #[arg(short, long)]
    all: bool,
    /// Show names in the colours of LS_COLORS
    #[arg(long, value_name = "WHEN", default_value = "auto", num_args = 0..=1, require_equals = true,
        default_missing_value = "always")]
    color: When,
    /// Print a JSON object, with what is in a directory as its `contents`
    #[arg(long)]
    json: bool,
}

/// A file, and what is in it if it is a directory.
#[derive(Serialize)]
struct Branch {
    #[serde(flatten)]
    file: Row,
    #[serde(skip_serializing_if = "Option::is_none")]
    contents: Option<Vec<Branch>>,
}

#[derive(Default)]
struct Count {
    directories: u64,
    files: u64,
}

impl TreeArgs {
    /// Does it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let paths = self.read.paths(&self.paths, Some("/"));
        self.read.read(context, |reading| {
            let tops = paths.iter().map(|path| reading.stat_file(path));
            let mut tops: Vec<FileStat> = tops.collect::<Result<_, _>>()?;
            if self.json {
                if tops.len() == 1 {
                    return context.printer.json(&self.branch(reading, tops.remove(0), 0)?);
                }
                let branches = tops.into_iter().map(|top| self.branch(reading, top, 0));
                return context.printer.json(&branches.collect::<Result<Vec<_>, _>>()?);
            }
            let mut output = context.printer.output();
            let colors = Colors::new(self.color, output.is_terminal());
            let mut count = Count::default();
            for top in tops {
                colors.name(&mut output, &top.path, &top)?;
                output.text("\n")?;
                self.draw(reading, &top.path, &colors, &mut output, &mut count)?;
            }
            let plural = |n: u64, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
            let directories = plural(count.directories, "directory", "directories");
            let files = plural(count.files, "file", "files");
            output.text(&match self.directories {
                true => format!("\n{directories}\n"),
                false => format!("\n{directories}, {files}\n"),
            })?;
            output.finish()
        })?;
        Ok(ExitCode::SUCCESS)
    }

    fn files(&self, reading: &Reading, dir: &Path) -> Result<Vec<FileStat>, CommandError> {
        let mut files = reading.files(dir, self.all)?;
        files.retain(|file| !self.directories || file.file_type == FileType::Directory);
        Ok(files)
    }

    fn goes_deeper(&self, depth: usize) -> bool {
        self.level.is_none_or(|level| depth < level as usize)
    }

    fn draw(
        &self,
        reading: &Reading,
        top: &Path,
        colors: &Colors,
        output: &mut Output,
        count: &mut Count,
    ) -> Result<(), CommandError> {
        // For each directory on the way: what is left to be drawn of it.
        let mut ahead = vec![self.files(reading, top)?.into_iter().peekable()];
        while let Some(files) = ahead.last_mut() {
            let Some(file) = files.next() else {
                ahead.pop();
                continue;
            };
            let depth = ahead.len();
            for (at, files) in ahead.iter_mut().enumerate() {
                let more = files.peek().is_some();
                output.text(match (more, at + 1 == depth) {
                    (true, true) => "├── ",
                    (false, true) => "└── ",
                    (true, false) => "│   ",
                    (false, false) => "    ",
                })?;
            }
            colors.name(output, file.name(), &file)?;
            if let Some(target) = &file.link_target {
                output.text(" -> ")?;
                output.name(target)?;
            }
            output.text("\n")?;
            if file.file_type == FileType::Directory {
                count.directories += 1;
                if self.goes_deeper(depth) {
                    ahead.push(self.files(reading, &file.path)?.into_iter().peekable());
                }
            } else {
                count.files += 1;
            }
        }
        Ok(())
    }

    /// No deeper than a path can be long.
    fn branch(&self, reading: &Reading, file: FileStat, depth: usize) -> Result<Branch, CommandError> {
        let contents = if file.file_type == FileType::Directory && self.goes_deeper(depth) {
            let files = self.files(reading, &file.path)?.into_iter();
            Some(files.map(|file| self.branch(reading, file, depth + 1)).collect::<Result<_, _>>()?)
        } else {
            None
        };
        Ok(Branch { file: file.into(), contents })
    }
}
