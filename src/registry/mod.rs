//! Registries: names, credentials, and the [distribution API][spec] as far as reading goes.
//!
//! A [`Repository`] is asked for manifests by tag or digest, and for blobs by digest and range. What comes is what the
//! registry sent: manifests asked for by digest are verified, the bytes of a blob are for the caller to verify. Tokens,
//! redirects, retries and broken transfers are dealt with here, and nothing of images is known.
//!
//! May import [`http`](crate::http), [`image`](crate::image) and [`progress`](crate::progress), nothing else of the crate.
//!
//! [spec]: https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md

mod auth;
mod blob;
mod credentials;
mod error;
mod manifest;
mod name;
mod repository;

pub use blob::{Blob, BlobReader};
pub use error::RegistryError;
pub use manifest::Manifest;
pub use name::{BadRemoteName, RemoteName};
pub use repository::{Access, Repository};
