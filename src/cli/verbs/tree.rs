use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::context::Context;
use super::reading::{ReadArgs, Reading};
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
    /// A directory of the source
    #[arg(default_value = "/")]
    path: PathBuf,
    /// Go no deeper than N directories
    #[arg(short = 'L', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    level: Option<u32>,
    /// Show names that begin with a dot
    #[arg(short, long)]
    all: bool,
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
        self.read.read(context, |reading| {
            let top = reading.gateway.stat_file(reading.mount, &self.path)?;
            if self.json {
                return context.printer.json(&self.branch(reading, top, 0)?);
            }
            let mut output = context.printer.output();
            output.name(&top.path)?;
            output.text("\n")?;
            let mut count = Count::default();
            self.draw(reading, &top.path, &mut output, &mut count)?;
            let plural = |n: u64, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
            let directories = plural(count.directories, "directory", "directories");
            output.text(&format!("\n{directories}, {}\n", plural(count.files, "file", "files")))?;
            output.finish()
        })?;
        Ok(ExitCode::SUCCESS)
    }

    fn goes_deeper(&self, depth: usize) -> bool {
        self.level.is_none_or(|level| depth < level as usize)
    }

    fn draw(
        &self,
        reading: &Reading,
        top: &Path,
        output: &mut Output,
        count: &mut Count,
    ) -> Result<(), CommandError> {
        // For each directory on the way: what is left to be drawn of it.
        let mut ahead = vec![reading.files(top, self.all)?.into_iter().peekable()];
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
            output.name(file.name())?;
            if let Some(target) = &file.link_target {
                output.text(" -> ")?;
                output.name(target)?;
            }
            output.text("\n")?;
            if file.file_type == FileType::Directory {
                count.directories += 1;
                if self.goes_deeper(depth) {
                    ahead.push(reading.files(&file.path, self.all)?.into_iter().peekable());
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
            let files = reading.files(&file.path, self.all)?.into_iter();
            Some(files.map(|file| self.branch(reading, file, depth + 1)).collect::<Result<_, _>>()?)
        } else {
            None
        };
        Ok(Branch { file: file.into(), contents })
    }
}
