//! A connection that speaks gRPC with BuildKit: straight to a `buildkitd`, or through a Docker daemon's `/grpc`.
//!
//! Docker before 29 takes gRPC only on a connection that began as HTTP/1 and was upgraded, and later ones do so too.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, UPGRADE};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint as Http2};
use tower::service_fn;

use super::BuildError;
use crate::docker::{Address, Endpoint};

/// How long a server may take to answer at all.
const PATIENCE: Duration = Duration::from_secs(20);

/// What may be under way to us unread: of one stream, and of all together, in bytes.
const WINDOW: u32 = 4 << 20;
const WINDOWS: u32 = 32 << 20;

/// Who speaks gRPC at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// A Docker daemon, with a BuildKit of its own.
    Docker,
    /// BuildKit's own daemon.
    Buildkitd,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Connects. Nothing is sent yet but what makes the connection speak gRPC.
pub(super) async fn connect(endpoint: &Endpoint, server: Server) -> Result<Channel, BuildError> {
    if endpoint.tls.is_some() {
        return Err(BuildError::Tls(endpoint.to_string()));
    }
    let unreachable = |source: io::Error| BuildError::Unreachable { endpoint: endpoint.to_string(), source };
    let late = || unreachable(io::Error::from(io::ErrorKind::TimedOut));
    let stream = timeout(PATIENCE, dial(&endpoint.address)).await;
    let mut stream = stream.map_err(|_| late())?.map_err(unreachable)?;
    if server == Server::Docker {
        stream = match timeout(PATIENCE, upgrade(stream)).await.map_err(|_| late())? {
            Ok(Ok(stream)) => stream,
            Ok(Err(status)) => {
                return Err(BuildError::NoBuildKit {
                    endpoint: endpoint.to_string(),
                    why: format!("it answered {status} to a request for /grpc"),
                });
            }
            Err(error) => return Err(unreachable(io::Error::other(error))),
        };
    }
    // There is one connection. Once it is gone, so is the build.
    let once = Arc::new(Mutex::new(Some(stream)));
    let connector = service_fn(move |_: Uri| {
        let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        std::future::ready(
            stream.map(TokioIo::new).ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)),
        )
    });
    let http2 = Http2::from_static("http://localhost")
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOWS)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(60));
    let connected = timeout(PATIENCE, http2.connect_with_connector(connector)).await.map_err(|_| late())?;
    connected.map_err(|error| unreachable(io::Error::other(error)))
}

async fn dial(address: &Address) -> io::Result<Box<dyn Stream>> {
    Ok(match address {
        Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
        Address::Tcp { host, port } => Box::new(TcpStream::connect(format!("{host}:{port}")).await?),
    })
}

/// Has a Docker daemon speak gRPC on a connection from here on, or gives the status of its refusal.
async fn upgrade(stream: Box<dyn Stream>) -> Result<Result<Box<dyn Stream>, StatusCode>, hyper::Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    let mut request = Request::new(String::new());
    *request.method_mut() = hyper::Method::POST;
    *request.uri_mut() = Uri::from_static("/grpc");
    let headers = request.headers_mut();
    headers.insert(HOST, hyper::header::HeaderValue::from_static("localhost"));
    headers.insert(CONNECTION, hyper::header::HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, hyper::header::HeaderValue::from_static("h2c"));
    let answer = sender.send_request(request).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Err(answer.status()));
    }
    let upgraded = hyper::upgrade::on(answer).await?;
    Ok(Ok(Box::new(TokioIo::new(upgraded))))
}
