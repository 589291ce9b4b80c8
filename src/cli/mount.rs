use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use clap::Args;

use super::background::{self, Detached};
use super::error::{CommandError, Kind};
use super::mountpoint::Mountpoint;
use super::options::MountOptions;
use super::serve::{Prepared, serve};
use super::supervisor::Shown;
use super::{Context, SourceArgs};
use crate::fuse::{Description, LayerLabel, Layers, SessionConfig, View, ViewMount, ViewOptions};
use crate::index::Timestamp;
use crate::source::{self, MountState, Source, SourceError};

const EXAMPLES: &str = "\
Examples:
  imagefs mount python:3.12 /mnt/py            then look into /mnt/py/rootfs
  imagefs mount --mkdir -o flat debian deb     the root filesystem at ./deb
  imagefs mount ./rootfs.tar.zst /mnt/tar      a tar, plain, gzip, zstd or xz
  imagefs mount oci:DIR:latest /mnt/x          an image that no daemon has
  imagefs mount container:web /mnt/web         a container, with its volumes
  imagefs mount sha256:7c0b… /mnt/x            if cached, no daemon is asked

Mount options, given by -o as for mount(8):
  ro                 accepted; a mount is always read-only
  flat               the root filesystem at MOUNTPOINT, not MOUNTPOINT/rootfs
  symlinks=contain   links out of the image stay inside it (default)
  symlinks=raw       links as they are stored
  xattr=auto|on|off  extended attributes; auto (default): if there are any
  allow_other        let other users in; file permissions then apply to all
  uid=N, gid=N       show everything as owned by this user, this group
  suid, dev          setuid bits and device files take effect; root only
  exact              a daemon's image as its layers are stored: nothing added or
                     lost by the export, but it takes longer
  layers             also layers/00-DIFFID, …: what each layer holds by itself
  provenance         list what names a file's layer among its attributes
  fsname=NAME        what df(1) and mount(8) show as the source
  timeout=SECONDS    how long a read waits while nothing comes (default 30)

Unmount with `imagefs umount MOUNTPOINT`, or with plain umount.";

/// Mount an image, a container or a tar as a read-only directory tree
///
/// Returns when the mount answers; a server goes on in the background until it is unmounted. The first mount of an
/// image reads it from the daemon into the cache while it is being used; what is asked for before it has come is waited
/// for, or fetched alone. Later mounts have all of it at once. Nothing is pulled, and no container is started.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct MountArgs {
    /// A local image (a name, NAME@sha256:…, or an id, also a short one), container:NAME, or the path of a tar or an image
    /// layout
    ///
    /// What begins with /, ./ or ../, or is the name of a file or an image layout here, is a path, and what it holds is
    /// found out: a root filesystem, or an image as docker save, podman save, skopeo and others write it. Of several images,
    /// :NAME or :@NUMBER behind the path chooses one. Everything else is an image of the daemon's, or else a container. To
    /// say which, write docker-daemon:NAME, container:NAME, tar:PATH, docker-archive:PATH, oci-archive:PATH or oci:DIR.
    source: OsString,
    /// An empty directory
    mountpoint: PathBuf,
    /// Mount options, as for mount(8): see the end of --help
    #[arg(short, value_name = "OPTION[,…]")]
    options: Vec<String>,
    /// Stay in the foreground, and unmount on Ctrl-C
    ///
    /// SIGTERM unmounts, and so do SIGINT and SIGHUP unless they were ignored when the command was started: as SIGHUP by nohup, and
    /// SIGINT by a shell script that starts it with &. There, end it with kill or `imagefs umount`.
    #[arg(short, long)]
    foreground: bool,
    /// Wait until all of the source has been read, and fail if that fails
    #[arg(long)]
    wait: bool,
    /// Make MOUNTPOINT, and remove it after unmounting
    #[arg(long)]
    mkdir: bool,
    #[command(flatten)]
    source_args: SourceArgs,
}

impl MountArgs {
    /// Does it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let root = rustix::process::geteuid().is_root();
        let options = MountOptions::parse(&self.options, root)?;
        if !self.foreground && !context.global.server {
            return background::launch();
        }
        let detached = if context.global.server { Some(Detached::begin()?) } else { None };
        let cache = context.cache()?;
        let mountpoint = Mountpoint::check(&self.mountpoint, self.mkdir, cache.dir())?;
        serve(context, &self.source, &mountpoint, detached, |progress| {
            let mut source = source::open(
                &self.source,
                &source::Context { exact: options.exact, ..self.source_args.context(&cache, progress) },
            )?;
            source.notes.iter().for_each(|note| context.printer.note(note));
            if self.wait {
                source.wait()?;
            }
            let defaults = SessionConfig::new(&mountpoint.path);
            let config = SessionConfig {
                fsname: options.fsname.clone().map_or_else(|| self.source.clone(), OsString::from),
                allow_other: options.allow_other,
                suid: options.suid,
                dev: options.dev,
                timeout: options.timeout.unwrap_or(defaults.timeout),
                ..defaults
            };
            let source = Arc::new(RwLock::new(source));
            let view = view(&source, &options)?;
            Ok(Prepared { view, config, source, cache: cache.clone() })
        })
    }
}

/// The mounts of a source, as a view takes them.
pub fn view_mounts(source: &Source) -> Vec<ViewMount> {
    let mounts = source.mounts.iter().enumerate().map(|(index, mount)| ViewMount {
        name: mount.name.clone().into(),
        destination: (index > 0).then(|| mount.destination.clone().into()),
        may_be_file: mount.may_be_file(),
        filesystem: Arc::clone(&mount.filesystem),
    });
    mounts.collect()
}

/// What `.imagefs.json` says of a source.
fn describe(source: &Source) -> Vec<u8> {
    let mut told = source.describe();
    // Others may be let in who cannot ask the daemon, and a container's environment is where its secrets are.
    if source.is_renewable()
        && let Some(config) = told["config"].as_object_mut()
    {
        config.remove("Env");
    }
    // A JSON value is all text and numbers, which can be written.
    let mut text = serde_json::to_vec_pretty(&told).unwrap_or_default();
    text.push(b'\n');
    text
}

/// What `.imagefs.json` says of whatever is shown, as long as it is.
fn description(shown: &Shown) -> Description {
    // The view must not keep the source, which goes with the server.
    let shown = Arc::downgrade(shown);
    Description::Live(Arc::new(move || match shown.upgrade() {
        Some(shown) => describe(&shown.read().unwrap_or_else(PoisonError::into_inner)),
        None => Vec::new(),
    }))
}

/// Lays out what a source has as the options want it.
fn view(shown: &Shown, options: &MountOptions) -> Result<View, CommandError> {
    let source = &*shown.read().unwrap_or_else(PoisonError::into_inner);
    let replaceable = source.is_renewable();
    let changes = replaceable || source.mounts.iter().any(|mount| mount.state() != MountState::Ready);
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let layers = layers(source, options)?;
    let view_options = ViewOptions {
        flat: options.flat,
        symlinks: options.symlinks,
        xattrs: options.xattr,
        uid: options.uid,
        gid: options.gid,
        description: if changes { description(shown) } else { describe(source).into() },
        replaceable,
        mtime: Timestamp {
            secs: i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX),
            nanos: since_epoch.subsec_nanos(),
        },
    };
    View::new(view_mounts(source), view_options)
        .and_then(|view| view.with_layers(layers))
        .map_err(|e| CommandError::new(Kind::Input, "cannot lay out the container mounts").caused_by(e))
}

/// What is to be told of the layers of a source.
fn layers(source: &Source, options: &MountOptions) -> Result<Layers, CommandError> {
    let known = &source.details.layers;
    if known.is_empty() && (options.layers || options.provenance) {
        return Err(SourceError::NoLayers(source.spelled.clone()).into());
    }
    let labels = known.iter().enumerate().map(|(number, layer)| LayerLabel {
        layer: format!("{number} {}", layer.diff_id),
        created_by: layer.created_by.clone(),
    });
    let mut shown = Vec::new();
    if options.layers {
        let digits = known.len().saturating_sub(1).to_string().len().max(2);
        for (number, (layer, filesystem)) in source.layers()?.into_iter().enumerate() {
            shown.push(ViewMount {
                name: format!("{number:0digits$}-{}", layer.diff_id.short()).into(),
                destination: None,
                may_be_file: false,
                filesystem: Arc::new(filesystem),
            });
        }
    }
    Ok(Layers { labels: labels.collect(), listed: options.provenance, shown })
}
