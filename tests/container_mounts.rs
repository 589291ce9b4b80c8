//! Mounts that engines treat each in their own way: whatever the engine has of it is what the container itself sees, or the
//! reason why not. What an engine has differs by version; each test says what it expects of those that have it not.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::containers::{Container, description, mount, unique};
use crate::support::{Daemon, Manifest, Sandbox, archives, wait_until};

/// Makes a test of `fn NAME(Daemon)` for each of the two daemons.
macro_rules! on_both_daemons {
    ($($name:ident),* $(,)?) => {
        mod on_docker { $(#[test] fn $name() { super::$name(super::Daemon::docker()) })* }
        mod on_podman { $(#[test] fn $name() { super::$name(super::Daemon::podman()) })* }
    };
}

on_both_daemons!(
    memory_that_was_asked_for_by_mount_hides_nothing,
    a_single_file_of_a_running_container_is_shown,
    a_destination_through_a_link_of_the_image_is_followed,
    an_image_that_is_mounted_is_shown,
    a_part_of_a_volume_is_shown_and_nothing_else_of_it,
    what_is_not_there_is_told_in_the_engine_s_own_words,
    a_container_is_read_by_its_own_paths,
);

const SMALL: &str = "imagefs-test/small";
const SLEEP: [&str; 3] = ["/bin/busybox", "sleep", "3600"];

/// The state of the mount of this name, once it is not `fetching` any more.
#[track_caller]
fn state(mnt: &Path, name: &str) -> String {
    let state = || {
        let told = description(mnt);
        let row = told["mounts"].as_array().unwrap().iter().find(|row| row["name"] == name).cloned();
        row.unwrap_or_else(|| panic!("no mount {name}: {told}"))["state"].as_str().unwrap().to_owned()
    };
    assert!(wait_until(|| state() != "fetching"), "{name}");
    state()
}

/// What the container, which runs, prints of a file.
#[track_caller]
fn read_inside(daemon: &Daemon, container: &Container, path: &str) -> String {
    daemon.run(["exec", &container.name, "/bin/busybox", "cat", path]) + "\n"
}

/// `TYPE MODE UID GID PATH` of everything beneath a path, as the container, which runs, sees it.
#[track_caller]
fn seen_inside(daemon: &Daemon, container: &Container, path: &str) -> Vec<String> {
    let script = format!("cd {path} && busybox find . | busybox xargs busybox stat -c '%F %a %u %g %n'");
    let seen = daemon.run([
        "exec",
        &container.name,
        "/bin/sh",
        "-c",
        &format!("alias busybox=/bin/busybox; {script}"),
    ]);
    let mut lines: Vec<String> = seen.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn memory_that_was_asked_for_by_mount_hides_nothing(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let bound = sandbox.directory("bound");
    fs::write(bound.join("inside"), "bound\n").unwrap();
    let bound = format!("{}:/bound", bound.display());
    let options =
        ["--volume", &bound, "--volume", "VOLUME-1:/data", "--mount", "type=tmpfs,destination=/memory"];
    let container = Container::create(&daemon, &options, &SLEEP);
    container.fill(&sandbox, "/data", "echo data >file");
    daemon.run(["start", &container.name]);
    let mnt = mount(&sandbox, daemon.host(), &container.source());
    assert_eq!(fs::read_to_string(mnt.join("bound/inside")).unwrap(), "bound\n");
    assert_eq!(fs::read_to_string(mnt.join("data/file")).unwrap(), "data\n");
    assert_eq!((state(&mnt, "bound"), state(&mnt, "data")), ("ready".into(), "ready".into()));
    assert_eq!(fs::read_dir(mnt.join("memory")).unwrap().count(), 0);
}

fn a_single_file_of_a_running_container_is_shown(daemon: Daemon) {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("bound.conf"), "configured\n").unwrap();
    let file = format!("{}:/etc/bound.conf", sandbox.path("bound.conf").display());
    let container = Container::create(&daemon, &["--volume", &file], &SLEEP);
    if daemon.name == "podman" {
        let mnt = mount(&sandbox, daemon.host(), &container.source());
        assert_eq!(fs::read_dir(mnt.join("etc-bound.conf")).unwrap().count(), 0);
        let why = state(&mnt, "etc-bound.conf");
        assert!(why.contains("only while the container runs"), "{why}");
    }
    daemon.run(["start", &container.name]);
    let mnt = mount(&sandbox, daemon.host(), &container.source());
    assert_eq!(fs::read_to_string(mnt.join("etc-bound.conf/bound.conf")).unwrap(), "configured\n");
    assert_eq!(state(&mnt, "etc-bound.conf"), "ready");
}

fn a_destination_through_a_link_of_the_image_is_followed(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let made = Container::create(&daemon, &[], &["/none"]);
    let script = "mkdir -p usr/lib run var etc/sub; ln -s /run var/run; ln -s usr/lib lib; echo run >run/own; echo root >etc/own";
    made.fill(&sandbox, "/", script);
    let image = unique("imagefs-test-links");
    daemon.post(&format!("/commit?container={}&repo={image}", made.name), &json!({}));
    let container = Container::create_of(
        &daemon,
        &image,
        &["--volume", "VOLUME-1:/var/run/app", "--volume", "VOLUME-2:/lib/mod"],
        &SLEEP,
    );
    // Docker makes no link that leads out of what it unpacks, and 28 finds no path of the mount but the given one.
    daemon.run(["start", &container.name]);
    let script = "echo app >/run/app/file; /bin/busybox mkdir /run/app/d; echo mod >/usr/lib/mod/file";
    daemon.run(["exec", &container.name, "/bin/sh", "-c", script]);
    for (target, link) in [
        ("/run/app/file", "/one"),
        ("/var/run/app/file", "/two"),
        ("../usr/lib/mod/file", "/etc/three"),
        ("lib/mod/file", "/four"),
        ("../lib/mod/file", "/etc/five"),
        ("../own", "/run/app/up"),
        ("../../own", "/run/app/d/up"),
        ("../../etc/own", "/run/app/far"),
        ("../../../etc/own", "/usr/lib/mod/up"),
        ("/run/app/file", "/usr/lib/mod/app"),
        ("../../../run/app/file", "/usr/lib/mod/other"),
        ("/var/run/app/file", "/usr/lib/mod/spelled"),
    ] {
        daemon.run(["exec", &container.name, "/bin/busybox", "ln", "-s", target, link]);
    }
    let mnt = mount_contained(&sandbox, &daemon, &container);
    for (link, inside) in [
        ("rootfs/one", "/one"),
        ("rootfs/two", "/two"),
        ("rootfs/etc/three", "/etc/three"),
        ("rootfs/four", "/four"),
        ("rootfs/etc/five", "/etc/five"),
        ("var-run-app/up", "/run/app/up"),
        ("var-run-app/d/up", "/run/app/d/up"),
        ("var-run-app/far", "/run/app/far"),
        ("lib-mod/up", "/usr/lib/mod/up"),
        ("lib-mod/app", "/usr/lib/mod/app"),
        ("lib-mod/other", "/usr/lib/mod/other"),
        ("lib-mod/spelled", "/usr/lib/mod/spelled"),
    ] {
        let shown = fs::read_to_string(mnt.join(link));
        let target = fs::read_link(mnt.join(link)).unwrap();
        let shown = shown.unwrap_or_else(|error| panic!("{link} -> {}: {error}", target.display()));
        assert_eq!(shown, read_inside(&daemon, &container, inside), "{link} -> {}", target.display());
    }
    let source = container.source();
    let cat = ["cat", "--host", daemon.host(), "--mount", "rootfs", &source, "/two"];
    let out = sandbox.run(&mut sandbox.imagefs(cat));
    assert!(out.stderr.ends_with("hint: ask mount \"var-run-app\" for \"/file\"\n"), "{out:?}");
    drop(container);
    daemon.run(["rmi", "--force", &image]);
}

#[track_caller]
fn mount_contained(sandbox: &Sandbox, daemon: &Daemon, container: &Container) -> std::path::PathBuf {
    sandbox.mount(&unique("mnt"), ["--host", daemon.host(), &container.source()])
}

/// A container made by way of the engine's own API, which alone every version understands. `mounts` is as Docker has it.
#[track_caller]
fn create(daemon: &Daemon, mounts: &Value, podman: &Value) -> Result<Container, Value> {
    let name = unique("test");
    let insert_name = |value: &Value| -> Value {
        serde_json::from_str(&value.to_string().replace("VOLUME", &name)).unwrap()
    };
    let (target, body) = match daemon.name {
        "podman" => {
            let mut body = json!({
                "name": name, "image": SMALL, "command": SLEEP, "netns": { "nsmode": "none" }, "user": "0",
            });
            body.as_object_mut().unwrap().extend(insert_name(podman).as_object().unwrap().clone());
            ("/v4.0.0/libpod/containers/create".to_owned(), body)
        }
        _ => {
            let host = json!({ "NetworkMode": "none", "Mounts": insert_name(mounts) });
            let body = json!({ "Image": SMALL, "Cmd": SLEEP, "HostConfig": host });
            (format!("/containers/create?name={name}"), body)
        }
    };
    let container = Container::adopt(daemon, &name);
    match daemon.ask("POST", &target, body.to_string().as_bytes()) {
        (200..300, _) => Ok(container),
        (_, answer) => Err(answer),
    }
}

fn an_image_that_is_mounted_is_shown(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let docker = json!([{ "Type": "image", "Source": SMALL, "Target": "/image" }]);
    let podman = json!({ "image_volumes": [{ "Source": SMALL, "Destination": "/image" }] });
    let container = match create(&daemon, &docker, &podman) {
        Ok(container) => container,
        // Docker 28 has API 1.48.
        Err(answer) => return assert!(daemon.name == "docker" && daemon.version() < (1, 48), "{answer}"),
    };
    let pristine = sandbox.directory("pristine");
    archives::extract(&archives::fixture("small.tar"), &pristine);
    let expected = Manifest::read(&pristine).without(".");
    // Whether it was ever started: Podman then lists the mount a second time, as another.
    for started in [false, true] {
        if started {
            daemon.run(["start", &container.name]);
        }
        let mnt = mount(&sandbox, daemon.host(), &container.source());
        let told = description(&mnt);
        assert_eq!(told["mounts"].as_array().unwrap().len(), 2, "{told}");
        assert_eq!(
            (&told["mounts"][1]["type"], &told["mounts"][1]["name"]),
            (&json!("image"), &json!("image"))
        );
        expected.assert_same(&Manifest::read(&mnt.join("image")).without("."));
        assert_eq!(state(&mnt, "image"), "ready");
        sandbox.unmount(&mnt);
    }
}

fn a_part_of_a_volume_is_shown_and_nothing_else_of_it(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let filled = Container::create(&daemon, &["--volume", "VOLUME-1:/data"], &SLEEP);
    let script = "mkdir -p a/b; echo secret >secret; ln secret a/b/linked; ln secret a/b/again; echo x >a/b/x
        chown 12:34 a/b/x; chown 5:6 a/b; chmod 750 a/b; echo near >a/bc";
    filled.fill(&sandbox, "/data", script);
    let volume = format!("{}-1", filled.name);
    let options = json!({ "Subpath": "a/b" });
    let docker = json!([{ "Type": "volume", "Source": volume, "Target": "/part", "VolumeOptions": options }]);
    let podman = json!({ "volumes": [{ "Name": volume, "Dest": "/part", "SubPath": "a/b" }] });
    let container = match create(&daemon, &docker, &podman) {
        Ok(container) => container,
        Err(answer) => panic!("{answer}"),
    };
    daemon.run(["start", &container.name]);
    let seen = seen_inside(&daemon, &container, "/part");
    // Docker before 26 and Podman before 5 take no notice of the subpath: the container sees all of the volume.
    let knows = match daemon.name {
        "podman" => daemon.version() >= (5, 0),
        _ => daemon.version() >= (1, 45),
    };
    assert_eq!(seen.iter().any(|line| line.ends_with("/secret")), !knows, "{seen:?}");
    for started in [true, false] {
        if !started {
            daemon.run(["kill", &container.name]);
        }
        let mnt = mount(&sandbox, daemon.host(), &container.source());
        let mut shown = listing(&sandbox, &mnt.join("part"));
        let mut seen = seen.clone();
        // Podman tells owners by way of its volumes alone, from 5.6 on, and an export has not the root's own.
        if daemon.name == "podman" && daemon.version() < (5, 6) {
            for lines in [&mut shown, &mut seen] {
                lines.iter_mut().for_each(|line| *line = without_owner(line));
            }
        }
        assert_eq!(shown, seen, "started: {started}");
        assert_eq!(
            fs::read_to_string(mnt.join("part").join(if knows { "linked" } else { "a/b/linked" })).unwrap(),
            "secret\n"
        );
        sandbox.unmount(&mnt);
    }
}

fn without_owner(line: &str) -> String {
    let words: Vec<&str> = line.rsplitn(4, ' ').collect();
    format!("{} {}", words[3], words[0])
}

/// The same as [`seen_inside`], of a directory here.
#[track_caller]
fn listing(sandbox: &Sandbox, dir: &Path) -> Vec<String> {
    let mut command = sandbox.command("bash");
    command.args(["-euc", "find . | xargs /bin/busybox stat -c '%F %a %u %g %n'"]).current_dir(dir);
    let out = sandbox.run(&mut command).success().stdout;
    let mut lines: Vec<String> = out.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn what_is_not_there_is_told_in_the_engine_s_own_words(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let container = Container::create(&daemon, &["--volume", "VOLUME-1:/data"], &["/none"]);
    let source = container.source();
    drop(container);
    let gone = sandbox.run(&mut sandbox.imagefs(["ls", "--host", daemon.host(), &source]));
    assert_eq!(gone.code, Some(3), "{gone:?}");
    assert!(gone.stderr.contains(&format!("hint: {} ps --all shows", daemon.name)), "{gone:?}");
    let image = sandbox.run(&mut sandbox.imagefs(["ls", "--host", daemon.host(), "imagefs-test-none"]));
    let engine = if daemon.name == "podman" { "Podman" } else { "Docker" };
    assert!(image.stderr.contains(&format!("not found in local {engine} storage")), "{image:?}");
    assert!(image.stderr.contains(&format!("{} pull imagefs-test-none", daemon.name)), "{image:?}");
}

#[test]
fn what_podman_lays_over_a_volume_is_shown_while_it_is_there() {
    let (sandbox, daemon) = (Sandbox::new(), Daemon::podman());
    let filled = Container::create(&daemon, &["--volume", "VOLUME-1:/data"], &["/none"]);
    filled.fill(&sandbox, "/data", "echo kept >kept");
    let bound = sandbox.directory("bound");
    fs::write(bound.join("kept"), "bound\n").unwrap();
    let binds = [format!("{}-1:/over:O", filled.name), format!("{}:/bound:O", bound.display())];
    let container = Container::create(&daemon, &["--volume", &binds[0], "--volume", &binds[1]], &SLEEP);
    for running in [false, true] {
        if running {
            daemon.run(["start", &container.name]);
            let script = "echo new >/over/new; echo new >/bound/new";
            daemon.run(["exec", &container.name, "/bin/sh", "-c", script]);
        }
        let mnt = mount(&sandbox, daemon.host(), &container.source());
        let shown = |name: &str| {
            let listed = fs::read_dir(mnt.join(name)).ok()?;
            let mut names: Vec<_> = listed.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            Some(names.join(" "))
        };
        let expected = match running {
            true => (Some("kept new".into()), Some("kept new".into())),
            // What is laid over a directory of the machine is listed only while it is.
            false => (Some("kept".into()), None),
        };
        assert_eq!((shown("over"), shown("bound")), expected, "{}", description(&mnt));
        sandbox.unmount(&mnt);
    }
    assert_eq!(fs::read_dir(&bound).unwrap().count(), 1);
}

fn a_container_is_read_by_its_own_paths(daemon: Daemon) {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("bound.conf"), "configured\n").unwrap();
    let file = format!("{}:/etc/bound.conf", sandbox.path("bound.conf").display());
    let options = [
        "--volume",
        "VOLUME-1:/data",
        "--volume",
        "VOLUME-2:/srv/deep",
        "--volume",
        &file,
        "--tmpfs",
        "/memory",
    ];
    let container = Container::create(&daemon, &options, &SLEEP);
    daemon.run(["start", &container.name]);
    container.fill(
        &sandbox,
        "/data",
        "echo volume >file; mkdir sub; echo in >sub/file; ln -s /etc/passwd out",
    );
    container.fill(
        &sandbox,
        "/srv/deep",
        "echo deep >file; ln -s /data/sub/file far; ln -s /etc/bound.conf conf",
    );
    container.fill(&sandbox, "/", "ln -s /srv/deep near; ln -s data/file short");
    let source = container.source();
    let run = |verb: &[&str], paths: &[&str]| {
        let mut command = sandbox.imagefs(verb.iter().copied());
        sandbox.run(command.args(["--host", daemon.host(), &source]).args(paths))
    };
    for path in [
        "/data/file",
        "/srv/deep/far",
        "/near/conf",
        "/short",
        "/near/far",
        "/data/out",
        "/etc/bound.conf",
        "/etc/passwd",
    ] {
        assert_eq!(run(&["cat"], &[path]).success().stdout, read_inside(&daemon, &container, path), "{path}");
    }
    assert_eq!(run(&["ls"], &["/data"]).success().stdout, "file\nout\nsub\n");
    assert_eq!(run(&["ls"], &["/near/"]).success().stdout, "conf\nfar\nfile\n");
    let found = run(&["find"], &["/srv", "-type", "f"]).success().stdout;
    assert_eq!(found, "/srv/deep/file\n");
    let stat: Value =
        serde_json::from_str(&run(&["stat", "--json", "-L"], &["/near/far"]).success().stdout).unwrap();
    assert_eq!(
        (&stat["path"], &stat["type"], &stat["size"]),
        (&json!("/near/far"), &json!("file"), &json!(3))
    );
    let tree = run(&["tree"], &["/srv"]).success().stdout;
    assert!(tree.contains("└── deep") && tree.contains("far -> /data/sub/file"), "{tree}");
    run(&["cp"], &["/etc", "copied"]).success();
    assert_eq!(fs::read_to_string(sandbox.path("copied/bound.conf")).unwrap(), "configured\n");
    // A look at all of it does not end at what cannot be read.
    let all = run(&["find"], &["/", "-name", "file"]).success().stdout;
    assert_eq!(all, "/data/file\n/data/sub/file\n/srv/deep/file\n");
    // One mount alone is what it was asked for.
    let alone = run(&["find", "--mount", "data", "-type", "f"], &[]).success().stdout;
    assert_eq!(alone, "/file\n/sub/file\n");
    let beneath = run(&["cat", "--mount", "rootfs"], &["/data/file"]);
    assert_eq!(beneath.code, Some(3), "{beneath:?}");

    let exact = run(&["ls", "--exact"], &[]);
    assert_eq!(exact.code, Some(2), "{exact:?}");
    assert!(exact.stderr.contains("the layers of"), "{exact:?}");
}
