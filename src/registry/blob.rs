//! Blobs: runs of their bytes, over broken connections and expired addresses.

use std::io::{self, BufRead, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::RegistryError;
use super::repository::{Ask, Elsewhere, PAUSES, Repository, Target};
use crate::http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HeaderValue, RANGE};
use crate::http::{Body, HeaderMap, HttpError, Method, Response, StatusCode};
use crate::image::Digest;

/// What has to come between two interruptions for the second to count as the first, bytes.
const RECOVERED: u64 = 1 << 20;

/// A blob, of which neither the digest nor the size is verified here.
#[derive(Clone, Debug)]
pub struct Blob {
    repository: Repository,
    digest: Digest,
    size: u64,
    /// Where the registry led to: asked directly, until that is refused.
    elsewhere: Arc<Mutex<Option<Elsewhere>>>,
}

impl Repository {
    /// The blob of this digest and size; makes no request.
    pub fn blob(&self, digest: &Digest, size: u64) -> Blob {
        Blob { repository: self.clone(), digest: *digest, size, elsewhere: Arc::default() }
    }
}

impl Blob {
    /// How many bytes it should have.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads the bytes of `range`, which has to lie within the blob. The request is sent by the first read.
    ///
    /// What breaks off is asked for again from there. The reads end with `Ok(0)` once all of the range has come, and never
    /// before. Their errors carry a [`RegistryError`].
    pub fn read(&self, range: Range<u64>) -> BlobReader {
        let range = range.start.min(self.size)..range.end.min(self.size);
        BlobReader {
            blob: self.clone(),
            whole: range.start == 0,
            range,
            body: None,
            failures: 0,
            begun: false,
            good: 0,
        }
    }

    /// Asks for a range, and gives the answer's body from its first byte on, with the number of that byte and of the one
    /// behind its last.
    fn open(&self, wanted: &Range<u64>, whole: bool) -> Result<(Body, Range<u64>), RegistryError> {
        let path = format!("blobs/{}", self.digest);
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if !whole || *wanted != (0..self.size) {
            let range = format!("bytes={}-{}", wanted.start, wanted.end - 1);
            let range = HeaderValue::from_str(&range).map_err(|e| self.bad(e.to_string()))?;
            headers.insert(RANGE, range);
        }
        let known = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(place) = known {
            let ask =
                Ask { method: Method::GET, target: Target::Elsewhere(&place), headers: headers.clone() };
            match self.repository.ask(&ask) {
                Ok(answer) if !expired(answer.response.status) => return self.body(answer.response, wanted),
                Err(error @ RegistryError::Cancelled(_)) => return Err(error),
                _ => self.lead(None),
            }
        }
        let answer =
            self.repository.ask(&Ask { method: Method::GET, target: Target::Api(&path), headers })?;
        match answer.response.status.as_u16() {
            404 => {
                let (host, repository) = (self.repository.host(), self.repository.name().repository());
                let repository = repository.to_owned();
                Err(RegistryError::MissingBlob { host, repository, digest: self.digest })
            }
            200 | 206 => {
                self.lead(answer.led_to);
                self.body(answer.response, wanted)
            }
            416 => Err(self.bad(format!("it has not all of the {} bytes that are declared", self.size))),
            _ => match self.repository.successful(answer.response) {
                Ok(response) => Err(self.bad(format!("the status is {}", response.status))),
                Err(error) => Err(error),
            },
        }
    }

    fn lead(&self, place: Option<Elsewhere>) {
        *self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }

    fn body(&self, response: Response, wanted: &Range<u64>) -> Result<(Body, Range<u64>), RegistryError> {
        let length =
            response.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let given = match response.status {
            StatusCode::PARTIAL_CONTENT => {
                let range = response.headers.get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
                let range = range.and_then(content_range);
                let (given, total) = range.ok_or_else(|| self.bad("a range of it is not told".to_owned()))?;
                if total.is_some_and(|total| total != self.size) {
                    let total = total.unwrap_or_default();
                    return Err(self.bad(format!("it has {total} bytes where {} are declared", self.size)));
                }
                if given.start != wanted.start || given.end > wanted.end {
                    let (a, b) = (given.start, given.end);
                    let (start, end) = (wanted.start, wanted.end);
                    return Err(
                        self.bad(format!("bytes {a} to {b} came where {start} to {end} were asked for"))
                    );
                }
                given
            }
            StatusCode::OK => 0..self.size,
            status => return Err(self.bad(format!("the status is {status}"))),
        };
        if length.is_some_and(|length: u64| length != given.end - given.start) {
            let (length, expected) = (length.unwrap_or_default(), given.end - given.start);
            return Err(self.bad(format!("{length} bytes came where {expected} were to come")));
        }
        Ok((response.body, given))
    }

    fn bad(&self, reason: String) -> RegistryError {
        self.repository.bad(&self.digest.to_string(), reason)
    }
}

/// Reads a run of a blob's bytes.
#[derive(Debug)]
pub struct BlobReader {
    blob: Blob,
    /// What is still to come.
    range: Range<u64>,
    /// Whether nothing of the blob was passed over.
    whole: bool,
    /// The body that brings it, the number of its next byte, and of the one behind its last.
    body: Option<(Body, Range<u64>)>,
    failures: usize,
    /// Whether anything has come.
    begun: bool,
    /// Bytes since the last failure.
    good: u64,
}

impl BlobReader {
    /// Waits until there are bytes to be read, or none will come.
    fn fill(&mut self) -> Result<(), RegistryError> {
        loop {
            if self.range.is_empty() {
                return self.end();
            }
            match self.advance() {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(RegistryError::Http(error)) if self.failures < PAUSES.len() && self.may_go_on(&error) => {
                    tracing::debug!("{error}; going on from byte {}", self.range.start);
                    self.body = None;
                    self.blob.repository.pause(PAUSES.get(self.failures).copied().unwrap_or_default())?;
                    self.failures += 1;
                    self.good = 0;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether what went wrong may be better in a moment. Who answered before is away for a moment only.
    fn may_go_on(&self, error: &HttpError) -> bool {
        error.is_passing() || (self.begun && error.is_unreachable())
    }

    /// Whether the body's next byte is the one that is wanted.
    fn advance(&mut self) -> Result<bool, RegistryError> {
        let (body, given) = match &mut self.body {
            Some(body) => body,
            none => none.insert(self.blob.open(&self.range, self.whole && self.range.start == 0)?),
        };
        let here = body.fill_buf().map_err(|error| of_io(&self.blob, error))?.len() as u64;
        if here == 0 {
            if given.start < given.end {
                let (found, expected) = (given.start, given.end);
                return Err(self.blob.bad(format!("it ends after {found} of {expected} bytes")));
            }
            // Less was given than was asked for.
            self.body = None;
            return Ok(false);
        }
        if given.start == given.end {
            let size = self.blob.size;
            return Err(self.blob.bad(format!("it has more than the {size} bytes that are declared")));
        }
        let passed_over = self.range.start.saturating_sub(given.start).min(here);
        if passed_over > 0 {
            body.consume(usize::try_from(passed_over).unwrap_or(0));
            given.start += passed_over;
            return Ok(false);
        }
        Ok(true)
    }

    /// Sees to it that a body which brought the end of the blob ends there too.
    fn end(&mut self) -> Result<(), RegistryError> {
        let Some((mut body, given)) = self.body.take() else { return Ok(()) };
        if given.start < given.end {
            // The rest was not asked for: a cache keeps it only if it is read, so that the next range is one.
            return Ok(());
        }
        match body.fill_buf() {
            Ok([]) => Ok(()),
            Ok(_) => {
                let size = self.blob.size;
                Err(self.blob.bad(format!("it has more than the {size} bytes that are declared")))
            }
            // All that was promised has come.
            Err(_) => Ok(()),
        }
    }
}

impl BufRead for BlobReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.fill()?;
        if self.range.is_empty() {
            return Ok(&[]);
        }
        let Some((body, given)) = &mut self.body else { return Ok(&[]) };
        let left = self.range.end.min(given.end) - self.range.start;
        let here = body.fill_buf().map_err(|error| of_io(&self.blob, error))?;
        Ok(&here[..here.len().min(usize::try_from(left).unwrap_or(usize::MAX))])
    }

    fn consume(&mut self, n: usize) {
        if let Some((body, given)) = &mut self.body {
            body.consume(n);
            given.start += n as u64;
            self.range.start = self.range.end.min(self.range.start + n as u64);
            self.begun |= n > 0;
            self.good += n as u64;
            if self.good >= RECOVERED {
                self.failures = 0;
            }
        }
    }
}

impl Read for BlobReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}

fn of_io(blob: &Blob, error: io::Error) -> RegistryError {
    match error.downcast::<HttpError>() {
        Ok(error) => error.into(),
        Err(error) => blob.bad(error.to_string()),
    }
}

/// Whether where the registry led to has to be asked for anew.
fn expired(status: StatusCode) -> bool {
    !matches!(status.as_u16(), 200 | 206 | 416)
}

/// `bytes FIRST-LAST/TOTAL`: RFC 9110, section 14.4.
fn content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let end = last.checked_add(1).filter(|end| *end > first)?;
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    Some((first..end, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_is_read_strictly() {
        assert_eq!(content_range("bytes 0-99/40960"), Some((0..100, Some(40960))));
        assert_eq!(content_range("bytes 5-5/*"), Some((5..6, None)));
        for bad in ["", "bytes */40960", "bytes 5-4/9", "items 0-1/2", "bytes 0-18446744073709551615/*"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
