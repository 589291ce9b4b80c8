//! What the integration tests share.
//!
//! - [`Sandbox`]: a private environment for runs of `imagefs`; what a test leaves mounted or running ends with it.
//! - [`Daemon`]: the Docker daemon and the Podman service that `scripts/test` started.
//! - [`Manifest`]: every attribute of a file tree, read from a directory or told by bsdtar about an archive,
//!   and the comparison of two of them.

pub mod archives;
mod daemon;
mod manifest;
pub mod manual;
pub mod proxy;
mod sandbox;

pub use daemon::Daemon;
pub use manifest::Manifest;
pub use sandbox::{Outcome, Sandbox, wait_until};

use std::path::Path;
use std::process::Command;

/// Runs a command that has to succeed, and gives what it printed on stdout.
#[track_caller]
pub fn succeed(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// Has `sh` run a program as the user `nobody`, who may have no way to where it lies: it is executed by a descriptor.
///
/// `before` is what that user's shell does first.
pub fn as_nobody<'c>(sh: &'c mut Command, before: &str, program: impl AsRef<Path>) -> &'c mut Command {
    const SCRIPT: &str = r#"exec 9<"$1"; shift
        exec setpriv --reuid=65534 --regid=65534 --clear-groups sh -c "$0"' exec /proc/self/fd/9 "$@"' sh "$@""#;
    sh.args(["-c", SCRIPT, before]).arg(program.as_ref())
}

/// Whether the kernel can pass the files of a directory through: Linux 6.9, unless they lie on a stacked filesystem.
pub fn kernel_passes_through(dir: &Path) -> bool {
    const OVERLAYFS: u64 = 0x794c_7630;
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let is_new = (numbers.next(), numbers.next()) >= (Some(6), Some(9));
    is_new && rustix::fs::statfs(dir).unwrap().f_type as u64 != OVERLAYFS
}

/// Undoes the `\ooo` of vis(3) and of /proc/self/mountinfo.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, tail)) = rest.split_first() {
        let octal =
            tail.get(..3).filter(|_| *byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => {
                out.push(escaped);
                rest = &tail[3..];
            }
            None => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
    out
}
