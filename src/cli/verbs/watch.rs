//! A task with a bar beside it that shows how far it has come.

use std::ffi::OsStr;

use crate::cli::output::bar::INTERVAL;
use crate::cli::output::error::CommandError;
use crate::cli::output::printer::Printer;
use crate::cli::process::scoped_task::{Ended, during};
use crate::progress::Progress;

/// Runs `task`, and shows meanwhile how far it has come.
pub fn beside<T>(
    printer: &Printer,
    name: &OsStr,
    progress: &Progress,
    task: impl FnOnce() -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    printer.begin_bar(&name.to_string_lossy());
    let draw = |ended: &Ended| {
        while !ended.within(INTERVAL) {
            printer.draw(progress);
        }
    };
    let result = during(draw, task);
    printer.end_bar();
    result
}
