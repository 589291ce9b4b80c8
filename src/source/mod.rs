//! From what the user named to filesystems that can be served.
//!
//! [`open`] finds out what a source is, looks for it in the [cache], fills the cache if it is not there, and
//! gives a [`Source`]: an identity and a table of mounts, each with its [`Filesystem`]. This is where the
//! daemon and the cache meet; neither knows of the other. Knows nothing of FUSE or of the command line.

mod ahead;
mod alone;
mod error;
mod exact;
mod fill;
mod image;
mod layers;
mod spec;
mod tarball;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Entry};
use crate::docker::Endpoint;
use crate::image::{Digest, Platform};
use crate::index::{Filesystem, FillState};
use crate::oci::{self, Limits, OciError, Reference};
use crate::progress::{Phase, Progress};

use self::fill::{Fill, Opened};

pub use crate::cache::Kind;
pub(crate) use alone::{Alone, Fetched, Found};
pub use error::SourceError;
pub use spec::Spec;

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
    /// Whether a daemon's image is to be got as its layers are stored, instead of as the daemon exports it.
    pub exact: bool,
    /// Told how far things are, and asked whether to go on.
    pub progress: &'a Arc<Progress>,
}

impl<'a> Context<'a> {
    /// What most sources need: the daemon and the platform are those that the environment and the machine suggest.
    pub fn new(cache: &'a Cache, progress: &'a Arc<Progress>) -> Context<'a> {
        Context { cache, host: None, platform: None, max_size: None, exact: false, progress }
    }

    fn limits(&self) -> Limits {
        let usual = Limits::default();
        Limits { max_unpacked: self.max_size.unwrap_or(usual.max_unpacked), ..usual }
    }

    fn endpoint(&self) -> Result<Endpoint, SourceError> {
        Ok(Endpoint::from_environment(self.host)?)
    }
}

/// A source that was found and can be served.
pub struct Source {
    /// As the user spelled it.
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
    keep: Keep,
    alone: Option<Alone>,
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
    /// An image's configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<crate::image::ImageConfig>,
    /// An image's layers, lowest first, where it was got as layers: the layer numbers of its filesystem count these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerDetails>,
}

/// What is known of one layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerDetails {
    /// The digest of its uncompressed tar.
    pub diff_id: Digest,
    /// The bytes of its blob, as it is stored.
    pub size: u64,
    /// The command that made it, by the image's history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
}

/// One filesystem of a source, with its row of the mount table.
pub struct Mount {
    /// The name of its directory.
    pub name: String,
    /// Where a container has it.
    pub destination: String,
    /// The tree and its bytes, which may still be on their way.
    pub filesystem: Arc<Filesystem>,
}

/// What keeps a source's filesystems alive.
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
    let (opened, alone) = match Spec::parse(source)? {
        Spec::Image(name) => image::open(source, &name.parse()?, start, context)?,
        Spec::Tar(path) => (tarball::open(source, &path, context)?, None),
        Spec::Packed { transport, path, reference } => {
            (layers::open(source, &path, transport, reference, context)?, None)
        }
        Spec::Path { path, reference } => (open_path(source, &path, reference, context)?, None),
    };
    Ok(Source { alone, ..Source::of(source, opened, context)? })
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
    match oci::detect(path, context.limits()) {
        Ok(Some(transport)) => layers::open(source, path, transport, reference, context),
        Err(error) if path.is_dir() || reference.is_some() => Err(error.into()),
        Ok(None) if reference.is_some() => Err(OciError::NotAnImage(path.to_owned()).into()),
        // What is wrong with it, if anything, is told by whoever reads it as a tar.
        Ok(None) | Err(_) => tarball::open(source, path, context),
    }
}

impl Source {
    fn of(spelled: &OsStr, opened: Opened, context: &Context<'_>) -> Result<Source, SourceError> {
        let (content, details, filesystem, keep) = match opened {
            Opened::Entry(entry) => {
                context.progress.enter(Phase::Done);
                let filesystem = Arc::new(entry.filesystem()?);
                let meta = entry.meta().clone();
                let details = serde_json::from_value(meta.about.details).unwrap_or_default();
                (meta.content, details, filesystem, Keep::Entry(entry))
            }
            Opened::Filling(filesystem, fill) => {
                (fill.content().clone(), fill.details().clone(), filesystem, Keep::Fill(fill))
            }
        };
        let mount = Mount { name: ROOTFS.to_owned(), destination: "/".to_owned(), filesystem };
        Ok(Source {
            spelled: spelled.to_owned(),
            kind: content.kind,
            identity: content.identity,
            platform: content.platform,
            details,
            mounts: vec![mount],
            keep,
            alone: None,
        })
    }

    /// Waits until everything is in the cache.
    pub fn wait(&mut self) -> Result<(), SourceError> {
        match &mut self.keep {
            Keep::Entry(_) => Ok(()),
            Keep::Fill(fill) => fill.wait(),
        }
    }

    /// Why something will never come, if that is so.
    pub fn failure(&self) -> Option<&str> {
        match &self.keep {
            Keep::Entry(_) => None,
            Keep::Fill(fill) => fill.failure(),
        }
    }

    /// The layers of an image that was got as layers, the lowest first, each with what it holds itself.
    ///
    /// To be used no longer than the source is held.
    pub fn layers(&self) -> Result<Vec<(&LayerDetails, Filesystem)>, SourceError> {
        let Keep::Entry(entry) = &self.keep else { return Ok(Vec::new()) };
        let layers = self.details.layers.iter().zip(entry.layers());
        layers.map(|(details, entry)| Ok((details, entry.filesystem()?))).collect()
    }

    /// What brings single files of mount 0 as long as nothing else has been asked for.
    pub(crate) fn alone(&self) -> Option<&Alone> {
        let dormant = |mount: &Mount| mount.filesystem.state() == FillState::Dormant;
        self.alone.as_ref().filter(|_| self.mounts.first().is_some_and(dormant))
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
                })
            })
            .collect();
        serde_json::json!({
            "source": self.spelled.to_string_lossy(),
            "kind": self.kind.name(),
            "identity": self.identity,
            "platform": self.platform.as_ref().map(Platform::to_string),
            "names": self.details.names,
            "created": self.details.created,
            "config": self.details.config,
            "layers": self.details.layers,
            "mounts": mounts,
        })
    }
}
