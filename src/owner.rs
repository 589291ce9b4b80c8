//! Who holds something that must not outlive its holder, and whether that process is gone.
//!
//! A throwaway container or a mount that its maker could not remove (it was killed) is removed by a later run. What is
//! written on it must therefore tell, without a doubt, a process that is gone from one that lives: on this machine, in
//! another pid namespace of it, or on another machine that shares the daemon. In doubt, the owner counts as alive.
//! Must not import anything of the crate but its words.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, test_kill_process};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::image::Digest;

/// The inode number of the initial pid namespace: `PROC_PID_INIT_INO` in Linux's `include/linux/proc_ns.h`.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// A process, named so that no other process ever has the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// A hash of `/etc/machine-id`, which itself is not to be published; empty where there is none.
    machine: String,
    /// `/proc/sys/kernel/random/boot_id`
    boot: String,
    /// Inode number of the pid namespace that `pid` belongs to.
    pid_namespace: u64,
    pid: i32,
    /// When the process started, in clock ticks since the machine did: field 22 of `/proc/PID/stat`.
    started: u64,
}

impl Owner {
    /// This process.
    ///
    /// # Errors
    /// `/proc` is not there, or not that of this process's pid namespace.
    pub fn this_process() -> io::Result<Owner> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let pid_namespace = fs::metadata("/proc/self/ns/pid")?.ino();
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let started = match started(pid) {
            Started::At(ticks) => ticks,
            Started::Gone | Started::Unknown => {
                return Err(io::Error::other("/proc does not show this process"));
            }
        };
        Ok(Owner { machine: machine(), boot, pid_namespace, pid, started })
    }

    /// Its process id, in its own pid namespace.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// A file name that no other owner on this machine has in this boot and pid namespace.
    pub fn file_stem(&self) -> String {
        format!("{}-{}", self.pid, self.started)
    }

    /// Whether this owner may still be there, as seen by this process.
    pub fn is_alive(&self) -> bool {
        Owner::this_process().map_or(true, |here| !self.is_gone(&here))
    }

    /// A hold on the process; `None` if it is gone, or out of reach in another pid namespace.
    pub fn handle(&self) -> io::Result<Option<ProcessHandle>> {
        let here = Owner::this_process()?;
        let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.pid_namespace == here.pid_namespace) else {
            return Ok(None);
        };
        match pidfd_open(pid, PidfdFlags::empty()) {
            // Asked once the process is held: if it is the right one now, it stays so.
            Ok(pidfd) => Ok((!self.is_gone(&here)).then_some(ProcessHandle(pidfd))),
            Err(Errno::SRCH) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// What a label of a container says of it.
    pub fn to_label(&self) -> String {
        serde_json::json!(self).to_string()
    }

    /// The owner that a label names, if it names one.
    pub fn from_label(label: &str) -> Option<Owner> {
        serde_json::from_str(label).ok()
    }

    /// Whether this owner is gone for certain, as seen by the process `here`.
    pub fn is_gone(&self, here: &Owner) -> bool {
        if self.boot == here.boot {
            // Pids of another namespace mean nothing here.
            return self.pid_namespace == here.pid_namespace
                && match started(self.pid) {
                    Started::At(ticks) => ticks != self.started,
                    Started::Gone => true,
                    Started::Unknown => false,
                };
        }
        // Another boot: of this machine, and then it ended with that boot, or of another one. Inside a container
        // the machine's id may be that of its image, and so the same on many machines.
        self.machine == here.machine
            && !self.machine.is_empty()
            && self.pid_namespace == INITIAL_PID_NAMESPACE
            && here.pid_namespace == INITIAL_PID_NAMESPACE
    }
}

/// Holds a process, so that no other can be mistaken for it; see pidfd_open(2).
#[derive(Debug)]
pub struct ProcessHandle(OwnedFd);

impl ProcessHandle {
    /// Sends SIGTERM. A process that has ended meanwhile is no error.
    pub fn terminate(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.0, Signal::TERM) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits until the process has ended, for no longer than `limit`; tells whether it has.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&timeout)) {
                Ok(ended) => return Ok(ended > 0),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// What can be found out about the start of a process.
enum Started {
    /// In clock ticks since the machine started.
    At(u64),
    /// There is no such process, or only its exit status is left.
    Gone,
    /// It is there, and hidden from us.
    Unknown,
}

fn started(pid: i32) -> Started {
    let Some(pid) = Pid::from_raw(pid).filter(|pid| pid.as_raw_nonzero().get() > 0) else {
        return Started::Gone;
    };
    // A /proc mounted with hidepid shows no processes of other users, and kill(2) does not hide them.
    match test_kill_process(pid) {
        Err(Errno::SRCH) => Started::Gone,
        _ => match fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())) {
            Ok(stat) => parse_stat(&stat),
            Err(_) => Started::Unknown,
        },
    }
}

/// State and start time out of a `/proc/PID/stat` (proc_pid_stat(5)).
fn parse_stat(stat: &str) -> Started {
    // The second field is a name in parentheses, and may itself hold anything.
    let Some((_, fields)) = stat.rsplit_once(')') else { return Started::Unknown };
    let mut fields = fields.split_ascii_whitespace();
    match (fields.next(), fields.nth(18).map(str::parse)) {
        (Some("Z" | "X"), _) => Started::Gone,
        (Some(_), Some(Ok(ticks))) => Started::At(ticks),
        _ => Started::Unknown,
    }
}

fn machine() -> String {
    match fs::read_to_string("/etc/machine-id") {
        Ok(id) if !id.trim().is_empty() => {
            Digest::from_bytes(Sha256::digest(format!("imagefs {}", id.trim())).into()).hex()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Owner {
        Owner::this_process().unwrap()
    }

    #[test]
    fn a_label_reads_back_as_its_owner() {
        assert_eq!(Owner::from_label(&here().to_label()), Some(here()));
        for bad in ["", "x", "{}", "[1,2]", r#"{"boot":1}"#] {
            assert_eq!(Owner::from_label(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_living_owner_is_never_gone() {
        assert!(!here().is_gone(&here()));
    }

    #[test]
    fn an_ended_process_is_gone_reaped_or_not() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id() as i32;
        let Started::At(started) = started(pid) else { panic!("a running child shows its start") };
        let owner = Owner { pid, started, ..here() };
        assert!(!owner.is_gone(&here()));
        child.kill().unwrap();
        while matches!(super::started(pid), Started::At(_)) {
            std::thread::yield_now();
        }
        assert!(owner.is_gone(&here()), "dead, and not reaped");
        child.wait().unwrap();
        assert!(owner.is_gone(&here()), "dead and reaped");
    }

    #[test]
    fn a_process_that_is_held_can_be_ended_and_waited_for() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id() as i32;
        let Started::At(started) = started(pid) else { panic!("a running child shows its start") };
        let owner = Owner { pid, started, ..here() };
        assert!(Owner { started: started + 1, ..owner.clone() }.handle().unwrap().is_none());
        let handle = owner.handle().unwrap().unwrap();
        assert!(!handle.wait(Duration::ZERO).unwrap());
        handle.terminate().unwrap();
        assert!(handle.wait(Duration::from_secs(60)).unwrap());
        child.wait().unwrap();
        handle.terminate().unwrap();
        assert!(owner.handle().unwrap().is_none());
    }

    #[test]
    fn a_pid_that_another_process_took_over_is_gone() {
        let owner = Owner { started: here().started.wrapping_add(1), ..here() };
        assert!(owner.is_gone(&here()));
    }

    #[test]
    fn what_cannot_be_judged_from_here_counts_as_alive() {
        let dead = Owner { pid: i32::MAX, ..here() };
        assert!(dead.is_gone(&here()));
        let elsewhere = Owner { pid_namespace: dead.pid_namespace + 1, ..dead.clone() };
        assert!(!elsewhere.is_gone(&here()), "another pid namespace");
        let initial = Owner { pid_namespace: INITIAL_PID_NAMESPACE, machine: "m".into(), ..here() };
        let rebooted = Owner { boot: "another".into(), ..initial.clone() };
        assert!(rebooted.is_gone(&initial), "an earlier boot of this machine");
        let other = Owner { machine: "n".into(), ..rebooted.clone() };
        assert!(!other.is_gone(&initial), "another machine");
        let unnamed = Owner { machine: String::new(), ..rebooted.clone() };
        assert!(
            !unnamed.is_gone(&Owner { machine: String::new(), ..initial.clone() }),
            "two unknown machines"
        );
        let contained = Owner { pid_namespace: 1, ..rebooted };
        assert!(!contained.is_gone(&initial), "a container's idea of the machine");
    }

    #[test]
    fn a_process_name_with_parentheses_is_no_trap() {
        let stat = format!("7 (a) Z 1) S {} 4242 9 9", "0 ".repeat(18).trim_end());
        assert!(matches!(parse_stat(&stat), Started::At(4242)));
        assert!(matches!(parse_stat("7 (x) Z 1"), Started::Gone));
        assert!(matches!(parse_stat("nonsense"), Started::Unknown));
    }
}
