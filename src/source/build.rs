//! Builds: the result of one, or what the step had that failed, read by the helper in a container of the build.

use std::ffi::OsStr;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::build_on_demand::OnDemand;
use super::container::{names, own_data};
use super::fill::{self, Bytes, Job, Opened, Plan};
use super::place::Place;
use super::{Context, Destinations, Details, Keep, Mount, ROOTFS, Source, SourceError};
use crate::buildkit::{
    Build, BuildRequest, FailedStep, HangUp, Helper, MountSource, Outcome, Reporter, Role, Server, StepMount,
};
use crate::cache::{Content, Entry, Kind, Obtained};
use crate::docker::Endpoint;
use crate::index::{Demand, Order};
use crate::progress::{Phase, Progress};
use crate::tarfile::EndMark;

/// Wishes that may be under way at one time.
const MAX_WISHES: usize = 1024;

/// Wishes that are granted at one time.
const AHEAD: usize = 8;

/// The name of the root filesystem as it was before the step that failed.
const BEFORE: &str = "before";

/// A build, and what is to be looked into.
pub struct Built {
    /// The root filesystem of the result, or what the step had that failed.
    pub source: Source,
    /// The step that failed, if one did.
    pub failed: Option<FailedStep>,
}

/// Has a build made, by the daemon or by the `buildkitd` at that address, and opens what comes of it: nothing is read of a
/// filesystem that nobody looks into.
///
/// # Errors
/// The build cannot be made, for a reason that is no step's; or what it left cannot be read.
pub fn build(
    spelled: &OsStr,
    request: BuildRequest,
    buildkitd: Option<&str>,
    report: Reporter,
    context: &Context<'_>,
) -> Result<Built, SourceError> {
    context.progress.enter(Phase::Resolving);
    let (endpoint, server) = match buildkitd {
        Some(address) => (Endpoint::from_environment(Some(address))?, Server::Buildkitd),
        None => (context.endpoint()?, Server::Docker),
    };
    let (build, outcome) = Build::run(&endpoint, server, request, report, context.progress)?;
    let (mounts, failed) = match outcome {
        Outcome::Built(root) => (vec![StepMount::root(root)], None),
        Outcome::Failed(step) => (step.mounts.clone(), Some(*step)),
    };
    let source = Opening { spelled, build: &build, context }.open(&mounts)?;
    Ok(Built { source, failed })
}

/// The hold on a build. The daemon lets go of what it has made once this is gone.
pub(super) struct BuildHold(Arc<Build>);

impl Drop for BuildHold {
    fn drop(&mut self) {
        self.0.end();
    }
}

struct Opening<'a> {
    spelled: &'a OsStr,
    build: &'a Arc<Build>,
    context: &'a Context<'a>,
}

/// How one filesystem is reached.
enum Reach {
    /// By the helper that has all which nobody else waits for, under this number.
    Common(Arc<Helper>, usize),
    /// By a helper of its own, for as long as it is being read: others wait meanwhile.
    Alone(Arc<Build>, MountSource),
    /// Not at all, for this reason.
    Nothing(&'static str),
}

impl Opening<'_> {
    fn open(&self, mounts: &[StepMount]) -> Result<Source, SourceError> {
        let common: Vec<MountSource> = mounts
            .iter()
            .filter_map(|mount| mount.source.clone())
            .filter(|source| !source.is_locked())
            .collect();
        let helper = match common.is_empty() {
            true => None,
            false => Some(Arc::new(Helper::start(self.build, &common)?)),
        };
        let mut number = 0..;
        let moment = jiff::Timestamp::now();
        let destinations =
            mounts.iter().filter(|mount| mount.name().is_none()).map(|mount| &*mount.destination);
        let mut names = names([BEFORE].into_iter().chain(destinations)).into_iter().skip(1);
        let mut opened = Vec::new();
        for (index, mount) in mounts.iter().enumerate() {
            let reach = match (&mount.source, &helper) {
                (Some(source), _) if source.is_locked() => {
                    Reach::Alone(Arc::clone(self.build), source.clone())
                }
                (Some(_), Some(helper)) => Reach::Common(Arc::clone(helper), number.next().unwrap_or(0)),
                (_, _) => Reach::Nothing(mount.role.why_empty()),
            };
            let name = mount.name().map(str::to_owned).or_else(|| names.next()).unwrap_or_default();
            let identity = format!("build {} {index} {moment}", std::process::id());
            opened.extend(self.mount(mount, name, identity, reach)?);
        }
        // The root filesystem is where a step has it: its mounts begin behind it.
        let destinations = opened.iter().skip(1).map(|mount: &Mount| mount.destination.clone()).collect();
        Ok(Source {
            spelled: self.spelled.to_owned(),
            kind: Kind::Build,
            identity: format!("build {moment}"),
            platform: None,
            details: Details::default(),
            mounts: opened,
            notes: Vec::new(),
            destinations: Arc::new(Destinations::new(destinations, None)),
            container: None,
            build: Some(BuildHold(Arc::clone(self.build))),
        })
    }

    fn mount(
        &self,
        mount: &StepMount,
        name: String,
        identity: String,
        reach: Reach,
    ) -> Result<Option<Mount>, SourceError> {
        let (demands, wished) = sync_channel(MAX_WISHES);
        let plan = Plan {
            content: Content {
                kind: Kind::Build,
                // Nobody else's: it goes with the build.
                identity,
                platform: None,
                layers: Vec::new(),
                obtained: Obtained::BuildHelper,
            },
            source: self.spelled.to_owned(),
            details: Details::default(),
            place: Place::Root(&[]),
            // Other builds may write to a cache meanwhile.
            lives: mount.role == Role::Cache,
            order: Order::DepthFirst,
            demands: Some(demands),
            patience: super::image::PATIENCE,
            temporary: true,
        };
        let (destination, selector) = (mount.destination.clone(), mount.selector.clone());
        let work = move |job: Job, bytes| fetch(job, bytes, &destination, &selector, reach, wished);
        let Opened::Filling(filesystem, fill) = fill::open_dormant(plan, self.context, own_data, work)?
        else {
            return Ok(None);
        };
        Ok(Some(Mount {
            name,
            // What was not there has no place among what was.
            destination: if mount.role.is_beside() { String::new() } else { mount.destination.clone() },
            kind: mount.role.word().to_owned(),
            origin: None,
            read_only: mount.read_only,
            filesystem,
            keep: Keep::Fill(fill),
            single_paths: None,
        }))
    }
}

impl StepMount {
    /// The name that does not depend on where the step had it.
    fn name(&self) -> Option<&'static str> {
        match self.role {
            Role::Root => Some(ROOTFS),
            Role::Before => Some(BEFORE),
            Role::CopySource => Some("copy-source"),
            Role::Cache | Role::Bind | Role::Tmpfs => None,
        }
    }
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Role::Root => ROOTFS,
            Role::Before => BEFORE,
            Role::Cache => "cache",
            Role::Bind => "bind",
            Role::Tmpfs => "tmpfs",
            Role::CopySource => "copy-source",
        }
    }

    /// Whether it is shown beside what the step had, where no link of the step's could lead.
    fn is_beside(self) -> bool {
        matches!(self, Role::Before | Role::CopySource)
    }

    fn why_empty(self) -> &'static str {
        match self {
            Role::Tmpfs => "what was in memory has gone with the processes of the step",
            _ => "there is nothing in it",
        }
    }
}

/// Reads a filesystem into the cache, and single paths of it before their turn.
fn fetch(
    job: Job,
    bytes: Bytes,
    destination: &str,
    selector: &str,
    reach: Reach,
    wished: Receiver<Demand>,
) -> Result<Entry, SourceError> {
    let Bytes::Own(writer) = bytes else { return Err(SourceError::NoStream) };
    let (helper, number) = match reach {
        Reach::Common(helper, number) => (helper, number),
        Reach::Alone(build, source) => (Arc::new(Helper::start(&build, &[source])?), 0),
        Reach::Nothing(why) => {
            return Err(SourceError::Unavailable { mount: destination.to_owned(), why: why.to_owned() });
        }
    };
    let inside = selector.trim_matches('/').to_owned();
    if !inside.is_empty() && helper.stat(number, inside.as_bytes())?.is_none() {
        let why = format!("there is no {inside} in it");
        return Err(SourceError::Unavailable { mount: destination.to_owned(), why });
    }
    job.ready();
    let (grower, progress) = (job.grower.clone(), Arc::clone(&job.progress));
    let wished = Mutex::new(wished);
    let current = Current::of(&progress);
    let ahead = OnDemand::new(&helper, number, &inside, &grower, &progress);
    std::thread::scope(|scope| {
        for _ in 0..AHEAD {
            scope.spawn(|| ahead.serve(&wished));
        }
        let result = job.run(writer, EndMark::Required, &fill::PAUSES, || {
            let stream = helper.tar(number, &inside)?;
            current.is(stream.hang_up_handle());
            Ok(stream)
        });
        // Nobody waits for what will not come, so that the scope can end.
        if result.is_err() {
            grower.lose();
        }
        result
    })
}

/// The stream that is being read. It ends when the task is cancelled.
struct Current {
    stream: Arc<Mutex<Option<HangUp>>>,
    _on_cancel: crate::progress::OnCancel,
}

impl Current {
    fn of(progress: &Progress) -> Current {
        let stream: Arc<Mutex<Option<HangUp>>> = Arc::default();
        let cancelled = Arc::clone(&stream);
        let hang_up = move || {
            if let Some(stream) = &*cancelled.lock().unwrap_or_else(PoisonError::into_inner) {
                stream.hang_up();
            }
        };
        Current { stream, _on_cancel: progress.on_cancel(hang_up) }
    }

    fn is(&self, stream: HangUp) {
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
    }
}
