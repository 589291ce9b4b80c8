//! What a word of the command line may become: what there is of daemon, cache and mounts.
//!
//! Silent, and quick: what does not answer in time has no candidates.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter as _};

use super::source_path;
use crate::cache::Cache;
use crate::cli::server::options;
use crate::cli::server::runtime_dir::Surroundings;
use crate::cli::server::sessions::Register;
use crate::docker::{Daemon, Endpoint};
use crate::gateway::Gateway;
use crate::index::FileType;
use crate::progress::Progress;
use crate::source::{self, MountState};

/// How long candidates are waited for: a person is at the keyboard.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sources, and paths behind them.
pub fn sources() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        if let (source, Some(path)) = source_path::split(current) {
            let prefix = [source.as_bytes(), b":"].concat();
            return within(source, path.as_os_str(), &prefix);
        }
        let mut found = PathCompleter::any().complete(current);
        let named = in_time(|| {
            let endpoint = Endpoint::from_environment(None).ok()?;
            let daemon = Daemon::connect(&endpoint).ok()?;
            let images = daemon.images().unwrap_or_default().into_iter().flat_map(|image| image.names);
            let images = images.map(|name| (name, "image"));
            let containers = daemon.containers().unwrap_or_default().into_iter();
            let containers =
                containers.map(|container| (format!("container:{}", container.name), "container"));
            Some(images.chain(containers).collect::<Vec<_>>())
        });
        found.extend(matching(named.into_iter().flatten(), current));
        found
    })
}

/// Paths inside the source that stands before them on the line.
pub fn paths() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| match source_of_line() {
        Some(source) => within(&source_path::source(&source), current, b""),
        None => Vec::new(),
    })
}

/// Where something of ours is mounted.
pub fn mountpoints() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let register = Register::new(Surroundings::of_this_process().runtime_dir());
        let records = register.records().unwrap_or_default().into_iter();
        let told = records.filter_map(|record| {
            Some((record.mountpoint.into_os_string().into_string().ok()?, record.source.into_string().ok()?))
        });
        matching(told, current)
    })
}

/// Keys of what is in the cache.
pub fn cache_keys() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let entries = cache().and_then(|cache| cache.ls().ok()).unwrap_or_default().into_iter();
        let told = entries.map(|entry| {
            let source = entry.meta.map(|meta| meta.about.source.to_string_lossy().into_owned());
            (entry.key.short(), source.unwrap_or_default())
        });
        matching(told, current)
    })
}

/// Options of `-o`, the last of a list.
pub fn mount_options() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let current = current.to_string_lossy();
        let before = current.rfind(',').map_or("", |comma| &current[..=comma]);
        let all = options::names().map(|word| (format!("{before}{word}"), ""));
        matching(all, OsStr::new(&*current))
    })
}

fn cache() -> Option<Cache> {
    let explicit = std::env::var_os("IMAGEFS_CACHE_DIR").filter(|dir| !dir.is_empty());
    Cache::open(explicit.map(PathBuf::from)).ok()
}

fn matching(
    all: impl IntoIterator<Item = (String, impl Into<String>)>,
    current: &OsStr,
) -> Vec<CompletionCandidate> {
    let fits = |value: &str| value.as_bytes().starts_with(current.as_bytes());
    let candidate = |(value, help): (String, _)| {
        let help: String = Into::into(help);
        CompletionCandidate::new(value).help((!help.is_empty()).then(|| help.into()))
    };
    all.into_iter().filter(|(value, _)| fits(value)).map(candidate).collect()
}

/// What `task` finds, if that does not take too long. The process ends soon, and whatever still waits with it.
fn in_time<T: Send + 'static>(task: impl FnOnce() -> Option<T> + Send + 'static) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(task()));
    receiver.recv_timeout(PATIENCE).ok().flatten()
}

/// The paths that `current` may become in what is there of a source: nothing is read into the cache for it.
fn within(source: &OsStr, current: &OsStr, prefix: &[u8]) -> Vec<CompletionCandidate> {
    let bytes = current.as_bytes();
    let (dir, start) =
        bytes.split_at(bytes.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1));
    let (source, at) = (source.to_owned(), Path::new(OsStr::from_bytes(dir)).to_owned());
    let files = in_time(move || {
        let (cache, progress) = (cache()?, Arc::new(Progress::new()));
        let gateway = Gateway::open(source, &source::Context::new(&cache, &progress)).ok()?;
        let ready = gateway.mounts().first()?.state() == MountState::Ready;
        if ready { gateway.read_dir(0, at, None).ok() } else { None }
    });
    let named =
        files.unwrap_or_default().into_iter().filter(|file| file.name().as_bytes().starts_with(start));
    let candidate = named.map(|file| {
        let end: &[u8] = if file.file_type == FileType::Directory { b"/" } else { b"" };
        CompletionCandidate::new(OsString::from_vec([prefix, dir, file.name().as_bytes(), end].concat()))
    });
    candidate.collect()
}

/// The source on the line that is being completed: the first word behind the verb that is no option; of grep, the second.
fn source_of_line() -> Option<OsString> {
    let mut words = std::env::args_os().skip_while(|word| word != "--").skip(2);
    let verb = words.find(|word| !word.as_bytes().starts_with(b"-"))?;
    words.filter(|word| !word.as_bytes().starts_with(b"-")).nth(usize::from(verb == "grep"))
}
