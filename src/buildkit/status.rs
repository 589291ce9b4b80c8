//! What a build tells of itself while it goes on: which step begins, what it says, how it ends.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard_buildkit_proto::google::protobuf::Timestamp;
use bollard_buildkit_proto::moby::buildkit::v1::{StatusResponse, Vertex};
use tokio::sync::Notify;
use tokio::time::timeout;
use tonic::Streaming;

use super::error::printable;

/// Lines that are kept of each step's output.
const MAX_TAIL: usize = 20;

/// Bytes of one line that are kept.
const MAX_LINE: usize = 4096;

/// Steps that are told of. A build of more is made, but not told.
const MAX_STEPS: usize = 10_000;

/// Is told what goes on in a build. It must not wait.
pub type Reporter = Box<dyn FnMut(Report) + Send>;

/// Something that goes on in a build. Steps are numbered as they begin, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// A step begins, or goes on.
    Began {
        /// Its number.
        step: usize,
        /// What it is called: `[2/3] RUN make`.
        name: String,
    },
    /// A step has written a line.
    Said {
        /// Its number.
        step: usize,
        /// The line.
        line: String,
    },
    /// A step is done.
    Done {
        /// Its number.
        step: usize,
        /// How long it took; `None` if it had been done before.
        took: Option<Duration>,
    },
    /// A step has failed, or was given up because another one has.
    Failed {
        /// Its number.
        step: usize,
        /// Why; `None` if it was given up.
        why: Option<String>,
    },
}

/// The end of each step's output.
#[derive(Default)]
pub(super) struct Tails {
    lines: Mutex<HashMap<String, VecDeque<String>>>,
    completed: Mutex<Vec<String>>,
    changed: Notify,
}

impl Tails {
    /// The last lines of a step that has ended, once it is known that these are all, or after `patience`.
    pub async fn of(&self, digest: &str, patience: Duration) -> Vec<String> {
        let ended = async {
            while !lock(&self.completed).iter().any(|ended| ended == digest) {
                self.changed.notified().await;
            }
        };
        let _ = timeout(patience, ended).await;
        lock(&self.lines).get(digest).map(|lines| lines.iter().cloned().collect()).unwrap_or_default()
    }

    fn add(&self, digest: &str, line: &str) {
        let mut lines = lock(&self.lines);
        let tail = lines.entry(digest.to_owned()).or_default();
        if tail.len() == MAX_TAIL {
            tail.pop_front();
        }
        tail.push_back(line.to_owned());
    }

    fn complete(&self, digest: &str) {
        lock(&self.completed).push(digest.to_owned());
        self.changed.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells what a stream of statuses says, until that ends.
pub(super) async fn follow(mut statuses: Streaming<StatusResponse>, report: Reporter, tails: Arc<Tails>) {
    let mut follower = Follower { report, tails, steps: HashMap::new() };
    while let Ok(Some(status)) = statuses.message().await {
        for vertex in &status.vertexes {
            follower.vertex(vertex);
        }
        for log in &status.logs {
            follower.said(&log.vertex, &log.msg);
        }
    }
}

struct Follower {
    report: Reporter,
    tails: Arc<Tails>,
    steps: HashMap<String, Step>,
}

#[derive(Default)]
struct Step {
    number: usize,
    ended: bool,
    /// What has been said of a line that is not at its end.
    part: Vec<u8>,
}

impl Follower {
    fn vertex(&mut self, vertex: &Vertex) {
        if vertex.started.is_none() && vertex.completed.is_none() && !vertex.cached {
            return;
        }
        let number = self.steps.len() + 1;
        if number > MAX_STEPS && !self.steps.contains_key(&vertex.digest) {
            return;
        }
        let mut new = false;
        let step = self.steps.entry(vertex.digest.clone()).or_insert_with(|| {
            new = true;
            Step { number, ..Step::default() }
        });
        let (number, ended) = (step.number, step.ended);
        if new {
            (self.report)(Report::Began { step: number, name: printable(&vertex.name) });
        }
        // Some begin and end again, as the loading of a context does.
        if ended || vertex.completed.is_none() {
            return;
        }
        step.ended = true;
        let rest = std::mem::take(&mut step.part);
        if !rest.is_empty() {
            self.line(&vertex.digest, number, &rest);
        }
        (self.report)(match vertex.error.as_str() {
            "" if vertex.cached => Report::Done { step: number, took: None },
            "" => Report::Done { step: number, took: Some(took(vertex)) },
            // Given up because of another one.
            error if error.contains("context canceled") => Report::Failed { step: number, why: None },
            error => Report::Failed { step: number, why: Some(printable(error)) },
        });
        self.tails.complete(&vertex.digest);
    }

    fn said(&mut self, digest: &str, text: &[u8]) {
        let Some(step) = self.steps.get_mut(digest) else { return };
        let number = step.number;
        let mut part = std::mem::take(&mut step.part);
        let mut lines = text.split(|&b| b == b'\n');
        let last = lines.next_back().unwrap_or_default();
        for line in lines {
            part.extend(line);
            self.line(digest, number, &part);
            part.clear();
        }
        part.extend(last);
        part.truncate(MAX_LINE);
        if let Some(step) = self.steps.get_mut(digest) {
            step.part = part;
        }
    }

    fn line(&mut self, digest: &str, step: usize, line: &[u8]) {
        // What was written over what stood there before is what is seen on a terminal.
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = line.rsplit(|&b| b == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(&line[..line.len().min(MAX_LINE)]);
        let line: String = line.chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).collect();
        self.tails.add(digest, &line);
        (self.report)(Report::Said { step, line });
    }
}

fn took(vertex: &Vertex) -> Duration {
    let nanos = |time: &Option<Timestamp>| {
        time.as_ref().map_or(0, |time| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos))
    };
    let nanos = (nanos(&vertex.completed) - nanos(&vertex.started)).max(0);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
