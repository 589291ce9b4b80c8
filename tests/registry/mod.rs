//! Images in registries: what is asked of them, and what becomes of every wrong answer.

mod access;
mod faults;
mod real;
mod server;

use std::fs;

use serde_json::Value;

use self::server::{Registry, Server};
use crate::oci::build::{Layout, Member, gzip, layer, tar};
use crate::support::{Outcome, Sandbox};

/// What the image of [`image`] has in `/file`.
const CONTENT: &[u8] = b"content of the lower layer\n";

/// An image of two layers: `/file` and a large file in the lower, `/etc/top` in the upper.
fn layout() -> Layout {
    let large: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    let lower = tar([("file", Member::File(CONTENT.to_vec())), ("large", Member::File(large))]);
    let upper = tar([("etc", Member::Directory), ("etc/top", Member::File(b"upper\n".to_vec()))]);
    Layout::of(&[lower, upper], |_, _| {})
}

/// A registry with that image as `a/b:1`.
fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.add(&layout(), "1");
    registry
}

fn run(sandbox: &Sandbox, arguments: &[&str]) -> Outcome {
    sandbox.run(&mut sandbox.imagefs(arguments))
}

/// The digests of the layers of an image, lowest first, and before them that of the configuration.
fn blobs(layout: &Layout) -> Vec<String> {
    let digest = layout.entries[0]["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
    let manifest: Value = serde_json::from_slice(&layout.files[&digest]).unwrap();
    let digest = |descriptor: &Value| descriptor["digest"].as_str().unwrap().to_owned();
    let layers = manifest["layers"].as_array().unwrap().iter().map(digest);
    std::iter::once(digest(&manifest["config"])).chain(layers).collect()
}

/// Every entry in the cache of a sandbox, finished or not.
fn in_cache(sandbox: &Sandbox) -> usize {
    let count = |dir: &str| fs::read_dir(sandbox.path("cache/v1").join(dir)).map_or(0, Iterator::count);
    count("entries") + count("staging") + count("temporary")
}

#[test]
fn to_inspect_an_image_takes_its_manifest_and_its_configuration() {
    let (sandbox, server) = (Sandbox::new(), Server::start(registry()));
    let image = server.image("a/b:1");
    let told = run(&sandbox, &["inspect", "--json", &image]).success();
    let told: Value = serde_json::from_str(&told.stdout).unwrap();
    let [config, ..] = &blobs(&layout())[..] else { panic!() };
    assert_eq!(told["identity"], config.as_str());
    assert_eq!(told["names"][0], image.strip_prefix("docker://").unwrap());
    assert_eq!(told["layers"].as_array().unwrap().len(), 2);
    let lines = server.lines();
    assert_eq!(
        lines,
        ["GET /v2/a/b/manifests/1".to_owned(), format!("GET /v2/a/b/blobs/{}", &config[7..11])]
    );
    assert_eq!(in_cache(&sandbox), 0);
}

#[test]
fn every_blob_is_fetched_once_and_a_tag_costs_one_request_from_then_on() {
    let (sandbox, server) = (Sandbox::new(), Server::start(registry()));
    let image = server.image("a/b:1");
    assert_eq!(run(&sandbox, &["ls", &image, "/"]).success().stdout, "etc\nfile\nlarge\n");
    let mut expected = vec!["GET /v2/a/b/manifests/1".to_owned()];
    expected.extend(blobs(&layout()).iter().map(|digest| format!("GET /v2/a/b/blobs/{}", &digest[7..11])));
    let mut lines = server.lines();
    lines.sort();
    expected.sort();
    assert_eq!(lines, expected);

    assert_eq!(run(&sandbox, &["ls", &image, "/etc"]).success().stdout, "top\n");
    assert_eq!(server.lines(), ["HEAD /v2/a/b/manifests/1"]);
    let by_digest = server.image(&format!("a/b@{}", layout().entries[0]["digest"].as_str().unwrap()));
    assert_eq!(run(&sandbox, &["ls", &by_digest, "/etc"]).success().stdout, "top\n");
    assert_eq!(server.lines(), [""; 0], "what is named by its digest needs no registry");
}

#[test]
fn a_single_file_needs_no_layer_below_its_own() {
    let (sandbox, server) = (Sandbox::new(), Server::start(registry()));
    let image = server.image("a/b:1");
    let [config, lower, upper] = &blobs(&layout())[..] else { panic!() };
    let get = |digest: &str| format!("GET /v2/a/b/blobs/{}", &digest[7..11]);
    let first = ["GET /v2/a/b/manifests/1".to_owned(), get(config)];
    let outcome = run(&sandbox, &["-v", "cat", &image, "/etc/top"]).success();
    assert_eq!(outcome.stdout, "upper\n");
    let told = outcome.stderr.lines().last().unwrap();
    assert!(told.ends_with(" of 786 KiB fetched") && !told.contains("786 KiB of"), "{told}");
    assert_eq!(server.lines(), [&first[..], &[get(upper)]].concat());
    // What has come is there.
    assert!(run(&sandbox, &["stat", &image, "/etc/top"]).success().stdout.contains("etc/top"));
    assert_eq!(server.lines(), first);
    assert_eq!(run(&sandbox, &["cat", &image, "/file"]).success().stdout.as_bytes(), CONTENT);
    assert_eq!(server.lines(), [&first[..], &[get(lower)]].concat());
    assert_eq!(run(&sandbox, &["cat", &image, "/none"]).code, Some(3));
    assert_eq!(server.lines(), first);
}

#[test]
fn what_a_single_file_says_is_what_the_whole_says() {
    let (sandbox, server) = (Sandbox::new(), Server::start(registry()));
    let image = server.image("a/b:1");
    for path in ["/etc/top", "/file", "/none", "/etc", "/file/x", "/etc/../file", "/"] {
        let cache = sandbox.path("tmp").join(path.replace('/', "_"));
        let stat = |arguments: &[&str]| {
            let outcome = sandbox.run(sandbox.imagefs(arguments).env("IMAGEFS_CACHE_DIR", &cache));
            let without_inode = outcome
                .stdout
                .lines()
                .filter(|line| !line.contains("Inode:") && !line.contains("Links:"))
                .collect::<Vec<_>>();
            (outcome.code, without_inode.join("\n"), outcome.stderr)
        };
        let alone = stat(&["stat", &image, path]);
        let listed = sandbox.run(sandbox.imagefs(["ls", &image, "/"]).env("IMAGEFS_CACHE_DIR", &cache));
        listed.success();
        assert_eq!(alone, stat(&["stat", &image, path]), "{path}");
    }
}

#[test]
fn a_layer_that_is_there_from_elsewhere_is_not_fetched() {
    let (sandbox, server) = (Sandbox::new(), Server::start(registry()));
    layout().write(&sandbox.path("layout"));
    run(&sandbox, &["ls", "oci:layout", "/"]).success();
    // Another image with the same layers.
    let mut other = Registry::default();
    let lower = |layout: &Layout| layout.files[&blobs(layout)[1].replace("sha256:", "blobs/sha256/")].clone();
    other.add(&Layout::of(&[lower(&layout()), layer("new", b"new")], |_, _| {}), "1");
    let other = Server::start(other);
    for (server, fetched) in [(&server, 2), (&other, 3)] {
        run(&sandbox, &["ls", &server.image("a/b:1"), "/"]).success();
        let lines = server.lines();
        assert_eq!(lines.len(), fetched, "{lines:?}");
    }
}

#[test]
fn a_tag_that_has_moved_is_followed() {
    let mut registry = registry();
    let newer = Layout::of(&[layer("newer", b"")], |_, _| {});
    registry.add(&newer, "newer");
    let moved = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = std::sync::Arc::clone(&moved);
    let server = Server::faulty(registry, move |request, _, registry| {
        let moved = seen.load(std::sync::atomic::Ordering::SeqCst);
        let newer = server::Request {
            line: request.line.replace("manifests/1", "manifests/newer"),
            ..request.clone()
        };
        moved.then(|| registry.answer(&newer))
    });
    let (sandbox, image) = (Sandbox::new(), server.image("a/b:1"));
    let listed = || run(&sandbox, &["ls", &image, "/"]).success().stdout;
    assert_eq!(listed(), "etc\nfile\nlarge\n");
    moved.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(listed(), "newer\n");
    server.requests();
    assert_eq!(listed(), "newer\n");
    assert_eq!(server.lines(), ["HEAD /v2/a/b/manifests/1"]);
}

#[test]
fn without_the_registry_a_tag_is_what_it_was_and_that_is_said() {
    let server = Server::faulty(registry(), |request, _, _| {
        let away = request.line.starts_with("HEAD");
        away.then(|| server::Reply::new(0, "").cut(0))
    });
    let (sandbox, image) = (Sandbox::new(), server.image("a/b:1"));
    run(&sandbox, &["ls", &image, "/"]).success();
    let outcome = run(&sandbox, &["ls", &image, "/etc"]).success();
    assert_eq!(outcome.stdout, "top\n");
    assert!(outcome.stderr.contains("a/b:1 is shown as it was: it could not be checked"), "{outcome:?}");
    let outcome = run(&sandbox, &["ls", &server.image("a/b:2"), "/"]);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
}

#[test]
fn layers_are_fetched_side_by_side() {
    use std::sync::{Arc, Barrier};
    let layers = [layer("a", b"1"), layer("b", b"2"), layer("c", b"3"), layer("d", b"4")];
    let layout = Layout::of(&layers, |_, _| {});
    let mut registry = Registry::default();
    registry.add(&layout, "1");
    // Nobody is answered before all have asked.
    let (all, layers) = (Arc::new(Barrier::new(layers.len())), blobs(&layout)[1..].to_vec());
    let server = Server::faulty(registry, move |request, _, _| {
        if layers.iter().any(|digest| request.line.ends_with(digest)) {
            all.wait();
        }
        None
    });
    let sandbox = Sandbox::new();
    assert_eq!(run(&sandbox, &["ls", &server.image("a/b:1"), "/"]).success().stdout, "a\nb\nc\nd\n");
}

#[test]
fn the_same_layer_twice_is_fetched_once() {
    let same = layer("same", b"same");
    let mut registry = Registry::default();
    registry.add(&Layout::of(&[same.clone(), same.clone(), same], |_, _| {}), "1");
    let (sandbox, server) = (Sandbox::new(), Server::start(registry));
    assert_eq!(run(&sandbox, &["ls", &server.image("a/b:1"), "/"]).success().stdout, "same\n");
    assert_eq!(server.lines().len(), 3);
}

#[test]
fn a_mount_shows_what_the_layers_make() {
    let (sandbox, server) = (Sandbox::new(), Server::start(registry()));
    let mountpoint = sandbox.mount("mnt", [&server.image("a/b:1")]);
    assert_eq!(fs::read(mountpoint.join("rootfs/file")).unwrap(), CONTENT);
    assert_eq!(fs::read(mountpoint.join("rootfs/etc/top")).unwrap(), b"upper\n");
    sandbox.unmount(&mountpoint);
    sandbox.assert_nothing_left();
}

#[test]
fn the_platform_is_chosen_by_its_index() {
    let mut layout = Layout::default();
    let mut manifests = Vec::new();
    for platform in ["linux/amd64", "linux/s390x"] {
        let mut image = layout.image(&[layer(platform.split_once('/').unwrap().1, b"")], platform, |_, _| {});
        let (os, architecture) = platform.split_once('/').unwrap();
        image["platform"] = serde_json::json!({"os": os, "architecture": architecture});
        manifests.push(image);
    }
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": crate::oci::build::OCI_INDEX, "manifests": manifests,
    });
    let index = layout.json(crate::oci::build::OCI_INDEX, &index);
    layout.list(index, None);
    let mut registry = Registry::default();
    registry.add(&layout, "1");
    let (sandbox, server) = (Sandbox::new(), Server::start(registry));
    let image = server.image("a/b:1");
    for architecture in ["amd64", "s390x"] {
        let platform = format!("linux/{architecture}");
        let listed = run(&sandbox, &["ls", "--platform", &platform, &image, "/"]).success();
        assert_eq!(listed.stdout, format!("{architecture}\n"));
    }
    let outcome = run(&sandbox, &["ls", "--platform", "linux/arm64", &image, "/"]);
    assert_eq!(outcome.code, Some(3));
    assert!(
        outcome.stderr.contains("there is (linux/amd64), (linux/s390x)")
            || outcome.stderr.contains("linux/s390x"),
        "{outcome:?}"
    );
}

#[test]
fn what_is_compressed_is_verified_both_ways() {
    // The diff id is of the tar, the digest of the blob.
    let plain = layer("file", b"unpacked");
    let mut layout = Layout::default();
    let packed = layout.blob("application/vnd.oci.image.layer.v1.tar+gzip", &gzip(&plain));
    let image = layout.image(&[plain], "linux/amd64", |_, manifest| {
        manifest["layers"] = serde_json::json!([packed]);
    });
    layout.list(image, None);
    let mut registry = Registry::default();
    registry.add(&layout, "1");
    let (sandbox, server) = (Sandbox::new(), Server::start(registry));
    assert_eq!(run(&sandbox, &["cat", &server.image("a/b:1"), "/file"]).success().stdout, "unpacked");
}
