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
mod listing;
mod reference;
mod stream;
mod throwaway;
mod transport;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::client::Client;
use crate::progress::Progress;

pub use self::client::Patience;
pub use self::container::{
    Change, ChangeKind, Container, ContainerId, ContainerState, MountKind, MountPoint,
};
pub use self::endpoint::{Address, Endpoint, EndpointError, Origin, TlsFiles};
pub use self::error::{Cause, DockerError, Unreachable};
pub use self::files::PathStat;
pub use self::image::Image;
pub use self::listing::{ContainerSummary, EventKind, Events, ImageSummary, VolumeSummary};
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

impl Engine {
    /// Its command.
    pub fn command(self) -> &'static str {
        match self {
            Engine::Docker => "docker",
            Engine::Podman => "podman",
        }
    }
}

/// The longest answer to a ping that is read, in bytes; it should be two letters.
const PONG_LIMIT: usize = 4096;

/// A daemon that has answered. Cheap to clone, and to be used from any thread: each request has its own connection.
#[derive(Clone)]
pub struct Daemon {
    client: Arc<Client>,
    engine: Engine,
}

impl Daemon {
    /// Connects, with the default [`Patience`].
    ///
    /// # Errors
    /// As [`Daemon::connect_with`].
    pub fn connect(endpoint: &Endpoint) -> Result<Daemon, DockerError> {
        Daemon::connect_with(endpoint, Patience::default())
    }

    /// Connects for a task: once that is cancelled, every wait for the daemon ends, but for the removal of containers, which may take
    /// five seconds more.
    ///
    /// # Errors
    /// As [`Daemon::connect_with`], and [`DockerError::HungUp`].
    pub fn connect_for(endpoint: &Endpoint, task: &Arc<Progress>) -> Result<Daemon, DockerError> {
        Daemon::begin(endpoint, Patience::default(), Some(task))
    }

    /// Connects: pings the daemon, to see that it answers, and asks for what Podman alone has, to see who it is.
    ///
    /// # Errors
    /// [`DockerError::Unreachable`] says in which way; [`DockerError::Refused`] if the daemon lets nobody in.
    pub fn connect_with(endpoint: &Endpoint, patience: Patience) -> Result<Daemon, DockerError> {
        Daemon::begin(endpoint, patience, None)
    }

    fn begin(
        endpoint: &Endpoint,
        patience: Patience,
        task: Option<&Arc<Progress>>,
    ) -> Result<Daemon, DockerError> {
        let client = Arc::new(Client::open(endpoint, patience, task)?);
        let asked = ping(&client, "/_ping", patience.connect).and_then(|()| {
            // Not `/version`: Podman 4.3 takes a second for that, with the package manager's help.
            match ping(&client, "/libpod/_ping", patience.answer) {
                Ok(()) => Ok(Engine::Podman),
                Err(DockerError::Refused { .. } | DockerError::BadAnswer { .. }) => Ok(Engine::Docker),
                Err(error) => Err(error),
            }
        });
        let engine = asked.map_err(|error| {
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
        Ok(Daemon { client, engine })
    }

    /// Who serves the API.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// Where it listens.
    pub fn endpoint(&self) -> &Endpoint {
        &self.client.endpoint
    }
}

fn ping(client: &Arc<Client>, target: &str, patience: Duration) -> Result<(), DockerError> {
    let doing = "ping the daemon";
    match client.get(target, doing, patience)?.read_all(PONG_LIMIT)?.trim_ascii() {
        b"OK" => Ok(()),
        _ => Err(DockerError::BadAnswer { doing: doing.into(), reason: "it is not OK".into() }),
    }
}
