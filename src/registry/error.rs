//! Why a registry does not give what it was asked for.

use std::fmt;
use std::io;

use crate::http::HttpError;
use crate::image::Digest;
use crate::progress::Cancelled;

/// Why a registry does not give what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// It was not reached, or the connection failed.
    #[error(transparent)]
    Http(HttpError),
    /// It has no such image.
    #[error("{host} has no image {image}{}", Nearest(tags))]
    NotFound {
        /// The registry.
        host: String,
        /// Repository with tag or digest.
        image: String,
        /// The tags that are most like the one that was asked for, as far as the registry tells.
        tags: Vec<String>,
    },
    /// It has no such blob.
    #[error("{host} lacks {digest} of {repository}")]
    MissingBlob {
        /// The registry.
        host: String,
        /// The repository.
        repository: String,
        /// The blob.
        digest: Digest,
    },
    /// It does not let this user in.
    #[error("{host} does not let you read {repository}: {reason}")]
    Denied {
        /// The registry.
        host: String,
        /// The repository.
        repository: String,
        /// What it says.
        reason: String,
        /// Whether credentials for it were found.
        known: bool,
    },
    /// It answers with an error.
    #[error("{host} answers {status}: {reason}")]
    Refused {
        /// The registry.
        host: String,
        /// Of HTTP.
        status: u16,
        /// What it says.
        reason: String,
    },
    /// What it answers is not what was asked for.
    #[error("{host} gives a wrong answer for {what}: {reason}")]
    BadAnswer {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// The bytes of a manifest are others than were asked for.
    #[error("{host} gives a manifest with the digest {found} where {expected} was asked for")]
    WrongDigest {
        /// The registry.
        host: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// It leads to where nobody should be led.
    #[error("{host} leads to {target:?}: {reason}")]
    Redirect {
        /// The registry.
        host: String,
        /// The beginning of the URL.
        target: String,
        /// Why that is not followed.
        reason: &'static str,
    },
    /// The user's credentials cannot be read.
    #[error("cannot get the credentials for {host}: {reason}")]
    Credentials {
        /// The registry.
        host: String,
        /// Why not.
        reason: String,
    },
    /// The user lost patience.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Tags that somebody may have meant.
struct Nearest<'a>(&'a [String]);

impl fmt::Display for Nearest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => Ok(()),
            tags => write!(f, "; it has {}", tags.join(", ")),
        }
    }
}

impl RegistryError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            RegistryError::Http(error) => return error.hint(),
            RegistryError::NotFound { tags, .. } if tags.is_empty() => {
                "registries may also deny that there is what they do not let you see".to_owned()
            }
            RegistryError::Denied { host, known: false, .. } => {
                format!("there may be no such repository, or it is private: docker login {host}")
            }
            RegistryError::Denied { host, .. } => {
                format!("the credentials that are stored for it are not enough: docker login {host}")
            }
            RegistryError::Refused { status: 429, .. } => "wait, or log in: docker login".to_owned(),
            RegistryError::BadAnswer { .. } | RegistryError::WrongDigest { .. } => {
                "the registry, or a proxy before it, is at fault: try again, or push the image again"
                    .to_owned()
            }
            _ => return None,
        })
    }

    /// Whether nobody was reached, so that nothing is known of what was asked.
    pub fn is_unreachable(&self) -> bool {
        match self {
            RegistryError::Http(error) => error.is_unreachable(),
            RegistryError::Refused { status, .. } => *status >= 500 || *status == 429,
            _ => false,
        }
    }
}

impl From<HttpError> for RegistryError {
    fn from(error: HttpError) -> RegistryError {
        match error {
            HttpError::Cancelled(cancelled) => cancelled.into(),
            error => RegistryError::Http(error),
        }
    }
}

impl From<RegistryError> for io::Error {
    fn from(error: RegistryError) -> io::Error {
        io::Error::other(error)
    }
}
