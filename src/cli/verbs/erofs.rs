use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::context::{Context, SourceArgs};
use super::watch::beside;
use crate::cleanup::CleanupGuard;

use crate::cli::output::error::{CommandError, Kind};
use crate::cli::output::escape::name;
use crate::cli::process::signals::Signals;
use crate::cli::server::kernel::image_options;
use crate::cli::server::layout::fixed_view;
use crate::cli::server::options::MountOptions;
use crate::erofs::{self, Image, Placement};
use crate::fuse::View;
use crate::progress::Progress;
use crate::source;

const EXAMPLES: &str = "\
Examples:
  imagefs erofs python:3.12 py.erofs
  mount -t erofs -o loop,nosuid,nodev py.erofs /mnt/py
  imagefs erofs -o flat,symlinks=raw ./rootfs.tar.gz root.erofs

Mount options that say what the image shows: flat, symlinks=…, xattr=…, uid=N,
gid=N, exact, layers, provenance. See `imagefs mount --help`.";

/// Write a source as an EROFS image: one file that the kernel mounts
///
/// It holds what a mount of the source with the same options shows, contents included. The same source and options give the
/// same bytes. An extended attribute of 64 KiB, or of a namespace that EROFS has no number for, is left out, and told.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct ErofsArgs {
    /// What `imagefs mount` takes: an image, a tar, …
    source: OsString,
    /// The file to write
    file: PathBuf,
    /// Mount options that say what the image shows
    #[arg(short, value_name = "OPTION[,…]")]
    options: Vec<String>,
    /// Replace FILE if it exists
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    source_args: SourceArgs,
}

impl ErofsArgs {
    /// Does it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        let options = MountOptions::parse(&self.options, rustix::process::geteuid().is_root())?;
        let progress = Arc::new(Progress::new());
        let signals = Signals::watch(&progress)?;
        let image = signals.judge(beside(&context.printer, &self.source, &progress, || {
            self.write(context, &options, &progress)
        }))?;
        if image.left_out > 0 {
            context
                .printer
                .note(format!("left out {} extended attributes that EROFS cannot hold", image.left_out));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn write(
        &self,
        context: &Context,
        options: &MountOptions,
        progress: &Arc<Progress>,
    ) -> Result<Image, CommandError> {
        if !self.force && fs::symlink_metadata(&self.file).is_ok() {
            return Err(self.exists());
        }
        let cache = context.cache()?;
        let source_context =
            source::Context { exact: options.exact, ..self.source_args.context(&cache, progress) };
        let mut source = source::open(&self.source, &source_context)?;
        source.notes.iter().for_each(|note| context.printer.note(note));
        source.mounts.iter().for_each(|mount| mount.filesystem.wake());
        source.wait()?;
        let view = fixed_view(&source, options)?;
        let (file, partial) = Partial::make(&self.file)?;
        let image = erofs::write(&view, &image_options(&source, options, Placement::Inside), &file)?;
        progress.check().map_err(crate::source::SourceError::from)?;
        partial.publish(&file, self.force).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => self.exists(),
            _ => cannot_write(&self.file, e),
        })?;
        drop::<View>(view);
        Ok(image)
    }

    fn exists(&self) -> CommandError {
        CommandError::new(Kind::Failed, format!("{} exists", name(&self.file))).hint("--force replaces it")
    }
}

/// A file that is being written beside the one that it will be.
struct Partial {
    path: PathBuf,
    target: PathBuf,
    held: CleanupGuard,
}

impl Partial {
    fn make(target: &Path) -> Result<(File, Partial), CommandError> {
        let mut file_name = target.file_name().map(OsString::from).unwrap_or_default();
        file_name.push(format!(".{}.partial", std::process::id()));
        let path = target.with_file_name(file_name);
        let made = CleanupGuard::make(|clean_up| {
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
            let path = path.clone();
            *clean_up = Some(Box::new(move || drop(fs::remove_file(path))));
            Ok(file)
        });
        let (file, held) = made.map_err(|e| cannot_write(target, e))?;
        Ok((file, Partial { path, target: target.to_owned(), held }))
    }

    /// Gives it its name, in place of what has that name only if `force`.
    fn publish(self, file: &File, force: bool) -> io::Result<()> {
        file.sync_all()?;
        self.held.change(|clean_up| {
            match force {
                true => fs::rename(&self.path, &self.target)?,
                false => match renameat_with(CWD, &self.path, CWD, &self.target, RenameFlags::NOREPLACE) {
                    // Not every filesystem can.
                    Err(Errno::INVAL | Errno::NOSYS) => {
                        fs::hard_link(&self.path, &self.target)?;
                        fs::remove_file(&self.path)?;
                    }
                    renamed => renamed?,
                },
            }
            *clean_up = None;
            Ok(())
        })
    }
}

fn cannot_write(file: &Path, error: io::Error) -> CommandError {
    CommandError::new(Kind::Failed, format!("cannot write {}", name(file))).caused_by(error)
}
