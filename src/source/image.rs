//! Images that a daemon has.

use std::ffi::OsStr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use super::ahead;
use super::fill::{self, Bytes, Opened, Plan};
use super::{Context, Details, SourceError};
use crate::cache::{Content, Entry, Kind, Obtained};
use crate::docker::{ByteStream, Daemon, DockerError, HangUp, Image, ImageName};
use crate::image::Digest;
use crate::index::Order;
use crate::index::scan::EndMark;
use crate::progress::{Phase, Progress};

/// The mark that Docker puts into the root of every container. Images do not have it.
const ADDED_BY_THE_DAEMON: &[&[u8]] = &[b".dockerenv"];

/// Wishes that may be under way at one time.
const MAX_WISHES: usize = 1024;

/// Requests for single paths that the daemon is given at one time.
const AHEAD: usize = 4;

/// How long making a container may take before the mount is shown without it.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Opens an image, or starts to fetch it.
///
/// One that is named by its whole id and is in the cache is found without asking the daemon.
pub(super) fn open(source: &OsStr, name: &str, context: &Context<'_>) -> Result<Opened, SourceError> {
    context.progress.enter(Phase::Resolving);
    let name: ImageName = name.parse()?;
    if let Ok(id) = name.as_str().parse::<Digest>()
        && let Some(entry) = by_id(&id, context)?
    {
        return Ok(Opened::Entry(Box::new(entry)));
    }
    let daemon = Daemon::connect(&context.endpoint()?)?;
    let image = daemon.image(&name, context.platform)?;
    if context.exact {
        return super::exact::open(source, &daemon, &image, context);
    }
    let (wishes, wished) = sync_channel(MAX_WISHES);
    let plan = Plan {
        content: Content {
            kind: Kind::Image,
            identity: image.id.to_string(),
            platform: Some(image.platform.clone()),
            layers: image.layers.clone(),
            obtained: Obtained::Export,
        },
        source: source.to_owned(),
        details: details(&image),
        leave_out: ADDED_BY_THE_DAEMON,
        order: Order::DepthFirst,
        wishes: Some(wishes),
        patience: PATIENCE,
    };
    let bytes = |filler: &crate::cache::Filler| Ok(Bytes::Own(filler.create_data()?));
    fill::open(plan, context, bytes, move |job, bytes| {
        let Bytes::Own(writer) = bytes else { return Err(SourceError::NoStream) };
        if let Err(error) = daemon.sweep_orphans() {
            tracing::warn!("containers of killed runs may be left: {error}");
        }
        let container = daemon.throwaway(&image)?;
        job.ready();
        let (grower, progress) = (job.grower.clone(), std::sync::Arc::clone(&job.progress));
        let wished = Mutex::new(wished);
        let current = Current::default();
        let result = std::thread::scope(|scope| {
            for _ in 0..AHEAD {
                scope.spawn(|| ahead::serve(&wished, &daemon, &container, ADDED_BY_THE_DAEMON, &grower));
            }
            scope.spawn(|| current.watch(&progress));
            let result = job.run(writer, EndMark::Required, |_| {
                let stream = container.export()?;
                current.set(&stream);
                Ok::<Option<ByteStream>, SourceError>(Some(stream))
            });
            // Nobody waits for what will not come, so that the scope can end.
            if result.is_err() {
                grower.lose();
            }
            current.end();
            result
        });
        // The container goes either way; what went wrong first is what the user has to know.
        match (result, container.remove()) {
            (Ok(entry), Err(error)) => {
                tracing::warn!("a container is left: {error}");
                Ok(entry)
            }
            (result, _) => result,
        }
    })
}

/// The entry of an image, got in the way that is wanted now, if it is in the cache.
pub(super) fn by_id(id: &Digest, context: &Context<'_>) -> Result<Option<Entry>, SourceError> {
    let id = id.to_string();
    let wanted = if context.exact { Obtained::Layers } else { Obtained::Export };
    Ok(context.cache.find(|meta| {
        let Content { kind, identity, platform, obtained, .. } = &meta.content;
        let fits = match (platform, context.platform) {
            (Some(has), Some(wanted)) => has.satisfies(wanted),
            _ => true,
        };
        *kind == Kind::Image && *identity == id && *obtained == wanted && fits
    })?)
}

fn details(image: &Image) -> Details {
    Details {
        names: image.names.clone(),
        created: image.created.map(|created| created.to_string()),
        config: Some(image.config.clone()),
        layers: Vec::new(),
    }
}

/// The stream that is being read, so that it can be ended when the user has lost patience.
#[derive(Default)]
pub(super) struct Current {
    stream: Mutex<Option<HangUp>>,
    ended: AtomicBool,
}

impl Current {
    pub fn set(&self, stream: &ByteStream) {
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream.hang_up_handle());
    }

    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Looks now and then whether the task was cancelled, until it has ended.
    pub fn watch(&self, progress: &Progress) {
        while !self.ended.load(Ordering::Acquire) {
            if progress.check().is_err()
                && let Some(stream) = &*self.stream.lock().unwrap_or_else(PoisonError::into_inner)
            {
                stream.hang_up();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl SourceError {
    /// Whether trying again is no use.
    pub(super) fn is_final(&self) -> bool {
        match self {
            SourceError::Docker(error) => !matches!(
                error,
                DockerError::Cut { .. }
                    | DockerError::Stalled { .. }
                    | DockerError::TimedOut { .. }
                    | DockerError::Unreachable { .. }
                    | DockerError::Refused { status: 500.., .. }
            ),
            SourceError::Content { problem, .. } => !matches!(problem, super::error::ContentProblem::Scan(_)),
            _ => true,
        }
    }
}
