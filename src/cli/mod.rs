//! The command line: what the user says, and what the user is told.
//!
//! | room | what happens there | may use |
//! |---|---|---|
//! | `verbs` | what can be asked for, one file a verb | all of these |
//! | `server` | the process behind a mount | `process`, `output` |
//! | `process` | signals, the log, limits, tasks side by side | `output` |
//! | `output` | everything printed; every failure becomes a `CommandError`, which decides the exit status | nothing of these |
//!
//! May use everything of the crate; nothing uses it.

mod command_line;
mod output;
mod process;
mod server;
mod verbs;

pub use command_line::{command, main};
