//! Has the kernel mount an image from plain files.
//!
//! The devices are given by descriptors that are open already: what is mounted is what was looked at, whatever stands at a
//! path by now. The image is given by its path, which the table of mounts then shows.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
};

use super::KernelError;

/// The longest string that the kernel takes for a parameter.
const MAX_PARAMETER: usize = 255;

/// How long a mount that is asked to go may be in use. Whoever looks at what is mounted uses it for a moment.
const GLANCE: Duration = Duration::from_millis(200);

/// How an image is mounted.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelConfig {
    /// Whether set-user-id bits and file capabilities take effect.
    pub suid: bool,
    /// Whether devices can be opened.
    pub dev: bool,
    /// Whether no program can be run.
    pub noexec: bool,
}

/// A mount that stands nowhere yet. Dropped, it is gone.
#[derive(Debug)]
pub struct Detached(OwnedFd);

impl Detached {
    /// Mounts the image at `path`, which is absolute. `devices` are its data files.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn mount(path: &Path, devices: &[File], config: KernelConfig) -> Result<Detached, KernelError> {
        mount(path, devices, config).map(Detached)
    }

    /// `st_dev` of what is mounted.
    ///
    /// # Errors
    /// [`KernelError::Refused`]
    pub fn device(&self) -> Result<u64, KernelError> {
        let stat = rustix::fs::fstat(&self.0);
        Ok(stat.map_err(|errno| refused(Path::new(""), errno, String::new()))?.st_dev)
    }

    /// Puts it where it is to be seen.
    ///
    /// # Errors
    /// [`KernelError::Mountpoint`]
    pub fn attach(self, mountpoint: &Path) -> Result<(), KernelError> {
        move_mount(&self.0, "", rustix::fs::CWD, mountpoint, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(|errno| KernelError::Mountpoint { path: mountpoint.to_owned(), source: errno.into() })
    }
}

/// Unmounts what stands at `mountpoint`, which has to be a kernel mount of ours. With `lazy` it is out of sight at once even if
/// it is in use.
///
/// # Errors
/// [`KernelError::Busy`], [`KernelError::Mountpoint`]
pub fn unmount(mountpoint: &Path, lazy: bool) -> Result<(), KernelError> {
    let mut flags = UnmountFlags::NOFOLLOW;
    flags.set(UnmountFlags::DETACH, lazy);
    let start = Instant::now();
    loop {
        match rustix::mount::unmount(mountpoint, flags) {
            Ok(()) => return Ok(()),
            Err(Errno::BUSY) if start.elapsed() < GLANCE => thread::sleep(GLANCE / 20),
            Err(Errno::BUSY) => return Err(KernelError::Busy(mountpoint.to_owned())),
            Err(errno) => {
                return Err(KernelError::Mountpoint { path: mountpoint.to_owned(), source: errno.into() });
            }
        }
    }
}

fn mount(path: &Path, devices: &[File], config: KernelConfig) -> Result<OwnedFd, KernelError> {
    if path.as_os_str().len() > MAX_PARAMETER {
        return Err(KernelError::PathTooLong(path.to_owned()));
    }
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| match errno {
        Errno::NODEV => KernelError::NoErofs(errno.into()),
        Errno::PERM => KernelError::NotPermitted(errno.into()),
        errno => refused(path, errno, String::new()),
    })?;
    let failed = |errno| refused(path, errno, log(&context));
    fsconfig_set_string(&context, "source", path.as_os_str()).map_err(failed)?;
    fsconfig_set_flag(&context, "ro").map_err(failed)?;
    for device in devices {
        fsconfig_set_string(&context, "device", by_descriptor(device).as_os_str()).map_err(failed)?;
    }
    fsconfig_create(&context).map_err(|errno| match errno {
        // It was looked for as a block device, and is none.
        Errno::NOTBLK => KernelError::NotFromFiles(path.to_owned(), errno.into()),
        errno => failed(errno),
    })?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOSUID, !config.suid);
    attributes.set(MountAttrFlags::MOUNT_ATTR_NODEV, !config.dev);
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, config.noexec);
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed)
}

fn by_descriptor(file: &File) -> std::path::PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

fn refused(path: &Path, errno: Errno, log: String) -> KernelError {
    match errno {
        Errno::PERM => KernelError::NotPermitted(errno.into()),
        errno => KernelError::Refused { image: path.to_owned(), log, source: io::Error::from(errno) },
    }
}

/// What the kernel said of the attempt, one line after the other.
fn log(context: &OwnedFd) -> String {
    let (mut lines, mut line) = (Vec::new(), [0; 512]);
    while let Ok(n @ 1..) = rustix::io::read(context, &mut line) {
        let text = OsStr::from_bytes(line.get(..n).unwrap_or_default()).to_string_lossy();
        // An `e`, `w` or `i` for its kind stands before it.
        lines.push(text.get(2..).unwrap_or(&text).trim().to_owned());
    }
    lines.join("; ")
}
