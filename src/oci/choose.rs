//! Which of several images: by the user's reference, then by platform.

use std::path::Path;
use std::str::FromStr;

use super::error::OciError;
use crate::image::Platform;

/// Which image of an archive or layout is meant, as in containers-transports(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// By its name, tag or manifest digest.
    Name(String),
    /// By its place, from 0.
    Index(usize),
}

impl FromStr for Reference {
    type Err = std::convert::Infallible;

    /// `@` and a number is a place, everything else a name.
    fn from_str(text: &str) -> Result<Reference, Self::Err> {
        let index = text.strip_prefix('@').filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
        Ok(match index.and_then(|n| n.parse().ok()) {
            Some(index) => Reference::Index(index),
            None => Reference::Name(text.to_owned()),
        })
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reference::Name(name) => f.write_str(name),
            Reference::Index(index) => write!(f, "@{index}"),
        }
    }
}

/// An image that may be meant.
#[derive(Clone, Debug)]
pub(super) struct Candidate<T> {
    /// The places at which it is listed, in order; none where a place chooses something else.
    pub(super) places: Vec<usize>,
    pub(super) names: Vec<String>,
    pub(super) digest: Option<String>,
    /// `None` where only a closer look can tell.
    pub(super) platform: Option<Platform>,
    pub(super) item: T,
}

impl<T> Candidate<T> {
    /// What the user may write to get it.
    fn label(&self) -> String {
        let mut words: Vec<String> =
            self.places.first().map(|place| format!("@{place}")).into_iter().collect();
        words.extend(self.names.iter().cloned());
        if let Some(platform) = &self.platform {
            words.push(if words.is_empty() { platform.to_string() } else { format!("({platform})") });
        }
        words.join(" ")
    }

    fn is_called(&self, wanted: &str) -> bool {
        self.digest.as_deref() == Some(wanted) || self.names.iter().any(|name| name == wanted)
    }

    fn goes_by(&self, wanted: &str) -> bool {
        self.is_called(wanted) || self.names.iter().any(|name| full_name(name) == full_name(wanted))
    }
}

/// Every candidate as the user may write it.
pub(super) fn labels<T>(candidates: &[Candidate<T>]) -> Vec<String> {
    candidates.iter().map(Candidate::label).collect()
}

/// The candidates that a reference means. Without one, those of different names need a platform that decides.
pub(super) fn by_reference<T>(
    mut candidates: Vec<Candidate<T>>,
    reference: Option<&Reference>,
    platform: Option<&Platform>,
    path: &Path,
) -> Result<Vec<Candidate<T>>, OciError> {
    if candidates.is_empty() {
        return Err(OciError::NotAnImage(path.to_owned()));
    }
    if let Some(reference) = reference {
        let all = labels(&candidates);
        // A name that is there as it was written means nothing else.
        let exact = |name: &str| candidates.iter().any(|candidate| candidate.is_called(name));
        let as_written = matches!(reference, Reference::Name(name) if exact(name));
        candidates.retain(|candidate| match reference {
            Reference::Index(index) => candidate.places.contains(index),
            Reference::Name(name) if as_written => candidate.is_called(name),
            Reference::Name(name) => candidate.goes_by(name),
        });
        if candidates.is_empty() {
            let (path, reference) = (path.to_owned(), reference.to_string());
            return Err(OciError::NoSuchImage { path, reference, images: all });
        }
    } else if platform.is_none()
        && candidates.iter().any(|c| Some(&c.names) != candidates.first().map(|first| &first.names))
    {
        return Err(OciError::SeveralImages { path: path.to_owned(), images: labels(&candidates) });
    }
    Ok(candidates)
}

/// The candidates that suit a platform best, by the rules of [`crate::platform`].
///
/// Without a platform it is this machine's, and an only candidate does whatever it is for.
pub(super) fn by_platform<T>(
    candidates: Vec<Candidate<T>>,
    wanted: Option<&Platform>,
) -> Result<Vec<Candidate<T>>, OciError> {
    if candidates.is_empty() || (wanted.is_none() && candidates.len() == 1) {
        return Ok(candidates);
    }
    let wanted = wanted.cloned().unwrap_or_else(Platform::host);
    let available = labels(&candidates);
    // What has several platforms, or tells none, may do.
    let rank = |c: &Candidate<T>| c.platform.as_ref().map(|p| p.rank(&wanted));
    let best = candidates.iter().filter_map(|c| rank(c).flatten()).min();
    let suits = |c: &Candidate<T>| match (rank(c), best) {
        (Some(rank), _) => rank.is_some() && rank == best,
        (None, best) => best.is_none_or(|best| best > 0),
    };
    let suitable: Vec<_> = candidates.into_iter().filter(suits).collect();
    if suitable.is_empty() { Err(OciError::NoSuchPlatform { wanted, available }) } else { Ok(suitable) }
}

/// A name with what docker and podman let one leave out: registry, `library/`, `:latest`.
fn full_name(name: &str) -> String {
    let name = name.strip_prefix("localhost/").unwrap_or(name);
    let mut full = match name.split_once('/') {
        None => format!("docker.io/library/{name}"),
        Some((host, _)) if host.contains(['.', ':']) => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
    };
    let last = full.rsplit('/').next().unwrap_or_default();
    if !last.contains([':', '@']) {
        full.push_str(":latest");
    }
    full
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(names: &[&str], platform: Option<&str>, place: usize) -> Candidate<usize> {
        Candidate {
            places: vec![place],
            names: names.iter().map(|n| n.to_string()).collect(),
            digest: None,
            platform: platform.map(|p| p.parse().unwrap()),
            item: place,
        }
    }

    fn items(candidates: Vec<Candidate<usize>>) -> Vec<usize> {
        candidates.into_iter().map(|c| c.item).collect()
    }

    #[test]
    fn a_name_may_leave_out_what_docker_lets_one_leave_out() {
        for (name, wanted) in [
            ("docker.io/library/busybox:latest", "busybox"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("localhost/mine:latest", "mine"),
            ("quay.io/a/b:v1", "quay.io/a/b:v1"),
            ("v1", "v1"),
        ] {
            assert!(candidate(&[name], None, 0).goes_by(wanted), "{name} by {wanted}");
        }
        for (name, wanted) in [("busybox:1.36", "busybox"), ("a/b", "b"), ("host:5000/b", "b:5000")] {
            assert!(!candidate(&[name], None, 0).goes_by(wanted), "{name} by {wanted}");
        }
    }

    #[test]
    fn a_name_as_it_is_written_goes_before_one_that_leaves_something_out() {
        let names = ["localhost/foo:1", "docker.io/library/foo:1", "localhost/bar:1"];
        let all = || names.iter().enumerate().map(|(i, name)| candidate(&[name], None, i)).collect();
        let by =
            |name: &str| by_reference(all(), name.parse().ok().as_ref(), None, Path::new("x.tar")).map(items);
        for (place, name) in names.iter().enumerate() {
            assert_eq!(by(name).unwrap(), [place], "{name}");
        }
        assert_eq!(by("bar:1").unwrap(), [2]);
        assert_eq!(by("foo:1").unwrap(), [0, 1]);
    }

    #[test]
    fn several_names_want_a_reference() {
        let two = vec![candidate(&["a:1"], None, 0), candidate(&["b:1", "c"], Some("linux/arm64"), 1)];
        let error = by_reference(two.clone(), None, None, Path::new("x.tar")).unwrap_err();
        assert_eq!(error.to_string(), "x.tar holds several images: @0 a:1, @1 b:1 c (linux/arm64)");
        let by = |text: &str| by_reference(two.clone(), text.parse().ok().as_ref(), None, Path::new("x.tar"));
        assert_eq!(items(by("@1").unwrap()), [1]);
        assert_eq!(items(by("c").unwrap()), [1]);
        assert_eq!(
            by("@2").unwrap_err().to_string(),
            r#"x.tar has no image "@2"; it holds @0 a:1, @1 b:1 c (linux/arm64)"#
        );
    }

    #[test]
    fn the_variant_decides_where_it_can() {
        let all = || {
            ["linux/arm/v6", "linux/arm/v7", "linux/amd64", "linux/amd64/v3"]
                .iter()
                .enumerate()
                .map(|(i, p)| candidate(&[], Some(p), i))
                .collect::<Vec<_>>()
        };
        let pick = |p: &str| by_platform(all(), Some(&p.parse().unwrap())).map(items);
        assert_eq!(pick("linux/arm/v7").unwrap(), [1]);
        assert_eq!(pick("linux/arm").unwrap(), [1]);
        assert_eq!(pick("linux/arm/v8").unwrap(), [1]);
        assert!(pick("linux/arm/v5").is_err());
        assert_eq!(pick("linux/amd64").unwrap(), [2]);
        assert_eq!(
            pick("linux/s390x").unwrap_err().to_string(),
            "there is no image for linux/s390x; there is @0 (linux/arm/v6), @1 (linux/arm/v7), \
             @2 (linux/amd64), @3 (linux/amd64/v3)"
        );
    }

    #[test]
    fn an_only_image_does_unless_a_platform_is_asked_for() {
        let other = || vec![candidate(&[], Some("plan9/mips"), 0)];
        assert_eq!(items(by_platform(other(), None).unwrap()), [0]);
        assert!(by_platform(other(), Some(&Platform::host())).is_err());
    }
}
