//! Whole images, as each tool writes them, mounted and compared with what umoci unpacks.

use std::path::Path;

use crate::support::{Manifest, Sandbox, archives, succeed};

/// What a test image is where no daemon is needed, as each tool writes it.
const FORMS: [&str; 7] = [
    "docker-archive:docker.tar",
    "oci-archive:skopeo-zstd.tar:a",
    "oci:umoci:a",
    // Of the torture image alone.
    "docker-archive:podman-docker.tar",
    "oci-archive:podman-oci.tar",
    "oci:podman-oci",
    "oci:skopeo-gzip:a",
];

/// Mounts forms of a test image that `scripts/fixtures` made, each without anything in the cache. `spare` takes out of
/// what umoci unpacked where it is wrong.
fn each_is_what_umoci_unpacks(image: &str, forms: &[&str], spare: impl FnOnce(Manifest) -> Manifest) {
    let directory = archives::fixture("forms").join(image);
    let sandbox = Sandbox::new();
    let layout = format!("{}:a", directory.join("umoci").display());
    succeed(sandbox.command("umoci").args(["unpack", "--image", &layout, "unpacked"]));
    let expected = spare(Manifest::read(&sandbox.path("unpacked/rootfs")));
    for form in forms {
        check(&directory, form, &expected);
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

/// Whiteouts, replacements and links as umoci writes them into a layer of its own.
#[test]
fn a_layer_that_umoci_made_of_changes_is_what_it_unpacks() {
    let sandbox = Sandbox::new();
    let forms = archives::fixture("forms").join("torture");
    let script = "
        cp -r \"$1/umoci\" l
        umoci unpack --image l:a changed
        cd changed/rootfs
        rm -r many names/*$'\\xff'* links/first 'names/new
line'
        rm -r nested && echo 'now a file' >nested
        rm contents/zeros && mkdir contents/zeros && echo inside >contents/zeros/file
        mkdir many && echo one >many/00000
        ln links/second links/fourth
        ln contents/511 511-again
        ln -sfn elsewhere symlinks/directory
        chmod 0700 modes && chown 5:6 modes/owner && touch -d @1234567890.5 empty-directory
        mv special moved
        setfattr -n user.new -v value xattrs/user
        cd ../..
        umoci repack --image l:b changed
        umoci unpack --image l:b unpacked";
    succeed(sandbox.command("bash").args(["-euc", script, "bash"]).arg(&forms));
    let unpacked =
        Manifest::read(&sandbox.path("unpacked/rootfs")).without_attribute("xattrs/empty", "xattrs");
    assert_eq!(unpacked.get("nested", "type"), Some("file"));
    assert_eq!(unpacked.get("many/00001", "type"), None);
    check(&sandbox.path(""), "oci:l:b", &unpacked);
}

#[test]
fn every_form_of_the_torture_image_is_what_umoci_unpacks() {
    // An attribute without a value is one, as GNU tar has it; to Go's archive/tar, which umoci reads with, it is none.
    each_is_what_umoci_unpacks("torture", &FORMS, |unpacked| {
        unpacked.without_attribute("xattrs/empty", "xattrs")
    });
}

#[test]
fn forms_of_the_python_image_are_what_umoci_unpacks() {
    each_is_what_umoci_unpacks("python", &FORMS[..3], |unpacked| unpacked);
}
