//! Where requests wait whose answers have not come yet.
//!
//! A request that has to wait is parked here with all that is needed to answer it, so that the thread that took
//! it from the kernel is free for the next. One thread asks again for all of them. Nobody waits for ever: each request
//! has a deadline, all are refused when the session ends, and one is when its [caller](super::caller) is to end. Must not
//! import `fuser`.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::caller::Caller;

/// Requests that may wait at one time. Each is a few hundred bytes here, and a process that sleeps there.
const MAX_WAITING: usize = 1 << 16;

/// The pause between two rounds of questions, and how much longer it is for each request that waits. Asking for
/// one takes a microsecond or two, so that a round for any number of them costs a few per cent of one CPU.
const PAUSE: Duration = Duration::from_millis(1);
const PAUSE_EACH: Duration = Duration::from_micros(40);
const MAX_PAUSE: Duration = Duration::from_millis(250);

/// How often it is looked whether callers are to end, and how many times longer the pause is than the look takes.
const LOOK: Duration = Duration::from_millis(250);
const LOOK_SHARE: u32 = 10;

/// A request that waits.
pub(super) trait Waiting: Send {
    /// A number that changes whenever asking again may help.
    fn generation(&self) -> u64;

    /// When something came last of what the request waits for, if it is known.
    fn last_progress(&self) -> Option<Instant>;

    /// Asks again, and replies if there is an answer. Otherwise returns the request.
    fn ask(self: Box<Self>) -> Option<Box<dyn Waiting>>;

    /// Who waits for the reply.
    fn caller(&self) -> Caller;

    /// Replies with an error.
    fn refuse(self: Box<Self>, errno: Errno);

    /// What it is about, for the log.
    fn describe(&self) -> String;
}

/// The waiting requests of one session.
pub(super) struct WaitingRoom {
    /// How long a request waits while nothing comes.
    timeout: Duration,
    desk: Mutex<Desk>,
    /// Somebody arrived, or the room was closed.
    bell: Condvar,
}

#[derive(Default)]
struct Desk {
    arrived: Vec<Guest>,
    /// How many are waiting besides.
    seated: usize,
    closed: bool,
}

struct Guest {
    request: Box<dyn Waiting>,
    /// The generation in which the answer had not come.
    asked: u64,
    arrived: Instant,
}

impl WaitingRoom {
    /// Opens a room in which a request waits for `timeout` after the last thing that came.
    pub fn open(timeout: Duration) -> io::Result<Arc<WaitingRoom>> {
        let room = Arc::new(WaitingRoom { timeout, desk: Mutex::default(), bell: Condvar::new() });
        let serving = Arc::clone(&room);
        thread::Builder::new().name("imagefs-waiting".into()).spawn(move || serving.serve())?;
        Ok(room)
    }

    /// Parks a request that had no answer when its generation was `asked`.
    pub fn park(&self, request: Box<dyn Waiting>, asked: u64) {
        let mut desk = self.desk();
        if desk.closed {
            drop(desk);
            request.refuse(Errno::NOTCONN);
        } else if desk.arrived.len() + desk.seated >= MAX_WAITING {
            drop(desk);
            tracing::error!("{}: more than {MAX_WAITING} requests are waiting", request.describe());
            request.refuse(Errno::IO);
        } else {
            desk.arrived.push(Guest { request, asked, arrived: Instant::now() });
            drop(desk);
            self.bell.notify_one();
        }
    }

    /// Refuses everybody who waits, and whoever comes from now on.
    pub fn close(&self) {
        self.desk().closed = true;
        self.bell.notify_one();
    }

    fn serve(&self) {
        let mut guests = Vec::new();
        let mut next_look = Instant::now();
        while self.receive(&mut guests) {
            guests = self.ask_all(guests);
            let now = Instant::now();
            if next_look <= now {
                guests = dismiss_ending(guests);
                next_look = now + LOOK.max(now.elapsed() * LOOK_SHARE);
            }
        }
        for Guest { request, .. } in guests {
            request.refuse(Errno::NOTCONN);
        }
    }

    /// Pauses, or sleeps while nobody waits, and then lets in who has arrived. `false` once the room is closed.
    fn receive(&self, guests: &mut Vec<Guest>) -> bool {
        let mut desk = self.desk();
        desk.seated = guests.len();
        let pause = PAUSE + PAUSE_EACH.saturating_mul(u32::try_from(guests.len()).unwrap_or(u32::MAX));
        let pause = pause.min(MAX_PAUSE);
        desk = if guests.is_empty() {
            let idle = |desk: &mut Desk| desk.arrived.is_empty() && !desk.closed;
            self.bell.wait_while(desk, idle).unwrap_or_else(PoisonError::into_inner)
        } else {
            let open = |desk: &mut Desk| !desk.closed;
            self.bell.wait_timeout_while(desk, pause, open).unwrap_or_else(PoisonError::into_inner).0
        };
        guests.append(&mut desk.arrived);
        desk.seated = guests.len();
        !desk.closed
    }

    /// Asks for everybody for whom something may have changed. Returns who goes on waiting.
    fn ask_all(&self, guests: Vec<Guest>) -> Vec<Guest> {
        let now = Instant::now();
        let mut staying = Vec::with_capacity(guests.len());
        let mut given_up: Option<(String, usize)> = None;
        for Guest { mut request, mut asked, arrived } in guests {
            let generation = request.generation();
            if generation != asked {
                match request.ask() {
                    None => continue,
                    Some(unanswered) => (request, asked) = (unanswered, generation),
                }
            }
            let since = request.last_progress().map_or(arrived, |progress| progress.max(arrived));
            if now.saturating_duration_since(since) < self.timeout {
                staying.push(Guest { request, asked, arrived });
            } else {
                given_up.get_or_insert_with(|| (request.describe(), 0)).1 += 1;
                request.refuse(Errno::IO);
            }
        }
        if let Some((first, count)) = given_up {
            let timeout = self.timeout;
            tracing::error!("{first}: nothing came for {timeout:?}; gave up {count} waiting requests");
        }
        staying
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses those whose callers are to end. Returns who goes on waiting.
fn dismiss_ending(guests: Vec<Guest>) -> Vec<Guest> {
    let mut staying = Vec::with_capacity(guests.len());
    for guest in guests {
        if guest.request.caller().is_to_end() {
            tracing::debug!("{}: interrupted", guest.request.describe());
            guest.request.refuse(Errno::INTR);
        } else {
            staying.push(guest);
        }
    }
    staying
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Longer than any test takes.
    const LONG: Duration = Duration::from_secs(60);

    /// What requests wait for: they are answered from generation `ready` on.
    struct Source {
        generation: AtomicU64,
        ready: u64,
        progress: Option<Instant>,
    }

    /// Sends its number when it is answered, and the error when it is refused.
    struct Request(u32, Arc<Source>, Sender<Result<u32, Errno>>);

    impl Waiting for Request {
        fn generation(&self) -> u64 {
            self.1.generation.load(Ordering::SeqCst)
        }

        fn last_progress(&self) -> Option<Instant> {
            self.1.progress
        }

        fn ask(self: Box<Self>) -> Option<Box<dyn Waiting>> {
            if self.generation() < self.1.ready {
                return Some(self);
            }
            self.2.send(Ok(self.0)).unwrap();
            None
        }

        fn caller(&self) -> Caller {
            Caller::new(0)
        }

        fn refuse(self: Box<Self>, errno: Errno) {
            self.2.send(Err(errno)).unwrap();
        }

        fn describe(&self) -> String {
            format!("request {}", self.0)
        }
    }

    fn source(ready: u64) -> Arc<Source> {
        Arc::new(Source { generation: AtomicU64::new(0), ready, progress: None })
    }

    fn park(room: &WaitingRoom, source: &Arc<Source>, count: u32) -> Receiver<Result<u32, Errno>> {
        let (sender, replies) = channel();
        for number in 0..count {
            room.park(Box::new(Request(number, Arc::clone(source), sender.clone())), 0);
        }
        replies
    }

    #[test]
    fn everybody_is_answered_once_the_answer_has_come() {
        let room = WaitingRoom::open(LONG).unwrap();
        let source = source(2);
        let replies = park(&room, &source, 1000);
        source.generation.store(1, Ordering::SeqCst);
        assert!(replies.recv_timeout(Duration::from_millis(100)).is_err(), "generation 1 knows no answer");
        source.generation.store(2, Ordering::SeqCst);
        let mut answered: Vec<u32> = replies.iter().map(Result::unwrap).collect();
        answered.sort_unstable();
        assert_eq!(answered, (0..1000).collect::<Vec<_>>());
        room.close();
    }

    #[test]
    fn an_answer_that_came_between_asking_and_parking_is_not_missed() {
        let room = WaitingRoom::open(LONG).unwrap();
        let source = source(1);
        source.generation.store(1, Ordering::SeqCst);
        assert_eq!(park(&room, &source, 1).recv().unwrap(), Ok(0));
        room.close();
    }

    #[test]
    fn who_waits_in_vain_is_refused_after_the_timeout() {
        let room = WaitingRoom::open(Duration::from_millis(20)).unwrap();
        let mut moving = source(1);
        // Its source is still moving.
        Arc::get_mut(&mut moving).unwrap().progress = Some(Instant::now() + LONG);
        let (moving, stalled) = (park(&room, &moving, 1), park(&room, &source(1), 2));
        assert_eq!(stalled.iter().collect::<Vec<_>>(), [Err(Errno::IO); 2]);
        assert!(moving.try_recv().is_err());
        room.close();
        assert_eq!(moving.recv().unwrap(), Err(Errno::NOTCONN));
    }

    #[test]
    fn a_room_that_is_closed_keeps_nobody() {
        let room = WaitingRoom::open(LONG).unwrap();
        let before = park(&room, &source(1), 3);
        room.close();
        assert_eq!(before.iter().collect::<Vec<_>>(), [Err(Errno::NOTCONN); 3]);
        assert_eq!(park(&room, &source(1), 1).recv().unwrap(), Err(Errno::NOTCONN));
    }
}
