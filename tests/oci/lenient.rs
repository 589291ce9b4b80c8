//! Images as other programs and other times left them.

use imagefs::oci::OciError;
use serde_json::{Value, json};

use super::build::{Layout, Member, OCI_CONFIG, OCI_MANIFEST, digest, layer, tar};
use super::{open, open_with};

fn layers() -> [Vec<u8>; 2] {
    [layer("a", b"lower"), layer("b", b"upper")]
}

fn write_tar(
    directory: &std::path::Path,
    files: impl IntoIterator<Item = (String, Vec<u8>)>,
) -> std::path::PathBuf {
    let files: Vec<_> = files.into_iter().collect();
    let path = directory.join("image.tar");
    let members = files.iter().map(|(name, bytes)| (name.as_str(), Member::File(bytes.clone())));
    std::fs::write(&path, tar(members)).unwrap();
    path
}

#[test]
fn of_two_lists_of_layers_the_one_that_the_configuration_bears_out_counts() {
    // What Docker 25.0.0 saves: index.json has them in another order, or has none.
    let edits: [fn(&mut Value, &mut Value); 4] = [
        |_, manifest| manifest["layers"].as_array_mut().unwrap().reverse(),
        |_, manifest| manifest["layers"] = json!([]),
        |_, manifest| manifest["layers"] = Value::Null,
        |_, manifest| drop(manifest["layers"].as_array_mut().unwrap().pop()),
    ];
    for edit in edits {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::of(&layers(), edit);
        let path = write_tar(directory.path(), layout.complete());
        assert!(
            open(&path)
                .and_then(|image| image.layers.iter().try_for_each(|l| image.layer(l)?.finish()))
                .is_err()
        );

        let mut files = layout.complete();
        let config = files.keys().find(|name| files[*name].starts_with(b"{\"architecture")).unwrap().clone();
        let blob = |layer: &Vec<u8>| format!("blobs/sha256/{}", digest(layer).hex());
        let manifest = json!([{"Config": config, "RepoTags": ["a:b"], "Layers": layers().iter().map(blob).collect::<Vec<_>>()}]);
        files.insert("manifest.json".into(), manifest.to_string().into_bytes());
        let image = open(&write_tar(directory.path(), files)).unwrap();
        assert_eq!(image.layers.len(), 2);
        image.layers.iter().for_each(|layer| image.layer(layer).unwrap().finish().unwrap());
    }
}

#[test]
fn an_odd_field_of_a_configuration_hides_no_file() {
    let edits: [fn(&mut Value); 9] = [
        |config| config["config"]["Entrypoint"] = json!("/bin/sh"),
        |config| config["config"]["Cmd"] = json!("x"),
        |config| config["config"]["User"] = json!(1000),
        |config| config["config"]["ExposedPorts"] = json!([80]),
        |config| config["config"] = json!("none"),
        |config| config["history"][0]["empty_layer"] = Value::Null,
        |config| config["history"] = json!({}),
        |config| config["os"] = Value::Null,
        |config| config["created"] = json!(0),
    ];
    for edit in edits {
        let directory = tempfile::tempdir().unwrap();
        Layout::of(&layers(), |config, _| edit(config)).write(directory.path());
        let image = open(directory.path()).unwrap();
        assert_eq!(image.layers.len(), 2);
        image.layers.iter().for_each(|layer| image.layer(layer).unwrap().finish().unwrap());
    }
}

#[test]
fn signatures_and_artifacts_are_no_images_to_choose_from() {
    let directory = tempfile::tempdir().unwrap();
    let mut layout = Layout::default();
    let image = layout.image(&layers(), "linux/amd64", |_, _| {});
    let cosign = "dev.cosignproject.cosign";
    let mut listed = image.clone();
    listed["annotations"] = json!({"kind": format!("{cosign}/image")});
    layout.entries.push(listed);
    // cosign gives a signature the configuration of an image.
    let payload = layout.blob("application/vnd.dev.cosign.simplesigning.v1+json", b"{}");
    let signature = json!({"architecture": "", "os": "", "config": {}, "rootfs": {"type": "layers", "diff_ids": [digest(b"{}")]}});
    let signature = layout.json(OCI_CONFIG, &signature);
    let signature =
        json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": signature, "layers": [payload]});
    let mut signature = layout.json(OCI_MANIFEST, &signature);
    signature["annotations"] = json!({"kind": format!("{cosign}/sigs")});
    layout.entries.push(signature);
    // oras copy -r brings what refers to an image.
    let empty = layout.blob("application/vnd.oci.empty.v1+json", b"{}");
    let sbom = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/spdx+json", "config": empty, "layers": [empty],
    });
    let sbom = layout.json(OCI_MANIFEST, &sbom);
    layout.list(sbom, Some("sbom"));
    layout.write(directory.path());
    assert_eq!(open(directory.path()).unwrap().manifest.unwrap().to_string(), image["digest"]);
    let by_name = open_with(directory.path(), |o| o.reference = "sbom".parse().ok());
    assert!(matches!(by_name, Err(OciError::Artifact { .. })), "who asks for it is told");

    let other = layout.image(&[layer("c", b"other")], "linux/amd64", |_, _| {});
    layout.list(other, Some("other"));
    layout.write(directory.path());
    let Err(OciError::SeveralImages { images, .. }) = open(directory.path()) else { panic!("there are two") };
    assert_eq!(images.len(), 2, "{images:?}");
}

#[test]
fn the_best_variant_is_chosen() {
    let directory = tempfile::tempdir().unwrap();
    let mut layout = Layout::default();
    for variant in ["v5", "v6", "v7"] {
        let layer = layer("f", variant.as_bytes());
        let mut image = layout.image(&[layer], "linux/arm", |config, _| config["variant"] = json!(variant));
        image["platform"] = json!({"os": "linux", "architecture": "arm", "variant": variant});
        layout.list(image, None);
    }
    layout.write(directory.path());
    for (wanted, found) in [
        ("linux/arm", "v7"),
        ("linux/arm/v7", "v7"),
        ("linux/armel", "v6"),
        ("linux/arm/v5", "v5"),
        ("aarch64", "v7"),
    ] {
        let image = open_with(directory.path(), |o| o.platform = wanted.parse().ok()).unwrap();
        assert_eq!(image.platform.variant, found, "{wanted}");
    }
    assert!(open_with(directory.path(), |o| o.platform = "x86_64".parse().ok()).is_err());
}

#[test]
fn a_docker_archive_of_before_manifests_is_told_as_such() {
    let directory = tempfile::tempdir().unwrap();
    let id = "0123456789abcdef".repeat(4);
    let files = [
        ("repositories".to_owned(), format!("{{\"a\":{{\"b\":\"{id}\"}}}}").into_bytes()),
        (format!("{id}/VERSION"), b"1.0".to_vec()),
        (format!("{id}/json"), b"{}".to_vec()),
        (format!("{id}/layer.tar"), layer("f", b"content")),
    ];
    let error = open(&write_tar(directory.path(), files)).unwrap_err();
    assert!(matches!(error, OciError::BeforeManifests(_)), "{error}");
    assert!(error.is_final() && error.hint().unwrap().contains("docker load"));
}

#[test]
fn a_list_that_is_a_link_in_its_archive_is_followed() {
    let directory = tempfile::tempdir().unwrap();
    let upper = layers()[1].clone();
    let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [digest(&upper)]}});
    let manifest = json!([{"Config": "config.json", "RepoTags": null, "Layers": ["layer.tar"]}]);
    let path = directory.path().join("image.tar");
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in [
        ("list", manifest.to_string().into_bytes()),
        ("config.json", config.to_string().into_bytes()),
        ("layer.tar", upper),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    let plain = builder.get_ref().clone();
    for kind in [tar::EntryType::Link, tar::EntryType::Symlink] {
        let mut builder = tar::Builder::new(plain.clone());
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(0);
        builder.append_link(&mut header, "manifest.json", "list").unwrap();
        std::fs::write(&path, builder.into_inner().unwrap()).unwrap();
        assert_eq!(open(&path).unwrap().layers.len(), 1);
    }
    // A file of that name that says nothing of images makes no image of a root filesystem.
    let other = write_tar(directory.path(), [("manifest.json".to_owned(), b"{}".to_vec())]);
    assert!(matches!(open(&other), Err(OciError::NotAnImage(_))));
}
