//! Images that a daemon has.

use std::ffi::OsStr;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::fill::{self, Bytes, Job, Opened, Plan};
use super::on_demand::OnDemand;
use super::place::Place;
use super::single_paths::{Files, SinglePaths};
use super::{Context, Details, SourceError, Start, exact};
use crate::cache::{Content, Entry, Kind, Obtained};
use crate::docker::{ByteStream, Daemon, DockerError, Engine, HangUp, Image, ImageName};
use crate::image::{Digest, Platform};
use crate::index::{Demand, Order};
use crate::progress::{OnCancel, Phase, Progress};
use crate::tarfile::EndMark;

/// The mark that Docker puts into the root of every container. Images do not have it.
const ADDED_BY_THE_DAEMON: &[&[u8]] = &[b".dockerenv"];

/// Wishes that may be under way at one time.
const MAX_WISHES: usize = 1024;

/// Requests for single paths that the daemon is given at one time.
const AHEAD: usize = 4;

/// How long making a container may take before the mount is shown without it.
pub(super) const PATIENCE: Duration = Duration::from_secs(3600);

/// Opens an image, or starts to fetch it.
///
/// One that is named by its whole id and is in the cache is found without asking the daemon.
pub(super) fn open(
    source: &OsStr,
    name: &ImageName,
    start: Start,
    context: &Context<'_>,
) -> Result<(Opened, Option<SinglePaths>), SourceError> {
    context.progress.enter(Phase::Resolving);
    if let Ok(id) = name.as_str().parse::<Digest>()
        && let Some(entry) = by_id(&id, context.platform, context)?
    {
        let details = exact::details(&entry);
        return Ok((Opened::Known(Box::new(entry), Box::new(details)), None));
    }
    let daemon = Daemon::connect_for(&context.endpoint()?, context.progress)?;
    let image = daemon.image(name, context.platform)?;
    if context.exact {
        return Ok((exact::open(source, &daemon, &image, context)?, None));
    }
    let details = details(&image);
    let (demands, wished) = sync_channel(MAX_WISHES);
    let plan = Plan {
        content: Content {
            kind: Kind::Image,
            identity: image.id.to_string(),
            platform: Some(image.platform.clone()),
            layers: image.layers.clone(),
            obtained: exported_by(&daemon),
        },
        source: source.to_owned(),
        details: details.clone(),
        place: Place::Root(ADDED_BY_THE_DAEMON),
        lives: false,
        order: Order::DepthFirst,
        demands: Some(demands),
        patience: PATIENCE,
        temporary: false,
    };
    let bytes = |filler: &crate::cache::Filler| Ok(Bytes::Own(filler.create_data()?));
    let files = Files::Image(Box::new(image.clone()), ADDED_BY_THE_DAEMON);
    let single_paths = SinglePaths::new(daemon.clone(), files, context.progress);
    let work = move |job: Job, bytes| fetch(job, bytes, &daemon, &image, wished);
    match start {
        Start::Now => Ok((fill::open(plan, context, bytes, work)?.known_as(details), None)),
        Start::WhenAsked => match fill::open_dormant(plan, context, bytes, work)? {
            Opened::Filling(filesystem, fill) => Ok((Opened::Filling(filesystem, fill), Some(single_paths))),
            entry => Ok((entry.known_as(details), None)),
        },
    }
}

/// How long a task waits at its end for the removal of what killed runs have left: a daemon may take its time for it.
const SWEEP_PATIENCE: Duration = Duration::from_secs(1);

/// The removal of containers that killed runs have left behind, which is done beside the task. Dropped, it is waited for a moment.
pub(super) struct Sweep(Receiver<()>);

/// Begins to remove the containers that killed runs have left behind.
pub(super) fn sweep(daemon: &Daemon) -> Sweep {
    let (swept, sweep) = sync_channel(1);
    let daemon = daemon.clone();
    let begun = std::thread::Builder::new().name("sweep".into()).spawn(move || {
        match daemon.sweep_orphans() {
            Ok(_) => {}
            // The task was over first: the next one looks again.
            Err(error @ DockerError::HungUp { .. }) => {
                tracing::debug!("containers of killed runs may be left: {error}");
            }
            Err(error) => tracing::warn!("containers of killed runs may be left: {error}"),
        }
        // Nobody may be listening any more.
        let _ = swept.send(());
    });
    if let Err(error) = begun {
        tracing::debug!("containers of killed runs may be left: {error}");
    }
    Sweep(sweep)
}

impl Drop for Sweep {
    fn drop(&mut self) {
        let _ = self.0.recv_timeout(SWEEP_PATIENCE);
    }
}

/// Exports an image into the cache, and single paths of it before their turn.
fn fetch(
    job: Job,
    bytes: Bytes,
    daemon: &Daemon,
    image: &Image,
    wished: Receiver<Demand>,
) -> Result<Entry, SourceError> {
    let Bytes::Own(writer) = bytes else { return Err(SourceError::NoStream) };
    let _sweep = sweep(daemon);
    let container = daemon.throwaway(image)?;
    job.ready();
    let (grower, progress) = (job.grower.clone(), Arc::clone(&job.progress));
    let wished = Mutex::new(wished);
    let current = Current::of(&progress);
    let ahead = OnDemand::new(daemon, &container, ADDED_BY_THE_DAEMON, &grower, &progress, &current);
    let result = std::thread::scope(|scope| {
        for _ in 0..AHEAD {
            scope.spawn(|| ahead.serve(&wished));
        }
        let result = job.run(writer, EndMark::Required, &fill::PAUSES, || {
            let stream = container.export()?;
            current.add(&stream);
            Ok(stream)
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
}

/// How a daemon's export is told from another's of the same image.
pub(super) fn exported_by(daemon: &Daemon) -> Obtained {
    match daemon.engine() {
        Engine::Docker => Obtained::DockerExport,
        Engine::Podman => Obtained::PodmanExport,
    }
}

/// The entry of an image, got in the way that is wanted now, if it is in the cache.
///
/// The id alone is not enough where it is that of an index, which has an image for each of several platforms.
pub(super) fn by_id(
    id: &Digest,
    platform: Option<&Platform>,
    context: &Context<'_>,
) -> Result<Option<Entry>, SourceError> {
    let id = id.to_string();
    // Nobody is asked which daemon it would be: that of either will do.
    let wanted = |obtained| match obtained {
        Obtained::Layers => context.exact,
        Obtained::DockerExport | Obtained::PodmanExport => !context.exact,
        Obtained::Archive | Obtained::BuildHelper | Obtained::File => false,
    };
    Ok(context.cache.find(|meta| {
        let Content { kind, identity, platform: of, obtained, .. } = &meta.content;
        let fits = match (of, platform) {
            (Some(has), Some(wanted)) => has.satisfies(wanted),
            _ => true,
        };
        *kind == Kind::Image && *identity == id && wanted(*obtained) && fits
    })?)
}

fn details(image: &Image) -> Details {
    Details {
        names: image.names.clone(),
        created: image.created.map(|created| created.to_string()),
        size: Some(image.size),
        config: Some(image.config.clone()),
        ..Details::default()
    }
}

/// The streams that a task is reading. They end when it is cancelled, or when nobody wants them any more.
pub(super) struct Current {
    streams: Arc<Mutex<Streams>>,
    _on_cancel: OnCancel,
}

#[derive(Default)]
struct Streams {
    open: Vec<HangUp>,
    ended: bool,
}

impl Current {
    /// None so far.
    pub fn of(progress: &Progress) -> Current {
        let streams: Arc<Mutex<Streams>> = Arc::default();
        let cancelled = Arc::clone(&streams);
        Current { streams, _on_cancel: progress.on_cancel(move || lock(&cancelled).end()) }
    }

    /// A stream that is about to be read.
    pub fn add(&self, stream: &ByteStream) {
        let mut streams = lock(&self.streams);
        streams.open.retain(|stream| !stream.is_gone());
        streams.open.push(stream.hang_up_handle());
        if streams.ended {
            streams.end();
        }
    }

    /// Ends all of them, and those that are still to come.
    pub fn end(&self) {
        lock(&self.streams).end();
    }
}

impl Streams {
    fn end(&mut self) {
        self.ended = true;
        self.open.iter().for_each(HangUp::hang_up);
    }
}

fn lock(streams: &Mutex<Streams>) -> MutexGuard<'_, Streams> {
    streams.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SourceError {
    /// Whether trying again is no use.
    pub(super) fn is_final(&self) -> bool {
        match self.original() {
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
