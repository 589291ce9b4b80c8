//! A connection on which a refusal tells all that it says.
//!
//! Podman describes a symlink that leads nowhere in a header of the answer with which it denies what the link leads to, and
//! bollard shows no header of a refusal. Must not import anything of the crate outside `docker`.

use bollard::errors::Error as BollardError;
use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::client::NO_LIMIT;
use super::endpoint::Address;

/// What stands at a path, in an answer about it.
const PATH_STAT: &str = "x-docker-container-path-stat";

/// bollard over connections without TLS, on which an answer that tells what stands at a path counts as a yes.
pub(super) fn connect(address: &Address) -> Result<Docker, BollardError> {
    let address = address.clone();
    let transport = move |request| send(address.clone(), request);
    Docker::connect_with_custom_transport(transport, Some("http://localhost"), NO_LIMIT, API_DEFAULT_VERSION)
}

async fn send(address: Address, request: BollardRequest) -> Result<Response<Incoming>, BollardError> {
    let mut answer = match &address {
        Address::Unix(path) => exchange(UnixStream::connect(path).await?, request).await?,
        // A name, or an address with the brackets that belong around one of IPv6.
        Address::Tcp { host, port } => {
            exchange(TcpStream::connect(format!("{host}:{port}")).await?, request).await?
        }
    };
    if answer.headers().contains_key(PATH_STAT) {
        *answer.status_mut() = StatusCode::OK;
    }
    Ok(answer)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    mut request: BollardRequest,
) -> Result<Response<Incoming>, BollardError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    // What a client adds to a connection of its own: RFC 9112, section 3.2.
    if let Some(target) = request.uri().path_and_query() {
        *request.uri_mut() = target.clone().into();
    }
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    Ok(sender.send_request(request).await?)
}
