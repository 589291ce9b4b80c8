//! Whole images, as each tool writes them, mounted and compared with what umoci unpacks.

use std::path::Path;

use crate::support::{Manifest, Sandbox, archives, succeed};

/// Mounts every form of a test image that `scripts/fixtures` made, each without anything in the cache. `spare` takes out of
/// what umoci unpacked where it is wrong.
fn every_form(image: &str, spare: impl FnOnce(Manifest) -> Manifest) {
    let forms = archives::fixture("forms").join(image);
    let sandbox = Sandbox::new();
    let unpack = ["unpack", "--image"];
    let layout = format!("{}:a", forms.join("skopeo-gzip").display());
    succeed(sandbox.command("umoci").args(unpack).args([&layout, "unpacked"]));
    let expected = spare(Manifest::read(&sandbox.path("unpacked/rootfs")));
    for form in [
        "docker-archive:docker.tar",
        "docker-archive:podman-docker.tar",
        "oci-archive:podman-oci.tar",
        "oci:podman-oci",
        "oci:skopeo-gzip:a",
        "oci-archive:skopeo-zstd.tar:a",
        "oci:umoci:a",
    ] {
        check(&forms, form, &expected);
    }
}

#[track_caller]
fn check(forms: &Path, form: &str, expected: &Manifest) {
    let sandbox = Sandbox::new();
    let (transport, name) = form.split_once(':').unwrap();
    let source = format!("{transport}:{}", forms.join(name).display());
    let mountpoint = sandbox.mount("mnt", ["-o", "flat,symlinks=raw", &source]);
    let differences = expected.differences(&Manifest::read(&mountpoint));
    assert!(
        differences.is_empty(),
        "{form}: {} differences: {:#?}",
        differences.len(),
        &differences[..differences.len().min(20)]
    );
    sandbox.unmount(&mountpoint);
}

#[test]
fn every_form_of_the_torture_image_is_what_umoci_unpacks() {
    // An attribute without a value is one, as GNU tar has it; to Go's archive/tar, which umoci reads with, it is none.
    every_form("torture", |unpacked| unpacked.without_attribute("xattrs/empty", "xattrs"));
}

#[test]
fn every_form_of_the_python_image_is_what_umoci_unpacks() {
    every_form("python", |unpacked| unpacked);
}
