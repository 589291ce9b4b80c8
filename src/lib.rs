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
//! | [`buildkit`] | drives a build, reads what it leaves by a helper in it | [`docker`]'s addresses, [`progress`] |
//! | [`cache`] | finished filesystems on the disk: keys, locks, publication, eviction | [`index`], [`image`] |
//! | [`cli`] | the command line: all printing, going to the background, exit statuses | everything |
//! | [`compress`] | what is compressed → its bytes, at a bounded cost | nothing of ours |
//! | [`docker`] | the daemon: finds images and containers, streams what they hold | nothing of ours |
//! | [`erofs`] | what a session would show, as a filesystem that the kernel reads by itself | [`fuse`], [`index`], [`tarfile`] |
//! | [`fuse`] | the filesystem's answers, the kernel's requests, the life of a mount | [`index`], [`tarfile`] |
//! | [`gateway`] | the library's public face: a source read by mount index and path, without FUSE | [`source`], [`index`], [`tarfile`] |
//! | [`http`] | outgoing calls: connections, TLS, proxies, deadlines | [`progress`] |
//! | [`index`] | growing tree, on-disk index, file contents | [`tarfile`] |
//! | [`source`] | what the user named → filesystems: asks the daemon, fills the cache | all but `fuse` and `cli` |
//! | [`tarfile`] | a tar from its first byte → what its entries are | nothing of ours |
//! | [`oci`] | images without a daemon: archives, layouts, registries → configuration and verified layers | [`compress`], [`registry`], [`tarfile`], [`image`], [`progress`] |
//! | [`registry`] | images' documents and blobs from where they are distributed: names, credentials, tokens, ranges | [`http`], [`image`], [`progress`] |
#![cfg_attr(not(test), warn(missing_docs))]
#![deny(unsafe_code)]

pub mod buildkit;
pub mod cache;
pub mod cleanup;
pub mod cli;
pub mod compress;
pub mod docker;
pub mod erofs;
pub mod fuse;
pub mod gateway;
pub mod http;
pub mod image;
pub mod index;
pub(crate) mod mountinfo;
pub mod oci;
pub mod owner;
pub mod platform;
pub mod progress;
pub mod registry;
pub mod source;
mod sparse_file;
pub mod tarfile;
