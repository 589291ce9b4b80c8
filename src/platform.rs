//! What an image is for: how a platform is spelled, and which image does where another was asked for.
//!
//! The rules are containerd's, [`database.go`][normalise] and [`compare.go`][fall back] of its platforms module, which docker, nerdctl
//! and ctr share.
//!
//! [normalise]: https://github.com/containerd/platforms/blob/v1.0.0-rc.5/database.go
//! [fall back]: https://github.com/containerd/platforms/blob/v1.0.0-rc.5/compare.go

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The platform of an image, spelled `os/arch[/variant]` with Go's names for both.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `GOOS`: `linux`, `windows`, …
    pub os: String,
    /// `GOARCH`: `amd64`, `arm64`, …
    pub architecture: String,
    /// `v7`, `v8`, …; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// A text that is no [`Platform`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a platform: write os/arch or os/arch/variant, as in linux/arm64")]
pub struct BadPlatform(String);

/// The operating systems that Go knows, which alone are no architecture.
const SYSTEMS: [&str; 14] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "illumos",
    "ios",
    "js",
    "linux",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
];

/// The architectures that Go knows, in its spelling.
const ARCHITECTURES: [&str; 15] = [
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le",
    "riscv64", "s390x", "sparc64", "wasm",
];

impl Platform {
    /// The platform that this machine runs.
    pub fn host() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86" => "386",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Platform { os: "linux".into(), architecture: architecture.into(), variant: String::new() }
            .normalised()
    }

    /// The same in the one spelling that all have in common.
    fn normalised(&self) -> Platform {
        let [os, architecture, variant] =
            [&self.os, &self.architecture, &self.variant].map(|word| word.to_ascii_lowercase());
        let os = if os == "macos" { "darwin".to_owned() } else { os };
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
            ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            other => other,
        };
        Platform { os, architecture: architecture.to_owned(), variant: variant.to_owned() }
    }

    /// What does where this, which is normalised, was asked for: itself, then ever less of it.
    fn fallbacks(&self) -> Vec<Platform> {
        let of = |architecture: &str, variant: &str| {
            let platform =
                Platform { os: self.os.clone(), architecture: architecture.into(), variant: variant.into() };
            platform.normalised()
        };
        let number = self.variant.strip_prefix('v').and_then(|number| number.parse::<u8>().ok());
        let below = |number: Option<u8>, lowest: u8| (lowest..number.unwrap_or(0)).rev();
        let mut platforms = vec![self.clone()];
        match self.architecture.as_str() {
            "amd64" => {
                platforms.extend(below(number, 1).map(|n| of("amd64", &format!("v{n}"))));
                platforms.push(of("386", ""));
            }
            "arm" => platforms.extend(below(number, 5).map(|n| of("arm", &format!("v{n}")))),
            "arm64" => {
                let (major, minor) = match self.variant.strip_prefix('v') {
                    None => (8, 0),
                    Some(version) => {
                        let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
                        (major.parse().unwrap_or(0), minor.parse().unwrap_or(0))
                    }
                };
                let mut down = |major: u8, from: u8| {
                    platforms.extend((1..=from).rev().map(|minor| of("arm64", &format!("v{major}.{minor}"))));
                    platforms.push(of("arm64", &format!("v{major}")));
                };
                // An ARMv9.x does all that an ARMv8.(x + 5) does, of which there are nine.
                match (major, minor) {
                    (9, 0..=7) => {
                        down(9, minor);
                        down(8, (minor + 5).min(9));
                    }
                    (8, 0..=9) => down(8, minor),
                    _ => return platforms,
                }
                platforms.extend((5..=8).rev().map(|n| of("arm", &format!("v{n}"))));
            }
            _ => {}
        }
        platforms
    }

    /// How well an image of platform `self` does where `wanted` was asked for, 0 for best; `None` if it does not.
    pub(crate) fn rank(&self, wanted: &Platform) -> Option<usize> {
        let has = self.normalised();
        wanted.normalised().fallbacks().into_iter().position(|platform| platform == has)
    }

    /// Whether an image of platform `self` will do where `wanted` was asked for.
    pub fn satisfies(&self, wanted: &Platform) -> bool {
        self.rank(wanted).is_some()
    }
}

impl FromStr for Platform {
    type Err = BadPlatform;

    /// `os/arch[/variant]`, or one of the first two alone: the other is then this machine's.
    fn from_str(text: &str) -> Result<Platform, BadPlatform> {
        let bad = || BadPlatform(text.chars().take(100).collect());
        let word = |w: &&str| {
            !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(word) {
            return Err(bad());
        }
        let platform = |os: &str, architecture: &str, variant: &str| {
            let (os, architecture, variant) = (os.into(), architecture.into(), variant.into());
            Platform { os, architecture, variant }.normalised()
        };
        match parts[..] {
            [one] => {
                let host = Platform::host();
                let (as_os, as_architecture) =
                    (platform(one, &host.architecture, &host.variant), platform(&host.os, one, ""));
                match () {
                    () if SYSTEMS.contains(&as_os.os.as_str()) => Ok(as_os),
                    () if ARCHITECTURES.contains(&as_architecture.architecture.as_str()) => {
                        Ok(as_architecture)
                    }
                    () => Err(bad()),
                }
            }
            [os, architecture] => Ok(platform(os, architecture, "")),
            [os, architecture, variant] => Ok(platform(os, architecture, variant)),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn many_spellings_are_one_platform() {
        for (spelled, normal) in [
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AMD64/v1", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/i386", "linux/386"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("macos/arm64", "darwin/arm64"),
            ("arm64", "linux/arm64"),
            ("x86_64", "linux/amd64"),
            ("linux/s390x", "linux/s390x"),
        ] {
            assert_eq!(platform(spelled).to_string(), normal, "{spelled}");
        }
        assert_eq!(platform("linux"), Platform::host());
        for bad in ["pdp11", "linux/", "a/b/c/d", "linux/arm64;rm", ""] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_runs_less_does_where_more_was_asked_for() {
        let best = |wanted: &str, there: &[&str]| {
            let ranked = there.iter().filter_map(|has| Some((platform(has).rank(&platform(wanted))?, *has)));
            ranked.min().map(|(_, has)| has.to_owned())
        };
        let all =
            ["linux/arm/v5", "linux/arm/v6", "linux/arm/v7", "linux/amd64", "linux/amd64/v3", "linux/386"];
        for (wanted, found) in [
            ("linux/arm", Some("linux/arm/v7")),
            ("linux/arm/v6", Some("linux/arm/v6")),
            ("linux/arm64", Some("linux/arm/v7")),
            ("linux/amd64/v4", Some("linux/amd64/v3")),
            ("linux/amd64/v2", Some("linux/amd64")),
            ("linux/amd64", Some("linux/amd64")),
            ("linux/386", Some("linux/386")),
            ("linux/ppc64le", None),
            ("windows/amd64", None),
        ] {
            assert_eq!(best(wanted, &all).as_deref(), found, "{wanted}");
        }
        assert_eq!(best("linux/arm/v6", &all[..1]).unwrap(), "linux/arm/v5");
        assert_eq!(best("linux/arm/v7", &all[..2]).unwrap(), "linux/arm/v6");
        assert_eq!(best("linux/arm/v5", &all[1..3]), None, "which cannot run it");
        assert_eq!(best("linux/arm64/v9", &["linux/arm64", "linux/arm64/v8.2"]).unwrap(), "linux/arm64/v8.2");
    }
}
