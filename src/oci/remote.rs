//! An image in a registry: what a tag or a digest means → manifest → configuration and layers.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::choose::Candidate;
use super::error::OciError;
use super::spec::{self, Descriptor};
use super::store::{Section, Store, blob_name};
use super::{Limits, OciImage, layout};
use crate::image::{Digest, Platform};
use crate::progress::Progress;
use crate::registry::{Manifest, Repository};

/// How many documents are fetched for one image: an index may list many whose platform only they themselves tell.
const MAX_DOCUMENTS: usize = 64;

/// The blobs of a repository.
#[derive(Debug)]
struct Remote {
    repository: Repository,
    /// Documents that have come already.
    documents: Mutex<HashMap<Digest, Vec<u8>>>,
    progress: Arc<Progress>,
}

/// Opens an image of a repository, given what its name means: an index or a manifest. `progress` counts what is fetched of its
/// layers later.
///
/// # Errors
/// What is no image, or none for the platform: see [`OpenOptions::platform`](super::OpenOptions::platform).
pub fn open_remote(
    repository: &Repository,
    root: Manifest,
    platform: Option<&Platform>,
    limits: Limits,
    progress: &Arc<Progress>,
) -> Result<OciImage, OciError> {
    let name = repository.name().to_string();
    let descriptor = Descriptor {
        media_type: media_type(&root),
        digest: root.digest.to_string(),
        size: root.bytes.len() as u64,
        annotations: None,
        platform: None,
    };
    let found = Candidate {
        places: Vec::new(),
        names: vec![name.clone()],
        digest: Some(root.digest.to_string()),
        platform: None,
        item: descriptor,
    };
    let documents = Mutex::new(HashMap::from([(root.digest, root.bytes)]));
    let store = Remote { repository: repository.clone(), documents, progress: Arc::clone(progress) };
    let found = layout::descend(&store, Path::new(&name), vec![found], platform)?;
    Ok(OciImage { remote: true, ..OciImage::new(found, Box::new(store), limits)? })
}

/// What a registry says that a manifest is, where it says something that a manifest can be. Some have but a guess.
fn media_type(root: &Manifest) -> String {
    match spec::is_document(&root.media_type) {
        true => root.media_type.clone(),
        false => String::new(),
    }
}

impl Store for Remote {
    fn section(&self, name: &str, size: Option<u64>) -> Result<Section, OciError> {
        let hex = name.strip_prefix("blobs/sha256/").unwrap_or_default();
        let digest: Digest =
            format!("sha256:{hex}").parse().map_err(|_| OciError::Missing(name.to_owned()))?;
        Ok(Section::remote(self.repository.blob(&digest, size.unwrap_or(0)), name, &self.progress))
    }

    /// Each is a request.
    fn is_at_hand(&self) -> bool {
        false
    }

    /// Nobody knows before it is fetched.
    fn has(&self, _: &Digest) -> bool {
        true
    }

    fn described(&self, name: &str, descriptor: &Descriptor) -> Result<Vec<u8>, OciError> {
        let digest = descriptor.digest(name)?;
        {
            let documents = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(bytes) = documents.get(&digest) {
                return Ok(bytes.clone());
            }
            if documents.len() >= MAX_DOCUMENTS {
                let reason = "it lists too many images that do not tell their platform".to_owned();
                return Err(OciError::Invalid { blob: blob_name(&digest), reason });
            }
        }
        let bytes = match spec::is_document(&descriptor.media_type) {
            true => self.repository.manifest_by_digest(&digest)?.bytes,
            false => self.section(name, Some(descriptor.size))?.document()?,
        };
        self.documents.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, bytes.clone());
        Ok(bytes)
    }
}
