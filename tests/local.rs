//! `imagefs mount local:`: all that an engine has under one mount, each as a mount of its own shows it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::process::{Signal, kill_process};

use crate::containers::{Container, unique};
use crate::support::proxy::{Fault, Proxy};
use crate::support::{Daemon, Manifest, Sandbox, succeed, wait_until};

macro_rules! on_both_daemons {
    ($($name:ident),* $(,)?) => {
        mod on_docker { $(#[test] fn $name() { super::$name(super::Daemon::docker()) })* }
        mod on_podman { $(#[test] fn $name() { super::$name(super::Daemon::podman()) })* }
    };
}

on_both_daemons!(
    each_is_what_a_mount_of_its_own_shows,
    looking_from_outside_asks_for_the_lists_alone,
    what_the_engine_does_is_seen,
    a_name_that_moved_leads_to_the_new_image,
    a_refresh_shows_containers_as_they_are_now,
    an_engine_that_was_away_is_found_again,
    a_killed_server_leaves_nothing_that_the_next_one_does_not_remove,
);

/// The name by which the engine lists one of the test images.
fn listed(daemon: &Daemon, image: &str) -> String {
    let names = daemon.run(["image", "inspect", "--format", "{{index .RepoTags 0}}", image]);
    names.trim().to_owned()
}

#[track_caller]
fn mount(sandbox: &Sandbox, host: &str, options: &[&str]) -> PathBuf {
    let local = sandbox.mount(&unique("local"), ["--host", host].iter().chain(options).chain([&"local:"]));
    // Podman 4.3 refuses the list of all images while one of them is being made or removed, as other tests do all the time.
    assert!(wait_until(|| fs::read_dir(local.join("images")).unwrap().next().is_some()));
    local
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// An image of a test's own: one more name, which goes with this.
struct Tag(Daemon, String);

impl Tag {
    fn of(daemon: &Daemon, image: &str) -> Tag {
        let tag = Tag(daemon.clone(), format!("localhost/{}:1", unique("tag")));
        tag.move_to(image);
        tag
    }

    fn move_to(&self, image: &str) {
        self.0.run(["tag", image, &self.1]);
    }
}

impl Drop for Tag {
    fn drop(&mut self) {
        let _ = self.0.cli(["rmi", &self.1]).output();
    }
}

fn each_is_what_a_mount_of_its_own_shows(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let container = Container::create(&daemon, &["-v", "VOLUME-1:/data"], &["/bin/sh"]);
    container.fill(&sandbox, "/data", "echo kept >file; ln -s /etc/passwd link; mkdir dir; echo x >dir/y");
    let local = mount(&sandbox, daemon.host(), &[]);

    let mut owns = Vec::new();
    for image in ["imagefs-test/torture", "imagefs-test/small"] {
        let own = sandbox.mount(&unique("own"), ["--host", daemon.host(), image]);
        let within = local.join("images").join(listed(&daemon, image));
        let by_id = local.join("images").join(format!("@{}", daemon.image_id(image)));
        let expected = Manifest::read(&own.join("rootfs"));
        // Entered: until then its directory looks as the engine's list tells.
        assert_eq!(names(&within.join("rootfs")), names(&own.join("rootfs")));
        assert_eq!(names(&by_id.join("rootfs")), names(&own.join("rootfs")));
        expected.assert_same(&Manifest::read(&within.join("rootfs")));
        expected.assert_same(&Manifest::read(&by_id.join("rootfs")));
        assert_eq!(names(&within), names(&own));
        let described = fs::read_to_string(within.join(".imagefs.json")).unwrap();
        assert!(described.contains(&daemon.image_id(image)), "{described}");
        owns.push(own);
    }

    let own = sandbox.mount(&unique("own"), ["--host", daemon.host(), &container.source()]);
    owns.push(own.clone());
    let within = local.join("containers").join(&container.name);
    assert_eq!(names(&within), names(&own));
    for name in ["rootfs", "data"] {
        assert_eq!(names(&within.join(name)), names(&own.join(name)));
        Manifest::read(&own.join(name)).assert_same(&Manifest::read(&within.join(name)));
    }
    assert_eq!(fs::read_to_string(within.join("data/file")).unwrap(), "kept\n");
    // A volume by its own name: what the container sees in it.
    let volume = local.join("volumes").join(format!("{}-1", container.name));
    assert_eq!(names(&volume), names(&within.join("data")));
    assert_eq!(fs::read_to_string(volume.join("dir/y")).unwrap(), "x\n");
    assert_eq!(fs::read_link(volume.join("link")).unwrap(), Path::new("etc/passwd"), "and stays in it");

    for name in ["images/none:1", "images/imagefs-test/..none", "containers/@0000", "volumes/@", "other"] {
        assert_eq!(fs::metadata(local.join(name)).unwrap_err().kind(), ErrorKind::NotFound, "{name}");
    }
    owns.iter().chain([&local]).for_each(|mountpoint| sandbox.unmount(mountpoint));
    sandbox.assert_nothing_left();
}

fn looking_from_outside_asks_for_the_lists_alone(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let container = Container::create(&daemon, &["-v", "VOLUME-1:/data"], &["/bin/sh"]);
    let proxy = Proxy::before(daemon.host(), Fault::None);
    let local = mount(&sandbox, &proxy.address(), &[]);
    for arguments in [
        &["ls", "-la", "."][..],
        &["ls", "-la", "images", "containers", "volumes"],
        &["find", "images", "-path", "*/rootfs", "-prune", "-o", "-print"],
        &["find", ".", "-maxdepth", "2", "-ls"],
        &["find", "containers", "volumes", "-maxdepth", "0", "-ls"],
    ] {
        succeed(sandbox.command(arguments[0]).args(&arguments[1..]).current_dir(&local));
    }
    let image = local.join("images").join(listed(&daemon, "imagefs-test/small"));
    assert_eq!(names(&image), [".imagefs.json", "rootfs"]);
    let created = daemon.run(["image", "inspect", "--format", "{{.Created}}", "imagefs-test/small"]);
    let created: jiff::Timestamp = created.trim().parse().unwrap();
    assert_eq!(fs::metadata(&image).unwrap().mtime(), created.as_second(), "when it was made");
    assert!(local.join("containers").join(&container.name).is_dir());

    let lists = ["_ping", "GET /images/json", "GET /containers/json?all=1 ", "GET /volumes ", "GET /events"];
    let others = proxy.lines().into_iter().filter(|line| !lists.iter().any(|list| line.contains(list)));
    assert_eq!(others.collect::<Vec<_>>(), [""; 0], "no export, no container, no inspection");
    sandbox.unmount(&local);
}

fn what_the_engine_does_is_seen(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let local = mount(&sandbox, daemon.host(), &[]);
    let images = local.join("images");

    let tag = Tag::of(&daemon, "imagefs-test/small");
    let tagged = images.join(&tag.1);
    assert!(wait_until(|| tagged.is_dir()));
    drop(tag);
    assert!(wait_until(|| !tagged.exists()));

    let mut container = Container::create(&daemon, &[], &["/bin/sh"]);
    let path = |name: &str| local.join("containers").join(name);
    assert!(wait_until(|| path(&container.name).is_dir()));
    let before = path(&container.name);
    let inside = fs::File::open(before.join("rootfs/etc/passwd")).unwrap();
    let renamed = unique("renamed");
    daemon.run(["rename", &container.name, &renamed]);
    container.name.clone_from(&renamed);
    assert!(wait_until(|| path(&renamed).is_dir() && !before.exists()));
    drop(container);
    assert!(wait_until(|| !path(&renamed).exists()));
    // Who had it open goes on.
    assert!(!std::io::read_to_string(inside).unwrap().is_empty());

    let volume = unique("volume");
    daemon.run(["volume", "create", &volume]);
    let shown = local.join("volumes").join(&volume);
    assert!(wait_until(|| shown.is_dir()));
    daemon.run(["volume", "rm", &volume]);
    assert!(wait_until(|| !shown.exists()));
}

fn a_name_that_moved_leads_to_the_new_image(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let tag = Tag::of(&daemon, "imagefs-test/small");
    let local = mount(&sandbox, daemon.host(), &[]);
    let rootfs = local.join("images").join(&tag.1).join("rootfs");
    let bin = fs::File::open(rootfs.join("bin")).unwrap();
    let number = fs::metadata(rootfs.join("bin")).unwrap().ino();
    assert!(!rootfs.join("links").exists());
    tag.move_to("imagefs-test/torture");
    assert!(wait_until(|| rootfs.join("links").exists()), "who enters it sees the new one");
    assert_ne!(fs::metadata(rootfs.join("bin")).unwrap().ino(), number);
    assert_eq!(bin.metadata().unwrap().ino(), number, "and who is inside the old one");
}

fn a_refresh_shows_containers_as_they_are_now(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let container = Container::create(&daemon, &[], &["/bin/sh"]);
    let local = mount(&sandbox, daemon.host(), &[]);
    let root = local.join("containers").join(&container.name).join("rootfs/root");
    assert_eq!(names(&root), [""; 0]);
    container.fill(&sandbox, "/root", "echo new >file");
    assert_eq!(names(&root), [""; 0], "as it was when it was entered");
    sandbox.run(sandbox.imagefs(["refresh"]).arg(&local)).success();
    assert_eq!(names(&root), ["file"]);
}

fn an_engine_that_was_away_is_found_again(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let socket = sandbox.path("engine.sock");
    let target = daemon.host().strip_prefix("unix://").unwrap();
    symlink(target, &socket).unwrap();
    let local = mount(&sandbox, &format!("unix://{}", socket.display()), &["-o", "timeout=5"]);
    let images = local.join("images");
    let passwd = |image: &str| images.join(listed(&daemon, image)).join("rootfs/etc/passwd");
    assert!(!fs::read(passwd("imagefs-test/small")).unwrap().is_empty());

    fs::remove_file(&socket).unwrap();
    assert!(!fs::read(passwd("imagefs-test/small")).unwrap().is_empty(), "what is in the cache goes on");
    let tag = Tag::of(&daemon, "imagefs-test/torture");
    let error = fs::read(passwd("imagefs-test/torture")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    symlink(target, &socket).unwrap();
    assert!(wait_until(|| fs::read(passwd("imagefs-test/torture")).is_ok()), "without a remount");
    assert!(wait_until(|| images.join(&tag.1).is_dir()));
}

fn a_killed_server_leaves_nothing_that_the_next_one_does_not_remove(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let container = Container::create(&daemon, &["-v", "VOLUME-1:/data"], &["/bin/sh"]);
    let local = mount(&sandbox, daemon.host(), &[]);
    assert_eq!(names(&local.join("volumes").join(format!("{}-1", container.name))), [""; 0]);
    names(&local.join("containers").join(&container.name).join("rootfs"));
    for pid in sandbox.processes() {
        kill_process(pid, Signal::KILL).unwrap();
    }
    assert!(wait_until(|| sandbox.processes().is_empty()));
    let again = sandbox.run(sandbox.imagefs(["mount", "--host", daemon.host(), "local:"]).arg(&local));
    again.success();
    assert!(local.join("images").is_dir());
    sandbox.unmount(&local);
    sandbox.assert_nothing_left();
}

#[test]
fn only_what_fits_the_pattern_is_shown() {
    let daemon = Daemon::docker();
    let sandbox = Sandbox::new();
    let local = mount(&sandbox, daemon.host(), &["-o", "only=imagefs-test/*,uid=7"]);
    assert_eq!(names(&local), ["containers", "images", "volumes"]);
    assert!(names(&local.join("images")).iter().all(|name| name == "imagefs-test" || name.starts_with('@')));
    assert_eq!(names(&local.join("volumes")), [""; 0]);
    let passwd = local.join("images/imagefs-test/small:latest/rootfs/etc/passwd");
    assert_eq!(fs::metadata(passwd).unwrap().uid(), 7, "the options hold within");
}

#[test]
fn local_is_no_source_of_other_verbs() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.run(&mut sandbox.imagefs(["ls", "local:"]));
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(outcome.stderr.contains("imagefs mount local: DIR"), "{outcome:?}");
}
