//! Faults at every request to a daemon, over every kind of source that one is needed for: whatever it is, it ends, and
//! nothing is left. A new kind of source has its row in [`SOURCES`].

use std::fs;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use imagefs::cache::Cache;
use imagefs::gateway::Gateway;
use imagefs::progress::Progress;
use imagefs::source::Context;

use crate::support::proxy::{Fault, Proxy};
use crate::support::{Daemon, Sandbox};

const SMALL: &str = "imagefs-test/small";

/// Far more than any of it takes, and far less than the deadlines of what is not heeded.
const PATIENCE: Duration = Duration::from_secs(90);

/// The requests that are made of a daemon; see `docker`.
const REQUESTS: [&str; 8] = [
    "GET /_ping",
    "GET /libpod/_ping",
    "GET /images/",
    "POST /containers/create",
    "GET /containers/json",
    "/export",
    "HEAD /containers/",
    "DELETE /containers/",
];

/// What is looked into, and by which commands: each takes another way to the bytes.
const SOURCES: [&[&str]; 4] = [
    &["ls", "SMALL", "/etc"],
    &["cat", "SMALL", "/etc/passwd"],
    &["ls", "container:CONTAINER", "/etc"],
    &["history", "SMALL"],
];

#[test]
fn a_daemon_that_does_not_answer_can_be_hung_up_at_each_request() {
    let daemon = Daemon::docker();
    for request in REQUESTS {
        let proxy = Proxy::spoiling(request, daemon.host(), vec![Fault::Silent]);
        let sandbox = Sandbox::new();
        let cache = Cache::open(Some(sandbox.path("cache"))).unwrap();
        let progress = Arc::new(Progress::new());
        let (task, host) = (Arc::clone(&progress), proxy.address());
        let (done, ended) = channel();
        std::thread::spawn(move || {
            let context = Context { host: Some(&host), ..Context::new(&cache, &task) };
            let read = Gateway::open(SMALL, &context).and_then(|gateway| gateway.read_dir(0, "/etc", None));
            done.send(read.is_ok()).unwrap();
        });
        std::thread::sleep(Duration::from_secs(1));
        progress.cancel();
        ended.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{request}: it cannot be cancelled"));
        // One that was made before is removed as soon as the daemon takes it.
        if request != "DELETE /containers/" {
            let left: Vec<_> =
                proxy.containers().into_iter().filter(|name| daemon.has_container(name)).collect();
            assert_eq!(left, [""; 0], "{request}");
        }
        let staged = fs::read_dir(sandbox.path("cache/v1/staging")).map_or(0, Iterator::count);
        assert_eq!(staged, 0, "{request}");
        for name in proxy.containers() {
            if daemon.has_container(&name) {
                daemon.run(["rm", "--force", &name]);
            }
        }
    }
}

#[test]
fn a_daemon_that_breaks_or_lies_at_each_request_is_an_error_or_none_at_all() {
    let daemon = Daemon::docker();
    let container = daemon.create(SMALL);
    let faults = [Fault::CutAfter(0), Fault::ResetAfter(3), Fault::WordsAfter(1)];
    for (turn, request) in REQUESTS.into_iter().enumerate() {
        for (number, source) in SOURCES.into_iter().enumerate() {
            // Each source meets each fault, and each request does.
            let fault = faults[(turn + number) % faults.len()];
            let proxy = Proxy::spoiling(request, daemon.host(), vec![fault]);
            {
                let sandbox = Sandbox::new();
                let name = |word: &&str| word.replace("SMALL", SMALL).replace("CONTAINER", &container.id);
                let mut command = sandbox.imagefs(source.iter().map(name));
                let outcome = sandbox.run(command.env("DOCKER_HOST", proxy.address()));
                let what = format!("{request} {fault:?} {source:?}");
                // Whatever it says: it is no panic (101), and no signal.
                assert!(outcome.code.is_some_and(|code| code < 100), "{what}: {outcome:#?}");
                let told = outcome.stderr.lines().filter(|line| line.starts_with("error: ")).count();
                assert_eq!(told, usize::from(outcome.code != Some(0)), "{what}: {outcome:#?}");
                sandbox.assert_nothing_left();
                let staged = fs::read_dir(sandbox.path("cache/v1/staging")).map_or(0, Iterator::count);
                assert_eq!(staged, 0, "{what}");
            }
            for name in proxy.containers() {
                let left = daemon.has_container(&name);
                assert!(!left || request.starts_with("DELETE"), "{request} {fault:?}: {name} is left");
                if left {
                    daemon.run(["rm", "--force", &name]);
                }
            }
        }
    }
}
