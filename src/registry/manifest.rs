//! Manifests, by tag and by digest.

use sha2::{Digest as _, Sha256};

use super::repository::{Ask, Repository, Target};
use super::{RegistryError, RemoteName};
use crate::http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use crate::http::{HeaderMap, Method};
use crate::image::Digest;

/// What a manifest or an index may have, bytes: what registries take.
const MAX_MANIFEST: u64 = 4 << 20;

/// All that images are described by. A registry that is not told of one may deny that there is anything, or give another
/// thing than the tag means.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                        application/vnd.docker.distribution.manifest.list.v2+json, \
                        application/vnd.docker.distribution.manifest.v2+json";

/// Tags that are told where one is not there.
const NEAREST: usize = 5;

/// A manifest or an index, as it is stored.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Its bytes, of which [`digest`](Manifest::digest) is the digest.
    pub bytes: Vec<u8>,
    /// What the registry says that it is; empty where it does not say.
    pub media_type: String,
    /// The digest.
    pub digest: Digest,
}

impl Repository {
    /// The manifest that the name means. One by digest is verified.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] with the tags that are nearest, and whatever else may go wrong.
    pub fn manifest(&self) -> Result<Manifest, RegistryError> {
        match self.name().digest() {
            Some(digest) => self.manifest_by_digest(digest),
            None => self.get_manifest(self.name().tag(), None),
        }
    }

    /// The manifest of this digest, verified.
    pub fn manifest_by_digest(&self, digest: &Digest) -> Result<Manifest, RegistryError> {
        self.get_manifest(&digest.to_string(), Some(digest))
    }

    /// What the tag means now, without fetching it; `None` where the registry does not tell so.
    pub fn digest_of_tag(&self) -> Result<Option<Digest>, RegistryError> {
        let path = format!("manifests/{}", self.name().tag());
        let ask = Ask { method: Method::HEAD, target: Target::Api(&path), headers: accepted() };
        let response = self.ask(&ask)?.response;
        match response.status.as_u16() {
            200 => Ok(digest_header(&response.headers)),
            // What is wrong is told by the answer to a GET.
            400..=499 => Ok(None),
            _ => self.successful(response).map(|_| None),
        }
    }

    fn get_manifest(&self, reference: &str, expected: Option<&Digest>) -> Result<Manifest, RegistryError> {
        let path = format!("manifests/{reference}");
        let ask = Ask { method: Method::GET, target: Target::Api(&path), headers: accepted() };
        let response = self.ask(&ask)?.response;
        if response.status.as_u16() == 404 {
            return Err(self.not_found(reference, expected.is_none()));
        }
        let response = self.successful(response)?;
        let media_type = response.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let media_type =
            media_type.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim().to_owned();
        let told = digest_header(&response.headers);
        if response.body.expected().is_some_and(|size| size > MAX_MANIFEST) {
            return Err(self.bad(reference, format!("a manifest of more than {MAX_MANIFEST} bytes")));
        }
        let bytes = response.body.read_all(MAX_MANIFEST)?;
        let digest = Digest::from_bytes(Sha256::digest(&bytes).into());
        match expected.copied().or(told) {
            Some(expected) if expected != digest => {
                Err(RegistryError::WrongDigest { host: self.host(), expected, found: digest })
            }
            _ => Ok(Manifest { bytes, media_type, digest }),
        }
    }

    fn not_found(&self, reference: &str, by_tag: bool) -> RegistryError {
        let mut tags = match by_tag {
            true => self.tags().unwrap_or_default(),
            false => Vec::new(),
        };
        let distance = |tag: &String| strsim::osa_distance(tag, reference);
        tags.sort_by_cached_key(|tag| (distance(tag), tag.clone()));
        tags.truncate(NEAREST);
        let name: &RemoteName = self.name();
        let mark = if by_tag { ':' } else { '@' };
        let image = format!("{}{mark}{reference}", name.repository());
        RegistryError::NotFound { host: self.host(), image, tags }
    }
}

fn accepted() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
    headers
}

/// The digest that a registry tells, if it is one that can be compared.
fn digest_header(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.trim().parse().ok()
}
