//! What every verb works with, and the options that verbs have in common.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{ArgAction, Args};

use crate::cache::Cache;
use crate::cli::output::error::CommandError;
use crate::cli::output::printer::Printer;
use crate::cli::output::size;
use crate::cli::server::background;
use crate::cli::server::runtime_dir::{self, Surroundings};
use crate::cli::server::sessions::Register;
use crate::image::Platform;
use crate::progress::Progress;
use crate::source;

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// Log what happens; twice: how; three times: everything
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Print nothing but results and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Write the log to FILE
    ///
    /// Without it, the log goes to standard error, and that of a mount in the background to a file that `imagefs mounts
    /// --json` names. What is logged is also set by RUST_LOG, as in RUST_LOG=imagefs=debug.
    #[arg(long, global = true, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Keep the cache in DIR
    ///
    /// Without it, the cache is in $XDG_CACHE_HOME/imagefs or ~/.cache/imagefs.
    #[arg(long, global = true, value_name = "DIR", env = "IMAGEFS_CACHE_DIR", hide_env_values = true)]
    pub cache_dir: Option<PathBuf>,
    /// Keep the cache below SIZE, as in 10GiB
    ///
    /// After an image was added, those that were used longest ago are removed, but for what is mounted.
    #[arg(long, global = true, value_name = "SIZE", env = "IMAGEFS_CACHE_LIMIT", hide_env_values = true,
        default_value = "20GiB", value_parser = size::parse)]
    pub cache_limit: u64,
    #[arg(long = background::SERVER_FLAG, hide = true)]
    pub server: bool,
}

/// How a source is found; the same for every verb that takes one.
#[derive(Debug, Args)]
pub struct SourceArgs {
    /// The daemon to ask, as in unix:///run/podman/podman.sock
    ///
    /// Without it, the daemon that the docker command would ask: DOCKER_HOST, then the current docker context, then
    /// unix:///var/run/docker.sock.
    #[arg(short = 'H', long, value_name = "URL")]
    host: Option<String>,
    /// The platform that the image must be for, as in linux/arm64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Refuse a layer, or a compressed archive, that unpacks to more than SIZE
    ///
    /// Without it, 64GiB, and what takes more than 256MiB on the disk may not unpack to more than a thousand times its size. Zeros
    /// take nothing.
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    max_size: Option<u64>,
    /// A registry that needs no certificate, nor TLS at all
    ///
    /// May be given more than once. A registry on this machine needs none in any case.
    #[arg(long, value_name = "HOST[:PORT]")]
    insecure_registry: Vec<String>,
}

impl SourceArgs {
    pub fn context<'a>(&'a self, cache: &'a Cache, progress: &'a Arc<Progress>) -> source::Context<'a> {
        source::Context {
            cache,
            host: self.host.as_deref(),
            platform: self.platform.as_ref(),
            max_size: self.max_size,
            insecure_registries: &self.insecure_registry,
            exact: false,
            exports: None,
            progress,
        }
    }
}

/// What every verb works with.
pub struct Context {
    /// What was asked of all commands.
    pub global: GlobalArgs,
    /// What it is told through.
    pub printer: Printer,
    /// The whole command line, for who completes it.
    pub command: fn() -> clap::Command,
}

impl Context {
    /// The cache directory that the user chose, if any.
    pub fn cache_dir(&self) -> Option<PathBuf> {
        self.global.cache_dir.clone()
    }

    pub fn cache(&self) -> Result<Cache, CommandError> {
        Ok(Cache::open(self.cache_dir())?.with_limit(self.global.cache_limit))
    }

    pub fn register(&self) -> Result<Register, CommandError> {
        let surroundings = Surroundings::of_this_process();
        let dir = surroundings.runtime_dir();
        runtime_dir::prepare(&dir, surroundings.uid)?;
        Ok(Register::new(dir))
    }
}
