//! What the daemon has of a build that was looked into: nothing but what a build leaves, and nobody waits for it.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Build, Server};
use crate::support::{Sandbox, wait_until};

/// Builds in a row.
const MANY: usize = 50;

/// What a Docker daemon has of the builds whose steps have this word: the ids, and how many are in use.
fn build_cache(server: &Server, word: &str) -> (BTreeSet<String>, usize) {
    let told = server.docker(&["system", "df", "--verbose", "--format", "{{json .BuildCache}}"]);
    let records: Value = serde_json::from_str(&told).expect("JSON");
    let records = records.as_array().cloned().unwrap_or_default();
    let of_them = |record: &&Value| record["Description"].to_string().contains(word);
    let records: Vec<&Value> = records.iter().filter(of_them).collect();
    let in_use = records.iter().filter(|record| record["InUse"].to_string().contains("true")).count();
    (records.iter().map(|record| record["ID"].to_string()).collect(), in_use)
}

/// A word that no other run has.
fn word() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("imagefs-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

#[test]
#[ignore = "needs IMAGEFS_TEST_BUILDKIT"]
fn many_builds_that_failed_and_were_looked_into_leave_nothing() {
    for server in &Server::dockers() {
        let sandbox = Sandbox::new();
        let word = word();
        let lines = format!(
            "RUN echo a > /a\nRUN --mount=type=cache,id={word},target=/c echo {word} > /b && echo c > /c/c && false\n"
        );
        let build = Build::new(&sandbox, server, "b", &lines);
        let look = || {
            build.fail(&["-q"]);
            assert_eq!((build.read("rootfs/b"), build.read("c/c")), (format!("{word}\n"), "c\n".to_owned()));
            build.unmount();
        };
        look();
        let idle = || build_cache(server, &word).1 == 0;
        assert!(wait_until(idle), "{:?}", build_cache(server, &word));
        let before = build_cache(server, &word).0;
        assert_eq!(before.len(), 1, "the cache of the step: {before:?}");
        for _ in 0..MANY {
            look();
        }
        assert!(wait_until(idle), "{:?}", build_cache(server, &word));
        assert_eq!(build_cache(server, &word).0, before, "{}", server.address);
        sandbox.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs IMAGEFS_TEST_BUILDKIT"]
fn whatever_ends_the_server_ends_the_build() {
    for server in &Server::dockers() {
        let sandbox = Sandbox::new();
        let word = word();
        let build = Build::new(&sandbox, server, "b", &format!("RUN echo {word} > /b && false\n"));
        for signal in [Signal::KILL, Signal::TERM] {
            build.fail(&["-q"]);
            assert_eq!(build.read("rootfs/b"), format!("{word}\n"));
            assert!(!build_cache(server, &word).0.is_empty(), "what is shown is there");
            for pid in sandbox.processes() {
                kill_process(pid, signal).unwrap();
            }
            assert!(wait_until(|| sandbox.processes().is_empty()));
            let _ = sandbox.run(sandbox.command("umount").arg("-l").arg(&build.mountpoint));
            let gone = || build_cache(server, &word).0.is_empty();
            assert!(wait_until(gone), "{signal:?}: {:?}", build_cache(server, &word));
        }
    }
}

#[test]
#[ignore = "needs IMAGEFS_TEST_BUILDKIT"]
fn a_signal_ends_a_build_that_is_being_made() {
    for server in &Server::all() {
        let sandbox = Sandbox::new();
        let build = Build::new(&sandbox, server, "b", "RUN echo under way && sleep 600\n");
        let mut child = build.command(&[]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut seen = std::io::BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("under way\n") || line.contains("RUN") {
            line.clear();
            assert_ne!(
                std::io::BufRead::read_line(&mut seen, &mut line).unwrap(),
                0,
                "it has ended by itself"
            );
        }
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        std::io::copy(&mut seen, &mut std::io::sink()).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{}", server.address);
        sandbox.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs IMAGEFS_TEST_BUILDKIT"]
fn a_cache_that_one_alone_may_have_is_held_only_while_it_is_read() {
    for server in &Server::all() {
        let sandbox = Sandbox::new();
        let cache = word();
        // Of a step that was run anew by --no-cache, BuildKit empties the caches.
        let step = |end: &str| {
            format!(
                "RUN --mount=type=cache,id={cache},sharing=locked,target=/c echo {end} >> /c/all && {end}\n"
            )
        };
        let [first, second, third] = [("first", "false"), ("second", "true"), ("third", "true;:")]
            .map(|(name, end)| Build::new(&sandbox, server, name, &step(end)));
        first.fail(&["-q"]);
        // It stands, and nobody has looked into the cache: another build does not wait for its end.
        second.run(&["-q"]).success();
        second.unmount();
        assert_eq!(first.read("c/all"), "false\ntrue\n", "{}", server.address);
        // Somebody has, and all of it was read: nor does the next one.
        let json = || first.read(".imagefs.json");
        let ready = || json().split('{').any(|mount| mount.contains("\"/c\"") && mount.contains("\"ready\""));
        assert!(wait_until(ready), "{}", json());
        third.run(&["-q"]).success();
        third.unmount();
        assert_eq!(first.read("c/all"), "false\ntrue\n", "as it was when it was looked into");
        first.unmount();
        sandbox.assert_nothing_left();
    }
}
