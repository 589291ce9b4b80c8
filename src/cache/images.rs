//! Files that are made from a finished entry when they are first wanted: EROFS images, each for one way of showing it.
//!
//! A kernel mount has no process that could hold the entry's lock: the table of mounts tells that it is in use.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::dir::Dir;
use super::{CacheError, Entry};
use crate::mountinfo::{self, MountEntry};

/// What the names of images begin with.
pub(super) const IMAGE: &str = "erofs-";

/// How many an entry has at most: beyond that, those that are not mounted go before another one comes.
const MAX_IMAGES: usize = 8;

/// The mounts that the kernel makes of images.
const FILESYSTEM_TYPE: &str = "erofs";

impl Entry {
    /// The image of that name, which is a word, and where it is; `make` writes it if there is none that `is_good`.
    pub fn image<E: From<CacheError>>(
        &self,
        name: &str,
        is_good: impl Fn(&File) -> bool,
        make: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<(PathBuf, File), E> {
        let dir = self.dir();
        let name = format!("{IMAGE}{name}");
        if let Some(found) = dir.private_file(&name)? {
            if is_good(&found) {
                return Ok((dir.real_path()?.join(name), found));
            }
            // One that a crash has cut short. Who has it mounted keeps it.
            dir.remove_file(&name)?;
        }
        dir.make_room()?;
        let failed = |e: io::Error| dir.error("write", &name, e);
        let file = dir.unnamed_file()?;
        make(&file)?;
        file.sync_all().map_err(failed)?;
        dir.give_name(&file, &name)?;
        dir.sync()?;
        let found = dir.private_file(&name)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        Ok((dir.real_path()?.join(name), found))
    }
}

impl Dir {
    /// Removes all images that are not mounted, if there are too many.
    fn make_room(&self) -> Result<(), CacheError> {
        let mut names = self.names()?;
        names.retain(|name| name.as_bytes().starts_with(IMAGE.as_bytes()));
        if names.len() < MAX_IMAGES {
            return Ok(());
        }
        self.remove_images()
    }

    /// Removes all images that are not mounted: they are made again when they are wanted.
    pub(super) fn remove_images(&self) -> Result<(), CacheError> {
        let mounted = self.mounted_images()?;
        let mut names = self.names()?;
        names.retain(|name| name.as_bytes().starts_with(IMAGE.as_bytes()));
        for name in names {
            if !mounted.iter().any(|image| image.file_name() == Some(&name)) {
                self.remove_file(name)?;
            }
        }
        Ok(())
    }

    /// Whether the kernel has one of its images mounted, as far as this process can see.
    pub(super) fn is_mounted(&self) -> Result<bool, CacheError> {
        Ok(!self.mounted_images()?.is_empty())
    }

    fn mounted_images(&self) -> Result<Vec<PathBuf>, CacheError> {
        let table = mountinfo::read_table().map_err(|e| self.error("look for mounts of", "", e))?;
        let images = |dir: &Path| {
            let of_here = |entry: &MountEntry| {
                entry.filesystem_type == FILESYSTEM_TYPE && entry.source.parent() == Some(dir)
            };
            table.iter().filter(|entry| of_here(entry)).map(|entry| entry.source.clone()).collect()
        };
        // Only then does its path have to be found out.
        match table.iter().any(|entry| entry.filesystem_type == FILESYSTEM_TYPE) {
            true => Ok(images(&self.real_path()?)),
            false => Ok(Vec::new()),
        }
    }
}
