//! The JSON of images: the [OCI image format][oci], [Docker's schema 2][docker] and docker-archive's `manifest.json`.
//!
//! Only the fields that are used here; every other is passed over, as both specifications ask.
//!
//! [oci]: https://github.com/opencontainers/image-spec/tree/v1.1.0
//! [docker]: https://distribution.github.io/distribution/spec/manifest-v2-2/

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::OciError;
use crate::image::{Digest, ImageConfig, Platform, lenient};

/// The most that an index, manifest or configuration may have, bytes.
pub(super) const MAX_DOCUMENT: u64 = 8 << 20;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+";

/// A pointer to a blob.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default)]
    pub(super) annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(super) platform: Option<Platform>,
}

impl Descriptor {
    /// The digest, if it is one; `within` is the document that it was found in.
    pub(super) fn digest(&self, within: &str) -> Result<Digest, OciError> {
        self.digest.parse().map_err(|_| OciError::BadDigest {
            within: within.to_owned(),
            digest: self.digest.chars().take(100).collect(),
        })
    }

    /// The names that writers of layouts give to an image.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        // The second is the tag alone where the first is there.
        ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
            .into_iter()
            .filter_map(|key| self.annotations.as_ref()?.get(key).map(String::as_str))
            .filter(|name| !name.is_empty())
    }

    /// Whether this is something about an image (BuildKit's provenance and SBOM), not an image.
    pub(super) fn is_attestation(&self) -> bool {
        self.annotations.as_ref().is_some_and(|a| {
            a.get("vnd.docker.reference.type").is_some_and(|kind| kind == "attestation-manifest")
        })
    }
}

/// An index or a manifest.
pub(super) enum Document {
    Index(Vec<Descriptor>),
    Manifest { config: Descriptor, layers: Vec<Descriptor> },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyDocument {
    #[serde(default)]
    schema_version: Option<u64>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    artifact_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

/// Reads an index or manifest. `declared` is the media type that the descriptor of it gave.
pub(super) fn document(bytes: &[u8], declared: &str, name: &str) -> Result<Document, OciError> {
    let blob = || name.to_owned();
    let invalid = |reason: &str| OciError::Invalid { blob: blob(), reason: reason.to_owned() };
    if declared.starts_with(SCHEMA1) {
        return Err(OciError::Schema1(blob()));
    }
    let any: AnyDocument =
        serde_json::from_slice(bytes).map_err(|source| OciError::Json { blob: blob(), source })?;
    if any.schema_version == Some(1) {
        return Err(OciError::Schema1(blob()));
    }
    // One document that reads as both would be one image here and another elsewhere: CVE-2021-41190.
    let media_type = any.media_type.unwrap_or_default();
    if !media_type.is_empty() && !declared.is_empty() && media_type != declared {
        return Err(invalid("its media type is not the one that its descriptor gives"));
    }
    let media_type = if media_type.is_empty() { declared } else { &media_type };
    let is_index = matches!(media_type, OCI_INDEX | DOCKER_INDEX);
    let is_manifest = matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST);
    match (any.manifests, any.config, any.layers) {
        (Some(manifests), None, None) if !is_manifest => Ok(Document::Index(manifests)),
        (None, Some(config), Some(layers)) if !is_index => {
            if matches!(config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG) {
                return Ok(Document::Manifest { config, layers });
            }
            let media_type = any.artifact_type.unwrap_or(config.media_type);
            Err(OciError::Artifact { blob: blob(), media_type })
        }
        _ if !is_index && !is_manifest && !media_type.is_empty() => {
            Err(OciError::Artifact { blob: blob(), media_type: media_type.to_owned() })
        }
        _ => Err(invalid("it is neither an image index nor an image manifest")),
    }
}

/// Whether a manifest's layers say that it is a signature or another thing about an image: cosign gives those the configuration
/// of an image.
pub(super) fn is_about_an_image(layers: &[Descriptor]) -> bool {
    !layers.is_empty()
        && layers
            .iter()
            .all(|layer| matches!(check_layer("", &layer.media_type), Err(OciError::UnknownLayer { .. })))
}

/// Whether the media type is that of an index, whose own platform means nothing.
pub(super) fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_INDEX)
}

/// Whether the media type is that of an index or a manifest, also of one that is too old to be read.
pub(super) fn is_document(media_type: &str) -> bool {
    is_index(media_type)
        || matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
        || media_type.starts_with(SCHEMA1)
}

/// Checks that a layer's media type is one of a layer that is at hand. How it is compressed, its bytes tell.
pub(super) fn check_layer(blob: &str, media_type: &str) -> Result<(), OciError> {
    const PLAIN: [&str; 2] =
        ["application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar"];
    const FOREIGN: [&str; 2] = [
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ];
    let base = ["+gzip", "+zstd", ".gzip", ".zstd"]
        .iter()
        .find_map(|suffix| media_type.strip_suffix(suffix))
        .unwrap_or(media_type);
    let (blob, media_type) = (blob.to_owned(), media_type.to_owned());
    if PLAIN.contains(&base) {
        Ok(())
    } else if FOREIGN.contains(&base) {
        Err(OciError::ForeignLayer { blob, media_type })
    } else {
        Err(OciError::UnknownLayer { blob, media_type })
    }
}

/// One image of a docker-archive's `manifest.json`. Every path is relative to the archive's root.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DockerImage {
    pub(super) config: String,
    #[serde(default)]
    pub(super) repo_tags: Option<Vec<String>>,
    pub(super) layers: Option<Vec<String>>,
}

/// Whether the bytes are a `manifest.json` of a docker-archive, and not some other program's.
pub(super) fn is_docker_manifest(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Vec<DockerImage>>(bytes).is_ok_and(|images| !images.is_empty())
}

/// The image configuration. But for the layers, nothing of it is needed to show files: what is odd is passed over.
#[derive(Debug, Deserialize)]
pub(super) struct ConfigFile {
    #[serde(default, deserialize_with = "lenient")]
    pub(super) created: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    pub(super) os: String,
    #[serde(default, deserialize_with = "lenient")]
    pub(super) architecture: String,
    #[serde(default, deserialize_with = "lenient")]
    pub(super) variant: String,
    #[serde(default, deserialize_with = "lenient")]
    pub(super) config: Option<ImageConfig>,
    pub(super) rootfs: Rootfs,
    #[serde(default, deserialize_with = "lenient")]
    pub(super) history: Option<Vec<History>>,
}

impl ConfigFile {
    pub(super) fn parse(bytes: &[u8], name: &str) -> Result<ConfigFile, OciError> {
        serde_json::from_slice(bytes).map_err(|source| OciError::Json { blob: name.to_owned(), source })
    }

    /// The platform; `unknown` where the image does not say.
    pub(super) fn platform(&self) -> Platform {
        let known = |word: &str| if word.is_empty() { "unknown" } else { word }.to_owned();
        Platform {
            os: known(&self.os),
            architecture: known(&self.architecture),
            variant: self.variant.clone(),
        }
    }
}

/// The digests of the unpacked layers, lowest first.
#[derive(Debug, Deserialize)]
pub(super) struct Rootfs {
    #[serde(rename = "type", default)]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) diff_ids: Option<Vec<String>>,
}

/// One step of an image's making.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// When, as RFC 3339.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The command that did it.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// What its author said about it.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether the step made no layer.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_reads_as_two_is_refused() {
        let config = format!(r#"{{"mediaType":"{OCI_CONFIG}","digest":"sha256:0","size":1}}"#);
        let both = format!(r#"{{"schemaVersion":2,"manifests":[],"config":{config},"layers":[]}}"#);
        assert!(matches!(document(both.as_bytes(), "", "m"), Err(OciError::Invalid { .. })));
        let index = format!(r#"{{"mediaType":"{OCI_INDEX}","manifests":[]}}"#);
        assert!(matches!(document(index.as_bytes(), OCI_MANIFEST, "m"), Err(OciError::Invalid { .. })));
        assert!(matches!(document(index.as_bytes(), OCI_INDEX, "m"), Ok(Document::Index(_))));
        let manifest = format!(r#"{{"config":{config},"layers":[]}}"#);
        assert!(matches!(document(manifest.as_bytes(), OCI_INDEX, "m"), Err(OciError::Invalid { .. })));
        assert!(matches!(document(manifest.as_bytes(), "", "m"), Ok(Document::Manifest { .. })));
    }

    #[test]
    fn what_is_no_image_is_named() {
        let schema1 = br#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#;
        assert!(matches!(document(schema1, "", "m"), Err(OciError::Schema1(_))));
        let chart = br#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json",
            "digest":"sha256:0","size":1},"layers":[]}"#;
        assert_eq!(
            document(chart, OCI_MANIFEST, "m").err().unwrap().to_string(),
            r#"m is an artifact of type "application/vnd.cncf.helm.config.v1+json", not an image"#
        );
    }

    #[test]
    fn layer_types_are_known_foreign_or_refused() {
        for known in [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ] {
            check_layer("l", known).unwrap();
        }
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        assert!(matches!(check_layer("l", foreign), Err(OciError::ForeignLayer { .. })));
        for unknown in ["", "application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "text/plain"] {
            assert!(matches!(check_layer("l", unknown), Err(OciError::UnknownLayer { .. })), "{unknown}");
        }
    }
}
