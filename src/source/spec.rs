//! How a source is spelled.
//!
//! The spelling follows containers-transports(5): a transport and a colon, or nothing where it is clear.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::{SourceError, tarball};
use crate::oci::{Reference, Transport};

/// What the user named, taken apart, before anybody was asked whether it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// An image of the daemon's, by name, digest or id; or else a container.
    Name(String),
    /// An image of the daemon's.
    Image(String),
    /// A container of the daemon's, by name or id.
    Container(String),
    /// An image in a registry.
    Remote(String),
    /// A volume of the daemon's, by name.
    Volume(String),
    /// All that the daemon has. It can be mounted, and is no source by itself.
    Local,
    /// A tar of a root filesystem, perhaps compressed.
    Tar(PathBuf),
    /// An image in an archive or a layout.
    Packed {
        /// How it is packed.
        transport: Transport,
        /// The archive or the directory.
        path: PathBuf,
        /// Which image of several.
        reference: Option<Reference>,
    },
    /// A tar of a root filesystem, or an archive or layout of images: its content tells.
    Path {
        /// A file or a directory.
        path: PathBuf,
        /// Which image of several.
        reference: Option<Reference>,
    },
}

/// Transports that are read.
const PACKED: [(&[u8], Transport); 3] = [
    (b"docker-archive:", Transport::DockerArchive),
    (b"oci-archive:", Transport::OciArchive),
    (b"oci:", Transport::OciDir),
];

/// Transports that exist elsewhere, and what to do instead.
const FOREIGN: [(&str, &str); 2] = [
    ("containers-storage", "point DOCKER_HOST at Podman's socket, and name the image without a transport"),
    ("dir", "skopeo copy dir:PATH oci:NEW, then mount NEW"),
];

impl Spec {
    /// Takes a source apart. A word without a transport is a path if it looks like one, if there is such a file or image
    /// layout, or if there is such an archive or image layout with a reference behind it, and else an image.
    pub fn parse(source: &OsStr) -> Result<Spec, SourceError> {
        let bytes = source.as_bytes();
        if let Some(path) = bytes.strip_prefix(b"tar:") {
            return Ok(Spec::Tar(OsString::from_vec(path.to_vec()).into()));
        }
        if let Some(name) = bytes.strip_prefix(b"docker-daemon:") {
            return Ok(Spec::Image(text(source, name)?));
        }
        if let Some(name) = bytes.strip_prefix(b"docker://") {
            return Ok(Spec::Remote(text(source, name)?));
        }
        if let Some(name) = bytes.strip_prefix(b"container:") {
            return Ok(Spec::Container(text(source, name)?));
        }
        if let Some(name) = bytes.strip_prefix(b"volume:") {
            return Ok(Spec::Volume(text(source, name)?));
        }
        if bytes == b"local:" {
            return Ok(Spec::Local);
        }
        let looks_like_a_path = [&b"/"[..], b"./", b"../"].iter().any(|start| bytes.starts_with(start));
        if looks_like_a_path || is_source(Path::new(source)) {
            let (path, reference) = split_reference(source, bytes)?;
            return Ok(Spec::Path { path, reference });
        }
        for (prefix, transport) in PACKED {
            if let Some(rest) = bytes.strip_prefix(prefix) {
                let (path, reference) = split_reference(source, rest)?;
                return Ok(Spec::Packed { transport, path, reference });
            }
        }
        for (transport, instead) in FOREIGN {
            let rest = bytes.strip_prefix(transport.as_bytes());
            if rest.is_some_and(|rest| rest.starts_with(b":")) {
                return Err(SourceError::Transport { transport, instead });
            }
        }
        let mut heads = colons(bytes).map(|at| Path::new(OsStr::from_bytes(&bytes[..at])));
        if heads.any(holds_images) {
            let (path, reference) = split_reference(source, bytes)?;
            return Ok(Spec::Path { path, reference });
        }
        Ok(Spec::Name(text(source, bytes)?))
    }
}

/// The same source, spelled so that it means the same wherever somebody is. What cannot be told stays as it is.
pub fn absolute(source: &OsStr) -> OsString {
    let Ok(Spec::Tar(path) | Spec::Packed { path, .. } | Spec::Path { path, .. }) = Spec::parse(source)
    else {
        return source.to_owned();
    };
    let bytes = source.as_bytes();
    // It stands behind the transport, and before the reference.
    let at = if bytes.starts_with(path.as_os_str().as_bytes()) {
        0
    } else {
        colons(bytes).next().map_or(0, |colon| colon + 1)
    };
    let Ok(absolute) = std::path::absolute(&path) else { return source.to_owned() };
    let rest = bytes.get(at + path.as_os_str().len()..).unwrap_or_default();
    let transport = bytes.get(..at).unwrap_or_default();
    OsString::from_vec([transport, absolute.as_os_str().as_bytes(), rest].concat())
}

/// A name that the daemon is to be asked for.
fn text(source: &OsStr, name: &[u8]) -> Result<String, SourceError> {
    match std::str::from_utf8(name) {
        Ok(name) => Ok(name.to_owned()),
        Err(_) => Err(SourceError::NotUtf8(source.to_owned())),
    }
}

/// Whether a word that could be an image's name is a file, or a layout of images.
fn is_source(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.is_file()) || path.join("oci-layout").is_file()
}

/// Whether there may be images for a reference to choose from. A file `busybox` that is a program is not what `busybox:1`
/// means.
fn holds_images(path: &Path) -> bool {
    path.join("oci-layout").is_file() || tarball::looks_like_one(path)
}

/// Where the colons are.
fn colons(bytes: &[u8]) -> impl Iterator<Item = usize> {
    bytes.iter().enumerate().filter(|(_, byte)| **byte == b':').map(|(at, _)| at)
}

/// Takes PATH and `:REFERENCE` apart, at the first colon that has something before it that exists, or else at the
/// first. What exists as a whole has no reference.
fn split_reference(source: &OsStr, bytes: &[u8]) -> Result<(PathBuf, Option<Reference>), SourceError> {
    let exists = |path: &[u8]| Path::new(OsStr::from_bytes(path)).exists();
    let colon = match colons(bytes).next() {
        None => None,
        Some(_) if exists(bytes) => None,
        first => colons(bytes).find(|&at| exists(&bytes[..at])).or(first),
    };
    let Some(colon) = colon else { return Ok((OsStr::from_bytes(bytes).into(), None)) };
    let (path, reference) = (&bytes[..colon], &bytes[colon + 1..]);
    let reference = std::str::from_utf8(reference).map_err(|_| SourceError::NotUtf8(source.to_owned()))?;
    let reference = (!reference.is_empty()).then(|| reference.parse().unwrap_or_else(|never| match never {}));
    Ok((OsStr::from_bytes(path).into(), reference))
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
            assert_eq!(parse(name).unwrap(), Spec::Name(name.into()), "{name}");
        }
        assert_eq!(parse("docker-daemon:tar:latest").unwrap(), Spec::Image("tar:latest".into()));
        let path = |path: &str| Spec::Path { path: path.into(), reference: None };
        for name in ["/a.tar", "./a", "../a", "Cargo.toml"] {
            assert_eq!(parse(name).unwrap(), path(name), "{name}");
        }
        assert_eq!(parse("tar:a").unwrap(), Spec::Tar("a".into()));
        assert_eq!(parse("container:web").unwrap(), Spec::Container("web".into()));
        assert!(matches!(parse("src"), Ok(Spec::Name(_))), "a directory that is no layout");
    }

    #[test]
    fn a_reference_stands_behind_the_path() {
        let packed = |transport, path: &str, reference: Option<&str>| Spec::Packed {
            transport,
            path: path.into(),
            reference: reference.map(|r| r.parse().unwrap()),
        };
        for (text, expected) in [
            ("oci:/layout", packed(Transport::OciDir, "/layout", None)),
            ("oci:dir:a:b", packed(Transport::OciDir, "dir", Some("a:b"))),
            ("oci-archive:x.tar:", packed(Transport::OciArchive, "x.tar", None)),
            ("docker-archive:x.tar:@1", packed(Transport::DockerArchive, "x.tar", Some("@1"))),
            ("docker-archive:x:reg:5000/a:1", packed(Transport::DockerArchive, "x", Some("reg:5000/a:1"))),
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
        let directory = tempfile::tempdir().unwrap();
        let odd = directory.path().join("a:b");
        std::fs::write(&odd, "").unwrap();
        let odd = odd.to_str().unwrap();
        assert_eq!(parse(odd).unwrap(), Spec::Path { path: odd.into(), reference: None });
        let second = Some(Reference::Index(1));
        assert_eq!(parse(&format!("{odd}:@1")).unwrap(), Spec::Path { path: odd.into(), reference: second });
    }

    #[test]
    fn a_reference_stands_also_behind_a_word_that_is_an_archive_or_a_layout_here() {
        let here = tempfile::tempdir_in(".").unwrap();
        let name = here.path().file_name().unwrap().to_str().unwrap();
        let in_here = |path: &str| format!("{name}/{path}");
        let mut tar = tar::Builder::new(std::fs::File::create(here.path().join("two.tar")).unwrap());
        tar.append_dir("d", here.path()).unwrap();
        tar.finish().unwrap();
        std::fs::write(here.path().join("two.gz"), [0x1f, 0x8b, 8]).unwrap();
        std::fs::create_dir(here.path().join("l")).unwrap();
        std::fs::write(here.path().join("l/oci-layout"), "{}").unwrap();
        std::fs::write(here.path().join("program"), "#!/bin/sh").unwrap();
        for (path, reference) in [("two.tar", "@2"), ("two.gz", "a"), ("l", "reg:5000/a:1")] {
            let expected =
                Spec::Path { path: in_here(path).into(), reference: Some(reference.parse().unwrap()) };
            assert_eq!(parse(&in_here(&format!("{path}:{reference}"))).unwrap(), expected);
        }
        for image in ["program:1", "nothing:1"].map(in_here) {
            assert_eq!(parse(&image).unwrap(), Spec::Name(image));
        }
    }

    #[test]
    fn a_source_is_spelled_the_same_everywhere() {
        let here = std::env::current_dir().unwrap();
        let here = here.to_str().unwrap();
        for (given, absolute) in [
            ("./x.tar", format!("{here}/x.tar")),
            ("./d/../x.tar:a:1", format!("{here}/d/../x.tar:a:1")),
            ("Cargo.toml", format!("{here}/Cargo.toml")),
            ("tar:x.tar", format!("tar:{here}/x.tar")),
            ("tar:/x.tar", "tar:/x.tar".into()),
            ("oci:l:a", format!("oci:{here}/l:a")),
            ("docker-archive:x.tar:@1", format!("docker-archive:{here}/x.tar:@1")),
            ("/x.tar", "/x.tar".into()),
            ("debian:12", "debian:12".into()),
            ("container:web", "container:web".into()),
            ("docker://debian", "docker://debian".into()),
            ("tar:", "tar:".into()),
        ] {
            assert_eq!(super::absolute(OsStr::new(given)), *absolute, "{given}");
        }
    }

    #[test]
    fn other_stores_are_not_read() {
        assert_eq!(parse("docker://a/b:1").unwrap(), Spec::Remote("a/b:1".into()));
        for text in ["containers-storage:x", "dir:/x"] {
            assert!(matches!(parse(text), Err(SourceError::Transport { .. })), "{text}");
        }
    }
}
