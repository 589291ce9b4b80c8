//! Containers that exist already, and their mount tables.
//!
//! Must not import anything of the crate outside `docker` but its words.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::Deserialize;

use super::client::encode;
use super::image::{parse_id, parse_time};
use super::reference::ContainerName;
use super::{ByteStream, Daemon, DockerError};
use crate::image::{Digest, ImageConfig};

/// The id of a container: 64 lowercase hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct ContainerId(String);

impl ContainerId {
    /// Its digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerId {
    type Err = String;

    fn from_str(text: &str) -> Result<ContainerId, String> {
        text.to_owned().try_into()
    }
}

impl TryFrom<String> for ContainerId {
    type Error = String;

    fn try_from(text: String) -> Result<ContainerId, String> {
        match text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            true => Ok(ContainerId(text)),
            false => {
                Err(format!("{:?} is not the id of a container", text.chars().take(100).collect::<String>()))
            }
        }
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A container that the daemon has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// What the daemon knows it by.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: ContainerState,
    /// The image that it was made of. The daemon may have lost it since.
    pub image: Digest,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// How it is run: what its image says, by what was asked for when it was made.
    pub config: ImageConfig,
    /// What is mounted on its root filesystem, ordered by destination: the daemon's own order is none.
    pub mounts: Vec<MountPoint>,
}

/// What a container is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Never started.
    Created,
    /// Running, and so changing while it is read.
    Running,
    /// Frozen.
    Paused,
    /// Ended, or failed to start.
    Exited,
    /// Could not be removed whole.
    Dead,
    /// Another one, in the daemon's own word.
    Other(String),
}

/// One filesystem that is mounted on a container's root filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    /// What it is.
    pub kind: MountKind,
    /// The volume's name.
    pub name: Option<String>,
    /// Where it is on the daemon's machine: for people, never a path to open.
    pub source: String,
    /// Where it is in the container.
    pub destination: String,
    /// Whether the container may not write to it.
    pub read_only: bool,
    /// Whether it is a directory of the volume, and not all of it.
    pub is_part: bool,
}

/// What kind of filesystem is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// A volume, named or anonymous.
    Volume,
    /// A file or directory of the daemon's machine.
    Bind,
    /// Memory.
    Tmpfs,
    /// Another one, in the daemon's own word.
    Other(String),
}

impl fmt::Display for ContainerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ContainerState::Created => "created",
            ContainerState::Running => "running",
            ContainerState::Paused => "paused",
            ContainerState::Exited => "exited",
            ContainerState::Dead => "dead",
            ContainerState::Other(word) => word,
        })
    }
}

impl fmt::Display for MountKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MountKind::Volume => "volume",
            MountKind::Bind => "bind",
            MountKind::Tmpfs => "tmpfs",
            MountKind::Other(word) => word,
        })
    }
}

/// One difference between a container and its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Absolute. What is not UTF-8 in it has been replaced by U+FFFD on the way.
    pub path: String,
    /// Which difference.
    pub kind: ChangeKind,
}

/// How something differs from the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// Other attributes, other content, or something within differs.
    Modified,
    /// Not in the image.
    Added,
    /// In the image alone.
    Deleted,
}

/// The answer to `GET /containers/{name}/json`, as far as it is of use.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: ContainerId,
    name: String,
    created: Option<String>,
    image: String,
    state: InspectedState,
    /// Read later: what a daemon says of it in words of its own keeps no container from being shown.
    config: Option<serde_json::Value>,
    mounts: Option<Vec<InspectedMount>>,
    host_config: Option<InspectedHostConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedState {
    status: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedMount {
    #[serde(rename = "Type")]
    kind: Option<String>,
    name: Option<String>,
    source: Option<String>,
    destination: String,
    #[serde(rename = "RW")]
    writable: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedHostConfig {
    tmpfs: Option<BTreeMap<String, String>>,
    mounts: Option<Vec<AskedMount>>,
}

/// A mount as it was asked for when the container was made.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AskedMount {
    target: Option<String>,
    volume_options: Option<AskedVolume>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AskedVolume {
    subpath: Option<String>,
}

impl InspectedHostConfig {
    /// Where a directory of a volume was asked for.
    fn parts(&self) -> HashSet<String> {
        let is_part = |mount: &&AskedMount| {
            let subpath = mount.volume_options.as_ref().and_then(|volume| volume.subpath.as_ref());
            subpath.is_some_and(|subpath| !subpath.is_empty())
        };
        let parts = self.mounts.iter().flatten().filter(is_part);
        parts.filter_map(|mount| Some(mount.target.as_ref()?.trim_end_matches('/').to_owned())).collect()
    }
}

/// One element of the answer to `GET /containers/{id}/changes`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedChange {
    path: String,
    kind: u8,
}

impl Daemon {
    /// Finds a container in whatever state, by name, id or short id. One request.
    ///
    /// # Errors
    /// [`DockerError::ContainerNotFound`], or what else keeps the daemon from answering.
    pub fn container(&self, name: &ContainerName) -> Result<Container, DockerError> {
        self.inspect(name.as_str())
    }

    /// The same by its id.
    ///
    /// # Errors
    /// As there.
    pub fn container_by_id(&self, id: &ContainerId) -> Result<Container, DockerError> {
        self.inspect(id.as_str())
    }

    fn inspect(&self, name: &str) -> Result<Container, DockerError> {
        let doing = format!("inspect the container {name}");
        let target = format!("/containers/{}/json", encode(name.as_bytes()));
        match self.client.get_json::<Inspected>(&target, &doing, self.client.patience.answer) {
            Err(DockerError::Refused { status: 404, .. }) => {
                Err(DockerError::ContainerNotFound { name: name.to_owned() })
            }
            answer => answer?.into_container().map_err(|reason| DockerError::BadAnswer { doing, reason }),
        }
    }

    /// A tar of a container's whole root filesystem, without its mounts: as it is while the daemon walks it.
    ///
    /// The request is sent by the first read, which therefore may bring any error of the daemon's.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn export(&self, container: &ContainerId) -> Result<ByteStream, DockerError> {
        let doing = format!("export the container {container}");
        self.client.get(&format!("/containers/{container}/export"), &doing, self.client.patience.first_byte)
    }

    /// What differs between a container's root filesystem and its image, in the daemon's order. One request.
    ///
    /// # Errors
    /// The daemon does not answer, or with more than fits into 64 MiB.
    pub fn changes(&self, container: &ContainerId) -> Result<Vec<Change>, DockerError> {
        let doing = format!("list what the container {container} changed");
        let target = format!("/containers/{container}/changes");
        let changes: Option<Vec<InspectedChange>> =
            self.client.get_json(&target, &doing, self.client.patience.answer)?;
        let changes = changes.unwrap_or_default().into_iter().map(|change| {
            let kind = match change.kind {
                0 => Ok(ChangeKind::Modified),
                1 => Ok(ChangeKind::Added),
                2 => Ok(ChangeKind::Deleted),
                other => Err(format!("a change of kind {other}")),
            };
            Ok(Change { path: change.path, kind: kind? })
        });
        changes.collect::<Result<_, String>>().map_err(|reason| DockerError::BadAnswer { doing, reason })
    }

    /// An image with its layers as they are stored, as a docker-archive. The first read sends the request.
    ///
    /// The daemon writes a copy of all of it before it sends the first byte.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn save(&self, image: &Digest) -> Result<ByteStream, DockerError> {
        let doing = format!("save the image {image}");
        self.client.get(&format!("/images/{image}/get"), &doing, self.client.patience.first_byte)
    }
}

impl Inspected {
    fn into_container(self) -> Result<Container, String> {
        // Podman lists a tmpfs in neither, one or both of the two, by version.
        let mut mounts = BTreeMap::new();
        let parts = self.host_config.as_ref().map(InspectedHostConfig::parts).unwrap_or_default();
        for destination in self.host_config.and_then(|host| host.tmpfs).unwrap_or_default().into_keys() {
            let kind = MountKind::Tmpfs;
            let source = String::new();
            let mount = MountPoint {
                kind,
                name: None,
                source,
                destination: destination.clone(),
                read_only: false,
                is_part: false,
            };
            mounts.insert(destination, mount);
        }
        for mount in self.mounts.unwrap_or_default() {
            let is_part = parts.contains(mount.destination.trim_end_matches('/'));
            mounts.insert(mount.destination.clone(), mount.into_mount_point(is_part));
        }
        Ok(Container {
            id: self.id,
            name: self.name.trim_start_matches('/').to_owned(),
            state: ContainerState::from(self.state.status),
            image: parse_id(&self.image)?,
            created: self.created.as_deref().and_then(parse_time),
            config: self.config.and_then(|config| serde_json::from_value(config).ok()).unwrap_or_default(),
            mounts: mounts.into_values().collect(),
        })
    }
}

impl InspectedMount {
    fn into_mount_point(self, is_part: bool) -> MountPoint {
        let kind = match self.kind.as_deref().unwrap_or_default() {
            "volume" => MountKind::Volume,
            "bind" => MountKind::Bind,
            "tmpfs" => MountKind::Tmpfs,
            other => MountKind::Other(other.to_owned()),
        };
        MountPoint {
            kind,
            name: self.name.filter(|name| !name.is_empty()),
            source: self.source.unwrap_or_default(),
            destination: self.destination,
            read_only: self.writable == Some(false),
            is_part,
        }
    }
}

impl From<String> for ContainerState {
    fn from(word: String) -> ContainerState {
        match word.as_str() {
            "created" | "configured" | "initialized" => ContainerState::Created,
            "running" => ContainerState::Running,
            "paused" => ContainerState::Paused,
            "exited" | "stopped" => ContainerState::Exited,
            "dead" => ContainerState::Dead,
            _ => ContainerState::Other(word),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_podman_describes_in_its_own_words_is_read() {
        let json = serde_json::json!({
            "Id": "ab".repeat(32), "Name": "/web", "Image": "cd".repeat(32), "Created": "2026-01-02T03:04:05Z",
            "State": { "Status": "stopping" }, "Config": { "Cmd": "not a list" },
            "Mounts": [
                { "Type": "volume", "Name": "v", "Source": "/x", "Destination": "/z", "RW": false },
                { "Type": "devpts", "Destination": "/b", "RW": true },
            ],
            "HostConfig": { "Tmpfs": { "/a": "size=1m", "/z": "" } },
        });
        let container = serde_json::from_value::<Inspected>(json).unwrap().into_container().unwrap();
        assert_eq!(container.state, ContainerState::Other("stopping".into()));
        assert_eq!(container.name, "web");
        let table: Vec<_> =
            container.mounts.iter().map(|m| (&*m.destination, &m.kind, m.read_only)).collect();
        let other = MountKind::Other("devpts".into());
        let expected =
            [("/a", &MountKind::Tmpfs, false), ("/b", &other, false), ("/z", &MountKind::Volume, true)];
        assert_eq!(table, expected);
    }

    #[test]
    fn a_part_of_a_volume_is_told_from_all_of_it() {
        let json = serde_json::json!({
            "Id": "ab".repeat(32), "Name": "/web", "Image": "cd".repeat(32), "State": { "Status": "running" },
            "Mounts": [
                { "Type": "volume", "Name": "v", "Destination": "/part", "RW": true },
                { "Type": "volume", "Name": "v", "Destination": "/all", "RW": true },
            ],
            "HostConfig": { "Mounts": [
                { "Type": "volume", "Source": "v", "Target": "/part/", "VolumeOptions": { "Subpath": "a/b" } },
                { "Type": "volume", "Source": "v", "Target": "/all", "VolumeOptions": { "Subpath": "" } },
                { "Type": "tmpfs", "Target": "/other" },
            ] },
        });
        let container = serde_json::from_value::<Inspected>(json).unwrap().into_container().unwrap();
        let parts: Vec<_> = container.mounts.iter().map(|m| (&*m.destination, m.is_part)).collect();
        assert_eq!(parts, [("/all", false), ("/part", true)]);
    }

    #[test]
    fn an_id_is_64_digits_and_nothing_that_could_lead_elsewhere() {
        assert!("ab".repeat(32).parse::<ContainerId>().is_ok());
        for bad in ["", "ab", "../../images/json", &"AB".repeat(32), &format!("{}/", "a".repeat(63))] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad}");
        }
    }
}
