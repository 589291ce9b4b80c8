//! Images in registries: found by tag or digest, and read layer by layer without a daemon.

use std::ffi::OsStr;
use std::sync::{Arc, Mutex};

use super::fill::{self, Opened};
use super::layer_paths::LayerPaths;
use super::layers;
use super::single_paths::SinglePaths;
use super::{Context, Details, SourceError, Start};
use crate::cache::{Cache, Content, Entry, Key, Kind, Obtained};
use crate::image::{Digest, Platform};
use crate::oci::{self, OciImage};
use crate::progress::{OnCancel, Phase, Progress};
use crate::registry::{Access, RemoteName, Repository};

/// An image of a registry, and what is known of it.
pub(super) struct Found {
    pub opened: Opened,
    /// What brings single files as long as it is not asked for more.
    pub single_paths: Option<SinglePaths>,
    /// What the user may want to be told.
    pub note: Option<String>,
}

/// Whatever is under way with one registry, to be ended as a whole: when the user loses patience, and when a part fails.
pub(super) struct Line {
    progress: Arc<Progress>,
    _on_cancel: OnCancel,
}

impl Line {
    fn new(progress: &Progress) -> Line {
        let own = Arc::new(Progress::new());
        let told = Arc::clone(&own);
        let on_cancel = progress.on_cancel(move || told.cancel());
        Line { progress: own, _on_cancel: on_cancel }
    }

    /// Ends whatever is under way.
    pub fn hang_up(&self) {
        self.progress.cancel();
    }
}

/// Opens an image. What is named by its digest and is in the cache is found without asking the registry; what is named by a
/// tag costs one request.
pub(super) fn open(
    source: &OsStr,
    name: &RemoteName,
    start: Start,
    context: &Context<'_>,
) -> Result<Found, SourceError> {
    context.progress.enter(Phase::Resolving);
    let platform = context.platform.cloned();
    let line = Line::new(context.progress);
    let access = Access { insecure: context.insecure_registries.to_vec() };
    let repository = Repository::new(name, &access, &line.progress);
    let by_tag = key(&format!("docker://{name}"), &platform);
    let by_digest = |digest: &Digest| key(&format!("manifest {digest}"), &platform);
    let known = |key: Key| known(context.cache, key);

    match name.digest() {
        Some(digest) => {
            if let Some((opened, _)) = known(by_digest(digest))? {
                return Ok(Found { opened, single_paths: None, note: None });
            }
        }
        None => {
            if let Some((opened, noted)) = known(by_tag)? {
                match repository.digest_of_tag() {
                    Ok(Some(digest)) if noted == Some(digest) => {
                        return Ok(Found { opened, single_paths: None, note: None });
                    }
                    Ok(_) => {}
                    Err(error) if error.is_unreachable() => {
                        let note = format!("{name} is shown as it was: it could not be checked ({error})");
                        return Ok(Found { opened, single_paths: None, note: Some(note) });
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }

    let root = repository.manifest()?;
    let root_digest = root.digest;
    if let Some((opened, _)) = known(by_digest(&root_digest))? {
        note(context.cache, &opened, by_tag, &root_digest);
        return Ok(Found { opened, single_paths: None, note: None });
    }
    let image = oci::open_remote(&repository, root, context.platform, context.limits(), context.progress)?;
    let mut details = layers::details(&image);
    details.manifest = Some(root_digest);
    let tag = name.digest().is_none().then_some(by_tag);
    let notes = Notes { by_digest: by_digest(&root_digest), by_tag: tag, details: details.clone() };
    let content = layers::content(&image.id, &image);
    // An image that is there but for its names is at hand.
    if start == Start::Now || context.cache.lookup(content.key())?.is_some() {
        let fetching = layers::Fetching { line: &line, grower: None };
        let entry = read(source, &image, context, fetching, &notes)?;
        let opened = Opened::Known(Box::new(entry), Box::new(details));
        return Ok(Found { opened, single_paths: None, note: None });
    }
    let (image, line) = (Arc::new(image), Arc::new(line));
    let paths = LayerPaths {
        source: source.to_owned(),
        image: Arc::clone(&image),
        line: Arc::clone(&line),
        cache: context.cache.clone(),
        max_size: context.max_size,
        progress: Arc::clone(context.progress),
        fetched: Mutex::default(),
    };
    let (source, cache, progress) = (source.to_owned(), context.cache.clone(), Arc::clone(context.progress));
    let max_size = context.max_size;
    let opened = fill::open_late(content, details, context, move |grower| {
        let context = Context { max_size, ..Context::new(&cache, &progress) };
        let fetching = layers::Fetching { line: &line, grower: Some(grower) };
        read(&source, &image, &context, fetching, &notes)
    });
    Ok(Found { opened, single_paths: Some(SinglePaths::Layers(paths)), note: None })
}

/// What is written down once an image is in the cache, so that it is found again.
struct Notes {
    by_digest: Key,
    by_tag: Option<Key>,
    details: Details,
}

fn read(
    source: &OsStr,
    image: &OciImage,
    context: &Context<'_>,
    fetching: layers::Fetching<'_>,
    notes: &Notes,
) -> Result<Entry, SourceError> {
    let entry = layers::open_remote_image(source, image, context, fetching)?;
    if let Ok(note) = serde_json::to_vec(&notes.details) {
        entry.note(notes.by_digest, &note);
        if let Some(tag) = notes.by_tag {
            context.cache.note_alone(&entry, tag, &note);
        }
    }
    Ok(entry)
}

/// What an image is known by besides its configuration. The platform is part of it: one that is not asked for is this
/// machine's.
fn key(identity: &str, platform: &Option<Platform>) -> Key {
    let content = Content {
        kind: Kind::Image,
        identity: identity.to_owned(),
        platform: platform.clone(),
        layers: Vec::new(),
        obtained: Obtained::Layers,
    };
    content.key()
}

/// What is in the cache under a key, and the digest that its name meant.
fn known(cache: &Cache, key: Key) -> Result<Option<(Opened, Option<Digest>)>, SourceError> {
    let Some((entry, note)) = cache.noted(key)? else { return Ok(None) };
    let Ok(details) = serde_json::from_slice::<Details>(&note) else { return Ok(None) };
    let digest = details.manifest;
    Ok(Some((Opened::Known(Box::new(entry), Box::new(details)), digest)))
}

/// Writes down that a tag means what was found by its digest.
fn note(cache: &Cache, opened: &Opened, by_tag: Key, digest: &Digest) {
    if let Opened::Known(entry, details) = opened {
        let details = Details { manifest: Some(*digest), ..Details::clone(details) };
        if let Ok(note) = serde_json::to_vec(&details) {
            cache.note_alone(entry, by_tag, &note);
        }
    }
}
