use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use clap::Args;

use super::candidates;
use super::context::Context;
use super::reading::{ReadArgs, Reading};
use crate::cli::output::error::{CommandError, Kind};
use crate::cli::output::files::{self, Row};
use crate::cli::output::printer::Output;
use crate::gateway::{FileStat, Pattern};
use crate::index::FileType;

const EXAMPLES: &str = "\
Examples:
  imagefs find python:3.12 /usr -name '*.so*' -type f
  imagefs find ./rootfs.tar -type f -size +10M
  imagefs find debian:12 -perm -4000 -ls          what runs as its owner
  imagefs find python:3.12:/etc -newer /etc/os-release -maxdepth 1";

/// Find files of a source by name, type, size and other attributes
///
/// Prints the paths of all files that fit everything that is asked for. The options may be written as for find(1), with
/// one dash. For what find(1) can besides, mount the source, and let find(1) search it.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct FindArgs {
    #[command(flatten)]
    read: ReadArgs,
    /// Where to begin; at its root if nothing is given
    #[arg(value_name = "PATH", add = candidates::paths())]
    paths: Vec<PathBuf>,
    /// The name fits a pattern with *, ? and [...]
    #[arg(long, value_name = "GLOB")]
    name: Option<OsString>,
    /// The name fits a pattern, upper and lower case being the same
    #[arg(long, value_name = "GLOB")]
    iname: Option<OsString>,
    /// The whole path fits a pattern, in which * and ? take a / too
    #[arg(long = "path", value_name = "GLOB")]
    whole_path: Option<OsString>,
    /// The type is one of these: f, d, l, b, c, p, s, or a list of them, as in f,l
    #[arg(long = "type", value_name = "T[,T...]")]
    types: Vec<Types>,
    /// The size is N units, or more (+N) or less (-N) than that
    ///
    /// Units: c (bytes), k, M, G (1024 each time); without one, blocks of 512 bytes. As for find(1), a size is rounded up
    /// to whole units before it is compared.
    #[arg(long, value_name = "[+-]N[ckMG]", allow_hyphen_values = true)]
    size: Option<Size>,
    /// The permissions are MODE, have all bits of it (-MODE), or any (/MODE); octal, as in -4000
    #[arg(long, value_name = "[-/]MODE", allow_hyphen_values = true)]
    perm: Option<Permissions>,
    /// It belongs to a user: a number, or a name in the source's own /etc/passwd
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// It belongs to a group: a number, or a name in the source's own /etc/group
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// It was modified later than FILE of the source
    #[arg(long, value_name = "FILE")]
    newer: Option<PathBuf>,
    /// It is an empty file or directory
    #[arg(long)]
    empty: bool,
    /// Go no deeper than N directories below where it begins
    #[arg(long, value_name = "N")]
    maxdepth: Option<usize>,
    /// Show nothing that is not N directories below where it begins
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    mindepth: usize,
    /// Show inode, mode, links, owner, group, size and time, too
    #[arg(long, conflicts_with_all = ["print0", "json"])]
    ls: bool,
    /// Print paths, as in any case
    #[arg(long, hide = true)]
    print: bool,
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

/// What permissions are compared with, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Permissions {
    Exactly(u16),
    All(u16),
    Any(u16),
}

impl FromStr for Permissions {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Permissions, &'static str> {
        let (how, digits): (fn(u16) -> Permissions, _) = match text.as_bytes().first() {
            Some(b'-') => (Permissions::All, &text[1..]),
            Some(b'/') => (Permissions::Any, &text[1..]),
            _ => (Permissions::Exactly, text),
        };
        let octal = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
        let bits = u16::from_str_radix(digits, 8).ok().filter(|bits| octal && *bits <= 0o7777);
        bits.map(how).ok_or("write an octal mode, as in 0644, -4000 or /0022")
    }
}

impl Permissions {
    fn fit(self, perm: u16) -> bool {
        match self {
            Permissions::Exactly(bits) => perm == bits,
            Permissions::All(bits) => perm & bits == bits,
            Permissions::Any(bits) => bits == 0 || perm & bits != 0,
        }
    }
}

/// All that is asked of a file, but what has to be looked up in the directory that it is.
struct Wanted<'a> {
    args: &'a FindArgs,
    name: Option<Pattern>,
    iname: Option<Pattern>,
    path: Option<Pattern>,
    uid: Option<u32>,
    gid: Option<u32>,
    newer: Option<i128>,
}

impl Wanted<'_> {
    fn fits(&self, file: &FileStat) -> bool {
        let name = file.name().as_encoded_bytes();
        let args = self.args;
        self.name.as_ref().is_none_or(|pattern| pattern.matches(name))
            && self.iname.as_ref().is_none_or(|pattern| pattern.matches(lower(name)))
            && self
                .path
                .as_ref()
                .is_none_or(|pattern| pattern.matches(file.path.as_os_str().as_encoded_bytes()))
            && args.types.iter().all(|types| types.0.contains(&files::type_letter(file.file_type)))
            && args.size.is_none_or(|size| size.fits(file.size))
            && args.perm.is_none_or(|permissions| permissions.fit(file.perm))
            && self.uid.is_none_or(|uid| uid == file.uid)
            && self.gid.is_none_or(|gid| gid == file.gid)
            && self.newer.is_none_or(|time| file.mtime_ns() > time)
    }
}

/// A name in lower case; what is no text stays.
fn lower(name: &[u8]) -> Vec<u8> {
    let mut lower = Vec::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        lower.extend_from_slice(chunk.valid().to_lowercase().as_bytes());
        lower.extend_from_slice(chunk.invalid());
    }
    lower
}

impl FindArgs {
    /// Does it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let paths = self.read.paths(&self.paths, Some("/"));
        self.read.read(context, |reading| {
            let wanted = self.wanted(reading)?;
            let mut output = context.printer.output();
            let mut rows: Vec<Row> = Vec::new();
            let tops = paths.iter().rev().map(|path| reading.stat_link(path));
            let tops: Vec<FileStat> = tops.collect::<Result<_, _>>()?;
            let mut ahead: Vec<(FileStat, usize)> = tops.into_iter().map(|top| (top, 0)).collect();
            while let Some((file, depth)) = ahead.pop() {
                let is_directory = file.file_type == FileType::Directory;
                let deeper = self.maxdepth.is_none_or(|most| depth < most);
                let mut is_empty = file.file_type == FileType::Regular && file.size == 0;
                if is_directory && (deeper || self.empty) {
                    let within = reading.read_dir(&file.path)?;
                    is_empty = within.is_empty();
                    if deeper {
                        ahead.extend(within.into_iter().rev().map(|file| (file, depth + 1)));
                    }
                }
                if depth < self.mindepth || self.empty && !is_empty || !wanted.fits(&file) {
                    continue;
                }
                match (self.json, self.print0) {
                    (true, _) => rows.push(file.into()),
                    (false, true) => {
                        output.bytes(&[file.path.as_os_str().as_encoded_bytes(), b"\0"].concat())?
                    }
                    (false, false) => self.print(&file, &mut output)?,
                }
            }
            output.finish()?;
            if self.json { context.printer.json(&rows) } else { Ok(()) }
        })?;
        Ok(ExitCode::SUCCESS)
    }

    fn wanted(&self, reading: &Reading) -> Result<Wanted<'_>, CommandError> {
        let pattern = |text: &OsString| Pattern::new(text.as_encoded_bytes());
        let newer = self.newer.as_ref().map(|path| reading.stat_file(path));
        Ok(Wanted {
            args: self,
            name: self.name.as_ref().map(pattern),
            iname: self.iname.as_ref().map(|text| Pattern::new(lower(text.as_encoded_bytes()))),
            path: self.whole_path.as_ref().map(pattern),
            uid: self.user.as_ref().map(|user| number(reading, user, "/etc/passwd")).transpose()?,
            gid: self.group.as_ref().map(|group| number(reading, group, "/etc/group")).transpose()?,
            newer: newer.transpose()?.map(|file| file.mtime_ns()),
        })
    }

    fn print(&self, file: &FileStat, output: &mut Output) -> Result<(), CommandError> {
        if self.ls {
            let (inode, links) = file.inode.map_or((0, 0), |inode| (inode.number, inode.links));
            output.text(&format!(
                "{inode:>9} {} {links:>3} {:<8} {:<8} {:>12} {} ",
                files::mode(file),
                file.uid,
                file.gid,
                files::size(file, false),
                files::short_time(file.mtime)
            ))?;
        }
        output.name(&file.path)?;
        if let (true, Some(target)) = (self.ls, &file.link_target) {
            output.text(" -> ")?;
            output.name(target)?;
        }
        output.text("\n")
    }
}

/// The number of a user or a group, who may be named as in passwd(5) or group(5) of the source.
fn number(reading: &Reading, who: &str, database: &str) -> Result<u32, CommandError> {
    if let Ok(number) = who.parse() {
        return Ok(number);
    }
    let text = reading.read_file(Path::new(database), MAX_DATABASE)?;
    let text = String::from_utf8_lossy(&text);
    let number = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(who)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    number.ok_or_else(|| {
        CommandError::new(Kind::NotFound, format!("{database} of the source does not name '{who}'"))
    })
}

/// No more is read of a passwd(5) or group(5), in bytes.
const MAX_DATABASE: u64 = 1 << 20;

/// The options that may be written with one dash.
const ONE_DASH: [&str; 15] = [
    "-name",
    "-iname",
    "-path",
    "-type",
    "-size",
    "-perm",
    "-user",
    "-group",
    "-newer",
    "-empty",
    "-maxdepth",
    "-mindepth",
    "-ls",
    "-print",
    "-print0",
];

/// Makes of `-name` and its like behind the verb `find` what the parser of the command line knows.
pub fn spell_out(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let verb = arguments.iter().position(|argument| argument == "find").unwrap_or(arguments.len());
    for argument in arguments.iter_mut().skip(verb).take_while(|argument| *argument != "--") {
        if let Some(option) = ONE_DASH.iter().find(|option| argument == **option) {
            *argument = format!("-{option}").into();
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
    fn permissions_are_compared_as_find_does() {
        let fit = |text: &str, perm: u16| text.parse::<Permissions>().unwrap().fit(perm);
        assert!(fit("644", 0o644) && !fit("0644", 0o4644) && fit("0", 0));
        assert!(fit("-4000", 0o4755) && !fit("-6000", 0o4755) && fit("-0", 0o4755));
        assert!(fit("/6000", 0o4755) && !fit("/022", 0o755) && fit("/0", 0));
        for bad in ["", "-", "u+s", "8", "+644", "17777", "--1"] {
            assert!(bad.parse::<Permissions>().is_err(), "{bad}");
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
