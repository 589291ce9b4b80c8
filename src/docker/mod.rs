//! The daemon, Docker's or Podman's: finds images and containers, and streams what they hold.
//!
//! A [`Daemon`] is asked synchronously, from any thread. [`Daemon::image`] names what is to be read, a
//! [`Throwaway`] container, which is never started, makes it readable, and a [`ByteStream`] brings the bytes.
//! Nothing is ever pulled, started or written to.
//!
//! tokio and bollard are known in this room only. Must not import anything of the crate but its words (`image`, `owner`).

mod client;
mod container;
mod endpoint;
mod error;
mod files;
mod image;
mod reference;
mod stream;
mod throwaway;

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;

use self::client::Client;

pub use self::client::Patience;
pub use self::container::{
    Change, ChangeKind, Container, ContainerId, ContainerState, MountKind, MountPoint,
};
pub use self::endpoint::{Address, Endpoint, EndpointError, Origin, TlsFiles};
pub use self::error::{Cause, DockerError, Unreachable};
pub use self::files::PathStat;
pub use self::image::Image;
pub use self::reference::{BadName, ContainerName, ImageName};
pub use self::stream::{ByteStream, HangUp};
pub use self::throwaway::Throwaway;

/// Who serves the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Docker, or one that says nothing else.
    Docker,
    /// Podman, through its compatible API.
    Podman,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Engine::Docker => "Docker",
            Engine::Podman => "Podman",
        })
    }
}

/// The longest answer to a ping that is read, in bytes; it should be two letters.
const PONG_LIMIT: usize = 4096;

/// A daemon that has answered. Cheap to clone, and to be used from any thread: each request has its own connection.
#[derive(Clone)]
pub struct Daemon {
    client: Arc<Client>,
    engine: Engine,
    version: String,
}

impl Daemon {
    /// Connects, with the default [`Patience`].
    ///
    /// # Errors
    /// As [`Daemon::connect_with`].
    pub fn connect(endpoint: &Endpoint) -> Result<Daemon, DockerError> {
        Daemon::connect_with(endpoint, Patience::default())
    }

    /// Connects: pings the daemon, to see that it answers, and asks for its version, to see who it is.
    ///
    /// # Errors
    /// [`DockerError::Unreachable`] says in which way; [`DockerError::Refused`] if the daemon lets nobody in.
    pub fn connect_with(endpoint: &Endpoint, patience: Patience) -> Result<Daemon, DockerError> {
        let client = Arc::new(Client::open(endpoint, patience)?);
        let doing = "ping the daemon";
        let pinged = client.get("/_ping", doing, patience.connect)?.read_all(PONG_LIMIT);
        let asked = pinged.and_then(|pong| match pong.trim_ascii() {
            b"OK" => client.get_json("/version", "ask for the daemon's version", patience.answer),
            _ => Err(DockerError::BadAnswer { doing: doing.into(), reason: "it is not OK".into() }),
        });
        let version: Version = asked.map_err(|error| {
            let (why, source) = match error {
                DockerError::Stalled { .. } => (Unreachable::Silent, None),
                // A handshake that the daemon ends looks like this.
                DockerError::Cut { source, .. } if endpoint.tls.is_some() => {
                    (Unreachable::Other, Some(source))
                }
                DockerError::Cut { source, .. } => (Unreachable::NotDocker, Some(source)),
                DockerError::BadAnswer { .. } | DockerError::Refused { status: 400 | 404, .. } => {
                    (Unreachable::NotDocker, Some(Cause::new(error)))
                }
                other => return other,
            };
            DockerError::unreachable(endpoint, why, source)
        })?;
        let podman = |component: &Component| component.name.starts_with("Podman");
        let engine = match version.components.unwrap_or_default().iter().any(podman) {
            true => Engine::Podman,
            false => Engine::Docker,
        };
        let version = format!("{} (API {})", version.version, version.api_version);
        Ok(Daemon { client, engine, version })
    }

    /// Who serves the API.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// The daemon's version, and that of the API, in its own words: for people and logs.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Where it listens.
    pub fn endpoint(&self) -> &Endpoint {
        &self.client.endpoint
    }
}

/// The answer to `GET /version`, as far as it is of use.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    version: String,
    api_version: String,
    components: Option<Vec<Component>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Component {
    name: String,
}
