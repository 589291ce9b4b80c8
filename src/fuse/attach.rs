//! Mounting and unmounting: by mount(2) and umount2(2) where that is permitted, else through `fusermount3`.
//!
//! `fuser` could mount by itself, but it then also unmounts by itself when a session is dropped, by path and
//! without asking whose mount is there, and it folds every refusal into one. So it is handed a connected device
//! instead. Must not import `fuser`.

use std::ffi::{CString, OsStr, OsString};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::{getgid, getuid};

use super::error::SessionError;
use super::mount_status::{self, FILESYSTEM_TYPE, MountStatus, mount_status};
use super::session::SessionConfig;
use crate::mountinfo;

const DEVICE: &str = "/dev/fuse";

/// The set-user-id program of libfuse, and the variable by which it learns where to send the device.
const HELPER: &str = "fusermount3";
const HELPER_SOCKET: &str = "_FUSE_COMMFD";

/// How long a mount that is asked to go may be in use. Whoever looks at what is mounted, as `imagefs mounts` does, uses it for
/// a moment.
const GLANCE: Duration = Duration::from_millis(200);

/// The mountpoint, absolute and free of symlinks, if a session can be mounted there.
pub(super) fn check_mountpoint(path: &Path) -> Result<PathBuf, SessionError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => SessionError::MountpointMissing(path.to_owned()),
        io::ErrorKind::NotADirectory => SessionError::MountpointNotADirectory(path.to_owned()),
        _ => SessionError::Mountpoint { path: path.to_owned(), source },
    };
    match mount_status(path).map_err(failed)? {
        MountStatus::Nothing => {}
        MountStatus::Stale => return Err(SessionError::Stale(path.to_owned())),
        MountStatus::Live | MountStatus::Hung => {
            let filesystem_type = FILESYSTEM_TYPE.into();
            return Err(SessionError::AlreadyMounted { path: path.to_owned(), filesystem_type });
        }
        MountStatus::Other { filesystem_type } => {
            return Err(SessionError::AlreadyMounted { path: path.to_owned(), filesystem_type });
        }
    }
    let canonical = path.canonicalize().map_err(failed)?;
    let mut entries = canonical.read_dir().map_err(failed)?;
    if entries.next().is_some() {
        return Err(SessionError::MountpointNotEmpty(path.to_owned()));
    }
    Ok(canonical)
}

/// Mounts at `mountpoint` and returns the device on which the kernel's requests come.
pub(super) fn attach(mountpoint: &Path, config: &SessionConfig) -> Result<OwnedFd, SessionError> {
    let root = getuid().is_root();
    for (asked, name) in [(config.suid, "suid"), (config.dev, "dev")] {
        if asked && !root {
            return Err(SessionError::Privileged(name));
        }
    }
    match rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(device) => match mount_directly(&device, mountpoint, config) {
            Ok(()) => Ok(device),
            Err(Errno::PERM) if !root => mount_through_helper(mountpoint, config),
            Err(Errno::NODEV) => Err(SessionError::NoDevice(Errno::NODEV.into())),
            Err(errno) => Err(SessionError::Mount { path: mountpoint.to_owned(), source: errno.into() }),
        },
        // Nor could the helper: it opens the device with its caller's rights.
        Err(errno) => Err(SessionError::NoDevice(errno.into())),
    }
}

fn mount_directly(device: &OwnedFd, mountpoint: &Path, config: &SessionConfig) -> Result<(), Errno> {
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={}",
        device.as_raw_fd(),
        getuid().as_raw(),
        getgid().as_raw()
    );
    if config.allow_other {
        data.push_str(",allow_other,default_permissions");
    }
    let flags = flags(config);
    let data = CString::new(data).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount(config.fsname.as_os_str(), mountpoint, FILESYSTEM_TYPE, flags, data.as_c_str())
}

/// Gives what is mounted at the mountpoint the rights that `config` has: the rest of a session stays as it was mounted.
pub fn remount(config: &SessionConfig) -> Result<(), SessionError> {
    let path = &config.mountpoint;
    match mount_status::mount_status(path) {
        Err(source) => Err(SessionError::Mountpoint { path: path.to_owned(), source }),
        Ok(MountStatus::Nothing) => Err(SessionError::NotMounted(path.to_owned())),
        Ok(MountStatus::Other { filesystem_type }) => {
            Err(SessionError::NotOurs { path: path.to_owned(), filesystem_type })
        }
        // By way of the one mount, the filesystem behind it is asked nothing.
        Ok(_) => rustix::mount::mount_remount(path, MountFlags::BIND | flags(config), c"")
            .map_err(|errno| SessionError::Remount { path: path.to_owned(), source: errno.into() }),
    }
}

fn flags(config: &SessionConfig) -> MountFlags {
    let mut flags = MountFlags::RDONLY;
    flags.set(MountFlags::NOSUID, !config.suid);
    flags.set(MountFlags::NODEV, !config.dev);
    flags.set(MountFlags::NOEXEC, !config.exec);
    flags
}

/// The helper's `-o`, which it splits at commas that no backslash precedes.
fn helper_options(config: &SessionConfig) -> OsString {
    let mut options = b"ro,nosuid,nodev,subtype=imagefs,fsname=".to_vec();
    for &byte in config.fsname.as_bytes() {
        if matches!(byte, b',' | b'\\') {
            options.push(b'\\');
        }
        options.push(byte);
    }
    if !config.exec {
        options.extend_from_slice(b",noexec");
    }
    if config.allow_other {
        options.extend_from_slice(b",allow_other,default_permissions");
    }
    OsString::from_vec(options)
}

fn mount_through_helper(mountpoint: &Path, config: &SessionConfig) -> Result<OwnedFd, SessionError> {
    let (ours, theirs) = UnixStream::pair().map_err(SessionError::Helper)?;
    // The socket is passed as the standard input: it is the one descriptor besides output and errors that a
    // child gets without any unsafe code between fork and exec. The command owns our copy of their end, and
    // must be gone before we read, or the end of the stream would never come.
    let child = Command::new(HELPER)
        .arg("-o")
        .arg(helper_options(config))
        .arg("--")
        .arg(mountpoint)
        .env(HELPER_SOCKET, "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(helper_did_not_run)?;
    let device = receive_device(&ours);
    let output = child.wait_with_output().map_err(SessionError::Helper)?;
    match device {
        Ok(Some(device)) if output.status.success() => Ok(device),
        Err(errno) => Err(SessionError::Helper(errno.into())),
        Ok(_) => {
            let message = message_of(&output.stderr);
            if message.contains("user_allow_other") {
                return Err(SessionError::AllowOther);
            }
            Err(SessionError::HelperRefused { path: mountpoint.to_owned(), message })
        }
    }
}

/// The device that the helper sends; `None` if it ends without sending one.
fn receive_device(socket: &UnixStream) -> Result<Option<OwnedFd>, Errno> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

/// Takes the mount out of the tree of names at once; whoever has files open there keeps them until the server
/// ends. The caller must know that the mount at this path is the one it means.
pub(super) fn detach(mountpoint: &Path) -> Result<(), SessionError> {
    release(mountpoint, true)
}

/// Unmounts the session at `path`, whoever serves it, if it is one.
///
/// With `lazy` it is out of sight at once even if it is in use.
pub fn unmount(path: &Path, lazy: bool) -> Result<(), SessionError> {
    let failed = |source| SessionError::Mountpoint { path: path.to_owned(), source };
    let table = mountinfo::read_table().map_err(failed)?;
    let mountpoint = mount_status::locate(path, &table).map_err(failed)?;
    match mountinfo::topmost(&table, &mountpoint) {
        None => Err(SessionError::NotMounted(path.to_owned())),
        Some(mount) if mount.filesystem_type != FILESYSTEM_TYPE => Err(SessionError::NotOurs {
            path: path.to_owned(),
            filesystem_type: mount.filesystem_type.clone(),
        }),
        Some(_) => {
            let start = Instant::now();
            loop {
                match release(&mountpoint, lazy) {
                    Err(SessionError::Busy(_)) if start.elapsed() < GLANCE => thread::sleep(GLANCE / 20),
                    result => return result,
                }
            }
        }
    }
}

fn release(mountpoint: &Path, lazy: bool) -> Result<(), SessionError> {
    let mut flags = UnmountFlags::NOFOLLOW;
    flags.set(UnmountFlags::DETACH, lazy);
    match rustix::mount::unmount(mountpoint, flags) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => release_through_helper(mountpoint, lazy),
        Err(Errno::BUSY) => Err(SessionError::Busy(mountpoint.to_owned())),
        Err(Errno::INVAL | Errno::NOENT) => Err(SessionError::NotMounted(mountpoint.to_owned())),
        Err(errno) => {
            let message = io::Error::from(errno).to_string();
            Err(SessionError::UnmountRefused { path: mountpoint.to_owned(), message })
        }
    }
}

fn release_through_helper(mountpoint: &Path, lazy: bool) -> Result<(), SessionError> {
    let lazily = lazy.then_some(OsStr::new("-z"));
    let output = Command::new(HELPER)
        .arg("-u")
        .args(lazily)
        .arg("--")
        .arg(mountpoint)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(helper_did_not_run)?;
    if output.status.success() {
        return Ok(());
    }
    let message = message_of(&output.stderr);
    if message.contains("busy") {
        return Err(SessionError::Busy(mountpoint.to_owned()));
    }
    Err(SessionError::UnmountRefused { path: mountpoint.to_owned(), message })
}

fn helper_did_not_run(error: io::Error) -> SessionError {
    match error.kind() {
        io::ErrorKind::NotFound => SessionError::HelperMissing,
        _ => SessionError::Helper(error),
    }
}

/// What the helper said, without its own name before it.
fn message_of(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    text.trim().trim_start_matches("fusermount3: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_the_name_of_the_source_adds_no_option() {
        let config = SessionConfig { fsname: r"a,b\c,allow_other".into(), ..SessionConfig::new("/mnt") };
        assert_eq!(helper_options(&config), r"ro,nosuid,nodev,subtype=imagefs,fsname=a\,b\\c\,allow_other");
    }
}
