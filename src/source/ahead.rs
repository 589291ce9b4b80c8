//! Brings single paths of an image before the stream does, from the container that is being exported.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, PoisonError};

use crate::docker::{ByteStream, Daemon, Engine, PathStat, Throwaway};
use crate::index::scan::{self, EndMark, Entry, EntryKind, Forward, Scanner};
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
        let granted = match &wish {
            Wish::Existence(path) if leave_out.contains(&path.as_slice()) => {
                grower.absent(path);
                Ok(true)
            }
            Wish::Existence(path) => look(container, path, grower),
            Wish::Header(path) | Wish::Content(path) => bring(daemon, container, path, grower),
        };
        match granted {
            Ok(true) => {}
            Ok(false) => tracing::debug!("left to the stream: {wish:?}"),
            Err(error) => tracing::debug!("left to the stream: {error}"),
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
fn bring(daemon: &Daemon, container: &Throwaway, path: &[u8], grower: &Grower) -> Result<bool, SourceError> {
    if !gives_links(daemon)
        && container.stat_path(&absolute(path))?.is_none_or(|stat| stat.resolved.is_some())
    {
        return Ok(false);
    }
    let Answer::File(file) = fetch(container, path)? else { return Ok(false) };
    let (entry, mut content) = *file;
    let bytes = match &entry.kind {
        EntryKind::Regular { size, .. } if *size <= MAX_FETCHED => {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes).map_err(|e| SourceError::stream(OsStr::from_bytes(path), e))?;
            Some(bytes)
        }
        _ => None,
    };
    grower.header(path, entry);
    if let Some(bytes) = bytes {
        grower.content(path, bytes);
    }
    Ok(true)
}

/// Whether the daemon gives a symlink as it is. Podman gives what it leads to instead, under the link's name.
pub(super) fn gives_links(daemon: &Daemon) -> bool {
    daemon.engine() == Engine::Docker
}

/// What the daemon has at a path.
pub(super) enum Answer {
    Nothing,
    /// Something that does not come out of an archive of its own.
    Unclear,
    File(Box<(Entry, Content)>),
}

/// The bytes of a file, as they come.
pub(super) struct Content {
    stream: ByteStream,
    left: u64,
}

impl Read for Content {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let room = buf.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.stream.read(&mut buf[..room])?;
        if n == 0 && room > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n as u64;
        Ok(n)
    }
}

/// Asks for an archive of what stands at a path, and reads its first header.
pub(super) fn fetch(container: &Throwaway, path: &[u8]) -> Result<Answer, SourceError> {
    let Some(stream) = container.archive(&absolute(path))? else { return Ok(Answer::Nothing) };
    let name = path.rsplit(|&b| b == b'/').next().unwrap_or(path);
    let mut scanner = Scanner::new(Forward(stream), EndMark::Optional);
    let scan_error = |e| SourceError::content(OsStr::from_bytes(path), e);
    Ok(match scanner.next_entry().map_err(scan_error)? {
        Some(entry) if entry.path == name => {
            let left = match &entry.kind {
                EntryKind::Regular { size, content: scan::Content::Contiguous { .. } } => *size,
                EntryKind::Regular { .. } | EntryKind::HardLink(_) => return Ok(Answer::Unclear),
                _ => 0,
            };
            Answer::File(Box::new((entry, Content { stream: scanner.into_input().0, left })))
        }
        _ => Answer::Unclear,
    })
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

pub(super) fn absolute(path: &[u8]) -> Vec<u8> {
    [b"/", path].concat()
}
