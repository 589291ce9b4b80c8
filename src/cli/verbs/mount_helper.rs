//! The command line that mount(8) has for its helpers, as one of `imagefs mount`.
//!
//! For `-t imagefs`, and so for a line of fstab(5), mount(8) runs `mount.imagefs SOURCE DIR -o OPTIONS`. For `-t fuse.imagefs` it
//! runs mount.fuse, which runs `imagefs SOURCE DIR -o OPTIONS`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::cli::server::background::SERVER_FLAG;
use crate::cli::server::options::{self, MountOptions};

/// The name under which mount(8) finds its helper.
const HELPER: &str = "mount.imagefs";

/// Whom the options come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    /// mount(8), which says `rw` for every mount that is not asked to be read-only.
    Mount,
    /// mount.fuse(8), which adds `dev` and `suid` for root unless they are forbidden.
    MountFuse,
}

/// The arguments of `imagefs mount` that mean what mount(8) has asked for, if it was mount(8). `is_verb` tells the verbs.
pub fn spell_out(arguments: Vec<OsString>, is_verb: impl Fn(&str) -> bool) -> Vec<OsString> {
    let mut rest = arguments.iter().skip(1).peekable();
    let server = rest.next_if(|first| **first == *format!("--{SERVER_FLAG}"));
    let called = arguments.first().and_then(|name| Path::new(name).file_name());
    let rest: Vec<&OsString> = rest.collect();
    let caller = match rest.as_slice() {
        _ if called == Some(OsStr::new(HELPER)) => Caller::Mount,
        [source, dir, flag, _]
            if **flag == *"-o"
                && dir.as_bytes().starts_with(b"/")
                && !source.as_bytes().starts_with(b"-")
                && !source.to_str().is_some_and(is_verb) =>
        {
            Caller::MountFuse
        }
        _ => return arguments,
    };
    let mut spelled: Vec<OsString> = vec!["imagefs".into()];
    spelled.extend(server.cloned());
    spelled.push("mount".into());
    spelled.extend(mount_arguments(&rest, caller));
    spelled
}

/// The options before the source and the directory, mount(8)'s own flags in our words.
fn mount_arguments(arguments: &[&OsString], caller: Caller) -> Vec<OsString> {
    let mut options: Vec<OsString> = Vec::new();
    let (mut named, mut flags): (Vec<OsString>, Vec<OsString>) = (Vec::new(), Vec::new());
    let mut sloppy = false;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("-o") => options.extend(rest.next().map(|list| (*list).clone())),
            // The type, and the namespace, which mount(8) has entered already.
            Some("-t" | "-N") => _ = rest.next(),
            Some("-s") => sloppy = true,
            Some("-f") => flags.push("--fake".into()),
            Some("-v") => flags.push("-v".into()),
            Some("-n" | "-r" | "-w") => {}
            _ => named.push((*argument).clone()),
        }
    }
    for list in options {
        // A list that is not text is refused where every other one is read.
        let list = match list.to_str() {
            Some(text) => taken(text, caller, sloppy).into(),
            None => list,
        };
        flags.extend(["-o".into(), list]);
    }
    flags.push("--".into());
    flags.extend(named);
    flags
}

/// What is left of a list without what the caller added on its own account, and with `sloppy`, without what nobody knows.
fn taken(list: &str, caller: Caller, sloppy: bool) -> String {
    let added = |word: &str| match caller {
        Caller::Mount => word == "rw",
        Caller::MountFuse => matches!(word, "rw" | "dev" | "suid"),
    };
    let words = options::words(list);
    let kept = words.iter().filter(|word| !added(word) && (!sloppy || MountOptions::knows(word)));
    kept.map(|word| options::escaped(word)).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled(line: &[&str]) -> String {
        let arguments = line.iter().map(OsString::from).collect();
        let spelled = spell_out(arguments, |word| ["ls", "cat", "mount"].contains(&word));
        spelled.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_mount_asks_for_is_a_mount() {
        for (line, expected) in [
            (&["/sbin/mount.imagefs", "a:1", "/m", "-o", "rw,flat"][..], "imagefs mount -o flat -- a:1 /m"),
            (&["mount.imagefs", "-sv", "/m"], "imagefs mount -- -sv /m"),
            (
                &["mount.imagefs", "a", "/m", "-s", "-v", "-o", "ro,suid,odd=1"],
                "imagefs mount -v -o ro,suid -- a /m",
            ),
            (&["mount.imagefs", "-f", "a", "/m"], "imagefs mount --fake -- a /m"),
            (&["mount.imagefs", "a", "/m", "-o", r"fsname=a\,b"], r"imagefs mount -o fsname=a\,b -- a /m"),
            (&["imagefs", "a:1", "/m", "-o", "rw,dev,suid,flat"], "imagefs mount -o flat -- a:1 /m"),
            (
                &["mount.imagefs", "--background-server", "a", "/m"],
                "imagefs --background-server mount -- a /m",
            ),
        ] {
            assert_eq!(spelled(line), expected);
        }
    }

    #[test]
    fn what_a_person_asks_for_stays() {
        for line in [
            &["imagefs", "mount", "a", "-o", "flat"][..],
            &["imagefs", "cat", "/m", "-o", "x"],
            &["imagefs", "sl", "python:3.12", "/usr"],
            &["imagefs", "-v", "/m", "-o", "x"],
            &["imagefs", "a", "m", "-o", "x"],
        ] {
            assert_eq!(spelled(line), line.join(" "));
        }
    }
}
