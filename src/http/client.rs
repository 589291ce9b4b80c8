//! Calls: a request goes out, the headers of the answer come in.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{HOST, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use hyper::{HeaderMap, Method, StatusCode, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::connection::{self, Connection, Driver, Origin};
use super::pool::Pool;
use super::tls::Tls;
use super::{Body, HttpError, Url};
use crate::progress::{OnCancel, Progress};

/// How long each kind of wait may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a connection, with its handshake.
    pub connect: Duration,
    /// For the headers of an answer. A cache may fetch the whole of what it is asked for before it sends them.
    pub answer: Duration,
    /// For the next bytes of a body.
    pub idle: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            connect: Duration::from_secs(20),
            answer: Duration::from_secs(180),
            idle: Duration::from_secs(60),
        }
    }
}

/// How a client calls.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Directories with a directory for each `HOST:PORT`, in which `*.crt` are authorities for that host, and `X.cert` with
    /// `X.key` is what it is shown of us.
    pub certificates: Vec<PathBuf>,
    /// How long it waits.
    pub patience: Patience,
}

/// What calls. Cheap to clone, and to be used from any thread.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

/// What the calls and bodies of a client share.
pub(super) struct Inner {
    tls: Tls,
    proxies: Matcher,
    pub(super) pool: Pool,
    pub(super) patience: Patience,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, …
    pub method: Method,
    /// Of whom, and for what.
    pub url: Url,
    /// `Host` and `User-Agent` are added.
    pub headers: HeaderMap,
    /// What goes with it.
    pub body: Bytes,
    /// Whether the host has to prove by a certificate who it is, where TLS is spoken.
    pub verify: bool,
    /// Whether the call must not go to a [private address](https://www.rfc-editor.org/rfc/rfc6890): for a URL that somebody
    /// else has given.
    pub public: bool,
}

/// An answer whose body has not been read yet.
#[derive(Debug)]
pub struct Response {
    /// What became of it.
    pub status: StatusCode,
    /// What is said of it.
    pub headers: HeaderMap,
    /// Whether it came from a public address; `None` if a proxy stands in between.
    pub from_public: Option<bool>,
    /// What it brings.
    pub body: Body,
}

impl Request {
    /// A `GET` without headers, of a host that has to prove who it is.
    pub fn get(url: Url) -> Request {
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        Request { method: Method::GET, url, headers, body, verify: true, public: false }
    }
}

impl Client {
    /// Prepares to call; makes no connection.
    pub fn new(options: Options) -> Client {
        Client(Arc::new(Inner {
            tls: Tls::new(options.certificates),
            proxies: Matcher::from_env(),
            pool: Pool::default(),
            patience: options.patience,
        }))
    }

    /// Sends a request, and waits for the headers of the answer, until `progress` is cancelled.
    ///
    /// A connection that was used before and turns out to be closed is replaced by another one.
    ///
    /// # Errors
    /// Whatever keeps an answer from coming. An answer that tells of an error is none here.
    pub fn send(&self, request: &Request, progress: &Arc<Progress>) -> Result<Response, HttpError> {
        let cancel = Cancel::by(progress);
        let origin = Origin::of(&request.url, request.verify, request.public)?;
        let proxy = self.proxy(&request.url);
        if let Some(connection) = self.0.pool.take(&origin) {
            match self.exchange(connection, &origin, proxy.as_ref(), request, &cancel) {
                Ok(answer) => return Ok(self.response(answer, origin, cancel)),
                Err(HttpError::Broken { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let driver = Driver::new()?;
        let opening = connection::open(&origin, proxy.as_ref(), &self.0.tls, self.0.patience.connect);
        let (sender, remote) = driver.block_on(cancel.or(opening))???;
        let absolute = proxy.is_some() && !origin.https;
        let connection = Connection { sender, driver, remote, absolute };
        let answer = self.exchange(connection, &origin, proxy.as_ref(), request, &cancel)?;
        Ok(self.response(answer, origin, cancel))
    }

    fn exchange(
        &self,
        mut connection: Connection,
        origin: &Origin,
        proxy: Option<&Intercept>,
        request: &Request,
        cancel: &Cancel,
    ) -> Result<(hyper::Response<Incoming>, Connection), HttpError> {
        let host = origin.name();
        let request = outgoing(request, &host, proxy.filter(|_| connection.absolute))?;
        let after = self.0.patience.answer;
        let Connection { sender, driver, .. } = &mut connection;
        let sent = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        // A timer is made in the runtime that it is to run on.
        let answer = driver.block_on(async { cancel.or(timeout(after, sent)).await })??;
        match answer {
            Ok(Ok(answer)) => Ok((answer, connection)),
            Ok(Err(error)) => Err(HttpError::broken(&host, error)),
            Err(_) => Err(HttpError::TimedOut { host, after }),
        }
    }

    fn response(
        &self,
        (answer, connection): (hyper::Response<Incoming>, Connection),
        origin: Origin,
        cancel: Cancel,
    ) -> Response {
        let (parts, incoming) = answer.into_parts();
        let from_public = connection.remote.map(|remote: IpAddr| !super::address::is_private(remote));
        let body = Body::new(incoming, (connection, origin), Arc::clone(&self.0), cancel);
        Response { status: parts.status, headers: parts.headers, from_public, body }
    }

    fn proxy(&self, url: &Url) -> Option<Intercept> {
        let uri: Uri = url.as_str().parse().ok()?;
        self.0.proxies.intercept(&uri)
    }
}

fn outgoing(
    request: &Request,
    host: &str,
    proxy: Option<&Intercept>,
) -> Result<hyper::Request<Full<Bytes>>, HttpError> {
    let bad = || HttpError::BadUrl { url: request.url.as_str().chars().take(200).collect() };
    let mut url = request.url.clone();
    url.set_fragment(None);
    // Who is named in a URL is for whoever gave it to use in another way.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let target = match proxy {
        Some(_) => url.as_str(),
        // What a client writes that speaks with the server itself: RFC 9112, section 3.2.
        None => &url[url::Position::BeforePath..],
    };
    let uri: Uri = target.parse().map_err(|_| bad())?;
    let mut outgoing = hyper::Request::new(Full::new(request.body.clone()));
    *outgoing.method_mut() = request.method.clone();
    *outgoing.uri_mut() = uri;
    *outgoing.headers_mut() = request.headers.clone();
    let headers = outgoing.headers_mut();
    headers.insert(HOST, HeaderValue::from_str(host).map_err(|_| bad())?);
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("imagefs/", env!("CARGO_PKG_VERSION"))));
    if let Some(auth) = proxy.and_then(Intercept::basic_auth) {
        headers.insert(PROXY_AUTHORIZATION, auth.clone());
    }
    Ok(outgoing)
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("patience", &self.patience).finish_non_exhaustive()
    }
}

/// Ends a wait when the task is cancelled.
#[derive(Debug)]
pub(super) struct Cancel {
    progress: Arc<Progress>,
    notify: Arc<Notify>,
    _on_cancel: OnCancel,
}

impl Cancel {
    fn by(progress: &Arc<Progress>) -> Cancel {
        let notify = Arc::new(Notify::new());
        let told = Arc::clone(&notify);
        let on_cancel = progress.on_cancel(move || told.notify_one());
        Cancel { progress: Arc::clone(progress), notify, _on_cancel: on_cancel }
    }

    /// Returns when the task is cancelled, and at once if it was.
    pub(super) async fn cancelled(&self) {
        while self.progress.check().is_ok() {
            self.notify.notified().await;
        }
    }

    /// What comes of `future`, unless the task is cancelled before.
    async fn or<T>(&self, future: impl Future<Output = T>) -> Result<T, HttpError> {
        tokio::select! {
            biased;
            () = self.cancelled() => Err(HttpError::Cancelled(crate::progress::Cancelled)),
            done = future => Ok(done),
        }
    }
}
