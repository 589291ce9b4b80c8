//! Archives laid out as the source of the tools says that write them, where the tools themselves do not run here.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::build::{Layout, Member, OCI_INDEX, OCI_LAYER, digest, gzip, layer, tar};
use super::{layers, open, open_with};
use imagefs::oci::{OciError, OciImage, Transport};

/// Two layers, of which the first comes twice.
fn tars() -> [Vec<u8>; 3] {
    let twice = layer("f", b"twice");
    [twice.clone(), layer("g", b"once"), twice]
}

fn config() -> String {
    let diff_ids = tars().map(|tar| digest(&tar));
    json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids}})
        .to_string()
}

fn hex(bytes: &[u8]) -> String {
    digest(bytes).hex()
}

struct Written {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

/// An archive of these members, in their order, of which one that comes again is left out.
fn written(members: Vec<(String, Member)>) -> Written {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image.tar");
    let mut seen = std::collections::HashSet::new();
    let members: Vec<_> = members.into_iter().filter(|(name, _)| seen.insert(name.clone())).collect();
    std::fs::write(&path, tar(members.into_iter().map(|(name, member)| (name.leak() as &str, member))))
        .unwrap();
    Written { _directory: directory, path }
}

fn file(name: impl Into<String>, content: impl Into<Vec<u8>>) -> (String, Member) {
    (name.into(), Member::File(content.into()))
}

#[track_caller]
fn is_the_image(written: &Written) -> OciImage {
    let image = open(&written.path).unwrap();
    assert_eq!(layers(&image), tars());
    assert_eq!(image.id, digest(config().as_bytes()));
    image
}

/// go-containerregistry, `pkg/v1/tarball/write.go`: also kaniko and ko.
#[test]
fn crane() {
    let names = tars().map(|tar| format!("{}.tar.gz", hex(&gzip(&tar))));
    let config_name = digest(config().as_bytes()).to_string();
    let manifest =
        json!([{"Config": config_name, "RepoTags": ["app:latest"], "Layers": names, "LayerSources": {}}]);
    let mut members = vec![file(config_name, config())];
    members.extend(names.into_iter().zip(tars()).map(|(name, tar)| file(name, gzip(&tar))));
    members.push(file("manifest.json", manifest.to_string()));
    assert_eq!(is_the_image(&written(members)).names, ["app:latest"]);
}

/// rules_oci, `oci/private/tarball.sh.tpl`: every layer is called `.tar.gz`, whatever it is, and the last line of the list
/// of tags may be empty.
#[test]
fn bazel() {
    for pack in [gzip, |tar: &[u8]| tar.to_vec(), |tar: &[u8]| zstd::encode_all(tar, 0).unwrap()] {
        let names = tars().map(|tar| format!("blobs/sha256/{}.tar.gz", hex(&pack(&tar))));
        let config_name = format!("blobs/sha256/{}", hex(config().as_bytes()));
        let manifest = json!([{"Config": config_name, "RepoTags": ["app:1", ""], "Layers": names}]);
        let directories = ["blobs/", "blobs/sha256/"].map(|name| (name.to_owned(), Member::Directory));
        let mut members = vec![file("manifest.json", manifest.to_string())];
        members.extend(directories);
        members.extend(names.into_iter().zip(tars()).map(|(name, tar)| file(name, pack(&tar))));
        members.push(file(config_name, config()));
        assert_eq!(is_the_image(&written(members)).names, ["app:1"]);
    }
}

/// Docker before 25, `image/tarexport/save.go`: a directory for each layer, and a link where a layer comes again.
#[test]
fn classic_docker() {
    let names = ["a", "b", "c"].map(|id| format!("{}/layer.tar", id.repeat(64)));
    let config_name = format!("{}.json", hex(config().as_bytes()));
    let manifest = json!([{"Config": config_name, "RepoTags": null, "Layers": names}]);
    let mut members = vec![file(config_name, config())];
    for (name, tar) in names.iter().zip(tars()).take(2) {
        let directory = name.strip_suffix("layer.tar").unwrap();
        members.push((directory.to_owned(), Member::Directory));
        members.extend([file(format!("{directory}VERSION"), "1.0"), file(format!("{directory}json"), "{}")]);
        members.push(file(name, tar));
    }
    let target = format!("../{}", names[0]).leak();
    members.push((names[2].clone(), Member::Symlink(target)));
    members.push(file("manifest.json", manifest.to_string()));
    members.push(file("repositories", "{}"));
    assert_eq!(is_the_image(&written(members)).manifest, None);
}

/// What Docker since 25 and containerd write: a layout, and `manifest.json` beside it. `listed` is what `index.json` says.
fn with_both(pack: fn(&[u8]) -> Vec<u8>, list: impl Fn(&mut Layout, Value) -> Value) -> Written {
    let mut layout = Layout::default();
    let packed: Vec<_> = tars().iter().map(|tar| layout.blob(OCI_LAYER, &pack(tar))).collect();
    let config = layout.blob("application/vnd.oci.image.config.v1+json", config().as_bytes());
    let manifest = layout.json(
        "application/vnd.oci.image.manifest.v1+json",
        &json!({"schemaVersion": 2, "config": config, "layers": packed}),
    );
    let manifests = list(&mut layout, manifest);
    let blob =
        |descriptor: &Value| descriptor["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
    // Docker names what a layer is; to others, what is named there lies elsewhere.
    let sources: serde_json::Map<_, _> =
        tars().iter().zip(&packed).map(|(tar, layer)| (digest(tar).to_string(), layer.clone())).collect();
    let docker = json!([{
        "Config": blob(&config), "RepoTags": ["app:1"], "Layers": packed.iter().map(blob).collect::<Vec<_>>(),
        "LayerSources": sources,
    }]);
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
    let directories = ["blobs/", "blobs/sha256/"].map(|name| (name.to_owned(), Member::Directory));
    let mut members: Vec<_> = directories.into_iter().collect();
    members.extend(layout.files.into_iter().map(|(name, content)| file(name, content)));
    members.push(file("index.json", index.to_string()));
    members.push(file("manifest.json", docker.to_string()));
    members.push(file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#));
    members.push(file("repositories", "{}"));
    written(members)
}

fn plain(tar: &[u8]) -> Vec<u8> {
    tar.to_vec()
}

/// `image/tarexport/save.go` since 25; containerd's `images/archive/exporter.go`, which BuildKit's `type=docker` uses.
#[test]
fn docker_with_either_store_and_buildkit() {
    for pack in [plain, gzip] {
        let named = with_both(pack, |_, mut manifest| {
            manifest["platform"] = json!({"os": "linux", "architecture": "amd64"});
            manifest["annotations"] = json!({
                "io.containerd.image.name": "docker.io/library/app:1", "org.opencontainers.image.ref.name": "1",
            });
            json!([manifest])
        });
        let image = is_the_image(&named);
        assert!(image.manifest.is_some());
        assert_eq!(image.names, ["docker.io/library/app:1", "1"]);
        // With BuildKit's provenance, the index lists an index.
        let attested = with_both(pack, |layout, mut manifest| {
            manifest["platform"] = json!({"os": "linux", "architecture": "amd64"});
            let mut attestation = layout.json("application/vnd.oci.image.manifest.v1+json", &json!({}));
            attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
            attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
            let index =
                json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [manifest, attestation]});
            json!([layout.json(OCI_INDEX, &index)])
        });
        is_the_image(&attested);
    }
}

/// moby#47210, moby#51389: what is saved by its id or its digest is not listed in the layout.
#[test]
fn docker_that_forgets_images_in_the_layout() {
    for forgetful in [json!(null), json!([])] {
        let written = with_both(plain, |_, _| forgetful.clone());
        assert_eq!(is_the_image(&written).names, ["app:1"]);
        let named = open_with(&written.path, |o| o.transport = Some(Transport::DockerArchive)).unwrap();
        assert_eq!(named.id, digest(config().as_bytes()));
        let layout = open_with(&written.path, |o| o.transport = Some(Transport::OciArchive));
        // Where there is no list, the other one counts; one that is empty says that there is nothing.
        match forgetful.is_null() {
            true => assert_eq!(layout.unwrap().id, digest(config().as_bytes())),
            false => assert!(matches!(layout, Err(OciError::NotAnImage(_)))),
        }
    }
}
