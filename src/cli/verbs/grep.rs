use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use grep_printer::{ColorSpecs, Standard, StandardBuilder, Summary, SummaryBuilder, SummaryKind};
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder};
use termcolor::{Ansi, NoColor, WriteColor};

use super::candidates;
use super::context::Context;
use super::reading::{ReadArgs, Reading};
use crate::cli::output::colors::When;
use crate::cli::output::error::{CommandError, Kind};
use crate::cli::output::escape;
use crate::cli::output::printer::{Printer, cannot_write};
use crate::gateway::{FileReader, FileStat, GatewayError, Pattern};
use crate::index::FileType;

/// No longer line is looked into, in bytes: an image is untrusted, and a line has to be held.
const MAX_LINE: usize = 64 << 20;

const EXAMPLES: &str = "\
Examples:
  imagefs grep PRETTY_NAME debian:12:/etc/os-release
  imagefs grep -rl --include '*.py' 'import ssl' python:3.12 /usr/local/lib
  imagefs grep -in 'password *=' ./rootfs.tar /etc /root

The syntax of PATTERN is that of Rust's regex, which has much of Perl's: +, |,
(…), \\d, \\b, (?i). Exits with 0 if a line fits, and with 1 if none does.";

/// Search the files of a source for lines that fit a pattern
///
/// A directory is searched with all that is in it, as with grep -r; symbolic links within it are not followed. Of a binary file
/// it is only told that it fits.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct GrepArgs {
    /// What to search for
    pattern: String,
    #[command(flatten)]
    read: ReadArgs,
    /// Files and directories of the source; its root if none is given
    #[arg(value_name = "PATH", add = candidates::paths())]
    paths: Vec<PathBuf>,
    /// Search directories, as in any case
    #[arg(short, long, visible_short_alias = 'R')]
    recursive: bool,
    /// Take upper and lower case as the same
    #[arg(short, long)]
    ignore_case: bool,
    /// Take PATTERN as it stands
    #[arg(short = 'F', long)]
    fixed_strings: bool,
    /// Find PATTERN as a whole word
    #[arg(short, long)]
    word_regexp: bool,
    /// Show the lines that do not fit (-v is for the log)
    #[arg(long)]
    invert_match: bool,
    /// Show the numbers of lines
    #[arg(short = 'n', long)]
    line_number: bool,
    /// Show the names of the files alone
    #[arg(short = 'l', long, conflicts_with = "count")]
    files_with_matches: bool,
    /// Show how many lines fit in each file
    #[arg(short, long)]
    count: bool,
    /// Show what fits alone, not its line
    #[arg(short, long)]
    only_matching: bool,
    /// Take binary files as text
    #[arg(short = 'a', long)]
    text: bool,
    /// Show N lines after each that fits
    #[arg(short = 'A', long, value_name = "N", default_value = "0", hide_default_value = true)]
    after_context: usize,
    /// Show N lines before each that fits
    #[arg(short = 'B', long, value_name = "N", default_value = "0", hide_default_value = true)]
    before_context: usize,
    /// Show N lines before and after each that fits
    #[arg(short = 'C', long, value_name = "N", conflicts_with_all = ["after_context", "before_context"])]
    context: Option<usize>,
    /// Of what is in a directory, search files alone whose name fits
    #[arg(long, value_name = "GLOB")]
    include: Option<String>,
    /// Show what fits in colours
    #[arg(long, value_name = "WHEN", default_value = "auto", num_args = 0..=1, require_equals = true,
        default_missing_value = "always")]
    color: When,
}

/// What prints: lines, or one line a file.
enum Told<W> {
    Lines(Standard<W>),
    Files(Summary<W>),
}

impl GrepArgs {
    /// Does it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let matcher = self.matcher()?;
        let paths = self.read.paths(&self.paths, Some("/"));
        let found = self.read.read(context, |reading| {
            let mut search = Search {
                reading,
                matcher: &matcher,
                searcher: self.searcher(),
                told: self.told(&context.printer, &paths, reading)?,
                include: self.include.as_ref().map(|glob| Pattern::new(glob.as_bytes())),
                found: false,
            };
            for path in &paths {
                search.path(path)?;
            }
            search.finish()
        })?;
        Ok(if found { ExitCode::SUCCESS } else { ExitCode::from(Kind::Negative.exit_status()) })
    }

    fn matcher(&self) -> Result<RegexMatcher, CommandError> {
        RegexMatcherBuilder::new()
            .case_insensitive(self.ignore_case)
            .word(self.word_regexp)
            .fixed_strings(self.fixed_strings)
            .line_terminator(Some(b'\n'))
            .build(&self.pattern)
            .map_err(|error| {
                CommandError::new(Kind::Usage, format!("the pattern '{}' cannot be understood", self.pattern))
                    .caused_by(error)
                    .hint("with -F it is taken as it stands")
            })
    }

    fn searcher(&self) -> Searcher {
        let binary = if self.text { BinaryDetection::none() } else { BinaryDetection::convert(0) };
        SearcherBuilder::new()
            .binary_detection(binary)
            .line_number(self.line_number)
            .invert_match(self.invert_match)
            .after_context(self.context.unwrap_or(self.after_context))
            .before_context(self.context.unwrap_or(self.before_context))
            .heap_limit(Some(MAX_LINE))
            .build()
    }

    /// The name of the file stands before what is found, unless a single file is searched.
    fn told(
        &self,
        printer: &Printer,
        paths: &[PathBuf],
        reading: &Reading,
    ) -> Result<Told<Box<dyn WriteColor>>, CommandError> {
        let named = match paths {
            [path] => reading.stat_file(path)?.file_type == FileType::Directory,
            _ => true,
        };
        let output = printer.output();
        let output: Box<dyn WriteColor> = match self.color.applies(output.is_terminal()) {
            true => Box::new(Ansi::new(output)),
            false => Box::new(NoColor::new(output)),
        };
        let colors = ColorSpecs::default_with_color();
        let kind = match (self.files_with_matches, self.count) {
            (true, _) => SummaryKind::PathWithMatch,
            (_, true) => SummaryKind::Count,
            (false, false) => {
                let lines = StandardBuilder::new()
                    .color_specs(colors)
                    .path(named)
                    .only_matching(self.only_matching)
                    .build(output);
                return Ok(Told::Lines(lines));
            }
        };
        let path = named || self.files_with_matches;
        let files =
            SummaryBuilder::new().color_specs(colors).path(path).kind(kind).exclude_zero(false).build(output);
        Ok(Told::Files(files))
    }
}

/// A search on its way.
struct Search<'a> {
    reading: &'a Reading,
    matcher: &'a RegexMatcher,
    searcher: Searcher,
    told: Told<Box<dyn WriteColor>>,
    include: Option<Pattern>,
    found: bool,
}

impl Search<'_> {
    /// Searches what the user named, links to it followed.
    fn path(&mut self, path: &Path) -> Result<(), CommandError> {
        let top = self.reading.stat_target(path)?;
        if top.file_type != FileType::Directory {
            return self.file(path);
        }
        let mut ahead: Vec<FileStat> = self.reading.read_dir(path)?.into_iter().rev().collect();
        while let Some(file) = ahead.pop() {
            match file.file_type {
                FileType::Directory => ahead.extend(self.reading.read_dir(&file.path)?.into_iter().rev()),
                FileType::Regular if self.includes(&file) => self.file(&file.path)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn includes(&self, file: &FileStat) -> bool {
        self.include.as_ref().is_none_or(|glob| glob.matches(file.name().as_encoded_bytes()))
    }

    fn file(&mut self, path: &Path) -> Result<(), CommandError> {
        let lost = RefCell::new(None);
        let content = Content { file: self.reading.open_file(path)?, lost: &lost };
        // A name from an image must not move the cursor.
        let name = PathBuf::from(escape::name(path));
        let searched = match &mut self.told {
            Told::Lines(lines) => {
                let mut sink = lines.sink_with_path(self.matcher, &name);
                let searched = self.searcher.search_reader(self.matcher, content, &mut sink);
                self.found |= sink.has_match();
                searched
            }
            Told::Files(files) => {
                let mut sink = files.sink_with_path(self.matcher, &name);
                let searched = self.searcher.search_reader(self.matcher, content, &mut sink);
                self.found |= sink.has_match();
                searched
            }
        };
        match (lost.into_inner(), searched) {
            (Some(error), _) => Err(CommandError::from(error)),
            (None, Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Err(cannot_write(error)),
            (None, Err(error)) => {
                Err(CommandError::new(Kind::Failed, format!("cannot search {}", name.display()))
                    .caused_by(error))
            }
            (None, Ok(())) => Ok(()),
        }
    }

    /// Sees that everything is written; tells whether anything was found.
    fn finish(mut self) -> Result<bool, CommandError> {
        let output = match &mut self.told {
            Told::Lines(lines) => lines.get_mut(),
            Told::Files(files) => files.get_mut(),
        };
        output.flush().map_err(cannot_write)?;
        Ok(self.found)
    }
}

/// The content of a file, which keeps what made it fail.
struct Content<'a> {
    file: FileReader<'a>,
    lost: &'a RefCell<Option<GatewayError>>,
}

impl io::Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer).map_err(|error| {
            let told = io::Error::other(error.to_string());
            *self.lost.borrow_mut() = Some(error);
            told
        })
    }
}
