//! Every integration test, in one binary. The tiers are the modules: `cargo test --test all cli::` runs one.

mod background;
mod cache;
mod cli;
mod containers;
mod corpora;
mod docker;
mod faults;
mod filling;
mod fixtures;
mod gateway;
mod images;
mod index;
mod large;
mod laws;
mod layers;
mod lazy;
mod local;
mod mounts;
mod oci;
mod odd;
mod refresh;
mod support;
mod system;
mod tars;
mod tools;
mod verbs;
