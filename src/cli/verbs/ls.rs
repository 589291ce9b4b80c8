use std::cmp::{Ordering, Reverse};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgAction, Args};

use super::candidates;
use super::context::Context;
use super::reading::{ReadArgs, Reading};
use crate::cli::output::colors::{Colors, When};
use crate::cli::output::error::CommandError;
use crate::cli::output::files::{self, Row};
use crate::cli::output::printer::Output;
use crate::gateway::FileStat;
use crate::index::FileType;

const EXAMPLES: &str = "\
Examples:
  imagefs ls python:3.12 /usr/local/bin
  imagefs ls -la ./rootfs.tar:/etc
  imagefs ls -lhS debian:12 /bin /sbin
  imagefs ls --mount data container:web /

Times are local, as with ls(1). -a leaves out . and .. as -A does.";

/// List a directory of a source
///
/// Nothing is mounted. An image that is not in the cache is read into it.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, disable_help_flag = true)]
pub struct LsArgs {
    #[command(flatten)]
    read: ReadArgs,
    /// Directories or files of the source; its root if none is given
    #[arg(value_name = "PATH", add = candidates::paths())]
    paths: Vec<PathBuf>,
    /// Show mode, links, owner, group, size, time and link target
    #[arg(short)]
    long: bool,
    /// Show names that begin with a dot
    #[arg(short, long, visible_short_alias = 'A', visible_alias = "almost-all")]
    all: bool,
    /// Show a directory itself, not what is in it
    #[arg(short, long)]
    directory: bool,
    /// Show the directories within, too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Show sizes with a unit, as in 1.5 KiB
    #[arg(short, long)]
    human_readable: bool,
    /// Sort by time, the newest first
    #[arg(short = 't', overrides_with = "by_size")]
    by_time: bool,
    /// Sort by size, the largest first
    #[arg(short = 'S')]
    by_size: bool,
    /// Sort the other way round
    #[arg(short, long)]
    reverse: bool,
    /// One name a line, as in any case
    #[arg(short = '1')]
    one: bool,
    /// Show names in the colours of LS_COLORS
    #[arg(long, value_name = "WHEN", default_value = "auto", num_args = 0..=1, require_equals = true,
        default_missing_value = "always")]
    color: When,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

impl LsArgs {
    /// Does it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let paths = self.read.paths(&self.paths, Some("/"));
        self.read.read(context, |reading| {
            let asked = paths.iter().map(|path| match self.long || self.directory {
                true => reading.stat_link(path),
                false => reading.stat_file(path),
            });
            let asked: Vec<FileStat> = asked.collect::<Result<_, _>>()?;
            let is_listed = |file: &FileStat| file.file_type == FileType::Directory && !self.directory;
            let (directories, mut files): (Vec<_>, Vec<_>) = asked.into_iter().partition(is_listed);
            if self.json {
                for directory in &directories {
                    files.extend(self.collect(reading, &directory.path)?);
                }
                let rows: Vec<Row> = files.into_iter().map(Row::from).collect();
                return context.printer.json(&rows);
            }
            let mut output = context.printer.output();
            let colors = Colors::new(self.color, output.is_terminal());
            self.sort(&mut files);
            let named: Vec<_> = files.into_iter().map(|file| (file.path.clone(), file)).collect();
            self.print(&named, &colors, &mut output)?;
            let headed = self.recursive || paths.len() > 1;
            let mut first = named.is_empty();
            for directory in directories {
                self.list(reading, directory.path, headed, &mut first, &colors, &mut output)?;
            }
            output.finish()
        })?;
        Ok(ExitCode::SUCCESS)
    }

    /// What stands in a directory, in the order that was asked for.
    fn files(&self, reading: &Reading, dir: &Path) -> Result<Vec<FileStat>, CommandError> {
        let mut files = reading.files(dir, self.all)?;
        self.sort(&mut files);
        Ok(files)
    }

    /// By name they come in any case.
    fn sort(&self, files: &mut [FileStat]) {
        let order = |a: &FileStat, b: &FileStat| match (self.by_time, self.by_size) {
            (true, _) => Reverse(a.mtime_ns()).cmp(&Reverse(b.mtime_ns())),
            (_, true) => Reverse(a.size).cmp(&Reverse(b.size)),
            (false, false) => Ordering::Equal,
        };
        files.sort_by(order);
        if self.reverse {
            files.reverse();
        }
    }

    fn collect(&self, reading: &Reading, dir: &Path) -> Result<Vec<FileStat>, CommandError> {
        let mut found = Vec::new();
        let mut ahead = vec![dir.to_owned()];
        while let Some(dir) = ahead.pop() {
            let files = self.files(reading, &dir)?;
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

    fn list(
        &self,
        reading: &Reading,
        dir: PathBuf,
        headed: bool,
        first: &mut bool,
        colors: &Colors,
        output: &mut Output,
    ) -> Result<(), CommandError> {
        let mut ahead = vec![dir];
        while let Some(dir) = ahead.pop() {
            let files = self.files(reading, &dir)?;
            if headed {
                output.text(if *first { "" } else { "\n" })?;
                output.name(&dir)?;
                output.text(":\n")?;
            }
            *first = false;
            ahead.extend(self.within(&files));
            let named: Vec<(PathBuf, FileStat)> =
                files.into_iter().map(|file| (file.name().into(), file)).collect();
            self.print(&named, colors, output)?;
        }
        Ok(())
    }

    fn print(
        &self,
        files: &[(PathBuf, FileStat)],
        colors: &Colors,
        output: &mut Output,
    ) -> Result<(), CommandError> {
        let cells = |file: &FileStat| {
            let links = file.inode.map_or_else(|| "?".to_owned(), |inode| inode.links.to_string());
            [links, file.uid.to_string(), file.gid.to_string(), files::size(file, self.human_readable)]
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
                output.text(&format!(" {} ", files::short_time(file.mtime)))?;
            }
            colors.name(output, name, file)?;
            if let (true, Some(target)) = (self.long, &file.link_target) {
                output.text(" -> ")?;
                output.name(target)?;
            }
            output.text("\n")?;
        }
        Ok(())
    }
}
