//! The test images and archives are what the other tests take them for, and the tools that serve as a reference agree.

use crate::support::{Daemon, Manifest, Sandbox, archives};

#[test]
fn gnu_tar_and_bsdtar_agree_on_the_torture_archive() {
    let sandbox = Sandbox::new();
    let tar = archives::fixture("torture.tar");
    let extracted = sandbox.directory("extracted");
    archives::extract(&tar, &extracted);
    let gnu = Manifest::read(&extracted).without_attribute(".", "mtime");
    // bsdtar composes accents, hashes the data of a sparse file alone, and takes -0.5 for 0.5.
    archives::mtree(&tar)
        .without("names/\u{e9}-decomposed")
        .without_attribute("holes/sparse", "sha256")
        .without_attribute("holes/nothing-else", "sha256")
        .without_attribute("times/just-before-1970", "mtime")
        .assert_same(&gnu.clone().without("names/e\u{301}-decomposed"));
    assert_eq!(gnu.get("times/just-before-1970", "mtime"), Some("-1.500000000"));
    assert_eq!(gnu.get("links/first", "nlink"), Some("3"));
    assert_eq!(gnu.get("links/second", "links"), Some("links/elsewhere/third"));
    let gnu = gnu.with_holes(&extracted);
    assert_eq!(gnu.get("holes/nothing-else", "data"), Some("[]"));
    assert_eq!(gnu.get("holes/sparse", "data"), Some("[0..4096, 1048576..1052672, 67108864..67112960]"));
}

#[test]
fn docker_and_podman_export_the_same_torture() {
    let sandbox = Sandbox::new();
    let [docker, podman] = Daemon::both().map(|daemon| {
        let tar = sandbox.path(&format!("{}.tar", daemon.name));
        daemon.create("imagefs-test/torture").export(&tar);
        let extracted = sandbox.directory(daemon.name);
        archives::extract(&tar, &extracted);
        Manifest::read(&extracted).without_attribute(".", "mtime")
    });
    // What dockerd lays into every container before it starts.
    let added = [
        ".dockerenv",
        "dev/console",
        "dev/pts",
        "dev/shm",
        "etc/hostname",
        "etc/hosts",
        "etc/mtab",
        "etc/resolv.conf",
    ];
    let docker = added.iter().fold(docker, |tree, path| tree.without(path));
    let docker = ["dev", "etc"]
        .iter()
        .fold(docker, |tree, path| tree.without_attribute(path, "mtime").without_attribute(path, "nlink"));
    // dockerd exports no other extended attribute than capabilities.
    assert_eq!(podman.get("xattrs/user", "xattrs"), Some("user.comment=68656c6c6f"));
    let podman =
        podman.without_attribute("xattrs/user", "xattrs").without_attribute("xattrs/binary", "xattrs");
    docker.assert_same(&podman);
    assert_eq!(docker.get("modes/largest-owner", "uid"), Some("4294967294"));
    let capability = "security.capability=0100000200040000000000000000000000000000";
    assert_eq!(docker.get("xattrs/capability", "xattrs"), Some(capability));
    assert!(docker.len() > 20_000, "{}", docker.len());
}

#[test]
fn the_python_image_has_layers_and_a_configuration() {
    for daemon in Daemon::both() {
        let image = "imagefs-test/python";
        let format = "{{len .RootFS.Layers}} {{.Config.Entrypoint}} {{.Config.User}} {{.Config.WorkingDir}}";
        let shown = daemon.run(["image", "inspect", "--format", format, image]);
        assert_eq!(shown, "4 [python3] app /home/app", "{}", daemon.name);
    }
}
