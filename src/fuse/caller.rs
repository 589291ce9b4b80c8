//! The thread that waits for the reply to a request: whether somebody wants it to end.
//!
//! A request that was handed to the server keeps its caller in uninterruptible sleep until it is answered, whatever signal
//! comes. The kernel would tell of a signal by FUSE_INTERRUPT, but `fuser` answers the first one with ENOSYS itself, and no
//! other is sent. What a request says is who made it, and proc(5) tells which signals wait for that thread. Must not
//! import `fuser`, nor anything else of the crate.

use std::fs;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

/// Who made a request; nobody that can be told, if it is in another pid namespace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller(Option<Pid>);

impl Caller {
    /// By the number that the kernel gives: a thread's; 0 for one that this process cannot see.
    pub fn new(pid: u32) -> Caller {
        Caller(i32::try_from(pid).ok().and_then(Pid::from_raw))
    }

    /// Whether a signal waits for it that ends it, or that asks it to end, or it is gone: then nobody needs the reply.
    pub fn is_to_end(self) -> bool {
        let Some(pid) = self.0 else { return false };
        match fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())) {
            Ok(status) => Signals::parse(&status).is_some_and(|signals| signals.end()),
            // Perhaps it is only hidden (`hidepid=` of proc(5)).
            Err(_) => test_kill_process(pid) == Err(Errno::SRCH),
        }
    }
}

/// Sets of signals, signal 1 in the lowest bit.
struct Signals {
    pending: u64,
    blocked: u64,
    ignored: u64,
    caught: u64,
}

/// Those that ask a process to end, and that it may catch.
const REQUESTS: u64 = set(&[libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM]);

/// Those that do not end a process that does nothing about them; see signal(7).
const HARMLESS: u64 = set(&[
    libc::SIGCHLD,
    libc::SIGCONT,
    libc::SIGSTOP,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGURG,
    libc::SIGWINCH,
]);

const fn set(signals: &[i32]) -> u64 {
    let (mut set, mut i) = (0, 0);
    while i < signals.len() {
        set |= 1 << (signals[i] - 1);
        i += 1;
    }
    set
}

impl Signals {
    fn parse(status: &str) -> Option<Signals> {
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            u64::from_str_radix(line.trim(), 16).ok()
        };
        Some(Signals {
            pending: of("SigPnd")? | of("ShdPnd")?,
            blocked: of("SigBlk")?,
            ignored: of("SigIgn")?,
            caught: of("SigCgt")?,
        })
    }

    fn end(&self) -> bool {
        let heeded = self.pending & !self.blocked & !self.ignored;
        let fatal = heeded & !self.caught & !HARMLESS;
        // SIGKILL is also how the kernel ends the threads of a process that any other signal ends.
        self.pending & set(&[libc::SIGKILL]) != 0 || fatal != 0 || heeded & REQUESTS != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(pending: u64, blocked: u64, ignored: u64, caught: u64) -> bool {
        let status = format!(
            "Name:\tx\nSigPnd:\t{:016x}\nShdPnd:\t{pending:016x}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n",
            0
        );
        Signals::parse(&status).unwrap().end()
    }

    #[test]
    fn a_signal_counts_that_ends_its_process_or_asks_it_to_end() {
        let (kill, int, term, usr1) =
            (set(&[libc::SIGKILL]), set(&[libc::SIGINT]), set(&[libc::SIGTERM]), set(&[libc::SIGUSR1]));
        let (chld, urg) = (set(&[libc::SIGCHLD]), set(&[libc::SIGURG]));
        assert!(end(kill, 0, 0, 0) && end(kill, u64::MAX, 0, u64::MAX));
        assert!(end(int, 0, 0, 0) && end(int, 0, 0, int) && end(term, 0, 0, term));
        assert!(!end(int, int, 0, 0) && !end(int, 0, int, 0));
        assert!(end(usr1, 0, 0, 0) && !end(usr1, 0, 0, usr1));
        assert!(!end(chld | urg, 0, 0, 0) && !end(chld | urg, 0, 0, chld | urg) && !end(0, 0, 0, 0));
        assert!(Signals::parse("Name:\tx\n").is_none());
    }

    #[test]
    fn who_lives_is_let_be_and_who_is_gone_is_known() {
        assert!(!Caller::new(std::process::id()).is_to_end());
        assert!(!Caller::new(0).is_to_end() && !Caller::new(u32::MAX).is_to_end());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert!(Caller::new(child.id()).is_to_end());
    }
}
