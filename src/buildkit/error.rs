//! Why a build could not be driven. A step that fails is no error: see [`Outcome`](super::Outcome).

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tonic::{Code, Status};

/// Why a build could not be driven.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Nobody answers there.
    #[error("cannot reach BuildKit at {endpoint}: {source}")]
    Unreachable {
        /// The address, and why that one.
        endpoint: String,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon has no BuildKit, or does not let others use it.
    #[error("the daemon at {endpoint} has no BuildKit to build with: {why}")]
    NoBuildKit {
        /// The address, and why that one.
        endpoint: String,
        /// How that showed.
        why: String,
    },
    /// TLS, which is not spoken here.
    #[error("{0}: a build goes over connections without TLS only")]
    Tls(String),
    /// The context or the Dockerfile is not there.
    #[error("cannot read {path:?}: {source}")]
    Context {
        /// What was to be read.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// BuildKit refused, and no step is to blame: the Dockerfile is wrong, an image is not there, …
    #[error("{doing}: {message}")]
    Refused {
        /// What was to be done.
        doing: &'static str,
        /// BuildKit's own words.
        message: String,
        /// The line of the Dockerfile that is meant, if one is.
        line: Option<u32>,
    },
    /// The connection ended in the middle.
    #[error("{doing}: the connection to BuildKit was lost: {message}")]
    Lost {
        /// What was being done.
        doing: &'static str,
        /// What is known of the reason.
        message: String,
    },
    /// No answer came.
    #[error("{doing}: BuildKit has not answered for {} s", after.as_secs())]
    Late {
        /// What was to be done.
        doing: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// Nobody wants the build any more.
    #[error("the build was interrupted")]
    Cancelled,
    /// Threads cannot be had.
    #[error("cannot start what speaks with BuildKit: {0}")]
    Start(io::Error),
    /// An answer that makes no sense.
    #[error("{doing}: BuildKit's answer is not understood: {reason}")]
    BadAnswer {
        /// What was asked.
        doing: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The program that reads a build's filesystems does not run there.
    #[error("the helper in the build does not answer: {0}")]
    Helper(String),
}

impl BuildError {
    /// What a status says.
    pub(super) fn of(doing: &'static str, status: Status) -> BuildError {
        match status.code() {
            Code::Unavailable => BuildError::Lost { doing, message: printable(status.message()) },
            _ => BuildError::Refused { doing, message: printable(status.message()), line: None },
        }
    }

    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            BuildError::Unreachable { .. } => {
                Some("name the daemon with --host, or a buildkitd with --buildkit".into())
            }
            BuildError::NoBuildKit { .. } => {
                Some("Podman has none; a buildkitd of your own is named with --buildkit unix://…".into())
            }
            BuildError::Tls(_) => {
                Some("forward the daemon's socket by ssh -L, and name the near end with --host".into())
            }
            BuildError::Refused { message, .. } if message.contains("docker/dockerfile") => {
                Some("the Dockerfile's `# syntax=` line names the image that it is read with".into())
            }
            _ => None,
        }
    }
}

/// A text of the server's on one line, without what would move a terminal's cursor.
pub(super) fn printable(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
