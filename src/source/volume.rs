//! Volumes of a daemon, whether any container has them or not.

use std::ffi::OsStr;

use super::fill::{self, Bytes, Job, Plan};
use super::image::{Current, exported_by, sweep};
use super::place::Place;
use super::{Context, Details, Source, SourceError};
use crate::cache::{Content, Entry, Filler, Kind};
use crate::docker::Daemon;
use crate::index::Order;
use crate::progress::Phase;
use crate::tarfile::EndMark;

/// Opens a volume. It is read when somebody looks into it, as it is then.
pub(super) fn open(source: &OsStr, name: &str, context: &Context<'_>) -> Result<Source, SourceError> {
    context.progress.enter(Phase::Resolving);
    let daemon = Daemon::connect(&context.endpoint()?)?;
    let volume = daemon.volume(name)?;
    let snapshot = jiff::Timestamp::now();
    let plan = Plan {
        content: Content {
            kind: Kind::Container,
            // Nobody else's: what a volume holds may be another thing by the next moment.
            identity: format!("volume {} {snapshot} {}", volume.name, std::process::id()),
            platform: None,
            layers: Vec::new(),
            obtained: exported_by(&daemon),
        },
        source: source.to_owned(),
        details: Details {
            names: vec![volume.name.clone()],
            created: volume.created.map(|created| created.to_string()),
            ..Details::default()
        },
        place: Place::Beneath,
        lives: true,
        order: Order::DepthFirst,
        demands: None,
        patience: super::image::PATIENCE,
        temporary: true,
    };
    let bytes = |filler: &Filler| Ok(Bytes::Own(filler.create_data()?));
    let work = move |job: Job, bytes| read(job, bytes, &daemon, &volume.name);
    let mut opened = Source::of(source, fill::open_dormant(plan, context, bytes, work)?, context)?;
    opened.identity = format!("volume {name}");
    Ok(opened)
}

fn read(job: Job, bytes: Bytes, daemon: &Daemon, volume: &str) -> Result<Entry, SourceError> {
    let Bytes::Own(writer) = bytes else { return Err(SourceError::NoStream) };
    sweep(daemon);
    let (throwaway, destination) = daemon.throwaway_for_volume(volume)?;
    let current = Current::of(&job.progress);
    job.run(writer, EndMark::Required, &fill::PAUSES, || {
        let stream = throwaway.archive(destination.as_bytes())?.ok_or(SourceError::NoStream)?;
        current.add(&stream);
        Ok(stream)
    })
}
