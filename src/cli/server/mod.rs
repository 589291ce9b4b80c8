//! The server behind a mount: how it begins, what it shows, what it tells of itself, and how it ends.
//!
//! Knows no verb: it is told what to show.

pub mod background;
pub mod control;
pub mod kernel;
pub mod layout;
pub mod local;
pub mod mountpoint;
pub mod options;
pub mod runtime_dir;
pub mod serve;
pub mod sessions;
pub mod supervisor;
