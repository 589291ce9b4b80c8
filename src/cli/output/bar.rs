//! The progress bar.
//!
//! Shown on standard error, and only where that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::escape::escape;
use crate::progress::{Phase, Progress};

/// How often the bar is drawn anew.
pub const INTERVAL: Duration = Duration::from_millis(100);

/// What is said of [`Phase::Waiting`].
pub const FOR_ANOTHER: &str = "waiting for another imagefs that reads it";

const WAITING: &str = "{spinner} {prefix}: {msg} {elapsed}";
const READING: &str = "{spinner} {prefix}: {binary_bytes} {binary_bytes_per_sec} {msg} {elapsed}";
const READING_KNOWN_SIZE: &str = "{spinner} {prefix}: {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {msg} {elapsed}";

/// A line that shows a [`Progress`]. It is wiped when dropped.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    /// What it looks like now.
    template: &'static str,
}

impl Bar {
    /// A bar for the task of that name. It shows nothing where standard error is no terminal.
    pub fn new(task: &str) -> Bar {
        let bar = ProgressBar::no_length().with_style(style(WAITING)).with_prefix(escape(task));
        Bar { bar, template: WAITING }
    }

    /// Whether nobody sees it.
    pub fn is_hidden(&self) -> bool {
        self.bar.is_hidden()
    }

    /// Takes it away for as long as `print` takes.
    pub fn suspend(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    /// Draws what there is to tell now.
    pub fn draw(&mut self, progress: &Progress) {
        let (phase, total, entries) = (progress.phase(), progress.expected_bytes(), progress.entries());
        let template = match (phase, total) {
            (Phase::Resolving | Phase::Waiting, _) => WAITING,
            (_, None) => READING,
            (_, Some(_)) => READING_KNOWN_SIZE,
        };
        if template != self.template {
            self.template = template;
            self.bar.set_style(style(template));
        }
        if let Some(total) = total {
            self.bar.set_length(total);
        }
        self.bar.set_position(progress.bytes());
        self.bar.set_message(match phase {
            Phase::Resolving => "looking it up".to_owned(),
            Phase::Waiting => FOR_ANOTHER.to_owned(),
            Phase::Reading => format!("{entries} entries"),
            Phase::Finishing | Phase::Done => "finishing".to_owned(),
        });
        self.bar.tick();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_understood() {
        for template in [WAITING, READING, READING_KNOWN_SIZE] {
            ProgressStyle::with_template(template).unwrap();
        }
    }
}
