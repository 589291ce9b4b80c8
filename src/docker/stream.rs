//! An answer's body as a plain stream of bytes.
//!
//! [`ByteStream`] reads like a file that ends, and is strict about the end: only a body that was closed as HTTP
//! says is `Ok(0)`. Must not import anything of the crate outside `docker`.

use std::io::{self, BufRead, Read};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bollard::errors::Error as BollardError;
use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::DockerError;
use super::client::{self, Client, Driver};
use crate::progress::OnCancel;

/// Chunks as they come from the connection.
pub(super) type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, BollardError>> + Send>>;

/// The bytes of one answer, as they come.
///
/// [`BufRead::fill_buf`] hands out each chunk where it was received, without a copy. Memory is bounded by one chunk
/// and what the HTTP library has in flight: the daemon waits while nobody reads. Dropping the stream hangs up.
/// A reader must not itself be part of a tokio runtime.
///
/// # Errors
/// Every [`io::Error`] of a read carries a [`DockerError`]: [`Cut`](DockerError::Cut) where the body ends before it
/// should, [`Stalled`](DockerError::Stalled) where it stops coming, [`HungUp`](DockerError::HungUp) after
/// [`HangUp::hang_up`]. After an error, every further read is an error: it never looks like the end.
pub struct ByteStream {
    client: Arc<Client>,
    doing: String,
    line: Arc<Line>,
    /// Hangs up when the task is cancelled that it is for.
    _task: Option<OnCancel>,
    chunk: Bytes,
    /// How long the next chunk may take.
    patience: Duration,
}

/// What a stream comes by.
struct Line {
    /// Held by whoever reads.
    state: Mutex<State>,
    hang_up: Notify,
}

enum State {
    Flowing(Chunks, Driver),
    Ended,
    Broken,
}

/// Ends a [`ByteStream`] from another thread, also one that waits for its first byte.
#[derive(Clone)]
pub struct HangUp(Weak<Line>);

impl HangUp {
    /// Closes the stream's connection, whether anybody reads just now or not. Its current read, or else its next one that has
    /// to wait, fails.
    pub fn hang_up(&self) {
        if let Some(line) = self.0.upgrade() {
            // Whoever waits in a read lets go of the state then.
            line.hang_up.notify_one();
            let mut state = line.state();
            if let State::Flowing(..) = *state {
                *state = State::Broken;
            }
        }
    }

    /// As [`HangUp::hang_up`], but that the connection stays open until the next read: this never waits.
    fn notify(&self) {
        if let Some(line) = self.0.upgrade() {
            line.hang_up.notify_one();
        }
    }

    /// Whether there is no stream any more.
    pub fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl Line {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ByteStream {
    /// `doing` says what the stream is for, as in "cannot DOING"; `patience` is the time to the first chunk.
    pub(super) fn new(
        client: &Arc<Client>,
        doing: String,
        chunks: Chunks,
        patience: Duration,
    ) -> Result<ByteStream, DockerError> {
        let line = Arc::new(Line {
            state: Mutex::new(State::Flowing(chunks, client::runtime()?)),
            hang_up: Notify::new(),
        });
        let handle = HangUp(Arc::downgrade(&line));
        Ok(ByteStream {
            client: client.clone(),
            doing,
            line,
            // Not under the state's lock, which whoever waits in a read holds until it is told.
            _task: client.on_cancel(move || handle.notify()),
            chunk: Bytes::new(),
            patience,
        })
    }

    /// What ends this stream from another thread.
    pub fn hang_up_handle(&self) -> HangUp {
        HangUp(Arc::downgrade(&self.line))
    }

    /// Waits for bytes; none are left in the chunk only at the end of the body.
    ///
    /// # Errors
    /// As the reads, not wrapped.
    pub(super) fn fill(&mut self) -> Result<(), DockerError> {
        while self.chunk.is_empty() {
            let mut state = self.line.state();
            let (chunks, runtime) = match &mut *state {
                State::Flowing(chunks, runtime) => (chunks, runtime),
                State::Ended => return Ok(()),
                State::Broken => return Err(DockerError::HungUp { doing: self.doing.clone() }),
            };
            let patience = self.patience;
            let next = runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = self.line.hang_up.notified() => None,
                    next = timeout(patience, chunks.next()) => Some(next),
                }
            });
            let doing = || self.doing.clone();
            let error = match next {
                Some(Ok(Some(Ok(chunk)))) => {
                    self.chunk = chunk;
                    self.patience = self.client.patience.idle;
                    continue;
                }
                Some(Ok(None)) => {
                    *state = State::Ended;
                    return Ok(());
                }
                Some(Ok(Some(Err(error)))) => DockerError::new(&self.doing, &self.client.endpoint, error),
                Some(Err(_)) => DockerError::Stalled { doing: doing(), after: patience },
                None => DockerError::HungUp { doing: doing() },
            };
            *state = State::Broken;
            return Err(error);
        }
        Ok(())
    }

    /// Reads to the end, at most `limit` bytes.
    pub(super) fn read_all(mut self, limit: usize) -> Result<Vec<u8>, DockerError> {
        let mut bytes = Vec::new();
        loop {
            self.fill()?;
            if self.chunk.is_empty() {
                return Ok(bytes);
            }
            if bytes.len() + self.chunk.len() > limit {
                let reason = format!("it is longer than {limit} bytes");
                return Err(DockerError::BadAnswer { doing: self.doing, reason });
            }
            bytes.extend_from_slice(&self.chunk);
            self.chunk.clear();
        }
    }
}

impl BufRead for ByteStream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.fill().map_err(|error| io::Error::new(error.io_kind(), error))?;
        Ok(&self.chunk)
    }

    fn consume(&mut self, n: usize) {
        self.chunk.advance(n.min(self.chunk.len()));
    }
}

impl Read for ByteStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}
