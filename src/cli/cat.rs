use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::error::CommandError;
use super::printer::Output;
use super::reading::{ReadArgs, Reading};
use super::{Context, text};

/// The most that is held of a file at a time.
const PIECE: usize = 256 << 10;

const EXAMPLES: &str = "\
Examples:
  imagefs cat debian:12 /etc/os-release        only this file is asked for
  imagefs cat ./rootfs.tar etc/passwd etc/group
  imagefs cat --mount data container:web log";

/// Print files of a source
///
/// Symbolic links are followed within the source. Of an image that is not in the cache, and of a volume of Docker's, only
/// these files are asked for, unless a link is on the way in a volume or with Podman.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct CatArgs {
    #[command(flatten)]
    read: ReadArgs,
    /// Regular files of the source
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Print a JSON array of paths and contents: text, or a list of bytes
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Content<'a> {
    #[serde(with = "text")]
    path: &'a Path,
    #[serde(with = "text")]
    content: Bytes,
}

/// Bytes that are shown as a name is.
struct Bytes(Vec<u8>);

impl AsRef<OsStr> for Bytes {
    fn as_ref(&self) -> &OsStr {
        use std::os::unix::ffi::OsStrExt as _;
        OsStr::from_bytes(&self.0)
    }
}

impl CatArgs {
    /// Does it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        self.read.read(context, |reading| {
            if self.json {
                let mut contents = Vec::new();
                for path in &self.paths {
                    let content = Bytes(reading.gateway.read_file(reading.mount, path, ..)?);
                    contents.push(Content { path, content });
                }
                return context.printer.json(&contents);
            }
            let mut output = context.printer.output();
            for path in &self.paths {
                copy(reading, path, &mut output)?;
            }
            output.finish()
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

fn copy(reading: &Reading, path: &Path, output: &mut Output) -> Result<(), CommandError> {
    let mut file = reading.gateway.open_file(reading.mount, path)?;
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(()),
            n => output.bytes(&piece[..n])?,
        }
    }
}
