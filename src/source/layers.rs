//! Images that are got as layers: each layer is an entry of the cache, which any number of images share, and an image
//! is their merge.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, BufRead};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::error::ContentProblem;
use super::fill::{self, Opened};
use super::remote::Line;
use super::watched::Watched;
use super::{Context, Details, LayerDetails, SourceError, tarball};
use crate::cache::{
    About, Claim, Content, Data, DataWriter, Entry, Filler, Key, Kind, Obtained, tar_identity,
};
use crate::image::Digest;
use crate::index::{FileIdentity, Grower, GrowingTree, Merge, write_index};
use crate::oci::{self, Images, Layer, OciImage, OpenOptions, Reference, Transport};
use crate::progress::{Phase, Progress};
use crate::tarfile::{EndMark, ScanError, Scanner, Tee};

/// An archive or a layout of images, and which of them is meant.
pub(super) struct Packed<'a> {
    path: &'a Path,
    transport: Option<Transport>,
    reference: Option<Reference>,
    /// What an archive is, before anything of it is read.
    file: Option<FileIdentity>,
    context: &'a Context<'a>,
}

/// What became of looking for an image.
pub(super) enum Found {
    /// It is in the cache, with what the archive says of it, and nobody has written to that since.
    Entry(Box<Entry>, Box<Details>),
    /// It is one of these.
    Images(Images),
}

impl<'a> Packed<'a> {
    /// Where the user does not say how the images are packed, their content does.
    pub fn new(
        path: &'a Path,
        transport: Option<Transport>,
        reference: Option<Reference>,
        context: &'a Context<'a>,
    ) -> Packed<'a> {
        Packed { path, transport, reference, file: tarball::identity(path), context }
    }

    /// Looks what there is. An archive that has to be unpacked for that is so once.
    pub fn find(&self) -> Result<Found, SourceError> {
        let Context { cache, progress, .. } = *self.context;
        progress.enter(Phase::Resolving);
        if let Some(file) = &self.file
            && let Some((entry, note)) = cache.noted(self.origin(file))?
            && let Ok(details) = serde_json::from_slice(&note)
        {
            return Ok(Found::Entry(Box::new(entry), details));
        }
        let options = OpenOptions {
            transport: self.transport,
            limits: self.context.limits(),
            progress: Some(progress),
            ..OpenOptions::new(cache.dir())
        };
        Ok(Found::Images(oci::find(self.path, &options)?))
    }

    /// Opens the image that is meant; what the cache does not have of it is read now.
    pub fn open(&self, source: &OsStr, found: Found) -> Result<Opened, SourceError> {
        let images = match found {
            Found::Entry(entry, details) => return Ok(Opened::Known(entry, details)),
            Found::Images(images) => images,
        };
        let image = images.choose(self.reference.as_ref(), self.context.platform)?;
        let entry = open_image(source, &image.id, &image, self.context)?;
        // The same image may be stored in another way elsewhere, and be called otherwise.
        let details = Box::new(Details { notes: Details::of(&entry).notes, ..details(&image) });
        // That the very file that was read is still what it was before holds for what was read in between.
        if let (Some(before), Some(file)) = (&self.file, image.unpacked_from())
            && FileIdentity::of(file).is_ok_and(|now| now == *before)
            && let Ok(note) = serde_json::to_vec(&details)
        {
            entry.note(self.origin(before), &note);
        }
        Ok(Opened::Known(Box::new(entry), details))
    }

    /// What the image is known by for as long as the archive is this file.
    fn origin(&self, file: &FileIdentity) -> Key {
        let content = Content {
            kind: Kind::Image,
            identity: format!("{} {:?} {:?}", tar_identity(file), self.transport, self.reference),
            platform: self.context.platform.cloned(),
            layers: Vec::new(),
            obtained: Obtained::File,
        };
        content.key()
    }
}

/// The entry of an image, to be known by `id`.
pub(super) fn open_image(
    source: &OsStr,
    id: &Digest,
    image: &OciImage,
    context: &Context<'_>,
) -> Result<Entry, SourceError> {
    let filler = match fill::claim(context.cache, content(id, image), context.progress)? {
        Claim::Entry(entry) => return Ok(entry),
        Claim::Filler(filler) => filler,
    };
    let open = |layer| open_layer(source, image, layer, None, context);
    let layers = image.layers.iter().map(open).collect::<Result<_, _>>();
    let entry = layers.and_then(|layers| put_together(source, image, layers, filler, context));
    // Where it came to nothing, the layers that were good have come to stay nevertheless.
    context.cache.trim();
    entry
}

/// What is fetched of a registry.
#[derive(Clone, Copy)]
pub(super) struct Fetching<'a> {
    /// Ends what is under way.
    pub line: &'a Line,
    /// Told that something comes, where somebody waits in a filesystem.
    pub grower: Option<&'a Grower>,
}

/// The entry of an image in a registry. Its layers are fetched side by side, the uppermost first, each once.
pub(super) fn open_remote_image(
    source: &OsStr,
    image: &OciImage,
    context: &Context<'_>,
    fetching: Fetching<'_>,
) -> Result<Entry, SourceError> {
    let filler = match fill::claim(context.cache, content(&image.id, image), context.progress)? {
        Claim::Entry(entry) => return Ok(entry),
        Claim::Filler(filler) => filler,
    };
    let layers = fetch_layers(source, image, context, fetching);
    let entry = layers.and_then(|layers| put_together(source, image, layers, filler, context));
    context.cache.trim();
    entry
}

/// How many layers are fetched at one time.
const SIDE_BY_SIDE: usize = 6;

/// The entries of all layers, lowest first.
fn fetch_layers(
    source: &OsStr,
    image: &OciImage,
    context: &Context<'_>,
    fetching: Fetching<'_>,
) -> Result<Vec<Entry>, SourceError> {
    let (mut here, mut missing) = (HashMap::new(), Vec::new());
    for layer in image.layers.iter().rev() {
        if here.contains_key(&layer.diff_id) || missing.iter().any(|m: &&Layer| m.diff_id == layer.diff_id) {
            continue;
        }
        match context.cache.lookup(layer_content(layer).key())? {
            Some(entry) => drop(here.insert(layer.diff_id, entry)),
            None => missing.push(layer),
        }
    }
    context.progress.expect_bytes(missing.iter().map(|layer| layer.size).sum());
    let (next, fetched) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let fetch = || {
        while let Some(layer) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = open_layer(source, image, layer, fetching.grower, context);
            let failed = result.is_err();
            fetched
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(result.map(|entry| (layer.diff_id, entry)));
            if failed {
                // The others would only be waited for.
                fetching.line.hang_up();
                break;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..missing.len().min(SIDE_BY_SIDE) {
            let spawned = std::thread::Builder::new().name("layer".into()).spawn_scoped(scope, fetch);
            // Where there is no room for a thread, those that are there do its work.
            if spawned.is_err() {
                break;
            }
        }
        fetch();
    });
    let fetched = fetched.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut cancelled = None;
    for result in fetched {
        match result {
            Ok((diff_id, entry)) => drop(here.insert(diff_id, entry)),
            // Those that were hung up on say no more than that.
            Err(error @ SourceError::Cancelled(_)) => cancelled = Some(error),
            Err(error) => return Err(error),
        }
    }
    if let Some(error) = cancelled {
        return Err(error);
    }
    let entry = |layer: &Layer| match here.remove(&layer.diff_id) {
        Some(entry) => Ok(entry),
        // It comes more than once.
        None => open_layer(source, image, layer, fetching.grower, context),
    };
    image.layers.iter().map(entry).collect()
}

/// What the entry of an image holds that is known by `id`.
pub(super) fn content(id: &Digest, image: &OciImage) -> Content {
    Content {
        kind: Kind::Image,
        identity: id.to_string(),
        platform: Some(image.platform.clone()),
        layers: image.layers.iter().map(|layer| layer.diff_id).collect(),
        obtained: Obtained::Layers,
    }
}

/// Makes the entry of an image out of those of its layers.
fn put_together(
    source: &OsStr,
    image: &OciImage,
    mut layers: Vec<Entry>,
    filler: Filler,
    context: &Context<'_>,
) -> Result<Entry, SourceError> {
    context.progress.enter(Phase::Finishing);
    let mut merge = Merge::new();
    for layer in &mut layers {
        context.progress.check()?;
        merge.add(layer.index()).map_err(|e| SourceError::content(source, e))?;
        layer.remap()?;
    }
    let tree = merge.finish().map_err(|e| SourceError::content(source, e))?;
    let of_layers = layers.iter().zip(&image.layers).flat_map(|(entry, layer)| {
        Details::of(entry).notes.into_iter().map(|note| format!("layer {}: {note}", layer.diff_id.short()))
    });
    let details = Details { notes: of_layers.collect(), ..details(image) };
    let layers = layers.into_iter().map(|layer| Data::Layer(Box::new(layer))).collect();
    publish(filler, &tree, source, details, layers)
}

/// What the entry of a layer holds.
fn layer_content(layer: &Layer) -> Content {
    Content {
        kind: Kind::Layer,
        identity: layer.diff_id.to_string(),
        platform: None,
        layers: Vec::new(),
        obtained: Obtained::Layers,
    }
}

/// The entry of one layer.
pub(super) fn open_layer(
    source: &OsStr,
    image: &OciImage,
    layer: &Layer,
    grower: Option<&Grower>,
    context: &Context<'_>,
) -> Result<Entry, SourceError> {
    let filler = match fill::claim(context.cache, layer_content(layer), context.progress)? {
        Claim::Entry(entry) => return Ok(entry),
        Claim::Filler(filler) => filler,
    };
    let progress = context.progress;
    progress.enter(Phase::Reading);
    let stream = match (image.is_remote(), grower) {
        (false, _) => Watched::new(image.layer(layer)?, progress),
        (true, grower) => Watched::counted(image.layer(layer)?, progress, grower),
    };
    let mut scanner = Scanner::new(Tee::new(stream, filler.create_data()?), EndMark::Unneeded);
    let grown = grow(&mut scanner, progress);
    let mut oddities = scanner.oddities().clone();
    let mut input = scanner.into_input();
    // A layer is verified once its end was seen; that it is another one explains whatever is wrong with it.
    drain(&mut input).map_err(|e| SourceError::stream(source, e))?;
    let tree = grown.map_err(|problem| match problem {
        ContentProblem::Scan(ScanError::Io(error)) => SourceError::stream(source, error),
        problem => SourceError::Layer { source_name: source.to_owned(), layer: layer.diff_id, problem },
    })?;
    let data = Data::Own(input.into_writer().finish());
    oddities.add(tree.oddities());
    let mut details = Details::default();
    if !oddities.is_empty() {
        tracing::warn!("layer {}: {oddities}", layer.diff_id);
        details.notes.push(oddities.to_string());
    }
    publish(filler, &tree, source, details, vec![data])
}

fn grow<R: BufRead>(
    scanner: &mut Scanner<Tee<R, DataWriter>>,
    progress: &Progress,
) -> Result<GrowingTree, ContentProblem> {
    let mut tree = GrowingTree::of_layer();
    while let Some(entry) = scanner.next_entry()? {
        fill::set_apart(scanner).map_err(|e| ScanError::Io(io::Error::other(e)))?;
        tree.insert(entry)?;
        progress.add_entries(1);
    }
    tree.finish()?;
    Ok(tree)
}

fn drain(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let n = match input.fill_buf() {
            Ok([]) => return Ok(()),
            Ok(bytes) => bytes.len(),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        input.consume(n);
    }
}

fn publish(
    filler: Filler,
    tree: &GrowingTree,
    source: &OsStr,
    details: Details,
    data: Vec<Data>,
) -> Result<Entry, SourceError> {
    let index = filler.create_index()?;
    let summary = write_index(tree, filler.key().as_bytes(), index).map_err(|e| filler.index_error(e))?;
    let about = About {
        source: source.to_owned(),
        entries: summary.entries,
        bytes: summary.bytes,
        details: serde_json::to_value(details).unwrap_or_default(),
    };
    Ok(filler.publish(about, data)?)
}

pub(super) fn details(image: &OciImage) -> Details {
    let layers = image.layers.iter().map(|layer| LayerDetails {
        diff_id: layer.diff_id,
        size: layer.size,
        created_by: layer.created_by.clone(),
    });
    Details {
        names: image.names.clone(),
        created: image.created.clone(),
        config: Some(image.config.clone()),
        layers: layers.collect(),
        ..Details::default()
    }
}
