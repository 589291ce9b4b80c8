//! The line between a command and the server behind a mount: a socket beside the server's record.
//!
//! A command sends one line, which says what it wants. The server answers with lines, the last of which says how it went.
//! Who hangs up before has lost interest. Each line is JSON.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cli::output::error::CommandError;

/// No line is longer, in bytes.
const MAX_LINE: u64 = 64 << 10;

/// How long the server waits for a command to say what it wants, and to take what it is told.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a command wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// That the mount show its source as it is now.
    Refresh,
}

/// What a server answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is under way.
    Progress {
        /// Bytes read so far.
        bytes: u64,
        /// Entries found so far.
        entries: u64,
    },
    /// It is done.
    Done,
    /// It failed.
    Failed(CommandError),
}

/// The server's end.
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Takes requests at `path`.
    pub fn open(path: PathBuf) -> io::Result<Listener> {
        // What a process with our number left is nobody's any more.
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let socket = by_short_path(&path, |path| UnixListener::bind(path))?;
        // Nobody may keep the server waiting here by hanging up at once.
        socket.set_nonblocking(true)?;
        Ok(Listener { socket, path })
    }

    /// The next command that has something to ask, if one is waiting: one of this user's, or root's.
    pub fn accept(&self) -> io::Result<Option<Caller>> {
        let stream = match self.socket.accept() {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            accepted => accepted?.0,
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let user = rustix::net::sockopt::socket_peercred(&stream)?.uid;
        let ours = user.is_root() || user == rustix::process::geteuid();
        Ok(ours.then_some(Caller(stream)))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// A command that asked the server for something.
pub struct Caller(UnixStream);

impl Caller {
    /// What it wants.
    pub fn request(&self) -> io::Result<Request> {
        read(&mut BufReader::new(&self.0))
    }

    /// Tells it something; whether it was there to listen.
    pub fn tell(&self, answer: &Answer) -> bool {
        write(&self.0, answer).is_ok()
    }
}

/// Asks the server that listens at `path`, and hands every answer but the last to `meanwhile`.
///
/// # Errors
/// The outer one: there is no such server, or it ended before it was done.
pub fn ask(
    path: &Path,
    request: Request,
    mut meanwhile: impl FnMut(u64, u64),
) -> io::Result<Result<(), CommandError>> {
    let stream = by_short_path(path, |path| UnixStream::connect(path))?;
    write(&stream, &request)?;
    let mut answers = BufReader::new(&stream);
    loop {
        match read(&mut answers)? {
            Answer::Progress { bytes, entries } => meanwhile(bytes, entries),
            Answer::Done => return Ok(Ok(())),
            Answer::Failed(error) => return Ok(Err(error)),
        }
    }
}

fn read<T: DeserializeOwned>(stream: &mut BufReader<&UnixStream>) -> io::Result<T> {
    let mut line = Vec::new();
    stream.take(MAX_LINE).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}

fn write(mut stream: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Calls `with` with another path to the same place: that of a socket has at most 107 bytes, unix(7).
fn by_short_path<T>(path: &Path, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = File::open(dir)?;
    with(&Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::error::Kind;

    #[test]
    fn an_answer_comes_whole_and_a_server_that_ends_is_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        // Longer than a socket's own path may be.
        let deep = dir.path().join("d".repeat(120));
        fs::create_dir(&deep).unwrap();
        let path = deep.join("1-1.sock");
        let listener = Listener::open(path.clone()).unwrap();
        assert!(listener.accept().unwrap().is_none());
        let accept = || loop {
            if let Some(caller) = listener.accept().unwrap() {
                break caller;
            }
        };
        let asking = |path: PathBuf| {
            std::thread::spawn(move || {
                let mut seen = Vec::new();
                let answer = ask(&path, Request::Refresh, |bytes, entries| seen.push((bytes, entries)));
                (answer, seen)
            })
        };

        let first = asking(path.clone());
        let caller = accept();
        assert_eq!(caller.request().unwrap(), Request::Refresh);
        assert!(caller.tell(&Answer::Progress { bytes: 7, entries: 1 }));
        let error = CommandError::new(Kind::NotFound, "gone\n\u{1b}").hint("look");
        assert!(caller.tell(&Answer::Failed(error)));
        let (answer, seen) = first.join().unwrap();
        let error = answer.unwrap().unwrap_err();
        assert_eq!(
            (error.kind(), error.message(), error.hints()),
            (Kind::NotFound, "gone\n\u{1b}", &["look".to_owned()][..])
        );
        assert_eq!(seen, [(7, 1)]);

        let second = asking(path.clone());
        drop(accept());
        assert!(second.join().unwrap().0.is_err());
        drop(listener);
        assert!(!path.exists());
    }
}
