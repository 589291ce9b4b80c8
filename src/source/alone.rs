//! Single files of an image that is not in the cache: asked of the daemon one by one, and nothing else with them.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use crate::docker::{Daemon, DockerError, Image, PathStat, Throwaway};
use crate::index::scan::Entry;

use super::SourceError;
use super::ahead::{self, absolute};

/// Reads single files through a container that is made for the first of them and removed with this.
pub(crate) struct Alone {
    daemon: Daemon,
    image: Image,
    /// Paths that the daemon has and the image has not.
    left_out: &'static [&'static [u8]],
    container: Mutex<Option<Arc<Throwaway>>>,
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

/// The header of a file, and its bytes as they come.
pub(crate) struct Fetched {
    pub entry: Entry,
    _container: Arc<Throwaway>,
    content: ahead::Content,
}

impl Alone {
    pub(super) fn new(daemon: Daemon, image: Image, left_out: &'static [&'static [u8]]) -> Alone {
        Alone { daemon, image, left_out, container: Mutex::default() }
    }

    /// Finds what stands at a path from the root, without a leading slash. Symlinks on the way are followed within
    /// the image, and with `follow` one at the end as well.
    pub fn find(&self, path: &[u8], follow: bool) -> Result<Found, SourceError> {
        match self.ask(path, follow) {
            Err(SourceError::Docker(
                DockerError::NameNotSupported { .. } | DockerError::BadAnswer { .. },
            )) => Ok(Found::Unclear),
            answer => answer,
        }
    }

    fn ask(&self, path: &[u8], follow: bool) -> Result<Found, SourceError> {
        if self.left_out.contains(&path) {
            return Ok(Found::Nothing);
        }
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
        Ok(match ahead::fetch(&container, target.strip_prefix(b"/").unwrap_or(&target), |_| {})? {
            ahead::Answer::Nothing => Found::Nothing,
            ahead::Answer::Unclear => Found::Unclear,
            ahead::Answer::File(file) => {
                let (entry, content) = *file;
                Found::File(Box::new(Fetched { entry, _container: container, content }))
            }
        })
    }

    fn container(&self) -> Result<Arc<Throwaway>, SourceError> {
        let mut container = self.container.lock().unwrap_or_else(PoisonError::into_inner);
        match &*container {
            Some(container) => Ok(Arc::clone(container)),
            None => {
                let made = Arc::new(super::image::container(&self.daemon, &self.image)?);
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
