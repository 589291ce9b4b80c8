//! How a source is spelled.
//!
//! The spelling follows containers-transports(5): a transport and a colon, or nothing where it is clear.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::SourceError;

/// What the user named, taken apart, before anybody was asked whether it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// An image of the daemon's, by name, digest or id.
    Image(String),
    /// A tar of a root filesystem, perhaps compressed.
    Tar(PathBuf),
}

/// Transports that exist elsewhere, and what to do instead.
const FOREIGN: [(&str, &str); 7] = [
    ("docker", "imagefs is no registry client: pull the image first, then name it without docker://"),
    ("oci", "export a tar of the root filesystem, or load the image into the daemon"),
    ("oci-archive", "load the image into the daemon: docker load or podman load"),
    ("docker-archive", "load the image into the daemon: docker load"),
    ("containers-storage", "point DOCKER_HOST at Podman's socket, and name the image without a transport"),
    ("container", "docker export CONTAINER > FILE, then mount FILE"),
    ("dir", "copy the image to the daemon first"),
];

impl Spec {
    /// Takes a source apart. A word without a transport is a file if it looks like a path or if there is a file
    /// of that name, and else an image.
    pub fn parse(source: &OsStr) -> Result<Spec, SourceError> {
        let bytes = source.as_bytes();
        if let Some(path) = bytes.strip_prefix(b"tar:") {
            return Ok(Spec::Tar(OsString::from_vec(path.to_vec()).into()));
        }
        if let Some(name) = bytes.strip_prefix(b"docker-daemon:") {
            return Spec::image(source, name);
        }
        let looks_like_a_path = [&b"/"[..], b"./", b"../"].iter().any(|start| bytes.starts_with(start));
        if looks_like_a_path || std::fs::metadata(source).is_ok_and(|found| found.is_file()) {
            return Ok(Spec::Tar(source.into()));
        }
        for (transport, instead) in FOREIGN {
            let rest = bytes.strip_prefix(transport.as_bytes());
            // `docker:24` is an image, `docker://…` is a transport, and so is `oci:…`.
            let colon: &[u8] = if transport == "docker" { b"://" } else { b":" };
            if rest.is_some_and(|rest| rest.starts_with(colon)) {
                return Err(SourceError::Transport { transport, instead });
            }
        }
        Spec::image(source, bytes)
    }

    fn image(source: &OsStr, name: &[u8]) -> Result<Spec, SourceError> {
        let name = std::str::from_utf8(name).map_err(|_| SourceError::NotUtf8(source.to_owned()))?;
        Ok(Spec::Image(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Spec, SourceError> {
        Spec::parse(OsStr::new(text))
    }

    #[test]
    fn a_word_is_an_image_unless_it_is_a_path() {
        for name in ["python:3.12", "registry.example:5000/a/b", "sha256:0123", "docker:24", "oci"] {
            assert_eq!(parse(name).unwrap(), Spec::Image(name.into()), "{name}");
        }
        assert_eq!(parse("docker-daemon:tar:latest").unwrap(), Spec::Image("tar:latest".into()));
        for path in ["/a.tar", "./a", "../a:b"] {
            assert_eq!(parse(path).unwrap(), Spec::Tar(path.into()), "{path}");
        }
        assert_eq!(parse("tar:a").unwrap(), Spec::Tar("a".into()));
        assert_eq!(parse("Cargo.toml").unwrap(), Spec::Tar("Cargo.toml".into()));
    }

    #[test]
    fn a_registry_is_not_asked() {
        for text in ["docker://alpine", "oci:/layout", "dir:/x"] {
            assert!(matches!(parse(text), Err(SourceError::Transport { .. })), "{text}");
        }
    }
}
