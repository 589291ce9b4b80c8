//! Names of images in registries, as containers-transports(5) spells them behind `docker://`.

use std::fmt;
use std::str::FromStr;

use crate::image::Digest;

/// The registry that is meant where none is named, and where it really is.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_SERVER: &str = "registry-1.docker.io";

/// An image in a registry: `[HOST[:PORT]/]NAME[:TAG][@sha256:…]`. Where there is a digest, it decides.
///
/// Its syntax is the [reference grammar](https://github.com/distribution/reference), with Docker Hub's short names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RemoteName {
    host: String,
    repository: String,
    tag: String,
    digest: Option<Digest>,
}

/// A text that names no image in a registry.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} names no image in a registry: {reason}")]
pub struct BadRemoteName {
    text: String,
    reason: &'static str,
}

impl RemoteName {
    /// The host, with its port where one was given. Docker Hub is `docker.io`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Where the host's API is.
    pub(super) fn server(&self) -> &str {
        if self.host == DOCKER_HUB { DOCKER_HUB_SERVER } else { &self.host }
    }

    /// The repository, without host and tag.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` where none was given.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The digest, if one was given: then the tag means nothing.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The tag or the digest, whichever decides.
    pub fn reference(&self) -> String {
        self.digest.map_or_else(|| self.tag.clone(), |digest| digest.to_string())
    }
}

impl fmt::Display for RemoteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => write!(f, ":{}", self.tag),
        }
    }
}

impl FromStr for RemoteName {
    type Err = BadRemoteName;

    fn from_str(text: &str) -> Result<RemoteName, BadRemoteName> {
        let bad = |reason| BadRemoteName { text: text.chars().take(200).collect(), reason };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let digest = digest
            .map(|digest| digest.parse())
            .transpose()
            .map_err(|_| bad("after the @ there must be sha256: and 64 lowercase hexadecimal digits"))?;
        // A colon before the last slash belongs to the port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            _ => (rest, "latest"),
        };
        if !is_tag(tag) {
            return Err(bad("a tag is up to 128 letters, digits, periods, dashes and underscores"));
        }
        let (host, repository) = match name.split_once('/') {
            Some((host, path)) if is_host_like(host) => (host, path.to_owned()),
            _ => (DOCKER_HUB, name.to_owned()),
        };
        // The names by which Docker Hub was known before.
        let host = match host {
            "index.docker.io" | DOCKER_HUB_SERVER => DOCKER_HUB,
            host => host,
        };
        let repository = match host == DOCKER_HUB && !repository.contains('/') {
            true => format!("library/{repository}"),
            false => repository,
        };
        if !is_host(host) {
            return Err(bad("what stands before its first slash is not the name of a registry"));
        }
        if repository.len() > 255 {
            return Err(bad("a name has at most 255 characters"));
        }
        if repository.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(bad("a name has no capital letters"));
        }
        if !repository.split('/').all(is_path_component) {
            return Err(bad("a name is lowercase letters and digits, parted by /, ., _, __ or dashes"));
        }
        Ok(RemoteName { host: host.to_ascii_lowercase(), repository, tag: tag.to_owned(), digest })
    }
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    (1..=128).contains(&text.len()) && text.bytes().all(word) && !text.starts_with(['.', '-'])
}

/// Whether what stands before the first slash is taken for a registry rather than a part of the path.
fn is_host_like(text: &str) -> bool {
    text == "localhost" || text.bytes().any(|b| matches!(b, b'.' | b':' | b'[') || b.is_ascii_uppercase())
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (text, "0"),
    };
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(label),
    };
    host && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

/// `[a-z0-9]+` parted by one period, one or two underscores, or any number of dashes.
fn is_path_component(text: &str) -> bool {
    let separator = |b: u8| matches!(b, b'.' | b'_' | b'-');
    let fits = |run: &str| matches!(run, "." | "_" | "__") || run.bytes().all(|b| b == b'-');
    let bytes = text.as_bytes();
    let ends = bytes.first().is_some_and(|b| !separator(*b)) && bytes.last().is_some_and(|b| !separator(*b));
    let known = bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || separator(*b));
    let runs = text.split(|c: char| c.is_ascii_alphanumeric()).filter(|run| !run.is_empty());
    ends && known && runs.into_iter().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_as_docker_takes_it() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (text, full) in [
            ("python", "docker.io/library/python:latest"),
            ("python:3.12", "docker.io/library/python:3.12"),
            ("org/app", "docker.io/org/app:latest"),
            ("index.docker.io/org/app:1", "docker.io/org/app:1"),
            ("docker.io/alpine", "docker.io/library/alpine:latest"),
            ("ghcr.io/org/app", "ghcr.io/org/app:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/a/b__c:T", "localhost:5000/a/b__c:T"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("Host/a", "host/a:latest"),
            (&format!("a:1@{digest}"), &format!("docker.io/library/a@{digest}")),
        ] {
            assert_eq!(text.parse::<RemoteName>().unwrap().to_string(), full, "{text}");
        }
    }

    #[test]
    fn what_no_registry_could_have_is_refused() {
        for bad in [
            "",
            "Python",
            "a//b",
            "a/",
            "/a",
            "a:",
            "a:.x",
            "a b",
            "a@sha256:12",
            "a@sha512:00",
            "-a",
            "a..b",
            "a___b",
            "h.x:99999/a",
            "h.x:a/b",
            "ho_st.x/a",
            "a/../b",
            "a?b",
            "host.x/a%2e",
            "a#b",
            "a\nb",
            "é",
        ] {
            assert!(bad.parse::<RemoteName>().is_err(), "{bad:?}");
        }
    }
}
