//! What a user is told of an image that was tampered with: before anything is mounted, also without `--wait`.

use std::io::Read;

use serde_json::json;

use super::build::Layer;
use crate::oci::build::{Layout, OCI_LAYER, digest, gzip};
use crate::support::Sandbox;

fn tars() -> [Vec<u8>; 2] {
    [Layer::new(0).file("a", "lower").tar(), Layer::new(1).file("b", "upper").tar()]
}

fn sound() -> Layout {
    Layout::of(&tars(), |_, _| {})
}

fn blob(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", digest(bytes).hex())
}

/// An image of one layer that is stored in this form.
fn stored_as(packed: &[u8]) -> Layout {
    let mut layout = Layout::default();
    let descriptor = layout.blob(OCI_LAYER, packed);
    let image = layout.image(&tars()[..1], "linux/amd64", |_, manifest| {
        manifest["layers"] = json!([descriptor]);
    });
    layout.list(image, None);
    layout
}

#[track_caller]
fn refused(layout: &Layout, options: &[&str], expected: &str) {
    let sandbox = Sandbox::new();
    layout.write(&sandbox.directory("l"));
    sandbox.directory("mnt");
    // What is unpacked must not be held in memory: half a gibibyte is not to be had.
    let limited = "ulimit -v 524288; exec \"$@\"";
    let mut mount = sandbox.command("sh");
    mount
        .args(["-c", limited, "sh", env!("CARGO_BIN_EXE_imagefs"), "mount"])
        .args(options)
        .args(["oci:l", "mnt"]);
    let outcome = sandbox.run(&mut mount);
    assert_eq!(outcome.code, Some(6), "{outcome:?}");
    assert!(outcome.stderr.starts_with("error: ") && outcome.stderr.contains(expected), "{outcome:?}");
    sandbox.assert_nothing_left();
    let listed = sandbox.run(&mut sandbox.imagefs(["cache", "ls", "--json"])).success().stdout;
    assert!(!listed.contains("\"image\""), "{listed}");
}

#[test]
fn an_image_that_was_tampered_with_is_not_mounted() {
    let [lower, upper] = tars();
    let mut changed = sound();
    changed.files.get_mut(&blob(&upper)).unwrap()[0] ^= 1;
    refused(&changed, &[], &format!("{} has the digest sha256:", blob(&upper)));

    let mut grown = sound();
    grown.files.get_mut(&blob(&upper)).unwrap().push(0);
    let size = upper.len();
    refused(&grown, &[], &format!("{} has {} bytes where {size} are declared", blob(&upper), size + 1));

    let swapped = Layout::of(&tars(), |config, _| {
        config["rootfs"]["diff_ids"] = json!([digest(&upper), digest(&lower)]);
    });
    refused(&swapped, &[], &format!("layer {} unpacks to {}", blob(&lower), digest(&lower)));

    let outside = Layout::of(&tars(), |_, manifest| {
        manifest["layers"][0]["digest"] = json!("sha256:../../../../etc/passwd");
    });
    refused(&outside, &[], "which is not a SHA-256 digest");

    for whole in [gzip(&lower), zstd::encode_all(&lower[..], 0).unwrap()] {
        let cut = &whole[..whole.len() / 2];
        refused(&stored_as(cut), &[], &format!("{} cannot be unpacked", blob(cut)));
    }
    // A tar that ends in the midst of a file, with the right digests.
    let cut = Layout::of(&[lower[..515].to_vec()], |_, _| {});
    refused(&cut, &[], &format!("layer {}", digest(&lower[..515])));
}

#[test]
fn an_image_that_unpacks_without_end_is_not_mounted() {
    // Beyond what a thousandfold is of what is stored, and what is let through in any case.
    let filled = |byte| std::io::repeat(byte).take(300 << 20);
    let bomb = stored_as(&zstd::encode_all(filled(b'x'), 1).unwrap());
    refused(&bomb, &[], "unpacks to more than 1000 times its size");
    let mut large = Vec::new();
    flate2::read::GzEncoder::new(filled(0), flate2::Compression::fast()).read_to_end(&mut large).unwrap();
    refused(&stored_as(&large), &["--max-size", "100MiB"], "unpacks to more than 104857600 bytes");
}
