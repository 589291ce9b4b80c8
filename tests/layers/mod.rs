//! Layers: what one holds, and what several make together.

mod bounds;
mod build;
mod cached;
mod commands;
mod containerd;
mod corpora;
mod damage;
mod forms;
mod memory;
mod model;
mod refusals;
mod sources;
mod tars;
mod unpacked;
mod views;

use std::path::Path;
use std::process::Command;

use crate::support::succeed;

/// Makes the image `l:NAME` of these layers in `directory`, with umoci. The history calls them `step 0`, `step 1`, ….
#[track_caller]
fn image(directory: &Path, name: &str, layers: impl IntoIterator<Item = build::Layer>) {
    let umoci = |args: &[&str]| succeed(Command::new("umoci").args(args).current_dir(directory));
    if !directory.join("l").exists() {
        umoci(&["init", "--layout", "l"]);
    }
    let image = format!("l:{name}");
    umoci(&["new", "--image", &image]);
    for (i, layer) in layers.into_iter().enumerate() {
        std::fs::write(directory.join("layer.tar"), layer.tar()).unwrap();
        let step = format!("step {i}");
        umoci(&["raw", "add-layer", "--image", &image, "--history.created_by", &step, "layer.tar"]);
    }
}
