//! Which error number an error becomes.
//!
//! One function, exhaustive on purpose: a new error must be given its number here. Must not import `fuser`.

use rustix::io::Errno;

use super::symlink::SymlinkError;
use super::view::ViewError;
use crate::index::{ReadError, TreeError};

/// What a process that asked gets in `errno`.
pub(super) fn errno(error: &ViewError) -> Errno {
    match error {
        ViewError::Tree(error) | ViewError::Read(ReadError::Tree(error)) => of_tree(error),
        ViewError::Symlink(SymlinkError::Tree(error)) => of_tree(error),
        ViewError::NameTooLong | ViewError::Symlink(SymlinkError::TooLong(_)) => Errno::NAMETOOLONG,
        ViewError::Read(ReadError::Io(_) | ReadError::Short { .. }) => Errno::IO,
        // As NFS answers for a file that was replaced on the server: the open file is no longer there.
        ViewError::Read(ReadError::Changed) => Errno::STALE,
        ViewError::NoSuchNode(_) | ViewError::Moved(_) => Errno::STALE,
        ViewError::NotADirectory(_) => Errno::NOTDIR,
        ViewError::NotAFile(_) | ViewError::NotASymlink(_) => Errno::INVAL,
        ViewError::PastTheEnd => Errno::NXIO,
        ViewError::NoXattrs => Errno::NOSYS,
        ViewError::NoSuchXattr => Errno::NODATA,
        ViewError::NotExecutable => Errno::ACCESS,
        ViewError::ReadOnly => Errno::ROFS,
        ViewError::Unavailable(_) => Errno::IO,
        ViewError::TooManyNodes => Errno::NFILE,
    }
}

/// Whether an error tells of a fault that a person should look into, not of what the asking process did.
pub(super) fn is_fault(error: &ViewError) -> bool {
    matches!(errno(error), Errno::IO | Errno::STALE)
}

fn of_tree(error: &TreeError) -> Errno {
    match error {
        // The kernel asks for numbers that it was given. One that is unknown is a handle from another session,
        // and ENOENT would say that the file had been deleted.
        TreeError::NoSuchInode(_) => Errno::STALE,
        TreeError::NotADirectory(_) => Errno::NOTDIR,
        TreeError::NotASymlink(_) | TreeError::NotAFile(_) => Errno::INVAL,
        // Whoever can wait for the stream has done so before this is asked.
        TreeError::NotYet => Errno::IO,
        TreeError::Lost | TreeError::Corrupt(_) => Errno::IO,
    }
}
