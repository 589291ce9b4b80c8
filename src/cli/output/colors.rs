//! Names in the colours that the user has for files: LS_COLORS, as dircolors(1) makes it.

use clap::ValueEnum;
use lscolors::{Indicator, LsColors};

use super::error::CommandError;
use super::printer::Output;
use crate::gateway::FileStat;
use crate::index::FileType;

/// When names are in colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Also where it is no terminal.
    Always,
    /// Not at all.
    Never,
}

impl When {
    /// Whether there are colours, on a terminal or elsewhere.
    pub fn applies(self, terminal: bool) -> bool {
        let unwanted = || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        match self {
            When::Auto => terminal && !unwanted(),
            When::Always => true,
            When::Never => false,
        }
    }
}

/// The colours; none of them where there are none.
pub struct Colors(Option<LsColors>);

impl Colors {
    /// Those of the environment, or ls(1)'s own.
    pub fn new(when: When, terminal: bool) -> Colors {
        Colors(when.applies(terminal).then(|| LsColors::from_env().unwrap_or_default()))
    }

    /// Writes a file's name, in its colours.
    pub fn name(
        &self,
        output: &mut Output,
        name: impl AsRef<std::ffi::OsStr>,
        file: &FileStat,
    ) -> Result<(), CommandError> {
        let style = self.0.as_ref().and_then(|colors| style(colors, file));
        let style = style.map(lscolors::Style::to_nu_ansi_term_style).unwrap_or_default();
        output.text(&style.prefix().to_string())?;
        output.name(name)?;
        output.text(&style.suffix().to_string())
    }
}

fn style<'a>(colors: &'a LsColors, file: &FileStat) -> Option<&'a lscolors::Style> {
    let has = |bits: u16| file.perm & bits == bits;
    let indicator = match file.file_type {
        FileType::Directory if has(0o1002) => Indicator::StickyAndOtherWritable,
        FileType::Directory if has(0o0002) => Indicator::OtherWritable,
        FileType::Directory if has(0o1000) => Indicator::Sticky,
        FileType::Directory => Indicator::Directory,
        FileType::Symlink => Indicator::SymbolicLink,
        FileType::CharDevice => Indicator::CharacterDevice,
        FileType::BlockDevice => Indicator::BlockDevice,
        FileType::Fifo => Indicator::FIFO,
        FileType::Socket => Indicator::Socket,
        FileType::Regular if has(0o4000) => Indicator::Setuid,
        FileType::Regular if has(0o2000) => Indicator::Setgid,
        FileType::Regular if file.perm & 0o111 != 0 => Indicator::ExecutableFile,
        FileType::Regular => {
            let by_name = file.name().to_str().and_then(|name| colors.style_for_str(name));
            return by_name.or_else(|| colors.style_for_indicator(Indicator::RegularFile));
        }
    };
    colors.style_for_indicator(indicator)
}
