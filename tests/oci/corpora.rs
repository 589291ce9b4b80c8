//! Archives and layouts that other projects test with: see [`crate::corpora`].

use std::fs;
use std::path::{Path, PathBuf};

use imagefs::oci::{OciError, Transport};

use super::build::gzip;
use super::hostile::refusal_of;
use super::{detect, diff_ids, layers, open, shell};

fn corpus(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpora/images").join(name);
    assert!(path.exists(), "{} is needed for this test and is not there", path.display());
    path
}

#[test]
fn images_by_other_writers_read_as_tar_and_sha256sum_say() {
    let oci = Some(Transport::OciArchive);
    for (name, transport, count) in [
        ("test-docker-image.tar", Some(Transport::DockerArchive), 14),
        ("test-kaniko-image.tar", Some(Transport::DockerArchive), 14),
        ("test-oci-uncompressed-image.tar", oci, 1),
        ("test-oci-gzip-image.tar", oci, 1),
        ("test-oci-zstd-image.tar", oci, 1),
        ("test-oci-estargz-image.tar", oci, 1),
    ] {
        let path = corpus(name);
        assert_eq!(detect(&path).unwrap(), transport, "{name}");
        let image = open(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(image.layers.len(), count, "{name}");
        layers(&image);

        // The members of the archive, unpacked by other tools, have the digests that the image gives.
        let directory = tempfile::tempdir().unwrap();
        let sums = shell(
            directory.path(),
            &format!(
                "tar xf '{}'; find . -type f | while read -r f; do
                   case $(head -c4 \"$f\" | od -An -tx1 | tr -d ' \\n') in
                     1f8b*) gzip -dc \"$f\" ;; 28b52ffd) zstd -dqc \"$f\" ;; *) cat \"$f\" ;;
                   esac | sha256sum
                 done",
                path.display()
            ),
        );
        for digest in diff_ids(&image).iter().chain([&image.id]) {
            assert!(sums.contains(&digest.hex()), "{name}: {digest}");
        }
    }
}

#[test]
fn a_history_names_the_maker_of_each_layer() {
    let image = open(&corpus("test-docker-image.tar")).unwrap();
    assert_eq!(image.names, ["dive-test:latest"]);
    assert_eq!(
        image.id.to_string(),
        "sha256:75ae28b8ebf89b203319069ddcbecdf5c3838503bbebc0d0d85e4b8589c5de3a"
    );
    assert!(image.layers[0].created_by.as_ref().unwrap().contains("ADD file:"));
    assert!(image.layers[1].created_by.as_ref().unwrap().contains("somefile.txt"));
    assert!(image.history.iter().any(|step| step.empty_layer));
    assert_eq!(image.config.cmd, ["sh"]);
}

#[test]
fn root_filesystems_by_other_writers_are_no_images() {
    for name in [
        "test-uncompressed-image.tar",
        "test-gzip-image.tar",
        "test-zstd-image.tar",
        "test-estargz-image.tar",
    ] {
        assert_eq!(detect(&corpus(name)).unwrap(), None, "{name}");
        assert!(matches!(open(&corpus(name)), Err(OciError::NotAnImage(_))), "{name}");
    }
}

#[test]
fn a_docker_archive_with_an_altered_configuration_or_layer_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let original = fs::read(corpus("test-docker-image.tar")).unwrap();
    let altered = |from: &[u8], to: &[u8]| {
        assert_eq!(from.len(), to.len());
        let at = original.windows(from.len()).position(|w| w == from).unwrap();
        let mut bytes = original.clone();
        bytes[at..at + from.len()].copy_from_slice(to);
        let path = directory.path().join("a.tar");
        fs::write(&path, bytes).unwrap();
        refusal_of(&path)
    };
    let message = altered(br#""architecture":"amd64""#, br#""architecture":"arm64""#);
    assert!(
        message.starts_with(
            "75ae28b8ebf89b203319069ddcbecdf5c3838503bbebc0d0d85e4b8589c5de3a.json has the digest"
        )
    );
    let message = altered(b"root/example/somefile1.txt\0", b"root/example/somefile9.txt\0");
    assert!(message.starts_with("layer ") && message.contains("where the configuration says"), "{message}");

    let path = directory.path().join("cut.tar");
    fs::write(&path, &original[..original.len() / 2]).unwrap();
    assert!(refusal_of(&path).contains("cut.tar: truncated: the archive ends at byte"));
    fs::write(&path, &gzip(&original)[..300_000]).unwrap();
    assert!(refusal_of(&path).contains("cut.tar cannot be unpacked"));
}
