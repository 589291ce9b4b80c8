//! A look for the next request before the thread that has answered one goes to sleep.
//!
//! A request that finds the server asleep wakes it, and the answer wakes the program: two sleeping tasks, each perhaps on
//! a CPU that has gone idle, which takes many times what the answer does. A program that walks a tree asks again within
//! microseconds. So whoever has given an answer polls the device for a moment (busy polling) before it reads, which
//! sleeps. Nobody polls unless an answer was just given, and only one thread at a time.
//!
//! Polling takes a CPU, and somebody else may have use for it. So it is paid for, and how is the law of when it is done:
//! each request that was waited for and came earns what a wake-up costs; whatever else comes of it costs the time that it
//! took; and time itself earns a hundredth. Where requests come far between, or are there before they are looked for, polling takes
//! one part in a hundred of a CPU at most. Where others want the CPU, be it the program itself, a thread that polls will be
//! put off it sooner or later: that costs all credit, and a second's worth more. Must not import `fuser`.

use std::hint;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long a request is waited for.
const WINDOW: Duration = Duration::from_micros(100);

/// How long a thread rests between two looks: each takes a lock that whoever sends a request needs.
const HINTS: u32 = 50;

/// A look that took this long was not at it all the time: others had the CPU.
const OVERRUN: Duration = Duration::from_millis(1);

/// The device of one session, and what may be spent on polling it.
pub(super) struct Polling {
    device: OwnedFd,
    /// Held by the thread that polls.
    credit: Mutex<Credit>,
}

impl Polling {
    /// Polls `device`, any descriptor of the session's: all share one queue. It keeps the connection alive.
    pub fn new(device: OwnedFd) -> Polling {
        Polling { device, credit: Mutex::new(Credit::new(Instant::now())) }
    }

    /// An answer has just been given by the thread that is about to read the next request.
    pub fn answered(&self) {
        // Another thread is at it. If one has panicked there, nobody polls any more.
        let Ok(mut credit) = self.credit.try_lock() else { return };
        let start = Instant::now();
        if credit.allows(start) {
            let look = self.look(start);
            credit.settle(look);
        }
    }

    fn look(&self, start: Instant) -> Look {
        let mut waited = false;
        loop {
            let mut fds = [PollFd::new(&self.device, PollFlags::IN)];
            // The end of the connection, and an error, are for whoever reads.
            let found = poll(&mut fds, Some(&Timespec::default())) != Ok(0);
            let took = start.elapsed();
            if found || took >= WINDOW {
                return Look { took, came: found && waited && took < WINDOW };
            }
            waited = true;
            (0..HINTS).for_each(|_| hint::spin_loop());
        }
    }
}

/// What came of polling once.
#[derive(Clone, Copy)]
struct Look {
    took: Duration,
    /// Whether a request came in time that was not there from the start.
    came: bool,
}

/// What may be spent on polling, in nanoseconds.
struct Credit {
    left: i64,
    /// When time was last paid.
    at: Instant,
}

impl Credit {
    /// What a request earns that need not wake anybody.
    const WAKE_UP: i64 = 50_000;

    /// The part of time that is paid.
    const RATE: u32 = 100;

    /// Ten looks in vain.
    const MAX: i64 = 1_000_000;

    /// The depth from which time takes a second to get back to nothing.
    const MIN: i64 = -10_000_000;

    fn new(at: Instant) -> Credit {
        Credit { left: Credit::MAX, at }
    }

    /// Whether to poll, at a time that is not before those of earlier calls.
    fn allows(&mut self, now: Instant) -> bool {
        self.add(nanos(now.duration_since(self.at) / Credit::RATE));
        self.at = now;
        self.left > 0
    }

    fn settle(&mut self, look: Look) {
        if look.took >= OVERRUN {
            self.left = Credit::MIN;
        } else if look.came {
            self.add(Credit::WAKE_UP);
        } else {
            self.add(-nanos(look.took));
        }
    }

    fn add(&mut self, nanos: i64) {
        self.left = self.left.saturating_add(nanos).clamp(Credit::MIN, Credit::MAX);
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_micros(30);
    const CAME: Look = Look { took: TOOK, came: true };
    const IN_VAIN: Look = Look { took: WINDOW, came: false };

    /// A credit with a clock of its own.
    struct Clock {
        credit: Credit,
        now: Instant,
        polled: Duration,
    }

    impl Clock {
        fn new() -> Clock {
            let now = Instant::now();
            Clock { credit: Credit::new(now), now, polled: Duration::ZERO }
        }

        /// An answer is given, `busy` after the last one or the look that followed it. Says whether there was a look.
        fn answer(&mut self, busy: Duration, look: Look) -> bool {
            self.now += busy;
            let polls = self.credit.allows(self.now);
            if polls {
                self.credit.settle(look);
                self.now += look.took;
                self.polled += look.took;
            }
            polls
        }
    }

    /// A hundredth of the time, what may be saved up, and the last look.
    fn assert_modest(clock: &Clock, start: Instant) {
        let saved = Duration::from_nanos(Credit::MAX.unsigned_abs());
        let most = (clock.now - start) / Credit::RATE + saved + WINDOW;
        assert!(clock.polled <= most, "{:?} > {most:?}", clock.polled);
    }

    #[test]
    fn a_program_that_soon_asks_again_is_always_waited_for() {
        let mut clock = Clock::new();
        for answer in 0..10_000 {
            // Now and then it is busy with something else.
            let look = if answer % 4 == 3 { IN_VAIN } else { CAME };
            assert!(clock.answer(Duration::from_micros(10), look), "{answer}");
        }
    }

    #[test]
    fn looks_in_vain_take_a_hundredth_of_the_time() {
        for micros in [20, 200, 2_000, 20_000, 2_000_000] {
            let mut clock = Clock::new();
            let start = clock.now;
            for _ in 0..10_000 {
                clock.answer(Duration::from_micros(micros), IN_VAIN);
            }
            assert_modest(&clock, start);
        }
    }

    #[test]
    fn requests_that_are_there_already_are_hardly_looked_for() {
        let there = Look { took: Duration::from_nanos(500), came: false };
        let mut clock = Clock::new();
        let start = clock.now;
        for _ in 0..100_000 {
            clock.answer(Duration::from_micros(10), there);
        }
        assert_modest(&clock, start);
    }

    #[test]
    fn it_comes_back_at_the_first_success() {
        let mut clock = Clock::new();
        while clock.answer(TOOK, IN_VAIN) {}
        while !clock.answer(TOOK, CAME) {}
        for _ in 0..100 {
            assert!(clock.answer(TOOK, CAME));
        }
    }

    #[test]
    fn who_was_put_off_the_cpu_leaves_it_to_others_for_a_second() {
        for took in [OVERRUN, Duration::from_secs(3600)] {
            for came in [false, true] {
                let mut clock = Clock::new();
                assert!(clock.answer(TOOK, Look { took, came }));
                // The time that it was put off counts as well.
                clock.credit.at = clock.now;
                let back = clock.now + Duration::from_secs(1);
                while !clock.answer(Duration::from_millis(1), CAME) {}
                assert!((back..back + 2 * OVERRUN).contains(&(clock.now - TOOK)));
            }
        }
    }
}
