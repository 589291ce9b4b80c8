//! Images that a daemon has.

use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::fill::{self, Job};
use super::{Context, Details, SourceError};
use crate::cache::{Content, Entry, Kind, Obtained};
use crate::docker::{Daemon, HangUp, Image, ImageName};
use crate::image::Digest;
use crate::index::scan::EndMark;
use crate::progress::{Phase, Progress};

/// The mark that Docker puts into the root of every container. Images do not have it.
const ADDED_BY_THE_DAEMON: &[&[u8]] = &[b".dockerenv"];

/// The cache entry of an image, made if it is not there.
///
/// An image that is named by its whole id and is in the cache is found without asking the daemon.
pub(super) fn entry(source: &OsStr, name: &str, context: &Context<'_>) -> Result<Entry, SourceError> {
    context.progress.enter(Phase::Resolving);
    let name: ImageName = name.parse()?;
    if let Ok(id) = name.as_str().parse::<Digest>()
        && let Some(entry) = by_id(&id, context)?
    {
        return Ok(entry);
    }
    let daemon = Daemon::connect(&context.endpoint()?)?;
    let image = daemon.image(&name, context.platform)?;
    let content = Content {
        kind: Kind::Image,
        identity: image.id.to_string(),
        platform: Some(image.platform.clone()),
        layers: image.layers.clone(),
        obtained: Obtained::Export,
    };
    fill::claim(content, context, |filler| {
        if let Err(error) = daemon.sweep_orphans() {
            tracing::warn!("containers of killed runs may be left: {error}");
        }
        let container = daemon.throwaway(&image)?;
        let stream = container.export()?;
        let job = Job {
            source,
            details: details(&image),
            leave_out: ADDED_BY_THE_DAEMON,
            progress: context.progress,
        };
        let entry = hang_up_when_cancelled(stream.hang_up_handle(), context.progress, || {
            job.fill_from_stream(filler, stream, EndMark::Required)
        });
        // The container goes either way; what went wrong first is what the user has to know.
        let removed = container.remove();
        let entry = entry?;
        if let Err(error) = removed {
            tracing::warn!("a container is left: {error}");
        }
        Ok(entry)
    })
}

fn by_id(id: &Digest, context: &Context<'_>) -> Result<Option<Entry>, SourceError> {
    let id = id.to_string();
    Ok(context.cache.find(|meta| {
        let Content { kind, identity, platform, obtained, .. } = &meta.content;
        let fits = match (platform, context.platform) {
            (Some(has), Some(wanted)) => has.satisfies(wanted),
            _ => true,
        };
        *kind == Kind::Image && *identity == id && *obtained == Obtained::Export && fits
    })?)
}

fn details(image: &Image) -> Details {
    Details {
        names: image.names.clone(),
        created: image.created.map(|created| created.to_string()),
        config: Some(image.config.clone()),
    }
}

/// Does `work`, and meanwhile ends the stream as soon as the user has lost patience.
fn hang_up_when_cancelled<T>(hang_up: HangUp, progress: &Progress, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if progress.check().is_err() {
                    hang_up.hang_up();
                }
                std::thread::park_timeout(Duration::from_millis(100));
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        watcher.thread().unpark();
        result
    })
}
