//! Finding an image in the daemon's local storage.
//!
//! Must not import anything of the crate outside `docker` but its words.

use jiff::Timestamp;
use serde::Deserialize;

use super::client::encode;
use super::reference::{self, ImageName};
use super::{Daemon, DockerError, Engine};
use crate::image::{Digest, ImageConfig, Platform};

/// An image that the daemon has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// What the daemon knows it by, whatever its names: the digest of the image's configuration, or of its manifest
    /// or index where the daemon keeps images in containerd's store.
    pub id: Digest,
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
    #[serde(rename = "RootFS")]
    root_fs: Option<RootFs>,
    config: Option<ImageConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    layers: Option<Vec<Digest>>,
}

/// One element of the answer to `GET /images/json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    repo_tags: Option<Vec<String>>,
}

impl Daemon {
    /// Finds an image by name, digest, id or short id, in the daemon's local storage alone. One request.
    ///
    /// With `platform`, the local image must be for that one.
    ///
    /// # Errors
    /// [`DockerError::ImageNotFound`], after a second request to find a name that is near;
    /// [`DockerError::WrongPlatform`]; or what else keeps the daemon from answering.
    pub fn image(&self, name: &ImageName, platform: Option<&Platform>) -> Result<Image, DockerError> {
        let doing = format!("inspect the image {name}");
        // Podman takes a shortened id only without its algorithm.
        let digits = name.id_digits().filter(|digits| digits.len() < 64);
        let target = format!("/images/{}/json", encode(digits.unwrap_or(name.as_str()).as_bytes()));
        let answer = self.client.get_json(&target, &doing, self.client.patience.answer);
        let inspected: Inspected = match answer {
            Err(DockerError::Refused { status: 404, .. }) => return Err(self.no_image(name)),
            answer => answer?,
        };
        let image = inspected.into_image().map_err(|reason| DockerError::BadAnswer { doing, reason })?;
        // Without its algorithm, an id may be taken for a name.
        if digits.is_some_and(|digits| !image.id.hex().starts_with(digits)) {
            return Err(self.no_image(name));
        }
        match platform {
            Some(wanted) if !image.platform.satisfies(wanted) => Err(DockerError::WrongPlatform {
                name: name.to_string(),
                wanted: Box::new(wanted.clone()),
                found: Box::new(image.platform),
            }),
            _ => Ok(image),
        }
    }

    fn no_image(&self, name: &ImageName) -> DockerError {
        let patience = self.client.patience.answer;
        let listed = self.client.get_json::<Vec<Listed>>("/images/json", "list the images", patience);
        // The list serves the hint alone: without it, the image is no less absent.
        let tags: Vec<String> = listed
            .unwrap_or_default()
            .into_iter()
            .flat_map(|image| image.repo_tags.unwrap_or_default())
            .collect();
        let nearest = reference::nearest(name.as_str(), tags.iter().map(String::as_str));
        let command = match self.engine {
            Engine::Docker => "docker",
            Engine::Podman => "podman",
        };
        DockerError::ImageNotFound {
            name: name.to_string(),
            nearest: nearest.map(str::to_owned),
            pull: (!name.may_be_id()).then(|| format!("{command} pull {name}")),
        }
    }
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
        Ok(Image {
            id: parse_id(&self.id)?,
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
