//! Every attribute of every entry of a file tree, and how two trees differ.

mod tree;

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek};
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{SeekFrom, lgetxattr, llistxattr, major, minor, seek};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::unescape;

/// What is known of one entry: attribute → value, both as a person reads them.
///
/// Attributes: `type`, `mode` (octal, with setuid, setgid and sticky), `uid`, `gid`, `mtime` (`SECONDS.NANOSECONDS`),
/// `nlink`, `links` (the first name of the entry's inode, where it has several), `size` and `sha256` of a regular
/// file, `target` of a symlink, `device` (`MAJOR,MINOR`), `xattrs` (names and values), `data` (which bytes are no hole).
///
/// Of a file beyond [`LARGEST_HASHED`], `sha256 of data` instead of `sha256`: of all but its holes.
type Entry = BTreeMap<&'static str, String>;

/// Up to this size, the holes of a file are hashed as well.
const LARGEST_HASHED: u64 = 1 << 30;

/// A file tree: path → entry. The root is `.`; other paths are relative, without `./`.
#[derive(Clone, Debug, Default)]
pub struct Manifest(BTreeMap<Vec<u8>, Entry>);

impl Manifest {
    /// Reads everything below `root`, contents included.
    #[track_caller]
    pub fn read(root: &Path) -> Manifest {
        let mut reader = Reader::default();
        reader.entry(root, b".".to_vec());
        reader.manifest
    }

    /// The number of entries, the root among them.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The paths of the entries.
    pub fn paths(&self) -> impl Iterator<Item = &[u8]> {
        self.0.keys().map(Vec::as_slice)
    }

    /// An attribute of an entry.
    pub fn get(&self, path: impl AsRef<[u8]>, attribute: &str) -> Option<&str> {
        self.0.get(path.as_ref())?.get(attribute).map(String::as_str)
    }

    /// Leaves out an entry and all below it. It has to be there.
    #[track_caller]
    pub fn without(mut self, path: &str) -> Manifest {
        let below = format!("{path}/");
        let before = self.0.len();
        self.0.retain(|name, _| name != path.as_bytes() && !name.starts_with(below.as_bytes()));
        assert!(self.0.len() < before, "there is no {path} to leave out");
        self
    }

    /// Leaves out an attribute of one entry.
    #[track_caller]
    pub fn without_attribute(mut self, path: impl AsRef<[u8]>, attribute: &str) -> Manifest {
        let path = path.as_ref();
        let entry = self.0.get_mut(path);
        entry.unwrap_or_else(|| panic!("there is no {}", path.escape_ascii())).remove(attribute);
        self
    }

    /// Leaves out an attribute everywhere.
    pub fn ignoring(mut self, attribute: &str) -> Manifest {
        for entry in self.0.values_mut() {
            entry.remove(attribute);
        }
        self
    }

    /// Leaves out an attribute of all entries of a type.
    pub fn ignoring_of(mut self, file_type: &str, attribute: &str) -> Manifest {
        for entry in self.0.values_mut().filter(|entry| entry.get("type").is_some_and(|t| t == file_type)) {
            entry.remove(attribute);
        }
        self
    }

    /// Whether something lies below a path.
    pub fn has_below(&self, path: &[u8]) -> bool {
        let below = if path == b"." { Vec::new() } else { [path, b"/"].concat() };
        self.0.keys().any(|name| name != path && name.starts_with(&below))
    }

    /// Adds an entry with these attributes.
    pub fn with(mut self, path: &[u8], attributes: &[(&'static str, &str)]) -> Manifest {
        let attributes = attributes.iter().map(|(name, value)| (*name, (*value).to_owned()));
        self.0.insert(path.to_vec(), attributes.collect());
        self
    }

    /// Adds which ranges of the regular files below `root` are data, in whole blocks of 4 KiB.
    #[track_caller]
    pub fn with_holes(mut self, root: &Path) -> Manifest {
        for (name, entry) in &mut self.0 {
            if entry.get("type").is_some_and(|t| t == "file") {
                let path = root.join(std::ffi::OsStr::from_bytes(name));
                let ranges = data_ranges(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                entry.insert("data", format!("{ranges:?}"));
            }
        }
        self
    }

    /// Fails with the first differences if `actual` has an entry more or less than `self`, or if an attribute
    /// that both know differs.
    #[track_caller]
    pub fn assert_same(&self, actual: &Manifest) {
        let differences = self.differences(actual);
        let shown = differences.iter().take(20).map(|d| format!("\n  {d}")).collect::<String>();
        let (n, wanted, got) = (differences.len(), self.len(), actual.len());
        assert!(n == 0, "{n} differences between {wanted} expected entries and {got} found:{shown}");
    }

    /// In what `actual` differs from `self`: see [`Manifest::assert_same`].
    pub fn differences(&self, actual: &Manifest) -> Vec<String> {
        let mut found = Vec::new();
        for (path, wanted) in &self.0 {
            let name = path.escape_ascii();
            let Some(got) = actual.0.get(path) else {
                found.push(format!("{name}: missing"));
                continue;
            };
            for (attribute, wanted) in wanted {
                match got.get(attribute) {
                    Some(got) if got != wanted => {
                        found.push(format!("{name}: {attribute} is {got}, expected {wanted}"));
                    }
                    _ => {}
                }
            }
        }
        let extra = actual.0.keys().filter(|path| !self.0.contains_key(*path));
        found.extend(extra.map(|path| format!("{}: not expected", path.escape_ascii())));
        found
    }

    /// Parses what bsdtar writes with `--format=mtree` about an archive.
    ///
    /// It says nothing of a hard link but its name: such an entry has no attribute here.
    #[track_caller]
    pub fn from_mtree(text: &[u8]) -> Manifest {
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty() && line[0] != b'#');
        Manifest(lines.map(mtree_entry).collect())
    }
}

/// Walks a directory; remembers the inodes that have several names.
#[derive(Default)]
struct Reader {
    manifest: Manifest,
    first_names: BTreeMap<(u64, u64), Vec<u8>>,
}

impl Reader {
    #[track_caller]
    fn entry(&mut self, path: &Path, name: Vec<u8>) {
        let fail = |e: io::Error| -> ! { panic!("{}: {e}", name.escape_ascii()) };
        let metadata = path.symlink_metadata().unwrap_or_else(|e| fail(e));
        let mut entry = attributes(path, &metadata).unwrap_or_else(|e| fail(e));
        if !metadata.is_dir() && metadata.nlink() > 1 {
            let first = self.first_names.entry((metadata.dev(), metadata.ino())).or_insert(name.clone());
            entry.insert("links", first.escape_ascii().to_string());
        }
        self.manifest.0.insert(name.clone(), entry);
        if metadata.is_dir() {
            let names = fs::read_dir(path).and_then(|entries| entries.map(|e| Ok(e?.file_name())).collect());
            let mut names: Vec<_> = names.unwrap_or_else(|e| fail(e));
            // Sorted, so that the first name of an inode is the same whatever the filesystem's own order.
            names.sort();
            for child in names {
                let parent: &[u8] = if name == b"." { b"" } else { &name };
                let separator: &[u8] = if parent.is_empty() { b"" } else { b"/" };
                self.entry(&path.join(&child), [parent, separator, child.as_bytes()].concat());
            }
        }
    }
}

fn attributes(path: &Path, metadata: &Metadata) -> io::Result<Entry> {
    let file_type = metadata.file_type();
    let mut entry = Entry::from([
        ("mode", format!("{:o}", metadata.mode() & 0o7777)),
        ("uid", metadata.uid().to_string()),
        ("gid", metadata.gid().to_string()),
        ("mtime", format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec())),
        ("nlink", metadata.nlink().to_string()),
        ("xattrs", xattrs(path)?),
    ]);
    let name = if file_type.is_file() {
        entry.insert("size", metadata.size().to_string());
        if metadata.size() <= LARGEST_HASHED {
            entry.insert("sha256", sha256(File::open(path)?)?);
        } else {
            entry.insert("sha256 of data", sha256_of_data(path)?);
        }
        "file"
    } else if file_type.is_symlink() {
        let target = fs::read_link(path)?.into_os_string().into_vec();
        entry.insert("target", target.escape_ascii().to_string());
        "symlink"
    } else if file_type.is_char_device() || file_type.is_block_device() {
        entry.insert("device", format!("{},{}", major(metadata.rdev()), minor(metadata.rdev())));
        if file_type.is_char_device() { "character device" } else { "block device" }
    } else if file_type.is_fifo() {
        "fifo"
    } else if file_type.is_socket() {
        "socket"
    } else {
        "directory"
    };
    entry.insert("type", name.to_owned());
    Ok(entry)
}

/// `NAME=HEX` of each extended attribute, by name.
fn xattrs(path: &Path) -> io::Result<String> {
    let mut buffer = vec![0; 64 << 10];
    let length = match llistxattr(path, &mut buffer[..]) {
        Err(Errno::NOTSUP) => 0,
        length => length?,
    };
    let names = buffer[..length].to_vec();
    let mut list = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty() && *name != b"security.selinux")
    {
        let length = lgetxattr(path, name, &mut buffer[..])?;
        list.push(format!("{}={}", name.escape_ascii(), hex(&buffer[..length])));
    }
    list.sort();
    Ok(list.join(" "))
}

/// Of what lies in the file's [`data_ranges`].
fn sha256_of_data(path: &Path) -> io::Result<String> {
    let mut data: Box<dyn Read> = Box::new(io::empty());
    for range in data_ranges(path)? {
        let mut file = File::open(path)?;
        file.seek(io::SeekFrom::Start(range.start))?;
        data = Box::new(data.chain(file.take(range.end - range.start)));
    }
    sha256(data)
}

fn sha256(mut file: impl Read) -> io::Result<String> {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 256 << 10]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The ranges of a file that are data, widened to whole blocks of 4 KiB and joined where they touch: two filesystems
/// need not agree on the granularity of a hole.
fn data_ranges(path: &Path) -> io::Result<Vec<Range<u64>>> {
    const BLOCK: u64 = 4096;
    let file = File::open(path)?;
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut position = 0;
    loop {
        let start = match seek(&file, SeekFrom::Data(position)) {
            Err(Errno::NXIO) => return Ok(ranges),
            start => start?,
        };
        position = seek(&file, SeekFrom::Hole(start))?;
        let range = start / BLOCK * BLOCK..position.next_multiple_of(BLOCK);
        match ranges.last_mut() {
            Some(last) if last.end >= range.start => last.end = range.end,
            _ => ranges.push(range),
        }
    }
}

/// One line of an mtree specification: see mtree(5).
fn mtree_entry(line: &[u8]) -> (Vec<u8>, Entry) {
    let mut words = line.split(|byte| *byte == b' ');
    let path = unescape(words.next().unwrap_or_default());
    let path = path.strip_prefix(b"./").or(path.strip_prefix(b"/")).unwrap_or(&path);
    let path = if path.is_empty() { b"." } else { path };
    let mut entry = Entry::new();
    for word in words {
        let at = word.iter().position(|byte| *byte == b'=').expect("mtree: KEY=VALUE");
        let value = unescape(&word[at + 1..]);
        let text = value.escape_ascii().to_string();
        match &word[..at] {
            b"type" => entry.insert("type", mtree_type(&text).to_owned()),
            b"mode" => entry.insert("mode", text),
            b"uid" => entry.insert("uid", text),
            b"gid" => entry.insert("gid", text),
            b"size" => entry.insert("size", text),
            b"time" => entry.insert("mtime", mtree_time(&text)),
            b"link" => entry.insert("target", text),
            b"device" => entry.insert("device", text.strip_prefix("native,").unwrap_or(&text).to_owned()),
            b"sha256digest" => entry.insert("sha256", text),
            _ => None,
        };
    }
    let is_hard_link = entry.get("type").is_some_and(|t| t == "file") && !entry.contains_key("sha256");
    (path.to_vec(), if is_hard_link { Entry::new() } else { entry })
}

fn mtree_type(word: &str) -> &str {
    match word {
        "dir" => "directory",
        "link" => "symlink",
        "char" => "character device",
        "block" => "block device",
        other => other,
    }
}

/// `SECONDS.NANOSECONDS` with the leading zeros of the nanoseconds, which bsdtar leaves out where all are.
fn mtree_time(text: &str) -> String {
    let (seconds, nanos) = text.split_once('.').unwrap_or((text, "0"));
    format!("{seconds}.{nanos:0>9}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    use super::*;

    /// Makes the same small tree twice, changes the second, and says how the two differ.
    fn difference(change: impl Fn(&Path)) -> Vec<String> {
        let roots = ["a", "b"].map(|_| tempfile::tempdir().unwrap());
        let [before, after] = roots.each_ref().map(|root| make_tree(root.path()));
        change(&after);
        let [before, after] = [before, after].map(|root| Manifest::read(&root).with_holes(&root));
        before.differences(&after)
    }

    fn make_tree(root: &Path) -> PathBuf {
        let root = root.join("tree");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("file"), "content").unwrap();
        fs::write(root.join("other"), "content").unwrap();
        fs::hard_link(root.join("file"), root.join("second")).unwrap();
        symlink("file", root.join("link")).unwrap();
        let sparse = File::create(root.join("sparse")).unwrap();
        sparse.set_len(1 << 20).unwrap();
        for name in ["file", "other", "link", "sparse", ""] {
            let times = "@1600000000.123456789";
            let touched =
                std::process::Command::new("touch").args(["-hd", times]).arg(root.join(name)).status();
            assert!(touched.unwrap().success());
        }
        root
    }

    #[test]
    fn equal_trees_do_not_differ() {
        assert_eq!(difference(|_| {}), Vec::<String>::new());
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        type Change = fn(&Path);
        let cases: &[(&str, Change)] = &[
            ("file: mode is 600", |root| {
                fs::set_permissions(root.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
            }),
            ("file: sha256 is", |root| fs::write(root.join("file"), "CONTENT").unwrap()),
            ("file: size is 1", |root| fs::write(root.join("file"), "1").unwrap()),
            ("file: mtime is", |root| {
                let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_600_000_000, 123_456_788);
                File::open(root.join("file")).unwrap().set_modified(time).unwrap();
            }),
            ("file: nlink is 1, expected 2", |root| {
                fs::remove_file(root.join("second")).unwrap();
                fs::copy(root.join("file"), root.join("second")).unwrap();
            }),
            ("second: links is other, expected file", |root| {
                fs::remove_file(root.join("second")).unwrap();
                fs::hard_link(root.join("other"), root.join("second")).unwrap();
            }),
            ("link: target is other", |root| {
                fs::remove_file(root.join("link")).unwrap();
                symlink("other", root.join("link")).unwrap();
            }),
            ("link: missing", |root| fs::remove_file(root.join("link")).unwrap()),
            ("new\\nline: not expected", |root| fs::write(root.join("new\nline"), "").unwrap()),
            ("sparse: data is", |root| fs::write(root.join("sparse"), vec![0; 1 << 20]).unwrap()),
            ("other: type is directory", |root| {
                fs::remove_file(root.join("other")).unwrap();
                fs::create_dir(root.join("other")).unwrap();
            }),
        ];
        for (expected, change) in cases {
            let found = difference(change);
            assert!(found.iter().any(|line| line.starts_with(expected)), "{expected}: {found:#?}");
        }
    }

    #[test]
    fn mtree_is_understood() {
        let text = b"#mtree\n/. type=dir mode=755\n./a\\040b\\134 time=-5.7 type=link link=x\\012y\n./hard type=file size=0\n";
        let manifest = Manifest::from_mtree(text);
        assert_eq!(manifest.get(".", "type"), Some("directory"));
        assert_eq!(manifest.get(r"a b\", "target"), Some(r"x\ny"));
        assert_eq!(manifest.get(r"a b\", "mtime"), Some("-5.000000007"));
        assert_eq!(manifest.get("hard", "size"), None);
        assert_eq!(manifest.len(), 3);
    }
}
