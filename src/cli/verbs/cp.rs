use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::context::Context;
use super::copy::{Archive, Disk, Tally, copy};
use super::reading::{ReadArgs, Reading};
use crate::cli::output::error::{CommandError, Kind};
use crate::cli::output::escape;
use crate::cli::output::printer::{Printer, cannot_write};
use crate::gateway::FileStat;
use crate::index::FileType;

const EXAMPLES: &str = "\
Examples:
  imagefs cp python:3.12 /usr/local/lib ./lib
  imagefs cp python:3.12:/usr/local/lib ./lib
  imagefs cp debian:12 / - | tar t             a tar to the standard output
  imagefs cp container:web --mount data / ./backup";

/// Copy a file or directory out of a source
///
/// With mode, owner, times, hard links, holes, extended attributes and devices, as far as you may set them: owners and
/// devices are for root. A symbolic link is copied as it is. Nothing is ever written outside of DEST, whatever the names
/// and links of the source say.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct CpArgs {
    #[command(flatten)]
    read: ReadArgs,
    /// A file or directory of the source (DIR/. for what is in it), and then a directory to copy into, or a name for the copy;
    /// - for a tar to the standard output
    #[arg(value_names = ["PATH", "DEST"], num_args = 1..=2, required = true)]
    words: Vec<PathBuf>,
    /// Replace files that exist, and copy into directories that exist
    #[arg(short, long)]
    force: bool,
    /// Follow PATH if it is a symbolic link
    #[arg(short = 'L', long)]
    dereference: bool,
    /// Print what was copied as a JSON object; with DEST - on standard error
    #[arg(long)]
    json: bool,
}

impl CpArgs {
    /// Does it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let printer = &context.printer;
        let (path, dest) = self.places()?;
        let tally = self.read.read(context, |reading| {
            let of_contents = names_contents(&path);
            let top = match self.dereference || of_contents {
                true => reading.stat_target(&path)?,
                false => reading.stat_link(&path)?,
            };
            if of_contents && top.file_type != FileType::Directory {
                let message = format!("{} is not a directory", escape::name(&path));
                return Err(CommandError::new(Kind::Failed, message));
            }
            match dest.as_os_str() == "-" {
                true => to_stdout(reading, top, of_contents, printer),
                false => self.to_disk(reading, top, of_contents, dest),
            }
        })?;
        tell(tally, printer);
        if self.json {
            match dest.as_os_str() == "-" {
                true => printer.note(serde_json::to_string(&tally).unwrap_or_default()),
                false => printer.json(&tally)?,
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// What is copied, and where it goes.
    fn places(&self) -> Result<(PathBuf, &Path), CommandError> {
        let Some((dest, before)) = self.words.split_last() else {
            return Err(CommandError::new(Kind::Usage, "no destination was given"));
        };
        let mut paths = self.read.some_paths(before)?;
        match (paths.pop(), paths.is_empty()) {
            (Some(path), true) => Ok((path, dest)),
            _ => Err(CommandError::new(Kind::Usage, "one path is copied at a time")
                .hint("write either SOURCE PATH DEST, or SOURCE:/PATH DEST")),
        }
    }

    fn to_disk(
        &self,
        reading: &Reading,
        top: FileStat,
        of_contents: bool,
        dest: &Path,
    ) -> Result<Tally, CommandError> {
        let name = top.path.file_name().map(OsString::from);
        let is_dir = dest.is_dir();
        if !is_dir && names_a_directory(dest) && top.file_type != FileType::Directory {
            let message = format!("{} is not a directory", escape::name(dest));
            return Err(CommandError::new(Kind::Failed, message));
        }
        let (root, name) = match (is_dir, &name, dest.file_name()) {
            (true, _, _) if of_contents => (dest, Path::new("")),
            (true, name, _) => (dest, name.as_ref().map(Path::new).unwrap_or(Path::new(""))),
            (false, _, Some(name)) => (dest.parent().unwrap_or(Path::new("")), Path::new(name)),
            (false, _, None) => {
                let message = format!("no file can be named {}", escape::name(dest));
                return Err(CommandError::new(Kind::Usage, message));
            }
        };
        let root = if root.as_os_str().is_empty() { Path::new(".") } else { root };
        copy(reading, top, name, &mut Disk::open(root, self.force)?)
    }
}

/// Whether a path is spelled so that what is in a directory is meant, as for cp(1) and docker cp: `DIR/.`
fn names_contents(path: &Path) -> bool {
    let last = path.as_os_str().as_encoded_bytes().rsplit(|&b| b == b'/').next();
    matches!(last, Some(b"." | b".."))
}

/// Whether a path is spelled so that it can only be a directory's.
fn names_a_directory(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.ends_with(b"/") || bytes.ends_with(b"/.")
}

fn to_stdout(
    reading: &Reading,
    top: FileStat,
    of_contents: bool,
    printer: &Printer,
) -> Result<Tally, CommandError> {
    let output = printer.output();
    if output.is_terminal() {
        let error = CommandError::new(Kind::Usage, "a tar is not for a terminal");
        return Err(error.hint("write it to a file, or pipe it: imagefs cp SOURCE PATH - > FILE"));
    }
    let mut archive = Archive::new(output);
    let name = top.path.file_name().filter(|_| !of_contents).map_or(PathBuf::from("."), PathBuf::from);
    let tally = copy(reading, top, &name, &mut archive)?;
    archive.into_inner().and_then(|mut output| output.flush()).map_err(cannot_write)?;
    Ok(tally)
}

/// Says what could not be kept.
fn tell(tally: Tally, printer: &Printer) {
    // Whoever is not root knows that files become theirs: it is what cp(1) and tar(1) do without a word.
    let owners = if rustix::process::geteuid().is_root() { tally.owners_lost } else { 0 };
    let lost = [
        (owners, "the owner of"),
        (tally.special_bits_lost, "the setuid and setgid bits of"),
        (tally.xattrs_lost, "an extended attribute of"),
        (tally.devices_lost, "devices:"),
    ];
    for (count, what) in lost.into_iter().filter(|(count, _)| *count > 0) {
        printer.note(format!("could not keep {what} {count} {}", if count == 1 { "file" } else { "files" }));
    }
}
