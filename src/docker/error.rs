//! What can go wrong between us and the daemon, and what the user may do about it.
//!
//! Must not import anything of the crate outside `docker` but its words.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use bollard::errors::Error as BollardError;

use super::Engine;
use super::endpoint::{Address, Endpoint, EndpointError};
use super::reference::BadName;
use crate::image::Platform;

/// What a library below us said: shown as its innermost cause, for the layers between only say which library speaks;
/// with `{:?}`, the whole chain.
#[derive(Debug, thiserror::Error)]
#[error("{}", innermost(&**.0))]
pub struct Cause(Box<dyn StdError + Send + Sync>);

impl Cause {
    pub(super) fn new(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Cause {
        Cause(error.into())
    }
}

fn innermost(mut error: &(dyn StdError + 'static)) -> impl fmt::Display + use<> {
    while let Some(cause) = error.source() {
        error = cause;
    }
    printable(&error.to_string())
}

/// Why the daemon gave no answer, or not the one that was hoped for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DockerError {
    /// No address of a daemon could be made out.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The user's name for an image or container is malformed.
    #[error(transparent)]
    BadName(#[from] BadName),
    /// Nobody who speaks the Docker API answers.
    #[error("cannot reach the daemon at {endpoint}: {why}")]
    Unreachable {
        /// Where it was sought.
        endpoint: Box<Endpoint>,
        /// What is the matter.
        why: Unreachable,
        /// What the system said.
        #[source]
        source: Option<Cause>,
    },
    /// The daemon has no such image, and is not asked to pull it.
    #[error("image not found in local {engine} storage: {name}")]
    ImageNotFound {
        /// What was asked for.
        name: String,
        /// The name of a local image that may have been meant.
        nearest: Option<String>,
        /// The command that would pull the image, where `name` can be pulled.
        pull: Option<String>,
        /// Who was asked.
        engine: Engine,
    },
    /// The local image is for another platform than the one asked for.
    #[error("the local image {name} is for {found}, not for {wanted}")]
    WrongPlatform {
        /// What was asked for.
        name: String,
        /// The platform asked for.
        wanted: Box<Platform>,
        /// The platform of the local image.
        found: Box<Platform>,
        /// Who was asked.
        engine: Engine,
    },
    /// The daemon has the image unpacked, and not its layers as they were pulled.
    #[error("the daemon does not store the layers of {name} for {platform}: it has only what they unpack to")]
    LayersNotStored {
        /// The image.
        name: String,
        /// What it runs on.
        platform: Box<Platform>,
    },
    /// The daemon has no such container (any more).
    #[error("no such container: {name}")]
    ContainerNotFound {
        /// What was asked for.
        name: String,
        /// Who was asked.
        engine: Engine,
    },
    /// The daemon has no such volume (any more).
    #[error("no such volume: {name}")]
    VolumeNotFound {
        /// What was asked for.
        name: String,
    },
    /// There is nothing to make a container of, through which a volume would be read.
    #[error("the daemon has no image to make a container of, and a volume is read through one")]
    NoImages,
    /// The daemon takes some names for something else than what they are.
    #[error("cannot {doing}: {engine} cannot be asked for a file of that name")]
    NameNotSupported {
        /// What was asked of it.
        doing: String,
        /// Who it is.
        engine: Engine,
    },
    /// The daemon said no.
    #[error("cannot {doing}: the daemon answered {status}{}", said(.message))]
    Refused {
        /// What was asked of it.
        doing: String,
        /// The HTTP status.
        status: u16,
        /// The daemon's own words.
        message: String,
    },
    /// The daemon answered, and the answer makes no sense.
    #[error("cannot {doing}: the daemon's answer is not understood ({reason})")]
    BadAnswer {
        /// What was asked of it.
        doing: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The daemon took longer than it may.
    #[error("cannot {doing}: no answer from the daemon within {}", seconds(.after))]
    TimedOut {
        /// What was asked of it.
        doing: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// A stream of bytes stopped coming, with the connection still up.
    #[error("cannot {doing}: nothing more came from the daemon for {}", seconds(.after))]
    Stalled {
        /// What was asked of it.
        doing: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The connection broke before the answer was whole.
    #[error("cannot {doing}: the connection to the daemon broke off")]
    Cut {
        /// What was asked of it.
        doing: String,
        /// What the HTTP library said.
        source: Cause,
    },
    /// This side hung up, or read on after an error.
    #[error("cannot {doing}: the stream was given up")]
    HungUp {
        /// What was asked of the daemon.
        doing: String,
    },
    /// The process has no descriptors left to wait with.
    #[error("cannot prepare to speak with the daemon")]
    NoRuntime(#[source] io::Error),
    /// The kernel did not say what it takes to name a container.
    #[error("cannot make a name for a container")]
    NoName(#[source] io::Error),
}

/// Why a daemon cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// The socket does not exist.
    Absent,
    /// The path of the socket is something else.
    NotASocket,
    /// The socket is there, and nobody listens.
    Refused,
    /// The socket is not for this user.
    Denied,
    /// It was connected to, or not even that, and said nothing in time.
    Silent,
    /// Who answers does not speak the Docker API.
    NotDocker,
    /// The TLS files cannot be read.
    Certificates,
    /// Something else; the source says what.
    Other,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unreachable::Absent => "there is no such socket",
            Unreachable::NotASocket => "this is not a socket",
            Unreachable::Refused => "nobody listens there",
            Unreachable::Denied => "permission denied",
            Unreachable::Silent => "it does not answer",
            Unreachable::NotDocker => "what answers there does not speak the Docker API",
            Unreachable::Certificates => "its TLS certificates or our key cannot be read",
            Unreachable::Other => "the connection failed",
        })
    }
}

impl DockerError {
    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            DockerError::Endpoint(error) => error.hint(),
            DockerError::Unreachable { endpoint, why, .. } => Some(unreachable_hint(endpoint, *why)),
            DockerError::ImageNotFound { name, nearest, pull, engine } => match (nearest, pull) {
                (Some(nearest), Some(pull)) => {
                    let nearest = printable(nearest);
                    Some(format!(
                        "there is {nearest}; or get {name} first: {pull}; or read it in its registry: docker://{name}"
                    ))
                }
                (Some(nearest), None) => Some(format!("there is {}", printable(nearest))),
                (None, Some(pull)) => Some(format!(
                    "nothing is pulled; get it first: {pull}; or read it in its registry: docker://{name}"
                )),
                (None, None) => Some(format!("{} images shows the local ones", engine.command())),
            },
            DockerError::WrongPlatform { name, wanted, engine, .. } => {
                let command = engine.command();
                Some(format!("get the other one first: {command} pull --platform {wanted} {name}"))
            }
            DockerError::LayersNotStored { name, platform } => Some(format!(
                "without -o exact the image is mounted as the daemon has it; for its layers: docker rmi {name} && docker \
                 pull --platform {platform} {name}"
            )),
            DockerError::ContainerNotFound { engine, .. } => {
                Some(format!("{} ps --all shows those that exist", engine.command()))
            }
            DockerError::VolumeNotFound { .. } => Some("docker volume ls shows those that exist".into()),
            DockerError::NoImages => Some("pull or load any image".into()),
            DockerError::TimedOut { .. } | DockerError::Stalled { .. } => Some(SILENT.into()),
            DockerError::Cut { .. } => Some("the daemon's log may say why".into()),
            _ => None,
        }
    }

    /// The kind that an [`io::Error`] around this error has.
    pub(super) fn io_kind(&self) -> io::ErrorKind {
        match self {
            DockerError::Stalled { .. } | DockerError::TimedOut { .. } => io::ErrorKind::TimedOut,
            DockerError::Cut { .. } => io::ErrorKind::UnexpectedEof,
            DockerError::HungUp { .. } => io::ErrorKind::ConnectionAborted,
            DockerError::ContainerNotFound { .. }
            | DockerError::VolumeNotFound { .. }
            | DockerError::NoImages => io::ErrorKind::NotFound,
            _ => io::ErrorKind::Other,
        }
    }

    /// Makes the best of what bollard says when asked to do `doing` at `endpoint`.
    pub(super) fn new(doing: &str, endpoint: &Endpoint, error: BollardError) -> DockerError {
        let doing = doing.to_owned();
        match error {
            BollardError::DockerResponseServerError { status_code, message } => {
                DockerError::Refused { doing, status: status_code, message }
            }
            BollardError::HyperResponseError { err } => DockerError::Cut { doing, source: Cause::new(err) },
            BollardError::HyperLegacyError { ref err } if err.is_connect() => {
                let why = classify(&error);
                DockerError::unreachable(endpoint, why, Some(Cause::new(error)))
            }
            BollardError::HyperLegacyError { .. } | BollardError::IOError { .. } => {
                DockerError::Cut { doing, source: Cause::new(error) }
            }
            BollardError::SocketNotFoundError(_) => {
                DockerError::unreachable(endpoint, Unreachable::Absent, None)
            }
            other => DockerError::BadAnswer { doing, reason: printable(&other.to_string()).to_string() },
        }
    }

    pub(super) fn unreachable(endpoint: &Endpoint, why: Unreachable, source: Option<Cause>) -> DockerError {
        DockerError::Unreachable { endpoint: Box::new(endpoint.clone()), why, source }
    }
}

/// What a failed connection says about the daemon, by the first system error in the chain of causes.
fn classify(error: &BollardError) -> Unreachable {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            match error.kind() {
                io::ErrorKind::NotFound => return Unreachable::Absent,
                io::ErrorKind::PermissionDenied => return Unreachable::Denied,
                io::ErrorKind::ConnectionRefused => return Unreachable::Refused,
                io::ErrorKind::TimedOut => return Unreachable::Silent,
                _ => {}
            }
        }
        cause = error.source();
    }
    Unreachable::Other
}

/// What to do about a daemon that says nothing.
const SILENT: &str =
    "see whether the daemon answers others (docker info, podman info), and what its log says";

/// Whether the address is one that Podman's service has by default.
fn is_podman(endpoint: &Endpoint) -> bool {
    matches!(&endpoint.address, Address::Unix(path) if path.ends_with("/podman.sock"))
}

fn unreachable_hint(endpoint: &Endpoint, why: Unreachable) -> String {
    let local = matches!(endpoint.address, Address::Unix(_));
    let mut hint = match why {
        Unreachable::Absent | Unreachable::Refused if is_podman(endpoint) => {
            "is the service running? systemctl start podman.socket (with --user for your own), or name another one with \
             --host or DOCKER_HOST"
        }
        Unreachable::Absent | Unreachable::Refused if local => {
            "is the daemon running? systemctl start docker, or name another one with --host or DOCKER_HOST"
        }
        Unreachable::Denied => {
            "join the group of the socket (usually docker) and log in again, use sudo, or use a rootless daemon \
             by DOCKER_HOST"
        }
        Unreachable::Other if endpoint.tls.is_some() => {
            "DOCKER_CERT_PATH must hold the ca.pem that the daemon's certificate is signed with, and a cert.pem and \
             key.pem that the daemon accepts"
        }
        Unreachable::NotDocker if endpoint.tls.is_none() && !local => {
            "if the daemon wants TLS, set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH"
        }
        Unreachable::Certificates => "DOCKER_CERT_PATH must hold ca.pem, cert.pem and key.pem",
        Unreachable::Silent => SILENT,
        _ => "name the daemon's socket or port with --host or DOCKER_HOST",
    }
    .to_owned();
    for address in endpoint.alternatives() {
        hint.push_str("; there is also ");
        hint.push_str(&address);
    }
    hint
}

fn said(message: &str) -> String {
    match message.trim() {
        "" => String::new(),
        message => format!(": {}", printable(message)),
    }
}

fn seconds(duration: &Duration) -> String {
    format!("{} s", duration.as_secs_f32())
}

/// A text from outside as it may be shown: of bounded length, and with its control characters escaped.
pub(super) fn printable(text: &str) -> impl fmt::Display + use<> {
    const LIMIT: usize = 1000;
    let mut shown = String::new();
    for c in text.chars().take(LIMIT) {
        match c.is_control() {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    if text.chars().nth(LIMIT).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_daemon_says_cannot_write_to_the_terminal() {
        let error = DockerError::Refused {
            doing: "remove the container x".into(),
            status: 500,
            message: "a\u{1b}[2J\nb\u{9b}".into(),
        };
        assert_eq!(
            error.to_string(),
            r"cannot remove the container x: the daemon answered 500: a\u{1b}[2J\nb\u{9b}"
        );
    }

    #[test]
    fn a_missing_image_is_named_with_what_to_do() {
        let error = DockerError::ImageNotFound {
            name: "ptyhon".into(),
            nearest: Some("python:3.12".into()),
            pull: Some("podman pull ptyhon".into()),
            engine: Engine::Podman,
        };
        assert_eq!(error.to_string(), "image not found in local Podman storage: ptyhon");
        assert_eq!(
            error.hint().unwrap(),
            "there is python:3.12; or get ptyhon first: podman pull ptyhon; or read it in its registry: docker://ptyhon"
        );
    }
}
