//! Our helper in a container of the build: answers about single paths, many at a time, and streams of whole mounts.

use std::collections::HashMap;
use std::io::{self, BufRead, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc::{self as tokio_mpsc, UnboundedReceiver, UnboundedSender};
use tokio::time::timeout;

use super::drive::Build;
use super::error::printable;
use super::exec::{self, Stdin, Stdout};
use super::wire::{self, Attributes, Reply, Request};
use super::{BuildError, MountSource, container};

/// The program: empty where imagefs was built without.
pub(super) const PROGRAM: &[u8] = include_bytes!(env!("IMAGEFS_HELPER"));

/// How long an answer may take, and the next piece of a stream.
const PATIENCE: Duration = Duration::from_secs(60);

/// The helper at work in a container that has some mounts. The container ends with this.
pub(crate) struct Helper {
    build: Arc<Build>,
    container: String,
    stdin: Stdin,
    next: AtomicU64,
    waiting: Arc<Mutex<Waiting>>,
}

/// Who waits for which answer; `None` once there are no more answers.
type Waiting = Option<HashMap<u64, Waiter>>;

/// Who waits for an answer.
enum Waiter {
    /// One that wants one.
    Answer(SyncSender<Reply>),
    /// One that wants a stream of them. How many may come is agreed on.
    Stream(UnboundedSender<Reply>),
}

impl Helper {
    /// Starts one that has these mounts.
    pub fn start(build: &Arc<Build>, mounts: &[MountSource]) -> Result<Helper, BuildError> {
        let container = container::make(build, mounts)?;
        let mut bridge = build.bridge.clone();
        let started = build.worker.handle().block_on(exec::start(&mut bridge, &container));
        let (stdin, stdout) = match started {
            Ok(started) => started,
            Err(error) => {
                container::release(build, &container, None);
                return Err(error);
            }
        };
        build.opened(&stdin);
        let waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        build.worker.handle().spawn(hand_out(stdout, Arc::clone(&waiting)));
        let helper = Helper { build: Arc::clone(build), container, stdin, next: AtomicU64::new(0), waiting };
        // It may end as soon as it has started.
        helper.stat(0, b"")?;
        Ok(helper)
    }

    /// What stands at a path of a mount, no link followed; `None` if nothing does.
    pub fn stat(&self, mount: usize, path: &[u8]) -> Result<Option<Attributes>, BuildError> {
        match self.ask(mount, &Request::Stat(path.to_vec()))? {
            Reply::Stat(found) => Ok(Some(*found)),
            // Nothing there, or no directory on the way: ENOENT, ENOTDIR.
            Reply::Failed(2 | 20) => Ok(None),
            reply => Err(unexpected(reply)),
        }
    }

    /// Bytes of the regular file at a path; fewer than asked for at its end alone.
    pub fn read(&self, mount: usize, path: &[u8], offset: u64, len: u32) -> Result<Vec<u8>, BuildError> {
        let len = len.min(wire::MAX_READ);
        match self.ask(mount, &Request::Read { path: path.to_vec(), offset, len })? {
            Reply::Bytes(bytes) if bytes.len() <= len as usize => Ok(bytes),
            reply => Err(unexpected(reply)),
        }
    }

    /// A tar of all that is at a path of a mount.
    pub fn tar(&self, mount: usize, path: &str) -> Result<TarStream, BuildError> {
        let (send, pieces) = tokio_mpsc::unbounded_channel();
        let id = self.send(mount, &Request::Tar(path.as_bytes().to_vec()), Waiter::Stream(send))?;
        let hang_up = HangUp {
            waiting: Arc::clone(&self.waiting),
            stdin: self.stdin.clone(),
            worker: self.build.worker.handle().clone(),
            id,
        };
        Ok(TarStream {
            build: Arc::clone(&self.build),
            hang_up,
            pieces,
            piece: Vec::new(),
            at: 0,
            ended: false,
        })
    }

    /// Sends a request, and gives its number.
    fn send(&self, mount: usize, request: &Request, waiter: Waiter) -> Result<u64, BuildError> {
        let gone = || BuildError::Helper("it has ended".into());
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.waiting).as_mut().ok_or_else(gone)?.insert(id, waiter);
        let mount = u32::try_from(mount).unwrap_or(u32::MAX);
        self.build.worker.wait(
            "ask the helper in the build",
            PATIENCE,
            self.stdin.write(request.encode(id, mount)),
        )?;
        Ok(id)
    }

    fn ask(&self, mount: usize, request: &Request) -> Result<Reply, BuildError> {
        let (send, answer) = mpsc::sync_channel(1);
        let id = self.send(mount, request, Waiter::Answer(send))?;
        answer.recv_timeout(PATIENCE).map_err(|why| match why {
            RecvTimeoutError::Timeout => {
                lock(&self.waiting).as_mut().map(|waiting| waiting.remove(&id));
                BuildError::Late { doing: "ask the helper in the build", after: PATIENCE }
            }
            RecvTimeoutError::Disconnected => BuildError::Helper("it has ended".into()),
        })
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        container::release(&self.build, &self.container, Some(self.stdin.clone()));
    }
}

fn unexpected(reply: Reply) -> BuildError {
    match reply {
        Reply::Failed(errno) => BuildError::Helper(io::Error::from_raw_os_error(errno).to_string()),
        _ => BuildError::Helper("its answer is that to another question".into()),
    }
}

/// Gives each answer to whom waits for it.
async fn hand_out(mut stdout: Stdout, waiting: Arc<Mutex<Waiting>>) {
    let mut come = Vec::new();
    let why = loop {
        match stdout.read().await {
            Ok(Some(piece)) => come.extend(piece),
            Ok(None) => break "it has ended".to_owned(),
            Err(error) => break error.to_string(),
        }
        let mut done = 0;
        let good = loop {
            match wire::split_frame(&come[done..]) {
                Ok(Some((id, body, len))) => {
                    let Some(reply) = Reply::decode(body) else { break false };
                    give(&waiting, id, reply);
                    done += len;
                }
                Ok(None) => break true,
                Err(()) => break false,
            }
        };
        if !good {
            break "its output makes no sense".to_owned();
        }
        come.drain(..done);
    };
    tracing::debug!("the helper in the build: {why}");
    // Whoever waits finds out.
    lock(&waiting).take();
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn give(waiting: &Mutex<Waiting>, id: u64, reply: Reply) {
    let mut waiting = lock(waiting);
    let Some(waiting) = waiting.as_mut() else { return };
    match waiting.get(&id) {
        Some(Waiter::Stream(stream)) if matches!(reply, Reply::Bytes(_)) => _ = stream.send(reply),
        // The last of them.
        Some(_) => match waiting.remove(&id) {
            Some(Waiter::Answer(asked)) => _ = asked.try_send(reply),
            Some(Waiter::Stream(stream)) => _ = stream.send(reply),
            None => {}
        },
        None => {}
    }
}

/// A tar, as it comes.
pub(crate) struct TarStream {
    build: Arc<Build>,
    hang_up: HangUp,
    pieces: UnboundedReceiver<Reply>,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

/// Ends a stream from another thread.
#[derive(Clone)]
pub(crate) struct HangUp {
    waiting: Arc<Mutex<Waiting>>,
    stdin: Stdin,
    worker: Handle,
    id: u64,
}

impl HangUp {
    /// Nothing more comes of it.
    pub fn hang_up(&self) {
        let known = lock(&self.waiting).as_mut().and_then(|waiting| waiting.remove(&self.id)).is_some();
        if known {
            self.grant(0);
        }
    }

    /// Lets so many more pieces come; none, to have no more of them.
    fn grant(&self, pieces: u32) {
        let (stdin, frame) = (self.stdin.clone(), Request::More(pieces).encode(self.id, 0));
        // If it cannot be told, it has ended, which shows elsewhere.
        self.worker.spawn(async move { stdin.write(frame).await });
    }
}

impl TarStream {
    pub fn hang_up_handle(&self) -> HangUp {
        self.hang_up.clone()
    }
}

impl BufRead for TarStream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.piece.len() && !self.ended {
            let handle = self.build.worker.handle();
            let next = handle.block_on(async { timeout(PATIENCE, self.pieces.recv()).await });
            match next {
                Ok(Some(Reply::Bytes(piece))) if !piece.is_empty() => {
                    (self.piece, self.at) = (piece, 0);
                    self.hang_up.grant(1);
                }
                Ok(Some(Reply::End(why))) if why.is_empty() => self.ended = true,
                Ok(Some(Reply::End(why))) => {
                    let why = printable(&String::from_utf8_lossy(&why));
                    return Err(io::Error::other(BuildError::Helper(why)));
                }
                Ok(Some(other)) => return Err(io::Error::other(unexpected(other))),
                Ok(None) => return Err(io::Error::other(BuildError::Helper("it has ended".into()))),
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
        Ok(&self.piece[self.at..])
    }

    fn consume(&mut self, n: usize) {
        self.at = (self.at + n).min(self.piece.len());
    }
}

impl Read for TarStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}

impl Drop for TarStream {
    fn drop(&mut self) {
        self.hang_up.hang_up();
    }
}
