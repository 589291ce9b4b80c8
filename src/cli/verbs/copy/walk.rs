//! The walk through what is copied, and what takes the copies.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::output::error::CommandError;
use crate::cli::verbs::reading::Reading;
use crate::gateway::{FileReader, FileStat};
use crate::index::FileType;

/// The most that is held of a file at a time.
pub const PIECE: usize = 256 << 10;

/// What was copied, and what could not be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Files of every type, each name counted.
    pub files: u64,
    /// Bytes of regular files, holes not counted.
    pub bytes: u64,
    /// Files that belong to whoever copied them.
    pub owners_lost: u64,
    /// Files without their setuid and setgid bits, for they belong to another user than in the source.
    pub special_bits_lost: u64,
    /// Extended attributes that could not be set.
    pub xattrs_lost: u64,
    /// Devices that could not be made.
    pub devices_lost: u64,
}

/// What takes copies of files. Names are relative to where the copy goes.
pub trait Sink {
    /// Takes a file; of a regular file, `content` gives the bytes. A directory comes before what is in it.
    fn put(
        &mut self,
        name: &Path,
        file: &FileStat,
        content: Option<FileReader<'_>>,
    ) -> Result<(), CommandError>;

    /// Takes another name of a file that it has.
    fn link(&mut self, name: &Path, file: &FileStat, first: &Path) -> Result<(), CommandError>;

    /// Nothing more comes.
    fn finish(&mut self) -> Result<Tally, CommandError>;
}

/// Copies `top`, with all that is in it if it is a directory, under the name `name`.
pub fn copy(
    reading: &Reading,
    top: FileStat,
    name: &Path,
    sink: &mut dyn Sink,
) -> Result<Tally, CommandError> {
    // The first names of the files that have several.
    let mut known: HashMap<(i64, u32), PathBuf> = HashMap::new();
    let mut ahead = vec![(name.to_owned(), top)];
    while let Some((name, file)) = ahead.pop() {
        let shared = file.inode.filter(|inode| inode.links > 1 && file.file_type != FileType::Directory);
        let shared = shared.map(|inode| (reading.mount_of(&file), inode.number));
        if let Some(first) = shared.and_then(|inode| known.get(&inode)) {
            sink.link(&name, &file, first)?;
            continue;
        }
        match file.file_type {
            FileType::Regular => {
                sink.put(&name, &file, Some(reading.open_file(&file.path)?))?;
            }
            FileType::Directory => {
                sink.put(&name, &file, None)?;
                let within = reading.read_dir(&file.path)?;
                ahead.extend(within.into_iter().rev().map(|file| (name.join(file.name()), file)));
            }
            _ => sink.put(&name, &file, None)?,
        }
        if let Some(inode) = shared {
            known.insert(inode, name);
        }
    }
    sink.finish()
}
