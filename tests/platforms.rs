//! Images of which an engine has several platforms, one that is not the machine's, or not all of the layers: what is there is
//! found under the name that the user knows, and what is not is told.

use std::fs;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::containers::unique;
use crate::support::{Daemon, Sandbox};

/// Makes a test of `fn NAME(Daemon)` for each of the two daemons.
macro_rules! on_both_daemons {
    ($($name:ident),* $(,)?) => {
        mod on_docker { $(#[test] fn $name() { super::$name(super::Daemon::docker()) })* }
        mod on_podman { $(#[test] fn $name() { super::$name(super::Daemon::podman()) })* }
    };
}

on_both_daemons!(
    each_platform_of_an_image_is_an_image,
    an_image_of_another_platform_alone_is_read_in_every_way
);

/// An OCI archive that is put together blob by blob.
#[derive(Default)]
struct Archive {
    blobs: Vec<(String, Vec<u8>)>,
    manifests: Vec<Value>,
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

impl Archive {
    fn add(&mut self, bytes: Vec<u8>) -> Value {
        let (digest, size) = (digest(&bytes), bytes.len());
        self.blobs.push((digest.clone(), bytes));
        json!({ "digest": digest, "size": size })
    }

    /// Adds an image with one file `arch`, which says for what it is; returns the digest of its configuration.
    fn image(&mut self, os: &str, architecture: &str) -> String {
        let mut tar = tar::Builder::new(Vec::new());
        let content = format!("{architecture}\n");
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_600_000_000);
        tar.append_data(&mut header, "arch", content.as_bytes()).unwrap();
        let layer = tar.into_inner().unwrap();
        let config = json!({
            "os": os, "architecture": architecture, "config": { "Cmd": ["/arch"] },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
            "history": [{ "created_by": format!("for {architecture}") }],
        });
        let typed = |mut described: Value, kind: &str| {
            described["mediaType"] = json!(format!("application/vnd.oci.image.{kind}"));
            described
        };
        let layer = typed(self.add(layer), "layer.v1.tar");
        let config = typed(self.add(config.to_string().into_bytes()), "config.v1+json");
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": [layer],
        });
        let mut manifest = typed(self.add(manifest.to_string().into_bytes()), "manifest.v1+json");
        manifest["platform"] = json!({ "os": os, "architecture": architecture });
        self.manifests.push(manifest);
        config["digest"].as_str().unwrap().to_owned()
    }

    /// The archive, with its one manifest or an index of several under a name.
    fn pack(mut self, name: &str) -> Vec<u8> {
        let mut top = match self.manifests.len() {
            1 => self.manifests.pop().unwrap(),
            _ => {
                let kind = "application/vnd.oci.image.index.v1+json";
                let index = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": std::mem::take(&mut self.manifests) });
                let mut index = self.add(index.to_string().into_bytes());
                index["mediaType"] = json!(kind);
                index
            }
        };
        let mut annotations = top["annotations"].as_object().cloned().unwrap_or_default();
        annotations
            .insert("io.containerd.image.name".into(), json!(format!("docker.io/library/{name}:latest")));
        annotations.insert("org.opencontainers.image.ref.name".into(), json!("latest"));
        top["annotations"] = json!(annotations);
        let index = json!({ "schemaVersion": 2, "manifests": [top] });
        let mut tar = tar::Builder::new(Vec::new());
        let blobs = self
            .blobs
            .iter()
            .map(|(digest, bytes)| (format!("blobs/{}", digest.replace(':', "/")), bytes.clone()));
        let files = [
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".to_owned(), index.to_string().into_bytes()),
        ];
        for (path, bytes) in files.into_iter().chain(blobs) {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, bytes.as_slice()).unwrap();
        }
        tar.into_inner().unwrap()
    }
}

/// An image of a test's own, gone at the end of it.
struct Loaded<'a> {
    daemon: &'a Daemon,
    name: String,
}

impl Drop for Loaded<'_> {
    fn drop(&mut self) {
        let parts = [here(), "s390x"].map(|architecture| format!("{}-{architecture}", self.name));
        for name in [&self.name].into_iter().chain(&parts) {
            let _ = self.daemon.cli(["rmi", "--force", name]).output();
        }
    }
}

/// An image `foreign` of s390x and one of this machine's platform, both under one name.
#[track_caller]
fn load_two<'a>(daemon: &'a Daemon) -> Option<Loaded<'a>> {
    let name = unique("imagefs-test-two");
    let loaded = Loaded { daemon, name: name.clone() };
    match daemon.name {
        // 4.3 fails at listing its images where it has such a list, and so at finding one of them.
        "podman" if daemon.version() < (5, 0) => return None,
        "podman" => {
            let mut images = Vec::new();
            for architecture in [here(), "s390x"] {
                let one = format!("{name}-{architecture}");
                let mut archive = Archive::default();
                archive.image("linux", architecture);
                let (status, answer) = daemon.ask("POST", "/v4.0.0/libpod/images/load", &archive.pack(&one));
                assert_eq!(status, 200, "{answer}");
                images.push(format!("images=containers-storage:docker.io/library/{one}:latest"));
            }
            daemon.post(&format!("/v4.0.0/libpod/manifests/{name}?{}", images.join("&")), &json!({}));
        }
        _ if daemon.has_containerd_store() => {
            let mut archive = Archive::default();
            archive.image("linux", here());
            archive.image("linux", "s390x");
            let (status, answer) = daemon.ask("POST", "/images/load?quiet=1", &archive.pack(&name));
            assert_eq!(status, 200, "{answer}");
        }
        // One name, one image.
        _ => return None,
    }
    Some(loaded)
}

fn here() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn each_platform_of_an_image_is_an_image(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let Some(two) = load_two(&daemon) else {
        // Where a name is of one image, another platform is refused with what to do.
        let out = sandbox.run(&mut sandbox.imagefs([
            "ls",
            "--host",
            daemon.host(),
            "--platform",
            "linux/s390x",
            "imagefs-test/small",
        ]));
        assert_eq!(out.code, Some(3), "{out:?}");
        let hint = format!("{} pull --platform linux/s390x", daemon.name);
        return assert!(out.stderr.contains(&hint), "{out:?}");
    };
    let run = |verb: &[&str], platform: &str, path: &[&str]| {
        let mut command = sandbox.imagefs(verb.iter().copied());
        command.args(["--host", daemon.host(), "--platform", platform, &two.name]).args(path);
        sandbox.run(&mut command)
    };
    for architecture in [here(), "s390x", here()] {
        let platform = format!("linux/{architecture}");
        let content = format!("{architecture}\n");
        assert_eq!(run(&["cat"], &platform, &["arch"]).success().stdout, content, "alone");
        let listed = run(&["ls"], &platform, &["/"]).success().stdout;
        assert!(listed.lines().any(|line| line == "arch"), "{listed}");
        assert_eq!(run(&["cat"], &platform, &["arch"]).success().stdout, content, "from the cache");
        assert_eq!(run(&["cat", "--exact"], &platform, &["arch"]).success().stdout, content, "exact");
        let history = run(&["history", "--json"], &platform, &[]).success().stdout;
        assert!(history.contains(&format!("for {architecture}")), "{history}");
        let mnt =
            sandbox.mount(&unique("mnt"), ["--host", daemon.host(), "--platform", &platform, &two.name]);
        assert_eq!(fs::read_to_string(mnt.join("rootfs/arch")).unwrap(), content);
        sandbox.unmount(&mnt);
    }
    let absent = run(&["ls"], "linux/riscv64", &[]);
    assert_eq!(absent.code, Some(3), "{absent:?}");
    let hint = format!("{} pull --platform linux/riscv64", daemon.name);
    assert!(absent.stderr.contains(&hint), "{absent:?}");
}

fn an_image_of_another_platform_alone_is_read_in_every_way(daemon: Daemon) {
    let sandbox = Sandbox::new();
    let name = unique("imagefs-test-foreign");
    let loaded = Loaded { daemon: &daemon, name: name.clone() };
    let mut archive = Archive::default();
    let id = archive.image("linux", "s390x");
    let target = if daemon.name == "podman" { "/v4.0.0/libpod/images/load" } else { "/images/load?quiet=1" };
    let (status, answer) = daemon.ask("POST", target, &archive.pack(&name));
    // Docker without containerd's store reads OCI archives from 25 on, and never one without manifest.json.
    if !(daemon.name == "podman" || daemon.has_containerd_store()) {
        drop(loaded);
        return assert!(status != 200 || !daemon.has_image(&name), "{answer}");
    }
    assert_eq!(status, 200, "{answer}");
    let name = if daemon.name == "podman" { id } else { name };
    for verb in [&["cat"][..], &["cat", "--exact"], &["history", "--json"]] {
        let mut command = sandbox.imagefs(verb.iter().copied());
        command.args(["--host", daemon.host(), &name]);
        if verb[0] == "cat" {
            command.arg("arch");
        }
        let out = sandbox.run(&mut command).success().stdout;
        assert!(out.contains("s390x"), "{verb:?}: {out}");
    }
}

/// What `docker build --quiet` prints in containerd's store when it adds no attestation is the digest of the configuration.
#[test]
fn an_image_is_found_by_the_digest_of_its_configuration() {
    let (sandbox, daemon) = (Sandbox::new(), Daemon::docker());
    if !daemon.has_containerd_store() {
        // Where images are known by that digest, this goes without saying.
        let id = daemon.image_id("imagefs-test/small");
        let run = ["ls", "--host", daemon.host(), &id];
        return drop(sandbox.run(&mut sandbox.imagefs(run)).success());
    }
    let name = unique("imagefs-test-configured");
    let _loaded = Loaded { daemon: &daemon, name: name.clone() };
    let mut archive = Archive::default();
    let id = archive.image("linux", here());
    archive.manifests[0]["annotations"] = json!({ "config.digest": id });
    let (status, answer) = daemon.ask("POST", "/images/load?quiet=1", &archive.pack(&name));
    assert_eq!(status, 200, "{answer}");
    assert_eq!(daemon.ask("GET", &format!("/images/{id}/json"), b"").0, 404);
    for name in [&id, &id[..19], &id["sha256:".len()..][..12]] {
        let run = ["cat", "--host", daemon.host(), name, "arch"];
        let out = sandbox.run(&mut sandbox.imagefs(run)).success().stdout;
        assert_eq!(out, format!("{}\n", here()), "{name}");
    }
}
