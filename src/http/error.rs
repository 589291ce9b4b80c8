//! Why a call came to nothing.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::progress::Cancelled;

/// Why a call came to nothing. `host` is the host and port that was meant, or the proxy's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The URL cannot be asked for.
    #[error("{url:?} is not a URL of http or https")]
    BadUrl {
        /// At most 200 characters of it.
        url: String,
    },
    /// The name of the host leads nowhere.
    #[error("cannot find the host {host}: {source}")]
    UnknownHost {
        /// Which.
        host: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// Nobody listens there, or no way leads there.
    #[error("cannot connect to {host}: {source}")]
    Unreachable {
        /// Where.
        host: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The host has none but addresses that this call must not go to.
    #[error("{host} has the private address {address}, to which a public server may lead nobody")]
    PrivateAddress {
        /// Which.
        host: String,
        /// What it resolves to.
        address: IpAddr,
    },
    /// The handshake failed.
    #[error("no TLS connection to {host}: {source}")]
    Tls {
        /// With whom.
        host: String,
        /// What rustls says.
        source: io::Error,
    },
    /// Certificates of the user's cannot be used.
    #[error("cannot use the certificates in {}: {reason}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The proxy does not do what it is asked.
    #[error("the proxy {host} does not lead on: {reason}")]
    Proxy {
        /// The proxy.
        host: String,
        /// What it says.
        reason: String,
    },
    /// An answer, or the rest of it, did not come.
    #[error("{host} sent nothing, or next to nothing, for {} s", after.as_secs_f32())]
    TimedOut {
        /// Who.
        host: String,
        /// For how long.
        after: Duration,
    },
    /// What came is no HTTP, or ends too early.
    #[error("the connection to {host} broke: {source}")]
    Broken {
        /// Who.
        host: String,
        /// What hyper says.
        source: Box<dyn Error + Send + Sync>,
    },
    /// An answer that should be short is not.
    #[error("the answer of {host} has more than {limit} bytes")]
    TooLarge {
        /// Who.
        host: String,
        /// Bytes allowed.
        limit: u64,
    },
    /// The machine has no room for a connection.
    #[error("cannot prepare a connection: {0}")]
    NoRuntime(#[source] io::Error),
    /// The user lost patience.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl HttpError {
    /// Whether the same call may well succeed in a moment.
    pub fn is_passing(&self) -> bool {
        matches!(self, HttpError::TimedOut { .. } | HttpError::Broken { .. })
    }

    /// Whether nobody was reached, so that nothing is known of what was asked.
    pub fn is_unreachable(&self) -> bool {
        use HttpError::{Broken, Proxy, TimedOut, UnknownHost, Unreachable};
        matches!(
            self,
            UnknownHost { .. } | Unreachable { .. } | Proxy { .. } | TimedOut { .. } | Broken { .. }
        )
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            HttpError::UnknownHost { .. } | HttpError::Unreachable { .. } => {
                "check the name and the network; a proxy is named by HTTPS_PROXY".to_owned()
            }
            HttpError::Tls { .. } => {
                "a certificate authority of one's own is named by SSL_CERT_FILE, or put into \
                                      /etc/docker/certs.d/HOST:PORT/ca.crt"
                    .to_owned()
            }
            HttpError::Proxy { .. } => "HTTPS_PROXY, HTTP_PROXY and NO_PROXY name the proxy".to_owned(),
            _ => return None,
        })
    }

    pub(super) fn broken(host: &str, source: impl Into<Box<dyn Error + Send + Sync>>) -> HttpError {
        HttpError::Broken { host: host.to_owned(), source: source.into() }
    }
}

impl From<HttpError> for io::Error {
    fn from(error: HttpError) -> io::Error {
        let kind = match &error {
            HttpError::TimedOut { .. } => io::ErrorKind::TimedOut,
            HttpError::Broken { .. } => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
