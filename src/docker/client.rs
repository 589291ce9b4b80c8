//! Requests and answers: the one place that waits for bollard.
//!
//! bollard sends every request. What it has no public call for goes through [`Client::get`]: bollard's models of
//! answers have closed enums, which a state that Podman alone knows falls out of, and its typed calls take in a body
//! of any size; so JSON is read here, bounded, and only the fields that are used.
//! Must not import anything of the crate outside `docker`.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error as BollardError;
use bollard::{API_DEFAULT_VERSION, Docker};
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::endpoint::{Address, Endpoint};
use super::error::{Cause, DockerError, Unreachable};
use super::stream::ByteStream;
use super::transport;
use crate::progress::{OnCancel, Progress};

/// The longest JSON answer that is read, in bytes.
const JSON_LIMIT: usize = 64 << 20;

/// Where Podman has calls of its own, in a version that all since 4.0 serve.
pub(super) const LIBPOD: &str = "/v4.0.0/libpod";

/// bollard's own limit on the time to the headers of an answer, in seconds: out of the way, for ours are finer.
pub(super) const NO_LIMIT: u64 = 365 * 86_400;

/// How long each kind of answer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For the very first answer, connecting included. A socket-activated Podman starts up meanwhile.
    pub connect: Duration,
    /// For any other short answer, or for the first byte of a file.
    pub answer: Duration,
    /// For the first byte of an export. Podman before 5 writes all of it to a file before it sends any.
    pub first_byte: Duration,
    /// Between two pieces of a stream.
    pub idle: Duration,
    /// For a container to be removed. Nobody can hang that up, as it is what is done at last.
    pub remove: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            connect: Duration::from_secs(20),
            answer: Duration::from_secs(120),
            first_byte: Duration::from_secs(6 * 3600),
            idle: Duration::from_secs(120),
            remove: Duration::from_secs(30),
        }
    }
}

/// What speaks with a daemon. Each request has a connection of its own, and waits in the thread that makes it.
pub(super) struct Client {
    docker: Docker,
    pub(super) endpoint: Endpoint,
    pub(super) patience: Patience,
    /// The task that all this is for: once it is cancelled, every wait ends.
    task: Option<Arc<Progress>>,
}

/// How long a container may take to be removed once nobody waits for anything else any more.
const REMOVE_CANCELLED: Duration = Duration::from_secs(5);

impl Client {
    /// Prepares to speak with a daemon, for a task; makes no request.
    ///
    /// # Errors
    /// The socket or a TLS file is not there, or not for us.
    pub(super) fn open(
        endpoint: &Endpoint,
        patience: Patience,
        task: Option<&Arc<Progress>>,
    ) -> Result<Client, DockerError> {
        Ok(Client { docker: open(endpoint)?, endpoint: endpoint.clone(), patience, task: task.cloned() })
    }

    /// Calls `wake` when the task is cancelled.
    pub(super) fn on_cancel(&self, wake: impl Fn() + Send + Sync + 'static) -> Option<OnCancel> {
        self.task.as_ref().map(|task| task.on_cancel(wake))
    }

    /// Waits for a container to be removed, though the task be cancelled.
    pub(super) fn call_at_last<T>(
        &self,
        doing: &str,
        call: impl Future<Output = Result<T, BollardError>>,
    ) -> Result<T, DockerError> {
        let cancelled = self.task.as_ref().is_some_and(|task| task.check().is_err());
        let remove = self.patience.remove;
        let after = if cancelled { remove.min(REMOVE_CANCELLED) } else { remove };
        match runtime()?.block_on(async { timeout(after, call).await }) {
            Ok(answer) => answer.map_err(|error| DockerError::new(doing, &self.endpoint, error)),
            Err(_) => Err(DockerError::TimedOut { doing: doing.into(), after }),
        }
    }

    /// Waits for the answer to one of bollard's typed calls.
    pub(super) fn call<T>(
        &self,
        doing: &str,
        call: impl Future<Output = Result<T, BollardError>>,
    ) -> Result<T, DockerError> {
        let after = self.patience.answer;
        let cancelled = Arc::new(Notify::new());
        let waking = Arc::clone(&cancelled);
        let _task = self.on_cancel(move || waking.notify_one());
        let answer = runtime()?.block_on(async {
            tokio::select! {
                biased;
                () = cancelled.notified() => None,
                answer = timeout(after, call) => Some(answer),
            }
        });
        match answer {
            Some(Ok(answer)) => answer.map_err(|error| DockerError::new(doing, &self.endpoint, error)),
            Some(Err(_)) => Err(DockerError::TimedOut { doing: doing.into(), after }),
            None => Err(DockerError::HungUp { doing: doing.into() }),
        }
    }

    /// bollard, as it is.
    pub(super) fn docker(&self) -> &Docker {
        &self.docker
    }

    /// bollard, with every request going to `target` instead: a path and query, percent-encoded.
    ///
    /// It is how a path that is no UTF-8 gets into a query, and how to ask for what bollard has no call for.
    pub(super) fn aimed_at(&self, target: &str) -> Docker {
        aimed_at(self.docker.clone(), target)
    }

    /// The same, where a refusal counts as a yes that [tells what stands at a path](transport). `None` if that cannot be had.
    pub(super) fn frankly_aimed_at(&self, target: &str) -> Option<Docker> {
        let docker = transport::connect(&self.endpoint.address).ok().filter(|_| self.endpoint.tls.is_none());
        docker.map(|docker| aimed_at(docker, target))
    }

    /// The body of the answer to `GET target`, whatever it is. The request is sent by the first read.
    pub(super) fn get(
        self: &Arc<Client>,
        target: &str,
        doing: &str,
        patience: Duration,
    ) -> Result<ByteStream, DockerError> {
        // Any of bollard's calls that return the bytes of a body as they come will do.
        let chunks = self.aimed_at(target).export_container("");
        ByteStream::new(self, doing.into(), Box::pin(chunks), patience)
    }

    /// The JSON that answers `GET target`.
    pub(super) fn get_json<T: DeserializeOwned>(
        self: &Arc<Client>,
        target: &str,
        doing: &str,
        patience: Duration,
    ) -> Result<T, DockerError> {
        let body = self.get(target, doing, patience)?.read_all(JSON_LIMIT)?;
        serde_json::from_slice(&body)
            .map_err(|e| DockerError::BadAnswer { doing: doing.into(), reason: e.to_string() })
    }
}

fn aimed_at(docker: Docker, target: &str) -> Docker {
    let target = target.to_owned();
    docker.with_request_modifier(move |mut request| {
        let mut parts = request.uri().clone().into_parts();
        // Encoded text always parses. If it did not, the request would go where bollard meant it to go,
        // which names no container, and fail.
        parts.path_and_query = target.parse().ok();
        if let Ok(uri) = parts.try_into() {
            *request.uri_mut() = uri;
        }
        request
    })
}

/// What one request runs on: it lives as long as the request, and works only while somebody waits in it.
///
/// No thread stands between the socket and the reader, which saves a change of threads for every few kilobytes.
pub(super) fn runtime() -> Result<Driver, DockerError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map(|runtime| Driver(Some(runtime))).map_err(DockerError::NoRuntime)
}

/// A runtime. Dropped, it does not wait for what it has begun: a name server that does not answer keeps a thread for minutes.
pub(super) struct Driver(Option<Runtime>);

impl Driver {
    pub(super) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        match &self.0 {
            Some(runtime) => runtime.block_on(future),
            None => unreachable!("it is there until it is dropped"),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn open(endpoint: &Endpoint) -> Result<Docker, DockerError> {
    let unreachable =
        |why, source: Option<io::Error>| DockerError::unreachable(endpoint, why, source.map(Cause::new));
    let opened = match (&endpoint.address, &endpoint.tls) {
        (Address::Unix(path), _) => {
            match fs::metadata(path) {
                Ok(found) if found.file_type().is_socket() => {}
                Ok(_) => return Err(unreachable(Unreachable::NotASocket, None)),
                Err(error) => {
                    let why = match error.kind() {
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Unreachable::Absent,
                        io::ErrorKind::PermissionDenied => Unreachable::Denied,
                        _ => Unreachable::Other,
                    };
                    return Err(unreachable(why, Some(error)));
                }
            }
            Docker::connect_with_unix(path, NO_LIMIT, API_DEFAULT_VERSION)
        }
        (Address::Tcp { .. }, None) => {
            Docker::connect_with_http(&endpoint.address.to_string(), NO_LIMIT, API_DEFAULT_VERSION)
        }
        (Address::Tcp { .. }, Some(tls)) => {
            let address = endpoint.address.to_string();
            Docker::connect_with_ssl(&address, &tls.key, &tls.cert, &tls.ca, NO_LIMIT, API_DEFAULT_VERSION)
        }
    };
    opened.map_err(|error| {
        let why = match error {
            BollardError::CertPathError { .. }
            | BollardError::CertParseError { .. }
            | BollardError::LoadNativeCertsErrors { .. } => Unreachable::Certificates,
            BollardError::SocketNotFoundError(_) => Unreachable::Absent,
            _ => Unreachable::Other,
        };
        DockerError::unreachable(endpoint, why, Some(Cause::new(error)))
    })
}

/// Bytes as they may stand in a path or in the value of a query: RFC 3986's unreserved characters and `/`.
pub(super) fn encode(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len()), |mut text, &byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                text.push(char::from(byte));
            }
            _ => {
                // Writing to a String cannot fail.
                let _ = write!(text, "%{byte:02X}");
            }
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_in_a_url_is_encoded() {
        assert_eq!(encode(b"/etc/a b&c=%?#+\xff\n\xc3\xa9"), "/etc/a%20b%26c%3D%25%3F%23%2B%FF%0A%C3%A9");
    }
}
