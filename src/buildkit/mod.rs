//! BuildKit: drives a build, and looks into what it leaves.
//!
//! A [`Build`] is made by a Docker daemon's BuildKit or a `buildkitd`, without any program of docker's: context, secrets and
//! credentials are shared with it in a session. What comes of it is an [`Outcome`]: a result, or a [`FailedStep`] with the
//! filesystems that it had. These live in the daemon as long as the build is held. A [`Helper`], a small program of ours in a
//! container of the same build, reads them.
//!
//! tonic is known in this room only. Must not import anything of the crate but `docker`'s addresses and `progress`.

mod connection;
mod container;
mod context;
mod credentials;
mod drive;
mod error;
mod exec;
mod failure;
mod file_sync;
mod helper;
mod llb;
mod patterns;
mod session;
mod status;
// Each end uses its half.
#[allow(dead_code)]
#[path = "../../helper/wire.rs"]
mod wire;
#[cfg(test)]
mod wire_tests;
mod worker;

pub use self::connection::Server;
pub use self::drive::{Build, BuildRequest, Outcome};
pub use self::error::BuildError;
pub use self::failure::{FailedStep, MountSource, Role, StepMount};
pub use self::status::{Report, Reporter};

pub(crate) use self::helper::{HangUp, Helper};
pub(crate) use self::wire::{Attributes, MAX_READ};
