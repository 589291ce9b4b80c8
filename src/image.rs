//! Words that every source of images shares: digest and configuration, and the [platform](crate::platform).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

pub use crate::platform::{BadPlatform, Platform};

/// A SHA-256 digest as the OCI image specification spells it: `sha256:` and 64 lowercase hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// A text that is no [`Digest`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a digest: it must be sha256: and 64 lowercase hexadecimal digits")]
pub struct BadDigest(String);

impl Digest {
    /// A digest from its 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Digest {
        Digest(bytes)
    }

    /// Its 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hexadecimal digits, without the algorithm.
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }

    /// The first 12 hexadecimal digits: what docker shows as a short id.
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }
}

impl FromStr for Digest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Digest, BadDigest> {
        let bad = || BadDigest(text.chars().take(100).collect());
        let hex = text.strip_prefix("sha256:").ok_or_else(bad)?.as_bytes();
        let mut bytes = [0; 32];
        if hex.len() != 64 {
            return Err(bad());
        }
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            let digit = |c: u8| match c {
                b'0'..=b'9' => Ok(c - b'0'),
                b'a'..=b'f' => Ok(c - b'a' + 10),
                _ => Err(bad()),
            };
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Digest(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What an image says about running it: the `config` of the [OCI image configuration][spec], its names included.
///
/// [spec]: https://github.com/opencontainers/image-spec/blob/v1.1.0/config.md
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// User or uid, optionally `:` and group or gid; empty for root.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `NAME=value`, in the image's order.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// What is always run.
    #[serde(deserialize_with = "words", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Its arguments by default, or the command itself where there is no entrypoint.
    #[serde(deserialize_with = "words", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Where it is run; empty for `/`.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Directories that hold data of their own.
    #[serde(with = "map_keys", skip_serializing_if = "BTreeSet::is_empty")]
    pub volumes: BTreeSet<String>,
    /// `80`, `53/udp`, …
    #[serde(with = "map_keys", skip_serializing_if = "BTreeSet::is_empty")]
    pub exposed_ports: BTreeSet<String>,
    /// Whatever the author wanted to say.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The signal that ends the container, by name or number; empty for SIGTERM.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
}

impl ImageConfig {
    /// What is run by default: the entrypoint and its arguments; `/bin/sh` where there is neither.
    pub fn command(&self) -> Vec<String> {
        match self.entrypoint.is_empty() && self.cmd.is_empty() {
            true => vec!["/bin/sh".to_owned()],
            false => self.entrypoint.iter().chain(&self.cmd).cloned().collect(),
        }
    }
}

/// What is not of the type that it should be, such as the `null` that Go writes for an empty slice, says nothing: no file of an
/// image depends on it.
pub(crate) fn lenient<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either<T> {
        Meant(T),
        Other(IgnoredAny),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::Meant(value) => value,
        Either::Other(_) => T::default(),
    })
}

/// A command. Docker takes one that is spelled as a string for its only word.
fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        List(Vec<String>),
        One(String),
        Other(IgnoredAny),
    }
    Ok(match Words::deserialize(deserializer)? {
        Words::List(words) => words,
        Words::One(word) => vec![word],
        Words::Other(_) => Vec::new(),
    })
}

/// A set that is spelled as a map to empty objects.
mod map_keys {
    use super::{BTreeMap, BTreeSet};

    pub fn serialize<S: serde::Serializer>(set: &BTreeSet<String>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(set.iter().map(|key| (key, BTreeMap::<&str, &str>::new())))
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeSet<String>, D::Error> {
        let map: BTreeMap<String, serde::de::IgnoredAny> = super::lenient(deserializer)?;
        Ok(map.into_keys().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_spelled_one_way_only() {
        let hex = "0123456789abcdef".repeat(4);
        let digest: Digest = format!("sha256:{hex}").parse().unwrap();
        assert_eq!(digest.to_string(), format!("sha256:{hex}"));
        assert_eq!(digest.short(), "0123456789ab");
        for bad in [
            hex.clone(),
            format!("sha256:{}", hex.to_uppercase()),
            "sha256:../../etc".into(),
            "sha256:".into(),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_configuration_with_nulls_reads_as_empty_and_comes_back_the_same() {
        let text = r#"{"User":"","Env":["A=b"],"Cmd":null,"Volumes":{"/data":{}},"Labels":null,"New":1}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        assert!(config.cmd.is_empty() && config.labels.is_empty());
        assert!(config.volumes.contains("/data"));
        let written = serde_json::to_string(&config).unwrap();
        assert_eq!(written, r#"{"Env":["A=b"],"Volumes":{"/data":{}}}"#);
        assert_eq!(serde_json::from_str::<ImageConfig>(&written).unwrap(), config);
        let odd =
            r#"{"User":1000,"Env":"A=b","Entrypoint":"/bin/sh","Cmd":"x y","Volumes":[],"WorkingDir":["/"]}"#;
        let config: ImageConfig = serde_json::from_str(odd).unwrap();
        assert_eq!(config.command(), ["/bin/sh", "x y"]);
        assert_eq!(ImageConfig { entrypoint: Vec::new(), cmd: Vec::new(), ..config }, ImageConfig::default());
    }
}
