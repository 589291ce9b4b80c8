//! Containers of a real Docker and a real Podman daemon: every mount is what the daemon itself copies out of it.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use imagefs::cache::Cache;
use imagefs::gateway::{Gateway, GatewayError};
use imagefs::progress::Progress;
use imagefs::source::Context;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::proxy::{Fault, Proxy};
use crate::support::{Daemon, Manifest, Sandbox, archives, succeed, wait_until};

/// Makes a test of `fn NAME(Daemon)` for each of the two daemons.
macro_rules! on_both_daemons {
    ($($name:ident),* $(,)?) => {
        mod on_docker { $(#[test] fn $name() { super::$name(super::Daemon::docker()) })* }
        mod on_podman { $(#[test] fn $name() { super::$name(super::Daemon::podman()) })* }
    };
}

on_both_daemons!(
    every_mount_is_what_the_daemon_copies,
    the_root_filesystem_is_what_the_daemon_exports,
    an_export_of_what_changes_goes_on_where_it_broke_off,
    why_memory_is_not_shown_is_what_the_container_does,
    what_nobody_looks_into_is_not_fetched,
    a_mount_whose_stream_breaks_off_is_asked_for_again,
    a_mount_that_cannot_be_read_is_empty_and_says_why,
    a_mount_of_a_daemon_that_is_gone_is_an_error_and_says_why,
    a_mount_that_is_being_read_is_told_and_counted,
    a_link_to_another_mount_leads_there,
    a_bare_name_is_a_container_where_no_image_has_it,
    a_volume_is_read_without_a_mountpoint,
    who_is_interrupted_while_nobody_reads_leaves_nothing,
    a_mount_may_be_named_by_a_number,
    a_single_file_of_an_image_is_asked_for_alone,
);

const SMALL: &str = "imagefs-test/small";

/// A container, with all it has, until the end of the test.
pub struct Container {
    daemon: Daemon,
    pub name: String,
    volumes: Vec<String>,
}

/// A name that no other test has.
pub fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Container {
    /// Makes one, with `options` as for docker-create(1), of which `VOLUME-1` and the like are volumes of its own.
    #[track_caller]
    pub fn create(daemon: &Daemon, options: &[&str], command: &[&str]) -> Container {
        Container::create_of(daemon, SMALL, options, command)
    }

    /// The same, of another image.
    #[track_caller]
    pub fn create_of(daemon: &Daemon, image: &str, options: &[&str], command: &[&str]) -> Container {
        let name = unique("test");
        let volumes: Vec<String> = (1..=2).map(|number| format!("{name}-{number}")).collect();
        let options: Vec<String> = options.iter().map(|option| option.replace("VOLUME", &name)).collect();
        let arguments =
            ["create", "--pull", "never", "--network", "none", "--name", &name].map(str::to_owned);
        let container = Container { daemon: daemon.clone(), name, volumes };
        let rest = std::iter::once(&image).chain(command).map(|&word| word.to_owned());
        daemon.run(arguments.into_iter().chain(options).chain(rest));
        container
    }

    /// Takes charge of one that was made by way of the API, with `-1` and `-2` as its volumes.
    pub fn adopt(daemon: &Daemon, name: &str) -> Container {
        let volumes = (1..=2).map(|number| format!("{name}-{number}")).collect();
        Container { daemon: daemon.clone(), name: name.to_owned(), volumes }
    }

    /// Unpacks what `script` leaves in an empty directory into a directory of the container.
    #[track_caller]
    pub fn fill(&self, sandbox: &Sandbox, destination: &str, script: &str) {
        let dir = sandbox.directory(&unique("content"));
        succeed(sandbox.command("bash").args(["-euc", script]).current_dir(&dir));
        let tar = sandbox.path("content.tar");
        succeed(sandbox.command("tar").args(["--create", "--file"]).arg(&tar).arg("-C").arg(&dir).arg("."));
        let mut copy = self.daemon.cli(["cp", "--archive", "-", &format!("{}:{destination}", self.name)]);
        succeed(copy.stdin(fs::File::open(&tar).unwrap()));
    }

    /// What the daemon copies out of it, in a directory; `None` where it does not.
    #[track_caller]
    fn copied(&self, sandbox: &Sandbox, path: &str) -> Option<PathBuf> {
        let dir = sandbox.directory(&unique("copied"));
        let tar = dir.with_extension("tar");
        let mut copy = self.daemon.cli(["cp", "--archive", &format!("{}:{path}", self.name), "-"]);
        copy.stdout(fs::File::create(&tar).unwrap()).stderr(Stdio::null());
        copy.status().unwrap().success().then(|| archives::extract(&tar, &dir))?;
        Some(dir)
    }

    /// Returns once the container, which runs, has written something to a file.
    #[track_caller]
    pub fn await_content(&self, path: &str) {
        let written = || {
            let out = self.daemon.cli(["exec", &self.name, "/bin/busybox", "cat", path]).output();
            out.is_ok_and(|out| !out.stdout.is_empty())
        };
        assert!(wait_until(written), "the container writes nothing");
    }

    pub fn source(&self) -> String {
        format!("container:{}", self.name)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.daemon.cli(["rm", "--force", "--volumes", &self.name]).output();
        let _ = self.daemon.cli(["volume", "rm", "--force"]).args(&self.volumes).output();
    }
}

/// A container with a mount of every kind; those of the daemon's machine are in the sandbox.
#[track_caller]
fn container_with_mounts(daemon: &Daemon, sandbox: &Sandbox) -> Container {
    let bound = sandbox.directory("bound");
    fs::write(bound.join("inside"), "bound\n").unwrap();
    symlink("/etc/passwd", bound.join("link")).unwrap();
    fs::write(sandbox.path("bound.conf"), "configured\n").unwrap();
    let bound = format!("{}:/bound:ro", bound.display());
    let file = format!("{}:/etc/bound.conf", sandbox.path("bound.conf").display());
    let volumes = ["--volume", "VOLUME-1:/data", "--volume", "VOLUME-2:/data/sub", "--volume", "/anonymous"];
    let binds = ["--volume", &bound, "--volume", &file];
    let others = ["--env", "SECRET=hush", "--tmpfs", "/memory", "--volume", "/a/b", "--volume", "/a-b"];
    let options: Vec<&str> = volumes.into_iter().chain(binds).chain(others).collect();
    let container = Container::create(daemon, &options, &["/bin/sh", "-c", "exit 3"]);
    let script =
        "umask 022; echo one >file; ln file second; chmod 4711 file; chown 12:34 file; ln -s dir/inside link
        mkdir -m 1777 dir; echo two >dir/inside; touch -d @1000000000 dir/inside dir; mkfifo pipe";
    container.fill(sandbox, "/data", script);
    container.fill(sandbox, "/data/sub", "echo nested >nested");
    container.fill(sandbox, "/anonymous", "echo anonymous >file");
    container.fill(sandbox, "/a/b", "echo slash >file");
    container.fill(sandbox, "/a-b", "echo dash >file");
    container
}

#[track_caller]
pub fn mount(sandbox: &Sandbox, host: &str, source: &str) -> PathBuf {
    sandbox.mount(&unique("mnt"), ["--host", host, "-o", "symlinks=raw", source])
}

pub fn description(mountpoint: &Path) -> Value {
    serde_json::from_slice(&fs::read(mountpoint.join(".imagefs.json")).unwrap()).unwrap()
}

fn every_mount_is_what_the_daemon_copies(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let container = container_with_mounts(&daemon, &sandbox);
    let mnt = mount(&sandbox, daemon.host(), &container.source());

    let told = description(&mnt);
    // What is at the mountpoint may be shown to others.
    assert_eq!((&told["config"]["Cmd"][2], &told["config"]["Env"]), (&json!("exit 3"), &Value::Null));
    let rows: Vec<_> = (told["mounts"].as_array().unwrap().iter())
        .map(|row| {
            let word = |key: &str| row[key].as_str().unwrap().to_owned();
            (word("name"), word("destination"), word("type"), row["read_only"].as_bool().unwrap())
        })
        .collect();
    let row = |name: &str, destination: &str, kind: &str, read_only| {
        (name.to_owned(), destination.to_owned(), kind.to_owned(), read_only)
    };
    assert_eq!(
        rows,
        [
            row("rootfs", "/", "rootfs", false),
            row("a-b", "/a-b", "volume", false),
            row("a-b-2", "/a/b", "volume", false),
            row("anonymous", "/anonymous", "volume", false),
            row("bound", "/bound", "bind", true),
            row("data", "/data", "volume", false),
            row("data-sub", "/data/sub", "volume", false),
            row("etc-bound.conf", "/etc/bound.conf", "bind", false),
            row("memory", "/memory", "tmpfs", false),
        ]
    );
    let names: Vec<_> = rows.iter().map(|row| row.0.clone()).collect();
    let mut listed: Vec<_> =
        fs::read_dir(&mnt).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    listed.retain(|name| name != ".imagefs.json");
    listed.sort();
    let mut expected = names.clone();
    expected.sort();
    assert_eq!(listed, expected);

    for (name, destination, kind, _) in rows.iter().skip(1) {
        // How a mount's own directory looks is known as soon as somebody has looked into it.
        let count = fs::read_dir(mnt.join(name)).unwrap().count();
        let copied = container.copied(&sandbox, destination);
        let last = destination.rsplit('/').next().unwrap();
        match (name.as_str(), copied) {
            ("memory", _) => assert_eq!(count, 0, "{kind}"),
            // The directory that holds a single file is nowhere but here.
            ("etc-bound.conf", Some(copied)) => {
                let expected = Manifest::read(&copied).without(".");
                expected.assert_same(&Manifest::read(&mnt.join(name)).without("."));
            }
            // Podman 4.3 fails to copy a file that is bound.
            ("etc-bound.conf", None) => assert_eq!((count, daemon.name), (0, "podman")),
            (_, None) => panic!("{destination} is not copied"),
            // Docker names the directory that it copies, Podman does not.
            (_, Some(copied)) => {
                let named = copied.join(last);
                let copied = if named.exists() { named } else { copied };
                let (mut expected, mut shown) = (Manifest::read(&copied), Manifest::read(&mnt.join(name)));
                if (daemon.name, name.as_str()) == ("docker", "data") {
                    // What Docker copies has the other volume mounted on it; this one itself is shown.
                    expected = expected.without("sub");
                    shown = shown.without("sub");
                    assert_eq!(fs::read_dir(mnt.join("data/sub")).unwrap().count(), 0);
                }
                expected.assert_same(&shown);
            }
        }
    }
    // Podman 4.3 copies into the outer one of two mounts that are nested.
    if daemon.name == "docker" {
        assert_eq!(fs::read_to_string(mnt.join("data-sub/nested")).unwrap(), "nested\n");
    }
    assert_eq!(fs::read_to_string(mnt.join("a-b/file")).unwrap(), "dash\n");
    // What is mounted is not stitched into the root filesystem, where Podman has nothing before the first start.
    assert_eq!(fs::read_dir(mnt.join("rootfs/data")).map_or(0, Iterator::count), 0);

    sandbox.run(&mut sandbox.imagefs(["umount", "--all"])).success();
    sandbox.assert_nothing_left();
    assert_eq!(fs::read_dir(sandbox.path("cache/v1/temporary")).unwrap().count(), 0);
    // What it was read through is gone, and took nothing with it.
    let file = container.copied(&sandbox, "/anonymous/file").unwrap().join("file");
    assert_eq!(fs::read_to_string(file).unwrap(), "anonymous\n");
}

fn the_root_filesystem_is_what_the_daemon_exports(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let created = Container::create(&daemon, &[], &["/bin/sh", "-c", "exit 3"]);
    created.fill(&sandbox, "/root", "echo own >own; ln -s own link");
    let failed = Container::create(&daemon, &[], &["/no/such/program"]);
    assert!(!daemon.cli(["start", &failed.name]).output().unwrap().status.success());
    let exited = Container::create(&daemon, &[], &["/bin/sh", "-c", "echo gone >/root/trace; exit 3"]);
    daemon.cli(["start", "--attach", &exited.name]).stdin(Stdio::null()).output().unwrap();
    for (container, state) in [(created, "created"), (failed, "created"), (exited, "exited")] {
        let mnt = mount(&sandbox, daemon.host(), &container.source());
        let told = description(&mnt);
        assert_eq!(told["container"]["state"], state, "{told}");
        assert!(told["container"]["snapshot"].as_str().is_some_and(|moment| moment.contains('T')), "{told}");
        let tar = sandbox.path("export.tar");
        daemon.run(["export", "--output", tar.to_str().unwrap(), &container.name]);
        let exported = sandbox.directory(&unique("exported"));
        archives::extract(&tar, &exported);
        let mounted = Manifest::read(&mnt.join("rootfs"));
        Manifest::read(&exported).without(".").assert_same(&mounted.without("."));
    }
    // One that goes on writing: a snapshot is whole, and stays.
    let script = "i=0; while :; do i=$((i+1)); echo $i >/root/now; done";
    let running = Container::create(&daemon, &[], &["/bin/sh", "-c", script]);
    daemon.run(["start", &running.name]);
    running.await_content("/root/now");
    let mnt = mount(&sandbox, daemon.host(), &running.source());
    assert_eq!(description(&mnt)["container"]["state"], "running");
    assert_eq!(fs::read_link(mnt.join("rootfs/bin/sh")).unwrap(), Path::new("busybox"));
    let first = fs::read(mnt.join("rootfs/root/now")).unwrap();
    assert_eq!(fs::read(mnt.join("rootfs/root/now")).unwrap(), first);
    // Frozen, it can be looked into all the same.
    daemon.run(["pause", &running.name]);
    let frozen = mount(&sandbox, daemon.host(), &running.source());
    assert_eq!(description(&frozen)["container"]["state"], "paused");
    assert_eq!(fs::read_link(frozen.join("rootfs/bin/sh")).unwrap(), Path::new("busybox"));
    daemon.run(["unpause", &running.name]);
}

fn why_memory_is_not_shown_is_what_the_container_does(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let reason = |container: &Container| {
        let mnt = mount(&sandbox, daemon.host(), &container.source());
        let shown = fs::read_dir(mnt.join("memory")).unwrap().count();
        let state = || description(&mnt)["mounts"][1]["state"].as_str().unwrap().to_owned();
        assert!(wait_until(|| state() != "fetching"));
        let state = state();
        sandbox.unmount(&mnt);
        (shown, state)
    };
    let script = "echo hidden >/memory/file; while :; do /bin/busybox sleep 1; done";
    let container = Container::create(&daemon, &["--tmpfs", "/memory"], &["/bin/sh", "-c", script]);
    let (_, created) = reason(&container);
    assert!(created.contains("never started"), "{created}");
    daemon.run(["start", &container.name]);
    let written = || {
        let out = daemon.cli(["exec", &container.name, "/bin/busybox", "cat", "/memory/file"]).output();
        out.is_ok_and(|out| !out.stdout.is_empty())
    };
    assert!(wait_until(written), "the container writes nothing");
    for action in ["pause", "unpause"] {
        daemon.run([action, &container.name]);
        let (shown, state) = reason(&container);
        let is_shown = daemon.name == "podman" && action == "unpause";
        assert_eq!((shown == 1, state == "ready"), (is_shown, is_shown), "{action}: {state}");
        assert!(is_shown || state.contains("the daemon") && !state.contains("gone"), "{action}: {state}");
    }
    daemon.run(["kill", &container.name]);
    let (_, ended) = reason(&container);
    assert!(ended.contains("gone with the processes"), "{ended}");
}

fn an_export_of_what_changes_goes_on_where_it_broke_off(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let still = Container::create(&daemon, &[], &["/bin/sh"]);
    let tar = sandbox.path("still.tar");
    daemon.run(["export", "--output", tar.to_str().unwrap(), &still.name]);
    let unpacked = sandbox.directory("still");
    archives::extract(&tar, &unpacked);
    // What comes first in every export is never the same, and never there in half.
    let script = "i=0; /bin/busybox mkdir /aaa
        while :; do i=$((i+1)); echo $i >/aaa/next; /bin/busybox mv /aaa/next /aaa/now; done";
    let running = Container::create(&daemon, &[], &["/bin/sh", "-c", script]);
    daemon.run(["start", &running.name]);
    running.await_content("/aaa/now");
    // In the middle of the largest file, and before anything has come.
    let faults = [Fault::CutAfter(1_000_000), Fault::WordsAfter(1_000_000), Fault::CutAfter(700)];
    for fault in faults {
        let proxy = Proxy::with_faults(daemon.host(), vec![fault, Fault::None]);
        let mnt = mount(&sandbox, &proxy.address(), &running.source());
        let rootfs = mnt.join("rootfs");
        let number: u64 = fs::read_to_string(rootfs.join("aaa/now")).unwrap().trim().parse().unwrap();
        assert!(number > 0, "{fault:?}");
        let state = || description(&mnt)["mounts"][0]["state"].clone();
        assert!(wait_until(|| state() == "ready"), "{fault:?}: {}", state());
        Manifest::read(&unpacked.join("bin")).assert_same(&Manifest::read(&rootfs.join("bin")));
        sandbox.unmount(&mnt);
    }
}

fn what_nobody_looks_into_is_not_fetched(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let container = container_with_mounts(&daemon, &sandbox);
    let proxy = Proxy::before(daemon.host(), Fault::None);
    let mnt = mount(&sandbox, &proxy.address(), &container.source());
    // Complete, so that whatever is asked from here on is for the other mounts.
    assert!(fs::read_dir(mnt.join("rootfs")).unwrap().count() > 3);
    let before = proxy.requests();
    let made = proxy.containers().len();
    // From Podman 5.6 on, a volume is read without a container.
    let by_itself = daemon.name == "podman" && daemon.version() >= (5, 6);
    let listed = sandbox.run(sandbox.command("ls").arg("-la").arg(&mnt)).success();
    assert!(listed.stdout.contains("data-sub"), "{}", listed.stdout);
    sandbox.run(sandbox.command("stat").arg(mnt.join("data")).arg(mnt.join("bound"))).success();
    assert_eq!(proxy.requests(), before, "{:?}", proxy.lines());

    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let found = sandbox.run(sandbox.command("find").arg(mnt.join("anonymous"))).success();
                assert!(found.stdout.contains("anonymous/file"), "{}", found.stdout);
            });
        }
    });
    assert_eq!(proxy.containers().len(), made + usize::from(!by_itself), "{:?}", proxy.lines());
    let fetched = fetched(&proxy, "/.imagefs/anonymous");
    let exported = proxy.lines().iter().filter(|l| l.contains("/volumes/") && l.contains("/export")).count();
    // Where Podman has no such call, it is asked in vain.
    assert_eq!((fetched, exported), (usize::from(!by_itself), usize::from(daemon.name == "podman")));
    assert_eq!(exports(&proxy), 1, "{:?}", proxy.lines());
}

/// The archives of a path that were asked for, but for those that a HEAD which found nothing was made sure of by.
fn fetched(proxy: &Proxy, path: &str) -> usize {
    let lines = proxy.lines();
    let is_get = |line: &str| line.starts_with("GET ") && line.contains(&format!("/archive?path={path} "));
    let made_sure = |(before, line): (&String, &String)| is_get(line) && line[3..] == before[4..];
    let sure =
        lines.iter().zip(lines.iter().skip(1)).filter(|pair| pair.0.starts_with("HEAD ") && made_sure(*pair));
    lines.iter().filter(|line| is_get(line)).count() - sure.count()
}

/// The exports of root filesystems.
fn exports(proxy: &Proxy) -> usize {
    let lines = proxy.lines();
    lines.iter().filter(|line| line.starts_with("GET /containers/") && line.contains("/export ")).count()
}

fn a_mount_whose_stream_breaks_off_is_asked_for_again(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let container = container_with_mounts(&daemon, &sandbox);
    let whole = mount(&sandbox, daemon.host(), &container.source());
    // One of them breaks off before anything has come.
    let faults = [Fault::CutAfter(0), Fault::CutAfter(700), Fault::ResetAfter(1100), Fault::WordsAfter(512)];
    for fault in faults {
        let proxy = Proxy::spoiling("/archive?path=/.imagefs/", daemon.host(), vec![fault, Fault::None]);
        let mnt = mount(&sandbox, &proxy.address(), &container.source());
        let read = |root: &Path| {
            // Until somebody looks into it, nobody knows how old it is.
            assert!(fs::read_dir(root.join("data")).unwrap().all(|entry| entry.is_ok()));
            // A link count may be kept by the kernel from before the rest had come.
            Manifest::read(&root.join("data")).ignoring("nlink")
        };
        read(&whole).assert_same(&read(&mnt));
        let asked = fetched(&proxy, "/.imagefs/data");
        assert_eq!(asked, 2, "{fault:?}: {:#?}", proxy.lines());
        sandbox.unmount(&mnt);
    }
}

fn a_mount_that_cannot_be_read_is_empty_and_says_why(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let gone = sandbox.directory("gone");
    // With --volume, dockerd would make what is missing.
    let bind = format!("type=bind,source={},destination=/gone", gone.display());
    let options = ["--mount", &bind, "--tmpfs", "/memory", "--volume", "VOLUME-1:/data"];
    let container = Container::create(&daemon, &options, &["/bin/sh"]);
    container.fill(&sandbox, "/data", "echo data >file");
    fs::remove_dir(&gone).unwrap();
    let mut command = sandbox.imagefs(["--log-file", "log", "mount", "--mkdir", "--host", daemon.host()]);
    sandbox.run(command.args([&container.source(), "mnt"])).success();
    for name in ["gone", "memory"] {
        assert_eq!(fs::read_dir(sandbox.path("mnt").join(name)).unwrap().count(), 0, "{name}");
    }
    assert!(fs::read_dir(sandbox.path("mnt/rootfs")).unwrap().count() > 3);
    assert_eq!(fs::read_to_string(sandbox.path("mnt/data/file")).unwrap(), "data\n");
    // What is said is of now, not of the time of mounting.
    let states = || -> Vec<String> {
        let told = description(&sandbox.path("mnt"));
        told["mounts"].as_array().unwrap().iter().map(|m| m["state"].as_str().unwrap().to_owned()).collect()
    };
    assert!(wait_until(|| states()[0] == "ready" && states()[1] == "ready"), "{:?}", states());
    let reasons = ["unavailable: \"/gone\" cannot be read: ", "unavailable: \"/memory\" cannot be read: "];
    for (state, reason) in states()[2..].iter().zip(reasons) {
        assert!(state.starts_with(reason) && state.len() > reason.len(), "{:?}", states());
    }
    let log = fs::read_to_string(sandbox.path("log")).unwrap();
    assert!(log.contains("/memory") && log.contains("/gone"), "{log}");

    // Who asks for one of them alone is told.
    let source = container.source();
    let verbs: [&[&str]; 9] = [
        &["ls", &source],
        &["tree", &source],
        &["find", &source],
        &["stat", &source, "/"],
        &["stat", &source, "x"],
        &["cat", &source, "x"],
        &["cp", &source, "/", "copy"],
        &["cp", &source, "/", "-"],
        &["cp", "-L", &source, "x", "-"],
    ];
    for (verb, (mount, path)) in
        verbs.iter().flat_map(|verb| [("gone", "/gone"), ("memory", "/memory")].map(|mount| (verb, mount)))
    {
        let mut command = sandbox.imagefs(verb.iter().copied());
        let outcome = sandbox.run(command.args(["--quiet", "--host", daemon.host(), "--mount", mount]));
        assert_eq!((outcome.code, &*outcome.stdout), (Some(4), ""), "{verb:?}: {outcome:?}");
        assert!(outcome.stderr.starts_with(&format!("error: {path:?} cannot be read: ")), "{outcome:?}");
    }
    assert!(!sandbox.path("copy").exists());
}

/// What `imagefs mounts` tells of the only mount.
#[track_caller]
fn listed(sandbox: &Sandbox) -> Value {
    let listed = sandbox.run(&mut sandbox.imagefs(["mounts", "--json"])).success().stdout;
    let [mount] = serde_json::from_str::<Vec<Value>>(&listed).unwrap().try_into().unwrap();
    mount
}

fn a_mount_of_a_daemon_that_is_gone_is_an_error_and_says_why(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let container = Container::create(&daemon, &["--volume", "VOLUME-1:/data"], &["/bin/sh"]);
    container.fill(&sandbox, "/data", "echo data >file");
    let link = sandbox.path("daemon.sock");
    symlink(daemon.host().strip_prefix("unix://").unwrap(), &link).unwrap();
    let mnt = mount(&sandbox, &format!("unix://{}", link.display()), &container.source());
    fs::remove_file(&link).unwrap();
    let listing = fs::read_dir(mnt.join("data"));
    let error = listing.and_then(|entries| entries.collect::<Result<Vec<_>, _>>()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
    let state = description(&mnt)["mounts"][1]["state"].clone();
    assert!(state.as_str().unwrap().starts_with("broken: cannot reach the daemon"), "{state}");
    assert!(wait_until(|| listed(&sandbox)["state"] == "broken"), "{}", listed(&sandbox));
    let failure = listed(&sandbox)["failure"].clone();
    assert!(failure.as_str().unwrap().contains("\"/data\" cannot be read: cannot reach"), "{failure}");
    let log = fs::read_to_string(listed(&sandbox)["log"].as_str().unwrap()).unwrap();
    assert!(log.contains("ERROR") && log.contains("/data"), "{log}");
    assert!(fs::read_dir(mnt.join("rootfs")).unwrap().count() > 3);
}

fn a_mount_that_is_being_read_is_told_and_counted(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let container = Container::create(&daemon, &["--volume", "VOLUME-1:/data"], &["/bin/sh"]);
    container.fill(&sandbox, "/data", "seq 10000 >file");
    let proxy = Proxy::spoiling("/archive?path=/.imagefs/", daemon.host(), vec![Fault::HoldAfter(0)]);
    let mnt = mount(&sandbox, &proxy.address(), &container.source());
    assert_eq!(listed(&sandbox)["state"], "ready");
    let count = |what: &str| listed(&sandbox)[what].as_u64().unwrap();
    let (entries, bytes) = (count("entries"), count("bytes"));
    thread::scope(|scope| {
        let read = scope.spawn(|| fs::metadata(mnt.join("data/file")).unwrap().len());
        assert!(wait_until(|| listed(&sandbox)["state"] == "filling"), "{}", listed(&sandbox));
        assert_eq!(description(&mnt)["mounts"][1]["state"], "fetching");
        proxy.release();
        let size = read.join().unwrap();
        assert!(wait_until(|| listed(&sandbox)["state"] == "ready"), "{}", listed(&sandbox));
        assert_eq!((count("entries"), count("bytes")), (entries + 1, bytes + size));
    });
}

fn a_link_to_another_mount_leads_there(daemon: Daemon) {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("bound.conf"), "configured\n").unwrap();
    let file = format!("{}:/etc/bound.conf", sandbox.path("bound.conf").display());
    let options = ["--volume", "VOLUME-1:/data", "--volume", "VOLUME-2:/srv/n", "--volume", &file];
    let container = Container::create(&daemon, &options, &["/bin/sh"]);
    container.fill(&sandbox, "/data", "ln -s /etc/passwd out; ln -s /etc/bound.conf bound; ln -s /srv/n n");
    container.fill(&sandbox, "/srv/n", "echo volume >file");
    container.fill(
        &sandbox,
        "/",
        "mkdir srv; ln -s n srv/near; ln -s srv/n/file far; ln -s /etc/bound.conf bound",
    );
    // Then the root filesystem has what they are mounted on.
    daemon.cli(["start", "--attach", &container.name]).stdin(Stdio::null()).output().unwrap();
    let mnt = sandbox.mount("mnt", ["--host", daemon.host(), &container.source()]);
    for link in ["rootfs/srv/near/file", "rootfs/far", "data/n/file"] {
        assert_eq!(fs::read_to_string(mnt.join(link)).unwrap(), "volume\n", "{link}");
    }
    let passwd = fs::read_to_string(mnt.join("rootfs/etc/passwd")).unwrap();
    assert_eq!(fs::read_to_string(mnt.join("data/out")).unwrap(), passwd);
    for link in ["rootfs/bound", "data/bound"] {
        let shown = fs::read_link(mnt.join(link)).unwrap();
        assert_eq!(shown, Path::new("../etc-bound.conf/bound.conf"), "{link}");
        assert_eq!(fs::symlink_metadata(mnt.join(link)).unwrap().len(), shown.as_os_str().len() as u64);
        // Podman 4.3 does not show a file that is bound.
        if daemon.name == "docker" {
            assert_eq!(fs::read_to_string(mnt.join(link)).unwrap(), "configured\n", "{link}");
        }
    }

    let cat = |mount: &str, path: &str| {
        let source = container.source();
        let outcome = sandbox.run(&mut sandbox.imagefs([
            "cat",
            "--host",
            daemon.host(),
            "--mount",
            mount,
            &source,
            path,
        ]));
        assert_eq!((outcome.code, &*outcome.stdout), (Some(3), ""), "{path}");
        outcome.stderr.lines().last().unwrap().to_owned()
    };
    assert_eq!(cat("rootfs", "/bound"), r#"hint: ask mount "etc-bound.conf" for "/bound.conf""#);
    assert_eq!(cat("rootfs", "/far"), r#"hint: ask mount "srv-n" for "/file""#);
    let either = r#"hint: ask mount "etc-bound.conf" for "/", or for "/bound.conf" if it is a single file"#;
    assert_eq!(cat("data", "/bound"), either);
}

#[test]
fn a_volume_is_read_and_nothing_is_made_for_it() {
    let (sandbox, daemon) = (Sandbox::new(), Daemon::docker());
    let gone = sandbox.directory("gone");
    let bind = format!("{}:/gone", gone.display());
    let options = ["--volume", &bind, "--volume", "VOLUME-1:/data", "--volume", "VOLUME-2:/other"];
    let container = Container::create(&daemon, &options, &["/bin/sh"]);
    container.fill(&sandbox, "/data", "echo data >file");
    let volumes =
        || daemon.run(["volume", "ls", "--quiet"]).lines().filter(|v| v.contains(&container.name)).count();
    // dockerd makes what is missing for any container that has it mounted.
    fs::remove_dir(&gone).unwrap();
    let mnt = mount(&sandbox, daemon.host(), &container.source());
    assert_eq!(fs::read_to_string(mnt.join("data/file")).unwrap(), "data\n");
    assert!(!gone.exists());
    assert_eq!(volumes(), 2);

    daemon.run(["rm", "--volumes", &container.name]);
    daemon.run(["volume", "rm", &container.volumes[1]]);
    assert_eq!(fs::read_dir(mnt.join("other")).unwrap().count(), 0);
    let told = description(&mnt);
    let state =
        told["mounts"].as_array().unwrap().iter().find(|m| m["name"] == "other").unwrap()["state"].clone();
    assert!(state.as_str().unwrap().contains("no such container"), "{state}");
    assert_eq!(volumes(), 1);
}

fn a_bare_name_is_a_container_where_no_image_has_it(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let container = Container::create(&daemon, &[], &["/bin/sh"]);
    let run = |arguments: &[&str]| {
        let mut command = sandbox.imagefs(arguments.iter().copied());
        sandbox.run(command.env("DOCKER_HOST", daemon.host()))
    };
    let listed = run(&["ls", &container.name, "/bin"]).success();
    assert_eq!(listed.stdout, "busybox\nsh\ntouch\n");
    assert_eq!(listed.stderr, format!("there is no image {}, but a container\n", container.name));

    daemon.run(["tag", SMALL, &container.name]);
    let inspected = run(&["inspect", "--json", &container.name]).success();
    let told: Value = serde_json::from_str(&inspected.stdout).unwrap();
    daemon.run(["rmi", &container.name]);
    assert_eq!(told["kind"], "image");
    assert!(inspected.stderr.contains(&format!("container:{}", container.name)), "{}", inspected.stderr);

    let neither = run(&["ls", "imagefs-test-none"]);
    assert_eq!(neither.code, Some(3), "{neither:?}");
    assert!(neither.stderr.contains("image not found in local "), "{neither:?}");
    let absent = run(&["ls", "container:imagefs-test-none"]);
    assert_eq!(absent.code, Some(3), "{absent:?}");
    assert!(absent.stderr.contains("no such container: imagefs-test-none"), "{absent:?}");
}

fn a_volume_is_read_without_a_mountpoint(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let container = container_with_mounts(&daemon, &sandbox);
    let proxy = Proxy::before(daemon.host(), Fault::None);
    let source = container.source();
    let run = |arguments: &[&str]| {
        let mut command = sandbox.imagefs(arguments.iter().copied());
        sandbox.run(command.env("DOCKER_HOST", proxy.address()))
    };
    let inspected = run(&["inspect", "--json", &source]).success().stdout;
    let told: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(told["command"], json!(["/bin/sh", "-c", "exit 3"]));
    assert!(told["config"]["Env"].to_string().contains("SECRET=hush"), "{told}");
    assert_eq!(told["mounts"][5]["name"], "data");
    assert_eq!(told["mounts"][5]["state"], "not fetched");
    assert_eq!((exports(&proxy), proxy.requests_for("/archive")), (0, 0));

    assert_eq!(run(&["cat", "--mount", "data", &source, "/dir/inside"]).success().stdout, "two\n");
    assert_eq!(run(&["cat", "--mount", "4", &source, "/inside"]).success().stdout, "bound\n");
    let root = run(&["stat", "--json", "--mount", "anonymous", &source, "/"]).success().stdout;
    let mtime = serde_json::from_str::<Value>(&root).unwrap()["mtime_sec"].as_i64().unwrap();
    assert!(mtime > 0, "nobody has looked: {root}");
    assert_eq!(exports(&proxy), 0, "{:?}", proxy.lines());
    // Its target is in the root filesystem, which is another mount.
    let out = run(&["cat", "--mount", "bound", &source, "/link"]);
    assert_eq!(out.code, Some(3), "{out:?}");
    assert!(out.stderr.contains(r#"hint: ask mount "rootfs" for "/etc/passwd""#), "{out:?}");
    let link = run(&["stat", "-L", "--json", "--mount", "bound", &source, "/link"]).success().stdout;
    let link: Value = serde_json::from_str(&link).unwrap();
    assert_eq!((&link["type"], &link["target"]), (&json!("symlink"), &json!("/etc/passwd")));
    let beyond = run(&["ls", "--mount", "9", &source]);
    assert!(beyond.stderr.contains("mount index 9 is out of bounds (9 available)"), "{beyond:?}");
}

fn a_mount_may_be_named_by_a_number(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let options = ["--volume", "VOLUME-1:/1", "--volume", "VOLUME-2:/7"];
    let container = Container::create(&daemon, &options, &["/bin/sh"]);
    container.fill(&sandbox, "/1", "echo one >name");
    container.fill(&sandbox, "/7", "echo seven >name");
    let cat = |mount: &str| {
        let source = container.source();
        sandbox.run(&mut sandbox.imagefs(["cat", "--host", daemon.host(), "--mount", mount, &source, "name"]))
    };
    // An index, where there is one, else a name.
    for (mount, name) in [("1", "one\n"), ("2", "seven\n"), ("7", "seven\n")] {
        assert_eq!(cat(mount).success().stdout, name, "{mount}");
    }
    let neither = cat("8");
    assert_eq!(neither.code, Some(3), "{neither:?}");
    assert!(neither.stderr.contains("mount index 8 is out of bounds (3 available)"), "{neither:?}");
}

#[test]
fn a_single_file_of_a_volume_is_asked_for_alone() {
    let (sandbox, daemon) = (Sandbox::new(), Daemon::docker());
    let container = container_with_mounts(&daemon, &sandbox);
    container.fill(
        &sandbox,
        "/data",
        "ln -s / out; ln -s dir inner; ln -s inner/inside chain; echo -n >empty",
    );
    let proxy = Proxy::before(daemon.host(), Fault::None);
    let run = |verb: &[&str], path: &str| {
        let mut command = sandbox.imagefs(verb.iter().copied());
        command.args(["--mount", "data", &container.source(), path]);
        sandbox.run(command.env("DOCKER_HOST", proxy.address()))
    };
    // All of the volume, as it is asked for otherwise.
    let whole = || fetched(&proxy, "/.imagefs/data");
    for (path, content) in [("dir/inside", "two\n"), ("/dir/../file", "one\n"), ("empty", "")] {
        assert_eq!(run(&["cat"], path).success().stdout, content, "{path}");
    }
    let stat = |path: &str| -> Value {
        serde_json::from_str(&run(&["stat", "--json"], path).success().stdout).unwrap()
    };
    let file = stat("file");
    assert_eq!((&file["mode"], &file["uid"], &file["size"]), (&json!("0711"), &json!(12), &json!(4)));
    assert_eq!(stat("link")["target"], "dir/inside");
    assert_eq!(run(&["cat"], "none").code, Some(3));
    assert_eq!(run(&["cat"], "sub/nested").code, Some(3), "it is of another mount");
    assert_eq!((whole(), proxy.requests_for("/export")), (0, 0), "{:?}", proxy.lines());
    // Where a link is on the way, all of it is read, and the link stays in the volume.
    assert_eq!(run(&["cat"], "chain").success().stdout, "two\n");
    assert_eq!(run(&["cat"], "inner/inside").success().stdout, "two\n");
    assert_eq!(whole(), 2, "{:?}", proxy.lines());
    let out = run(&["cat"], "out/etc/passwd");
    assert!(out.code == Some(3) && out.stderr.contains("hint: ask mount"), "{out:?}");
}

#[test]
fn a_single_file_that_is_asked_for_alone_can_be_given_up() {
    let (sandbox, daemon) = (Sandbox::new(), Daemon::docker());
    let container = Container::create(&daemon, &["--volume", "VOLUME-1:/data"], &["/none"]);
    container.fill(&sandbox, "/data", "head -c 4M /dev/urandom >big");
    let cache = Cache::open(Some(sandbox.path("cache"))).unwrap();
    // Before the first byte, and amid the file.
    for silent_after in [0, 1 << 20] {
        let proxy = Proxy::spoiling("/archive", daemon.host(), vec![Fault::StallAfter(silent_after)]);
        let (host, progress) = (proxy.address(), Arc::new(Progress::new()));
        let context = Context { host: Some(&host), ..Context::new(&cache, &progress) };
        let gateway = Gateway::open(container.source(), &context).unwrap();
        let error = thread::scope(|scope| {
            scope.spawn(|| {
                wait_until(|| proxy.lines().iter().any(|l| l.starts_with("GET") && l.contains("/archive")));
                progress.cancel();
            });
            gateway.read_file(1, "/big", ..).unwrap_err()
        });
        assert!(matches!(error, GatewayError::Cancelled(_)), "{error:?}");
    }
    // While it comes.
    let progress = Arc::new(Progress::new());
    let context = Context { host: Some(daemon.host()), ..Context::new(&cache, &progress) };
    let gateway = Gateway::open(container.source(), &context).unwrap();
    let mut file = gateway.open_file(1, "/big").unwrap();
    assert!(matches!(file.read(&mut [0; 512]), Ok(1..)));
    progress.cancel();
    assert!(matches!(file.read(&mut [0; 512]), Err(GatewayError::Cancelled(_))));
}

fn who_is_interrupted_while_nobody_reads_leaves_nothing(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let container = Container::create(&daemon, &["--volume", "VOLUME-1:/data"], &["/none"]);
    container.fill(&sandbox, "/data", "head -c 4M /dev/urandom >big; ln -s big link");
    let in_cache = |part: &str| fs::read_dir(sandbox.path("cache/v1").join(part)).map_or(0, Iterator::count);
    // A link makes it read all of the volume, which takes room in the cache; a file by itself does so on Podman.
    for (path, all) in [("/link", true), ("/big", daemon.name == "podman")] {
        let proxy = Proxy::before(daemon.host(), Fault::None);
        let mut command = sandbox.imagefs(["cat", "--mount", "data", &container.source(), path]);
        command.env("DOCKER_HOST", proxy.address()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        assert!(wait_until(|| !all || in_cache("temporary") == 1), "{path}");
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        // Its pipe is open and full to the end.
        let unread = child.stdout.take();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{path}");
        drop(unread);
        let left: Vec<_> = proxy.containers().into_iter().filter(|name| daemon.has_container(name)).collect();
        assert!(!proxy.containers().is_empty() && left.is_empty(), "{path}: {left:?}");
        assert_eq!((in_cache("temporary"), in_cache("staging")), (0, 0), "{path}");
    }
}

fn a_single_file_of_an_image_is_asked_for_alone(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let proxy = Proxy::before(daemon.host(), Fault::None);
    let run = |arguments: &[&str]| {
        let mut command = sandbox.imagefs(arguments.iter().copied());
        sandbox.run(command.env("DOCKER_HOST", proxy.address()))
    };
    let passwd = run(&["cat", SMALL, "/etc/passwd"]).success();
    assert_eq!(passwd.stdout, "root:x:0:0:root:/root:/bin/sh\n");
    assert_eq!(proxy.containers().len(), 1, "{:?}", proxy.lines());
    assert_eq!(run(&["cat", SMALL, "/etc/none"]).code, Some(3));
    assert_eq!(run(&["stat", SMALL, "/none/none"]).code, Some(3));
    // Podman neither says whose a file is nor where a link leads.
    if daemon.name == "docker" {
        let stat = run(&["stat", "--json", "-L", SMALL, "bin/sh"]).success().stdout;
        assert_eq!(serde_json::from_str::<Value>(&stat).unwrap()["mode"], "0755");
        run(&["cp", SMALL, "/bin/busybox", "."]).success();
        let busybox = fs::read("/bin/busybox").unwrap();
        assert!(fs::read(sandbox.path("busybox")).unwrap() == busybox, "another busybox");
    }

    assert_eq!(proxy.requests_for("/export"), 0, "{:?}", proxy.lines());
    assert_eq!(fs::read_dir(sandbox.path("cache/v1/entries")).unwrap().count(), 0);
    let made = proxy.containers();
    let left = daemon.run(["ps", "--all", "--format", "{{.Names}}"]);
    assert!(!made.iter().any(|name| left.contains(name.as_str())), "{left}");
    // A listing needs all of it.
    run(&["ls", SMALL, "/bin"]).success();
    assert_eq!(proxy.requests_for("/export"), 1, "{:?}", proxy.lines());
}
