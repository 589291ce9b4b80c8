//! One repository of a registry: requests with everything that they may need besides.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use url::Position;

use super::auth::{self, Challenge, TokenAnswer};
use super::credentials::{self, Credential};
use super::{RegistryError, RemoteName};
use crate::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER};
use crate::http::{Client, HeaderMap, HttpError, Method, Options, Request, Response, StatusCode, Url};
use crate::progress::Progress;

/// The pauses before what may pass is tried again.
pub(super) const PAUSES: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];

/// The longest wait that a server may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(20);

/// Redirects that are followed for one request.
const MAX_REDIRECTS: usize = 5;

/// The longest answer of a token service, and what is read of an error, bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// Where Docker and Podman keep certificates for single hosts.
const CERTIFICATES: [&str; 2] = ["/etc/docker/certs.d", "/etc/containers/certs.d"];

/// How registries are reached.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Hosts that need no certificate, nor TLS at all, as `HOST[:PORT]`. This machine's own never need any.
    pub insecure: Vec<String>,
}

/// One repository. Cheap to clone, and to be used from any thread.
#[derive(Clone)]
pub struct Repository(Arc<Inner>);

struct Inner {
    client: Client,
    name: RemoteName,
    /// Whether the registry may do without TLS, or without a certificate.
    insecure: bool,
    /// `https` or `http`, once that is known.
    base: Mutex<Option<Url>>,
    credential: OnceLock<Option<Credential>>,
    /// What the registry is shown.
    authorization: Mutex<Option<HeaderValue>>,
    progress: Arc<Progress>,
}

/// What is asked of a registry.
#[derive(Clone, Debug)]
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    /// Below the repository, or an URL to which the registry led before.
    pub(super) target: Target<'a>,
    pub(super) headers: HeaderMap,
}

/// Where something is asked for.
#[derive(Clone, Debug)]
pub(super) enum Target<'a> {
    Api(&'a str),
    Elsewhere(&'a Elsewhere),
}

/// A place to which a registry led.
#[derive(Clone, Debug)]
pub(super) struct Elsewhere {
    url: Url,
    /// Whether it has to be a public one.
    public: bool,
}

/// An answer, and where it came from if that is not the registry itself.
pub(super) struct Answer {
    pub(super) response: Response,
    pub(super) led_to: Option<Elsewhere>,
}

impl Repository {
    /// The repository of a name; makes no connection. `progress` ends whatever waits.
    pub fn new(name: &RemoteName, access: &Access, progress: &Arc<Progress>) -> Repository {
        let certificates = CERTIFICATES.iter().map(Into::into).collect();
        let server = name.server();
        Repository(Arc::new(Inner {
            client: Client::new(Options { certificates, ..Options::default() }),
            name: name.clone(),
            insecure: is_local(server)
                || access.insecure.iter().any(|host| host.eq_ignore_ascii_case(server)),
            base: Mutex::default(),
            credential: OnceLock::new(),
            authorization: Mutex::default(),
            progress: Arc::clone(progress),
        }))
    }

    /// The name that it was made of.
    pub fn name(&self) -> &RemoteName {
        &self.0.name
    }

    pub(super) fn host(&self) -> String {
        self.0.name.host().to_owned()
    }

    /// The tags, as far as the registry tells within a few pages.
    pub fn tags(&self) -> Result<Vec<String>, RegistryError> {
        const MAX_PAGES: usize = 10;
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let mut tags: Vec<String> = Vec::new();
        let mut next = "tags/list".to_owned();
        for _ in 0..MAX_PAGES {
            let ask = Ask { method: Method::GET, target: Target::Api(&next), headers: HeaderMap::new() };
            let response = self.ask(&ask)?.response;
            let link = response.headers.get("link").and_then(|link| link.to_str().ok()).and_then(next_page);
            let body = self.successful(response)?.body.read_all(MAX_ANSWER)?;
            let page: Page =
                serde_json::from_slice(&body).map_err(|e| self.bad("the tags", e.to_string()))?;
            let before = tags.len();
            tags.extend(page.tags.unwrap_or_default());
            match link {
                // A page that brings nothing new could be followed by itself for ever.
                Some(link) if tags.len() > before => next = format!("tags/list?{link}"),
                _ => break,
            }
        }
        Ok(tags)
    }

    /// Asks, and asks again as long as that may help. An answer may tell of an error.
    pub(super) fn ask(&self, ask: &Ask<'_>) -> Result<Answer, RegistryError> {
        let mut pauses = PAUSES.iter();
        let mut refused = 0;
        loop {
            let wait = match self.follow(ask) {
                Ok(answer)
                    if answer.response.status == StatusCode::UNAUTHORIZED && answer.led_to.is_none() =>
                {
                    // A token may have expired since; one that was just given is not refused by mistake.
                    refused += 1;
                    if refused > 2 || matches!(ask.target, Target::Elsewhere(_)) {
                        return Ok(answer);
                    }
                    self.authorize(answer.response)?;
                    continue;
                }
                Ok(answer) if is_passing(answer.response.status) => match pauses.next() {
                    Some(pause) => match retry_after(&answer.response.headers) {
                        Some(wait) if wait > MAX_RETRY_AFTER => return Ok(answer),
                        wait => wait.unwrap_or(*pause),
                    },
                    None => return Ok(answer),
                },
                Err(RegistryError::Http(error)) if error.is_passing() => match pauses.next() {
                    Some(pause) => {
                        tracing::debug!("{error}; trying again");
                        *pause
                    }
                    None => return Err(error.into()),
                },
                done => return done,
            };
            self.pause(wait)?;
        }
    }

    /// Waits, unless nobody wants it any more.
    pub(super) fn pause(&self, wait: Duration) -> Result<(), RegistryError> {
        const STEP: Duration = Duration::from_millis(20);
        for _ in 0..=wait.as_millis() / STEP.as_millis() {
            self.0.progress.check()?;
            std::thread::sleep(STEP.min(wait));
        }
        Ok(())
    }

    /// Sends one request, and follows where it leads.
    fn follow(&self, ask: &Ask<'_>) -> Result<Answer, RegistryError> {
        let (mut url, mut led, mut public) = match &ask.target {
            Target::Api(path) => (self.api(path)?, false, false),
            Target::Elsewhere(place) => (place.url.clone(), true, place.public),
        };
        let origin = self.base()?;
        for _ in 0..=MAX_REDIRECTS {
            let at_home = url.origin() == origin.origin();
            let mut headers = ask.headers.clone();
            if at_home && let Some(authorization) = &*lock(&self.0.authorization) {
                headers.insert(AUTHORIZATION, authorization.clone());
            }
            let verify = !(at_home && self.0.insecure);
            let (method, public_only) = (ask.method.clone(), public && !at_home);
            let request =
                Request { method, headers, verify, public: public_only, ..Request::get(url.clone()) };
            let response = self.send(&request)?;
            if !is_redirect(response.status) {
                return Ok(Answer { response, led_to: led.then_some(Elsewhere { url, public }) });
            }
            public |= response.from_public == Some(true);
            let location = response.headers.get(LOCATION).and_then(|location| location.to_str().ok());
            let target = location.unwrap_or_default();
            let refuse = |reason| RegistryError::Redirect {
                host: self.host(),
                target: target.split(['?', '#']).next().unwrap_or_default().chars().take(200).collect(),
                reason,
            };
            let next = url.join(target).map_err(|_| refuse("that is no URL"))?;
            match (url.scheme(), next.scheme()) {
                (_, "https") | ("http", "http") => {}
                ("https", "http") if self.0.insecure => {}
                ("https", "http") => return Err(refuse("that is not encrypted, as the registry is")),
                _ => return Err(refuse("that is neither https nor http")),
            }
            (url, led) = (next, true);
        }
        let target = url.as_str().split(['?', '#']).next().unwrap_or_default().chars().take(200).collect();
        Err(RegistryError::Redirect { host: self.host(), target, reason: "there is no end to it" })
    }

    /// Sends one request and tells the log.
    fn send(&self, request: &Request) -> Result<Response, HttpError> {
        let result = self.0.client.send(request, &self.0.progress);
        // What stands behind the path may be a signature that lets anybody in.
        let shown = &request.url[..Position::AfterPath];
        let range = request.headers.get("range").and_then(|range| range.to_str().ok()).unwrap_or_default();
        match &result {
            Ok(response) => {
                tracing::info!("{} {shown} {range}: {}", request.method, response.status.as_u16());
            }
            Err(error) => tracing::info!("{} {shown} {range}: {error}", request.method),
        }
        result
    }

    /// The URL of something below the repository.
    fn api(&self, path: &str) -> Result<Url, RegistryError> {
        let url = self.base()?.join(&format!("/v2/{}/{path}", self.0.name.repository()));
        url.map_err(|e| self.bad(path, e.to_string()))
    }

    /// Where the registry is. One that may do without TLS is tried with it first, as Docker does.
    fn base(&self) -> Result<Url, RegistryError> {
        let mut base = lock(&self.0.base);
        if let Some(base) = &*base {
            return Ok(base.clone());
        }
        let of = |scheme: &str| {
            let url = format!("{scheme}://{}/", self.0.name.server()).parse::<Url>();
            url.map_err(|e| self.bad("its name", e.to_string()))
        };
        let mut found = of("https")?;
        if self.0.insecure {
            let ping = found.join("/v2/").map_err(|e| self.bad("its name", e.to_string()))?;
            match self.send(&Request { verify: false, ..Request::get(ping) }) {
                Ok(_) => {}
                Err(
                    HttpError::Tls { .. }
                    | HttpError::Broken { .. }
                    | HttpError::TimedOut { .. }
                    | HttpError::Proxy { .. },
                ) => found = of("http")?,
                // Nothing listens where https would be, but perhaps where http is.
                Err(HttpError::Unreachable { .. }) if found.port().is_none() => found = of("http")?,
                Err(error) => return Err(error.into()),
            }
        }
        *base = Some(found.clone());
        Ok(found)
    }

    /// Gets what a 401 asks for.
    fn authorize(&self, response: Response) -> Result<(), RegistryError> {
        let from_public = response.from_public == Some(true);
        let challenge = auth::challenge(&response.headers);
        let reason = self.reason(response);
        let denied = |reason: String, known: bool| RegistryError::Denied {
            host: self.host(),
            repository: self.0.name.repository().to_owned(),
            reason,
            known,
        };
        let credential = self.credential()?;
        let known = credential.is_some();
        let authorization = match (challenge, credential) {
            (Some(Challenge::Basic), Some(Credential::Password(name, password))) => {
                let shown = Some(basic(name, password))
                    .filter(|new| Some(new) != lock(&self.0.authorization).as_ref());
                // The same again would be refused again.
                shown.ok_or_else(|| denied(reason, known))?
            }
            (Some(Challenge::Bearer { realm, service, scope }), credential) => {
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.0.name.repository()));
                let request =
                    self.token_request(&realm, service.as_deref(), &scope, credential, from_public)?;
                let answer = self.send(&request)?;
                if matches!(answer.status.as_u16(), 400 | 401 | 403) {
                    return Err(denied(self.reason(answer), known));
                }
                let body = self.successful(answer)?.body.read_all(MAX_ANSWER)?;
                let answer: TokenAnswer =
                    serde_json::from_slice(&body).map_err(|e| self.bad("a token", e.to_string()))?;
                secret(&format!("Bearer {}", answer.token()))
                    .ok_or_else(|| self.bad("a token", "it is none".to_owned()))?
            }
            _ => return Err(denied(reason, known)),
        };
        *lock(&self.0.authorization) = Some(authorization);
        Ok(())
    }

    fn token_request(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: &str,
        credential: Option<&Credential>,
        from_public: bool,
    ) -> Result<Request, RegistryError> {
        let base = self.base()?;
        let refuse = |reason| RegistryError::Redirect {
            host: self.host(),
            target: realm.chars().take(200).collect(),
            reason,
        };
        let mut url: Url = realm.parse().map_err(|_| refuse("that is no URL"))?;
        match (base.scheme(), url.scheme()) {
            (_, "https") | ("http", "http") => {}
            _ => return Err(refuse("no token is asked for where it is not encrypted, as the registry is")),
        }
        let at_home = url.origin() == base.origin();
        let verify = !(at_home && self.0.insecure);
        let mut fields: Vec<(&str, &str)> = vec![("scope", scope)];
        fields.extend(service.map(|service| ("service", service)));
        let mut request = Request { verify, public: from_public && !at_home, ..Request::get(url.clone()) };
        match credential {
            Some(Credential::IdentityToken(token)) => {
                fields.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", "imagefs"),
                    ("refresh_token", token),
                ]);
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                request.body = form.extend_pairs(fields).finish().into();
                let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
                request.headers.insert(CONTENT_TYPE, kind);
                request.method = Method::POST;
            }
            other => {
                url.query_pairs_mut().extend_pairs(fields);
                request.url = url;
                if let Some(Credential::Password(name, password)) = other {
                    request.headers.insert(AUTHORIZATION, basic(name, password));
                }
            }
        }
        Ok(request)
    }

    fn credential(&self) -> Result<Option<&Credential>, RegistryError> {
        if self.0.credential.get().is_none() {
            let found = credentials::find(&self.0.name, &self.0.progress)?;
            let _ = self.0.credential.set(found);
        }
        Ok(self.0.credential.get().and_then(Option::as_ref))
    }

    /// The answer, unless it tells of an error.
    pub(super) fn successful(&self, response: Response) -> Result<Response, RegistryError> {
        let status = response.status;
        if status.is_success() {
            return Ok(response);
        }
        let reason = self.reason(response);
        Err(match status.as_u16() {
            401 | 403 => RegistryError::Denied {
                host: self.host(),
                repository: self.0.name.repository().to_owned(),
                reason,
                known: self.0.credential.get().is_some_and(Option::is_some),
            },
            status => RegistryError::Refused { host: self.host(), status, reason },
        })
    }

    /// What an error answer says, in one line.
    fn reason(&self, response: Response) -> String {
        #[derive(Deserialize)]
        struct Errors {
            errors: Vec<Told>,
        }
        #[derive(Deserialize)]
        struct Told {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        let status = response.status;
        let text = response.body.read_all(64 << 10).unwrap_or_default();
        let told = match serde_json::from_slice::<Errors>(&text) {
            Ok(Errors { errors }) => {
                let told = errors.iter().map(|error| match error.message.is_empty() {
                    true => error.code.clone(),
                    false => error.message.clone(),
                });
                told.collect::<Vec<_>>().join("; ")
            }
            Err(_) => String::new(),
        };
        match printable(&told) {
            told if told.is_empty() => status.canonical_reason().unwrap_or("no reason is given").to_owned(),
            told => told,
        }
    }

    pub(super) fn bad(&self, what: &str, reason: String) -> RegistryError {
        RegistryError::BadAnswer { host: self.host(), what: what.to_owned(), reason }
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Repository").field(&self.0.name).finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a host is this machine: Docker asks for no certificate there.
fn is_local(server: &str) -> bool {
    let host = match server.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => server,
    };
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Whether the same request may be answered in a moment.
fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// How long a server wants to be left alone: RFC 9110, section 10.2.3. A date is not worth a calendar.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// The query of the next page, out of `</v2/…?QUERY>; rel="next"`; RFC 8288.
fn next_page(link: &str) -> Option<String> {
    let (target, rest) = link.trim_start().strip_prefix('<')?.split_once('>')?;
    let (_, query) = target.split_once('?')?;
    rest.contains("next").then(|| query.to_owned())
}

fn basic(name: &str, password: &str) -> HeaderValue {
    use base64::Engine as _;
    let coded = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
    secret(&format!("Basic {coded}")).unwrap_or_else(|| HeaderValue::from_static(""))
}

/// A header that is not shown, if the text can be one.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Text from outside without control characters, and not too much of it.
fn printable(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}
