//! The body of an answer as a plain stream of bytes.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use tokio::time::timeout;

use super::HttpError;
use super::client::{Cancel, Inner};
use super::connection::{Connection, Origin};

/// What has to come within [`Patience::idle`](super::Patience::idle) of waiting, bytes: a server that lets a body drip
/// holds nobody for ever.
const LEAST: u64 = 16 << 10;

/// The bytes of one answer, as they come.
///
/// [`BufRead::fill_buf`] hands out each chunk where it was received. Memory is bounded by one chunk and what hyper has in
/// flight: the server waits while nobody reads. Read to its end, it leaves its connection to the next call; dropped
/// before, it hangs up. It is strict about the end: only a body that was closed as HTTP says is `Ok(0)`.
///
/// # Errors
/// Every [`io::Error`] of a read carries an [`HttpError`]. After one, every further read fails.
#[derive(Debug)]
pub struct Body {
    // Dropped before the connection, whose runtime it belongs to.
    incoming: Option<Incoming>,
    line: Option<(Connection, Origin)>,
    client: Arc<Inner>,
    host: String,
    cancel: Cancel,
    chunk: Bytes,
    /// Bytes that have come since the waiting is counted, and for how long that was.
    got: u64,
    waited: Duration,
    failed: bool,
}

impl Body {
    pub(super) fn new(
        incoming: Incoming,
        line: (Connection, Origin),
        client: Arc<Inner>,
        cancel: Cancel,
    ) -> Body {
        let (host, chunk) = (line.1.name(), Bytes::new());
        let (incoming, line) = (Some(incoming), Some(line));
        let mut body = Body {
            incoming,
            line,
            client,
            host,
            cancel,
            chunk,
            got: 0,
            waited: Duration::ZERO,
            failed: false,
        };
        if body.incoming.as_ref().is_some_and(|incoming| incoming.is_end_stream()) {
            body.end();
        }
        body
    }

    /// How many bytes are still to come, where the server has said so.
    pub fn expected(&self) -> Option<u64> {
        let left = self.chunk.len() as u64;
        match &self.incoming {
            Some(incoming) => incoming.size_hint().exact().map(|more| more.saturating_add(left)),
            None => Some(left),
        }
    }

    /// Waits for bytes; none are left in the chunk only at the end of the body.
    fn fill(&mut self) -> Result<(), HttpError> {
        while self.chunk.is_empty() {
            if self.failed {
                return Err(HttpError::broken(&self.host, "it broke before"));
            }
            let (Some(incoming), Some((connection, _))) = (&mut self.incoming, &self.line) else {
                return Ok(());
            };
            let (begun, idle) = (Instant::now(), self.client.patience.idle);
            let left = idle.saturating_sub(self.waited);
            let next = connection.driver.block_on(async {
                tokio::select! {
                    biased;
                    () = self.cancel.cancelled() => None,
                    next = timeout(left, incoming.frame()) => Some(next),
                }
            });
            let error = match next {
                Ok(Some(Ok(Some(Ok(frame))))) => {
                    // What is no data is a trailer, of which nobody wants to know.
                    self.chunk = frame.into_data().unwrap_or_default();
                    self.count(begun.elapsed());
                    continue;
                }
                Ok(Some(Ok(None))) => {
                    self.end();
                    return Ok(());
                }
                Ok(Some(Ok(Some(Err(error))))) => HttpError::broken(&self.host, error),
                Ok(Some(Err(_))) => HttpError::TimedOut { host: self.host.clone(), after: idle },
                Ok(None) => HttpError::Cancelled(crate::progress::Cancelled),
                Err(error) => error,
            };
            self.failed = true;
            self.hang_up();
            return Err(error);
        }
        Ok(())
    }

    fn count(&mut self, waited: Duration) {
        self.got += self.chunk.len() as u64;
        self.waited += waited;
        if self.got >= LEAST {
            (self.got, self.waited) = (0, Duration::ZERO);
        }
    }

    fn end(&mut self) {
        self.incoming = None;
        if let Some((connection, origin)) = self.line.take() {
            self.client.pool.put(origin, connection);
        }
    }

    fn hang_up(&mut self) {
        self.incoming = None;
        self.line = None;
    }

    /// Reads to the end, at most `limit` bytes.
    ///
    /// # Errors
    /// [`HttpError::TooLarge`], and as the reads.
    pub fn read_all(mut self, limit: u64) -> Result<Vec<u8>, HttpError> {
        let mut bytes = Vec::new();
        loop {
            self.fill()?;
            if self.chunk.is_empty() {
                return Ok(bytes);
            }
            if (bytes.len() + self.chunk.len()) as u64 > limit {
                return Err(HttpError::TooLarge { host: self.host.clone(), limit });
            }
            bytes.extend_from_slice(&self.chunk);
            self.chunk.clear();
        }
    }
}

impl BufRead for Body {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.fill()?;
        Ok(&self.chunk)
    }

    fn consume(&mut self, n: usize) {
        self.chunk.advance(n.min(self.chunk.len()));
    }
}

impl Read for Body {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.hang_up();
    }
}
