//! What the verbs share that read a source without mounting it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::candidates;
use super::context::Context;
use super::context::SourceArgs;
use super::source_path;
use super::watch::beside;
use crate::cli::output::error::{CommandError, Kind};
use crate::cli::output::size;
use crate::cli::process::signals::Signals;
use crate::gateway::{FileReader, FileStat, Gateway, GatewayError};
use crate::progress::Progress;
use crate::source;

/// Where to read.
#[derive(Debug, Args)]
pub struct ReadArgs {
    /// What `imagefs mount` takes: an image, a tar, …; with :/PATH behind it, a path of it
    #[arg(add = candidates::sources())]
    source: OsString,
    #[command(flatten)]
    options: ReadOptions,
}

#[derive(Debug, Args)]
struct ReadOptions {
    /// Read this mount alone: its index in the mount table, else its name
    ///
    /// Paths then begin at the mount's root. Without it, they are those of the container, and lead into its mounts.
    #[arg(long, value_name = "INDEX|NAME", allow_hyphen_values = true)]
    mount: Option<String>,
    /// Get a daemon's image as its layers are stored
    #[arg(long)]
    exact: bool,
    #[command(flatten)]
    source_args: SourceArgs,
}

/// A source that is open, and the mount of it that was chosen, if one was.
///
/// The answers are those of the [`Gateway`]. Where no mount was chosen, paths are the container's, in which the mounts are in
/// place, and links lead from one into the other.
pub struct Reading {
    /// Reads it.
    pub gateway: Gateway,
    mount: Option<i64>,
}

/// Symbolic links from one mount into another that are followed for one path, as in path_resolution(7).
const MAX_SYMLINKS: usize = 40;

impl Reading {
    /// What stands in a directory, sorted; names that begin with a dot only if `all`.
    pub fn files(&self, dir: &Path, all: bool) -> Result<Vec<FileStat>, CommandError> {
        let mut files = self.read_dir(dir)?;
        files.retain(|file| all || !file.name().as_encoded_bytes().starts_with(b"."));
        Ok(files)
    }

    /// Tells the log how much of an image in a registry was fetched.
    fn tell_fetched(&self, progress: &Progress) {
        let source = self.gateway.source();
        if source.details.manifest.is_some() {
            let total = source.details.layers.iter().map(|layer| layer.size).sum();
            tracing::info!("{} of {} fetched", size::show(progress.bytes()), size::show(total));
        }
    }

    /// All that stands in a directory, sorted. A mount that cannot be read is empty to who comes by.
    pub fn read_dir(&self, dir: &Path) -> Result<Vec<FileStat>, CommandError> {
        let files = self.at(dir, |mount, dir| self.gateway.read_dir(mount, dir, None));
        let mut files = match files {
            Err(GatewayError::Unavailable(_)) if self.mount.is_none() => Vec::new(),
            files => files?,
        };
        for file in &mut files {
            file.path = dir.join(file.name());
            let (mount, _) = self.locate(&file.path);
            let is_single =
                usize::try_from(mount).is_ok_and(|mount| self.gateway.source().destinations().is_file(mount));
            // What it is mounted on is another file, and empty.
            if is_single && let Ok(mounted) = self.stat_link(&file.path) {
                *file = mounted;
            }
        }
        Ok(files)
    }

    /// As [`Gateway::stat_link`].
    pub fn stat_link(&self, path: &Path) -> Result<FileStat, CommandError> {
        self.stat(path, |mount, path| self.gateway.stat_link(mount, path))
    }

    /// As [`Gateway::stat_target`].
    pub fn stat_target(&self, path: &Path) -> Result<FileStat, CommandError> {
        self.stat(path, |mount, path| self.gateway.stat_target(mount, path))
    }

    /// As [`Gateway::stat_file`], but a link from one mount into another is followed.
    pub fn stat_file(&self, path: &Path) -> Result<FileStat, CommandError> {
        if self.mount.is_none()
            && self.gateway.mounts().len() > 1
            && let Ok(target) = self.stat_target(path)
        {
            return Ok(target);
        }
        self.stat(path, |mount, path| self.gateway.stat_file(mount, path))
    }

    /// As [`Gateway::open_file`].
    pub fn open_file(&self, path: &Path) -> Result<FileReader<'_>, CommandError> {
        Ok(self.at(path, |mount, path| self.gateway.open_file(mount, path))?)
    }

    /// As [`Gateway::read_file`], from the front, at most `limit` bytes.
    pub fn read_file(&self, path: &Path, limit: u64) -> Result<Vec<u8>, CommandError> {
        Ok(self.at(path, |mount, path| self.gateway.read_file(mount, path, ..limit))?)
    }

    /// The mount that a file was found in: inode numbers are one mount's own.
    pub fn mount_of(&self, file: &FileStat) -> i64 {
        self.locate(&file.path).0
    }

    fn stat(
        &self,
        path: &Path,
        stat: impl Fn(i64, &Path) -> Result<FileStat, GatewayError>,
    ) -> Result<FileStat, CommandError> {
        let mut file = self.at(path, stat)?;
        let names = source::clean(path.as_os_str().as_bytes());
        file.path =
            names.into_iter().fold(PathBuf::from("/"), |path, name| path.join(OsStr::from_bytes(name)));
        Ok(file)
    }

    /// Asks for a path, and where a link leads into another mount, for where it leads.
    fn at<T>(
        &self,
        path: &Path,
        ask: impl Fn(i64, &Path) -> Result<T, GatewayError>,
    ) -> Result<T, GatewayError> {
        let mut path = path.to_owned();
        for _ in 0..MAX_SYMLINKS {
            let (mount, within) = self.locate(&path);
            match ask(mount, &within) {
                Err(GatewayError::LeadsOut { target, .. }) if self.mount.is_none() => path = target,
                answer => return answer,
            }
        }
        Err(GatewayError::Loop(path))
    }

    fn locate(&self, path: &Path) -> (i64, PathBuf) {
        match self.mount {
            Some(mount) => (mount, path.to_owned()),
            None => self.gateway.locate(path),
        }
    }
}

impl ReadArgs {
    /// The paths that are meant: what is behind the source's own colon, and then `beside`; `fallback` if there is neither.
    pub fn paths(&self, beside: &[PathBuf], fallback: Option<&str>) -> Vec<PathBuf> {
        source_path::paths(&self.source, beside, fallback)
    }

    /// The same, where there has to be one.
    pub fn some_paths(&self, beside: &[PathBuf]) -> Result<Vec<PathBuf>, CommandError> {
        let paths = self.paths(beside, None);
        if paths.is_empty() {
            let error = CommandError::new(Kind::Usage, "no path of the source was given");
            return Err(error.hint("write it behind the source: SOURCE PATH, or SOURCE:/PATH"));
        }
        Ok(paths)
    }

    /// The source, for who wants all of it at once, and how it is found.
    pub fn whole(&self) -> (OsString, &SourceArgs) {
        (source_path::source(&self.source), &self.options.source_args)
    }

    /// Opens the source for as long as `read` takes. A signal ends it cleanly.
    pub fn read<T>(
        &self,
        context: &Context,
        read: impl FnOnce(&Reading) -> Result<T, CommandError>,
    ) -> Result<T, CommandError> {
        let progress = Arc::new(Progress::new());
        let signals = Signals::watch(&progress)?;
        signals.judge(beside(&context.printer, &source_path::source(&self.source), &progress, || {
            self.open(context, &progress).and_then(|reading| {
                let result = read(&reading);
                reading.tell_fetched(&progress);
                result
            })
        }))
    }

    fn open(&self, context: &Context, progress: &Arc<Progress>) -> Result<Reading, CommandError> {
        let ReadOptions { mount, exact, source_args } = &self.options;
        let cache = context.cache()?;
        let source_context = source::Context { exact: *exact, ..source_args.context(&cache, progress) };
        let gateway = Gateway::open(source_path::source(&self.source), &source_context)?;
        gateway.source().notes.iter().for_each(|note| context.printer.note(note));
        let mount = mount.as_deref().map(|mount| choose(&gateway, mount)).transpose()?;
        Ok(Reading { gateway, mount })
    }
}

/// The mount of this index, or else of this name.
fn choose(gateway: &Gateway, mount: &str) -> Result<i64, GatewayError> {
    let is_there = |index: &i64| usize::try_from(*index).is_ok_and(|index| index < gateway.mounts().len());
    match (mount.parse(), gateway.mount_index(mount)) {
        (Ok(index), _) if is_there(&index) => Ok(index),
        (_, Ok(named)) => Ok(named),
        // That there is none of that index is told by whatever is asked of it.
        (Ok(index), Err(_)) => Ok(index),
        (Err(_), Err(error)) => Err(error),
    }
}
