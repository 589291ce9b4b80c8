//! Finding an image in the daemon's local storage.
//!
//! Must not import anything of the crate outside `docker` but its words.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use serde::Deserialize;

use super::client::{LIBPOD, encode};
use super::reference::{self, ImageName};
use super::{ByteStream, Daemon, DockerError, Engine};
use crate::image::{Digest, ImageConfig, Platform};

/// An image that the daemon has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// What it is known by, whatever its names: the digest of the image's configuration, or of its manifest
    /// or index where the daemon keeps images in containerd's store.
    pub id: Digest,
    pub(super) handle: ImageHandle,
    /// Its names: first `NAME:TAG`, then `NAME@sha256:…`, in the daemon's order. May be empty.
    pub names: Vec<String>,
    /// What it runs on.
    pub platform: Platform,
    /// Bytes that it takes, as the daemon reckons.
    pub size: u64,
    /// When it was made, if it says so.
    pub created: Option<Timestamp>,
    /// The digests of its uncompressed layers, lowest first.
    pub layers: Vec<Digest>,
    /// How it is to be run.
    pub config: ImageConfig,
}

/// What the daemon finds an image by. The digest of an index stands for several images, of which the platform chooses one; that
/// one's own digest is found by nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ImageHandle {
    pub id: Digest,
    /// Told to a daemon that keeps images in containerd's store; others take it amiss.
    pub platform: Option<Platform>,
}

/// The answer to `GET /images/{name}/json`, as far as it is of use.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    repo_tags: Option<Vec<String>>,
    repo_digests: Option<Vec<String>>,
    created: Option<String>,
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    size: Option<i64>,
    /// There where the daemon keeps images in containerd's store.
    descriptor: Option<Described>,
    #[serde(rename = "RootFS")]
    root_fs: Option<RootFs>,
    config: Option<ImageConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    layers: Option<Vec<Digest>>,
}

/// A descriptor of a manifest, or of an index of manifests.
#[derive(Deserialize)]
pub(super) struct Described {
    digest: Digest,
    platform: Option<DescribedPlatform>,
    annotations: Option<HashMap<String, String>>,
}

#[derive(Clone, Deserialize)]
struct DescribedPlatform {
    os: String,
    architecture: String,
    #[serde(default)]
    variant: String,
}

impl Described {
    /// What the manifest's image runs on.
    pub(super) fn into_platform(self) -> Option<Platform> {
        self.platform.map(Platform::from)
    }
}

impl From<DescribedPlatform> for Platform {
    fn from(DescribedPlatform { os, architecture, variant }: DescribedPlatform) -> Platform {
        Platform { os, architecture, variant }
    }
}

/// One element of the answer to `GET /images/json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    repo_tags: Option<Vec<String>>,
    descriptor: Option<Described>,
    /// Podman alone: of its manifest.
    digest: Option<String>,
}

/// The answer to `GET /images/{name}/json?manifests=1`, as far as it is of use.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedManifests {
    manifests: Option<Vec<InspectedManifest>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedManifest {
    descriptor: Described,
    available: Option<bool>,
    image_data: Option<ManifestImage>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ManifestImage {
    platform: Option<DescribedPlatform>,
}

/// The answer to Podman's own `GET /libpod/manifests/{name}/json`, as far as it is of use.
#[derive(Deserialize)]
struct ManifestList {
    manifests: Vec<Described>,
}

/// The annotation in which BuildKit notes the digest of an image's configuration, which it prints as the image's id.
const CONFIG_DIGEST: &str = "config.digest";

impl Daemon {
    /// Finds an image by name, digest, id or short id, in the daemon's local storage alone. One request, mostly.
    ///
    /// With `platform`, it must be for that one: of several that have the name, this one is found.
    ///
    /// # Errors
    /// [`DockerError::ImageNotFound`], after a second request to find a name that is near;
    /// [`DockerError::WrongPlatform`]; or what else keeps the daemon from answering.
    pub fn image(&self, name: &ImageName, platform: Option<&Platform>) -> Result<Image, DockerError> {
        let found = match self.inspect_image(name)? {
            Some(found) => found,
            None => match self.by_configuration(name)? {
                Some(found) => found,
                None => return Err(self.no_image(name)),
            },
        };
        match platform {
            Some(wanted) if !found.platform.satisfies(wanted) => self.for_platform(name, found, wanted),
            _ => Ok(found),
        }
    }

    /// The image that the daemon finds by this name.
    fn inspect_image(&self, name: &ImageName) -> Result<Option<Image>, DockerError> {
        // Podman takes a shortened id only without its algorithm.
        let digits = name.id_digits().filter(|digits| digits.len() < 64);
        let found = self.inspect_by(digits.unwrap_or(name.as_str()), "")?;
        // Without its algorithm, an id may be taken for a name.
        Ok(found.filter(|image| digits.is_none_or(|digits| image.id.hex().starts_with(digits))))
    }

    fn inspect_by(&self, name: &str, query: &str) -> Result<Option<Image>, DockerError> {
        let doing = format!("inspect the image {name}");
        let target = format!("/images/{}/json{query}", encode(name.as_bytes()));
        match self.client.get_json::<Inspected>(&target, &doing, self.client.patience.answer) {
            Err(DockerError::Refused { status: 404, .. }) => Ok(None),
            answer => {
                answer?.into_image().map(Some).map_err(|reason| DockerError::BadAnswer { doing, reason })
            }
        }
    }

    /// The image whose configuration has this id, in containerd's store, which knows images by their manifests: `docker build
    /// --quiet` prints the one, and the daemon finds the other.
    fn by_configuration(&self, name: &ImageName) -> Result<Option<Image>, DockerError> {
        let Some(digits) = name.as_id().filter(|_| self.engine == Engine::Docker) else {
            return Ok(None);
        };
        let is_it = |listed: &Listed| {
            let annotations = listed.descriptor.as_ref().and_then(|found| found.annotations.as_ref());
            let configuration = annotations.and_then(|annotations| annotations.get(CONFIG_DIGEST));
            configuration.and_then(|id| id.strip_prefix("sha256:")).is_some_and(|id| id.starts_with(digits))
        };
        let listed = self.list_images("?all=true")?;
        let ids: BTreeSet<&str> =
            listed.iter().filter(|listed| is_it(listed)).map(|listed| &*listed.id).collect();
        match ids.first() {
            Some(id) if ids.len() == 1 => self.inspect_by(id, ""),
            _ => Ok(None),
        }
    }

    /// Of several images that have a name, the one for a platform; `found` is the one that the daemon prefers.
    fn for_platform(&self, name: &ImageName, found: Image, wanted: &Platform) -> Result<Image, DockerError> {
        let other = match self.engine {
            Engine::Podman => self.in_manifest_list(name, wanted)?,
            Engine::Docker if found.handle.platform.is_some() => {
                let query = format!("?platform={}", encode(platform_json(wanted).as_bytes()));
                let other = self.inspect_by(&found.handle.id.to_string(), &query)?;
                other.map(|other| Image {
                    handle: ImageHandle { id: found.handle.id, platform: Some(wanted.clone()) },
                    ..other
                })
            }
            Engine::Docker => None,
        };
        other.filter(|other| other.platform.satisfies(wanted)).ok_or_else(|| DockerError::WrongPlatform {
            name: name.to_string(),
            wanted: Box::new(wanted.clone()),
            found: Box::new(found.platform),
            engine: self.engine,
        })
    }

    /// The image for a platform in a manifest list of Podman's, if it has been pulled or built.
    fn in_manifest_list(&self, name: &ImageName, wanted: &Platform) -> Result<Option<Image>, DockerError> {
        let doing = format!("inspect the manifest list {name}");
        let target = format!("{LIBPOD}/manifests/{}/json", encode(name.as_str().as_bytes()));
        let list: ManifestList = match self.client.get_json(&target, &doing, self.client.patience.answer) {
            // It is no list, or none that is here.
            Err(DockerError::Refused { .. } | DockerError::BadAnswer { .. }) => return Ok(None),
            answer => answer?,
        };
        let digests: Vec<String> = (list.manifests.into_iter())
            .map(|manifest| (manifest.digest.to_string(), manifest.into_platform()))
            .filter(|(_, platform)| platform.as_ref().is_some_and(|platform| platform.satisfies(wanted)))
            .map(|(digest, _)| digest)
            .collect();
        // Podman 4.3 lists nothing at all where it has a manifest list.
        let listed = self.list_images("?all=true").unwrap_or_default();
        let is_it = |listed: &&Listed| listed.digest.as_ref().is_some_and(|digest| digests.contains(digest));
        match listed.iter().find(is_it) {
            Some(listed) => self.inspect_by(&listed.id, ""),
            None => Ok(None),
        }
    }

    fn list_images(&self, query: &str) -> Result<Vec<Listed>, DockerError> {
        self.client.get_json(&format!("/images/json{query}"), "list the images", self.client.patience.answer)
    }

    /// An image with its layers as they are stored, as a docker-archive. The first read sends the request.
    ///
    /// The daemon writes a copy of all of it before it sends the first byte.
    ///
    /// # Errors
    /// [`DockerError::LayersNotStored`] where the daemon keeps images in containerd's store, and this one's layers are there
    /// unpacked alone; or the process has no descriptors left.
    pub fn save(&self, image: &Image) -> Result<ByteStream, DockerError> {
        let ImageHandle { id, platform } = &image.handle;
        let mut query = String::new();
        if let Some(platform) = platform {
            if !self.has_layers(image)? {
                let name = image.names.first().cloned().unwrap_or_else(|| image.id.to_string());
                return Err(DockerError::LayersNotStored {
                    name,
                    platform: Box::new(image.platform.clone()),
                });
            }
            query = format!("?platform={}", encode(platform_json(platform).as_bytes()));
        }
        let doing = format!("save the image {id}");
        self.client.get(&format!("/images/{id}/get{query}"), &doing, self.client.patience.first_byte)
    }

    /// Whether containerd's store has an image's layers as they were pulled. A layer that was there unpacked out of another
    /// blob is never fetched.
    fn has_layers(&self, image: &Image) -> Result<bool, DockerError> {
        let doing = format!("inspect the manifests of {}", image.handle.id);
        let target = format!("/images/{}/json?manifests=1", image.handle.id);
        let answer: InspectedManifests =
            self.client.get_json(&target, &doing, self.client.patience.answer)?;
        let is_it = |manifest: &InspectedManifest| {
            let platform = manifest.image_data.as_ref().and_then(|data| data.platform.clone());
            manifest.descriptor.digest == image.id
                || platform.is_some_and(|platform| Platform::from(platform).satisfies(&image.platform))
        };
        let manifest = answer.manifests.into_iter().flatten().find(is_it);
        // A daemon that does not say (before API 1.47) has to be tried.
        Ok(manifest.is_none_or(|manifest| manifest.available != Some(false)))
    }

    pub(super) fn image_not_found(&self, name: String) -> DockerError {
        DockerError::ImageNotFound { name, nearest: None, pull: None, engine: self.engine }
    }

    fn no_image(&self, name: &ImageName) -> DockerError {
        // The list serves the hint alone: without it, the image is no less absent.
        let listed = self.list_images("").unwrap_or_default();
        let tags: Vec<String> =
            listed.into_iter().flat_map(|image| image.repo_tags.unwrap_or_default()).collect();
        let nearest = reference::nearest(name.as_str(), tags.iter().map(String::as_str));
        DockerError::ImageNotFound {
            name: name.to_string(),
            nearest: nearest.map(str::to_owned),
            pull: (!name.may_be_id()).then(|| format!("{} pull {name}", self.engine.command())),
            engine: self.engine,
        }
    }
}

/// A platform as Docker takes it in a query.
fn platform_json(platform: &Platform) -> String {
    let mut json = serde_json::json!({ "os": platform.os, "architecture": platform.architecture });
    if !platform.variant.is_empty() {
        json["variant"] = platform.variant.clone().into();
    }
    json.to_string()
}

impl Inspected {
    fn into_image(self) -> Result<Image, String> {
        let named = |names: Option<Vec<String>>| {
            names.unwrap_or_default().into_iter().filter(|name| !name.starts_with("<none>"))
        };
        let lower = |text: Option<String>| text.unwrap_or_default().to_ascii_lowercase();
        let platform = Platform {
            os: lower(self.os),
            architecture: lower(self.architecture),
            variant: lower(self.variant),
        };
        let id = parse_id(&self.id)?;
        let handle = ImageHandle { id, platform: self.descriptor.is_some().then(|| platform.clone()) };
        Ok(Image {
            id,
            handle,
            names: named(self.repo_tags).chain(named(self.repo_digests)).collect(),
            platform,
            size: self.size.and_then(|size| size.try_into().ok()).unwrap_or(0),
            created: self.created.as_deref().and_then(parse_time),
            layers: self.root_fs.and_then(|root| root.layers).unwrap_or_default(),
            config: self.config.unwrap_or_default(),
        })
    }
}

/// An image's id. Podman leaves its algorithm out here and there.
pub(super) fn parse_id(text: &str) -> Result<Digest, String> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    format!("sha256:{hex}").parse().map_err(|error: crate::image::BadDigest| error.to_string())
}

/// A time as Go writes it. Go's zero time, in the year 1, means that there is none.
pub(super) fn parse_time(text: &str) -> Option<Timestamp> {
    text.parse().ok().filter(|_| !text.starts_with("0001-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_imported_image_says_little_and_is_read_all_the_same() {
        let id = "ab".repeat(32);
        let json = format!(
            r#"{{"Id":"{id}","RepoTags":["<none>:<none>"],"RepoDigests":null,"Created":"0001-01-01T00:00:00Z",
                "Os":"linux","Architecture":"amd64","Size":-1,"RootFS":{{"Type":"layers"}},"Config":null}}"#
        );
        let image = serde_json::from_str::<Inspected>(&json).unwrap().into_image().unwrap();
        assert_eq!(image.id.to_string(), format!("sha256:{id}"));
        assert_eq!(image.platform.to_string(), "linux/amd64");
        assert!(
            image.names.is_empty() && image.layers.is_empty() && image.created.is_none() && image.size == 0
        );
    }

    #[test]
    fn an_id_that_is_no_digest_is_refused() {
        for bad in ["", "sha256:", "../../../etc", "sha512:00"] {
            assert!(parse_id(bad).is_err(), "{bad}");
        }
    }
}
