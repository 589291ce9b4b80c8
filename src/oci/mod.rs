//! Images without a daemon: docker-archive, OCI layout, OCI archive, registry → configuration and ordered layers.
//!
//! [`find`] says what a path holds; [`Images::choose`] takes the image that is meant and verifies everything that describes
//! it; [`OciImage::layer`] gives each layer as an uncompressed tar that is verified while it is read. No file of an image is
//! unpacked, and no path of the host is built from what an image says: blobs are found by openat2(2) beneath the
//! layout's directory (Linux 5.6) or within the archive.
//!
//! May import [`crate::compress`], [`crate::image`], [`crate::progress`], [`crate::registry`] and [`crate::tarfile`], nothing else
//! of the crate: layers are merged and kept elsewhere.

mod archive;
mod choose;
mod docker_archive;
mod error;
mod layer;
mod layout;
mod remote;
mod spec;
mod store;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

pub use choose::Reference;
pub use error::OciError;
pub use layer::LayerStream;
pub use remote::open_remote;
pub use spec::History;

use crate::compress::Limits;
use crate::image::{Digest, ImageConfig, Platform};
use crate::progress::Progress;
use archive::Archive;
use spec::ConfigFile;
use store::{Directory, Store};

/// How many indexes may stand between `index.json` and a manifest.
const MAX_INDEX_DEPTH: usize = 4;

/// How an image is packed, by the names of containers-transports(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A tar with a `manifest.json`: `docker-archive:`.
    DockerArchive,
    /// A directory with an `oci-layout` file: `oci:`.
    OciDir,
    /// A tar of such a directory: `oci-archive:`.
    OciArchive,
}

/// What is to be opened, and how far it may be trusted.
#[derive(Clone, Debug)]
pub struct OpenOptions<'a> {
    /// How it is packed; `None` to find out.
    pub transport: Option<Transport>,
    /// Which image of several.
    pub reference: Option<Reference>,
    /// For which platform: an image for any other is an error. `None` prefers this machine's, and takes an only
    /// image whatever it is for.
    pub platform: Option<Platform>,
    /// What may be unpacked.
    pub limits: Limits,
    /// Where an archive that is compressed as a whole is unpacked to, as a file without a name that ends with
    /// the image. It takes as much room as the archive unpacked.
    pub spool: &'a Path,
    /// Told how far that unpacking is, and asked whether to go on.
    pub progress: Option<&'a Progress>,
}

impl<'a> OpenOptions<'a> {
    /// Recognise the transport, want the only image, for this machine if there is a choice, within the usual limits.
    pub fn new(spool: &'a Path) -> OpenOptions<'a> {
        let limits = Limits::default();
        OpenOptions { transport: None, reference: None, platform: None, limits, spool, progress: None }
    }
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The digest of its uncompressed tar.
    pub diff_id: Digest,
    /// The digest of the blob, where the image declares one.
    pub digest: Option<Digest>,
    /// The bytes of the blob, as it is stored.
    pub size: u64,
    /// The blob's media type, where the image declares one.
    pub media_type: Option<String>,
    /// The command that made it, by the image's history.
    pub created_by: Option<String>,
    blob: String,
}

/// An image whose description is verified; its layers are not yet.
#[derive(Debug)]
pub struct OciImage {
    /// The digest of the configuration: what docker calls the image's id.
    pub id: Digest,
    /// The digest of the manifest; a docker-archive has none.
    pub manifest: Option<Digest>,
    /// The names it goes by in its archive or layout.
    pub names: Vec<String>,
    /// What it is for, by its configuration; `unknown` where that does not say.
    pub platform: Platform,
    /// When it was made, in RFC 3339, where its configuration says so.
    pub created: Option<String>,
    /// How it is run.
    pub config: ImageConfig,
    /// The whole configuration as it is stored: JSON of which `id` is the digest.
    pub raw_config: Vec<u8>,
    /// How it was made, oldest step first.
    pub history: Vec<History>,
    /// Its layers, lowest first. The same layer may come more than once.
    pub layers: Vec<Layer>,
    store: Box<dyn Store>,
    limits: Limits,
    remote: bool,
}

/// The image that is meant, as its manifest describes it.
struct Found {
    id: Digest,
    manifest: Option<Digest>,
    names: Vec<String>,
    raw_config: Vec<u8>,
    config_name: String,
    layers: Vec<StoredLayer>,
}

impl Found {
    /// Whether the layers are those of the configuration, as far as can be told without unpacking any: `docker save` of Docker
    /// 25.0.0 lists others in `index.json` than in `manifest.json`.
    fn is_borne_out(&self, store: &dyn Store) -> bool {
        let Ok(file) = ConfigFile::parse(&self.raw_config, &self.config_name) else { return false };
        let diff_ids = file.rootfs.diff_ids.unwrap_or_default();
        diff_ids.len() == self.layers.len()
            && diff_ids.iter().zip(&self.layers).all(|(diff_id, layer)| match layer.digest {
                Some(digest) if store::is_plain(store, &layer.blob) => digest.to_string() == *diff_id,
                _ => true,
            })
    }
}

/// A layer as the manifest names it.
struct StoredLayer {
    blob: String,
    digest: Option<Digest>,
    size: u64,
    media_type: Option<String>,
}

impl OciImage {
    /// Reads what the configuration says and holds it against what the manifest says.
    fn new(found: Found, store: Box<dyn Store>, limits: Limits) -> Result<OciImage, OciError> {
        let Found { id, manifest, names, raw_config, config_name, layers } = found;
        let file = ConfigFile::parse(&raw_config, &config_name)?;
        let invalid = |reason| OciError::Invalid { blob: config_name.clone(), reason };
        if file.rootfs.kind != "layers" {
            let kind = &file.rootfs.kind;
            return Err(invalid(format!("its rootfs is of type {kind:?}, not \"layers\"")));
        }
        let platform = file.platform();
        let diff_ids = file.rootfs.diff_ids.unwrap_or_default();
        if diff_ids.len() != layers.len() {
            let (ids, layers) = (diff_ids.len(), layers.len());
            return Err(invalid(format!("it has {ids} diff ids, but the manifest has {layers} layers")));
        }
        let history = file.history.unwrap_or_default();
        let mut makers: Vec<_> = history.iter().filter(|h| !h.empty_layer).map(|h| &h.created_by).collect();
        // A history that does not fit the layers says nothing about any of them.
        if makers.len() != layers.len() {
            makers.clear();
        }
        let layers = layers
            .into_iter()
            .zip(diff_ids)
            .enumerate()
            .map(|(i, (StoredLayer { blob, digest, size, media_type }, diff_id))| {
                let diff_id = diff_id.parse().map_err(|_| OciError::BadDigest {
                    within: config_name.clone(),
                    digest: diff_id.chars().take(100).collect(),
                })?;
                let created_by = makers.get(i).copied().cloned().flatten();
                Ok(Layer { diff_id, digest, size, media_type, created_by, blob })
            })
            .collect::<Result<_, OciError>>()?;
        let (created, config) = (file.created, file.config.unwrap_or_default());
        Ok(OciImage {
            id,
            manifest,
            names,
            platform,
            created,
            config,
            raw_config,
            history,
            layers,
            store,
            limits,
            remote: false,
        })
    }

    /// Whether its layers are fetched when they are read. Then the bytes of their blobs are counted by the progress that it was
    /// opened with.
    pub fn is_remote(&self) -> bool {
        self.remote
    }

    /// The file of the user's that all of it was unpacked from, if that was so.
    pub fn unpacked_from(&self) -> Option<&File> {
        self.store.unpacked_from()
    }

    /// The tar of a layer of [`layers`](OciImage::layers), unpacked and verified while it is read.
    pub fn layer(&self, layer: &Layer) -> Result<LayerStream, OciError> {
        let section = self.store.section(&layer.blob, Some(layer.size))?;
        LayerStream::new(section, layer.digest, layer.diff_id, self.limits)
    }
}

/// What a path holds, before one image of it is chosen.
#[derive(Debug)]
pub struct Images {
    store: Box<dyn Store>,
    path: PathBuf,
    transport: Transport,
    limits: Limits,
}

/// Finds out how `path` holds images. An archive that is compressed as a whole is unpacked for that.
///
/// Where the user does not say, its content does. A tar is one of images if it has a `manifest.json` of docker's or an
/// `oci-layout` with an `index.json`, and no directory that root filesystems have at their top (`etc`, `usr`, …).
///
/// # Errors
/// [`OciError::NotAnImage`] for a tar that holds none, and so is a root filesystem.
pub fn find(path: &Path, options: &OpenOptions<'_>) -> Result<Images, OciError> {
    let (store, transport): (Box<dyn Store>, _) = match options.transport {
        Some(Transport::OciDir) => (Box::new(Directory::open(path)?), Transport::OciDir),
        Some(transport) => (Box::new(Archive::open(path, options)?), transport),
        None if is_directory(path)? => (Box::new(Directory::open(path)?), Transport::OciDir),
        None => match Archive::recognise(path, options)? {
            Some((archive, transport)) => {
                let transport = fuller(&archive, path, transport);
                (Box::new(archive), transport)
            }
            None => return Err(OciError::NotAnImage(path.to_owned())),
        },
    };
    Ok(Images { store, path: path.to_owned(), transport, limits: options.limits })
}

/// Opens an image: [`find`] and [`Images::choose`] in one.
pub fn open(path: &Path, options: &OpenOptions<'_>) -> Result<OciImage, OciError> {
    find(path, options)?.choose(options.reference.as_ref(), options.platform.as_ref())
}

impl Images {
    /// How they are packed.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Opens the image that is meant. See [`OpenOptions`] for what it is chosen by.
    pub fn choose(
        self,
        reference: Option<&Reference>,
        platform: Option<&Platform>,
    ) -> Result<OciImage, OciError> {
        let docker = || docker_archive::open(&*self.store, &self.path, reference, platform);
        let found = match self.transport {
            Transport::DockerArchive => docker()?,
            Transport::OciDir => layout::open(&*self.store, &self.path, reference, platform)?,
            Transport::OciArchive => {
                let found = layout::open(&*self.store, &self.path, reference, platform);
                let is_wrong = match &found {
                    Ok(found) => !found.is_borne_out(&*self.store),
                    Err(error) => matches!(error, OciError::Invalid { .. } | OciError::Json { .. }),
                };
                match is_wrong.then(docker) {
                    Some(Ok(other)) if other.is_borne_out(&*self.store) => other,
                    _ => found?,
                }
            }
        };
        OciImage::new(found, self.store, self.limits)
    }
}

/// Which list of an archive to go by. What `docker save` writes has two; an image that was saved by its id is missing in
/// the newer one, `index.json`: [moby#47210], [moby#51389].
///
/// [moby#47210]: https://github.com/moby/moby/issues/47210
/// [moby#51389]: https://github.com/moby/moby/issues/51389
fn fuller(store: &dyn Store, path: &Path, transport: Transport) -> Transport {
    match docker_archive::count(store, path) > layout::count(store, path) {
        true => Transport::DockerArchive,
        false => transport,
    }
}

/// Opens an image that comes as a docker-archive in a stream, such as a daemon's; `name` is what errors call it.
///
/// All of the stream is read, and kept in a file in [`OpenOptions::spool`] that ends with the image.
pub fn open_stream(stream: impl Read, name: &Path, options: &OpenOptions<'_>) -> Result<OciImage, OciError> {
    let store = Box::new(Archive::copy(stream, name, options)?);
    let (path, transport) = (name.to_owned(), Transport::DockerArchive);
    let images = Images { store, path, transport, limits: options.limits };
    images.choose(options.reference.as_ref(), options.platform.as_ref())
}

fn is_directory(path: &Path) -> Result<bool, OciError> {
    match path.metadata() {
        Ok(metadata) => Ok(metadata.is_dir()),
        Err(source) => Err(OciError::Io { doing: "open", path: path.to_owned(), source }),
    }
}
