//! How a symlink's target is kept inside its mount.
//!
//! The kernel resolves what readlink returns against the host: an absolute target would name a file of the
//! host, and so would one whose `..` climbs over the mount's root. Such a target is rewritten as a relative
//! one that leads where the stored one leads inside the container.
//!
//! What makes it safe, whatever an image contains: an answer is either `..` (no more of them than the link is
//! deep) followed by names alone, or the stored target, unchanged, after its `..` have been walked in the tree.
//! In the first form no step climbs; in the second the kernel takes the very steps that were walked. A walk
//! counts as such proof only where every symlink on its way is itself answered unchanged.
//!
//! Must not import anything but `index`.

use crate::index::{FileType, Ino, Stat, Tree, TreeError};

/// The longest target that Linux can follow: `PATH_MAX` without its NUL.
const MAX_TARGET: usize = 4095;

/// The number of symlinks that Linux follows in one walk (`MAXSYMLINKS`).
const MAX_FOLLOWED: usize = 40;

/// Names that are looked up for one target. Only a target built to cost time needs more.
const MAX_STEPS: usize = 4096;

/// Directories deeper than this cannot be reached: a path of so many names is longer than `PATH_MAX`.
const MAX_DEPTH: usize = 4096;

/// Why a symlink has no answer.
#[derive(Debug, thiserror::Error)]
pub enum SymlinkError {
    /// The tree did not answer.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The rewritten target is longer than a path may be.
    #[error("the target of symbolic link {0} does not fit into a path once it is made relative")]
    TooLong(Ino),
}

/// Where a container has one of its mounts, and where a session has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    /// The mount's index.
    mount: usize,
    /// The path in the container, without empty names, `.` and `..`; empty for the root filesystem.
    path: Vec<Vec<u8>>,
    /// The name in the session's top directory.
    directory: Vec<u8>,
}

impl Destination {
    /// The mount with index `mount`, at `path` in the container and under the name `directory` in the session.
    pub(super) fn new(mount: usize, path: &[u8], directory: &[u8]) -> Destination {
        let mut names: Vec<Vec<u8>> = Vec::new();
        for component in components(path) {
            match component {
                Component::Up => drop(names.pop()),
                Component::Name(name) => names.push(name.to_vec()),
            }
        }
        Destination { mount, path: names, directory: directory.to_vec() }
    }

    /// What follows the destination's path in `target`, if `target` is at or beneath it.
    fn strip<'t>(&self, target: &'t [u8]) -> Option<&'t [u8]> {
        self.path.iter().try_fold(target, |rest, wanted| match first_name(rest)? {
            (name, after) if name == wanted.as_slice() => Some(skip_nothings(after)),
            _ => None,
        })
    }
}

/// The target to answer for the symlink `link` of the mount `own`, whose stored target is `stored`.
///
/// `destinations` are the container mounts that the session shows beside each other; none where it shows one
/// mount alone.
pub(super) fn contain(
    tree: &dyn Tree,
    link: &Stat,
    stored: Vec<u8>,
    own: usize,
    destinations: &[Destination],
) -> Result<Vec<u8>, SymlinkError> {
    let target = Target::parse(&stored);
    if !target.absolute && target.ups == 0 && !target.climbs_later {
        return Ok(stored);
    }
    let directory = tree.parent(link.ino)?;
    let depth = depth(tree, directory)?;
    // A path from the root of another mount than the root filesystem is no path of the container.
    let from_root = if own == 0 { destinations } else { &[] };
    let rewritten = if target.climbs_later {
        let start = if target.absolute { Position::root(depth) } else { Position::at(directory) };
        let walked = Walk::new(tree, start, depth, &stored).run()?;
        if walked.as_stored && !target.absolute && link.nlink == 1 {
            return Ok(stored);
        }
        let known = if walked.ups == depth { from_root } else { &[] };
        relative(walked.ups, &walked.rest, own, known)
    } else if target.absolute {
        relative(depth, target.rest, own, destinations)
    } else if target.ups <= depth {
        return Ok(stored);
    } else {
        relative(depth, target.rest, own, from_root)
    };
    if rewritten.len() > MAX_TARGET { Err(SymlinkError::TooLong(link.ino)) } else { Ok(rewritten) }
}

/// A target that climbs `ups` directories and goes down `rest`.
///
/// With `destinations` that climb ends at the root, and `rest` is a path of the container: it may turn out to
/// lie in another mount than `own`.
fn relative(ups: usize, rest: &[u8], own: usize, destinations: &[Destination]) -> Vec<u8> {
    let nearest = destinations
        .iter()
        .filter_map(|d| d.strip(rest).map(|inside| (d, inside)))
        .max_by_key(|(d, _)| d.path.len());
    let (ups, directory, rest) = match nearest {
        Some((destination, inside)) if destination.mount == own => (ups, &b""[..], inside),
        Some((destination, inside)) => (ups + 1, destination.directory.as_slice(), inside),
        None => (ups, &b""[..], rest),
    };
    let mut path = Vec::with_capacity(3 * ups + directory.len() + rest.len() + 1);
    let parts = std::iter::repeat_n(&b".."[..], ups).chain([directory, rest]).filter(|part| !part.is_empty());
    for part in parts {
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(part);
    }
    if path.is_empty() {
        path.push(b'.');
    }
    path
}

/// How many directories stand between `directory` and its mount's root; 0 for the root itself.
fn depth(tree: &dyn Tree, mut directory: Ino) -> Result<usize, TreeError> {
    for depth in 0..MAX_DEPTH {
        if directory == Ino::ROOT {
            return Ok(depth);
        }
        directory = tree.parent(directory)?;
    }
    Err(TreeError::Corrupt("a directory that is too deep, or beneath itself"))
}

/// A stored target, taken apart as far as text goes.
struct Target<'t> {
    absolute: bool,
    /// The number of `..` before the first name.
    ups: usize,
    /// From the first name on, as stored.
    rest: &'t [u8],
    /// Whether a `..` follows a name.
    climbs_later: bool,
}

impl<'t> Target<'t> {
    fn parse(stored: &'t [u8]) -> Target<'t> {
        let mut ups = 0;
        let mut rest = stored;
        while let Some((b"..", after)) = first_name(rest) {
            ups += 1;
            rest = after;
        }
        let rest = skip_nothings(rest);
        Target {
            absolute: stored.first() == Some(&b'/'),
            ups,
            rest,
            climbs_later: components(rest).any(|c| c == Component::Up),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Component<'p> {
    Up,
    Name(&'p [u8]),
}

/// The components of a path that lead somewhere: empty ones and `.` are left out.
fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = Component<'_>> {
    path.split(|&b| b == b'/').filter_map(|part| match part {
        b"" | b"." => None,
        b".." => Some(Component::Up),
        name => Some(Component::Name(name)),
    })
}

/// `path` from its first component that is neither empty nor `.`.
fn skip_nothings(mut path: &[u8]) -> &[u8] {
    loop {
        path = match path {
            [b'/', after @ ..] | [b'.', b'/', after @ ..] => after,
            b"." => b"",
            _ => return path,
        };
    }
}

/// The first component that leads somewhere, and what follows it.
fn first_name(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let path = skip_nothings(path);
    let end = path.iter().position(|&b| b == b'/').unwrap_or(path.len());
    (end > 0).then(|| path.split_at(end))
}

/// Where a walk stands, in terms that a relative target can say.
struct Position {
    node: Ino,
    /// Directories climbed from the link's own.
    ups: usize,
    /// Names gone down from there, none of them a symlink.
    names: Vec<Vec<u8>>,
}

impl Position {
    fn at(directory: Ino) -> Position {
        Position { node: directory, ups: 0, names: Vec::new() }
    }

    fn root(depth: usize) -> Position {
        Position { node: Ino::ROOT, ups: depth, names: Vec::new() }
    }
}

/// What a walk through the last `..` of a target found.
struct Walked {
    /// Directories to climb from the link's own.
    ups: usize,
    /// The names to go down from there; no `..` among them.
    rest: Vec<u8>,
    /// Whether the kernel, given the stored target, takes the very same steps and none over the root.
    as_stored: bool,
}

/// The walk that a container's own kernel would take, with the mount's root as `/`.
struct Walk<'t> {
    tree: &'t dyn Tree,
    depth: usize,
    position: Position,
    as_stored: bool,
    /// What is still to be walked, the next component last. `None` is a `..`.
    ahead: Vec<Option<Vec<u8>>>,
    /// The number of `..` ahead.
    ups_ahead: usize,
    /// Whether the path ends so that it can only mean a directory.
    to_directory: bool,
}

impl<'t> Walk<'t> {
    fn new(tree: &'t dyn Tree, start: Position, depth: usize, path: &[u8]) -> Walk<'t> {
        let to_directory = matches!(path.rsplit(|&b| b == b'/').next(), Some(b"" | b"."));
        let mut walk = Walk {
            tree,
            depth,
            position: start,
            as_stored: true,
            ahead: Vec::new(),
            ups_ahead: 0,
            to_directory,
        };
        walk.put_ahead(path);
        walk
    }

    /// Walks until no `..` is left ahead, or until a name leads nowhere.
    fn run(mut self) -> Result<Walked, TreeError> {
        let (mut steps, mut followed) = (0, 0);
        while self.ups_ahead > 0 {
            let Some(component) = self.ahead.pop() else { break };
            let Some(name) = component else {
                self.climb()?;
                continue;
            };
            steps += 1;
            let found = match self.tree.lookup(self.position.node, &name)? {
                Some(ino) => Some(self.tree.stat(ino)?),
                None => None,
            };
            let stopped = match found {
                Some(stat) if stat.file_type == FileType::Directory && steps < MAX_STEPS => {
                    self.position.node = stat.ino;
                    self.position.names.push(name);
                    continue;
                }
                Some(stat) if stat.file_type == FileType::Symlink => {
                    followed += 1;
                    if followed <= MAX_FOLLOWED && steps < MAX_STEPS && self.follow(&stat)? {
                        continue;
                    }
                    false
                }
                Some(stat) => stat.file_type != FileType::Directory,
                None => true,
            };
            // A name that is missing, or is no directory, stops the kernel too. Where it may go on, it must not
            // be shown the `..` that follow.
            self.as_stored &= stopped;
            self.ahead.push(Some(name));
            break;
        }
        Ok(self.finish())
    }

    fn climb(&mut self) -> Result<(), TreeError> {
        self.ups_ahead -= 1;
        if self.position.names.pop().is_none() {
            if self.position.ups == self.depth {
                self.as_stored = false;
                return Ok(());
            }
            self.position.ups += 1;
        }
        self.position.node = self.tree.parent(self.position.node)?;
        Ok(())
    }

    /// Puts the target of `link` ahead; `false` if it has none.
    fn follow(&mut self, link: &Stat) -> Result<bool, TreeError> {
        let stored = self.tree.read_link(link.ino)?;
        let target = Target::parse(&stored);
        // Of several hard links the kernel gets the answer for the one nearest to the root, which may not be
        // this one. A target that climbs over the root is seen by `climb`.
        self.as_stored &= !target.absolute && !target.climbs_later && link.nlink == 1;
        if target.absolute {
            self.position = Position::root(self.depth);
        }
        self.put_ahead(&stored);
        Ok(!stored.is_empty())
    }

    fn put_ahead(&mut self, path: &[u8]) {
        for component in components(path).rev() {
            match component {
                Component::Up => {
                    self.ups_ahead += 1;
                    self.ahead.push(None);
                }
                Component::Name(name) => self.ahead.push(Some(name.to_vec())),
            }
        }
    }

    /// Of what is left ahead, the names up to the first `..`: the kernel comes no farther. A `.` at the end asks
    /// for a directory where the `..`, or the end of the stored target, would have.
    fn finish(self) -> Walked {
        let left = self.ahead.into_iter().rev().map_while(|component| component);
        let end = (self.ups_ahead > 0 || self.to_directory).then(|| b".".to_vec());
        let names: Vec<Vec<u8>> = self.position.names.into_iter().chain(left).chain(end).collect();
        Walked { ups: self.position.ups, rest: names.join(&b'/'), as_stored: self.as_stored }
    }
}

#[cfg(test)]
mod tests;
