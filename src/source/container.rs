//! Containers: the root filesystem as it is now, and every volume, bind and tmpfs once somebody looks into it.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::sync::Arc;

use super::destinations::Destinations;
use super::fill::{self, Bytes, Job, Opened, Plan};
use super::image::{Current, exported_by};
use super::place::Place;
use super::single_paths::{Files, SinglePaths};
use super::{ContainerDetails, Context, Details, Keep, Mount, ROOTFS, Source, SourceError};
use crate::cache::{Content, Entry, Filler, Kind, Obtained};
use crate::docker::{
    ByteStream, Container, ContainerId, ContainerName, ContainerState, Daemon, DockerError, Engine,
    MountKind, MountPoint, Throwaway,
};
use crate::index::Order;
use crate::progress::Phase;
use crate::tarfile::EndMark;

/// The longest name of a mount, in bytes. Linux allows 255, and a number may have to go behind it.
const MAX_NAME: usize = 240;

/// What no mount may be called: its own root filesystem, and the description at the mountpoint.
const TAKEN: [&str; 2] = [ROOTFS, ".imagefs.json"];

/// Opens a container in whatever state it is.
///
/// The root filesystem is exported now, or when it is asked for; a mount is fetched when it is first looked into.
pub(super) fn open(
    source: &OsStr,
    name: &ContainerName,
    start: super::Start,
    context: &Context<'_>,
) -> Result<Source, SourceError> {
    context.progress.enter(Phase::Resolving);
    let daemon = Daemon::connect_for(&context.endpoint()?, context.progress)?;
    let container = daemon.container(name)?;
    if context.exact {
        let (source_name, image) = (source.to_owned(), Some(container.image.to_string()));
        return Err(SourceError::NoLayers { source_name, kind: Kind::Container, image });
    }
    show(source, daemon, container, start, context)
}

/// A container that was opened once, to be found again though another may have its name by now.
pub(super) struct Origin {
    daemon: Daemon,
    id: ContainerId,
    name: String,
}

impl Origin {
    /// Opens it as it is now.
    pub fn open(&self, source: &OsStr, context: &Context<'_>) -> Result<Source, SourceError> {
        context.progress.enter(Phase::Resolving);
        let container = self.daemon.container_by_id(&self.id).map_err(|error| match error {
            DockerError::ContainerNotFound { .. } => {
                DockerError::ContainerNotFound { name: self.name.clone(), engine: self.daemon.engine() }
            }
            other => other,
        })?;
        show(source, self.daemon.clone(), container, super::Start::Now, context)
    }
}

/// Lays out what a container has.
fn show(
    source: &OsStr,
    daemon: Daemon,
    container: Container,
    start: super::Start,
    context: &Context<'_>,
) -> Result<Source, SourceError> {
    let origin = Origin { daemon: daemon.clone(), id: container.id.clone(), name: container.name.clone() };
    let snapshot = jiff::Timestamp::now();
    let details = Details {
        names: vec![container.name.clone()],
        created: container.created.map(|created| created.to_string()),
        config: Some(container.config.clone()),
        container: Some(ContainerDetails {
            state: container.state.to_string(),
            image: container.image,
            snapshot: snapshot.to_string(),
        }),
        ..Details::default()
    };
    let id = container.id.to_string();
    let plan = |index: usize, place, obtained| Plan {
        content: Content {
            kind: Kind::Container,
            // Nobody else's: what a container holds may be another thing by the next moment.
            identity: format!("{id} {index} {snapshot} {}", std::process::id()),
            platform: None,
            layers: Vec::new(),
            obtained,
        },
        source: source.to_owned(),
        details: details.clone(),
        place,
        lives: true,
        order: Order::DepthFirst,
        demands: None,
        patience: super::image::PATIENCE,
        temporary: true,
    };
    let container = Arc::new(container);
    let root = plan(0, Place::Root(&[]), exported_by(&daemon));
    let work = {
        let (daemon, container) = (daemon.clone(), Arc::clone(&container));
        move |job: Job, bytes| export(job, bytes, &daemon, &container)
    };
    let opened = match start {
        super::Start::Now => fill::open(root, context, own_data, work)?,
        super::Start::WhenAsked => fill::open_dormant(root, context, own_data, work)?,
    };
    let mut source = Source::of(source, opened, context)?;
    source.identity.clone_from(&id);
    source.container = Some(origin);
    let destinations = container.mounts.iter().map(|mount| mount.destination.clone()).collect();
    let asked = Some((daemon.clone(), Arc::clone(&container)));
    source.destinations = Arc::new(Destinations::new(destinations, asked));
    let names = names(container.mounts.iter().map(|mount| &*mount.destination));
    for ((index, mount), name) in container.mounts.iter().enumerate().zip(names) {
        let work = {
            let (daemon, container, mount) = (daemon.clone(), Arc::clone(&container), mount.clone());
            move |job: Job, bytes| fetch(job, bytes, &daemon, &container, &mount)
        };
        let plan = plan(index + 1, Place::Beneath, Obtained::Archive);
        let Opened::Filling(filesystem, fill) = fill::open_dormant(plan, context, own_data, work)? else {
            continue;
        };
        let single_paths = (start == super::Start::WhenAsked && is_asked_alone(&daemon, mount)).then(|| {
            let files = Files::Mount(Arc::clone(&container), Box::new(mount.clone()));
            SinglePaths::new(daemon.clone(), files, context.progress)
        });
        source.mounts.push(Mount {
            name,
            destination: mount.destination.clone(),
            kind: mount.kind.to_string(),
            origin: origin_of(mount),
            read_only: mount.read_only,
            filesystem,
            keep: Keep::Fill(fill),
            single_paths,
        });
    }
    Ok(source)
}

/// Whether the daemon has a container of exactly this name. One that does not answer has none.
pub(super) fn exists(name: &ContainerName, context: &Context<'_>) -> bool {
    let daemon =
        context.endpoint().and_then(|endpoint| Ok(Daemon::connect_for(&endpoint, context.progress)?));
    daemon.and_then(|daemon| Ok(daemon.container(name)?)).is_ok_and(|found| found.name == name.as_str())
}

pub(super) fn own_data(filler: &Filler) -> Result<Bytes, SourceError> {
    Ok(Bytes::Own(filler.create_data()?))
}

/// What a mount is of, for people.
fn origin_of(mount: &MountPoint) -> Option<String> {
    mount.name.clone().or_else(|| Some(mount.source.clone())).filter(|origin| !origin.is_empty())
}

/// Takes the snapshot of a root filesystem.
fn export(job: Job, bytes: Bytes, daemon: &Daemon, container: &Container) -> Result<Entry, SourceError> {
    job.ready();
    read(job, bytes, || Ok(Some(daemon.export(&container.id)?)))
}

/// Fetches what is mounted. What is not there is empty.
fn fetch(
    mut job: Job,
    bytes: Bytes,
    daemon: &Daemon,
    container: &Container,
    mount: &MountPoint,
) -> Result<Entry, SourceError> {
    let unavailable = |why: String| SourceError::Unavailable { mount: mount.destination.clone(), why };
    let mut pauses = fill::PAUSES.iter();
    let (through, first) = loop {
        match (reach(daemon, container, mount), pauses.next()) {
            (Ok(reached), _) => break reached,
            (Err(Obstacle::NotThere(why)), _) => return Err(unavailable(why)),
            (Err(Obstacle::Failed(error)), Some(pause)) => {
                tracing::warn!("{error}; trying again");
                job.pause(*pause)?;
            }
            (Err(Obstacle::Failed(error)), None) => return Err(error),
        }
    };
    job.put_in(through.place(mount));
    let mut first = Some(first);
    let read = read(job, bytes, || match first.take() {
        Some(first) => Ok(Some(first)),
        None => through.stream(mount),
    });
    read.map_err(|error| match error {
        SourceError::NoSuchPart => unavailable(error.to_string()),
        error => error,
    })
}

/// What keeps a mount from being read.
enum Obstacle {
    /// The daemon has nothing there to show, for this reason.
    NotThere(String),
    /// The daemon could not be asked, or failed.
    Failed(SourceError),
}

impl From<DockerError> for Obstacle {
    fn from(error: DockerError) -> Obstacle {
        // So Podman says that the source of a bind is gone, or that it does not show a single file that is bound.
        const WORDS: [&str; 2] = ["no such file or directory", NO_DIRECTORY];
        let nothing = WORDS.iter().any(|words| says(&error, words));
        let error = SourceError::from(error);
        match nothing || error.is_final() {
            true => Obstacle::NotThere(error.to_string()),
            false => Obstacle::Failed(error),
        }
    }
}

/// How Podman says that it does not show a single file through any but the container that runs.
const NO_DIRECTORY: &str = "not a directory";

fn says(error: &DockerError, words: &str) -> bool {
    matches!(error, DockerError::Refused { message, .. } if message.contains(words))
}

/// Whether single files of a mount can be asked for, without all the others: the daemon mounts it by itself, and it is a directory.
fn is_asked_alone(daemon: &Daemon, mount: &MountPoint) -> bool {
    let whole = matches!(mount.kind, MountKind::Volume | MountKind::Image) && mount.subpath.is_none();
    whole && daemon.engine() == Engine::Docker
}

/// What a mount is read through.
enum Through<'a> {
    /// A container that has the mount at this path, and perhaps others, and is removed with this.
    Throwaway(Engine, Throwaway, String),
    /// The one that has it.
    Original(&'a Daemon, &'a Container),
    /// The volume itself.
    Volume(&'a Daemon, &'a str),
    /// A container of the image that is mounted.
    Image(Throwaway),
}

impl Through<'_> {
    fn stream(&self, mount: &MountPoint) -> Result<Option<ByteStream>, DockerError> {
        match self {
            Through::Throwaway(engine, throwaway, path) => match &mount.subpath {
                // It has all of the volume there.
                Some(subpath) if *engine == Engine::Podman => {
                    throwaway.archive(format!("{path}/{subpath}").as_bytes())
                }
                _ => throwaway.archive(path.as_bytes()),
            },
            Through::Original(daemon, container) => {
                daemon.archive(&container.id, mount.destination.as_bytes())
            }
            Through::Volume(daemon, name) => daemon.export_volume(name),
            Through::Image(throwaway) => throwaway.export().map(Some),
        }
    }

    fn place(&self, mount: &MountPoint) -> Place {
        match self {
            Through::Throwaway(..) | Through::Original(..) => Place::Beneath,
            Through::Volume(..) | Through::Image(_) => {
                Place::part(mount.subpath.as_deref().unwrap_or_default())
            }
        }
    }
}

/// Asks for a mount in the way that is safe, and true to what the container sees.
fn reach<'a>(
    daemon: &'a Daemon,
    container: &'a Container,
    mount: &'a MountPoint,
) -> Result<(Through<'a>, ByteStream), Obstacle> {
    let nothing = || Obstacle::NotThere("the daemon has nothing there".to_owned());
    if let Some(name) = mount.name.as_deref().filter(|_| is_the_volume_itself(container, mount))
        && let Some(stream) = daemon.export_volume(name)?
    {
        return Ok((Through::Volume(daemon, name), stream));
    }
    let through = way(daemon, container, mount)?;
    let first = match through.stream(mount) {
        Err(error) if says(&error, NO_DIRECTORY) && daemon.engine() == Engine::Podman => {
            if container.state != ContainerState::Running {
                let why = "the daemon shows a single file that is bound only while the container runs";
                return Err(Obstacle::NotThere(why.to_owned()));
            }
            let through = Through::Original(daemon, container);
            let first = through.stream(mount)?.ok_or_else(nothing)?;
            return Ok((through, first));
        }
        first => first?.ok_or_else(nothing)?,
    };
    Ok((through, first))
}

/// Whether a container sees a volume as it is. What Podman lays over one goes with the processes of the container.
fn is_the_volume_itself(container: &Container, mount: &MountPoint) -> bool {
    mount.kind == MountKind::Volume && !(mount.overlaid && container.state == ContainerState::Running)
}

/// What a mount is to be read through.
fn way<'a>(
    daemon: &'a Daemon,
    container: &'a Container,
    mount: &'a MountPoint,
) -> Result<Through<'a>, Obstacle> {
    let not_there = |why: &str| Err(Obstacle::NotThere(why.to_owned()));
    let running = container.state == ContainerState::Running;
    let original = Through::Original(daemon, container);
    let made = match (&mount.kind, daemon.engine()) {
        // What is in memory belongs to the running container alone, and so does what was written over a mount.
        (MountKind::Tmpfs, Engine::Podman) if running => return Ok(original),
        (MountKind::Tmpfs, engine) => return not_there(why_no_memory(&container.state, engine)),
        (_, Engine::Podman) if mount.overlaid && running => return Ok(original),
        (MountKind::Bind, Engine::Podman) if mount.overlaid => {
            return not_there("the daemon shows what is laid over a bind only while the container runs");
        }
        // No other container of Podman's can be given it.
        (MountKind::Image, Engine::Podman) => {
            let image = daemon.image(&mount.image().parse().map_err(DockerError::from)?, None)?;
            return Ok(Through::Image(daemon.throwaway(&image)?));
        }
        _ => {
            let _sweep = super::image::sweep(daemon);
            daemon.throwaway_with_mount(container, mount)
        }
    };
    let made = match made {
        Ok(Some(made)) => Ok(made),
        Ok(None) => {
            // For a container that has all mounts, dockerd would make the source of a bind anew where it is gone.
            if daemon.engine() == Engine::Docker
                && daemon.stat_path(&container.id, mount.destination.as_bytes())?.is_none()
            {
                return not_there("the daemon has nothing there");
            }
            daemon.throwaway_with_volumes_of(container).map(|made| (made, mount.destination.clone()))
        }
        Err(error) => Err(error),
    };
    match made {
        Ok((throwaway, path)) => Ok(Through::Throwaway(daemon.engine(), throwaway, path)),
        // Podman makes none where the source of any bind is gone. What does not run cannot move its links while the daemon
        // follows them.
        Err(error) if !running && daemon.engine() == Engine::Podman => {
            tracing::debug!("read through the container itself: {error}");
            Ok(original)
        }
        Err(error) => Err(error.into()),
    }
}

/// Why a tmpfs is not shown.
fn why_no_memory(state: &ContainerState, engine: Engine) -> &'static str {
    match (state, engine) {
        (ContainerState::Created, _) => "the container was never started, and has nothing in memory",
        (ContainerState::Exited | ContainerState::Dead, _) => {
            "what was in memory has gone with the processes of the container"
        }
        (_, Engine::Docker) => "the daemon does not show what is in memory",
        (_, Engine::Podman) => "the daemon shows what is in memory only while the container runs",
    }
}

/// Reads a stream into the cache, and ends it when the task is cancelled.
fn read(
    job: Job,
    bytes: Bytes,
    mut stream: impl FnMut() -> Result<Option<ByteStream>, DockerError>,
) -> Result<Entry, SourceError> {
    let Bytes::Own(writer) = bytes else { return Err(SourceError::NoStream) };
    let current = Current::of(&job.progress);
    job.run(writer, EndMark::Required, &fill::PAUSES, || {
        let stream = stream()?.ok_or(SourceError::NoStream)?;
        current.add(&stream);
        Ok(stream)
    })
}

/// A name for each destination: `/var/lib/data` becomes `var-lib-data`. Of several that would be the same, the later ones
/// get a number, from 2 on.
pub(super) fn names<'a>(destinations: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut taken: HashSet<String> = TAKEN.iter().map(|&name| name.to_owned()).collect();
    let mut name = |destination: &str| {
        let parts = destination.split('/').filter(|part| !matches!(*part, "" | "." | ".."));
        let mut plain = parts.collect::<Vec<_>>().join("-").replace('\0', "-");
        let end = (0..=MAX_NAME.min(plain.len())).rev().find(|&end| plain.is_char_boundary(end));
        plain.truncate(end.unwrap_or(0));
        if plain.is_empty() {
            plain.push_str("mount");
        }
        let mut name = plain.clone();
        let mut number: u64 = 2;
        while !taken.insert(name.clone()) {
            name = format!("{plain}-{number}");
            number += 1;
        }
        name
    };
    destinations.into_iter().map(&mut name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_named_after_its_destination() {
        let given =
            ["/var/lib/data", "/var-lib/data", "/var/lib-data/", "/rootfs", "/data//sub", "/.imagefs.json"];
        let expected =
            ["var-lib-data", "var-lib-data-2", "var-lib-data-3", "rootfs-2", "data-sub", ".imagefs.json-2"];
        assert_eq!(names(given), expected);
        assert_eq!(names(["/a-2", "/a", "a", "/"]), ["a-2", "a", "a-3", "mount"]);
        assert_eq!(names(["/..", "/a/../b\0"]), ["mount", "a-b-"]);
        let long = names([format!("/{}", "ü".repeat(300)).as_str()]);
        assert_eq!(long, ["ü".repeat(120)]);
    }
}
