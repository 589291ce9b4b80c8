//! Images that were damaged, or made to do damage.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;

use imagefs::compress::{Limits, UnpackError};
use imagefs::oci::{OciError, OciImage, Transport};
use serde_json::json;

use super::build::{Layout, Member, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, digest, gzip, layer, tar};
use super::{layers, open, open_with};

/// Opens a layout and, if that succeeds, reads every layer; the first error as the user sees it.
fn refusal(layout: &Layout) -> String {
    let directory = tempfile::tempdir().unwrap();
    layout.write(directory.path());
    refusal_of(directory.path())
}

pub(super) fn refusal_of(path: &Path) -> String {
    match open(path) {
        Err(error) => error.to_string(),
        Ok(image) => stream_error(&image).expect("the image is refused").to_string(),
    }
}

fn stream_error(image: &OciImage) -> Option<OciError> {
    image.layers.iter().find_map(|layer| image.layer(layer).and_then(|stream| stream.finish()).err())
}

fn sound() -> Layout {
    Layout::of(&[layer("a", b"lower"), layer("b", b"upper")], |_, _| {})
}

fn blob(tar: &[u8]) -> String {
    format!("blobs/sha256/{}", digest(tar).hex())
}

#[test]
fn a_changed_byte_anywhere_is_found() {
    let directory = tempfile::tempdir().unwrap();
    sound().write(directory.path());
    assert_eq!(layers(&open(directory.path()).unwrap()).len(), 2);
    for (name, bytes) in &sound().files {
        let mut layout = sound();
        let mut changed = bytes.clone();
        changed[bytes.len() / 2] ^= 1;
        layout.files.insert(name.clone(), changed);
        let message = refusal(&layout);
        assert!(message.starts_with(&format!("{name} has the digest sha256:")), "{message}");
    }
}

#[test]
fn a_blob_cut_short_or_grown_is_named() {
    for (name, bytes) in &sound().files {
        for size in [0, bytes.len() - 1, bytes.len() + 1] {
            let mut layout = sound();
            layout.files.get_mut(name).unwrap().resize(size, b' ');
            let expected = format!("{name} has {size} bytes where {} are declared", bytes.len());
            assert_eq!(refusal(&layout), expected);
        }
        let mut layout = sound();
        layout.files.remove(name);
        assert_eq!(refusal(&layout), format!("the image lacks {name}"));
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let tar = layer("a", &[7; 1 << 20]);
    Layout::of(std::slice::from_ref(&tar), |_, _| {}).write(directory.path());
    let image = open(directory.path()).unwrap();
    let mut stream = image.layer(&image.layers[0]).unwrap();
    stream.read_exact(&mut [0; 1000]).unwrap();
    let file = fs::File::options().write(true).open(directory.path().join(blob(&tar))).unwrap();
    file.set_len(500_000).unwrap();
    let error = std::io::copy(&mut stream, &mut std::io::sink()).unwrap_err();
    let error = OciError::of(&error).unwrap();
    assert!(matches!(error, OciError::WrongSize { found: 500_000, .. }), "{error}");
}

#[test]
fn layers_that_are_not_what_the_configuration_says_are_refused() {
    let (a, b) = (layer("a", b"lower"), layer("b", b"upper"));
    let swapped = Layout::of(&[a.clone(), b.clone()], |config, _| {
        config["rootfs"]["diff_ids"] = json!([digest(&b), digest(&a)]);
    });
    assert_eq!(
        refusal(&swapped),
        format!("layer {} unpacks to {} where the configuration says {}", blob(&a), digest(&a), digest(&b))
    );
    let fewer = Layout::of(&[a.clone(), b], |config, _| config["rootfs"]["diff_ids"] = json!([digest(&a)]));
    assert!(refusal(&fewer).ends_with(": it has 1 diff ids, but the manifest has 2 layers"));
    let kind = Layout::of(&[a], |config, _| config["rootfs"]["type"] = json!("layers+base"));
    assert!(refusal(&kind).ends_with(r#": its rootfs is of type "layers+base", not "layers""#));
}

#[test]
fn a_digest_that_is_a_path_or_of_another_algorithm_is_refused() {
    let sha512 = format!("sha512:{}", "0".repeat(128));
    for bad in ["sha256:../../../etc/passwd", "sha256:", "../index.json", &sha512] {
        let layout =
            Layout::of(&[layer("a", b"")], |_, manifest| manifest["layers"][0]["digest"] = json!(bad));
        let message = refusal(&layout);
        assert!(message.ends_with("which is not a SHA-256 digest"), "{message}");
        let layout = Layout::of(&[layer("a", b"")], |config, _| config["rootfs"]["diff_ids"] = json!([bad]));
        let message = refusal(&layout);
        assert!(message.ends_with("which is not a SHA-256 digest"), "{message}");
    }
}

#[test]
fn layers_of_other_types_are_refused() {
    let typed = |media_type: &str| {
        Layout::of(&[layer("a", b"")], |_, manifest| manifest["layers"][0]["mediaType"] = json!(media_type))
    };
    let foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    assert!(refusal(&typed(foreign)).contains("is not distributed with the image"));
    assert!(
        refusal(&typed("application/x-evil\u{1b}[31m"))
            .contains(r#"unknown type "application/x-evil\u{1b}[31m""#)
    );
    // Which compression a known type claims does not matter: the diff id proves what came out.
    let directory = tempfile::tempdir().unwrap();
    typed(&format!("{OCI_LAYER}+zstd")).write(directory.path());
    assert_eq!(layers(&open(directory.path()).unwrap()).len(), 1);
}

#[test]
fn documents_are_bounded_and_of_the_right_kind() {
    let mut layout = Layout::default();
    let descriptor = layout.blob(OCI_MANIFEST, &vec![b' '; (8 << 20) + 1]);
    layout.list(descriptor, None);
    assert!(refusal(&layout).ends_with("has 8388609 bytes; at most 8388608 are read"));

    let mut layout = Layout::default();
    let descriptor = layout.json("", &json!({"schemaVersion": 1, "fsLayers": [], "history": []}));
    layout.list(descriptor, None);
    assert!(refusal(&layout).contains("schema version 1"));

    let artifact = Layout::of(&[], |_, manifest| {
        manifest["config"] =
            json!({"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2});
        manifest["artifactType"] = json!("application/spdx+json");
    });
    assert!(refusal(&artifact).ends_with(r#"is an artifact of type "application/spdx+json", not an image"#));

    for text in [&b"{"[..], b"[]", b"\xff", &b"[".repeat(100_000)] {
        let mut layout = Layout::default();
        let descriptor = layout.blob(OCI_CONFIG, text);
        let manifest = json!({"schemaVersion": 2, "config": descriptor, "layers": []});
        let manifest = layout.json(OCI_MANIFEST, &manifest);
        layout.list(manifest, None);
        assert!(refusal(&layout).contains("is not what it should be"), "{}", refusal(&layout));
    }
    assert!(refusal(&Layout::default()).ends_with("holds no container image"));
}

#[test]
fn blobs_may_be_links_within_the_layout_only() {
    let outside = tempfile::tempdir().unwrap();
    let tar = layer("a", b"lower");
    fs::write(outside.path().join("blob"), &tar).unwrap();
    let linked = |target: &Path| {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::of(std::slice::from_ref(&tar), |_, _| {});
        layout.write(directory.path());
        fs::create_dir(directory.path().join("store")).unwrap();
        fs::rename(directory.path().join(blob(&tar)), directory.path().join("store/blob")).unwrap();
        symlink(target, directory.path().join(blob(&tar))).unwrap();
        directory
    };
    let inside = linked(Path::new("../../store/blob"));
    assert_eq!(layers(&open(inside.path()).unwrap()), std::slice::from_ref(&tar));
    for target in
        [outside.path().join("blob"), "/proc/self/exe".into(), "../../../../../../etc/passwd".into()]
    {
        let message = refusal_of(linked(&target).path());
        assert_eq!(message, format!("{}: leads out of the layout", blob(&tar)));
    }
    let message = refusal_of(linked(Path::new("../../store")).path());
    assert_eq!(message, format!("{}: is not a file", blob(&tar)));
    let message = refusal_of(linked(blob(&tar).strip_prefix("blobs/sha256/").unwrap().as_ref()).path());
    assert_eq!(message, format!("{}: is a loop of links", blob(&tar)));
}

#[test]
fn a_docker_archive_cannot_reach_out_of_itself() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.tar");
    let config = json!({"rootfs": {"type": "layers", "diff_ids": [digest(b"")]}}).to_string();
    let message = |config_name: &str, layer: &str| {
        let manifest = json!([{"Config": config_name, "Layers": [layer]}]).to_string();
        let file = |text: &str| Member::File(text.as_bytes().to_vec());
        let archive = tar([
            ("c.json", file(&config)),
            ("link/layer.tar", Member::Symlink("../../../etc/passwd")),
            ("manifest.json", file(&manifest)),
        ]);
        fs::write(&path, archive).unwrap();
        refusal_of(&path)
    };
    assert_eq!(message("c.json", "link/layer.tar"), "link/layer.tar: leads out of the archive");
    assert_eq!(message("c.json", "../a.tar"), "../a.tar: leads out of the archive");
    assert_eq!(message("c.json", "/etc/passwd"), "the image lacks /etc/passwd");
    assert_eq!(message("/etc/passwd", "x"), "the image lacks /etc/passwd");
    let wrong = format!("{}.json", "0".repeat(64));
    assert_eq!(message(&wrong, "x"), format!("the image lacks {wrong}"));
}

/// Opens with limits that a test can reach in no time.
fn strict(path: &Path, limits: Limits) -> Result<OciImage, OciError> {
    open_with(path, |options| options.limits = limits)
}

#[test]
fn bombs_are_refused_in_layers_and_around_the_archive() {
    let limits = Limits { max_unpacked: 64 << 30, max_ratio: 500, ratio_free: 1 << 20 };
    fn is_bomb(error: Option<OciError>) -> bool {
        matches!(error, Some(OciError::Unpack { problem: UnpackError::Bomb { ratio: 500 }, .. }))
    }
    let filled = vec![b'x'; 8 << 20];
    for packed in [gzip(&filled), zstd::encode_all(&filled[..], 3).unwrap()] {
        let directory = tempfile::tempdir().unwrap();
        let mut layout = Layout::default();
        let blob = layout.blob(OCI_LAYER, &packed);
        let image = layout.image(std::slice::from_ref(&filled), "linux/amd64", |_, manifest| {
            manifest["layers"] = json!([blob]);
        });
        layout.list(image, None);
        layout.write(directory.path());
        let image = strict(directory.path(), limits).unwrap();
        assert!(is_bomb(stream_error(&image)));
        let image = strict(directory.path(), Limits { max_unpacked: 1 << 20, ..limits }).unwrap();
        let error = stream_error(&image).unwrap();
        assert!(error.to_string().ends_with("unpacks to more than 1048576 bytes"), "{error}");
        assert_eq!(error.hint().unwrap(), "--max-size sets the limit");

        // The same bytes as the archive itself: a tar with one large member.
        let archive = tar([("blob", Member::File(filled.clone()))]);
        let path = directory.path().join("bomb.tar");
        fs::write(&path, gzip(&archive)).unwrap();
        assert!(is_bomb(strict(&path, limits).err()));
        let error = open_with(&path, |o| (o.limits, o.transport) = (limits, Some(Transport::OciArchive)));
        assert!(is_bomb(error.err()));
    }
}
