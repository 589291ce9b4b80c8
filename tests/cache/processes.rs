//! Several processes and one cache: one fill, no window, and a process killed anywhere.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use imagefs::cache::{CacheError, State};

use super::*;
use crate::support::as_nobody;

/// This binary again, doing one thing to a cache.
pub(super) struct Child {
    process: std::process::Child,
    lines: Box<dyn Iterator<Item = String>>,
}

/// What the process does that [`Child`] starts; alone it does nothing.
#[test]
#[ignore = "started by other tests"]
fn child() {
    let Some(dir) = std::env::var_os("CACHE_TEST_DIR") else { return };
    let [action, name] = ["CACHE_TEST_ACTION", "CACHE_TEST_NAME"].map(|v| std::env::var(v).unwrap());
    let cache = match Cache::open(Some(dir.into())) {
        Ok(cache) => cache,
        Err(e) => {
            let cause = std::error::Error::source(&e).map(ToString::to_string);
            println!("\nfailed: {}", cause.unwrap_or(e.to_string()));
            std::process::exit(9);
        }
    };
    let ready = || println!("\nready");
    let forever = || loop {
        std::thread::park();
    };
    let waiting = &mut |_| ControlFlow::Continue(());
    match action.as_str() {
        "lookup" => assert!(cache.lookup(content(&name).key()).unwrap().is_some()),
        "fill" => match cache.fill(content(&name), waiting).unwrap() {
            Claim::Entry(entry) => assert_eq!(read(&entry), text(&name)),
            Claim::Filler(filler) => {
                if let Some(log) = std::env::var_os("CACHE_TEST_LOG") {
                    let mut log = OpenOptions::new().create(true).append(true).open(log).unwrap();
                    log.write_all(b"filled\n").unwrap();
                }
                assert_eq!(read(&finish(filler, &name)), text(&name));
            }
        },
        "hold filler" => {
            let filler = claim_filler(&cache, content(&name));
            let _data = write_data(&filler, &name);
            ready();
            forever();
        }
        "hold entry" => {
            let _entry = cache.lookup(content(&name).key()).unwrap().unwrap();
            ready();
            forever();
        }
        "hold temporary" => {
            let filler = claim_filler(&cache, content(&name));
            write_tree(&filler, &name);
            let _entry = filler.publish_temporary(about(&name), Vec::new()).unwrap();
            ready();
            forever();
        }
        // What several processes do to one cache in real life, over and over.
        "churn" => {
            for round in 0..30 {
                let name = format!("{}", round % 3);
                match cache.fill(content(&name), waiting).unwrap() {
                    Claim::Entry(entry) => assert_eq!(read(&entry), text(&name)),
                    Claim::Filler(filler) => assert_eq!(read(&finish(filler, &name)), text(&name)),
                }
                match round % 5 {
                    0 => drop(cache.prune(0).unwrap()),
                    1 => drop(cache.ls().unwrap()),
                    2 => assert!(
                        cache.verify(&[content(&name).key()]).unwrap().iter().all(|v| v.damage.is_none())
                    ),
                    _ => drop(Cache::open(Some(cache.dir().to_owned())).unwrap()),
                }
            }
        }
        other => panic!("{other}"),
    }
}

impl Child {
    pub(super) fn start(dir: &Path, action: &str, name: &str) -> Child {
        Child::run(Command::new(std::env::current_exe().unwrap()), dir, action, name)
    }

    pub(super) fn with_umask(umask: &str, dir: &Path, action: &str, name: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"]);
        command.arg(std::env::current_exe().unwrap());
        Child::run(command, dir, action, name)
    }

    pub(super) fn as_nobody(dir: &Path, action: &str, name: &str) -> Child {
        let mut command = Command::new("sh");
        as_nobody(&mut command, "", std::env::current_exe().unwrap());
        Child::run(command, dir, action, name)
    }

    fn run(mut command: Command, dir: &Path, action: &str, name: &str) -> Child {
        command.args(["--ignored", "--exact", "cache::processes::child", "--nocapture", "--test-threads=1"]);
        command.env("CACHE_TEST_DIR", dir).env("CACHE_TEST_ACTION", action).env("CACHE_TEST_NAME", name);
        let mut process = command.current_dir("/").stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        Child { process, lines: Box::new(lines) }
    }

    /// Waits until the child holds what it was told to hold.
    fn ready(mut self) -> Child {
        assert!(self.lines.any(|line| line == "ready"), "the child ended early");
        self
    }

    /// Waits for its end, and says with which status.
    pub(super) fn wait(&mut self) -> Option<i32> {
        self.lines.by_ref().for_each(drop);
        self.process.wait().unwrap().code()
    }

    /// Why it could not open the cache.
    pub(super) fn failure(mut self) -> String {
        let told = self.lines.find_map(|line| line.strip_prefix("failed: ").map(str::to_owned));
        self.process.wait().unwrap();
        told.expect("it should have failed")
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn ten_processes_make_one_fill() {
    let place = Place::new();
    let log = place.dir.path().join("log");
    let start = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env("CACHE_TEST_LOG", &log);
        Child::run(command, &place.root(), "fill", "a")
    };
    let mut children: Vec<Child> = (0..10).map(|_| start()).collect();
    for child in &mut children {
        assert_eq!(child.wait(), Some(0));
    }
    assert_eq!(fs::read_to_string(&log).unwrap(), "filled\n");
    place.assert_nothing_left();
}

#[test]
fn processes_that_fill_read_prune_and_verify_do_not_disturb_each_other() {
    let place = Place::new();
    let mut children: Vec<Child> = (0..4).map(|_| Child::start(&place.root(), "churn", "")).collect();
    for child in &mut children {
        assert_eq!(child.wait(), Some(0));
    }
    let cache = place.cache();
    cache.prune(0).unwrap();
    assert_eq!(cache.ls().unwrap(), []);
    place.assert_nothing_left();
}

#[test]
fn who_waits_for_another_sees_how_far_it_is_and_may_give_up() {
    let place = Place::new();
    let _child = Child::start(&place.root(), "hold filler", "a").ready();
    let mut seen = Vec::new();
    let result = place.cache().fill(content("a"), &mut |waiting| {
        seen.push(waiting.bytes);
        if seen.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(result, Err(CacheError::GaveUp)));
    assert_eq!(seen, [tar("a").len() as u64; 3]);
    let info = &place.cache().ls().unwrap()[0];
    assert_eq!((&info.state, info.in_use), (&State::Filling, true));
}

#[test]
fn a_killed_filler_leaves_its_place_to_who_waits() {
    let place = Place::new();
    let mut child = Child::start(&place.root(), "hold filler", "a").ready();
    let cache = place.cache();
    let claim = cache.fill(content("a"), &mut |_| {
        child.kill();
        ControlFlow::Continue(())
    });
    let Ok(Claim::Filler(filler)) = claim else { panic!("{claim:?}") };
    assert_eq!(read(&finish(filler, "a")), text("a"));
    place.assert_nothing_left();
}

#[test]
fn what_a_killed_process_left_is_removed_by_the_next() {
    let place = Place::new();
    for action in ["hold filler", "hold temporary"] {
        let mut child = Child::start(&place.root(), action, "a").ready();
        // Not while it lives.
        let cache = place.cache();
        assert_eq!(cache.ls().unwrap().len(), 1, "{action}");
        child.kill();
        let cache = place.cache();
        assert_eq!(cache.ls().unwrap(), [], "{action}");
        cache.prune(u64::MAX).unwrap();
        place.assert_nothing_left();
    }
}

#[test]
fn an_entry_is_in_use_as_long_as_its_process_lives() {
    let place = Place::new();
    let cache = place.cache();
    let key = put(&cache, "a");
    let mut child = Child::start(&place.root(), "hold entry", "a").ready();
    assert!(cache.ls().unwrap()[0].in_use);
    assert_eq!(cache.prune(0).unwrap().removed, []);
    child.kill();
    assert!(!cache.ls().unwrap()[0].in_use);
    assert_eq!(cache.prune(0).unwrap().removed[0].key, key);
}

/// Kills a process that fills an entry before each system call that could change anything, one after the other.
#[test]
fn a_process_killed_at_any_step_does_no_harm() {
    let calls = [
        "mkdirat",
        "openat",
        "renameat,renameat2",
        "fsync",
        "unlinkat",
        "write",
        "pwrite64",
        "flock",
        "fchmod",
    ];
    let (mut kills, mut complete) = (0, 0);
    for calls in calls {
        for step in 1.. {
            let place = Place::new();
            if !killed_at(calls, step, &place.root()) {
                assert!(step > 1, "{calls} is never called");
                break;
            }
            kills += 1;
            let cache = place.cache();
            if let Some(entry) = cache.lookup(content("a").key()).unwrap() {
                assert_eq!(read(&entry), text("a"), "{calls} {step}");
                complete += 1;
            } else {
                put(&cache, "a");
            }
            assert_eq!(cache.verify(&[content("a").key()]).unwrap()[0].damage, None, "{calls} {step}");
            cache.prune(u64::MAX).unwrap();
            place.assert_nothing_left();
        }
    }
    assert!(
        kills > 50 && complete > 2,
        "killed {kills} times, {complete} of them when the entry was complete"
    );
}

/// Has a process fill an entry and be killed at the `step`th of these calls. False if it does not make so many.
fn killed_at(calls: &str, step: u32, root: &Path) -> bool {
    let mut command = Command::new("strace");
    command.args(["-f", "-qqq", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
    command.args(["-e", &format!("inject={calls}:signal=KILL:when={step}")]);
    command.arg(std::env::current_exe().unwrap()).env_remove("LD_LIBRARY_PATH");
    match Child::run(command, root, "fill", "a").wait() {
        Some(0) => false,
        None => true,
        Some(status) => panic!("{calls} {step}: the process ended with {status}, not by the signal"),
    }
}
