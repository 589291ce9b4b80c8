//! What an entry is keyed by.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::FORMAT_VERSION;
use crate::image::{Digest, Platform};
use crate::index::FileIdentity;

/// What kind of thing a filesystem was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An image's root filesystem.
    Image,
    /// One mount of a container, at one moment.
    Container,
    /// One mount of a build, at one moment.
    Build,
    /// A tar of a root filesystem.
    Tar,
    /// One layer of images, whiteouts included; its identity is the diff id.
    Layer,
}

impl Kind {
    /// The word for it, as in the metadata.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Image => "image",
            Kind::Container => "container",
            Kind::Build => "build",
            Kind::Tar => "tar",
            Kind::Layer => "layer",
        }
    }
}

/// How the bytes were got. The same image looks different by different ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Obtained {
    /// Docker merged and exported a container.
    DockerExport,
    /// Podman did, which keeps other attributes and adds other files.
    PodmanExport,
    /// Layers as they are stored, by the daemon's save or from an archive of images.
    Layers,
    /// The daemon archived a path of a container.
    Archive,
    /// The helper in a build read it.
    BuildHelper,
    /// Read from the file that the user named.
    File,
}

impl Obtained {
    const fn name(self) -> &'static str {
        match self {
            Obtained::DockerExport => "docker-export",
            Obtained::PodmanExport => "podman-export",
            Obtained::Layers => "layers",
            Obtained::Archive => "archive",
            Obtained::BuildHelper => "build-helper",
            Obtained::File => "file",
        }
    }
}

/// What a filesystem holds, told by what it was made from. Equal contents have equal keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// What it was made from.
    pub kind: Kind,
    /// Which one: an image id, a diff id, a container's id with mount and moment, or [`tar_identity`].
    pub identity: String,
    /// The platform, where images of several stand behind one identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// The diff ids of the layers, lowest first, where they are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Digest>,
    /// How it was got.
    pub obtained: Obtained,
}

/// The [`Content::identity`] of a tar: another one as soon as the file is written, replaced or moved.
pub fn tar_identity(file: &FileIdentity) -> String {
    let FileIdentity { dev, ino, size, mtime, ctime } = file;
    format!("{dev}:{ino}:{size}:{}.{:09}:{}.{:09}", mtime.0, mtime.1, ctime.0, ctime.1)
}

impl Content {
    /// That of a tar, by its [`tar_identity`].
    pub fn of_tar(identity: String) -> Content {
        Content { kind: Kind::Tar, identity, platform: None, layers: Vec::new(), obtained: Obtained::File }
    }

    /// The key under which the cache holds it, in the present format.
    pub fn key(&self) -> Key {
        // Every field goes in with its length, and a list with its count: no two contents write the same bytes.
        let mut hash = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        field(b"imagefs cache key");
        field(&FORMAT_VERSION.to_le_bytes());
        field(self.kind.name().as_bytes());
        field(self.identity.as_bytes());
        match &self.platform {
            None => field(&[0]),
            Some(Platform { os, architecture, variant }) => {
                field(&[1]);
                field(os.as_bytes());
                field(architecture.as_bytes());
                field(variant.as_bytes());
            }
        }
        field(&(self.layers.len() as u64).to_le_bytes());
        for layer in &self.layers {
            field(layer.as_bytes());
        }
        field(self.obtained.name().as_bytes());
        Key(hash.finalize().into())
    }
}

/// The name of an entry: a SHA-256 over its [`Content`] and the format's version. Shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// Its 32 bytes, which are the identity that the index carries.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Digest::from_bytes(self.0).hex())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no [`Key`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a key has 64 lowercase hexadecimal digits")]
pub struct NotAKey;

impl FromStr for Key {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Key, NotAKey> {
        let digest: Digest = format!("sha256:{text}").parse().map_err(|_| NotAKey)?;
        Ok(Key(*digest.as_bytes()))
    }
}

impl Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Key, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Content {
        Content {
            kind: Kind::Image,
            identity: "sha256:aa".into(),
            platform: Some("linux/arm/v7".parse().unwrap()),
            layers: vec![Digest::from_bytes([1; 32]), Digest::from_bytes([2; 32])],
            obtained: Obtained::DockerExport,
        }
    }

    #[test]
    fn every_field_changes_the_key_and_none_runs_into_the_next() {
        let base = image();
        let mut others = vec![
            Content { kind: Kind::Tar, ..base.clone() },
            Content { identity: "sha256:ab".into(), ..base.clone() },
            Content { platform: None, ..base.clone() },
            Content { platform: Some("linux/armv7".parse().unwrap()), ..base.clone() },
            Content { layers: Vec::new(), ..base.clone() },
            Content { layers: base.layers.iter().rev().copied().collect(), ..base.clone() },
            Content { obtained: Obtained::Layers, ..base.clone() },
        ];
        others.push(base.clone());
        let keys: std::collections::HashSet<Key> = others.iter().map(Content::key).collect();
        assert_eq!(keys.len(), others.len());
        assert_eq!(base.key(), image().key());
    }

    #[test]
    fn the_key_of_a_format_is_pinned() {
        // Whoever changes the encoding must raise FORMAT_VERSION: entries would be lost in silence otherwise.
        assert_eq!(FORMAT_VERSION, 1);
        assert_eq!(
            image().key().to_string(),
            "9cab0aab10fac2ac36e59f7041f39736161511ac71b3bf066ca0b0f020c63ec6"
        );
    }

    #[test]
    fn a_key_is_spelled_one_way_only() {
        let key = image().key();
        assert_eq!(key.to_string().parse(), Ok(key));
        for bad in ["", "../../etc/passwd", &key.to_string().to_uppercase(), &key.to_string()[1..]] {
            assert_eq!(bad.parse::<Key>(), Err(NotAKey), "{bad}");
        }
    }
}
