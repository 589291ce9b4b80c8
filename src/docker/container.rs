//! Containers that exist already, and their mount tables.
//!
//! Must not import anything of the crate outside `docker` but its words.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::Deserialize;

use super::client::{LIBPOD, encode};
use super::image::{Described, ImageHandle, parse_id, parse_time};
use super::reference::ContainerName;
use super::{ByteStream, Daemon, DockerError, Engine};
use crate::image::{Digest, ImageConfig, Platform};

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
    /// Which of several that the image has for one platform each, where the daemon says so.
    pub(super) image_platform: Option<Platform>,
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
    /// The name of the volume, or with Docker of the image.
    pub name: Option<String>,
    /// Where it is on the daemon's machine: for people, never a path to open.
    pub source: String,
    /// Where it is in the container.
    pub destination: String,
    /// Whether the container may not write to it.
    pub read_only: bool,
    /// What of the volume or the image it is, if it is not all of it: a path without a slash at either end.
    pub subpath: Option<String>,
    /// Whether what the container writes there goes elsewhere: Podman's `:O`.
    pub overlaid: bool,
}

impl MountPoint {
    /// The name of the image that is mounted: Docker has another thing for the source.
    pub fn image(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.source)
    }
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
    /// The root filesystem of an image.
    Image,
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
            MountKind::Image => "image",
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
    image_manifest_descriptor: Option<Described>,
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

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedMount {
    #[serde(rename = "Type")]
    kind: Option<String>,
    name: Option<String>,
    source: Option<String>,
    destination: String,
    #[serde(rename = "RW")]
    writable: Option<bool>,
    /// Podman alone, in its own API.
    options: Option<Vec<String>>,
    /// Podman alone, in its own API.
    sub_path: Option<String>,
}

/// The answer to Podman's own `GET /libpod/containers/{id}/json`, which says more of mounts.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedByPodman {
    mounts: Option<Vec<InspectedMount>>,
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
    volume_options: Option<AskedPart>,
    image_options: Option<AskedPart>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AskedPart {
    subpath: Option<String>,
}

impl InspectedHostConfig {
    /// What was asked for of a volume or an image, by destination.
    fn subpaths(&self) -> HashMap<&str, &str> {
        let asked = self.mounts.iter().flatten().filter_map(|mount| {
            let part = mount.volume_options.as_ref().or(mount.image_options.as_ref())?;
            Some((mount.target.as_ref()?.trim_end_matches('/'), part.subpath.as_deref()?))
        });
        asked.collect()
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
        let patience = self.client.patience.answer;
        let mut inspected: Inspected = match self.client.get_json(&target, &doing, patience) {
            Err(DockerError::Refused { status: 404, .. }) => return Err(self.no_container(name)),
            answer => answer?,
        };
        if self.engine == Engine::Podman && inspected.mounts.as_ref().is_some_and(|mounts| !mounts.is_empty())
        {
            let target = format!("{LIBPOD}/containers/{}/json", inspected.id);
            let more: InspectedByPodman = self.client.get_json(&target, &doing, patience)?;
            inspected.mounts = more.mounts;
        }
        inspected.into_container().map_err(|reason| DockerError::BadAnswer { doing, reason })
    }

    pub(super) fn no_container(&self, name: &str) -> DockerError {
        DockerError::ContainerNotFound { name: name.to_owned(), engine: self.engine }
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

    /// A tar of what a volume of Podman's holds, beneath its root and without it, with owners and extended attributes as they
    /// are. `None` where the daemon has no such call: Docker, and Podman before 5.6.
    ///
    /// # Errors
    /// The daemon has no such volume, or does not answer.
    pub fn export_volume(&self, name: &str) -> Result<Option<ByteStream>, DockerError> {
        if self.engine == Engine::Docker {
            return Ok(None);
        }
        let doing = format!("export the volume {name}");
        let target = format!("{LIBPOD}/volumes/{}/export", encode(name.as_bytes()));
        let mut stream = self.client.get(&target, &doing, self.client.patience.first_byte)?;
        match stream.fill() {
            Ok(()) => Ok(Some(stream)),
            // What serves the API, and not Podman, says so of a path that it does not know.
            Err(DockerError::Refused { status: 404, message, .. }) if message.trim() == "Not Found" => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Inspected {
    fn into_container(self) -> Result<Container, String> {
        let host = self.host_config.as_ref();
        let subpaths = host.map(InspectedHostConfig::subpaths).unwrap_or_default();
        let mut mounts: BTreeMap<String, MountPoint> = BTreeMap::new();
        for mount in self.mounts.unwrap_or_default() {
            let asked = subpaths.get(mount.destination.trim_end_matches('/')).copied();
            let mount = mount.into_mount_point(asked);
            // Podman lists an image twice while the container runs: as itself, and as a directory of its own storage.
            mounts.entry(mount.destination.clone()).or_insert(mount);
        }
        // Podman lists a tmpfs in neither, one or both of the two, by version.
        for destination in host.and_then(|host| host.tmpfs.as_ref()).into_iter().flat_map(BTreeMap::keys) {
            let memory = InspectedMount { destination: destination.clone(), ..InspectedMount::default() };
            let memory = MountPoint { kind: MountKind::Tmpfs, ..memory.into_mount_point(None) };
            mounts.entry(destination.clone()).or_insert(memory);
        }
        Ok(Container {
            id: self.id,
            name: self.name.trim_start_matches('/').to_owned(),
            state: ContainerState::from(self.state.status),
            image: parse_id(&self.image)?,
            image_platform: self.image_manifest_descriptor.and_then(Described::into_platform),
            created: self.created.as_deref().and_then(parse_time),
            config: self.config.and_then(|config| serde_json::from_value(config).ok()).unwrap_or_default(),
            mounts: mounts.into_values().collect(),
        })
    }
}

impl Container {
    /// What the image that it was made of is found by.
    pub(super) fn image_handle(&self) -> ImageHandle {
        ImageHandle { id: self.image, platform: self.image_platform.clone() }
    }
}

impl InspectedMount {
    /// `asked` is what was asked for of it when the container was made.
    fn into_mount_point(self, asked: Option<&str>) -> MountPoint {
        let kind = match self.kind.as_deref().unwrap_or_default() {
            "volume" => MountKind::Volume,
            "bind" => MountKind::Bind,
            "tmpfs" => MountKind::Tmpfs,
            "image" => MountKind::Image,
            other => MountKind::Other(other.to_owned()),
        };
        let subpath = self.sub_path.as_deref().or(asked).map(|subpath| subpath.trim_matches('/'));
        MountPoint {
            kind,
            name: self.name.filter(|name| !name.is_empty()),
            source: self.source.unwrap_or_default(),
            destination: self.destination,
            read_only: self.writable == Some(false),
            subpath: subpath.filter(|subpath| !subpath.is_empty()).map(str::to_owned),
            overlaid: self
                .options
                .iter()
                .flatten()
                .any(|option| option == "O" || option.starts_with("lowerdir=")),
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
                { "Type": "image", "Source": "a", "Destination": "/img", "RW": false },
            ],
            "HostConfig": { "Mounts": [
                { "Type": "volume", "Source": "v", "Target": "/part/", "VolumeOptions": { "Subpath": "a/b" } },
                { "Type": "volume", "Source": "v", "Target": "/all", "VolumeOptions": { "Subpath": "" } },
                { "Type": "image", "Source": "a", "Target": "/img", "ImageOptions": { "Subpath": "etc" } },
                { "Type": "tmpfs", "Target": "/other" },
            ] },
        });
        let container = serde_json::from_value::<Inspected>(json).unwrap().into_container().unwrap();
        let parts: Vec<_> =
            container.mounts.iter().map(|m| (&*m.destination, m.subpath.as_deref())).collect();
        assert_eq!(parts, [("/all", None), ("/img", Some("etc")), ("/part", Some("a/b"))]);
    }

    #[test]
    fn podman_lists_an_image_twice_and_what_is_written_elsewhere() {
        let json = serde_json::json!({
            "Id": "ab".repeat(32), "Name": "/web", "Image": "cd".repeat(32), "State": { "Status": "running" },
            "Mounts": [
                { "Type": "image", "Source": "localhost/a", "Destination": "/img", "SubPath": "/etc" },
                { "Type": "volume", "Name": "v", "Destination": "/o", "Options": ["O", "nosuid"] },
                { "Type": "bind", "Source": "/storage/merge", "Destination": "/img", "RW": true },
            ],
        });
        let container = serde_json::from_value::<Inspected>(json).unwrap().into_container().unwrap();
        let [image, overlaid] = &container.mounts[..] else { panic!("{:?}", container.mounts) };
        assert_eq!((&image.kind, image.subpath.as_deref()), (&MountKind::Image, Some("etc")));
        assert!(overlaid.overlaid && !image.overlaid);
    }

    #[test]
    fn an_id_is_64_digits_and_nothing_that_could_lead_elsewhere() {
        assert!("ab".repeat(32).parse::<ContainerId>().is_ok());
        for bad in ["", "ab", "../../images/json", &"AB".repeat(32), &format!("{}/", "a".repeat(63))] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad}");
        }
    }
}
