//! A directory of the user's as BuildKit asks for it: its files in order, filtered by patterns.
//!
//! What is sent is what github.com/tonistiigi/fsutil sends: a walk in the order of the names, owners as root, no sockets,
//! a file's further names as links to its first.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use bollard_buildkit_proto::fsutil::types::Stat;

use super::patterns::{Fits, Patterns, clean};

/// Symbolic links that are followed for one path.
const MAX_LINKS: usize = 255;

/// Which files of a directory are wanted.
#[derive(Debug, Default)]
pub(super) struct Filter {
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    /// As `include`, and what these lead to if they are links.
    pub follow: Vec<String>,
}

/// Walks a directory. `emit` gets each file, and where it is; it answers `false` to end the walk.
pub(super) fn walk(
    root: &Path,
    filter: &Filter,
    emit: &mut dyn FnMut(Stat, PathBuf) -> bool,
) -> io::Result<()> {
    let mut include = filter.include.clone();
    if !filter.follow.is_empty() {
        match follow_links(root, &filter.follow)? {
            Some(paths) => include.extend(paths),
            // One of them is the directory itself.
            None => include.clear(),
        }
    }
    let mut walk = Walk {
        include: Patterns::new(&include),
        exclude: Patterns::new(&filter.exclude),
        above: Vec::new(),
        first_names: HashMap::new(),
        emit,
    };
    walk.dir(root, "", &Fits::default(), &Fits::default()).map(drop)
}

struct Walk<'a> {
    include: Patterns,
    exclude: Patterns,
    /// Directories on the way down that were not sent, since nothing in them was wanted yet.
    above: Vec<(Stat, PathBuf)>,
    first_names: HashMap<(u64, u64), String>,
    emit: &'a mut dyn FnMut(Stat, PathBuf) -> bool,
}

impl Walk<'_> {
    fn dir(&mut self, dir: &Path, name: &str, included: &Fits, excluded: &Fits) -> io::Result<bool> {
        let mut names: Vec<OsString> =
            fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
        names.sort_unstable();
        for file in names {
            let place = dir.join(&file);
            let Some(file) = file.to_str() else {
                let why = format!("{place:?}: BuildKit takes no names that are not UTF-8");
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            };
            let path = if name.is_empty() { file.to_owned() } else { format!("{name}/{file}") };
            if !self.file(&path, place, included, excluded)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn file(&mut self, path: &str, place: PathBuf, included: &Fits, excluded: &Fits) -> io::Result<bool> {
        let metadata = match fs::symlink_metadata(&place) {
            // It went while the directory was being read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            found => found.map_err(|error| at(&place, error))?,
        };
        let is_dir = metadata.is_dir();
        let (mut wanted, mut included_here) = (true, Fits::default());
        if !self.include.is_empty() {
            (wanted, included_here) = self.include.fit(path, included);
            if !wanted && is_dir && !self.include.may_fit_below(path, false) {
                return Ok(true);
            }
        }
        let (unwanted, excluded_here) = self.exclude.fit(path, excluded);
        if unwanted && is_dir && !self.exclude.may_fit_below(path, true) {
            return Ok(true);
        }
        wanted &= !unwanted;
        if metadata.file_type().is_socket() || !wanted && !is_dir {
            return Ok(true);
        }
        let stat = self.stat(path, &place, &metadata)?;
        if !is_dir {
            return Ok(self.emit_above() && (self.emit)(stat, place));
        }
        self.above.push((stat, place.clone()));
        let depth = self.above.len();
        let go_on = (!wanted || self.emit_above()) && {
            match self.dir(&place, path, &included_here, &excluded_here) {
                // What is not wanted need not be readable.
                Err(error) if !wanted && error.kind() == io::ErrorKind::PermissionDenied => true,
                done => done.map_err(|error| at(&place, error))?,
            }
        };
        // Still there, if nothing in it was wanted.
        if self.above.len() >= depth {
            self.above.truncate(depth - 1);
        }
        Ok(go_on)
    }

    fn emit_above(&mut self) -> bool {
        let above = std::mem::take(&mut self.above);
        above.into_iter().all(|(stat, place)| (self.emit)(stat, place))
    }

    fn stat(&mut self, path: &str, place: &Path, metadata: &Metadata) -> io::Result<Stat> {
        let mut stat = Stat {
            path: path.to_owned(),
            mode: go_mode(metadata.mode()),
            // Whoever builds owns nothing in the image.
            uid: 0,
            gid: 0,
            mod_time: metadata
                .mtime()
                .checked_mul(1_000_000_000)
                .and_then(|ns| ns.checked_add(metadata.mtime_nsec()))
                .unwrap_or(0),
            ..Stat::default()
        };
        let kind = metadata.file_type();
        if kind.is_symlink() {
            let target = fs::read_link(place).map_err(|error| at(place, error))?;
            stat.linkname = target.to_string_lossy().into_owned();
        } else if kind.is_block_device() || kind.is_char_device() {
            stat.devmajor = i64::from(rustix::fs::major(metadata.rdev()));
            stat.devminor = i64::from(rustix::fs::minor(metadata.rdev()));
        } else if kind.is_file() {
            stat.size = i64::try_from(metadata.len()).unwrap_or(i64::MAX);
            if metadata.nlink() > 1 {
                let first = self.first_names.entry((metadata.dev(), metadata.ino()));
                let first = first.or_insert_with(|| path.to_owned());
                if first != path {
                    stat.linkname.clone_from(first);
                }
            }
        }
        Ok(stat)
    }
}

fn at(place: &Path, error: io::Error) -> io::Error {
    match error.get_ref() {
        // Said already.
        Some(_) => error,
        None => io::Error::new(error.kind(), format!("{place:?}: {error}")),
    }
}

/// The paths that these are, and those that they lead to; `None` if one of them is the directory itself.
fn follow_links(root: &Path, paths: &[String]) -> io::Result<Option<Vec<String>>> {
    let mut found = BTreeSet::new();
    for path in paths {
        follow(root, path, &mut found, MAX_LINKS)?;
    }
    let mut kept: Vec<String> = Vec::new();
    for path in found {
        if path == "." {
            return Ok(None);
        }
        let below = kept.last().is_some_and(|last| path.starts_with(&format!("{last}/")));
        if !below {
            kept.push(path);
        }
    }
    Ok(Some(kept))
}

fn follow(root: &Path, path: &str, found: &mut BTreeSet<String>, patience: usize) -> io::Result<()> {
    let path = clean(&format!("/{path}"));
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        found.insert(".".to_owned());
        return Ok(());
    }
    for at in 0..names.len() {
        let here = names[..=at].join("/");
        let rest = names[at + 1..].join("/");
        let targets = targets(root, &here)?;
        if (rest.is_empty() || !targets.is_empty()) && found.contains(&here) {
            return Ok(());
        }
        if !targets.is_empty() {
            found.insert(here);
            for target in targets {
                match patience.checked_sub(1) {
                    Some(patience) => follow(root, &format!("{target}/{rest}"), found, patience)?,
                    None => return Ok(()),
                }
            }
            return Ok(());
        }
        if rest.is_empty() {
            found.insert(here);
        }
    }
    Ok(())
}

/// Where a path leads if it is a link, or those that it stands for are: from the directory that the walk is of.
fn targets(root: &Path, path: &str) -> io::Result<Vec<String>> {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut places = HashSet::new();
    if name.contains(['*', '?', '[']) {
        let pattern = Patterns::new(&[name]);
        let Ok(entries) = fs::read_dir(root.join(dir)) else { return Ok(Vec::new()) };
        for entry in entries.flatten() {
            if let Some(name) = entry.file_name().to_str()
                && pattern.fit(name, &Fits::default()).0
            {
                places.insert(format!("{dir}/{name}"));
            }
        }
    } else {
        places.insert(path.to_owned());
    }
    let mut targets = Vec::new();
    for place in places {
        let Ok(target) = fs::read_link(root.join(place.trim_start_matches('/'))) else { continue };
        let Some(target) = target.to_str() else { continue };
        let dir = place.rsplit_once('/').map_or("", |(dir, _)| dir);
        targets.push(match target.starts_with('/') {
            true => clean(target),
            false => clean(&format!("/{dir}/{target}")),
        });
    }
    Ok(targets)
}

/// The bits of Go's `os.FileMode` (<https://pkg.go.dev/io/fs#FileMode>) for those of `st_mode`.
fn go_mode(mode: u32) -> u32 {
    let kind = match mode & 0o170000 {
        0o040000 => 1 << 31,
        0o120000 => 1 << 27,
        0o060000 => 1 << 26,
        0o020000 => 1 << 26 | 1 << 21,
        0o010000 => 1 << 25,
        0o140000 => 1 << 24,
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special: u32 = special.iter().filter(|(bit, _)| mode & bit != 0).map(|(_, go)| go).sum();
    kind | special | mode & 0o777
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        dir
    }

    fn sent(root: &Path, filter: Filter) -> Vec<String> {
        let mut paths = Vec::new();
        let mut emit = |stat: Stat, _| {
            paths.push(stat.path);
            true
        };
        walk(root, &filter, &mut emit).unwrap();
        paths
    }

    fn list(list: &[&str]) -> Vec<String> {
        list.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn only_what_is_wanted_is_sent_and_the_directories_that_it_is_in() {
        let dir = tree(&["a/b/c.txt", "a/d.md", "e.txt", "secret/key", "secret/public"]);
        let all = ["a", "a/b", "a/b/c.txt", "a/d.md", "e.txt", "secret", "secret/key", "secret/public"];
        assert_eq!(sent(dir.path(), Filter::default()), all);
        let include = Filter { include: list(&["**/*.txt"]), ..Filter::default() };
        assert_eq!(sent(dir.path(), include), ["a", "a/b", "a/b/c.txt", "e.txt"]);
        let exclude = Filter { exclude: list(&["a", "secret", "!secret/public"]), ..Filter::default() };
        assert_eq!(sent(dir.path(), exclude), ["e.txt", "secret", "secret/public"]);
        let nothing = Filter { include: list(&["nope"]), ..Filter::default() };
        assert_eq!(sent(dir.path(), nothing), [""; 0]);
    }

    #[test]
    fn a_link_brings_what_it_leads_to_within_the_directory() {
        let dir = tree(&["real/file", "other/x", "top"]);
        symlink("real", dir.path().join("link")).unwrap();
        symlink("/other", dir.path().join("absolute")).unwrap();
        symlink("../../../top", dir.path().join("real/up")).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        let follow = |path: &str| Filter { follow: list(&[path]), ..Filter::default() };
        assert_eq!(sent(dir.path(), follow("link/file")), ["link", "real", "real/file"]);
        assert_eq!(sent(dir.path(), follow("absolute")), ["absolute", "other", "other/x"]);
        assert_eq!(sent(dir.path(), follow("real/up")), ["real", "real/up", "top"]);
        assert_eq!(sent(dir.path(), follow("loop")), ["loop"]);
        assert_eq!(sent(dir.path(), follow("to*")), ["top"]);
        assert_eq!(sent(dir.path(), follow("/")).len(), 9);
    }

    #[test]
    fn a_second_name_is_a_link_to_the_first_and_a_name_that_is_no_text_is_refused() {
        let dir = tree(&["a"]);
        fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        let mut stats = Vec::new();
        let mut emit = |stat: Stat, _| {
            stats.push((stat.path, stat.linkname, stat.mode, stat.uid));
            true
        };
        walk(dir.path(), &Filter::default(), &mut emit).unwrap();
        let mode = stats[0].2;
        assert_eq!(stats, [("a".into(), "".into(), mode, 0), ("b".into(), "a".into(), mode, 0)]);
        let name = std::os::unix::ffi::OsStringExt::from_vec(b"\xff".to_vec());
        let name: OsString = name;
        fs::write(dir.path().join(name), "").unwrap();
        let error = walk(dir.path(), &Filter::default(), &mut |_, _| true).unwrap_err();
        assert!(error.to_string().contains("not UTF-8"), "{error}");
    }
}
