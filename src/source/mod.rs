//! From what the user named to filesystems that can be served.
//!
//! [`open`] finds out what a source is, looks for it in the [cache](crate::cache), fills the cache if it is not there, and
//! gives a [`Source`]: an identity and a table of mounts, each with its [`Filesystem`]. This is where the
//! daemon and the cache meet; neither knows of the other. Knows nothing of FUSE or of the command line.

mod build;
mod build_on_demand;
mod container;
mod destinations;
mod error;
mod exact;
mod export_limit;
mod fill;
mod history;
mod image;
mod inventory;
mod layer_paths;
mod layers;
mod on_demand;
mod place;
mod remote;
mod single_paths;
mod spec;
mod tarball;
mod volume;
mod watched;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cache::{Cache, DataRef, Entry, text};
use crate::compress::Limits;
use crate::docker::{ContainerName, DockerError, Endpoint};
use crate::image::{Digest, ImageConfig, Platform};
use crate::index::{Filesystem, FillState};
use crate::oci::Reference;
use crate::progress::{Phase, Progress};

use self::fill::{Fill, Opened};
use self::layers::Packed;

pub use self::build::{Built, build};
pub use crate::cache::Kind;
pub(crate) use destinations::Destinations;
pub use error::SourceError;
pub use export_limit::ExportLimit;
pub use history::{LayerChange, LayerHistory, LayerUse};
pub use inventory::{EngineWatch, Inventory};
pub(crate) use single_paths::{Fetched, Found, SinglePaths};
pub use spec::{Spec, absolute};

/// What opening a source may need.
pub struct Context<'a> {
    /// Where finished filesystems are kept.
    pub cache: &'a Cache,
    /// The daemon's address, where the user gave one; else the environment says.
    pub host: Option<&'a str>,
    /// The platform that is wanted, where the user gave one.
    pub platform: Option<&'a Platform>,
    /// Bytes that one layer, or an archive that is compressed as a whole, may unpack to, where the user set a limit.
    pub max_size: Option<u64>,
    /// Registries, as `HOST[:PORT]`, that need no certificate, nor TLS at all.
    pub insecure_registries: &'a [String],
    /// Whether a daemon's image is to be got as its layers are stored, instead of as the daemon exports it.
    pub exact: bool,
    /// How many exports may be under way at one time, where that is limited.
    pub exports: Option<&'a ExportLimit>,
    /// Told how far things are, and asked whether to go on.
    pub progress: &'a Arc<Progress>,
}

impl<'a> Context<'a> {
    /// What most sources need: the daemon and the platform are those that the environment and the machine suggest.
    pub fn new(cache: &'a Cache, progress: &'a Arc<Progress>) -> Context<'a> {
        Context {
            cache,
            host: None,
            platform: None,
            max_size: None,
            insecure_registries: &[],
            exact: false,
            exports: None,
            progress,
        }
    }

    fn limits(&self) -> Limits {
        self.max_size.map(Limits::up_to).unwrap_or_default()
    }

    fn endpoint(&self) -> Result<Endpoint, SourceError> {
        Ok(Endpoint::from_environment(self.host)?)
    }
}

/// A source that was found and can be served.
pub struct Source {
    /// As the user spelled it, but for a path, which is absolute.
    pub spelled: OsString,
    /// What it is.
    pub kind: Kind,
    /// An image's id, or where a tar was and what it was.
    pub identity: String,
    /// What an image runs on.
    pub platform: Option<Platform>,
    /// What else is known, such as an image's names and configuration.
    pub details: Details,
    /// Its filesystems, by mount index. The root filesystem is the first.
    pub mounts: Vec<Mount>,
    /// What the user may want to be told about how the source was found.
    pub notes: Vec<String>,
    /// Where a container has the mounts.
    destinations: Arc<Destinations>,
    /// How it is found again, if it may become another thing.
    container: Option<container::Origin>,
    /// The build that it is of. Dropped after the mounts.
    #[expect(dead_code, reason = "it is held")]
    build: Option<build::BuildHold>,
}

/// What is kept with a cache entry, so that it is known without asking the daemon again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Details {
    /// An image's names: `NAME:TAG` first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// When an image was made, in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// What the name of an image in a registry means: the digest of its manifest, or of its index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// Bytes that an image takes, as the daemon reckons.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// How an image or a container is run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<ImageConfig>,
    /// What is known of a container besides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerDetails>,
    /// An image's layers, lowest first, where it was got as layers: the layer numbers of its filesystem count these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerDetails>,
    /// What is not shown as it is stored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Details {
    /// What was known of the source that an entry was made from.
    fn of(entry: &Entry) -> Details {
        serde_json::from_value(entry.meta().about.details.clone()).unwrap_or_default()
    }
}

/// What is known of one layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerDetails {
    /// The digest of its uncompressed tar.
    pub diff_id: Digest,
    /// The bytes of its blob, as it is stored; of a daemon's image, those of its tar.
    pub size: u64,
    /// The command that made it, by the image's history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
}

/// What is known of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerDetails {
    /// What it was doing when it was found: `running`, `exited`, …
    pub state: String,
    /// The image that it was made of.
    pub image: Digest,
    /// The moment of which its root filesystem is shown, in RFC 3339.
    pub snapshot: String,
}

/// One filesystem of a source, with its row of the mount table.
pub struct Mount {
    /// The name of its directory.
    pub name: String,
    /// Where a container has it; empty if nowhere, for what is shown beside.
    pub destination: String,
    /// What it is: `rootfs`, `volume`, `bind`, `tmpfs`, or the daemon's own word.
    pub kind: String,
    /// A volume's name, or where a bind comes from on the daemon's machine: for people, never a path to open.
    pub origin: Option<String>,
    /// Whether the container may not write to it.
    pub read_only: bool,
    /// The tree and its bytes, which may still be on their way.
    pub filesystem: Arc<Filesystem>,
    keep: Keep,
    single_paths: Option<SinglePaths>,
}

/// How far a mount has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountState {
    /// Nobody has looked into it.
    NotFetched,
    /// It is being read.
    Fetching,
    /// All of it is there.
    Ready,
    /// There is nothing to be read, for this reason: it is empty.
    Unavailable(String),
    /// It could not be read to its end, for this reason: what has come is there.
    Broken(String),
}

impl fmt::Display for MountState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MountState::NotFetched => f.write_str("not fetched"),
            MountState::Fetching => f.write_str("fetching"),
            MountState::Ready => f.write_str("ready"),
            MountState::Unavailable(why) => write!(f, "unavailable: {why}"),
            MountState::Broken(why) => write!(f, "broken: {why}"),
        }
    }
}

impl Mount {
    fn root(filesystem: Arc<Filesystem>, keep: Keep) -> Mount {
        Mount {
            name: ROOTFS.to_owned(),
            destination: "/".to_owned(),
            kind: ROOTFS.to_owned(),
            origin: None,
            read_only: false,
            filesystem,
            keep,
            single_paths: None,
        }
    }

    /// What brings single files of it as long as nothing else has been asked for.
    pub(crate) fn single_paths(&self) -> Option<&SinglePaths> {
        self.single_paths.as_ref().filter(|_| self.filesystem.state() == FillState::Dormant)
    }

    /// Why it, or the rest of it, will never come, if that is so.
    pub fn failure(&self) -> Option<&Arc<SourceError>> {
        match &self.keep {
            Keep::Entry(_) => None,
            Keep::Fill(fill) => fill.failure(),
        }
    }

    /// Whether it may be a single file, which stands in a directory of its own: the daemon does not say.
    pub fn may_be_file(&self) -> bool {
        !matches!(&*self.kind, ROOTFS | "volume" | "tmpfs")
    }

    /// Why it is shown empty, if that is because it cannot be read.
    pub(crate) fn unavailable(&self) -> Option<&SourceError> {
        self.failure().filter(|_| self.filesystem.state() == FillState::Ready).map(AsRef::as_ref)
    }

    /// How far it has come.
    pub fn state(&self) -> MountState {
        match (self.filesystem.state(), self.failure()) {
            (FillState::Dormant, _) => MountState::NotFetched,
            (FillState::Ready, None) => MountState::Ready,
            (FillState::Ready, Some(why)) => MountState::Unavailable(why.to_string()),
            (FillState::Broken, Some(why)) => MountState::Broken(why.to_string()),
            // One that is broken says why in a moment.
            (FillState::Filling | FillState::Broken, _) => MountState::Fetching,
        }
    }
}

/// What keeps a filesystem alive.
enum Keep {
    /// A cache entry, which is not evicted as long as this is held.
    Entry(Box<Entry>),
    /// The making of one.
    Fill(Box<Fill>),
}

/// The name of mount 0.
pub const ROOTFS: &str = "rootfs";

/// When the reading of a source begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// At once.
    Now,
    /// When something is asked for that needs it.
    WhenAsked,
}

/// Finds a source and begins to read it. It is ready to be served, though it may not be complete: see
/// [`Source::wait`].
pub fn open(source: &OsStr, context: &Context<'_>) -> Result<Source, SourceError> {
    find(source, Start::Now, context)
}

/// As [`open`], but an image that is not in the cache is read only once somebody asks for more than single files.
pub fn open_when_asked(source: &OsStr, context: &Context<'_>) -> Result<Source, SourceError> {
    find(source, Start::WhenAsked, context)
}

fn find(source: &OsStr, start: Start, context: &Context<'_>) -> Result<Source, SourceError> {
    let spec = Spec::parse(source)?;
    // What is kept is told to people who are elsewhere.
    let source = &*spec::absolute(source);
    let opened = match spec {
        Spec::Name(name) => return find_name(source, &name, start, context),
        Spec::Image(name) => return find_image(source, &name, start, context),
        Spec::Container(name) => return container::open(source, &name.parse()?, start, context),
        Spec::Remote(name) => {
            let found = remote::open(source, &name.parse()?, start, context)?;
            let mut opened = Source::of(source, found.opened, context)?;
            opened.notes.extend(found.note);
            if let Some(root) = opened.mounts.first_mut() {
                root.single_paths = found.single_paths;
            }
            return Ok(opened);
        }
        Spec::Volume(name) => return volume::open(source, &name, context),
        Spec::Local => return Err(SourceError::Many),
        Spec::Tar(path) => tarball::open(source, &path, context)?,
        Spec::Packed { transport, path, reference } => {
            let packed = Packed::new(&path, Some(transport), reference, context);
            packed.open(source, packed.find()?)?
        }
        Spec::Path { path, reference } => open_path(source, &path, reference, context)?,
    };
    Source::of(source, opened, context)
}

fn find_image(
    source: &OsStr,
    name: &str,
    start: Start,
    context: &Context<'_>,
) -> Result<Source, SourceError> {
    let (opened, single_paths) = image::open(source, &name.parse()?, start, context)?;
    let mut source = Source::of(source, opened, context)?;
    if let Some(root) = source.mounts.first_mut() {
        root.single_paths = single_paths;
    }
    Ok(source)
}

/// Finds an image by its name, or else a container.
fn find_name(source: &OsStr, name: &str, start: Start, context: &Context<'_>) -> Result<Source, SourceError> {
    let named = name.parse::<ContainerName>();
    match (find_image(source, name, start, context), named) {
        (Ok(mut image), Ok(named)) => {
            if container::exists(&named, context) {
                image.notes.push(format!(
                    "{name} is an image and a container; for the latter, write container:{name}"
                ));
            }
            Ok(image)
        }
        (Err(error), Ok(named)) if error.is_no_image() => {
            match container::open(source, &named, start, context) {
                Ok(mut container) => {
                    container.notes.push(format!("there is no image {name}, but a container"));
                    Ok(container)
                }
                // A name that no image can have is wrong, whatever became of the question for a container.
                Err(_) if matches!(error, SourceError::BadName(_)) => Err(error),
                Err(SourceError::Docker(DockerError::ContainerNotFound { .. })) => Err(error),
                Err(other) => Err(other),
            }
        }
        (image, _) => image,
    }
}

/// Opens what a path holds, which its content tells: an image, or the tar of a root filesystem.
fn open_path(
    source: &OsStr,
    path: &Path,
    reference: Option<Reference>,
    context: &Context<'_>,
) -> Result<Opened, SourceError> {
    // What was a tar when it was indexed still is, without another look.
    if let (None, Some(entry)) = (&reference, tarball::cached(path, context)?) {
        return Ok(Opened::Entry(Box::new(entry)));
    }
    let may_be_tar = reference.is_none() && !path.is_dir();
    let packed = Packed::new(path, None, reference, context);
    match packed.find() {
        Ok(found) => packed.open(source, found),
        // What is wrong with it, if anything, is told by whoever reads it as a tar.
        Err(SourceError::Oci(error)) if may_be_tar && !error.is_final() => {
            tarball::open(source, path, context)
        }
        Err(error) => Err(error),
    }
}

/// The names of a path from the root: without empty ones and `.`, and with `..` taken as text, which stops at the root.
pub(crate) fn clean(path: &[u8]) -> Vec<&[u8]> {
    let mut names = Vec::new();
    for name in path.split(|&b| b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    names
}

impl Source {
    fn of(spelled: &OsStr, opened: Opened, context: &Context<'_>) -> Result<Source, SourceError> {
        let (content, details, filesystem, keep) = match opened {
            Opened::Entry(entry) => {
                let details = Box::new(Details::of(&entry));
                return Source::of(spelled, Opened::Known(entry, details), context);
            }
            Opened::Known(entry, details) => {
                context.progress.enter(Phase::Done);
                let filesystem = Arc::new(entry.filesystem()?);
                (entry.meta().content.clone(), *details, filesystem, Keep::Entry(entry))
            }
            Opened::Filling(filesystem, fill) => {
                (fill.content().clone(), fill.details().clone(), filesystem, Keep::Fill(fill))
            }
        };
        Ok(Source {
            spelled: spelled.to_owned(),
            kind: content.kind,
            identity: content.identity,
            platform: content.platform,
            notes: details.notes.clone(),
            details,
            mounts: vec![Mount::root(filesystem, keep)],
            destinations: Arc::default(),
            container: None,
            build: None,
        })
    }

    /// The error for whoever asks for its layers in vain.
    pub(crate) fn has_no_layers(&self) -> SourceError {
        let container = self.details.container.as_ref();
        SourceError::NoLayers {
            source_name: self.spelled.clone(),
            kind: self.kind,
            image: container.map(|container| container.image.to_string()),
        }
    }

    /// The archive of the user's that is served where it lies, if it is one.
    pub fn archive_in_place(&self) -> Option<&Path> {
        let root = self.mounts.first()?;
        match &root.keep {
            Keep::Entry(entry) => entry.meta().data.iter().find_map(|data| match data {
                DataRef::Borrowed { path, .. } => Some(&**path),
                _ => None,
            }),
            Keep::Fill(fill) => fill.archive_in_place(),
        }
    }

    /// The entry of the cache that all of it comes from, if there was one when it was opened.
    pub fn entry(&self) -> Option<&Entry> {
        match self.mounts.as_slice() {
            [Mount { keep: Keep::Entry(entry), .. }] => Some(entry),
            _ => None,
        }
    }

    /// Where a container has each of the mounts: what is not what [`Mount::destination`] says where that leads through a symlink
    /// of the root filesystem.
    pub(crate) fn destinations(&self) -> &Arc<Destinations> {
        &self.destinations
    }

    /// Waits until everything that is being read is in the cache.
    pub fn wait(&mut self) -> Result<(), SourceError> {
        for mount in &mut self.mounts {
            if let Keep::Fill(fill) = &mut mount.keep {
                fill.wait()?;
            }
        }
        Ok(())
    }

    /// Whether it may become another thing, so that it can be [renewed](Source::renew).
    pub fn is_renewable(&self) -> bool {
        self.container.is_some()
    }

    /// Opens the same source as it is now. All of this one stays as it is.
    ///
    /// # Errors
    /// [`SourceError::Unchanging`], and as [`open`].
    pub fn renew(&self, context: &Context<'_>) -> Result<Source, SourceError> {
        match &self.container {
            Some(container) => container.open(&self.spelled, context),
            None => Err(SourceError::Unchanging(self.spelled.clone())),
        }
    }

    /// Whether anybody else has one of its filesystems.
    pub fn is_in_use(&self) -> bool {
        self.mounts.iter().any(|mount| Arc::strong_count(&mount.filesystem) > 1)
    }

    /// What of it will never come, and why: nothing, as long as all is well.
    pub fn failures(&self) -> Vec<String> {
        let broken = |(index, mount): (usize, &Mount)| match mount.state() {
            MountState::Broken(why) if index == 0 => Some(why),
            MountState::Broken(why) => {
                Some(SourceError::Unavailable { mount: mount.destination.clone(), why }.to_string())
            }
            _ => None,
        };
        self.mounts.iter().enumerate().filter_map(broken).collect()
    }

    /// The bytes of all files, where all of them are known; else what an image takes, as the daemon reckons.
    pub fn size(&self) -> Option<u64> {
        let known = |mount: &Mount| match mount.state() {
            MountState::Ready => Some(mount.filesystem.tree().summary().bytes),
            _ => None,
        };
        let sum =
            self.mounts.iter().map(known).try_fold(0, |sum: u64, bytes| Some(sum.saturating_add(bytes?)));
        sum.or(self.details.size)
    }

    /// What is run in it by default.
    pub fn command(&self) -> Vec<String> {
        self.details.config.as_ref().unwrap_or(&ImageConfig::default()).command()
    }

    /// The layers of an image that was got as layers, the lowest first, each with what it holds itself.
    ///
    /// To be used no longer than the source is held.
    pub fn layers(&self) -> Result<Vec<(&LayerDetails, Filesystem)>, SourceError> {
        let Some(Keep::Entry(entry)) = self.mounts.first().map(|mount| &mount.keep) else {
            return Ok(Vec::new());
        };
        let layers = self.details.layers.iter().zip(entry.layers());
        layers.map(|(details, entry)| Ok((details, entry.filesystem()?))).collect()
    }

    /// What `.imagefs.json` says.
    pub fn describe(&self) -> serde_json::Value {
        let mounts: Vec<_> = self
            .mounts
            .iter()
            .enumerate()
            .map(|(index, mount)| {
                serde_json::json!({
                    "index": index,
                    "name": mount.name,
                    "destination": mount.destination,
                    "type": mount.kind,
                    "source": mount.origin,
                    "read_only": mount.read_only,
                    "state": mount.state().to_string(),
                })
            })
            .collect();
        serde_json::json!({
            "source": text::serialize(&self.spelled, serde_json::value::Serializer).unwrap_or_default(),
            "kind": self.kind.name(),
            "identity": self.identity,
            "platform": self.platform.as_ref().map(Platform::to_string),
            "names": self.details.names,
            "created": self.details.created,
            "config": self.details.config,
            "container": self.details.container,
            "layers": self.details.layers,
            "mounts": mounts,
        })
    }
}
