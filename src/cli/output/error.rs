//! What a command failed with: a kind that decides the exit status, a message, its causes, and hints.
//!
//! Every error type of the library becomes a [`CommandError`] here and nowhere else; one of the command line does where it is
//! declared.

use std::error::Error;
use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGPIPE, SIGTERM};

use crate::buildkit::BuildError;
use crate::cache::CacheError;
use crate::docker::DockerError;
use crate::erofs::{ErofsError, KernelError};
use crate::fuse::SessionError;
use crate::gateway::GatewayError;
use crate::index::ReadError;
use crate::oci::OciError;
use crate::registry::RegistryError;
use crate::source::SourceError;

/// What went wrong, as far as a script needs to know. Each kind has an exit status of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A check was made, and its answer is no.
    Negative,
    /// The command line makes no sense.
    Usage,
    /// What was named does not exist: an image, a container, an archive, a session, a cache entry.
    NotFound,
    /// The daemon cannot be reached, or failed to do its part.
    Daemon,
    /// The mountpoint or FUSE does not allow it.
    Mount,
    /// The input is damaged, or of a kind that cannot be read.
    Input,
    /// The cache cannot be used.
    Cache,
    /// Anything else: mostly the operating system refusing something.
    Failed,
    /// A step of a build failed; what it left is mounted.
    StepFailed,
    /// A signal ended the command before it was done; the number is the signal's.
    Interrupted(i32),
    /// Whoever read the standard output has seen enough: nothing to complain about, but not all was done.
    NoReader,
}

/// The table of exit statuses, as the help shows it.
pub const EXIT_STATUS_HELP: &str = "\
Exit status:
  0    success
  1    the answer to a check is no (cache verify found damage, diff found
       differences)
  2    the command line is wrong
  3    no such image, archive, mount, file or cache entry
  4    the daemon or the registry cannot be reached, or failed
  5    the mountpoint or FUSE does not allow it
  6    the input is damaged, or of an unknown kind
  7    the cache cannot be used: permissions, no space left
  8    any other failure
  9    a step of a build failed; what it left is mounted
  129  hung up (SIGHUP) before it was done
  130  interrupted (SIGINT) before it was done
  141  nobody reads the output any more (SIGPIPE)
  143  terminated (SIGTERM) before it was done";

impl Kind {
    /// The exit status of a process that ends with such an error.
    pub fn exit_status(self) -> u8 {
        match self {
            Kind::Negative => 1,
            Kind::Usage => 2,
            Kind::NotFound => 3,
            Kind::Daemon => 4,
            Kind::Mount => 5,
            Kind::Input => 6,
            Kind::Cache => 7,
            Kind::Failed => 8,
            Kind::StepFailed => 9,
            Kind::Interrupted(signal) => u8::try_from(signal).unwrap_or(0) | 128,
            Kind::NoReader => Kind::Interrupted(SIGPIPE).exit_status(),
        }
    }
}

/// Why a command did not do what it was asked for.
#[derive(Debug, Serialize, Deserialize)]
pub struct CommandError {
    kind: Kind,
    message: String,
    causes: Vec<String>,
    hints: Vec<String>,
}

impl CommandError {
    /// An error of which `message` tells what failed, and on what.
    pub fn new(kind: Kind, message: impl fmt::Display) -> CommandError {
        CommandError { kind, message: message.to_string(), causes: Vec::new(), hints: Vec::new() }
    }

    /// An error that is told by an error of the library, with the errors behind that one as causes.
    pub fn of(kind: Kind, error: &dyn Error) -> CommandError {
        let mut this = CommandError::new(kind, error);
        if let Some(source) = error.source() {
            this.push_causes(source);
        }
        this
    }

    /// Adds an error, and those behind it, as what led to this one.
    pub fn caused_by(mut self, cause: impl Error) -> CommandError {
        self.push_causes(&cause);
        self
    }

    /// Adds what the user can do about it.
    pub fn hint(mut self, hint: impl fmt::Display) -> CommandError {
        self.hints.push(hint.to_string());
        self
    }

    /// Adds a hint if there is one.
    pub fn maybe_hint(self, hint: Option<impl fmt::Display>) -> CommandError {
        match hint {
            Some(hint) => self.hint(hint),
            None => self,
        }
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What failed, and on what.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What led to it, the nearest first.
    pub fn causes(&self) -> &[String] {
        &self.causes
    }

    /// What the user can do about it.
    pub fn hints(&self) -> &[String] {
        &self.hints
    }

    fn push_causes(&mut self, first: &dyn Error) {
        let mut next = Some(first);
        while let Some(error) = next {
            let text = error.to_string();
            // Many errors already repeat the one behind them.
            let told = self.causes.last().unwrap_or(&self.message).contains(&text);
            if !told {
                self.causes.push(text);
            }
            next = error.source();
        }
    }
}

impl From<SessionError> for CommandError {
    fn from(error: SessionError) -> CommandError {
        let kind = match error {
            SessionError::Privileged(_) => Kind::Usage,
            SessionError::NotMounted(_) | SessionError::NotOurs { .. } => Kind::NotFound,
            _ => Kind::Mount,
        };
        CommandError::of(kind, &error).maybe_hint(error.hint())
    }
}

impl From<ErofsError> for CommandError {
    fn from(error: ErofsError) -> CommandError {
        let kind = match error {
            ErofsError::NotFinal | ErofsError::Borrowed | ErofsError::Io(_) => Kind::Failed,
            ErofsError::TooLarge(_) | ErofsError::View(_) => Kind::Input,
        };
        CommandError::of(kind, &error)
    }
}

impl From<KernelError> for CommandError {
    fn from(error: KernelError) -> CommandError {
        CommandError::of(Kind::Mount, &error).maybe_hint(error.hint())
    }
}

impl From<CacheError> for CommandError {
    fn from(error: CacheError) -> CommandError {
        CommandError::of(of_cache(&error), &error).maybe_hint(error.hint())
    }
}

fn of_cache(error: &CacheError) -> Kind {
    match error {
        CacheError::NoSuchKey(_) => Kind::NotFound,
        CacheError::BadKey(_) | CacheError::AmbiguousKey { .. } => Kind::Usage,
        _ => Kind::Cache,
    }
}

impl From<SourceError> for CommandError {
    fn from(error: SourceError) -> CommandError {
        CommandError::of(of_source(&error), &error).maybe_hint(error.hint())
    }
}

fn of_source(error: &SourceError) -> Kind {
    match error {
        SourceError::Transport { .. }
        | SourceError::NotUtf8(_)
        | SourceError::NoLayers { .. }
        | SourceError::BadName(_)
        | SourceError::BadRemoteName(_)
        | SourceError::Unchanging(_)
        | SourceError::Many
        | SourceError::Endpoint(_) => Kind::Usage,
        SourceError::Docker(error) => of_docker(error),
        SourceError::Registry(error) => of_registry(error),
        SourceError::Build(error) => of_build(error),
        SourceError::Cache(error) => of_cache(error),
        SourceError::Read { error, .. } if error.kind() == io::ErrorKind::NotFound => Kind::NotFound,
        SourceError::Read { .. } | SourceError::Thread(_) => Kind::Failed,
        SourceError::Different(_)
        | SourceError::NoStream
        | SourceError::NoSuchPart
        | SourceError::Unavailable { .. } => Kind::Daemon,
        SourceError::Oci(error) => of_oci(error),
        SourceError::NotAFile(_)
        | SourceError::Layer { .. }
        | SourceError::ChangedMeanwhile(_)
        | SourceError::Content { .. }
        | SourceError::Unpack { .. } => Kind::Input,
        SourceError::Cancelled(_) => Kind::Interrupted(SIGTERM),
        SourceError::Shared(error) => of_source(error),
    }
}

impl From<GatewayError> for CommandError {
    fn from(error: GatewayError) -> CommandError {
        let kind = match &error {
            GatewayError::Source(error) => of_source(error),
            GatewayError::Lost { cause: Some(cause), .. } => of_source(cause),
            GatewayError::MountIndex { .. }
            | GatewayError::MountName { .. }
            | GatewayError::NotFound(_)
            | GatewayError::LeadsOut { .. } => Kind::NotFound,
            GatewayError::NotADirectory(_)
            | GatewayError::NotAFile(_)
            | GatewayError::Loop(_)
            | GatewayError::TooLarge { .. } => Kind::Failed,
            GatewayError::Unavailable(_)
            | GatewayError::Stalled { .. }
            | GatewayError::Lost { .. }
            | GatewayError::Stream { .. } => Kind::Daemon,
            GatewayError::Read { error: ReadError::Io(_), .. } => Kind::Failed,
            GatewayError::Read { .. } => Kind::Input,
            GatewayError::Cancelled(_) => Kind::Interrupted(SIGTERM),
        };
        CommandError::of(kind, &error).maybe_hint(error.hint())
    }
}

fn of_docker(error: &DockerError) -> Kind {
    match error {
        DockerError::Endpoint(_) | DockerError::BadName(_) => Kind::Usage,
        DockerError::ImageNotFound { .. }
        | DockerError::WrongPlatform { .. }
        | DockerError::LayersNotStored { .. }
        | DockerError::ContainerNotFound { .. }
        | DockerError::VolumeNotFound { .. }
        | DockerError::NoImages => Kind::NotFound,
        _ => Kind::Daemon,
    }
}

fn of_registry(error: &RegistryError) -> Kind {
    match error {
        RegistryError::NotFound { .. } => Kind::NotFound,
        RegistryError::BadAnswer { .. }
        | RegistryError::WrongDigest { .. }
        | RegistryError::MissingBlob { .. }
        | RegistryError::Redirect { .. } => Kind::Input,
        RegistryError::Cancelled(_) => Kind::Interrupted(SIGTERM),
        _ => Kind::Daemon,
    }
}

fn of_build(error: &BuildError) -> Kind {
    match error {
        BuildError::Context { source, .. } if source.kind() == io::ErrorKind::NotFound => Kind::NotFound,
        BuildError::Context { .. } | BuildError::Start(_) => Kind::Failed,
        BuildError::Refused { line: Some(_), .. } => Kind::Input,
        BuildError::Cancelled => Kind::Interrupted(SIGTERM),
        _ => Kind::Daemon,
    }
}

fn of_oci(error: &OciError) -> Kind {
    match error {
        OciError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Kind::NotFound,
        OciError::Io { .. } => Kind::Failed,
        OciError::NoSuchImage { .. } | OciError::NoSuchPlatform { .. } => Kind::NotFound,
        OciError::SeveralImages { .. } => Kind::Usage,
        _ => Kind::Input,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open {path}")]
    struct CannotOpen {
        path: &'static str,
        source: io::Error,
    }

    #[test]
    fn causes_are_told_once_each() {
        let inner = io::Error::other("no such device");
        let error = CommandError::of(Kind::Failed, &CannotOpen { path: "/x", source: inner });
        assert_eq!(error.message(), "cannot open /x");
        assert_eq!(error.causes(), ["no such device"]);

        let error = CommandError::new(Kind::Failed, "cannot read /x: no such device")
            .caused_by(io::Error::other("no such device"));
        assert!(error.causes().is_empty());
    }

    #[test]
    fn the_help_lists_every_exit_status() {
        let listed: Vec<u8> = EXIT_STATUS_HELP
            .lines()
            .filter_map(|line| line.split_whitespace().next()?.parse().ok())
            .collect();
        let kinds = [
            Kind::Negative,
            Kind::Usage,
            Kind::NotFound,
            Kind::Daemon,
            Kind::Mount,
            Kind::Input,
            Kind::Cache,
            Kind::Failed,
            Kind::StepFailed,
            Kind::Interrupted(1),
            Kind::Interrupted(2),
            Kind::NoReader,
            Kind::Interrupted(15),
        ];
        assert_eq!(listed[0], 0);
        assert_eq!(listed[1..], kinds.map(Kind::exit_status));
    }
}
