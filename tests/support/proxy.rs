//! A proxy between imagefs and the daemon: counts requests, and spoils the answers to exports or to others.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

/// What happens to the answer to a request. Bytes are counted in the body, without the headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// The connection is closed after this many bytes, as by a daemon that ends.
    CutAfter(usize),
    /// The connection is reset after this many bytes at most, as by a machine that was restarted.
    ResetAfter(usize),
    /// After this many bytes nothing comes for so long.
    DelayAfter(usize, Duration),
    /// After this many bytes, no more come than this many in a second.
    ThrottleAfter(usize, usize),
    /// Nothing more comes after this many bytes.
    StallAfter(usize),
    /// After this many bytes come the words of a daemon in trouble, and then the end as it should be.
    WordsAfter(usize),
    /// After this many bytes nothing comes until [`Proxy::release`].
    HoldAfter(usize),
    /// The daemon never gets the request, and nothing comes.
    Silent,
}

/// What a daemon says when an export fails after it has answered that it is fine.
const WORDS: &[u8] = b"{\"message\":\"Error exporting container: unexpected EOF\"}\n";

/// How many pieces a second a throttled answer comes in.
const PIECES: usize = 20;

/// A socket that leads to the daemon's. It is one of TCP, which alone can be reset.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    daemon: String,
    /// What the first line of a request that is spoiled contains.
    spoiled: String,
    /// For the first of these, the second, …; the last one is for all after it.
    faults: Vec<Fault>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The first line of each request, in the order in which they came. Each has its own connection.
    requests: Vec<String>,
    /// Connections that have ended.
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
        Proxy::spoiling("/export", daemon, faults)
    }

    /// As [`with_faults`](Proxy::with_faults), but it is the GET requests for `what` that meet them, or those of another
    /// method if `what` begins with it, as in `POST /containers/create`.
    pub fn spoiling(what: &str, daemon: &str, faults: Vec<Fault>) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            daemon: daemon.strip_prefix("unix://").unwrap().to_owned(),
            spoiled: what.to_owned(),
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
        Proxy { address, shared }
    }

    /// Where it listens, as `DOCKER_HOST` spells it.
    pub fn address(&self) -> String {
        format!("tcp://{}", self.address)
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
    fn carry(&self, client: &TcpStream) {
        let mut buffer = vec![0; 65536];
        let n = (&*client).read(&mut buffer).unwrap_or(0);
        let line = String::from_utf8_lossy(&buffer[..n]).lines().next().unwrap_or_default().to_owned();
        let fault = {
            let mut state = self.state.lock().unwrap();
            let names_method = self.spoiled.contains(' ');
            let is_spoiled =
                |line: &String| (names_method || line.starts_with("GET ")) && line.contains(&self.spoiled);
            let before = state.requests.iter().filter(|line| is_spoiled(line)).count();
            let now = is_spoiled(&line);
            state.requests.push(line);
            match now {
                true => self.faults[before.min(self.faults.len() - 1)],
                false => Fault::None,
            }
        };
        if fault == Fault::Silent {
            while let Ok(1..) = (&*client).read(&mut buffer) {}
            self.state.lock().unwrap().closed += 1;
            self.changed.notify_all();
            return;
        }
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
    fn answer(&self, server: &UnixStream, client: &TcpStream, fault: Fault) {
        let carried = match fault {
            Fault::None => io::copy(&mut &*server, &mut &*client).map(drop),
            _ => self.spoil(server, client, fault),
        };
        match (carried, fault) {
            (_, Fault::StallAfter(_)) | (Err(_), Fault::None) => {}
            // With no time to linger, closing is a reset: socket(7). It is closed by who reads from it.
            (_, Fault::ResetAfter(_)) => {
                let _ = set_socket_linger(client, Some(Duration::ZERO));
                let _ = client.shutdown(Shutdown::Read);
            }
            _ => drop(client.shutdown(Shutdown::Both)),
        }
    }

    fn spoil(&self, server: &UnixStream, mut client: &TcpStream, fault: Fault) -> io::Result<()> {
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
            Fault::None | Fault::Silent => usize::MAX,
            Fault::CutAfter(limit) | Fault::ResetAfter(limit) | Fault::StallAfter(limit) => limit,
            Fault::WordsAfter(limit) | Fault::HoldAfter(limit) => limit,
            Fault::DelayAfter(limit, _) | Fault::ThrottleAfter(limit, _) => limit,
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
            Fault::DelayAfter(_, pause) => {
                thread::sleep(pause);
                carry_chunks(&mut body, client)?;
                chunk(client, b"")
            }
            Fault::ThrottleAfter(_, rate) => {
                let piece = rate.div_ceil(PIECES);
                while carry_chunks(&mut (&mut body).take(piece as u64), client)? == piece {
                    thread::sleep(Duration::from_secs(1) / PIECES as u32);
                }
                chunk(client, b"")
            }
            Fault::CutAfter(_)
            | Fault::ResetAfter(_)
            | Fault::StallAfter(_)
            | Fault::None
            | Fault::Silent => Ok(()),
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

/// Carries a body to its end; returns its length.
fn carry_chunks(body: &mut impl Read, client: &TcpStream) -> io::Result<usize> {
    let mut buffer = vec![0; 65536];
    let mut carried = 0;
    loop {
        let n = body.read(&mut buffer)?;
        if n == 0 {
            return Ok(carried);
        }
        chunk(client, &buffer[..n])?;
        carried += n;
    }
}

fn chunk(mut client: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    write!(client, "{:x}\r\n", bytes.len())?;
    client.write_all(bytes)?;
    client.write_all(b"\r\n")
}
