//! How many files the program may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// As many as `diff` takes for two images of as many layers as there can be: a lock and a data file for each. (Few layers have
/// large files, which take one each besides.) No more, because what this program starts inherits the limit, and some programs
/// close every number below it when they begin.
const ENOUGH: u64 = 4 << 16;

/// Raises the soft limit as far as it is of use. It is usually 1,024, for the sake of programs that use select(2).
pub fn allow() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(ENOUGH, |hard| hard.min(ENOUGH));
    if current.is_some_and(|soft| soft < wanted) {
        // Most images need nothing of the kind: whoever has too few says so then.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
}
