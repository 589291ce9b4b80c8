//! Single files of an image that is not in the cache, or of a volume or an image that a container has mounted: asked for one by
//! one, and nothing else with them.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use crate::docker::{Container, Daemon, DockerError, Engine, Image, MountPoint, Throwaway};
use crate::index::FileType;
use crate::progress::Progress;
use crate::tarfile::{Entry, EntryKind};

use super::SourceError;
use super::image::Current;
use super::layer_paths::LayerPaths;
use super::on_demand;

/// Symbolic links that are followed for one path, as in path_resolution(7).
pub(super) const MAX_SYMLINKS: usize = 40;

/// Reads single files.
pub(crate) enum SinglePaths {
    /// Of the daemon.
    Container(ContainerPaths),
    /// Of a registry.
    Layers(LayerPaths),
}

impl SinglePaths {
    pub(super) fn new(daemon: Daemon, files: Files, progress: &Arc<Progress>) -> SinglePaths {
        SinglePaths::Container(ContainerPaths {
            daemon,
            files,
            container: Mutex::default(),
            progress: Arc::clone(progress),
        })
    }

    /// What stands at a path from the root, without a leading slash. Symlinks on the way are followed, and with `follow`
    /// one at the end as well.
    pub fn stat(&self, path: &[u8], follow: bool) -> Result<Found, SourceError> {
        match self {
            SinglePaths::Container(paths) => paths.stat(path, follow),
            SinglePaths::Layers(paths) => paths.find(path, follow),
        }
    }

    /// The bytes of what stands at a path, and nothing else that is true of it but its type. All symlinks are followed.
    pub fn open(&self, path: &[u8]) -> Result<Found, SourceError> {
        match self {
            SinglePaths::Container(paths) => paths.find(path, true),
            SinglePaths::Layers(paths) => paths.find(path, true),
        }
    }
}

/// Reads single files through a container that is made for the first of them and removed with this.
pub(crate) struct ContainerPaths {
    daemon: Daemon,
    files: Files,
    container: Mutex<Option<Through>>,
    progress: Arc<Progress>,
}

/// The container that is made for the files, and the path at which it has them, without a slash at its end.
#[derive(Clone)]
struct Through {
    container: Arc<Throwaway>,
    root: Arc<str>,
}

/// What the files are of.
pub(super) enum Files {
    /// An image, but for these paths, which the daemon has and the image has not.
    Image(Box<Image>, &'static [&'static [u8]]),
    /// What this container has mounted there: a directory, which the daemon mounts by itself.
    Mount(Arc<Container>, Box<MountPoint>),
}

/// What stands at a path.
pub(crate) enum Found {
    /// Nothing.
    Nothing,
    /// Something that the daemon cannot be asked for alone.
    Unclear,
    /// This.
    File(Box<Fetched>),
}

/// The header of a file, and its bytes as they come. They end with an error when the task is cancelled.
pub(crate) struct Fetched {
    pub entry: Entry,
    content: Box<dyn Read + Send>,
}

impl Fetched {
    pub(super) fn new(entry: Entry, content: impl Read + Send + 'static) -> Fetched {
        Fetched { entry, content: Box::new(content) }
    }
}

/// The bytes of a file of a container's, and what they need meanwhile.
struct ContainerFile {
    content: on_demand::Content,
    _current: Current,
    _container: Arc<Throwaway>,
}

impl Read for ContainerFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.content.read(buf)
    }
}

impl ContainerPaths {
    fn stat(&self, path: &[u8], follow: bool) -> Result<Found, SourceError> {
        match self.find(path, follow)? {
            // Podman neither tells whose a file is nor keeps its time.
            Found::File(_) if self.daemon.engine() == Engine::Podman => Ok(Found::Unclear),
            found => Ok(found),
        }
    }

    fn find(&self, path: &[u8], follow: bool) -> Result<Found, SourceError> {
        let through = match (self.through(), &self.files) {
            (Ok(through), _) => through,
            // Where that fails, all of it is fetched, in one way or another.
            (Err(_), Files::Mount(..)) => return Ok(Found::Unclear),
            (Err(error), Files::Image(..)) => return Err(error),
        };
        match self.walk(&through, path, follow) {
            // What the daemon fails at may be there all the same, as a link in a circle is.
            Err(SourceError::Docker(
                DockerError::NameNotSupported { .. }
                | DockerError::BadAnswer { .. }
                | DockerError::Refused { status: 500.., .. },
            )) => Ok(Found::Unclear),
            found => found,
        }
    }

    /// Goes from name to name as whoever has all the files would. How the daemon follows links is another matter: through
    /// what is not there, through files, and more of them.
    fn walk(&self, through: &Through, path: &[u8], follow: bool) -> Result<Found, SourceError> {
        let Through { container, root } = through;
        // From where the files are, and what is still to be walked, the next name last.
        let (mut place, mut ahead) = (Vec::new(), names(path));
        let mut followed = 0;
        while let Some(name) = ahead.pop() {
            self.progress.check()?;
            if name == b".." {
                place.truncate(place.iter().rposition(|&b| b == b'/').unwrap_or(0));
                continue;
            }
            let dir = place.len();
            place.push(b'/');
            place.extend_from_slice(&name);
            if self.is_left_out(&place) {
                return Ok(Found::Nothing);
            }
            let Some(stat) = container.stat_path(&[root.as_bytes(), &place].concat())? else {
                return Ok(Found::Nothing);
            };
            match FileType::from_mode(stat.mode as u16) {
                Some(FileType::Symlink) if follow || !ahead.is_empty() => {
                    followed += 1;
                    match self.target(container, &place)? {
                        Some(target) if followed <= MAX_SYMLINKS && !target.is_empty() => {
                            place.truncate(if target.starts_with(b"/") { 0 } else { dir });
                            ahead.extend(names(&target));
                        }
                        _ => return Ok(Found::Unclear),
                    }
                }
                // An export leaves sockets out.
                Some(FileType::Socket) => return Ok(Found::Nothing),
                Some(FileType::Directory) => {}
                _ if ahead.is_empty() => {}
                _ => return Ok(Found::Unclear),
            }
        }
        match place.is_empty() {
            // The root is in no archive as it is shown.
            true => Ok(Found::Unclear),
            false => self.bring(container, &[root.as_bytes(), &place].concat()),
        }
    }

    fn is_left_out(&self, place: &[u8]) -> bool {
        match &self.files {
            Files::Image(_, left_out) => left_out.iter().any(|path| place.strip_prefix(b"/") == Some(path)),
            Files::Mount(..) => false,
        }
    }

    /// The target of a symlink, where that can be known. One in a volume could lead out of it.
    fn target(&self, container: &Throwaway, place: &[u8]) -> Result<Option<Vec<u8>>, SourceError> {
        if matches!(self.files, Files::Mount(..)) || !on_demand::gives_links(&self.daemon) {
            return Ok(None);
        }
        Ok(match self.fetch(container, place)?.0 {
            on_demand::Answer::File(file) => match file.0.kind {
                EntryKind::Symlink(target) => Some(target),
                _ => None,
            },
            on_demand::Answer::Nothing | on_demand::Answer::Unclear => None,
        })
    }

    /// The header and the bytes of what was seen at a place of the container. Podman denies a link that leads nowhere.
    fn bring(&self, container: &Arc<Throwaway>, place: &[u8]) -> Result<Found, SourceError> {
        let (answer, current) = self.fetch(container, place)?;
        let on_demand::Answer::File(file) = answer else { return Ok(Found::Unclear) };
        let ((entry, content), container) = (*file, Arc::clone(container));
        let file = ContainerFile { content, _current: current, _container: container };
        Ok(Found::File(Box::new(Fetched::new(entry, file))))
    }

    fn fetch(
        &self,
        container: &Throwaway,
        place: &[u8],
    ) -> Result<(on_demand::Answer, Current), SourceError> {
        let current = Current::of(&self.progress);
        let place = place.strip_prefix(b"/").unwrap_or(place);
        Ok((on_demand::fetch(container, place, |stream| current.add(stream))?, current))
    }

    fn through(&self) -> Result<Through, SourceError> {
        let mut through = self.container.lock().unwrap_or_else(PoisonError::into_inner);
        match &*through {
            Some(through) => Ok(through.clone()),
            None => {
                let _sweep = super::image::sweep(&self.daemon);
                let (made, root) = match &self.files {
                    Files::Image(image, _) => (self.daemon.throwaway(image)?, String::new()),
                    Files::Mount(container, mount) => {
                        self.daemon.throwaway_with_mount(container, mount)?.ok_or(SourceError::NoStream)?
                    }
                };
                let made = Through { container: Arc::new(made), root: root.into() };
                *through = Some(made.clone());
                Ok(made)
            }
        }
    }
}

/// The names of a path, the last one first.
pub(super) fn names(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.rsplit(|&b| b == b'/').filter(|name| !matches!(*name, b"" | b"."));
    names.map(<[u8]>::to_vec).collect()
}

impl Read for Fetched {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.content.read(buf)
    }
}
