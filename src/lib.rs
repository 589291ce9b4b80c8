//! Looks inside container images and containers without unpacking, running or pulling them.
//!
//! The way of the data, left to right; nothing flows back:
//!
//! ```text
//! source ─resolve→ identity + mount table ─hit→ cache entry ─open→ Index ┐
//!                          └─miss→ tar stream ─tee→ data file            ├→ Tree → fuse → kernel
//!                                       └─scan→ growing tree ─finish→ Index ┘
//! ```
//!
//! | room | what happens there | may use |
//! |---|---|---|
//! | [`index`] | tar scan, growing tree, on-disk index, file contents | nothing of ours |
//! | [`oci`] | images without a daemon: archives and layouts → configuration and verified layers | [`image`] |
#![cfg_attr(not(test), warn(missing_docs))]
#![deny(unsafe_code)]

pub mod image;
pub mod index;
pub mod oci;
pub mod progress;
