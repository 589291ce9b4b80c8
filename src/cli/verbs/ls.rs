use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::context::Context;
use super::reading::{ReadArgs, Reading};
use crate::cli::output::error::CommandError;
use crate::cli::output::files::{self, Row};
use crate::cli::output::printer::Output;
use crate::gateway::FileStat;
use crate::index::FileType;

const EXAMPLES: &str = "\
Examples:
  imagefs ls python:3.12 /usr/local/bin
  imagefs ls -la ./rootfs.tar /etc
  imagefs ls --mount data container:web /

Times are in UTC.";

/// List a directory of a source
///
/// Nothing is mounted. An image that is not in the cache is read into it.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct LsArgs {
    #[command(flatten)]
    read: ReadArgs,
    /// A directory or a file of the source
    #[arg(default_value = "/")]
    path: PathBuf,
    /// Show mode, links, owner, group, size, time and link target
    #[arg(short)]
    long: bool,
    /// Show names that begin with a dot
    #[arg(short, long)]
    all: bool,
    /// Show the directories within, too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

impl LsArgs {
    /// Does it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        self.read.read(context, |reading| {
            let asked = match self.long {
                true => reading.gateway.stat_link(reading.mount, &self.path)?,
                false => reading.gateway.stat_file(reading.mount, &self.path)?,
            };
            let mut output = context.printer.output();
            if self.json {
                let files = if asked.file_type == FileType::Directory {
                    self.collect(reading, &asked.path)?
                } else {
                    vec![asked]
                };
                let rows: Vec<Row> = files.into_iter().map(Row::from).collect();
                context.printer.json(&rows)?;
            } else if asked.file_type == FileType::Directory {
                self.list(reading, asked.path, &mut output)?;
            } else {
                let name = asked.path.clone();
                self.print(&[(name, asked)], &mut output)?;
            }
            output.finish()
        })?;
        Ok(ExitCode::SUCCESS)
    }

    fn collect(&self, reading: &Reading, dir: &Path) -> Result<Vec<FileStat>, CommandError> {
        let mut found = Vec::new();
        let mut ahead = vec![dir.to_owned()];
        while let Some(dir) = ahead.pop() {
            let files = reading.files(&dir, self.all)?;
            ahead.extend(self.within(&files));
            found.extend(files);
        }
        Ok(found)
    }

    /// The directories among some files that are to be listed, the first of them last.
    fn within(&self, files: &[FileStat]) -> Vec<PathBuf> {
        let directories = files.iter().rev().filter(|file| file.file_type == FileType::Directory);
        if self.recursive { directories.map(|file| file.path.clone()).collect() } else { Vec::new() }
    }

    fn list(&self, reading: &Reading, dir: PathBuf, output: &mut Output) -> Result<(), CommandError> {
        let mut ahead = vec![dir];
        let mut first = true;
        while let Some(dir) = ahead.pop() {
            let files = reading.files(&dir, self.all)?;
            if self.recursive {
                output.text(if first { "" } else { "\n" })?;
                output.name(&dir)?;
                output.text(":\n")?;
            }
            first = false;
            ahead.extend(self.within(&files));
            let named: Vec<(PathBuf, FileStat)> =
                files.into_iter().map(|file| (file.name().into(), file)).collect();
            self.print(&named, output)?;
        }
        Ok(())
    }

    fn print(&self, files: &[(PathBuf, FileStat)], output: &mut Output) -> Result<(), CommandError> {
        let cells = |file: &FileStat| {
            let links = file.inode.map_or_else(|| "?".to_owned(), |inode| inode.links.to_string());
            [links, file.uid.to_string(), file.gid.to_string(), files::size(file)]
        };
        let mut widths = [0; 4];
        if self.long {
            for (_, file) in files {
                for (width, cell) in widths.iter_mut().zip(cells(file)) {
                    *width = cell.len().max(*width);
                }
            }
        }
        for (name, file) in files {
            if self.long {
                output.text(&files::mode(file))?;
                for (width, cell) in widths.iter().zip(cells(file)) {
                    output.text(&format!(" {cell:>width$}"))?;
                }
                output.text(&format!(" {} ", files::minute(file.mtime)))?;
            }
            output.name(name)?;
            if let (true, Some(target)) = (self.long, &file.link_target) {
                output.text(" -> ")?;
                output.name(target)?;
            }
            output.text("\n")?;
        }
        Ok(())
    }
}
