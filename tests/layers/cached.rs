//! What the cache keeps of images that are got as layers, and what it must not say of them.

use serde_json::Value;

use super::build::Layer;
use crate::oci::build::{Layout, digest};
use crate::support::Sandbox;

fn lower() -> Vec<u8> {
    Layer::new(0).file("a", "lower").tar()
}

/// An image of the common layer and one of its own.
fn image(own: &str) -> Layout {
    Layout::of(&[lower(), Layer::new(1).file(own, "upper").tar()], |_, _| {})
}

#[track_caller]
fn run(sandbox: &Sandbox, arguments: &[&str]) -> String {
    sandbox.run(&mut sandbox.imagefs(arguments)).success().stdout
}

/// Source and kind of everything in the cache.
fn cached(sandbox: &Sandbox) -> Vec<String> {
    let rows: Vec<Value> = serde_json::from_str(&run(sandbox, &["cache", "ls", "--json"])).unwrap();
    let text = |row: &Value, field: &str| row[field].as_str().unwrap().to_owned();
    let mut all: Vec<_> =
        rows.iter().map(|row| format!("{} {}", text(row, "source"), text(row, "kind"))).collect();
    all.sort();
    all
}

#[test]
fn images_that_are_got_as_layers_stay_below_the_limit() {
    let sandbox = Sandbox::new();
    for name in ["one", "two", "bad"] {
        let mut layout = image(name);
        if name == "bad" {
            let upper = Layer::new(1).file(name, "upper").tar();
            layout.files.get_mut(&format!("blobs/sha256/{}", digest(&upper).hex())).unwrap()[0] ^= 1;
        }
        layout.write(&sandbox.directory(name));
    }
    run(&sandbox, &["ls", "oci:one", "/"]);
    assert_eq!(cached(&sandbox), ["oci:one image", "oci:one layer", "oci:one layer"]);
    // What is being looked at stays, and what it shares with what goes.
    run(&sandbox, &["--cache-limit", "0", "ls", "oci:two", "/"]);
    assert_eq!(cached(&sandbox), ["oci:one layer", "oci:two image", "oci:two layer"]);
    // One that comes to nothing leaves its good layers, which count as well.
    let failed = sandbox.run(&mut sandbox.imagefs(["--cache-limit", "0", "ls", "oci:bad", "/"]));
    assert_eq!(failed.code, Some(6), "{failed:?}");
    assert_eq!(cached(&sandbox), [""; 0]);
}
