//! The names of a catalog: directories, and the sources that are entered through them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::index::Timestamp;

/// The longest name, in bytes: `NAME_MAX`.
pub(super) const MAX_NAME: usize = 255;

/// The fewest digits of an id that name something. With fewer, a file manager's guess could.
const MIN_ID_DIGITS: usize = 4;

/// What is known of the top of a source that nobody has entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outline {
    /// There is a root filesystem beside the description, and nothing else.
    RootAndDescription,
    /// Nothing.
    Unknown,
}

/// A source, as a name leads to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceName {
    /// What whoever opens it knows it by. Another key is another source, though it have the same name.
    pub key: String,
    /// The modification time of its directory as long as nobody has entered it.
    pub mtime: Timestamp,
    /// What is known of it before it is entered.
    pub outline: Outline,
    /// Whether it is opened anew when the catalog is refreshed.
    pub renewable: bool,
}

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A directory of names.
    Directory(Directory),
    /// A source.
    Source(SourceName),
}

/// A directory of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    entries: BTreeMap<Vec<u8>, Item>,
    /// Sources that are found by id, and not listed: by `@` and the id.
    ids: BTreeMap<Vec<u8>, SourceName>,
}

impl Directory {
    /// Adds the directory `name`, or gives the one that is there.
    pub fn directory(&mut self, name: &[u8]) -> Option<&mut Directory> {
        let name = encode(name)?.into_owned();
        if matches!(self.entries.get(&name), Some(Item::Source(_)))
            && let Some(Item::Source(source)) = self.entries.remove(&name)
        {
            // A directory leads to more than one source does, so it is the source that gets another name.
            self.put(escape_colons(&name), source);
        }
        match self.entries.entry(name).or_insert_with(|| Item::Directory(Directory::default())) {
            Item::Directory(directory) => Some(directory),
            Item::Source(_) => None,
        }
    }

    /// Adds a source by a path of names, each but the last a directory. Tells whether it can be shown there: not if a name
    /// is longer than 255 bytes, or leads to another source already.
    pub fn insert(&mut self, path: &[&[u8]], source: SourceName) -> bool {
        match path {
            [] => false,
            [name] => match encode(name) {
                Some(name) if matches!(self.entries.get(&*name), Some(Item::Directory(_))) => {
                    self.put(escape_colons(&name), source)
                }
                Some(name) => self.put(name.into_owned(), source),
                None => false,
            },
            [name, rest @ ..] => self.directory(name).is_some_and(|below| below.insert(rest, source)),
        }
    }

    fn put(&mut self, name: Vec<u8>, source: SourceName) -> bool {
        let free = name.len() <= MAX_NAME && !self.entries.contains_key(&name);
        if free {
            self.entries.insert(name, Item::Source(source));
        }
        free
    }

    /// Has a source found by `@` and its id, without listing it.
    pub fn insert_id(&mut self, id: &str, source: SourceName) {
        self.ids.insert([b"@", id.as_bytes()].concat(), source);
    }

    /// What `name` leads to: a listed name, or `@` and the beginning of an id that no other has.
    pub fn get(&self, name: &[u8]) -> Option<Cow<'_, Item>> {
        if let Some(item) = self.entries.get(name) {
            return Some(Cow::Borrowed(item));
        }
        let digits = name.strip_prefix(b"@")?;
        let digits = digits.strip_prefix(b"sha256:").unwrap_or(digits);
        if digits.len() < MIN_ID_DIGITS || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let listed = begin_with(&self.entries, [b"@sha256:", digits].concat()).map(Cow::Borrowed);
        let hidden = begin_with(&self.ids, [b"@", digits].concat());
        let mut found = listed.chain(hidden.map(|source| Cow::Owned(Item::Source(source.clone()))));
        found.next().filter(|_| found.next().is_none())
    }

    /// What a path leads to.
    pub fn find(&self, path: &[u8]) -> Option<Cow<'_, Item>> {
        let mut directory = self;
        let mut names = path.split(|&b| b == b'/').peekable();
        while let Some(name) = names.next() {
            match (directory.get(name)?, names.peek()) {
                (found, None) => return Some(found),
                (Cow::Borrowed(Item::Directory(below)), Some(_)) => directory = below,
                _ => return None,
            }
        }
        None
    }

    /// The directory at a path; this one if the path is empty.
    pub fn at(&self, path: &[u8]) -> Option<&Directory> {
        let names = path.split(|&b| b == b'/').filter(|name| !name.is_empty());
        names.into_iter().try_fold(self, |directory, name| match directory.entries.get(name)? {
            Item::Directory(below) => Some(below),
            Item::Source(_) => None,
        })
    }

    /// The listed names, in order.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&[u8], &Item)> {
        self.entries.iter().map(|(name, item)| (&**name, item))
    }
}

fn begin_with<V>(map: &BTreeMap<Vec<u8>, V>, prefix: Vec<u8>) -> impl Iterator<Item = &V> {
    let from = map.range(prefix.clone()..);
    from.take_while(move |(name, _)| name.starts_with(&prefix)).map(|(_, value)| value)
}

/// A name as a directory can have it: what cannot stand in one is percent-encoded. `None` if it is too long.
fn encode(name: &[u8]) -> Option<Cow<'_, [u8]>> {
    let encoded = match name {
        b"" => return None,
        b"." => Cow::Borrowed(&b"%2E"[..]),
        b".." => Cow::Borrowed(&b"%2E%2E"[..]),
        name if name.contains(&0) || name.contains(&b'/') => {
            let mut encoded = Vec::with_capacity(name.len());
            for &byte in name {
                match byte {
                    0 => encoded.extend_from_slice(b"%00"),
                    b'/' => encoded.extend_from_slice(b"%2F"),
                    other => encoded.push(other),
                }
            }
            Cow::Owned(encoded)
        }
        name => Cow::Borrowed(name),
    };
    (encoded.len() <= MAX_NAME).then_some(encoded)
}

/// The name of a source where a directory has its own: `localhost%3A5000` beside the directory `localhost:5000`.
fn escape_colons(name: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(name.len());
    for &byte in name {
        match byte {
            b':' => escaped.extend_from_slice(b"%3A"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(key: &str) -> SourceName {
        SourceName {
            key: key.to_owned(),
            mtime: Timestamp::default(),
            outline: Outline::Unknown,
            renewable: false,
        }
    }

    fn key(directory: &Directory, path: &str) -> Option<String> {
        match directory.find(path.as_bytes())?.into_owned() {
            Item::Source(source) => Some(source.key),
            Item::Directory(_) => Some("directory".to_owned()),
        }
    }

    fn insert(directory: &mut Directory, path: &str, name: &str) -> bool {
        let path: Vec<&[u8]> = path.split('/').map(str::as_bytes).collect();
        directory.insert(&path, source(name))
    }

    #[test]
    fn a_source_and_a_directory_of_one_name_are_both_reachable_in_either_order() {
        for order in [["localhost:5000", "localhost:5000/app:1"], ["localhost:5000/app:1", "localhost:5000"]]
        {
            let mut top = Directory::default();
            for path in order {
                assert!(insert(&mut top, path, path), "{path}");
            }
            assert_eq!(key(&top, "localhost:5000").as_deref(), Some("directory"));
            assert_eq!(key(&top, "localhost:5000/app:1").as_deref(), Some("localhost:5000/app:1"));
            assert_eq!(key(&top, "localhost%3A5000").as_deref(), Some("localhost:5000"));
        }
    }

    #[test]
    fn no_name_leads_out_of_its_directory() {
        let mut top = Directory::default();
        for name in [&b".."[..], b".", b"a\0b", b"a/b"] {
            assert!(top.insert(&[name], source("x")), "{name:?}");
        }
        assert!(!top.insert(&[b""], source("x")));
        assert!(!top.insert(&[&[b'a'; 256]], source("x")));
        assert!(!top.insert(&[&[b'a'; 256], b"b"], source("x")));
        let names: Vec<_> = top.entries().map(|(name, _)| name.to_vec()).collect();
        assert_eq!(names, [&b"%2E"[..], b"%2E%2E", b"a%00b", b"a%2Fb"]);
    }

    #[test]
    fn the_beginning_of_an_id_names_what_no_other_id_begins_with() {
        let mut top = Directory::default();
        let ids = [format!("ab12{}", "0".repeat(60)), format!("ab13{}", "0".repeat(60))];
        for id in &ids {
            assert!(insert(&mut top, &format!("@sha256:{id}"), id));
        }
        top.insert_id(&"cd".repeat(32), source("container"));
        assert_eq!(key(&top, "@ab12").as_deref(), Some(&*ids[0]));
        assert_eq!(key(&top, "@sha256:ab130").as_deref(), Some(&*ids[1]));
        assert_eq!(key(&top, &format!("@sha256:{}", ids[1])).as_deref(), Some(&*ids[1]));
        assert_eq!(key(&top, "@cdcdcd").as_deref(), Some("container"));
        for none in ["@ab1", "@ab", "@", "ab12", "@ab12/x", "@zz12", "@ab14"] {
            assert_eq!(key(&top, none), None, "{none}");
        }
        assert_eq!(top.entries().count(), 2, "what is found by id alone is not listed");
    }
}
