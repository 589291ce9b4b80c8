//! What the daemon has, by name, and the news that it has become something else.
//!
//! One request for all images, one for all containers, one for all volumes. Must not import anything of the crate outside
//! `docker` but its words.

use std::collections::HashMap;
use std::io::{BufRead, Read as _};

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::client::encode;
use super::image::{parse_id, parse_time};
use super::stream::HangUp;
use super::throwaway::LABEL;
use super::{ByteStream, ContainerId, Daemon, DockerError};
use crate::image::Digest;

/// The longest event that is read, in bytes. It carries the labels of what it is about.
const EVENT_LIMIT: u64 = 4 << 20;

/// What Docker of old puts in the place of a name.
const NO_NAME: &str = "<none>:<none>";

/// An image, as the list of all has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSummary {
    /// What the daemon knows it by.
    pub id: Digest,
    /// `NAME:TAG`; none for an image that is untagged.
    pub names: Vec<String>,
    /// When it was made.
    pub created: Timestamp,
}

/// A container, as the list of all has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerSummary {
    /// What the daemon knows it by.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
}

/// A volume, as the list of all has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSummary {
    /// Its name.
    pub name: String,
    /// When it was made, if the daemon says so.
    pub created: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImageRow {
    id: String,
    repo_tags: Option<Vec<String>>,
    created: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerRow {
    id: ContainerId,
    names: Option<Vec<String>>,
    created: Option<i64>,
    labels: Option<HashMap<String, IgnoredAny>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VolumeRows {
    volumes: Option<Vec<VolumeRow>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VolumeRow {
    name: String,
    created_at: Option<String>,
}

/// Which of the daemon's lists has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// An image came, went, or got another name.
    Image,
    /// The same of a container.
    Container,
    /// The same of a volume.
    Volume,
}

/// One element of the answer to `GET /events`, as far as it is of use. Podman has both spellings of the action.
#[derive(Deserialize)]
struct EventRow {
    #[serde(rename = "Type")]
    kind: Option<String>,
    #[serde(rename = "Action")]
    action: Option<String>,
}

impl Daemon {
    /// All images that are not merely steps of a build. One request.
    ///
    /// # Errors
    /// The daemon does not answer, or with more than fits into 64 MiB.
    pub fn images(&self) -> Result<Vec<ImageSummary>, DockerError> {
        let doing = "list the images";
        let rows: Vec<ImageRow> = self.client.get_json("/images/json", doing, self.client.patience.answer)?;
        let images = rows.into_iter().map(|row| {
            let mut names = row.repo_tags.unwrap_or_default();
            names.retain(|name| name != NO_NAME);
            Ok(ImageSummary { id: parse_id(&row.id)?, names, created: moment(row.created) })
        });
        let bad = |reason| DockerError::BadAnswer { doing: doing.into(), reason };
        images.collect::<Result<_, String>>().map_err(bad)
    }

    /// All containers, in whatever state, but for those that are made to be read only. One request.
    ///
    /// # Errors
    /// As for [`Daemon::images`].
    pub fn containers(&self) -> Result<Vec<ContainerSummary>, DockerError> {
        let doing = "list the containers";
        let rows: Vec<ContainerRow> =
            self.client.get_json("/containers/json?all=1", doing, self.client.patience.answer)?;
        let of_others =
            |row: &ContainerRow| !row.labels.as_ref().is_some_and(|labels| labels.contains_key(LABEL));
        // `/web` is its name; `/other/web` is what a container that is linked to it calls it.
        let name = |row: &ContainerRow| {
            let mut names = row.names.iter().flatten().map(|name| name.strip_prefix('/').unwrap_or(name));
            names.find(|name| !name.contains('/')).map(str::to_owned)
        };
        let containers = rows.iter().filter(|row| of_others(row)).filter_map(|row| {
            Some(ContainerSummary { id: row.id.clone(), name: name(row)?, created: moment(row.created) })
        });
        Ok(containers.collect())
    }

    /// All volumes. One request.
    ///
    /// # Errors
    /// As for [`Daemon::images`].
    pub fn volumes(&self) -> Result<Vec<VolumeSummary>, DockerError> {
        let rows: VolumeRows =
            self.client.get_json("/volumes", "list the volumes", self.client.patience.answer)?;
        Ok(rows.volumes.unwrap_or_default().into_iter().map(VolumeRow::into_summary).collect())
    }

    /// One volume, by its name. One request.
    ///
    /// # Errors
    /// [`DockerError::VolumeNotFound`], or what else keeps the daemon from answering.
    pub fn volume(&self, name: &str) -> Result<VolumeSummary, DockerError> {
        let doing = format!("inspect the volume {name}");
        let not_found = || DockerError::VolumeNotFound { name: name.to_owned() };
        if !is_volume_name(name) {
            return Err(not_found());
        }
        match self.client.get_json::<VolumeRow>(
            &format!("/volumes/{name}"),
            &doing,
            self.client.patience.answer,
        ) {
            Err(DockerError::Refused { status: 404, .. }) => Err(not_found()),
            row => row.map(VolumeRow::into_summary),
        }
    }

    /// What becomes of images, containers and volumes from `since` on. The first read sends the request.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn events(&self, since: Timestamp) -> Result<Events, DockerError> {
        let filters = encode(br#"{"type":["image","container","volume"]}"#);
        let target = format!("/events?since={}&filters={filters}", since.as_second());
        let stream = self.client.get(&target, "follow what the daemon does", self.client.patience.idle)?;
        Ok(Events(stream))
    }
}

/// The daemon's news, as they come.
pub struct Events(ByteStream);

impl Events {
    /// What ends it from another thread.
    pub fn hang_up_handle(&self) -> HangUp {
        self.0.hang_up_handle()
    }

    /// Waits for news. `None` when the daemon has ended the stream.
    ///
    /// # Errors
    /// The stream broke, or brought what is no event.
    pub fn receive(&mut self) -> Result<Option<EventKind>, DockerError> {
        let bad = |reason: String| DockerError::BadAnswer { doing: "read an event".into(), reason };
        loop {
            let mut line = Vec::new();
            let read = (&mut self.0).take(EVENT_LIMIT).read_until(b'\n', &mut line);
            read.map_err(|error| match error.downcast::<DockerError>() {
                Ok(error) => error,
                Err(error) => bad(error.to_string()),
            })?;
            if line.is_empty() {
                return Ok(None);
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            let row: EventRow = serde_json::from_slice(&line).map_err(|error| bad(error.to_string()))?;
            if let Some(kind) = row.kind() {
                return Ok(Some(kind));
            }
        }
    }
}

impl VolumeRow {
    fn into_summary(self) -> VolumeSummary {
        VolumeSummary { created: self.created_at.as_deref().and_then(parse_time), name: self.name }
    }
}

/// Whether a volume can have this name; another would lead elsewhere as a part of a URL.
fn is_volume_name(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    first && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

impl EventRow {
    /// The list that has changed by it, if any has.
    fn kind(&self) -> Option<EventKind> {
        match self.kind.as_deref()? {
            "image" => Some(EventKind::Image),
            "volume" => Some(EventKind::Volume),
            // What a container does all day (exec, attach, health checks) changes nothing that is listed.
            "container" => {
                let listed = ["create", "destroy", "remove", "rename", "prune"];
                listed.contains(&self.action.as_deref()?).then_some(EventKind::Container)
            }
            _ => None,
        }
    }
}

fn moment(seconds: Option<i64>) -> Timestamp {
    seconds.and_then(|seconds| Timestamp::from_second(seconds).ok()).unwrap_or_default()
}
