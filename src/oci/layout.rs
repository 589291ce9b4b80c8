//! The OCI image layout: `index.json` → nested indexes → manifest → configuration and layers.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::choose::{Candidate, Reference, by_platform, by_reference, labels};
use super::error::OciError;
use super::spec::{self, ConfigFile, Descriptor, Document};
use super::store::{Store, blob_name, document, verified};
use super::{Found, MAX_INDEX_DEPTH, StoredLayer};
use crate::image::{Digest, Platform};

const INDEX: &str = "index.json";

/// What a chosen manifest holds.
struct Manifest {
    digest: Digest,
    name: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// Finds the image that is meant.
pub(super) fn open(
    store: &dyn Store,
    path: &Path,
    reference: Option<&Reference>,
    platform: Option<&Platform>,
) -> Result<Found, OciError> {
    let mut listed = listed(store, path)?;
    if reference.is_none() {
        leave_out_artifacts(&mut listed, store, INDEX);
    }
    let found = by_reference(listed, reference, platform, path)?;
    descend(store, path, found, platform)
}

/// Finds the image for a platform among those that `found` lists, which are of `index.json` or what a tag means.
pub(super) fn descend(
    store: &dyn Store,
    path: &Path,
    mut found: Vec<Candidate<Descriptor>>,
    platform: Option<&Platform>,
) -> Result<Found, OciError> {
    let mut names = Vec::new();
    let mut within = INDEX.to_owned();
    let mut depth = 0;
    loop {
        let suitable = by_platform(narrow(found, store, &within, platform)?, platform)?;
        if depth == 0 && suitable.len() > 1 {
            return Err(OciError::SeveralImages { path: path.to_owned(), images: labels(&suitable) });
        }
        let none = || OciError::NotAnImage(path.to_owned());
        let Candidate { item: chosen, names: given, .. } = suitable.into_iter().next().ok_or_else(none)?;
        if depth == 0 {
            names = given;
        }
        let (bytes, name, digest) = verified(store, &chosen, &within)?;
        match spec::document(&bytes, &chosen.media_type, &name)? {
            Document::Manifest { config, layers } => {
                return describe(store, Manifest { digest, name, config, layers }, names);
            }
            Document::Index(_) if depth == MAX_INDEX_DEPTH => return Err(OciError::NestedTooDeep),
            Document::Index(entries) => {
                found = candidates(entries);
                if store.is_at_hand() {
                    leave_out_artifacts(&mut found, store, &name);
                }
                // A reference chooses among those of index.json alone.
                for candidate in &mut found {
                    candidate.places.clear();
                    candidate.names.clear();
                }
            }
        }
        within = name;
        depth += 1;
    }
}

/// How many images `index.json` lists; none where it cannot be read.
pub(super) fn count(store: &dyn Store, path: &Path) -> usize {
    listed(store, path).map_or(0, |images| images.len())
}

/// The images of `index.json`.
fn listed(store: &dyn Store, path: &Path) -> Result<Vec<Candidate<Descriptor>>, OciError> {
    let marker = document(store, "oci-layout").and_then(|_| document(store, INDEX));
    let index = match marker {
        Err(OciError::Missing(_)) => return Err(OciError::NotAnImage(path.to_owned())),
        other => other?,
    };
    let Document::Index(entries) = spec::document(&index, "", INDEX)? else {
        let reason = "it is not an image index".to_owned();
        return Err(OciError::Invalid { blob: INDEX.to_owned(), reason });
    };
    Ok(candidates(entries))
}

/// The images of an index, one that is listed several times taken once with all its names.
fn candidates(entries: Vec<Descriptor>) -> Vec<Candidate<Descriptor>> {
    let mut seen = HashMap::new();
    let mut known = HashSet::new();
    let mut candidates: Vec<Candidate<Descriptor>> = Vec::new();
    for (place, entry) in entries.into_iter().enumerate() {
        if entry.is_attestation() {
            continue;
        }
        let at = *seen.entry(entry.digest.clone()).or_insert(candidates.len());
        if at == candidates.len() {
            candidates.push(Candidate {
                places: Vec::new(),
                names: Vec::new(),
                digest: Some(entry.digest.clone()),
                // An index has the platforms of what it lists.
                platform: entry.platform.clone().filter(|_| !spec::is_index(&entry.media_type)),
                item: entry.clone(),
            });
        }
        if let Some(candidate) = candidates.get_mut(at) {
            candidate.places.push(place);
            let new = entry.names().filter(|name| known.insert((at, name.to_string())));
            candidate.names.extend(new.map(str::to_owned));
        }
    }
    candidates
}

/// Leaves out signatures, attestations, charts and the like, if there is anything else: nobody who asks for no one of them means
/// them.
fn leave_out_artifacts(candidates: &mut Vec<Candidate<Descriptor>>, store: &dyn Store, within: &str) {
    let is_image = |candidate: &Candidate<Descriptor>| {
        let Ok((bytes, name, _)) = verified(store, &candidate.item, within) else { return true };
        match spec::document(&bytes, &candidate.item.media_type, &name) {
            Ok(Document::Manifest { layers, .. }) => !spec::is_about_an_image(&layers),
            Ok(Document::Index(_)) => true,
            Err(error) => !matches!(error, OciError::Artifact { .. }),
        }
    };
    if candidates.len() > 1 {
        let images: Vec<bool> = candidates.iter().map(is_image).collect();
        if images.contains(&true) {
            let mut images = images.into_iter();
            candidates.retain(|_| images.next().unwrap_or(true));
        }
    }
}

/// Leaves out what is not in the layout (an index may list more than was saved), and finds out platforms.
fn narrow(
    mut candidates: Vec<Candidate<Descriptor>>,
    store: &dyn Store,
    within: &str,
    wanted: Option<&Platform>,
) -> Result<Vec<Candidate<Descriptor>>, OciError> {
    let present = |c: &Candidate<Descriptor>| c.item.digest(within).is_ok_and(|digest| store.has(&digest));
    if candidates.iter().any(present) {
        candidates.retain(present);
    }
    let several = candidates.len() > 1;
    if !several && wanted.is_none() {
        return Ok(candidates);
    }
    let mut images = Vec::with_capacity(candidates.len());
    for mut candidate in candidates {
        if candidate.platform.is_none() && !spec::is_index(&candidate.item.media_type) {
            candidate.platform = match configured_platform(store, &candidate.item, within) {
                // Signatures and the like may lie beside the image that they are about.
                Err(OciError::Artifact { .. }) if several => continue,
                platform => platform?,
            };
        }
        images.push(candidate);
    }
    Ok(images)
}

/// The platform that an image's configuration gives; `None` for an index, which has several.
fn configured_platform(
    store: &dyn Store,
    descriptor: &Descriptor,
    within: &str,
) -> Result<Option<Platform>, OciError> {
    let (bytes, name, _) = verified(store, descriptor, within)?;
    let Document::Manifest { config, .. } = spec::document(&bytes, &descriptor.media_type, &name)? else {
        return Ok(None);
    };
    let (bytes, name, _) = verified(store, &config, &name)?;
    Ok(Some(ConfigFile::parse(&bytes, &name)?.platform()))
}

fn describe(store: &dyn Store, manifest: Manifest, names: Vec<String>) -> Result<Found, OciError> {
    let (raw_config, config_name, id) = verified(store, &manifest.config, &manifest.name)?;
    let mut layers = Vec::with_capacity(manifest.layers.len());
    for layer in manifest.layers {
        let digest = layer.digest(&manifest.name)?;
        let blob = blob_name(&digest);
        spec::check_layer(&blob, &layer.media_type)?;
        store.section(&blob, Some(layer.size))?;
        layers.push(StoredLayer {
            blob,
            digest: Some(digest),
            size: layer.size,
            media_type: Some(layer.media_type),
        });
    }
    Ok(Found { id, manifest: Some(manifest.digest), names, raw_config, config_name, layers })
}
