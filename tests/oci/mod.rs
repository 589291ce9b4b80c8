//! Images without a daemon: what other tools wrote, and what nobody should have written.

pub mod build;
mod choice;
mod corpora;
mod hostile;
mod lenient;
mod writers;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use imagefs::image::Digest;
use imagefs::oci::{self, OciError, OciImage, OpenOptions, Transport};
use imagefs::progress::{Phase, Progress};

fn shell(directory: &Path, script: &str) -> String {
    let output =
        Command::new("bash").args(["-euo", "pipefail", "-c", script]).current_dir(directory).output();
    let output = output.expect("bash runs");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn open(path: &Path) -> Result<OciImage, OciError> {
    open_with(path, |_| {})
}

fn open_with(path: &Path, edit: impl Fn(&mut OpenOptions<'_>)) -> Result<OciImage, OciError> {
    let spool = tempfile::tempdir().unwrap();
    let mut options = OpenOptions::new(spool.path());
    edit(&mut options);
    let image = oci::open(path, &options);
    assert_eq!(spool.path().read_dir().unwrap().count(), 0, "the spool directory is left as it was");
    image
}

/// What kind of archive it is; `None` for a tar that holds no image.
fn detect(path: &Path) -> Result<Option<Transport>, OciError> {
    let spool = tempfile::tempdir().unwrap();
    match oci::find(path, &OpenOptions::new(spool.path())) {
        Ok(images) => Ok(Some(images.transport())),
        Err(OciError::NotAnImage(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every layer's tar, each verified to its end.
fn layers(image: &OciImage) -> Vec<Vec<u8>> {
    image
        .layers
        .iter()
        .map(|layer| {
            let mut tar = Vec::new();
            image.layer(layer).unwrap().read_to_end(&mut tar).unwrap();
            assert_eq!(build::digest(&tar), layer.diff_id);
            tar
        })
        .collect()
}

fn diff_ids(image: &OciImage) -> Vec<Digest> {
    image.layers.iter().map(|layer| layer.diff_id).collect()
}

#[test]
fn the_unpacking_of_an_archive_is_told_of_and_can_be_ended() {
    let directory = tempfile::tempdir().unwrap();
    let layout = umoci_layout();
    let (plain, packed) = (docker_archive(&layout), directory.path().join("packed"));
    shell(directory.path(), &format!("gzip -c {} >packed", plain.display()));
    for transport in [None, Some(Transport::DockerArchive)] {
        let progress = Progress::new();
        let find = || {
            let options =
                OpenOptions { transport, progress: Some(&progress), ..OpenOptions::new(directory.path()) };
            oci::find(&packed, &options)
        };
        find().unwrap();
        assert_eq!(progress.phase(), Phase::Reading);
        let size = plain.metadata().unwrap().len();
        assert!(progress.bytes() > size / 2 && progress.bytes() <= size, "{} of {size}", progress.bytes());
        progress.restart();
        progress.cancel();
        assert!(matches!(find(), Err(OciError::Cancelled(_))));
        assert_eq!(progress.bytes(), 0);
    }
}

#[test]
fn tars_of_other_things_are_no_images() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    // Somebody's program has files of the same names at the top of its container.
    let manifest = r#"[{"Config":"c.json","RepoTags":[],"Layers":[]}]"#;
    let file = |text: &str| build::Member::File(text.as_bytes().to_vec());
    let rootfs = build::tar([("manifest.json", file(manifest)), ("./etc/passwd", file(""))]);
    std::fs::write(at("rootfs.tar"), rootfs).unwrap();
    assert_eq!(detect(&at("rootfs.tar")).unwrap(), None);
    let extension = build::tar([("manifest.json", file(r#"{"manifest_version":3}"#))]);
    std::fs::write(at("extension.tar"), extension).unwrap();
    assert_eq!(detect(&at("extension.tar")).unwrap(), None);

    std::fs::write(at("text"), "hello").unwrap();
    assert!(matches!(detect(&at("text")), Err(OciError::NotATar(_))));
    let error = open(directory.path()).unwrap_err();
    assert!(matches!(error, OciError::NotAnImage(_)) && error.hint().unwrap().contains("docker save"));
    shell(directory.path(), "mkfifo fifo");
    assert_eq!(open(&at("fifo")).unwrap_err().to_string(), format!("{} is not a file", at("fifo").display()));
}

/// A layout `l:a` of two layers, by umoci.
fn umoci_layout() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    shell(
        directory.path(),
        "mkdir d; cp \"$(command -v busybox)\" d/; ln -s busybox d/sh
         umoci init --layout l; umoci new --image l:a; umoci insert --image l:a d /bin
         umoci unpack --rootless --image l:a b; rm b/rootfs/bin/sh; echo hello >b/rootfs/hello
         umoci repack --image l:a b
         umoci config --image l:a --config.cmd sh --config.env A=b --config.volume /data \\
           --architecture amd64 --os linux",
    );
    directory
}

/// The same image as a docker-archive, by skopeo.
fn docker_archive(layout: &tempfile::TempDir) -> PathBuf {
    shell(layout.path(), "skopeo --insecure-policy copy -q oci:l:a docker-archive:image.tar:busybox:latest");
    layout.path().join("image.tar")
}

#[test]
fn every_form_of_an_image_has_the_same_layers() {
    let directory = umoci_layout();
    let at = |name: &str| directory.path().join(name);
    shell(
        directory.path(),
        "copy() { skopeo --insecure-policy copy -q \"$@\"; }
         copy oci:l:a docker-archive:docker.tar:busybox:latest
         copy oci:l:a oci-archive:oci.tar:busybox:latest
         copy --dest-compress --dest-compress-format zstd oci:l:a oci:zstd:a
         copy --dest-decompress oci:l:a dir:plain
         copy dir:plain docker-archive:plain.tar
         gzip -k docker.tar; zstd -q oci.tar; xz -k docker.tar
         store=\"[vfs@$PWD/root+$PWD/run]\"
         copy oci:l:a containers-storage:\"$store\"localhost/bb:1
         podman() { command podman --root \"$PWD/root\" --runroot \"$PWD/run\" --storage-driver vfs \"$@\"; }
         podman save -q --format docker-archive -o podman-docker.tar localhost/bb:1
         podman save -q --format oci-archive -o podman-oci.tar localhost/bb:1
         podman save -q --format oci-dir -o podman-dir localhost/bb:1",
    );
    let original = open(&at("l")).unwrap();
    assert_eq!(original.names, ["a"]);
    assert_eq!(original.config.env, ["A=b"]);
    assert!(original.config.volumes.contains("/data"));
    let tars = layers(&original);
    assert_eq!(tars.len(), 2);

    // What the streams hold is what umoci was given: the second layer takes the link away and adds a file.
    for (i, tar) in tars.iter().enumerate() {
        std::fs::write(at(&format!("{i}.tar")), tar).unwrap();
    }
    assert_eq!(shell(directory.path(), "tar tf 0.tar"), "bin/\nbin/busybox\nbin/sh\n");
    assert_eq!(
        shell(directory.path(), "tar tf 1.tar | grep -v -e '/$' -e '^\\.$' | LC_ALL=C sort"),
        "bin/.wh.sh\nhello\n"
    );
    shell(directory.path(), "tar xOf 0.tar bin/busybox | cmp - d/busybox");

    for name in [
        "docker.tar",
        "oci.tar",
        "zstd",
        "plain.tar",
        "docker.tar.gz",
        "oci.tar.zst",
        "docker.tar.xz",
        "podman-docker.tar",
        "podman-oci.tar",
        "podman-dir",
    ] {
        let image = open(&at(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(layers(&image) == tars, "{name}");
        assert_eq!(image.config.cmd, ["sh"], "{name}");
        assert_eq!(image.platform.to_string(), "linux/amd64", "{name}");
        // A docker-archive does not say what its layers are.
        let docker = name.contains("docker") || name == "plain.tar";
        assert_eq!(image.layers[0].media_type.is_none(), docker, "{name}");
        assert_eq!(image.manifest.is_none(), docker, "{name}");
    }
}

#[test]
fn an_image_can_be_read_from_several_threads() {
    let layout = umoci_layout();
    let image = open(&docker_archive(&layout)).unwrap();
    let alone = layers(&image);
    std::thread::scope(|scope| {
        let others: Vec<_> = (0..4).map(|_| scope.spawn(|| layers(&image))).collect();
        for other in others {
            assert!(other.join().unwrap() == alone);
        }
    });
}

#[test]
fn a_transport_that_does_not_fit_is_an_error() {
    let directory = umoci_layout();
    let wrong = |transport, path: &Path| open_with(path, |o| o.transport = Some(transport)).unwrap_err();
    let layout = directory.path().join("l");
    assert!(matches!(wrong(Transport::OciArchive, &layout), OciError::WrongTransport { wanted: "file", .. }));
    let docker = docker_archive(&directory);
    assert!(matches!(
        wrong(Transport::OciDir, &docker),
        OciError::WrongTransport { wanted: "directory", .. }
    ));
    assert!(matches!(wrong(Transport::OciArchive, &docker), OciError::NotAnImage(_)));
    let none = directory.path().join("none");
    assert!(matches!(open(&none).unwrap_err(), OciError::Io { doing: "open", .. }));
}
