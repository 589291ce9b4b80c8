use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::candidates;
use super::context::Context;
use super::reading::{ReadArgs, Reading};
use crate::cli::output::error::{CommandError, Kind};
use crate::cli::output::escape;
use crate::cli::output::printer::Output;
use crate::cli::output::text;

/// The most that is held of a file at a time.
const PIECE: usize = 256 << 10;

/// The most that is held of files that are looked at before they are printed.
const MAX_HELD: u64 = 1 << 20;

const EXAMPLES: &str = "\
Examples:
  imagefs cat debian:12 /etc/os-release        only this file is asked for
  imagefs cat python:3.12:/etc/os-release
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
    #[arg(value_name = "PATH", add = candidates::paths())]
    paths: Vec<PathBuf>,
    /// Print a JSON array of paths and contents: text, or a list of bytes
    #[arg(long)]
    json: bool,
}

/// What is known of a file before the first byte of the answer is printed, and how it is read then.
enum Content {
    /// A small one, held so that it is not asked for twice.
    Held(Vec<u8>),
    /// Text, as far as it was when it was looked at.
    Text,
    /// Anything else.
    Bytes,
}

impl CatArgs {
    /// Does it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let paths = self.read.some_paths(&self.paths)?;
        self.read.read(context, |reading| {
            let contents = self.json.then(|| look(reading, &paths)).transpose()?;
            let mut output = context.printer.output();
            match contents {
                Some(contents) => print_json(reading, &paths, contents, &mut output)?,
                None => {
                    for path in &paths {
                        let mut file = reading.open_file(path)?;
                        pieces(|piece| Ok(file.read(piece)?), |piece| output.bytes(piece))?;
                    }
                }
            }
            output.finish()
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Reads all files once, so that it is known which are text, and that all of them are there.
fn look(reading: &Reading, paths: &[PathBuf]) -> Result<Vec<Content>, CommandError> {
    let mut room = MAX_HELD;
    let mut look = |path: &PathBuf| {
        let mut file = reading.open_file(path)?;
        if file.size() <= room {
            let mut held = Vec::new();
            let hold = |piece: &[u8]| {
                held.extend_from_slice(piece);
                Ok(())
            };
            pieces(|piece| Ok(file.read(piece)?), hold)?;
            room -= file.size();
            return Ok(Content::Held(held));
        }
        let mut text = Text::default();
        pieces(|piece| Ok(file.read(piece)?), |piece| text.take(piece, |_| Ok(())))?;
        Ok(if text.ends_well() { Content::Text } else { Content::Bytes })
    };
    paths.iter().map(&mut look).collect()
}

fn print_json(
    reading: &Reading,
    paths: &[PathBuf],
    contents: Vec<Content>,
    output: &mut Output,
) -> Result<(), CommandError> {
    let mut separator = "[\n";
    for (path, content) in paths.iter().zip(contents) {
        let name = serde_json::to_string(&text::Name(path.as_os_str())).unwrap_or_default();
        output.text(&format!("{separator}  {{\n    \"path\": {name},\n    \"content\": "))?;
        match content {
            Content::Held(held) => {
                let is_text = std::str::from_utf8(&held).is_ok();
                let mut held = held.as_slice();
                let read = |piece: &mut [u8]| Ok(std::io::Read::read(&mut held, piece).unwrap_or(0));
                print_content(path, is_text, read, output)?;
            }
            content => {
                let mut file = reading.open_file(path)?;
                let is_text = matches!(content, Content::Text);
                print_content(path, is_text, |piece| Ok(file.read(piece)?), output)?;
            }
        }
        output.text("\n  }")?;
        separator = ",\n";
    }
    output.text("\n]\n")
}

/// Prints text as a string, anything else as a list of bytes.
fn print_content(
    path: &Path,
    is_text: bool,
    read: impl FnMut(&mut [u8]) -> Result<usize, CommandError>,
    output: &mut Output,
) -> Result<(), CommandError> {
    if !is_text {
        let mut separator = "[";
        pieces(read, |piece| {
            let mut list = String::with_capacity(4 * piece.len());
            for byte in piece {
                list.push_str(separator);
                list.push_str(&byte.to_string());
                separator = ",";
            }
            output.text(&list)
        })?;
        return output.text("]");
    }
    output.text("\"")?;
    let mut text = Text::default();
    pieces(read, |piece| {
        text.take(piece, |text| {
            let quoted = serde_json::to_string(text).unwrap_or_default();
            output.text(&quoted[1..quoted.len() - 1])
        })
    })?;
    if !text.ends_well() {
        let message = format!("{} was changed while it was read", escape::name(path));
        return Err(CommandError::new(Kind::Failed, message));
    }
    output.text("\"")
}

/// Hands all that `read` gives to `take`, piece by piece.
fn pieces(
    mut read: impl FnMut(&mut [u8]) -> Result<usize, CommandError>,
    mut take: impl FnMut(&[u8]) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let mut piece = vec![0; PIECE];
    loop {
        match read(&mut piece)? {
            0 => return Ok(()),
            n => take(&piece[..n])?,
        }
    }
}

/// Text that comes in pieces, which may end in the middle of a character.
#[derive(Default)]
struct Text {
    /// The bytes of a character that has begun.
    begun: Vec<u8>,
    broken: bool,
}

impl Text {
    /// Hands on the characters that are complete.
    fn take(
        &mut self,
        piece: &[u8],
        emit: impl FnOnce(&str) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        self.begun.extend_from_slice(piece);
        let complete = match std::str::from_utf8(&self.begun) {
            Ok(text) => text.len(),
            Err(error) => {
                self.broken |= error.error_len().is_some();
                error.valid_up_to()
            }
        };
        if !self.broken {
            emit(std::str::from_utf8(&self.begun[..complete]).unwrap_or_default())?;
            self.begun.drain(..complete);
        } else {
            self.begun.clear();
        }
        Ok(())
    }

    /// Whether all of it was text.
    fn ends_well(&self) -> bool {
        !self.broken && self.begun.is_empty()
    }
}
