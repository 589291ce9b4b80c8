//! Which image of several.

use imagefs::oci::{OciError, Reference, Transport};
use serde_json::json;

use super::build::{Layout, Member, OCI_INDEX, digest, layer, tar};
use super::{open, open_with};

fn content(image: &imagefs::oci::OciImage) -> String {
    use std::io::Read;
    let mut tar = String::new();
    image.layer(&image.layers[0]).unwrap().read_to_string(&mut tar).unwrap();
    tar[512..].trim_end_matches('\0').to_owned()
}

fn named(reference: &str) -> Option<Reference> {
    reference.parse().ok()
}

/// An index of two platforms, one nested level for each of `depth`.
fn multi_platform(depth: usize) -> Layout {
    let mut layout = Layout::default();
    let mut manifests = Vec::new();
    for platform in ["linux/s390x", "linux/riscv64"] {
        let mut image = layout.image(&[layer("f", platform.as_bytes())], platform, |_, _| {});
        let (os, architecture) = platform.split_once('/').unwrap();
        image["platform"] = json!({"os": os, "architecture": architecture});
        manifests.push(image);
    }
    let mut attestation = manifests[0].clone();
    attestation["digest"] = json!(digest(b"attestation"));
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    manifests.push(attestation);
    for _ in 0..depth {
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
        manifests = vec![layout.json(OCI_INDEX, &index)];
    }
    for descriptor in manifests {
        layout.list(descriptor, None);
    }
    layout
}

#[test]
fn the_platform_chooses_at_every_depth_allowed() {
    for depth in 0..=5 {
        let directory = tempfile::tempdir().unwrap();
        // Of an index with several levels, all but the last list one entry.
        multi_platform(depth).write(directory.path());
        let by = |p: &str| open_with(directory.path(), |o| o.platform = p.parse().ok());
        if depth == 5 {
            assert!(matches!(by("linux/s390x"), Err(OciError::NestedTooDeep)));
            continue;
        }
        assert_eq!(content(&by("linux/s390x").unwrap()), "linux/s390x", "{depth}");
        assert_eq!(content(&by("linux/riscv64").unwrap()), "linux/riscv64", "{depth}");
        // A number is told only where it chooses the image.
        let available = match depth {
            0 => "@0 (linux/s390x), @1 (linux/riscv64)",
            _ => "linux/s390x, linux/riscv64",
        };
        assert_eq!(
            by("linux/mips").unwrap_err().to_string(),
            format!("there is no image for linux/mips; there is {available}")
        );
        assert!(matches!(open(directory.path()), Err(OciError::NoSuchPlatform { .. })));
    }
}

#[test]
fn the_platform_chooses_also_among_names() {
    let directory = tempfile::tempdir().unwrap();
    let mut layout = Layout::default();
    for platform in ["linux/s390x", "linux/riscv64"] {
        let image = layout.image(&[layer("f", platform.as_bytes())], platform, |_, _| {});
        layout.list(image, Some(&platform.replace('/', "-")));
    }
    layout.write(directory.path());
    let by = |p: &str| open_with(directory.path(), |o| o.platform = p.parse().ok());
    assert_eq!(content(&by("linux/riscv64").unwrap()), "linux/riscv64");
    assert_eq!(
        by("linux/mips").unwrap_err().to_string(),
        "there is no image for linux/mips; there is @0 linux-s390x (linux/s390x), @1 linux-riscv64 (linux/riscv64)"
    );
    assert!(matches!(open(directory.path()), Err(OciError::SeveralImages { .. })));
}

#[test]
fn an_only_image_is_opened_for_any_platform_but_one_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let mut layout = Layout::default();
    let image = layout.image(&[layer("f", b"x")], "linux/s390x", |_, _| {});
    layout.list(image, None);
    layout.write(directory.path());
    assert_eq!(open(directory.path()).unwrap().platform.to_string(), "linux/s390x");
    let error = open_with(directory.path(), |o| o.platform = "linux/mips".parse().ok()).unwrap_err();
    assert_eq!(error.to_string(), "there is no image for linux/mips; there is @0 (linux/s390x)");
}

#[test]
fn what_was_not_saved_is_not_there_to_choose() {
    let directory = tempfile::tempdir().unwrap();
    let mut layout = multi_platform(0);
    let missing = layout.entries[0]["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
    layout.files.remove(&missing);
    layout.write(directory.path());
    assert_eq!(content(&open(directory.path()).unwrap()), "linux/riscv64");
}

#[test]
fn a_layout_of_several_names_lists_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut layout = Layout::default();
    let mut digests = Vec::new();
    for name in ["v1", "v2", "v2-again"] {
        let text = if name == "v1" { "one" } else { "two" };
        let image = layout.image(&[layer("f", text.as_bytes())], "linux/amd64", |_, _| {});
        digests.push(image["digest"].as_str().unwrap().to_owned());
        layout.list(image, Some(name));
    }
    layout.write(directory.path());
    let path = directory.path();
    let by = |reference: &str| open_with(path, |o| o.reference = named(reference));
    let error = open(path).unwrap_err();
    assert_eq!(error.to_string(), format!("{} holds several images: @0 v1, @1 v2 v2-again", path.display()));
    assert!(error.hint().unwrap().contains(":NAME"));
    for (reference, text) in [
        ("v1", "one"),
        ("v2", "two"),
        ("v2-again", "two"),
        ("@0", "one"),
        ("@2", "two"),
        (&digests[1], "two"),
    ] {
        assert_eq!(content(&by(reference).unwrap()), text, "{reference}");
    }
    assert_eq!(by("v2").unwrap().names, ["v2", "v2-again"]);
    for reference in ["v3", "@3", "@99999999999999999999"] {
        assert!(matches!(by(reference), Err(OciError::NoSuchImage { .. })), "{reference}");
    }
}

#[test]
fn a_docker_archive_of_several_images_lists_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("two.tar");
    let file = |bytes: &[u8]| Member::File(bytes.to_vec());
    let config = |tar: &[u8]| {
        json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [digest(tar), digest(tar)]}})
            .to_string()
    };
    let (one, two) = (layer("f", b"one"), layer("f", b"two"));
    // Classic Docker stores a layer that comes twice once, and links to it.
    let manifest = json!([
        {"Config": "one.json", "RepoTags": ["busybox:latest", "localhost/bb:1"], "Layers": ["a/layer.tar", "b/layer.tar"]},
        {"Config": "two.json", "RepoTags": ["app:2"], "Layers": ["./c/layer.tar", "c/layer.tar"]},
    ]);
    let archive = tar([
        ("a/layer.tar", file(&one)),
        ("b/layer.tar", Member::Symlink("../a/layer.tar")),
        ("c/layer.tar", file(&two)),
        ("one.json", file(config(&one).as_bytes())),
        ("two.json", file(config(&two).as_bytes())),
        ("manifest.json", file(manifest.to_string().as_bytes())),
    ]);
    std::fs::write(&path, archive).unwrap();
    let by = |reference: &str| open_with(&path, |o| o.reference = named(reference));
    assert_eq!(
        open(&path).unwrap_err().to_string(),
        format!("{} holds several images: @0 busybox:latest localhost/bb:1, @1 app:2", path.display())
    );
    for (reference, text) in [
        ("busybox", "one"),
        ("docker.io/library/busybox:latest", "one"),
        ("bb:1", "one"),
        ("app:2", "two"),
        ("@1", "two"),
    ] {
        let image = by(reference).unwrap();
        assert_eq!(content(&image), text, "{reference}");
        let tars = super::layers(&image);
        assert!(tars.len() == 2 && tars[0] == tars[1]);
    }
    assert!(matches!(by("app"), Err(OciError::NoSuchImage { .. })));
}

#[test]
fn an_archive_that_is_both_reads_the_same_either_way() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("both.tar");
    let mut layout = multi_platform(0);
    let saved = layout.entries[0].clone();
    let missing = layout.entries[1]["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
    layout.files.remove(&missing);
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": layout.entries});
    let mut entry = layout.json(OCI_INDEX, &index);
    entry["annotations"] = json!({
        "io.containerd.image.name": "docker.io/library/app:1",
        "org.opencontainers.image.ref.name": "1",
    });
    layout.entries = vec![entry];
    let blob = |d: &serde_json::Value| d["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
    let manifest: serde_json::Value = serde_json::from_slice(&layout.files[&blob(&saved)]).unwrap();
    let docker = json!([{
        "Config": blob(&manifest["config"]), "RepoTags": ["app:1"], "Layers": [blob(&manifest["layers"][0])],
    }]);
    let mut files = layout.complete();
    files.insert("manifest.json".into(), docker.to_string().into_bytes());
    std::fs::write(
        &path,
        tar(files.iter().map(|(name, bytes)| (name.as_str(), Member::File(bytes.clone())))),
    )
    .unwrap();

    let as_found = open(&path).unwrap();
    assert_eq!(as_found.manifest.unwrap().to_string(), saved["digest"]);
    let as_docker = open_with(&path, |o| o.transport = Some(Transport::DockerArchive)).unwrap();
    assert_eq!(as_docker.manifest, None);
    for image in [&as_found, &as_docker] {
        assert_eq!(content(image), "linux/s390x");
        assert_eq!(image.id, as_found.id);
        assert_eq!(image.layers[0].digest, as_found.layers[0].digest);
    }
    for reference in ["app:1", "docker.io/library/app:1"] {
        for transport in [Transport::DockerArchive, Transport::OciArchive] {
            let image =
                open_with(&path, |o| (o.reference, o.transport) = (named(reference), Some(transport)));
            assert_eq!(image.unwrap().id, as_found.id, "{reference}");
        }
    }
}

#[test]
fn control_characters_in_names_do_not_reach_the_terminal() {
    let directory = tempfile::tempdir().unwrap();
    let mut layout = Layout::default();
    for name in ["a\u{1b}[2J", "b"] {
        let image = layout.image(&[layer("f", name.as_bytes())], "linux/amd64", |_, _| {});
        layout.list(image, Some(name));
    }
    layout.write(directory.path());
    assert!(open(directory.path()).unwrap_err().to_string().ends_with(r"images: @0 a\u{1b}[2J, @1 b"));
}
