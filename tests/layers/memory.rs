//! How much memory the merging of many layers takes.

use std::fs;

use super::build::Layer;
use crate::oci::build::Layout;
use crate::support::Sandbox;

/// A fifth of a million entries over a hundred layers, in a fifth of 200 MiB: it grows with the entries and not with the
/// layers.
#[test]
fn many_layers_are_merged_in_little_memory() {
    let layer = |number: u32| {
        let mut layer = Layer::new(0);
        for dir in 0..40 {
            layer = layer.dir(&format!("usr/share/package-{number:03}/directory-{dir:04}"));
            for file in 0..49 {
                // One file in ten replaces one of the layer below.
                let package = number - u32::from(file % 10 == 0 && number > 0);
                layer = layer.file(
                    &format!("usr/share/package-{package:03}/directory-{dir:04}/some-file-{file:04}.conf"),
                    "",
                );
            }
        }
        layer.tar()
    };
    let last = "usr/share/package-000/directory-0039/some-file-0048.conf";
    let base = peak(&[layer(0)], last);
    let layers: Vec<_> = (0..100).map(layer).collect();
    let more = peak(&layers, last) - base;
    assert!(more < 40 << 10, "{more} KiB more than the {base} KiB of one layer");
}

/// 58 MiB that no two files share: in the index of the layer, in the tree that is merged, and in its index.
#[test]
fn extended_attributes_are_kept_once() {
    let layer = |count: u32| {
        let mut builder = tar::Builder::new(Vec::new());
        for number in 0..count {
            let value = number.to_le_bytes().repeat(15_000);
            builder.append_pax_extensions([("SCHILY.xattr.user.a", &value[..])]).unwrap();
            let mut header = tar::Header::new_ustar();
            header.set_size(0);
            builder.append_data(&mut header, format!("{number}"), std::io::empty()).unwrap();
        }
        builder.into_inner().unwrap()
    };
    let more = peak(&[layer(1000)], "999") - peak(&[layer(1)], "0");
    assert!(more < 140 << 10, "{more} KiB for 58 MiB");
}

/// The most memory, in KiB, that mounting an image of these layers takes, which has this path.
fn peak(layers: &[Vec<u8>], path: &str) -> u64 {
    let sandbox = Sandbox::new();
    Layout::of(layers, |_, _| {}).write(&sandbox.directory("l"));
    let mountpoint = sandbox.mount("mnt", ["-o", "flat", "oci:l"]);
    assert!(mountpoint.join(path).exists());
    let mounts = sandbox.run(&mut sandbox.imagefs(["mounts", "--json"])).success().stdout;
    let mounts: serde_json::Value = serde_json::from_str(&mounts).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", mounts[0]["pid"])).unwrap();
    sandbox.unmount(&mountpoint);
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
