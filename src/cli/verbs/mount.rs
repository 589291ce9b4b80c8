use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, RwLock};

use clap::Args;

use super::candidates;
use super::context::Context;
use super::context::SourceArgs;
use super::watch::beside;
use crate::cli::output::error::{CommandError, Kind};
use crate::cli::process::signals::Signals;
use crate::cli::server::background::{self, Detached};
use crate::cli::server::kernel::mount_by_kernel;
use crate::cli::server::layout::view;
use crate::cli::server::local::{LOCAL, LocalEngine};
use crate::cli::server::mountpoint::{Mountpoint, locate};
use crate::cli::server::options::{KernelMode, MountOptions};
use crate::cli::server::serve::{Errand, MountContent, Prepared, serve};
use crate::fuse::{self, SessionConfig};
use crate::progress::Progress;
use crate::source;

const EXAMPLES: &str = "\
Examples:
  imagefs mount python:3.12 /mnt/py            then look into /mnt/py/rootfs
  imagefs mount --mkdir -o flat debian deb     the root filesystem at ./deb
  imagefs mount ./rootfs.tar.zst /mnt/tar      a tar, plain or compressed
  imagefs mount oci:DIR:latest /mnt/x          an image that no daemon has
  imagefs mount container:web /mnt/web         a container, with its volumes
  imagefs mount sha256:7c0b… /mnt/x            if cached, no daemon is asked
  imagefs mount local: /mnt/docker             all that the engine has

Mount options, given by -o as for mount(8):
  ro                 accepted; a mount is always read-only
  flat               the root filesystem at MOUNTPOINT, not MOUNTPOINT/rootfs
  symlinks=contain   links out of the image stay inside it (default)
  symlinks=raw       links as they are stored
  xattr=auto|on|off  extended attributes; auto (default): if there are any
  allow_other        let other users in; file permissions then apply to all
  uid=N, gid=N       show everything as owned by this user, this group
  kernel             have the kernel serve it, without a server: faster; root
                     only, Linux 6.12, complete sources only (it is waited
                     for), and every user is let in, as by allow_other
  kernel=auto        the same where it can be had at once, else as without
  kernel=copy        the same with a copy of all contents: twice the disk, but
                     st_blksize is 4096, not 512
  suid, dev          setuid bits and device files take effect; root only
  noexec             no program can be run
  remount            give what is mounted there other suid, dev, noexec; root only
  exact              a daemon's image as its layers are stored: nothing added or
                     lost by the export, but it takes longer
  layers             also layers/00-DIFFID, …: what each layer holds by itself;
                     implies exact
  provenance         list what names a file's layer among its attributes;
                     implies exact
  fsname=NAME        what df(1) and mount(8) show as the source
  only=PATTERN       of local:, what is named so, as in only=ghcr.io/*
  timeout=SECONDS    how long a read waits while nothing comes (default 30)

What every filesystem takes is taken too: defaults, nosuid, nodev, nofail, x-…
A comma in a value is written \\, as in fsname=a\\,b. So mount(8) and fstab(5)
work, with -t imagefs, or without mount.imagefs, with -t fuse.imagefs. Neither
of them hands suid and dev on.
  python:3.12 /mnt/py imagefs ro,nofail,_netdev,allow_other 0 0

Unmount with `imagefs umount MOUNTPOINT`, or with plain umount.";

/// Mount an image, a container or a tar as a read-only directory tree
///
/// Returns when the mount answers; a server goes on in the background until it is unmounted. The first mount of an
/// image reads it from the daemon into the cache while it is being used; what is asked for before it has come is waited
/// for, or fetched alone. Later mounts have all of it at once. Nothing is pulled, and no container is started.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct MountArgs {
    /// A local image (a name, NAME@sha256:…, or an id, also a short one), docker://NAME, container:NAME, or the path of a
    /// tar or an image layout
    ///
    /// What begins with /, ./ or ../, or is the name of a file or an image layout here, is a path, and what it holds is
    /// found out: a root filesystem, or an image as docker save, podman save, skopeo and others write it. Of several images,
    /// :NAME or :@NUMBER behind the path chooses one. Everything else is an image of the daemon's, or else a container. To
    /// say which, write docker-daemon:NAME, container:NAME, volume:NAME, tar:PATH, docker-archive:PATH, oci-archive:PATH or oci:DIR.
    /// docker://NAME is an image in a registry, which is fetched layer by layer, without a daemon.
    #[arg(add = candidates::sources())]
    source: OsString,
    /// An empty directory
    mountpoint: PathBuf,
    /// Mount options, as for mount(8): see the end of --help
    #[arg(short, value_name = "OPTION[,…]", add = candidates::mount_options())]
    options: Vec<String>,
    /// Stay in the foreground, and unmount on Ctrl-C
    ///
    /// SIGTERM unmounts, and so do SIGINT and SIGHUP unless they were ignored when the command was started: as SIGHUP by nohup, and
    /// SIGINT by a shell script that starts it with &. There, end it with kill or `imagefs umount`.
    #[arg(short, long)]
    foreground: bool,
    /// Wait until all of the source has been read, and fail if that fails
    #[arg(long)]
    wait: bool,
    /// Make MOUNTPOINT, and remove it after unmounting
    #[arg(long)]
    mkdir: bool,
    /// Only check the options, as mount(8)'s -f
    #[arg(long, hide = true)]
    fake: bool,
    #[command(flatten)]
    source_args: SourceArgs,
}

impl MountArgs {
    /// Changes the rights that what is mounted has.
    fn remount(&self, options: &MountOptions) -> Result<ExitCode, CommandError> {
        fuse::remount(&SessionConfig {
            suid: options.suid,
            dev: options.dev,
            exec: !options.noexec,
            ..SessionConfig::new(locate(&self.mountpoint))
        })?;
        Ok(ExitCode::SUCCESS)
    }

    /// Does it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let root = rustix::process::geteuid().is_root();
        let options = MountOptions::parse(&self.options, root)?;
        if self.fake {
            return Ok(ExitCode::SUCCESS);
        }
        if options.remount {
            return self.remount(&options);
        }
        if options.kernel != KernelMode::Off && !context.global.server {
            match self.mount_by_kernel(context, &options) {
                Ok(()) => return Ok(ExitCode::SUCCESS),
                Err(error) if options.kernel != KernelMode::Auto || !may_fall_back(&error) => {
                    return Err(error);
                }
                Err(error) => tracing::info!("a FUSE session serves it: {}", error.message()),
            }
        }
        if !self.foreground && !context.global.server {
            return background::launch();
        }
        let detached = if context.global.server { Some(Detached::begin()?) } else { None };
        let cache = context.cache()?;
        let mountpoint = Mountpoint::check(&self.mountpoint, self.mkdir, cache.dir())?;
        let named = source::absolute(&self.source);
        let errand = Errand {
            source: &named,
            mountpoint: &mountpoint,
            register: context.register()?,
            log_file: context.global.log_file.as_deref(),
            printer: &context.printer,
            detached,
        };
        let printer = &context.printer;
        serve(errand, |progress| {
            let context =
                source::Context { exact: options.exact, ..self.source_args.context(&cache, progress) };
            let config = options.session_config(&mountpoint.path, &named);
            if self.source == LOCAL {
                let content = MountContent::Engine(Box::new(LocalEngine::open(&cache, &context, &options)?));
                return Ok(Some(Prepared { config, content, exit_status: 0 }));
            }
            let mut source = source::open(&self.source, &context)?;
            source.notes.iter().for_each(|note| printer.note(note));
            if self.wait {
                source.wait()?;
            }
            let source = Arc::new(RwLock::new(source));
            let view = Box::new(view(&source, &options)?);
            let content = MountContent::Source { view, source, cache: cache.clone() };
            Ok(Some(Prepared { config, content, exit_status: 0 }))
        })
    }

    /// Has the kernel mount it.
    fn mount_by_kernel(&self, context: &Context, options: &MountOptions) -> Result<(), CommandError> {
        let unable = |why: &str| CommandError::new(Kind::Mount, why);
        if self.foreground {
            return Err(unable("a kernel mount has nothing that could stay in the foreground"));
        }
        if !rustix::process::geteuid().is_root() {
            return Err(unable("only root may have the kernel mount it"));
        }
        if self.source == LOCAL {
            return Err(unable("a kernel mount shows one source, and one that does not change"));
        }
        if options.fsname.is_some() {
            return Err(unable("a kernel mount shows its image as the source"));
        }
        let progress = Arc::new(Progress::new());
        let signals = Signals::watch(&progress)?;
        let cache = context.cache()?;
        let mountpoint = Mountpoint::check(&self.mountpoint, self.mkdir, cache.dir())?;
        let errand = Errand {
            source: &self.source,
            mountpoint: &mountpoint,
            register: context.register()?,
            log_file: context.global.log_file.as_deref(),
            printer: &context.printer,
            detached: None,
        };
        let mut noted = options.kernel == KernelMode::Auto;
        let open = || {
            let source_context =
                source::Context { exact: options.exact, ..self.source_args.context(&cache, &progress) };
            // What is only tried should not begin to read an image for nothing.
            let source = match options.kernel {
                KernelMode::Auto => source::open_when_asked(&self.source, &source_context)?,
                _ => source::open(&self.source, &source_context)?,
            };
            if !std::mem::replace(&mut noted, true) {
                source.notes.iter().for_each(|note| context.printer.note(note));
            }
            Ok(source)
        };
        signals.judge(beside(&context.printer, &self.source, &progress, || {
            mount_by_kernel(&errand, options, &cache, &progress, open)
        }))
    }
}

/// Whether a FUSE session may do where the kernel did not: not if something else is wrong.
fn may_fall_back(error: &CommandError) -> bool {
    matches!(error.kind(), Kind::Mount | Kind::Input | Kind::Failed)
}
