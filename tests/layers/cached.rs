//! What the cache keeps of images that are got as layers, and what it must not say of them.

use serde_json::{Value, json};

use super::build::Layer;
use crate::oci::build::{Layout, OCI_LAYER, digest, gzip};
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
    let named = |rows: [&str; 3]| rows.map(|row| format!("oci:{}", sandbox.path(row).display()));
    assert_eq!(cached(&sandbox), named(["one image", "one layer", "one layer"]));
    // What is being looked at stays, and what it shares with what goes.
    run(&sandbox, &["--cache-limit", "0", "ls", "oci:two", "/"]);
    assert_eq!(cached(&sandbox), named(["one layer", "two image", "two layer"]));
    // One that comes to nothing leaves its good layers, which count as well.
    let failed = sandbox.run(&mut sandbox.imagefs(["--cache-limit", "0", "ls", "oci:bad", "/"]));
    assert_eq!(failed.code, Some(6), "{failed:?}");
    assert_eq!(cached(&sandbox), [""; 0]);
}

#[test]
fn what_is_shown_of_an_image_is_of_the_archive_at_hand() {
    let sandbox = Sandbox::new();
    let tar = lower();
    let packed = gzip(&tar);
    for (name, stored) in [("plain", &tar), ("packed", &packed)] {
        let mut layout = Layout::default();
        let layer = layout.blob(OCI_LAYER, stored);
        let image = layout.image(std::slice::from_ref(&tar), "linux/amd64", |_, manifest| {
            manifest["layers"] = json!([layer])
        });
        layout.list(image, Some(name));
        layout.write(&sandbox.directory(name));
    }
    // The second of them is in the cache, and so is the first when its turn comes again.
    for (name, stored) in [("plain", &tar), ("packed", &packed), ("plain", &tar)] {
        let source = format!("oci:{name}");
        let inspected: Value = serde_json::from_str(&run(&sandbox, &["inspect", "--json", &source])).unwrap();
        assert_eq!(inspected["names"], json!([name]));
        let history: Value = serde_json::from_str(&run(&sandbox, &["history", "--json", &source])).unwrap();
        assert_eq!(history[0]["size"], stored.len(), "{name}");
        let mountpoint = sandbox.mount(&format!("mnt-{}", stored.len()), [&source]);
        let description = std::fs::read(mountpoint.join(".imagefs.json")).unwrap();
        let description: Value = serde_json::from_slice(&description).unwrap();
        assert_eq!(description["names"], json!([name]));
        sandbox.unmount(&mountpoint);
        std::fs::remove_dir(mountpoint).unwrap();
    }
    assert_eq!(cached(&sandbox).len(), 2, "they are one image");
}

#[test]
fn an_image_of_many_layers_needs_no_more_than_the_usual_limits() {
    const LAYERS: usize = 600;
    let sandbox = Sandbox::new();
    let layers: Vec<_> = (0..LAYERS).map(|n| Layer::new(0).file(&format!("{n:03}"), "").tar()).collect();
    Layout::of(&layers, |_, _| {}).write(&sandbox.directory("many"));
    let limited = |limit: &str, arguments: &[&str]| {
        let script = format!("ulimit {limit} && exec \"$@\"");
        let mut command = sandbox.command("sh");
        command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_imagefs")]).args(arguments);
        sandbox.run(&mut command)
    };
    let mountpoint = sandbox.directory("mnt");
    for arguments in [&["ls", "oci:many", "/"][..], &["diff", "oci:many", "oci:many"]] {
        limited("-Sn 1024", arguments).success();
    }
    limited("-Sn 1024", &["mount", "-o", "layers", "oci:many", "mnt"]).success();
    assert_eq!(std::fs::read_dir(mountpoint.join("rootfs")).unwrap().count(), LAYERS);
    assert_eq!(std::fs::read_dir(mountpoint.join("layers")).unwrap().count(), LAYERS);
    sandbox.unmount(&mountpoint);
    // Where the hard limit forbids it, that is said.
    let refused = limited("-n 1024", &["ls", "oci:many", "/"]);
    assert_eq!(refused.code, Some(7), "{refused:?}");
    assert!(
        refused.stderr.contains("Too many open files") && refused.stderr.contains("ulimit -Hn"),
        "{refused:?}"
    );
}
