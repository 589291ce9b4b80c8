//! Where the entries of a stream belong in the tree.

use std::collections::HashMap;

use crate::tarfile::{Entry, EntryKind};

/// Where the entries of a stream belong in the tree.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// Where they say, but for these paths, which stay out: what a daemon adds to an image.
    Root(&'static [&'static [u8]]),
    /// Beneath the directory that the stream is of, which the first entry is. It may be named by its last name, as
    /// Docker does, or not at all, as Podman does. Of a single file, it is the directory that holds it.
    Beneath,
    /// As [`Place::Beneath`], once the directory has turned out to be named.
    BeneathName,
    /// Beneath one directory of the stream: what is elsewhere stays out.
    Part(Box<Part>),
}

/// A directory of a stream.
#[derive(Clone, Debug)]
pub(super) struct Part {
    path: Vec<u8>,
    found: bool,
    /// Regular files that are elsewhere, by path: one of them may have another name within.
    elsewhere: HashMap<Vec<u8>, EntryKind>,
}

impl Part {
    fn put(&mut self, mut entry: Entry) -> Option<Entry> {
        match beneath(&entry.path, &self.path) {
            Some(within) => {
                self.found = true;
                if let EntryKind::HardLink(target) = &mut entry.kind {
                    match beneath(target, &self.path) {
                        Some(target_within) => *target = target_within,
                        // The first of its names that is within has the content, and the others lead there.
                        None => {
                            let content =
                                self.elsewhere.insert(target.clone(), EntryKind::HardLink(within.clone()));
                            entry.kind = content?;
                        }
                    }
                }
                entry.path = within;
                Some(entry)
            }
            None => {
                match &entry.kind {
                    EntryKind::Regular { .. } => drop(self.elsewhere.insert(entry.path, entry.kind)),
                    EntryKind::HardLink(target) => {
                        if let Some(kind) = self.elsewhere.get(target).cloned() {
                            self.elsewhere.insert(entry.path, kind);
                        }
                    }
                    _ => {}
                }
                None
            }
        }
    }
}

impl Place {
    /// Beneath this directory of the stream, or its root.
    pub fn part(path: &str) -> Place {
        match path.trim_matches('/') {
            "" => Place::Root(&[]),
            path => {
                Place::Part(Box::new(Part { path: path.into(), found: false, elsewhere: HashMap::new() }))
            }
        }
    }

    /// Whether a whole stream had nothing where it was to be looked for.
    pub fn is_missing(&self) -> bool {
        matches!(self, Place::Part(part) if !part.found)
    }

    /// Puts the next entry into its place; `None` if it has none.
    pub fn put(&mut self, mut entry: Entry) -> Option<Entry> {
        match self {
            Place::Root(left_out) => return (!left_out.contains(&entry.path.as_slice())).then_some(entry),
            Place::Beneath if entry.kind == EntryKind::Directory && !entry.path.is_empty() => {
                *self = Place::BeneathName;
                entry.path.clear();
            }
            Place::Beneath => *self = Place::Root(&[]),
            Place::Part(part) => return part.put(entry),
            Place::BeneathName => {
                entry.path = without_first(&entry.path);
                if let EntryKind::HardLink(target) = &mut entry.kind {
                    *target = without_first(target);
                }
            }
        }
        Some(entry)
    }
}

/// What follows a directory in a path beneath it, or nothing for the directory itself.
fn beneath(path: &[u8], dir: &[u8]) -> Option<Vec<u8>> {
    match path.strip_prefix(dir)? {
        [] => Some(Vec::new()),
        [b'/', within @ ..] => Some(within.to_vec()),
        _ => None,
    }
}

/// A path without its first name.
fn without_first(path: &[u8]) -> Vec<u8> {
    let mut names = path.splitn(2, |&b| b == b'/');
    names.nth(1).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Timestamp;

    fn entry(path: &str, kind: EntryKind) -> Entry {
        let mtime = Timestamp::default();
        Entry { path: path.into(), kind, perm: 0, uid: 0, gid: 0, mtime, xattrs: Vec::new() }
    }

    fn paths(mut place: Place, entries: &[(&str, EntryKind)]) -> Vec<String> {
        let put = entries.iter().filter_map(|(path, kind)| place.put(entry(path, kind.clone())));
        let told = |entry: Entry| {
            let path = String::from_utf8(entry.path).unwrap();
            match entry.kind {
                EntryKind::HardLink(target) => format!("{path} = {}", String::from_utf8(target).unwrap()),
                _ => path,
            }
        };
        put.map(told).collect()
    }

    #[test]
    fn an_archive_of_a_directory_becomes_a_root_whether_it_is_named_or_not() {
        use EntryKind::{Directory, Fifo, HardLink};
        let named = [
            ("data", Directory),
            ("data/data", Directory),
            ("data/data/x", Fifo),
            ("data/y", HardLink(b"data/data/x".to_vec())),
        ];
        assert_eq!(paths(Place::Beneath, &named), ["", "data", "data/x", "y = data/x"]);
        let unnamed =
            [("", Directory), ("data", Directory), ("data/x", Fifo), ("y", HardLink(b"data/x".to_vec()))];
        assert_eq!(paths(Place::Beneath, &unnamed), ["", "data", "data/x", "y = data/x"]);
        assert_eq!(paths(Place::Beneath, &[("file", Fifo)]), ["file"]);
    }

    #[test]
    fn a_part_of_a_stream_has_what_is_linked_to_from_elsewhere() {
        use EntryKind::{Directory, Fifo, HardLink};
        let file = || EntryKind::Regular { size: 1, content: crate::tarfile::Content::Contiguous { at: 7 } };
        let entries = [
            ("a", Directory),
            ("a/first", file()),
            ("a/second", HardLink(b"a/first".to_vec())),
            ("a/b", Directory),
            ("a/b/x", HardLink(b"a/second".to_vec())),
            ("a/b/y", HardLink(b"a/second".to_vec())),
            ("a/b/own", file()),
            ("a/b/z", HardLink(b"a/b/own".to_vec())),
            ("a/bc", Fifo),
        ];
        let mut place = Place::part("/a/b/");
        assert!(place.is_missing());
        let put: Vec<_> =
            entries.into_iter().filter_map(|(path, kind)| place.put(entry(path, kind))).collect();
        assert!(!place.is_missing() && Place::part("none").is_missing() && !Place::part("").is_missing());
        let told: Vec<_> = put.iter().map(|e| (str::from_utf8(&e.path).unwrap(), &e.kind)).collect();
        let (x, own) = (HardLink(b"x".to_vec()), HardLink(b"own".to_vec()));
        let file = file();
        assert_eq!(told, [("", &Directory), ("x", &file), ("y", &x), ("own", &file), ("z", &own)]);
    }

    #[test]
    fn what_a_daemon_adds_stays_out() {
        let entries = [("added", EntryKind::Fifo), ("a/added", EntryKind::Fifo)];
        assert_eq!(paths(Place::Root(&[b"added"]), &entries), ["a/added"]);
    }
}
