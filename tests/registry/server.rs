//! A registry of the tests' own: it writes down every request, and answers some of them wrongly.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::oci::build::{Layout, digest};

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET /v2/…`, the query included.
    pub line: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The first and the last byte that are asked for.
    fn range(&self) -> Option<(usize, usize)> {
        let (first, last) = self.header("range").strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Of HTTP; 0 hangs up.
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// How many bytes of the body are sent before the connection is closed.
    pub cut: Option<usize>,
    /// Whether the body goes on with zeros as long as anybody reads.
    pub endless: bool,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, headers: Vec::new(), body: body.into(), cut: None, endless: false }
    }

    pub fn with(mut self, name: &'static str, value: impl ToString) -> Reply {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.to_string()));
        self
    }

    pub fn cut(self, at: usize) -> Reply {
        Reply { cut: Some(at), ..self }
    }

    pub fn error(status: u16, code: &str, message: &str) -> Reply {
        let body = json!({"errors": [{"code": code, "message": message}]});
        Reply::new(status, body.to_string())
    }
}

/// What answers before the registry does: the request, and how many like it came before.
type Fault = Box<dyn Fn(&Request, usize, &Registry) -> Option<Reply> + Send + Sync>;

/// What the registry has.
#[derive(Default)]
pub struct Registry {
    blobs: BTreeMap<String, Vec<u8>>,
    /// Media type and digest by tag.
    tags: BTreeMap<String, (String, String)>,
}

impl Registry {
    /// The image of a layout under a tag.
    pub fn add(&mut self, layout: &Layout, tag: &str) {
        self.add_entry(layout, &layout.entries[0], tag);
    }

    /// What a descriptor of a layout leads to.
    pub fn add_entry(&mut self, layout: &Layout, descriptor: &Value, tag: &str) {
        let word = |key: &str| descriptor[key].as_str().unwrap_or_default().to_owned();
        for bytes in layout.files.values() {
            self.blobs.insert(digest(bytes).to_string(), bytes.clone());
        }
        self.tags.insert(tag.to_owned(), (word("mediaType"), word("digest")));
    }

    pub fn blob(&self, digest: &str) -> &[u8] {
        &self.blobs[digest]
    }

    /// As a registry answers that is sound.
    pub fn answer(&self, request: &Request) -> Reply {
        let (method, target) = request.line.split_once(' ').unwrap();
        let path = target.split('?').next().unwrap();
        let path = path.trim_start_matches("/v2/");
        if path.is_empty() {
            return Reply::new(200, "{}");
        }
        if path.ends_with("/tags/list") {
            return Reply::new(200, json!({"tags": self.tags.keys().collect::<Vec<_>>()}).to_string());
        }
        let mut reply = match (path.split_once("/manifests/"), path.split_once("/blobs/")) {
            (Some((_, reference)), _) => self.manifest(reference),
            (_, Some((_, digest))) => match self.blobs.get(digest) {
                Some(blob) => ranged(blob, request.range()),
                None => Reply::error(404, "BLOB_UNKNOWN", "blob unknown to registry"),
            },
            _ => Reply::new(404, "404 page not found"),
        };
        if method == "HEAD" {
            reply = reply.clone().with("content-length", reply.body.len());
            reply.body.clear();
        }
        reply
    }

    fn manifest(&self, reference: &str) -> Reply {
        let known = self.tags.get(reference).cloned();
        let by_digest = || {
            let bytes = self.blobs.get(reference)?;
            let document: Value = serde_json::from_slice(bytes).ok()?;
            let media_type = document["mediaType"].as_str().unwrap_or_default().to_owned();
            Some((media_type, reference.to_owned()))
        };
        match known.or_else(by_digest) {
            Some((media_type, digest)) => Reply::new(200, self.blobs[&digest].clone())
                .with("content-type", media_type)
                .with("docker-content-digest", digest),
            None => Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
        }
    }
}

fn ranged(blob: &[u8], range: Option<(usize, usize)>) -> Reply {
    match range {
        None => Reply::new(200, blob),
        Some((first, last)) if first <= last && last < blob.len() => Reply::new(206, &blob[first..=last])
            .with("content-range", format!("bytes {first}-{last}/{}", blob.len())),
        // As crane's registry answers what goes beyond the end.
        Some(_) => Reply::error(416, "BLOB_UNKNOWN", "We don't understand your Range"),
    }
}

/// A running registry. It ends with the process.
pub struct Server {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(registry: Registry) -> Server {
        Server::faulty(registry, |_, _, _| None)
    }

    /// One in which `fault` answers first.
    pub fn faulty(
        registry: Registry,
        fault: impl Fn(&Request, usize, &Registry) -> Option<Reply> + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let shared: Arc<(Registry, Fault)> = Arc::new((registry, Box::new(fault)));
        let log = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, log) = (Arc::clone(&shared), Arc::clone(&log));
                std::thread::spawn(move || serve(&stream, &shared, &log));
            }
        });
        Server { address, requests }
    }

    /// `docker://` and a name in it.
    pub fn image(&self, name: &str) -> String {
        format!("docker://{}/{name}", self.address)
    }

    /// The requests since the last time, in their order, without what asks whether there is a registry.
    pub fn requests(&self) -> Vec<Request> {
        let mut requests = std::mem::take(&mut *self.requests.lock().unwrap());
        requests.retain(|request| request.line != "GET /v2/");
        requests
    }

    /// The first lines of these, with the digests cut short.
    pub fn lines(&self) -> Vec<String> {
        let short = |request: Request| match request.line.split_once("sha256:") {
            Some((head, digest)) => format!("{head}{}", &digest[..4]),
            None => request.line,
        };
        self.requests().into_iter().map(short).collect()
    }
}

fn serve(stream: &TcpStream, (registry, fault): &(Registry, Fault), log: &Mutex<Vec<Request>>) {
    let mut reader = BufReader::new(stream);
    // A greeting in TLS begins so: it is hung up on, as by any server that knows none.
    while reader.fill_buf().is_ok_and(|start| !start.is_empty() && start[0] != 0x16) {
        let Some(request) = read(&mut reader) else { return };
        let before = {
            let mut log = log.lock().unwrap();
            let before = log.iter().filter(|known| known.line == request.line).count();
            log.push(request.clone());
            before
        };
        let reply = fault(&request, before, registry).unwrap_or_else(|| registry.answer(&request));
        if write(stream, &reply).is_err() || reply.cut.is_some() || reply.endless {
            return;
        }
    }
}

fn read(reader: &mut impl BufRead) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let line = lines.first()?.strip_suffix(" HTTP/1.1")?.to_owned();
    let headers: BTreeMap<_, _> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { line, headers, body: String::from_utf8(body).ok()? })
}

fn write(mut stream: &TcpStream, reply: &Reply) -> std::io::Result<()> {
    if reply.status == 0 {
        return Err(std::io::ErrorKind::ConnectionAborted.into());
    }
    let mut head = format!("HTTP/1.1 {} Status\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !reply.endless && !reply.headers.iter().any(|(name, _)| *name == "content-length") {
        head += &format!("content-length: {}\r\n", reply.body.len());
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len())])?;
    if reply.endless {
        loop {
            stream.write_all(&[0; 4096])?;
        }
    }
    Ok(())
}
