//! Brings single paths of an image before the stream does, from the container that is being exported.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, PoisonError};

use crate::docker::{Daemon, Engine, PathStat, Throwaway};
use crate::index::scan::{Content, EndMark, Entry, EntryKind, Forward, Scanner};
use crate::index::{FileType, Glance, Grower, MAX_FETCHED, Timestamp, Wish};

use super::SourceError;

/// Grants wishes until there can be no more.
pub(super) fn serve(
    wished: &Mutex<Receiver<Wish>>,
    daemon: &Daemon,
    container: &Throwaway,
    leave_out: &[&[u8]],
    grower: &Grower,
) {
    loop {
        let wish = wished.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(wish) = wish else { return };
        let (Wish::Existence(path) | Wish::Header(path) | Wish::Content(path)) = &wish;
        let granted = match &wish {
            Wish::Existence(path) if leave_out.contains(&path.as_slice()) => {
                grower.absent(path);
                Ok(true)
            }
            Wish::Existence(path) => look(container, path, grower),
            Wish::Header(path) | Wish::Content(path) => fetch(daemon, container, path, grower),
        };
        match granted {
            Ok(true) => {}
            Ok(false) => grower.denied(path),
            Err(error) => {
                tracing::debug!("not fetched ahead of the stream: {error}");
                grower.denied(path);
            }
        }
    }
}

fn look(container: &Throwaway, path: &[u8], grower: &Grower) -> Result<bool, SourceError> {
    match container.stat_path(&absolute(path))? {
        None => grower.absent(path),
        Some(stat) => match glance(&stat) {
            // An export leaves sockets out.
            Some(Glance { file_type: FileType::Socket, .. }) => grower.absent(path),
            Some(glance) => grower.found(path, glance),
            None => return Ok(false),
        },
    }
    Ok(true)
}

/// Brings the attributes of a path, and its bytes if it is a small regular file.
fn fetch(daemon: &Daemon, container: &Throwaway, path: &[u8], grower: &Grower) -> Result<bool, SourceError> {
    let name = path.rsplit(|&b| b == b'/').next().unwrap_or(path);
    // Podman gives what a symlink leads to instead of the link, under the link's name.
    if daemon.engine() == Engine::Podman
        && container.stat_path(&absolute(path))?.is_none_or(|stat| stat.resolved.is_some())
    {
        return Ok(false);
    }
    let Some(stream) = container.archive(&absolute(path))? else { return Ok(false) };
    let mut scanner = Scanner::new(Forward(stream), EndMark::Optional);
    let scan_error = |e| SourceError::content(OsStr::from_bytes(path), e);
    let Some(entry) = scanner.next_entry().map_err(scan_error)? else { return Ok(false) };
    if entry.path != name {
        return Ok(false);
    }
    let bytes = match &entry {
        Entry { kind: EntryKind::Regular { size, content: Content::Contiguous { .. } }, .. }
            if *size <= MAX_FETCHED =>
        {
            let mut bytes = Vec::new();
            let mut rest = scanner.into_input().0.take(*size);
            rest.read_to_end(&mut bytes).map_err(|e| SourceError::stream(OsStr::from_bytes(path), e))?;
            (bytes.len() as u64 == *size).then_some(bytes)
        }
        _ => None,
    };
    grower.header(path, entry);
    if let Some(bytes) = bytes {
        grower.content(path, bytes);
    }
    Ok(true)
}

fn glance(stat: &PathStat) -> Option<Glance> {
    let mode = (stat.mode & 0o177777) as u16;
    Some(Glance {
        file_type: FileType::from_mode(mode)?,
        perm: mode & 0o7777,
        size: stat.size,
        // To the second, as an export has it.
        mtime: Timestamp { secs: stat.mtime.map_or(0, |mtime| mtime.as_second()), nanos: 0 },
    })
}

fn absolute(path: &[u8]) -> Vec<u8> {
    [b"/", path].concat()
}
