//! The options of `-o`, spelled as mount(8) spells its own.
//!
//! A list of words divided by commas; given more than once, the lists add up, and of two that contradict each other
//! the later one counts.

use std::fmt;
use std::time::Duration;

use crate::cli::output::error::{CommandError, Kind};
use crate::cli::output::nearest::nearest;
use crate::fuse::{SymlinkMode, XattrMode};

/// An option: its name, and what giving it does.
struct Known {
    name: &'static str,
    root_only: bool,
    takes: Takes,
}

enum Takes {
    Nothing(fn(&mut MountOptions)),
    /// A value, spelled so in the help. The function answers `None` where the value is none of these.
    Value(&'static str, fn(&mut MountOptions, &str) -> Option<()>),
}

const fn flag(name: &'static str, set: fn(&mut MountOptions)) -> Known {
    Known { name, root_only: false, takes: Takes::Nothing(set) }
}

const fn root_flag(name: &'static str, set: fn(&mut MountOptions)) -> Known {
    Known { name, root_only: true, takes: Takes::Nothing(set) }
}

const fn value(
    name: &'static str,
    spelled: &'static str,
    set: fn(&mut MountOptions, &str) -> Option<()>,
) -> Known {
    Known { name, root_only: false, takes: Takes::Value(spelled, set) }
}

const KNOWN: [Known; 14] = [
    flag("ro", |_| {}),
    flag("flat", |o| o.flat = true),
    flag("exact", |o| o.exact = true),
    flag("layers", |o| (o.layers, o.exact) = (true, true)),
    flag("provenance", |o| (o.provenance, o.exact) = (true, true)),
    value("symlinks", "contain|raw", |o, v| {
        o.symlinks = match v {
            "contain" => SymlinkMode::Contain,
            "raw" => SymlinkMode::Raw,
            _ => return None,
        };
        Some(())
    }),
    value("xattr", "auto|on|off", |o, v| {
        o.xattr = match v {
            "auto" => XattrMode::Auto,
            "on" => XattrMode::On,
            "off" => XattrMode::Off,
            _ => return None,
        };
        Some(())
    }),
    flag("allow_other", |o| o.allow_other = true),
    value("uid", "N", |o, v| id(v).map(|id| o.uid = Some(id))),
    value("gid", "N", |o, v| id(v).map(|id| o.gid = Some(id))),
    root_flag("suid", |o| o.suid = true),
    root_flag("dev", |o| o.dev = true),
    value("fsname", "NAME", |o, v| {
        o.fsname = Some(v.to_owned());
        Some(())
    }),
    value("timeout", "SECONDS", |o, v| seconds(v).map(|timeout| o.timeout = Some(timeout))),
];

/// All of `-o`, read and checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// The root filesystem itself stands at the mountpoint.
    pub flat: bool,
    /// A daemon's image is got as its layers are stored: otherwise nothing is known of them.
    pub exact: bool,
    /// Each layer is shown beside the root filesystem.
    pub layers: bool,
    /// What tells the layer of a file is among its listed attributes.
    pub provenance: bool,
    /// How symlinks are answered.
    pub symlinks: SymlinkMode,
    /// How extended attributes are answered.
    pub xattr: XattrMode,
    /// Users other than the one who mounts may enter.
    pub allow_other: bool,
    /// Shown as the owner of everything.
    pub uid: Option<u32>,
    /// Shown as the group of everything.
    pub gid: Option<u32>,
    /// Setuid and setgid bits take effect.
    pub suid: bool,
    /// Device files can be opened.
    pub dev: bool,
    /// What mount(8) and df(1) show as the source.
    pub fsname: Option<String>,
    /// How long what has not come yet is waited for while nothing comes.
    pub timeout: Option<Duration>,
}

/// A word of `-o` that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// No option has this name.
    #[error("unknown mount option '{0}'")]
    Unknown(String),
    /// An option that takes no value was given one.
    #[error("mount option '{name}' takes no value, but was given '{value}'")]
    NoValue {
        /// The option.
        name: &'static str,
        /// What it was given.
        value: String,
    },
    /// An option that takes a value was given none.
    #[error("mount option '{0}' needs a value")]
    MissingValue(&'static str),
    /// Two options that cannot both be had.
    #[error("mount options '{0}' and '{1}' do not go together")]
    Contradiction(&'static str, &'static str),
    /// The value is none of those that the option takes.
    #[error("mount option '{name}' cannot be '{value}'")]
    BadValue {
        /// The option.
        name: &'static str,
        /// What it was given.
        value: String,
    },
    /// `rw` was asked for.
    #[error("mount option 'rw' is refused: a mount is always read-only")]
    ReadWrite,
    /// An option that would let an image act with root's rights, asked for by somebody else.
    #[error("mount option '{0}' is for root alone")]
    RootOnly(&'static str),
}

impl OptionError {
    /// What to write instead.
    pub fn hint(&self) -> Option<String> {
        match self {
            OptionError::Unknown(word) => {
                let likely = nearest(word, KNOWN.iter().map(|known| known.name));
                let near = KNOWN.iter().find(|known| Some(known.name) == likely);
                Some(match near {
                    Some(known) => format!("did you mean '{known}'?"),
                    None => {
                        let all: Vec<String> = KNOWN.iter().map(Known::to_string).collect();
                        format!("the mount options are {}", all.join(", "))
                    }
                })
            }
            OptionError::NoValue { name, .. }
            | OptionError::MissingValue(name)
            | OptionError::BadValue { name, .. } => {
                KNOWN.iter().find(|known| known.name == *name).map(|known| format!("write '{known}'"))
            }
            OptionError::ReadWrite => Some("leave it out".into()),
            OptionError::RootOnly(_) | OptionError::Contradiction(..) => None,
        }
    }
}

impl From<OptionError> for CommandError {
    fn from(error: OptionError) -> CommandError {
        CommandError::of(Kind::Usage, &error).maybe_hint(error.hint())
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.takes {
            Takes::Nothing(_) => f.write_str(self.name),
            Takes::Value(spelled, _) => write!(f, "{}={spelled}", self.name),
        }
    }
}

impl MountOptions {
    /// Reads the lists in the order in which they were given. `root` tells whether root asks.
    pub fn parse<S: AsRef<str>>(lists: &[S], root: bool) -> Result<MountOptions, OptionError> {
        let mut options = MountOptions::default();
        for word in lists.iter().flat_map(|list| list.as_ref().split(',')).filter(|word| !word.is_empty()) {
            options.set(word, root)?;
        }
        if options.flat && options.layers {
            return Err(OptionError::Contradiction("flat", "layers"));
        }
        Ok(options)
    }

    fn set(&mut self, word: &str, root: bool) -> Result<(), OptionError> {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        if name == "rw" {
            return Err(OptionError::ReadWrite);
        }
        let known = KNOWN
            .iter()
            .find(|known| known.name == name)
            .ok_or_else(|| OptionError::Unknown(name.to_owned()))?;
        let name = known.name;
        if known.root_only && !root {
            return Err(OptionError::RootOnly(name));
        }
        match (&known.takes, value) {
            (Takes::Nothing(set), None) => set(self),
            (Takes::Nothing(_), Some(value)) => {
                return Err(OptionError::NoValue { name, value: value.to_owned() });
            }
            (Takes::Value(..), None | Some("")) => return Err(OptionError::MissingValue(name)),
            (Takes::Value(_, set), Some(value)) => {
                set(self, value).ok_or_else(|| OptionError::BadValue { name, value: value.to_owned() })?
            }
        }
        Ok(())
    }
}

/// A user or group id. The largest number means "none" to the kernel.
fn id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id != u32::MAX)
}

/// A time to wait: a whole number of seconds, at least one.
fn seconds(text: &str) -> Option<Duration> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse::<u32>().ok().filter(|&seconds| digits && seconds > 0).map(|s| Duration::from_secs(s.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> Result<MountOptions, OptionError> {
        MountOptions::parse(&[list], false)
    }

    fn explain(list: &str) -> String {
        let error = parse(list).unwrap_err();
        format!("{error}; {}", error.hint().unwrap_or_default())
    }

    #[test]
    fn lists_add_up_and_the_later_word_counts() {
        let options =
            MountOptions::parse(&["ro,flat,symlinks=raw", "uid=1000,,gid=0", "symlinks=contain"], false)
                .unwrap();
        let expected = MountOptions { flat: true, uid: Some(1000), gid: Some(0), ..MountOptions::default() };
        assert_eq!(options, expected);
    }

    #[test]
    fn what_tells_of_layers_has_them_read() {
        assert!(parse("layers").unwrap().exact && parse("provenance").unwrap().exact);
        assert!(!parse("flat").unwrap().exact);
    }

    #[test]
    fn an_unknown_option_is_named_with_the_nearest_known_one() {
        assert_eq!(
            explain("flat,symlink=raw"),
            "unknown mount option 'symlink'; did you mean 'symlinks=contain|raw'?"
        );
        assert_eq!(explain("allow-other"), "unknown mount option 'allow-other'; did you mean 'allow_other'?");
        assert_eq!(
            explain("remount"),
            "unknown mount option 'remount'; the mount options are ro, flat, exact, layers, provenance, \
             symlinks=contain|raw, xattr=auto|on|off, allow_other, uid=N, gid=N, suid, dev, fsname=NAME, \
             timeout=SECONDS"
        );
    }

    #[test]
    fn values_are_checked() {
        assert_eq!(explain("flat=1"), "mount option 'flat' takes no value, but was given '1'; write 'flat'");
        assert_eq!(explain("uid"), "mount option 'uid' needs a value; write 'uid=N'");
        assert_eq!(explain("layers,flat"), "mount options 'flat' and 'layers' do not go together; ");
        assert_eq!(explain("fsname="), "mount option 'fsname' needs a value; write 'fsname=NAME'");
        assert_eq!(explain("xattr=yes"), "mount option 'xattr' cannot be 'yes'; write 'xattr=auto|on|off'");
        for bad in [
            "uid=root",
            "uid=-1",
            "uid=+1",
            "gid=4294967295",
            "gid=4294967296",
            "uid=0x1",
            "timeout=0",
            "timeout=1.5",
        ] {
            assert!(matches!(parse(bad), Err(OptionError::BadValue { .. })), "{bad}");
        }
    }

    #[test]
    fn what_would_endanger_the_host_is_refused() {
        assert_eq!(parse("rw"), Err(OptionError::ReadWrite));
        assert_eq!(parse("suid"), Err(OptionError::RootOnly("suid")));
        assert_eq!(parse("dev"), Err(OptionError::RootOnly("dev")));
        let options = MountOptions::parse(&["suid,dev"], true).unwrap();
        assert!(options.suid && options.dev);
    }
}
