use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::candidates;
use super::context::Context;
use super::reading::ReadArgs;
use crate::cli::output::error::CommandError;
use crate::cli::output::escape::name;
use crate::cli::output::files::{self, Row};
use crate::cli::output::size;
use crate::gateway::FileStat;
use crate::index::FileType;

/// Show the attributes of a file of a source
///
/// Of a Docker image that is not in the cache, only this file is asked for; the number of its names is then not known.
#[derive(Debug, Args)]
pub struct StatArgs {
    #[command(flatten)]
    read: ReadArgs,
    /// Files of the source
    #[arg(value_name = "PATH", add = candidates::paths())]
    paths: Vec<PathBuf>,
    /// Follow a symbolic link, unless it leads out of the mount
    #[arg(short = 'L', long)]
    dereference: bool,
    /// Print a JSON object, or of several files an array
    #[arg(long)]
    json: bool,
}

impl StatArgs {
    /// Does it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let paths = self.read.some_paths(&self.paths)?;
        let files: Vec<FileStat> = self.read.read(context, |reading| {
            let stat = |path: &PathBuf| match self.dereference {
                true => reading.stat_file(path),
                false => reading.stat_link(path),
            };
            paths.iter().map(stat).collect::<Result<_, _>>()
        })?;
        if self.json {
            let mut rows: Vec<Row> = files.into_iter().map(Row::from).collect();
            match rows.len() {
                1 => context.printer.json(&rows.remove(0))?,
                _ => context.printer.json(&rows)?,
            }
            return Ok(ExitCode::SUCCESS);
        }
        for (number, file) in files.iter().enumerate() {
            if number > 0 {
                context.printer.line("")?;
            }
            for (label, value) in told(file) {
                context.printer.line(format!("{label:>8}: {value}"))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn told(file: &FileStat) -> Vec<(&'static str, String)> {
    let mut told = vec![("Path", name(&file.path)), ("Type", files::type_name(file.file_type).to_owned())];
    if let Some(target) = &file.link_target {
        told.push(("Target", name(target)));
    }
    match file.file_type {
        FileType::CharDevice | FileType::BlockDevice => told.push(("Device", files::size(file, false))),
        FileType::Regular if file.size >= 1000 => {
            told.push(("Size", format!("{} ({})", file.size, size::show(file.size))));
        }
        FileType::Regular | FileType::Symlink => told.push(("Size", file.size.to_string())),
        FileType::Directory | FileType::Fifo | FileType::Socket => {}
    }
    told.push(("Mode", format!("{:04o} ({})", file.perm, files::mode(file))));
    told.push(("Owner", format!("{}:{}", file.uid, file.gid)));
    told.push(("Modified", files::instant(file.mtime)));
    if let Some(inode) = file.inode {
        told.push(("Inode", inode.number.to_string()));
        told.push(("Links", inode.links.to_string()));
    }
    for (key, value) in &file.xattrs {
        let pair = format!("{}=\"{}\"", key.escape_ascii(), value.escape_ascii());
        told.push(("Xattr", pair));
    }
    told
}
