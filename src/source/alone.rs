//! Single files of an image that is not in the cache, or of a volume: asked of the daemon one by one, and nothing else with
//! them.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use crate::docker::{Container, Daemon, DockerError, Image, PathStat, Throwaway};
use crate::index::scan::Entry;
use crate::progress::Progress;

use super::SourceError;
use super::ahead::{self, absolute};
use super::image::Current;

/// Reads single files through a container that is made for the first of them and removed with this.
pub(crate) struct Alone {
    daemon: Daemon,
    files: Files,
    container: Mutex<Option<Arc<Throwaway>>>,
    progress: Arc<Progress>,
}

/// What the files are of.
pub(super) enum Files {
    /// An image, but for these paths, which the daemon has and the image has not.
    Image(Box<Image>, &'static [&'static [u8]]),
    /// The volume of that name, which this container has there.
    Volume(Arc<Container>, String, String),
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
    _container: Arc<Throwaway>,
    _current: Current,
    content: ahead::Content,
}

impl Alone {
    pub(super) fn new(daemon: Daemon, files: Files, progress: &Arc<Progress>) -> Alone {
        Alone { daemon, files, container: Mutex::default(), progress: Arc::clone(progress) }
    }

    /// Finds what stands at a path from the root, without a leading slash. Symlinks on the way are followed within
    /// the image, and with `follow` one at the end as well.
    pub fn find(&self, path: &[u8], follow: bool) -> Result<Found, SourceError> {
        let answer = match &self.files {
            Files::Image(_, left_out) if left_out.contains(&path) => Ok(Found::Nothing),
            Files::Image(..) => self.ask(path, follow),
            Files::Volume(_, _, destination) => self.ask_beneath(destination, path, follow),
        };
        match answer {
            // What the daemon fails at may be there all the same: a link in a circle, or through what is no directory.
            Err(SourceError::Docker(
                DockerError::NameNotSupported { .. }
                | DockerError::BadAnswer { .. }
                | DockerError::Refused { status: 500.., .. },
            )) => Ok(Found::Unclear),
            answer => answer,
        }
    }

    /// As [`Alone::ask`], but no link is followed: it could lead out of the directory.
    fn ask_beneath(&self, directory: &str, path: &[u8], follow: bool) -> Result<Found, SourceError> {
        // Where that fails, all of it is fetched, in one way or another.
        let Ok(container) = self.container() else { return Ok(Found::Unclear) };
        let mut names = path.split(|&b| b == b'/').peekable();
        let mut place = directory.trim_end_matches('/').as_bytes().to_vec();
        while let Some(name) = names.next() {
            if name.is_empty() {
                return Ok(Found::Unclear);
            }
            place.push(b'/');
            place.extend_from_slice(name);
            match container.stat_path(&place)? {
                None => return Ok(Found::Nothing),
                Some(PathStat { resolved: Some(_), .. }) if follow || names.peek().is_some() => {
                    return Ok(Found::Unclear);
                }
                Some(_) => {}
            }
        }
        self.bring(container, &place)
    }

    fn ask(&self, path: &[u8], follow: bool) -> Result<Found, SourceError> {
        let container = self.container()?;
        let target = match (follow, ahead::gives_links(&self.daemon)) {
            // It gives what a link leads to.
            (true, false) => absolute(path),
            (_, gives_links) => match container.stat_path(&absolute(path))? {
                None => return Ok(Found::Nothing),
                Some(PathStat { resolved: None, .. }) => absolute(path),
                Some(PathStat { resolved: Some(target), .. }) => match follow {
                    // The daemon has replaced what is not UTF-8.
                    true if target.contains(char::REPLACEMENT_CHARACTER) => return Ok(Found::Unclear),
                    true => target.into_bytes(),
                    false if gives_links => absolute(path),
                    false => return Ok(Found::Unclear),
                },
            },
        };
        self.bring(container, &target)
    }

    fn bring(&self, container: Arc<Throwaway>, path: &[u8]) -> Result<Found, SourceError> {
        let current = Current::of(&self.progress);
        let path = path.strip_prefix(b"/").unwrap_or(path);
        Ok(match ahead::fetch(&container, path, |stream| current.add(stream))? {
            ahead::Answer::Nothing => Found::Nothing,
            ahead::Answer::Unclear => Found::Unclear,
            ahead::Answer::File(file) => {
                let (entry, content) = *file;
                Found::File(Box::new(Fetched { entry, _container: container, _current: current, content }))
            }
        })
    }

    fn container(&self) -> Result<Arc<Throwaway>, SourceError> {
        let mut container = self.container.lock().unwrap_or_else(PoisonError::into_inner);
        match &*container {
            Some(container) => Ok(Arc::clone(container)),
            None => {
                super::image::sweep(&self.daemon);
                let made = match &self.files {
                    Files::Image(image, _) => self.daemon.throwaway(image),
                    Files::Volume(container, name, destination) => {
                        self.daemon.throwaway_with_volume(container, name, destination)
                    }
                };
                let made = Arc::new(made?);
                *container = Some(Arc::clone(&made));
                Ok(made)
            }
        }
    }
}

impl Read for Fetched {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.content.read(buf)
    }
}
