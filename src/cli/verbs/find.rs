use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::Args;

use super::context::Context;
use super::reading::ReadArgs;
use crate::cli::output::error::CommandError;
use crate::cli::output::files::{self, Row};
use crate::gateway::{FileStat, Pattern};
use crate::index::FileType;

const EXAMPLES: &str = "\
Examples:
  imagefs find python:3.12 /usr -name '*.so*' -type f
  imagefs find ./rootfs.tar -type f -size +10M";

/// Find files of a source by name, type and size
///
/// Prints the paths of all files that fit everything that is asked for. The options may be written as for find(1), with
/// one dash.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct FindArgs {
    #[command(flatten)]
    read: ReadArgs,
    /// Where to begin
    #[arg(default_value = "/")]
    path: PathBuf,
    /// The name fits a pattern with *, ? and [...]
    #[arg(long, value_name = "GLOB")]
    name: Option<OsString>,
    /// The type is one of these: f, d, l, b, c, p, s, or a list of them, as in f,l
    #[arg(long = "type", value_name = "T[,T...]")]
    types: Vec<Types>,
    /// The size is N units, or more (+N) or less (-N) than that
    ///
    /// Units: c (bytes), k, M, G (1024 each time); without one, blocks of 512 bytes. As for find(1), a size is rounded up
    /// to whole units before it is compared.
    #[arg(long, value_name = "[+-]N[ckMG]", allow_hyphen_values = true)]
    size: Option<Size>,
    /// End each path with a NUL instead of a newline
    #[arg(short = '0', long)]
    print0: bool,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// Types of which a file has one, by their letters.
#[derive(Clone, Debug)]
struct Types(Vec<char>);

impl FromStr for Types {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Types, &'static str> {
        let letter = |word: &str| {
            let mut chars = word.chars();
            match (chars.next(), chars.next()) {
                (Some(letter @ ('f' | 'd' | 'l' | 'b' | 'c' | 'p' | 's')), None) => Ok(letter),
                _ => Err("write f, d, l, b, c, p or s"),
            }
        };
        text.split(',').map(letter).collect::<Result<_, _>>().map(Types)
    }
}

/// What a size is compared with, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    than: std::cmp::Ordering,
    count: u64,
    unit: u64,
}

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Size, &'static str> {
        let (than, rest) = match text.as_bytes().first() {
            Some(b'+') => (std::cmp::Ordering::Greater, &text[1..]),
            Some(b'-') => (std::cmp::Ordering::Less, &text[1..]),
            _ => (std::cmp::Ordering::Equal, text),
        };
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (count, unit) = rest.split_at(digits);
        let unit = match unit {
            "" | "b" => 512,
            "c" => 1,
            "k" => 1 << 10,
            "M" => 1 << 20,
            "G" => 1 << 30,
            _ => return Err("the unit is c, k, M or G"),
        };
        let count = count.parse().map_err(|_| "write a number and perhaps a unit, as in +10M")?;
        Ok(Size { than, count, unit })
    }
}

impl Size {
    fn fits(self, size: u64) -> bool {
        size.div_ceil(self.unit).cmp(&self.count) == self.than
    }
}

impl FindArgs {
    /// Does it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let name = self.name.as_ref().map(|name| Pattern::new(name.as_encoded_bytes()));
        let fits = |file: &FileStat| {
            name.as_ref().is_none_or(|name| name.matches(file.name().as_encoded_bytes()))
                && self.types.iter().all(|types| types.0.contains(&files::type_letter(file.file_type)))
                && self.size.is_none_or(|size| size.fits(file.size))
        };
        self.read.read(context, |reading| {
            let mut output = context.printer.output();
            let mut rows: Vec<Row> = Vec::new();
            let mut ahead = vec![reading.gateway.stat_link(reading.mount, &self.path)?];
            while let Some(file) = ahead.pop() {
                if file.file_type == FileType::Directory {
                    let within = reading.gateway.read_dir(reading.mount, &file.path, None)?;
                    ahead.extend(within.into_iter().rev());
                }
                if !fits(&file) {
                    continue;
                }
                match (self.json, self.print0) {
                    (true, _) => rows.push(file.into()),
                    (false, true) => {
                        output.bytes(&[file.path.as_os_str().as_encoded_bytes(), b"\0"].concat())?
                    }
                    (false, false) => {
                        output.name(&file.path)?;
                        output.text("\n")?;
                    }
                }
            }
            output.finish()?;
            if self.json { context.printer.json(&rows) } else { Ok(()) }
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Makes of `-name`, `-type` and `-size` behind the verb `find` what the parser of the command line knows.
pub fn spell_out(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let verb = arguments.iter().position(|argument| argument == "find").unwrap_or(arguments.len());
    for argument in arguments.iter_mut().skip(verb).take_while(|argument| *argument != "--") {
        for option in ["-name", "-type", "-size"] {
            if argument == option {
                *argument = format!("-{option}").into();
            }
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_compared_in_whole_units() {
        let fits = |text: &str, size: u64| text.parse::<Size>().unwrap().fits(size);
        assert!(fits("1", 1) && fits("1", 512) && !fits("1", 513) && fits("0", 0));
        assert!(fits("+1k", 1025) && !fits("+1k", 1024) && fits("-1k", 0) && !fits("-1k", 1));
        assert!(fits("5c", 5) && fits("-2M", 1 << 20) && fits("+4G", u64::MAX));
        for bad in ["", "+", "k", "1x", "--1", "99999999999999999999", "1kk"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_options_of_find_may_have_one_dash() {
        let spelled = |text: &str| {
            let words = spell_out(text.split(' ').map(OsString::from).collect());
            words.join(OsString::from(" ").as_os_str()).into_string().unwrap()
        };
        assert_eq!(
            spelled("imagefs -v find x -name -type -size -1"),
            "imagefs -v find x --name --type --size -1"
        );
        assert_eq!(spelled("imagefs ls -name"), "imagefs ls -name");
        assert_eq!(spelled("imagefs find -- -name"), "imagefs find -- -name");
    }
}
