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
//! | [`cache`] | finished filesystems on the disk: keys, locks, publication, eviction | [`index`], [`image`] |
//! | [`cli`] | the command line: all printing, going to the background, exit statuses | everything |
//! | [`docker`] | the daemon: finds images and containers, streams what they hold | nothing of ours |
//! | [`fuse`] | the filesystem's answers, the kernel's requests, the life of a mount | `index` |
//! | [`gateway`] | the library's public face: a source read by mount index and path, without FUSE | [`source`], `index` |
//! | [`http`] | outgoing calls: connections, TLS, proxies, deadlines | [`progress`] |
//! | [`index`] | tar scan, growing tree, on-disk index, file contents | nothing of ours |
//! | [`source`] | what the user named → filesystems: asks the daemon, fills the cache | all but `fuse` and `cli` |
//! | [`oci`] | images without a daemon: archives and layouts → configuration and verified layers | [`image`], [`progress`] |
#![cfg_attr(not(test), warn(missing_docs))]
#![deny(unsafe_code)]

pub mod cache;
pub mod cleanup;
pub mod cli;
pub mod docker;
pub mod fuse;
pub mod gateway;
pub mod http;
pub mod image;
pub mod index;
pub mod oci;
pub mod owner;
pub mod progress;
pub mod source;
