//! `SOURCE:/PATH`, as docker cp has it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// What a colon and a slash follow on without a path of the source being meant: the beginnings of a source.
const TRANSPORTS: [&str; 12] = [
    "tar",
    "oci",
    "oci-archive",
    "docker-archive",
    "docker-daemon",
    "docker",
    "container",
    "dir",
    "containers-storage",
    "build",
    "volume",
    "local",
];

/// The source, and the path behind it if there is one: behind the last `:/`, unless that follows a transport, or all of
/// it is the name of a file.
pub fn split(spelled: &OsStr) -> (&OsStr, Option<&Path>) {
    let bytes = spelled.as_bytes();
    let Some(at) = bytes.windows(2).rposition(|pair| pair == b":/") else { return (spelled, None) };
    let head = OsStr::from_bytes(&bytes[..at]);
    let is_transport = head.to_str().is_some_and(|head| head.is_empty() || TRANSPORTS.contains(&head));
    if is_transport || Path::new(spelled).exists() {
        return (spelled, None);
    }
    (head, Some(Path::new(OsStr::from_bytes(&bytes[at + 1..]))))
}

/// The paths that are meant: the one behind the source, and then those beside it; `fallback` if there are none.
pub fn paths(source: &OsStr, beside: &[PathBuf], fallback: Option<&str>) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = split(source).1.map(Path::to_owned).into_iter().collect();
    paths.extend_from_slice(beside);
    if paths.is_empty() {
        paths.extend(fallback.map(PathBuf::from));
    }
    paths
}

/// The source alone.
pub fn source(spelled: &OsStr) -> OsString {
    split(spelled).0.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_behind_the_last_colon_before_a_slash() {
        for (spelled, source, path) in [
            ("python:3.12", "python:3.12", None),
            ("python:3.12:/usr/lib", "python:3.12", Some("/usr/lib")),
            ("debian:/", "debian", Some("/")),
            ("container:web:/var/log", "container:web", Some("/var/log")),
            ("web:/a:/b", "web:/a", Some("/b")),
            ("localhost:5000/a/b:1", "localhost:5000/a/b:1", None),
            ("tar:/x.tar", "tar:/x.tar", None),
            ("tar:/x.tar:/etc", "tar:/x.tar", Some("/etc")),
            ("docker://debian:12", "docker://debian:12", None),
            ("docker://debian:12:/etc", "docker://debian:12", Some("/etc")),
            ("oci:/dir:latest:/etc", "oci:/dir:latest", Some("/etc")),
            ("./x.tar:/etc", "./x.tar", Some("/etc")),
        ] {
            assert_eq!(split(OsStr::new(spelled)), (OsStr::new(source), path.map(Path::new)), "{spelled}");
        }
    }

    #[test]
    fn a_file_whose_name_has_a_colon_is_a_file() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("a:")).unwrap();
        let tar = temp.path().join("a:/x.tar");
        std::fs::write(&tar, "").unwrap();
        assert_eq!(split(tar.as_os_str()), (tar.as_os_str(), None));
        let within = OsString::from(format!("{}:/etc", tar.display()));
        assert_eq!(split(&within), (tar.as_os_str(), Some(Path::new("/etc"))));
    }
}
