//! Images of a real Docker and a real Podman daemon, mounted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use serde_json::{Value, json};

use crate::support::proxy::{Fault, Proxy};
use crate::support::{Daemon, Manifest, Sandbox, archives, succeed};

/// Makes a test of `fn NAME(Daemon)` for each of the two daemons.
macro_rules! on_both_daemons {
    ($($name:ident),* $(,)?) => {
        mod on_docker { $(#[test] fn $name() { super::$name(super::Daemon::docker()) })* }
        mod on_podman { $(#[test] fn $name() { super::$name(super::Daemon::podman()) })* }
    };
}

on_both_daemons!(
    the_python_image_is_what_gnu_tar_extracts,
    the_torture_image_is_what_gnu_tar_extracts,
    the_description_tells_what_the_image_is,
    an_image_is_mounted_by_each_of_its_names,
    the_image_has_what_lies_beneath_its_volumes,
    an_image_without_a_layer_is_an_empty_tree,
    a_second_mount_makes_neither_container_nor_export,
    ten_mounts_at_once_make_one_export,
    inode_numbers_are_the_same_in_every_mount,
);

const PYTHON: &str = "imagefs-test/python";
const TORTURE: &str = "imagefs-test/torture";
const SMALL: &str = "imagefs-test/small";
const SCRATCH: &str = "imagefs-test/scratch";

/// What dockerd makes in every container, at the time when it makes the container.
const MADE_BY_DOCKER: [&str; 9] = [
    "dev",
    "dev/console",
    "dev/pts",
    "dev/shm",
    "etc",
    "etc/hostname",
    "etc/hosts",
    "etc/mtab",
    "etc/resolv.conf",
];

/// Mounts an image; gives where its root filesystem is.
#[track_caller]
fn mount(sandbox: &Sandbox, host: &str, image: &str, name: &str) -> PathBuf {
    sandbox.mount(name, ["--host", host, "-o", "symlinks=raw", image]).join("rootfs")
}

/// Compares an image's mount with what GNU tar makes of the export of a container of it.
#[track_caller]
fn assert_is_what_gnu_tar_extracts(daemon: &Daemon, image: &str) {
    let sandbox = Sandbox::new();
    let (tar, extracted) = (sandbox.path("export.tar"), sandbox.directory("extracted"));
    daemon.create(image).export(&tar);
    archives::extract(&tar, &extracted);
    let found = Manifest::read(&mount(&sandbox, daemon.host(), image, "mnt"));
    // An export has no entry for the root.
    assert_eq!(found.get(".", "mtime"), Some("0.000000000"));
    let mut expected = Manifest::read(&extracted).without_attribute(".", "mtime");
    if daemon.name == "docker" {
        // The mark by which a program knows that it runs in a container.
        expected = expected.without(".dockerenv");
        // The two containers were not made at the same moment.
        for path in MADE_BY_DOCKER {
            expected = expected.without_attribute(path, "mtime");
        }
    }
    expected.assert_same(&found);
    sandbox.unmount(&sandbox.path("mnt"));
    sandbox.assert_nothing_left();
}

fn the_python_image_is_what_gnu_tar_extracts(daemon: Daemon) {
    assert_is_what_gnu_tar_extracts(&daemon, PYTHON);
}

fn the_torture_image_is_what_gnu_tar_extracts(daemon: Daemon) {
    assert_is_what_gnu_tar_extracts(&daemon, TORTURE);
}

fn description(rootfs: &Path) -> Value {
    let text = fs::read_to_string(rootfs.with_file_name(".imagefs.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn the_description_tells_what_the_image_is(daemon: Daemon) {
    let sandbox = Sandbox::new();
    for image in [TORTURE, SCRATCH] {
        let inspected: Value =
            serde_json::from_str(&daemon.run(["image", "inspect", "--format", "{{json .}}", image])).unwrap();
        let told = description(&mount(&sandbox, daemon.host(), image, image.rsplit('/').next().unwrap()));
        assert_eq!(told["source"], image);
        assert_eq!(told["kind"], "image");
        assert_eq!(told["identity"], daemon.image_id(image));
        assert_eq!(told["names"][0], inspected["RepoTags"][0]);
        let rootfs = json!({"index": 0, "name": "rootfs", "destination": "/", "type": "rootfs", "source": null,
            "read_only": false, "state": "ready"});
        assert_eq!(told["mounts"], json!([rootfs]));
        let [os, architecture] = ["Os", "Architecture"].map(|key| inspected[key].as_str().unwrap());
        assert_eq!(told["platform"], format!("{os}/{architecture}"));
        for (key, value) in told["config"].as_object().unwrap() {
            assert_eq!(value, &inspected["Config"][key], "{image}: {key}");
        }
        for key in ["Cmd", "Env", "Labels", "Volumes"] {
            // What is empty is shown as null, as nothing, or as empty, by one docker command or the other.
            let shown = inspected["Config"][key].to_string();
            let has = !["null", "[]", "{}"].contains(&&*shown);
            assert_eq!(told["config"].get(key).is_some(), has, "{image}: {key}");
        }
    }
}

fn an_image_is_mounted_by_each_of_its_names(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let id = daemon.image_id(SMALL);
    let hex = id.strip_prefix("sha256:").unwrap();
    let mut names = vec![
        SMALL.to_owned(),
        format!("{SMALL}:latest"),
        format!("docker-daemon:{SMALL}:latest"),
        id.clone(),
        hex.to_owned(),
        hex[..12].to_owned(),
        format!("sha256:{}", &hex[..12]),
    ];
    // dockerd knows a digest of what came from a registry alone.
    let digests = daemon.run(["image", "inspect", "--format", "{{join .RepoDigests \"\\n\"}}", SMALL]);
    names.extend(digests.lines().map(str::to_owned));
    assert_eq!(names.len() > 7, daemon.name == "podman", "{names:?}");
    for (number, name) in names.iter().enumerate() {
        let rootfs = mount(&sandbox, daemon.host(), name, &number.to_string());
        assert_eq!(description(&rootfs)["identity"], id, "{name}");
        assert_eq!(fs::read_to_string(rootfs.join("etc/passwd")).unwrap(), "root:x:0:0:root:/root:/bin/sh\n");
    }
}

fn the_image_has_what_lies_beneath_its_volumes(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let volumes = daemon.run(["image", "inspect", "--format", "{{json .Config.Volumes}}", TORTURE]);
    assert_eq!(volumes, r#"{"/contents":{},"/var/lib/state":{}}"#);
    let rootfs = mount(&sandbox, daemon.host(), TORTURE, "mnt");
    let expected: Vec<u8> = (0..4096).map(|i| (i * 7 % 251) as u8).collect();
    assert_eq!(fs::read(rootfs.join("contents/4096")).unwrap(), expected);
    // The image itself has nothing there.
    assert!(!rootfs.join("var/lib/state").exists());
}

fn an_image_without_a_layer_is_an_empty_tree(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let found = Manifest::read(&mount(&sandbox, daemon.host(), SCRATCH, "mnt"));
    let mut allowed = BTreeSet::from(["."]);
    if daemon.name == "docker" {
        allowed.extend(MADE_BY_DOCKER.into_iter().chain(["proc", "sys"]));
    }
    let more: Vec<_> = found.paths().filter(|path| !allowed.iter().any(|a| a.as_bytes() == *path)).collect();
    assert!(more.is_empty(), "{more:?}");
}

fn a_second_mount_makes_neither_container_nor_export(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let proxy = Proxy::before(daemon.host(), Fault::None);
    let read = |source: &str, name: &str| {
        let rootfs = mount(&sandbox, &proxy.address(), source, name);
        let content = fs::read(rootfs.join("bin/busybox")).unwrap();
        sandbox.unmount(&sandbox.path(name));
        content
    };
    let cold = read(SMALL, "cold");
    assert_eq!((proxy.containers().len(), proxy.requests_for("/export")), (1, 1), "{:#?}", proxy.lines());
    assert!(!daemon.has_container(&proxy.containers()[0]));

    let before = proxy.lines();
    assert_eq!(read(SMALL, "warm"), cold);
    let more = proxy.lines().split_off(before.len());
    assert!(more.iter().all(|line| line.starts_with("GET ") && !line.contains("/containers/")), "{more:#?}");

    let before = proxy.requests();
    assert_eq!(read(&daemon.image_id(SMALL), "by-id"), cold);
    assert_eq!(proxy.requests(), before, "{:#?}", proxy.lines());
    sandbox.assert_nothing_left();
}

fn ten_mounts_at_once_make_one_export(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let proxy = Proxy::before(daemon.host(), Fault::None);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..10)
            .map(|number| {
                let (sandbox, address) = (&sandbox, proxy.address());
                scope.spawn(move || {
                    fs::read(mount(sandbox, &address, SMALL, &number.to_string()).join("bin/busybox"))
                })
            })
            .collect();
        let contents: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect();
        assert!(
            contents[0].starts_with(b"\x7fELF") && contents.iter().all(|content| *content == contents[0])
        );
    });
    assert_eq!((proxy.containers().len(), proxy.requests_for("/export")), (1, 1), "{:#?}", proxy.lines());
    sandbox.run(&mut sandbox.imagefs(["umount", "--all"])).success();
    assert!(!daemon.has_container(&proxy.containers()[0]));
    sandbox.assert_nothing_left();
}

/// The inode number of every path below `root`.
fn inode_numbers(root: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    let mut ahead = vec![root.to_owned()];
    while let Some(path) = ahead.pop() {
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_dir() {
            ahead.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.insert(path.strip_prefix(root).unwrap().to_owned(), metadata.ino());
    }
    found
}

fn inode_numbers_are_the_same_in_every_mount(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let cold = inode_numbers(&mount(&sandbox, daemon.host(), TORTURE, "cold"));
    assert!(cold.len() > 20_000, "{}", cold.len());
    let warm = inode_numbers(&mount(&sandbox, daemon.host(), TORTURE, "warm"));
    assert_eq!(differing(&cold, &warm), Vec::<&PathBuf>::new());

    let other = Sandbox::new();
    let again = inode_numbers(&mount(&other, daemon.host(), TORTURE, "mnt"));
    assert_eq!(differing(&cold, &again), Vec::<&PathBuf>::new());
}

/// The first paths of which the two do not tell the same number.
fn differing<'a>(a: &'a BTreeMap<PathBuf, u64>, b: &'a BTreeMap<PathBuf, u64>) -> Vec<&'a PathBuf> {
    let paths = a.keys().chain(b.keys());
    paths.filter(|path| a.get(*path) != b.get(*path)).take(5).collect()
}

#[test]
fn memory_does_not_grow_with_the_image() {
    let sandbox = Sandbox::new();
    let rootfs = mount(&sandbox, Daemon::docker().host(), PYTHON, "mnt");
    // GNU tar would see that /dev/null needs no contents.
    succeed(sandbox.command("sh").args(["-c", "tar --create . | cat >/dev/null"]).current_dir(rootfs));
    let mounts = sandbox.run(&mut sandbox.imagefs(["mounts", "--json"])).success().stdout;
    let mounts: Value = serde_json::from_str(&mounts).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", mounts[0]["pid"])).unwrap();
    let kib = |key: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    // What is mapped from the cache is the kernel's to take back.
    let own = kib("VmHWM:") - kib("RssFile:");
    assert!(own < 64 << 10, "{own} KiB beyond the mapped files:\n{status}");
}

#[test]
fn what_one_daemon_exported_is_not_served_for_another() {
    let sandbox = Sandbox::new();
    for daemon in Daemon::both() {
        let rootfs = mount(&sandbox, daemon.host(), SMALL, daemon.name);
        let added = rootfs.join("dev/console").exists();
        assert_eq!(added, daemon.name == "docker", "{} adds a console", daemon.name);
    }
    assert_eq!(Daemon::docker().image_id(SMALL), Daemon::podman().image_id(SMALL), "it is one image");
}
