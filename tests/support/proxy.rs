//! A proxy between imagefs and the daemon: counts requests, and spoils the answers to exports.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// What happens to the answer to an export. Bytes are counted in the body, without the headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// The connection is closed after this many bytes.
    CutAfter(usize),
    /// Nothing more comes after this many bytes.
    StallAfter(usize),
    /// After this many bytes come the words of a daemon in trouble, and then the end as it should be.
    WordsAfter(usize),
    /// After this many bytes nothing comes until [`Proxy::release`].
    HoldAfter(usize),
}

/// What a daemon says when an export fails after it has answered that it is fine.
const WORDS: &[u8] = b"{\"message\":\"Error exporting container: unexpected EOF\"}\n";

/// A socket that leads to the daemon's.
pub struct Proxy {
    directory: tempfile::TempDir,
    shared: Arc<Shared>,
}

struct Shared {
    daemon: String,
    /// For the first export, the second, …; the last one is for all after it.
    faults: Vec<Fault>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The first line of each request, in the order in which they came. Each has its own connection.
    requests: Vec<String>,
    /// Connections that the client has closed.
    closed: usize,
    released: bool,
}

impl Proxy {
    /// Every export meets the same fault.
    pub fn before(daemon: &str, fault: Fault) -> Proxy {
        Proxy::with_faults(daemon, vec![fault])
    }

    /// The first export meets the first fault, and so on; those after the last fault meet the last again.
    pub fn with_faults(daemon: &str, faults: Vec<Fault>) -> Proxy {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        let shared = Arc::new(Shared {
            daemon: daemon.strip_prefix("unix://").unwrap().to_owned(),
            faults,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, shared) = (client.unwrap(), Arc::clone(&serving));
                thread::spawn(move || shared.carry(&client));
            }
        });
        Proxy { directory, shared }
    }

    /// Where it listens, as `DOCKER_HOST` spells it.
    pub fn address(&self) -> String {
        format!("unix://{}", self.directory.path().join("socket").display())
    }

    /// How many requests have come.
    pub fn requests(&self) -> usize {
        self.shared.state.lock().unwrap().requests.len()
    }

    /// The first line of each request that has come.
    pub fn lines(&self) -> Vec<String> {
        self.shared.state.lock().unwrap().requests.clone()
    }

    /// How many requests have come whose first line contains `part`.
    pub fn requests_for(&self, part: &str) -> usize {
        self.shared.state.lock().unwrap().requests.iter().filter(|line| line.contains(part)).count()
    }

    /// The names of the containers that were asked for.
    pub fn containers(&self) -> Vec<String> {
        let name = |line: &String| {
            let (_, query) = line.split_once("/containers/create?")?;
            let name = query.split([' ', '&']).find_map(|parameter| parameter.strip_prefix("name="))?;
            Some(name.to_owned())
        };
        self.lines().iter().filter_map(name).collect()
    }

    /// Lets exports go on that are held.
    pub fn release(&self) {
        self.shared.state.lock().unwrap().released = true;
        self.shared.changed.notify_all();
    }

    /// Returns once the client has closed every connection that it made.
    pub fn wait_until_all_hung_up(&self) {
        let state = self.shared.state.lock().unwrap();
        drop(self.shared.changed.wait_while(state, |state| state.closed < state.requests.len()).unwrap());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.release();
    }
}

impl Shared {
    /// Carries one connection, until the client closes it.
    fn carry(&self, client: &UnixStream) {
        let mut buffer = vec![0; 65536];
        let n = (&*client).read(&mut buffer).unwrap_or(0);
        let line = String::from_utf8_lossy(&buffer[..n]).lines().next().unwrap_or_default().to_owned();
        let fault = {
            let mut state = self.state.lock().unwrap();
            let exports = |line: &String| line.contains("/export");
            let before = state.requests.iter().filter(|line| exports(line)).count();
            let is_export = exports(&line);
            state.requests.push(line);
            match is_export {
                true => self.faults[before.min(self.faults.len() - 1)],
                false => Fault::None,
            }
        };
        let Ok(server) = UnixStream::connect(&self.daemon) else { return };
        if (&server).write_all(&buffer[..n]).is_ok() {
            thread::scope(|scope| {
                scope.spawn(|| self.answer(&server, client, fault));
                while let Ok(n @ 1..) = (&*client).read(&mut buffer) {
                    if (&server).write_all(&buffer[..n]).is_err() {
                        break;
                    }
                }
                self.state.lock().unwrap().closed += 1;
                self.changed.notify_all();
                let _ = server.shutdown(Shutdown::Both);
            });
        }
    }

    /// Carries the answer, as far as the fault lets it.
    fn answer(&self, server: &UnixStream, client: &UnixStream, fault: Fault) {
        let carried = match fault {
            Fault::None => io::copy(&mut &*server, &mut &*client).map(drop),
            _ => self.spoil(server, client, fault),
        };
        if carried.is_ok() && !matches!(fault, Fault::StallAfter(_)) {
            let _ = client.shutdown(Shutdown::Both);
        }
    }

    fn spoil(&self, server: &UnixStream, mut client: &UnixStream, fault: Fault) -> io::Result<()> {
        let mut server = BufReader::new(server);
        loop {
            let mut line = Vec::new();
            server.read_until(b'\n', &mut line)?;
            client.write_all(&line)?;
            if line == b"\r\n" || line.is_empty() {
                break;
            }
        }
        let mut body = Chunked { server, left: 0 };
        let limit = match fault {
            Fault::None => usize::MAX,
            Fault::CutAfter(limit) | Fault::StallAfter(limit) => limit,
            Fault::WordsAfter(limit) | Fault::HoldAfter(limit) => limit,
        };
        carry_chunks(&mut (&mut body).take(limit as u64), client)?;
        match fault {
            Fault::WordsAfter(_) => {
                chunk(client, WORDS)?;
                chunk(client, b"")
            }
            Fault::HoldAfter(_) => {
                let state = self.state.lock().unwrap();
                drop(self.changed.wait_while(state, |state| !state.released).unwrap());
                carry_chunks(&mut body, client)?;
                chunk(client, b"")
            }
            Fault::CutAfter(_) | Fault::StallAfter(_) | Fault::None => Ok(()),
        }
    }
}

/// A body with `Transfer-Encoding: chunked`, which is how daemons send what they do not know the length of.
struct Chunked<R> {
    server: R,
    left: usize,
}

impl<R: BufRead> Read for Chunked<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let mut line = String::new();
            while line.trim().is_empty() {
                line.clear();
                if self.server.read_line(&mut line)? == 0 {
                    return Ok(0);
                }
            }
            self.left = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        }
        let room = buf.len().min(self.left);
        let n = self.server.read(&mut buf[..room])?;
        self.left -= n;
        Ok(n)
    }
}

fn carry_chunks(body: &mut impl Read, client: &UnixStream) -> io::Result<()> {
    let mut buffer = vec![0; 65536];
    loop {
        match body.read(&mut buffer)? {
            0 => return Ok(()),
            n => chunk(client, &buffer[..n])?,
        }
    }
}

fn chunk(mut client: &UnixStream, bytes: &[u8]) -> io::Result<()> {
    write!(client, "{:x}\r\n", bytes.len())?;
    client.write_all(bytes)?;
    client.write_all(b"\r\n")
}
