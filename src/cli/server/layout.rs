//! How what a source has is laid out at the mountpoint.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use super::options::MountOptions;
use crate::cli::output::error::{CommandError, Kind};
use crate::fuse::{Description, LayerLabel, Layers, View, ViewMount, ViewOptions};
use crate::index::{Ino, Timestamp};
use crate::source::{MountState, Source};

/// The source that is shown. Only the supervisor changes it.
pub type Shown = Arc<RwLock<Source>>;

/// The mounts of a source, as a view takes them.
pub fn view_mounts(source: &Source) -> Vec<ViewMount> {
    let mounts = source.mounts.iter().enumerate().map(|(index, mount)| ViewMount {
        name: mount.name.clone().into(),
        destinations: destinations(source, index),
        may_be_file: mount.may_be_file(),
        filesystem: Arc::clone(&mount.filesystem),
    });
    mounts.collect()
}

/// The paths that lead to a mount.
fn destinations(source: &Source, index: usize) -> Vec<PathBuf> {
    // What is shown beside a container is nowhere in it.
    if source.mounts.get(index).is_none_or(|mount| mount.destination.is_empty()) {
        return Vec::new();
    }
    let paths = source.destinations().spelled(index).map(|names| names.join(&b'/'));
    paths.map(|path| OsString::from_vec(path).into()).collect()
}

/// What `.imagefs.json` says of a source.
pub fn describe(source: &Source) -> Vec<u8> {
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
pub fn view(shown: &Shown, options: &MountOptions) -> Result<View, CommandError> {
    let source = &*shown.read().unwrap_or_else(PoisonError::into_inner);
    let replaceable = source.is_renewable();
    let changes = replaceable || source.mounts.iter().any(|mount| mount.state() != MountState::Ready);
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let description = if changes { description(shown) } else { describe(source).into() };
    let now = Timestamp {
        secs: i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX),
        nanos: since_epoch.subsec_nanos(),
    };
    lay_out(source, options, ViewOptions { description, replaceable, mtime: now, ..ViewOptions::default() })
}

/// The same of a source of which all is there, as it is now. The view's own files have the time of the root directory, so that the
/// same source gives the same view.
pub fn fixed_view(source: &Source, options: &MountOptions) -> Result<View, CommandError> {
    let mtime = source.mounts.first().and_then(|root| root.filesystem.tree().stat(Ino::ROOT).ok());
    let mtime = mtime.map_or_else(Timestamp::default, |root| root.mtime);
    let description = describe(source).into();
    lay_out(source, options, ViewOptions { description, mtime, ..ViewOptions::default() })
}

fn lay_out(source: &Source, options: &MountOptions, own: ViewOptions) -> Result<View, CommandError> {
    let layers = layers(source, options)?;
    let view_options = ViewOptions {
        flat: options.flat,
        symlinks: options.symlinks,
        xattrs: options.xattr,
        uid: options.uid,
        gid: options.gid,
        ..own
    };
    View::new(view_mounts(source), view_options)
        .and_then(|view| view.with_layers(layers))
        .map_err(|e| CommandError::new(Kind::Input, "cannot lay out the container mounts").caused_by(e))
}

/// What is to be told of the layers of a source.
fn layers(source: &Source, options: &MountOptions) -> Result<Layers, CommandError> {
    let known = &source.details.layers;
    if known.is_empty() && (options.layers || options.provenance) {
        return Err(source.has_no_layers().into());
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
                destinations: Vec::new(),
                may_be_file: false,
                filesystem: Arc::new(filesystem),
            });
        }
    }
    Ok(Layers { labels: labels.collect(), listed: options.provenance, shown })
}
