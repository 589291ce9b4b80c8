//! The options of `-o`, spelled as mount(8) spells its own.
//!
//! A list of words divided by commas; given more than once, the lists add up, and of two that contradict each other
//! the later one counts. A comma that belongs to a value has a backslash before it, and so has a backslash.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::Path;
use std::time::Duration;

use crate::cli::output::error::{CommandError, Kind};
use crate::cli::output::nearest::nearest;
use crate::fuse::{SessionConfig, SymlinkMode, XattrMode};

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
    /// The same, or no value, which is told as an empty one.
    Maybe(&'static str, fn(&mut MountOptions, &str) -> Option<()>),
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

const KNOWN: [Known; 18] = [
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
    Known {
        name: "kernel",
        root_only: false,
        takes: Takes::Maybe("auto|copy", |o, v| {
            o.kernel = match v {
                "" => KernelMode::Only,
                "auto" => KernelMode::Auto,
                "copy" => KernelMode::Copy,
                _ => return None,
            };
            Some(())
        }),
    },
    root_flag("suid", |o| o.suid = true),
    root_flag("dev", |o| o.dev = true),
    flag("noexec", |o| o.noexec = true),
    flag("remount", |o| o.remount = true),
    value("fsname", "NAME", |o, v| {
        o.fsname = Some(v.to_owned());
        Some(())
    }),
    value("only", "PATTERN", |o, v| {
        o.only = Some(v.to_owned());
        Some(())
    }),
    value("timeout", "SECONDS", |o, v| seconds(v).map(|timeout| o.timeout = Some(timeout))),
];

/// What mount(8) and fstab(5) say to others than the filesystem, or what is so here in any case. See mount(8),
/// FILESYSTEM-INDEPENDENT MOUNT OPTIONS, systemd.mount(5), and libmount's list.
const GENERIC: [&str; 28] = [
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "nouser",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "async",
    "sync",
    "dirsync",
    "iversion",
    "noiversion",
    "mand",
    "nomand",
    "silent",
    "loud",
    "noowner",
    "nogroup",
    "nousers",
];

/// The names of the options; an equals sign behind those that take a value.
pub fn names() -> impl Iterator<Item = String> {
    KNOWN.iter().map(|known| match known.takes {
        Takes::Nothing(_) | Takes::Maybe(..) => known.name.to_owned(),
        Takes::Value(..) => format!("{}=", known.name),
    })
}

/// Whether the kernel is to serve a mount by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelMode {
    /// No: there is a FUSE session.
    #[default]
    Off,
    /// If it can.
    Auto,
    /// Yes, or there is no mount.
    Only,
    /// The same, with a copy of all contents in an image of its own.
    Copy,
}

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
    /// Whether the kernel serves it by itself.
    pub kernel: KernelMode,
    /// Setuid and setgid bits take effect.
    pub suid: bool,
    /// Device files can be opened.
    pub dev: bool,
    /// Programs cannot be run.
    pub noexec: bool,
    /// What is mounted already gets these options.
    pub remount: bool,
    /// What mount(8) and df(1) show as the source.
    pub fsname: Option<String>,
    /// Of all that an engine has, the names that are shown.
    pub only: Option<String>,
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
            Takes::Maybe(spelled, _) => write!(f, "{}[={spelled}]", self.name),
        }
    }
}

impl MountOptions {
    /// How a session of `source` is mounted.
    pub fn session_config(&self, mountpoint: &Path, source: &OsStr) -> SessionConfig {
        let defaults = SessionConfig::new(mountpoint);
        SessionConfig {
            fsname: self.fsname.clone().map_or_else(|| source.to_owned(), OsString::from),
            allow_other: self.allow_other,
            suid: self.suid,
            dev: self.dev,
            exec: !self.noexec,
            timeout: self.timeout.unwrap_or(defaults.timeout),
            ..defaults
        }
    }

    /// Reads the lists in the order in which they were given. `root` tells whether root asks.
    pub fn parse<S: AsRef<str>>(lists: &[S], root: bool) -> Result<MountOptions, OptionError> {
        let mut options = MountOptions::default();
        let words: Vec<String> = lists.iter().flat_map(|list| words(list.as_ref())).collect();
        // mount(8) then repeats what the kernel says of the mount.
        let repeats = words.iter().any(|word| word == "remount");
        for word in words.iter().filter(|word| !repeats || !is_of_fuse(word)) {
            options.set(word, root)?;
        }
        if options.flat && options.layers {
            return Err(OptionError::Contradiction("flat", "layers"));
        }
        let only = matches!(options.kernel, KernelMode::Only | KernelMode::Copy);
        if only && !root {
            return Err(OptionError::RootOnly("kernel"));
        }
        if only && options.fsname.is_some() {
            return Err(OptionError::Contradiction("kernel", "fsname"));
        }
        Ok(options)
    }

    /// Whether there is an option of that name, whatever its value.
    pub fn knows(word: &str) -> bool {
        let name = word.split('=').next().unwrap_or_default();
        KNOWN.iter().any(|known| known.name == name)
            || MountOptions::default().set_generic(word)
            || name == "rw"
    }

    /// Takes an option that every filesystem takes; whether it is one.
    fn set_generic(&mut self, word: &str) -> bool {
        let name = word.split('=').next().unwrap_or_default();
        match name {
            "nosuid" => self.suid = false,
            "nodev" => self.dev = false,
            "exec" => self.noexec = false,
            // As mount(8) has it for what others than root may mount.
            "user" | "users" | "owner" | "group" => {
                (self.suid, self.dev, self.noexec) = (false, false, true);
            }
            "comment" => {}
            name => return name.starts_with("x-") || name.starts_with("X-") || GENERIC.contains(&word),
        }
        true
    }

    fn set(&mut self, word: &str, root: bool) -> Result<(), OptionError> {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        if name == "rw" {
            return Err(OptionError::ReadWrite);
        }
        if self.set_generic(word) {
            return Ok(());
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
            (Takes::Maybe(..), Some("")) => return Err(OptionError::MissingValue(name)),
            (Takes::Maybe(_, set), value) => {
                let value = value.unwrap_or_default();
                set(self, value).ok_or_else(|| OptionError::BadValue { name, value: value.to_owned() })?
            }
            (Takes::Value(..), None | Some("")) => return Err(OptionError::MissingValue(name)),
            (Takes::Value(_, set), Some(value)) => {
                set(self, value).ok_or_else(|| OptionError::BadValue { name, value: value.to_owned() })?
            }
        }
        Ok(())
    }
}

/// Whether the kernel says this of a mount of FUSE, fuse(8).
fn is_of_fuse(word: &str) -> bool {
    let name = word.split('=').next().unwrap_or_default();
    matches!(name, "user_id" | "group_id" | "default_permissions" | "max_read" | "blksize" | "subtype")
}

/// The words of a list, without the backslashes before commas and backslashes.
pub fn words(list: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut characters = list.chars().peekable();
    while let Some(character) = characters.next() {
        let last = words.len() - 1;
        match character {
            ',' => words.push(String::new()),
            '\\' => words[last].push(characters.next_if(|c| matches!(c, ',' | '\\')).unwrap_or('\\')),
            character => words[last].push(character),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// A word as it is written in a list.
pub fn escaped(word: &str) -> String {
    word.replace('\\', r"\\").replace(',', r"\,")
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
            explain("umask=022"),
            "unknown mount option 'umask'; the mount options are ro, flat, exact, layers, provenance, \
             symlinks=contain|raw, xattr=auto|on|off, allow_other, uid=N, gid=N, kernel[=auto|copy], suid, dev, noexec, \
             remount, fsname=NAME, only=PATTERN, timeout=SECONDS"
        );
    }

    #[test]
    fn what_every_filesystem_takes_is_taken() {
        let plain =
            "defaults,noauto,nofail,_netdev,noatime,x-systemd.automount,X-mount.mkdir=0755,comment=a b";
        assert_eq!(parse(plain), Ok(MountOptions::default()));
        let user = MountOptions { noexec: true, ..MountOptions::default() };
        for list in ["user", "users", "user=me", "noexec,nosuid,nodev", "exec,group"] {
            assert_eq!(parse(list), Ok(user.clone()), "{list}");
        }
        assert_eq!(parse("user,exec"), Ok(MountOptions::default()));
        assert_eq!(MountOptions::parse(&["suid,dev,nosuid,nodev"], true), Ok(MountOptions::default()));
        for unknown in ["nofail=1", "_netdevs", "noatimes"] {
            assert!(matches!(parse(unknown), Err(OptionError::Unknown(_))), "{unknown}");
        }
    }

    #[test]
    fn a_comma_in_a_value_has_a_backslash_before_it() {
        let options = parse(r"fsname=a\,b\\c\d,flat").unwrap();
        assert_eq!((options.fsname.as_deref(), options.flat), (Some(r"a,b\c\d"), true));
        for word in [r"a,b\", r"\,", "plain"] {
            assert_eq!(words(&escaped(word)), [word]);
        }
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
        assert_eq!(parse("kernel"), Err(OptionError::RootOnly("kernel")));
        assert_eq!(parse("kernel=auto").unwrap().kernel, KernelMode::Auto);
        assert_eq!(explain("kernel=on"), "mount option 'kernel' cannot be 'on'; write 'kernel[=auto|copy]'");
        assert_eq!(MountOptions::parse(&["kernel"], true).unwrap().kernel, KernelMode::Only);
        let options = MountOptions::parse(&["suid,dev"], true).unwrap();
        assert!(options.suid && options.dev);
    }
}
