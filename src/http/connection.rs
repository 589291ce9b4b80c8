//! One connection: through a proxy or not, with TLS or not, and the runtime that it lives on.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, PROXY_AUTHORIZATION};
use hyper_util::client::proxy::matcher::Intercept;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::address::is_private;
use super::tls::Tls;
use super::{HttpError, Url};

/// What a connection is to, and how: those of equal origins may take each other's place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    pub(super) https: bool,
    /// A name, or an address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Whether the host has to prove who it is.
    pub(super) verify: bool,
    /// Whether private addresses are out of the question.
    pub(super) public: bool,
}

impl Origin {
    pub(super) fn of(url: &Url, verify: bool, public: bool) -> Result<Origin, HttpError> {
        let bad = || HttpError::BadUrl { url: url.as_str().chars().take(200).collect() };
        let https = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(bad()),
        };
        let host = url.host_str().ok_or_else(bad)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = url.port_or_known_default().ok_or_else(bad)?;
        Ok(Origin { https, host, port, verify, public })
    }

    /// Host and port, for messages and for directories of certificates.
    pub(super) fn name(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.https, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

/// What a connection runs on. It works only while somebody waits in it.
///
/// No thread stands between the socket and the reader.
#[derive(Debug)]
pub(super) struct Driver(Option<Runtime>);

impl Driver {
    pub(super) fn new() -> Result<Driver, HttpError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Driver(Some(runtime.map_err(HttpError::NoRuntime)?)))
    }

    pub(super) fn block_on<T>(&self, future: impl Future<Output = T>) -> Result<T, HttpError> {
        match &self.0 {
            Some(runtime) => Ok(runtime.block_on(future)),
            None => Err(HttpError::NoRuntime(io::Error::other("it is shut down"))),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // A resolver that does not answer is not waited for.
            runtime.shutdown_background();
        }
    }
}

/// An open connection on which nothing is under way.
#[derive(Debug)]
pub(super) struct Connection {
    // Dropped first: it belongs to the runtime.
    pub(super) sender: SendRequest<Full<Bytes>>,
    pub(super) driver: Driver,
    /// Who is at the other end, unless that is a proxy.
    pub(super) remote: Option<IpAddr>,
    /// Whether requests have to name the whole URL, because a proxy reads them.
    pub(super) absolute: bool,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Opens a connection within `limit`. To be called in the runtime that it is to live on.
pub(super) async fn open(
    origin: &Origin,
    proxy: Option<&Intercept>,
    tls: &Tls,
    limit: Duration,
) -> Result<(SendRequest<Full<Bytes>>, Option<IpAddr>), HttpError> {
    let opened = timeout(limit, connect(origin, proxy, tls)).await;
    opened.unwrap_or_else(|_| Err(HttpError::TimedOut { host: origin.name(), after: limit }))
}

async fn connect(
    origin: &Origin,
    proxy: Option<&Intercept>,
    tls: &Tls,
) -> Result<(SendRequest<Full<Bytes>>, Option<IpAddr>), HttpError> {
    let (mut stream, mut remote): (Box<dyn Stream>, _) = match proxy {
        None => {
            let stream = dial(&origin.host, origin.port, origin.public).await?;
            let remote = stream.peer_addr().ok().map(|peer| peer.ip());
            (Box::new(stream), remote)
        }
        Some(proxy) => (to_proxy(origin, proxy, tls).await?, None),
    };
    if origin.https {
        stream = Box::new(secure(stream, &origin.host, &origin.name(), tls, origin.verify).await?);
    }
    if proxy.is_some() {
        remote = None;
    }
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| HttpError::broken(&origin.name(), e))?;
    tokio::spawn(connection);
    Ok((sender, remote))
}

/// Tries each address of a host in turn.
async fn dial(host: &str, port: u16, public: bool) -> Result<TcpStream, HttpError> {
    let name = || format!("{host}:{port}");
    let found = tokio::net::lookup_host((host, port)).await;
    let found: Vec<SocketAddr> =
        found.map_err(|source| HttpError::UnknownHost { host: host.to_owned(), source })?.collect();
    let mut error = None;
    for address in found {
        if public && is_private(address.ip()) {
            error = Some(HttpError::PrivateAddress { host: name(), address: address.ip() });
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // What is sent is short and waited for.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(source) => error = Some(HttpError::Unreachable { host: name(), source }),
        }
    }
    Err(error.unwrap_or_else(|| HttpError::UnknownHost {
        host: host.to_owned(),
        source: io::Error::other("it has no address"),
    }))
}

/// A connection to a proxy, and for https through it to the host.
async fn to_proxy(origin: &Origin, proxy: &Intercept, tls: &Tls) -> Result<Box<dyn Stream>, HttpError> {
    let host = proxy.uri().host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let refused = |reason: String| HttpError::Proxy { host: host.to_owned(), reason };
    let (https, usual) = match proxy.uri().scheme_str() {
        Some("http") | None => (false, 80),
        Some("https") => (true, 443),
        Some(other) => return Err(refused(format!("proxies of {other} are not supported"))),
    };
    let port = proxy.uri().port_u16().unwrap_or(usual);
    if origin.public && origin.host.parse().is_ok_and(is_private) {
        let address = origin.host.parse().map_err(|_| refused("its address is unclear".to_owned()))?;
        return Err(HttpError::PrivateAddress { host: origin.name(), address });
    }
    let mut stream: Box<dyn Stream> = Box::new(dial(host, port, false).await?);
    if https {
        stream = Box::new(secure(stream, host, host, tls, true).await?);
    }
    if !origin.https {
        return Ok(stream);
    }
    let authority = match origin.host.contains(':') {
        true => format!("[{}]:{}", origin.host, origin.port),
        false => format!("{}:{}", origin.host, origin.port),
    };
    let mut request = hyper::Request::connect(&authority).header(HOST, &authority);
    if let Some(auth) = proxy.basic_auth() {
        request = request.header(PROXY_AUTHORIZATION, auth);
    }
    let request = request.body(Full::<Bytes>::default()).map_err(|e| refused(e.to_string()))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| refused(e.to_string()))?;
    tokio::spawn(connection.with_upgrades());
    let answer = sender.send_request(request).await.map_err(|e| refused(e.to_string()))?;
    if !answer.status().is_success() {
        return Err(refused(format!("it answers {}", answer.status())));
    }
    let tunnel = hyper::upgrade::on(answer).await.map_err(|e| refused(e.to_string()))?;
    Ok(Box::new(TokioIo::new(tunnel)))
}

async fn secure(
    stream: Box<dyn Stream>,
    host: &str,
    name: &str,
    tls: &Tls,
    verify: bool,
) -> Result<impl Stream + use<>, HttpError> {
    let failed = |source| HttpError::Tls { host: name.to_owned(), source };
    let server = ServerName::try_from(host.to_owned()).map_err(|e| failed(io::Error::other(e)))?;
    let connector = TlsConnector::from(tls.config(name, verify)?);
    connector.connect(server, stream).await.map_err(failed)
}
