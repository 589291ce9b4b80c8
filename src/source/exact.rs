//! A daemon's images as their layers are stored: saved, not exported.
//!
//! A save has all extended attributes and whole timestamps, and nothing that a daemon adds to a container. It takes
//! longer: the daemon copies the image before it sends the first byte, and it sends layers that are here already.

use std::ffi::OsStr;
use std::path::Path;

use super::fill::Opened;
use super::image::{self, Current};
use super::layers;
use super::{Context, Details, SourceError};
use crate::cache::{DataRef, Entry};
use crate::docker::{Daemon, Image};
use crate::oci::{self, OciError, OpenOptions};
use crate::progress::Phase;

/// Opens an image by its layers; those that the cache does not have are read now.
pub(super) fn open(
    source: &OsStr,
    daemon: &Daemon,
    image: &Image,
    context: &Context<'_>,
) -> Result<Opened, SourceError> {
    let entry = match image::by_id(&image.id, Some(&image.platform), context)? {
        Some(entry) => entry,
        None => save(source, daemon, image, context)?,
    };
    let details = Details { names: image.names.clone(), ..details(&entry) };
    Ok(Opened::Known(Box::new(entry), Box::new(details)))
}

/// What an entry tells of a daemon's image.
///
/// It may have been made from an archive, and that from layers that were compressed. In how many bytes the daemon stores a
/// layer is not to be learnt without saving the image, so it is always its tar that is counted.
pub(super) fn details(entry: &Entry) -> Details {
    let mut details = Details::of(entry);
    for (layer, entry) in details.layers.iter_mut().zip(entry.layers()) {
        if let [DataRef::Own(tar)] = &entry.meta().data[..] {
            layer.size = tar.whole.size;
        }
    }
    details
}

/// The entry of an image, by way of its save.
fn save(source: &OsStr, daemon: &Daemon, image: &Image, context: &Context<'_>) -> Result<Entry, SourceError> {
    let progress = context.progress;
    progress.enter(Phase::Reading);
    let options = OpenOptions {
        platform: Some(image.platform.clone()),
        limits: context.limits(),
        progress: Some(progress),
        ..OpenOptions::new(context.cache.dir())
    };
    let stream = daemon.save(image)?;
    let current = Current::of(progress);
    current.add(&stream);
    let saved = oci::open_stream(stream, Path::new(source), &options);
    let mut saved = saved.map_err(|error| match error {
        OciError::Io { source: error, .. } if error.get_ref().is_some() => SourceError::stream(source, error),
        error => error.into(),
    })?;
    // An image that is saved by its id has lost its names.
    saved.names.clone_from(&image.names);
    // Kept under the id by which the daemon knows it, and by which it is looked for next time: where that is the digest
    // of a manifest or an index, what was saved does not tell it.
    layers::open_image(source, &image.id, &saved, context)
}
