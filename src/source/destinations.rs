//! Where a container really has its mounts: a destination is followed through the symlinks of the root filesystem, as the
//! engine follows it when it mounts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::clean;
use crate::docker::{Container, Daemon, DockerError, Engine, MountKind, Throwaway};

/// What is seen at a path.
#[derive(Clone)]
enum Seen {
    Something,
    /// It leads there in the end.
    Symlink(Vec<u8>),
}

/// The destinations of a source's mounts, by mount index. They are found out when they are first needed.
#[derive(Default)]
pub(crate) struct Destinations {
    given: Vec<String>,
    container: Option<(Daemon, Arc<Container>)>,
    followed: OnceLock<Vec<Vec<Vec<u8>>>>,
    files: Mutex<HashMap<usize, bool>>,
}

impl Destinations {
    /// Those `given` by a container's mount table, which the container is asked about; without one they are as they are.
    pub fn new(given: Vec<String>, container: Option<(Daemon, Arc<Container>)>) -> Destinations {
        Destinations { given, container, ..Destinations::default() }
    }

    /// The names that lead to a mount from the container's root; none for the root filesystem itself.
    pub fn get(&self, mount: usize) -> &[Vec<u8>] {
        let Some(mount) = mount.checked_sub(1) else { return &[] };
        let followed = self.followed.get_or_init(|| match &self.container {
            Some((daemon, container)) => {
                let root = Root::of(daemon, container);
                follow(&self.given, |path| root.look(path))
            }
            None => follow(&self.given, |_| None),
        });
        followed.get(mount).map_or(&[], Vec::as_slice)
    }

    /// The ways to a mount: [`Destinations::get`], and what the mount table says where that is another. None for the root
    /// filesystem.
    pub fn spelled(&self, mount: usize) -> impl Iterator<Item = Vec<Vec<u8>>> {
        let given = mount.checked_sub(1).and_then(|mount| self.given.get(mount));
        // What is nowhere in the container has no way to it.
        let given = given.filter(|given| !given.is_empty());
        let given = given.map(|given| names(given.as_bytes()));
        let found = given.is_some().then(|| self.get(mount).to_vec());
        let given = given.filter(|given| found.as_ref() != Some(given));
        found.into_iter().chain(given)
    }

    /// Whether a single file is mounted there, as far as the daemon tells.
    pub fn is_file(&self, mount: usize) -> bool {
        let Some(index) = mount.checked_sub(1) else { return false };
        let Some((daemon, container)) = &self.container else { return false };
        let Some(at) = container.mounts.get(index).filter(|at| at.kind == MountKind::Bind) else {
            return false;
        };
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        *files.entry(mount).or_insert_with(|| {
            let seen = match daemon.engine() {
                Engine::Docker => daemon.throwaway_with_mount(container, at).and_then(|made| match made {
                    Some((throwaway, path)) => throwaway.stat_path(path.as_bytes()),
                    None => Ok(None),
                }),
                Engine::Podman => daemon.stat_path(&container.id, at.destination.as_bytes()),
            };
            told(seen).flatten().is_some_and(|stat| !stat.is_dir())
        })
    }
}

/// What is asked about the root filesystem, without its mounts.
enum Root<'a> {
    Container(&'a Daemon, &'a Container),
    /// dockerd mounts all that a container has before it answers: it makes the source of a bind anew where it is gone, and 28
    /// fails at an absolute link on the way of any mount.
    Image(Throwaway),
    Unknown,
}

impl Root<'_> {
    fn of<'a>(daemon: &'a Daemon, container: &'a Container) -> Root<'a> {
        match daemon.engine() {
            Engine::Docker => {
                told(daemon.throwaway_without_mounts(container)).map_or(Root::Unknown, Root::Image)
            }
            Engine::Podman => Root::Container(daemon, container),
        }
    }

    /// A request; Docker takes a millisecond for it.
    fn look(&self, path: &[u8]) -> Option<Seen> {
        let seen = match self {
            Root::Container(daemon, container) => daemon.stat_path(&container.id, path),
            Root::Image(throwaway) => throwaway.stat_path(path),
            Root::Unknown => return None,
        };
        let resolved = told(seen.transpose()?)?.resolved;
        Some(resolved.map_or(Seen::Something, |target| Seen::Symlink(target.into_bytes())))
    }
}

/// What a daemon answered; where it did not, a destination is taken as it is.
fn told<T>(answer: Result<T, DockerError>) -> Option<T> {
    answer.inspect_err(|error| tracing::debug!("a destination is taken as it is: {error}")).ok()
}

fn names(path: &[u8]) -> Vec<Vec<u8>> {
    clean(path).into_iter().map(<[u8]>::to_vec).collect()
}

/// Follows each destination. `look` tells what is at a path without symlinks on the way.
fn follow(destinations: &[String], mut look: impl FnMut(&[u8]) -> Option<Seen>) -> Vec<Vec<Vec<u8>>> {
    let mut known: HashMap<Vec<u8>, Option<Seen>> = HashMap::new();
    let mut followed: Vec<Vec<Vec<u8>>> = Vec::new();
    for destination in destinations {
        let mut ahead = names(destination.as_bytes()).into_iter();
        let mut place: Vec<Vec<u8>> = Vec::new();
        // What is within another mount is not the root filesystem's.
        while !followed.contains(&place)
            && let Some(name) = ahead.next()
        {
            place.push(name);
            let path = [&b"/"[..], &place.join(&b'/')].concat();
            match known.entry(path).or_insert_with_key(|path| look(path)) {
                None => break,
                Some(Seen::Something) => {}
                Some(Seen::Symlink(target)) => place = names(target),
            }
        }
        place.extend(ahead);
        followed.push(place);
    }
    followed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_followed_as_far_as_anything_is_there() {
        let look = |path: &[u8]| match path {
            b"/var" | b"/lib2" | b"/lib2/mod" | b"/run" | b"/data" => Some(Seen::Something),
            b"/var/run" => Some(Seen::Symlink(b"/run".to_vec())),
            b"/lib" => Some(Seen::Symlink(b"/lib2".to_vec())),
            // Of the volume.
            b"/data/l" => Some(Seen::Symlink(b"/etc".to_vec())),
            _ => None,
        };
        let given = ["/data", "/data/l/x", "/lib/mod", "/var/run/a/../b", "/none/run", "/var/run"];
        let found = follow(&given.map(str::to_owned), look);
        let shown: Vec<_> = found.iter().map(|names| String::from_utf8(names.join(&b'/')).unwrap()).collect();
        assert_eq!(shown, ["data", "data/l/x", "lib2/mod", "run/b", "none/run", "run"]);
    }

    #[test]
    fn what_is_nowhere_in_the_container_has_no_way_to_it() {
        let destinations = Destinations::new(vec![String::new(), "/data".to_owned()], None);
        let ways = |mount| destinations.spelled(mount).collect::<Vec<_>>();
        assert_eq!((ways(0).len(), ways(1).len(), ways(2)), (0, 0, vec![names(b"/data")]));
    }
}
