//! All that a command prints goes through here.
//!
//! Standard output is for what can be piped on; notes, errors and hints go to standard error. Meaning never depends
//! on colour. A name may come from a hostile image: control characters, and characters that change the direction
//! of text, are escaped wherever a name could reach a terminal.

use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::bar::Bar;
use super::error::{CommandError, Kind};
use super::escape::{self, escape};
use crate::progress::{Phase, Progress};

/// Prints for one command. All clones share what is on the terminal.
#[derive(Clone, Debug)]
pub struct Printer {
    quiet: bool,
    shows_bars: bool,
    bar: Arc<Mutex<Option<Bar>>>,
}

impl Printer {
    /// With `quiet`, notes are left out, and so are bars. With `logs`, the log goes where a bar would be.
    pub fn new(quiet: bool, logs: bool) -> Printer {
        Printer { quiet, shows_bars: !quiet && !logs, bar: Arc::default() }
    }

    /// From now on [`Printer::draw`] shows a bar for the task of that name.
    pub fn begin_bar(&self, task: &str) {
        *self.bar() = self.shows_bars.then(|| Bar::new(task));
    }

    /// Whether there is a bar, and somebody to see it.
    pub fn has_bar(&self) -> bool {
        self.bar().as_ref().is_some_and(|bar| !bar.is_hidden())
    }

    /// Shows how far the task is, if it has a bar.
    pub fn draw(&self, progress: &Progress) {
        let mut bar = self.bar();
        match &mut *bar {
            // Whatever goes on now, nothing is read any more.
            Some(_) if progress.phase() == Phase::Done => *bar = None,
            Some(bar) => bar.draw(progress),
            None => {}
        }
    }

    /// Wipes the bar.
    pub fn end_bar(&self) {
        *self.bar() = None;
    }

    /// Wipes the bar for as long as `print` takes.
    fn beside_bar(&self, print: impl FnOnce()) {
        match &*self.bar() {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn bar(&self) -> MutexGuard<'_, Option<Bar>> {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a line to standard output, escaped.
    pub fn line(&self, line: impl fmt::Display) -> Result<(), CommandError> {
        self.raw(format!("{}\n", escape(&line.to_string())).as_bytes())
    }

    /// Writes a path to standard output, byte by byte, for whatever reads it.
    pub fn path(&self, path: &Path) -> Result<(), CommandError> {
        let mut line = path.as_os_str().as_bytes().to_vec();
        line.push(b'\n');
        self.raw(&line)
    }

    /// Writes rows as columns that line up, under a heading, to standard output.
    pub fn table<const N: usize>(
        &self,
        heading: [&str; N],
        rows: &[[String; N]],
    ) -> Result<(), CommandError> {
        self.raw(table(heading, rows).as_bytes())
    }

    /// Writes a value as indented JSON to standard output.
    pub fn json(&self, value: &impl Serialize) -> Result<(), CommandError> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|e| CommandError::new(Kind::Failed, "cannot write the answer as JSON").caused_by(e))?;
        self.raw((text + "\n").as_bytes())
    }

    /// Tells the user something on standard error, unless told to be quiet.
    pub fn note(&self, note: impl fmt::Display) {
        if !self.quiet {
            self.beside_bar(|| stderr_line("", &note.to_string()));
        }
    }

    /// Reports an error, its causes and its hints on standard error.
    pub fn error(&self, error: &CommandError) {
        self.end_bar();
        stderr_line("error: ", error.message());
        for cause in error.causes() {
            stderr_line("  caused by: ", cause);
        }
        for hint in error.hints() {
            stderr_line("hint: ", hint);
        }
    }

    /// Standard output, for what is too much to be printed at once.
    pub fn output(&self) -> Output {
        let terminal = io::stdout().is_terminal();
        let bar = terminal.then(|| self.clone());
        Output { terminal, stdout: BufWriter::new(io::stdout().lock()), bar }
    }

    fn raw(&self, bytes: &[u8]) -> Result<(), CommandError> {
        self.end_bar();
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(cannot_write)
    }
}

/// Standard output, in small pieces. What is left in it is lost without [`Output::finish`].
pub struct Output {
    stdout: BufWriter<StdoutLock<'static>>,
    terminal: bool,
    /// Whose bar is in the way, if one may be.
    bar: Option<Printer>,
}

impl Output {
    /// Whether a person is looking.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Writes text of our own.
    pub fn text(&mut self, text: &str) -> Result<(), CommandError> {
        self.bytes(text.as_bytes())
    }

    /// Writes a name: escaped for a terminal, byte by byte for a program.
    pub fn name(&mut self, name: impl AsRef<OsStr>) -> Result<(), CommandError> {
        match self.terminal {
            true => self.text(&escape::name(name)),
            false => self.bytes(name.as_ref().as_bytes()),
        }
    }

    /// Writes bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), CommandError> {
        self.clear();
        self.stdout.write_all(bytes).map_err(cannot_write)
    }

    /// Wipes the bar before the first byte.
    fn clear(&mut self) {
        if let Some(printer) = self.bar.take() {
            printer.end_bar();
        }
    }

    /// Sees that everything is written.
    pub fn finish(mut self) -> Result<(), CommandError> {
        self.stdout.flush().map_err(cannot_write)
    }
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.clear();
        self.stdout.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}

/// The error for a standard output that takes no more.
pub fn cannot_write(error: io::Error) -> CommandError {
    let kind = match error.kind() {
        io::ErrorKind::BrokenPipe => Kind::NoReader,
        _ => Kind::Failed,
    };
    CommandError::new(kind, "cannot write to the standard output").caused_by(error)
}

fn stderr_line(prefix: &str, text: &str) {
    // Where standard error is closed there is nobody left to tell.
    let _ = writeln!(io::stderr().lock(), "{prefix}{}", escape(text));
}

fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let heading = heading.map(str::to_owned);
    let rows: Vec<[String; N]> =
        std::iter::once(&heading).chain(rows).map(|row| row.each_ref().map(|cell| escape(cell))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_blanks() {
        let rows = [["a".into(), "long cell".into()], ["ünü\n".into(), String::new()]];
        assert_eq!(table(["X", "Y"], &rows), "X      Y\na      long cell\nünü\\n\n");
    }
}
