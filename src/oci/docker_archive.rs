//! docker-archive: what `docker save` writes, and many a builder; `manifest.json` → configuration and layers.
//!
//! The format was never written down but in [Docker's source][image-spec]. It names files by paths, of which
//! writers keep to no rule, and declares no digest but those in the configuration.
//!
//! [image-spec]: https://github.com/moby/moby/blob/master/image/spec/v1.2.md

use std::path::Path;

use super::choose::{Candidate, Reference, by_platform, by_reference, labels};
use super::error::OciError;
use super::spec::{ConfigFile, DockerImage};
use super::store::{Store, document, sha256};
use super::{Found, StoredLayer};
use crate::image::{Digest, Platform};

const MANIFEST: &str = "manifest.json";

/// Finds the image that is meant.
pub(super) fn open(
    store: &dyn Store,
    path: &Path,
    reference: Option<&Reference>,
    platform: Option<&Platform>,
) -> Result<Found, OciError> {
    let mut found = by_reference(candidates(store, path)?, reference, platform, path)?;
    if found.len() > 1 || platform.is_some() {
        for candidate in found.iter_mut() {
            let name = &candidate.item.config;
            let (config, _) = configuration(store, name)?;
            candidate.platform = Some(ConfigFile::parse(&config, name)?.platform());
        }
    }
    let mut suitable = by_platform(found, platform)?;
    if suitable.len() > 1 {
        return Err(OciError::SeveralImages { path: path.to_owned(), images: labels(&suitable) });
    }
    let chosen = suitable.pop().ok_or_else(|| OciError::NotAnImage(path.to_owned()))?;
    describe(store, chosen)
}

/// How many images are listed; none where there is no list.
pub(super) fn count(store: &dyn Store, path: &Path) -> usize {
    candidates(store, path).map_or(0, |images| images.len())
}

fn candidates(store: &dyn Store, path: &Path) -> Result<Vec<Candidate<DockerImage>>, OciError> {
    let bytes = match document(store, MANIFEST) {
        Err(OciError::Missing(_)) => return Err(OciError::NotAnImage(path.to_owned())),
        other => other?,
    };
    let images: Vec<DockerImage> = serde_json::from_slice(&bytes)
        .map_err(|source| OciError::Json { blob: MANIFEST.to_owned(), source })?;
    let candidates = images.into_iter().enumerate().map(|(place, image)| Candidate {
        places: vec![place],
        names: image.repo_tags.iter().flatten().filter(|name| !name.is_empty()).cloned().collect(),
        digest: None,
        platform: None,
        item: image,
    });
    Ok(candidates.collect())
}

/// The configuration as it is stored, and its digest.
fn configuration(store: &dyn Store, name: &str) -> Result<(Vec<u8>, Digest), OciError> {
    let bytes = document(store, name)?;
    let found = sha256(&bytes);
    match digest_in(name) {
        Some(expected) if expected != found => {
            Err(OciError::WrongDigest { blob: name.to_owned(), expected, found })
        }
        _ => Ok((bytes, found)),
    }
}

fn describe(store: &dyn Store, chosen: Candidate<DockerImage>) -> Result<Found, OciError> {
    let image = chosen.item;
    let (raw_config, id) = configuration(store, &image.config)?;
    let mut layers = Vec::new();
    for blob in image.layers.unwrap_or_default() {
        let size = store.section(&blob, None)?.size();
        let digest = blob.strip_prefix("blobs/").and_then(digest_in);
        layers.push(StoredLayer { blob, digest, size, media_type: None });
    }
    Ok(Found { id, manifest: None, names: chosen.names, raw_config, config_name: image.config, layers })
}

/// The digest that a file is named after: `HEX.json`, `sha256:HEX`, `blobs/sha256/HEX`.
fn digest_in(name: &str) -> Option<Digest> {
    let last = name.rsplit('/').next()?;
    let hex = last.strip_suffix(".json").unwrap_or(last);
    format!("sha256:{}", hex.strip_prefix("sha256:").unwrap_or(hex)).parse().ok()
}
