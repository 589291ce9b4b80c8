//! A proxy between us and the daemon: counts requests, and spoils the answer to an export.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// What happens to the answer to an export.
#[derive(Clone, Copy)]
pub enum Fault {
    /// Nothing.
    None,
    /// The connection ends after this many bytes.
    CutAfter(usize),
    /// Nothing more comes after this many bytes.
    StallAfter(usize),
}

/// A socket that leads to the daemon's.
pub struct Proxy {
    directory: tempfile::TempDir,
    counts: Arc<(Mutex<Counts>, Condvar)>,
}

#[derive(Default)]
struct Counts {
    /// Connections made; each carries one request.
    opened: usize,
    /// Connections that the client has closed.
    closed: usize,
}

impl Proxy {
    pub fn before(daemon: &str, fault: Fault) -> Proxy {
        let daemon = daemon.strip_prefix("unix://").unwrap().to_owned();
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        let counts = Arc::<(Mutex<Counts>, Condvar)>::default();
        let counted = counts.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, counted) = (client.unwrap(), counted.clone());
                counted.0.lock().unwrap().opened += 1;
                let server = UnixStream::connect(&daemon).unwrap();
                thread::spawn(move || {
                    forward(&client, &server, fault);
                    counted.0.lock().unwrap().closed += 1;
                    counted.1.notify_all();
                });
            }
        });
        Proxy { directory, counts }
    }

    pub fn address(&self) -> String {
        format!("unix://{}", self.directory.path().join("socket").display())
    }

    pub fn requests(&self) -> usize {
        self.counts.0.lock().unwrap().opened
    }

    /// Returns once the client has closed every connection that it made.
    pub fn wait_until_all_hung_up(&self) {
        let counts = self.counts.0.lock().unwrap();
        drop(self.counts.1.wait_while(counts, |counts| counts.closed < counts.opened).unwrap());
    }
}

/// Carries one connection, until the client closes it.
fn forward(client: &UnixStream, server: &UnixStream, fault: Fault) {
    let mut buffer = vec![0; 65536];
    let n = (&*client).read(&mut buffer).unwrap_or(0);
    let request = &buffer[..n];
    let exports = request.windows(7).any(|window| window == b"/export");
    let (limit, cuts) = match fault {
        Fault::CutAfter(limit) if exports => (limit, true),
        Fault::StallAfter(limit) if exports => (limit, false),
        _ => (usize::MAX, true),
    };
    if (&*server).write_all(request).is_err() {
        return;
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut left = limit;
            let mut buffer = vec![0; 65536];
            while left > 0 {
                let room = left.min(buffer.len());
                let n = (&*server).read(&mut buffer[..room]).unwrap_or(0);
                if n == 0 || (&*client).write_all(&buffer[..n]).is_err() {
                    break;
                }
                left -= n;
            }
            if cuts {
                let _ = client.shutdown(Shutdown::Both);
            }
        });
        while let Ok(n @ 1..) = (&*client).read(&mut buffer) {
            if (&*server).write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Both);
    });
}
