//! A mount that the kernel serves by itself: it outlives the command that makes it, and has no server.

use std::ffi::OsStr;
use std::path::PathBuf;

use rustix::fs::{major, minor};
use sha2::{Digest as _, Sha256};

use super::layout::{describe, fixed_view};
use super::mountpoint::Mountpoint;
use super::options::{KernelMode, MountOptions};
use super::serve::{Errand, register};
use super::sessions::{KernelMount, Stage};
use super::supervisor;
use crate::cache::Cache;
use crate::cli::output::error::{CommandError, Kind};
use crate::erofs::{self, ErofsError, ImageOptions, KernelConfig, Placement};
use crate::index::{Ino, Timestamp};
use crate::progress::Progress;
use crate::source::Source;

/// Has the kernel mount a source. `open` opens it, and is called again once all of it has been read.
pub fn mount_by_kernel(
    errand: &Errand<'_>,
    options: &MountOptions,
    cache: &Cache,
    progress: &Progress,
    mut open: impl FnMut() -> Result<Source, CommandError>,
) -> Result<(), CommandError> {
    let mut source = open()?;
    if source.is_renewable() {
        return Err(refused("a container can be refreshed, which a kernel mount cannot"));
    }
    if source.entry().is_none() {
        if options.kernel == KernelMode::Auto {
            return Err(refused("not all of it has been read"));
        }
        source.wait()?;
        source = open()?;
    }
    let entry = source.entry().ok_or_else(|| refused("it is not in the cache"))?;
    let view = fixed_view(&source, options)?;
    // What others may write to is no device: its bytes could become other ones without a word.
    let placement = match source.archive_in_place() {
        None if options.kernel != KernelMode::Copy => Placement::Devices,
        _ => Placement::Inside,
    };
    let image_options = image_options(&source, options, placement);
    let devices = erofs::devices(&view, placement)?;
    let name: String = image_options.uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    let (path, image) = entry.image(
        &name,
        |image| erofs::left_out(image, &image_options, &devices).is_some(),
        |image| Ok::<_, CommandError>(erofs::write(&view, &image_options, image).map(drop)?),
    )?;
    let left_out = erofs::left_out(&image, &image_options, &devices).ok_or(ErofsError::NotFinal)?;
    if left_out > 0 {
        let what = format!("{left_out} extended attributes that EROFS cannot hold");
        match options.kernel {
            KernelMode::Auto => return Err(refused(format!("there are {what}"))),
            _ => errand.printer.note(format!("left out {what}")),
        }
    }
    progress.check().map_err(crate::source::SourceError::from)?;
    cache.trim();

    let Mountpoint { path: mountpoint, .. } = errand.mountpoint;
    let config = KernelConfig { suid: options.suid, dev: options.dev, noexec: options.noexec };
    let devices: Vec<_> = devices.into_iter().map(|device| device.file).collect();
    let detached = erofs::Detached::mount(&path, &devices, config)?;
    let number = detached.device()?;
    let mut registration = register(errand)?;
    errand.mountpoint.make_ready(errand.printer)?;
    // Before it is to be seen: if this process is killed now, a record without a mount is what is left.
    registration
        .update(|record| {
            supervisor::tell(record, &source, progress);
            record.source = source.spelled.clone();
            record.archive = PathBuf::new();
            record.stage = Stage::Ready;
            record.kernel =
                Some(KernelMount { image: path, device: format!("{}:{}", major(number), minor(number)) });
        })
        .map_err(CommandError::from)?;
    detached.attach(mountpoint)?;
    registration.keep();
    Ok(())
}

fn refused(why: impl AsRef<OsStr>) -> CommandError {
    let why = why.as_ref().to_string_lossy();
    CommandError::new(Kind::Mount, format!("the kernel cannot mount it: {why}"))
        .hint("without -o kernel it is a FUSE mount")
}

/// How the image of a source is written: of the same source and options, always alike.
pub fn image_options(source: &Source, options: &MountOptions, placement: Placement) -> ImageOptions {
    let hash = Sha256::new()
        .chain_update(format!("{:?} {placement:?} {} ", shown_by(options), source.identity))
        .chain_update(describe(source))
        .finalize();
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&hash[..16]);
    // RFC 9562: version 8, whose bits are ours to choose.
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    let root = source.mounts.first().and_then(|mount| mount.filesystem.tree().stat(Ino::ROOT).ok());
    ImageOptions { placement, uuid, made: root.map_or_else(Timestamp::default, |root| root.mtime) }
}

/// The options, but for those that say nothing of what is shown.
fn shown_by(options: &MountOptions) -> MountOptions {
    MountOptions {
        allow_other: false,
        suid: false,
        dev: false,
        noexec: false,
        remount: false,
        fsname: None,
        timeout: None,
        kernel: KernelMode::Off,
        ..options.clone()
    }
}
