//! What can be asked for: one file a verb; its doc comments are its help text.
//!
//! A new verb is a file here and a line in `command.rs`. May use all of the command line.

mod blame;
mod build;
mod cache;
mod candidates;
mod cat;
mod command;
mod complete_sources;
mod completions;
pub mod context;
mod copy;
mod cp;
mod diff;
mod du;
mod erofs;
mod find;
mod grep;
mod history;
mod inspect;
mod ls;
mod mount;
mod mount_helper;
mod mounts;
mod reading;
mod refresh;
mod source_path;
mod spelling;
mod stat;
mod tree;
mod umount;
mod watch;

pub use command::Command;
pub use spelling::spell_out;
