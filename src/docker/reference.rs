//! Names of images and containers as the user writes them, checked before the daemon is asked.
//!
//! What passes here holds only characters that mean nothing else in the path of a URL.
//! Must not import anything of the crate.

use std::fmt;
use std::str::FromStr;

/// The name of an image: `NAME[:TAG]`, `NAME[:TAG]@sha256:…`, `sha256:ID`, or a short id.
///
/// Its syntax is that of the reference grammar of <https://github.com/distribution/reference>. A short id looks
/// like a name; which of the two it is the daemon knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName(String);

/// A text that names no image or container.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not {what}: {reason}")]
pub struct BadName {
    text: String,
    what: &'static str,
    reason: &'static str,
}

impl BadName {
    fn new(text: &str, what: &'static str, reason: &'static str) -> BadName {
        BadName { text: text.chars().take(200).collect(), what, reason }
    }
}

impl ImageName {
    /// The name as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digits of an id, whole or shortened, that was written with its `sha256:`.
    pub fn id_digits(&self) -> Option<&str> {
        self.0.strip_prefix("sha256:").filter(|hex| is_id(hex))
    }

    /// Whether this may be an id, whole or shortened, rather than a name.
    pub fn may_be_id(&self) -> bool {
        self.as_id().is_some()
    }

    /// The digits of what may be an id, whole or shortened, however it was written.
    pub(super) fn as_id(&self) -> Option<&str> {
        Some(self.0.strip_prefix("sha256:").unwrap_or(&self.0)).filter(|hex| is_id(hex))
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ImageName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<ImageName, BadName> {
        let bad = |reason| Err(BadName::new(text, "the name of an image", reason));
        if text.is_empty() {
            return bad("it is empty");
        }
        if let Some(hex) = text.strip_prefix("sha256:") {
            return match is_id(hex) {
                true => Ok(ImageName(text.into())),
                false => bad("4 to 64 lowercase hexadecimal digits must follow sha256:"),
            };
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return bad("after the @ there must be sha256: and 64 lowercase hexadecimal digits");
        }
        // A colon before the last slash belongs to the registry's port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return bad("a tag is up to 128 letters, digits, periods, dashes and underscores");
        }
        if name.len() > 255 {
            return bad("a name has at most 255 characters");
        }
        let (host, path) = match name.split_once('/') {
            Some((first, path)) if is_host_like(first) => (Some(first), path),
            _ => (None, name),
        };
        if host.is_some_and(|host| !is_host(host)) {
            return bad("what stands before its first slash is not the name of a registry");
        }
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return bad("a name has no capital letters");
        }
        if !path.split('/').all(is_path_component) {
            return bad("a name is lowercase letters and digits, parted by /, ., _, __ or dashes");
        }
        Ok(ImageName(text.into()))
    }
}

/// The name or id of a container, whole or shortened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerName(String);

impl ContainerName {
    /// The name as it was written, without the slash that docker puts before names.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ContainerName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<ContainerName, BadName> {
        let name = text.strip_prefix('/').unwrap_or(text);
        let mut bytes = name.bytes();
        let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
        if first && name.len() <= 255 && bytes.all(is_word) {
            return Ok(ContainerName(name.into()));
        }
        let reason = "it is a letter or digit, then letters, digits, periods, dashes and underscores";
        Err(BadName::new(text, "the name of a container", reason))
    }
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-')
}

fn is_lower_hex(b: u8) -> bool {
    matches!(b, b'0'..=b'9' | b'a'..=b'f')
}

fn is_id(text: &str) -> bool {
    (4..=64).contains(&text.len()) && text.bytes().all(is_lower_hex)
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(is_lower_hex))
}

fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(is_word)
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Whether docker takes what stands before the first slash for a registry rather than a part of the path.
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
    host && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

/// `[a-z0-9]+` parted by one period, one or two underscores, or any number of dashes.
fn is_path_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = |b: Option<u8>| b.is_some_and(alphanumeric);
    ends(text.bytes().next())
        && ends(text.bytes().next_back())
        && text
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|between| matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-'))
}

/// The one of `candidates` that is most like `wanted`, if any is near enough to be what was meant.
///
/// Registry and tag count less than the name: `ptyhon` is near `docker.io/library/python:3.12`.
pub(super) fn nearest<'a>(wanted: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let bare = |name: &str| -> String {
        let last = name.rsplit('/').next().unwrap_or(name);
        last.split([':', '@']).next().unwrap_or(last).chars().take(64).collect()
    };
    let whole = |name: &str| -> String { name.chars().take(256).collect() };
    let wanted_bare = bare(wanted);
    let wanted = whole(wanted);
    candidates
        .map(|candidate| {
            let by_name = strsim::normalized_damerau_levenshtein(&wanted_bare, &bare(candidate));
            (by_name, strsim::normalized_damerau_levenshtein(&wanted, &whole(candidate)), candidate)
        })
        .filter(|(by_name, by_whole, _)| by_name.max(*by_whole) >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)))
        .map(|(_, _, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_docker_takes_are_taken() {
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        for good in [
            "python",
            "python:3.12",
            "library/python:3.12-slim_x",
            "docker.io/library/python",
            "localhost/x",
            "localhost:5000/a/b--c/d__e:v1.0",
            "[fe80::1]:5000/x",
            "Registry.Example:5000/x",
            "a.b/c",
            "0123456789ab",
            "sha256:0123",
            &digest,
            &format!("python@{digest}"),
            &format!("host:1/python:3@{digest}"),
        ] {
            assert_eq!(good.parse::<ImageName>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn malformed_names_are_refused_with_the_reason() {
        for (bad, reason) in [
            ("", "empty"),
            ("Python", "capital"),
            ("python:", "tag"),
            ("python:-x", "tag"),
            (&format!("x:{}", "a".repeat(129)), "tag"),
            (&"a".repeat(256), "255"),
            ("a//b", "lowercase"),
            ("/a", "lowercase"),
            ("a/", "lowercase"),
            ("a..b", "lowercase"),
            ("a.-b", "lowercase"),
            ("a___b", "lowercase"),
            ("a b", "lowercase"),
            ("a\nb", "lowercase"),
            ("a?x=1", "lowercase"),
            ("a%2fb", "lowercase"),
            ("../../etc", "registry"),
            ("ünï", "lowercase"),
            ("a@sha256:12", "@"),
            ("a@b@c", "@"),
            ("sha256:XYZ", "sha256"),
            ("sha256:../x", "sha256"),
            ("ho_st.x/a", "registry"),
            ("host:/a", "registry"),
        ] {
            let error = bad.parse::<ImageName>().unwrap_err().to_string();
            assert!(error.contains(reason), "{bad:?}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_container_is_named_by_word_characters() {
        assert_eq!("/web-1".parse::<ContainerName>().unwrap().as_str(), "web-1");
        for bad in ["", "-a", "a/b", "a b", "a?all=1", "..", "a%2f"] {
            assert!(bad.parse::<ContainerName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_nearest_name_forgives_a_slip_and_proposes_nothing_far() {
        let local =
            ["debian:12", "docker.io/library/python:3.12", "python:3.11", "imagefs-test/small:latest"];
        let near = |wanted| nearest(wanted, local.iter().copied());
        assert_eq!(near("ptyhon:3.11"), Some("python:3.11"));
        assert_eq!(near("python:3.13"), Some("python:3.11"));
        assert_eq!(near("small"), Some("imagefs-test/small:latest"));
        assert_eq!(near("imagefs-tset/small"), Some("imagefs-test/small:latest"));
        assert_eq!(near("postgres"), None);
    }
}
