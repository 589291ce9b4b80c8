//! Every integration test, in one binary. The tiers are the modules: `cargo test --test all cli::` runs one.

mod background;
mod cache;
mod cli;
mod docker;
mod filling;
mod fixtures;
mod gateway;
mod index;
mod laws;
mod layers;
mod mounts;
mod oci;
mod support;
