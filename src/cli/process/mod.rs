//! What this process is to the system: its signals, its log, its limits, the tasks that run beside each other.
//!
//! Knows neither the verbs nor the server.

pub mod logging;
pub mod open_files;
pub mod scoped_task;
pub mod signals;
