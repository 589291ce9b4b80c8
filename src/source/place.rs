//! Where the entries of a stream belong in the tree.

use crate::tarfile::{Entry, EntryKind};

/// Where the entries of a stream belong in the tree.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// Where they say, but for these paths, which stay out: what a daemon adds to an image.
    Root(&'static [&'static [u8]]),
    /// Beneath the directory that the stream is of, which the first entry is. It may be named by its last name, as
    /// Docker does, or not at all, as Podman does. Of a single file, it is the directory that holds it.
    Beneath,
    /// As [`Place::Beneath`], once the directory has turned out to be named.
    BeneathName,
}

impl Place {
    /// Puts the next entry into its place; `None` if it has none.
    pub fn put(&mut self, mut entry: Entry) -> Option<Entry> {
        match *self {
            Place::Root(left_out) => return (!left_out.contains(&entry.path.as_slice())).then_some(entry),
            Place::Beneath if entry.kind == EntryKind::Directory && !entry.path.is_empty() => {
                *self = Place::BeneathName;
                entry.path.clear();
            }
            Place::Beneath => *self = Place::Root(&[]),
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
    fn what_a_daemon_adds_stays_out() {
        let entries = [("added", EntryKind::Fifo), ("a/added", EntryKind::Fifo)];
        assert_eq!(paths(Place::Root(&[b"added"]), &entries), ["a/added"]);
    }
}
