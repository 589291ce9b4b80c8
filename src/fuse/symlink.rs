//! How a symlink's target is kept inside its mount.
//!
//! The kernel resolves what readlink returns against the host: an absolute target would name a file of the
//! host, and so would one whose `..` climbs over the mount's root. Such a target is rewritten as a relative
//! one that leads where the stored one leads inside the container. So is a target that leads to what the session
//! shows as another mount, in a directory of its own.
//!
//! What makes it safe, whatever an image contains: an answer is either `..` (no more of them than the link is
//! deep) followed by names alone, or the stored target, unchanged, after its `..` have been walked in the tree.
//! In the first form no step climbs; in the second the kernel takes the very steps that were walked. A walk
//! counts as such proof only where every symlink on its way is itself answered unchanged, now and later. That is
//! for a session whose trees are final from its start; [`changing`] is for the others.
//!
//! Must not import anything but `index`.

use crate::index::{FileType, Ino, Stat, Tree, TreeError};

mod changing;

pub(super) use changing::contain_changing;

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
    /// The path in the container, without empty names, `.`, `..` and symlinks; empty for the root filesystem.
    path: Vec<Vec<u8>>,
    /// Other paths that lead there, by way of symlinks of the root filesystem.
    spelled: Vec<Vec<Vec<u8>>>,
    /// The name in the session's top directory.
    directory: Vec<u8>,
    /// Whether it may be a single file, of which the directory is shown that holds it.
    may_be_file: bool,
}

impl Destination {
    /// The mount with index `mount`, at `path` in the container and under the name `directory` in the session.
    pub(super) fn new(mount: usize, path: &[u8], directory: &[u8], may_be_file: bool) -> Destination {
        let (path, spelled) = (clean(path), Vec::new());
        Destination { mount, path, spelled, directory: directory.to_vec(), may_be_file }
    }

    /// The same, that another path leads to as well.
    pub(super) fn or_spelled(mut self, path: &[u8]) -> Destination {
        let path = clean(path);
        if path != self.path {
            self.spelled.push(path);
        }
        self
    }

    /// All paths that lead there.
    fn paths(&self) -> impl Iterator<Item = &[Vec<u8>]> {
        std::iter::once(&self.path).chain(&self.spelled).map(Vec::as_slice)
    }
}

/// A mount, and those that the session shows beside it.
pub(super) struct Surroundings<'a> {
    /// The mount's own tree.
    pub tree: &'a dyn Tree,
    /// The mount's index.
    pub own: usize,
    /// The tree of the root filesystem.
    pub root: &'a dyn Tree,
    /// Where the container has the mounts that the session shows; none where links stay in the mount whatever they say.
    pub destinations: &'a [Destination],
}

impl Surroundings<'_> {
    /// Where the container has this mount.
    fn own_path(&self) -> &[Vec<u8>] {
        let own = self.destinations.iter().find(|destination| destination.mount == self.own);
        own.map_or(&[], |destination| &destination.path)
    }

    /// The mounts beneath this one, each with the names that lead there from its root.
    fn beneath(&self) -> impl Iterator<Item = (&Destination, &[Vec<u8>])> {
        let others = self.destinations.iter().filter(|destination| destination.mount != self.own);
        others.flat_map(|destination| {
            let own = self.own_path();
            destination.paths().filter_map(move |path| Some((destination, path.strip_prefix(own)?)))
        })
    }

    /// Whether a path of names alone leads to another mount from any directory at all.
    fn may_be_entered(&self, path: &[u8]) -> bool {
        let from_any =
            |names: &[Vec<u8>]| (0..names.len()).any(|depth| strip(path, &names[depth..]).is_some());
        self.beneath().any(|(_, names)| from_any(names))
    }

    /// The mount that a path of names alone leads to from a directory of this one, and what follows in the path.
    fn entered<'p>(&self, dir: Ino, depth: usize, path: &'p [u8]) -> Option<(&Destination, &'p [u8])> {
        let inside = |names: &[Vec<u8>]| {
            let (above, below) = names.split_at_checked(depth).filter(|(_, below)| !below.is_empty())?;
            let inside = strip(path, below)?;
            // What leads to a directory that has come has come before it.
            let mut found = Some(Ino::ROOT);
            for name in above {
                found = self.tree.lookup(found?, name).ok()?;
            }
            (found == Some(dir)).then_some(inside)
        };
        let entered = self.beneath().filter_map(|(destination, names)| Some((destination, inside(names)?)));
        entered.max_by_key(|(destination, _)| destination.path.len())
    }

    /// The mount that a path of the container belongs to, and what follows in the path.
    fn owner<'p>(&self, path: &'p [u8]) -> Option<(&Destination, &'p [u8])> {
        let holders = self.destinations.iter().flat_map(|destination| {
            let paths = destination.paths();
            paths.filter_map(move |names| Some((names.len(), (destination, strip(path, names)?))))
        });
        holders.max_by_key(|(depth, _)| *depth).map(|(_, found)| found)
    }

    /// What leads to a path of another mount from a directory that is so deep in this one.
    fn lead(&self, depth: usize, (destination, inside): (&Destination, &[u8])) -> Result<Vec<u8>, TreeError> {
        let file = match inside.is_empty() && self.is_file(destination)? {
            true => destination.path.last().map_or(&b""[..], Vec::as_slice),
            false => inside,
        };
        Ok(relative(depth + 1, &[&destination.directory, file]))
    }

    /// Whether a mount is a single file: it is, where it is mounted on one. Where it would have to be read to know that,
    /// or nothing is there, it is not.
    fn is_file(&self, destination: &Destination) -> Result<bool, TreeError> {
        if !destination.may_be_file {
            return Ok(false);
        }
        let holds = |holder: &&Destination| {
            holder.mount != destination.mount && destination.path.starts_with(&holder.path)
        };
        let holder = self.destinations.iter().filter(holds).max_by_key(|holder| holder.path.len());
        let Some(holder) = holder else { return Ok(false) };
        let tree = match holder.mount {
            own if own == self.own => self.tree,
            0 => self.root,
            _ => return Ok(false),
        };
        let mut found = Ino::ROOT;
        for name in &destination.path[holder.path.len()..] {
            found = match tree.lookup(found, name) {
                Ok(Some(ino)) => ino,
                Err(TreeError::NotYet) => return Err(TreeError::NotYet),
                Ok(None) | Err(_) => return Ok(false),
            };
        }
        Ok(!matches!(tree.stat(found)?.file_type, FileType::Directory | FileType::Symlink))
    }
}

/// Whether a target climbs anywhere, or begins at the root.
fn may_lead_up(target: &Target<'_>) -> bool {
    target.absolute || target.ups > 0 || target.climbs_later
}

/// Whether a stored target may be answered with another one for each depth at which its link stands.
pub(super) fn depends_on_depth(stored: &[u8], destinations: &[Destination]) -> bool {
    may_lead_up(&Target::parse(stored)) || destinations.len() > 1
}

/// The target to answer for the symlink `link`, whose stored target is `stored`, where no tree changes any more.
pub(super) fn contain(
    mounts: &Surroundings<'_>,
    link: &Stat,
    stored: Vec<u8>,
) -> Result<Vec<u8>, SymlinkError> {
    let tree = mounts.tree;
    let target = Target::parse(&stored);
    if !may_lead_up(&target) && !mounts.may_be_entered(target.rest) {
        return Ok(stored);
    }
    let directory = tree.parent(link.ino)?;
    let depth = depth(tree, directory)?;
    let leaves = target.absolute || target.ups > depth;
    let rewritten = if leaves && !mounts.own_path().is_empty() {
        // What stands between the container's root and this mount is another mount's affair: taken as text.
        let path = target.in_container(mounts.own_path(), depth);
        match mounts.owner(&path) {
            Some((destination, inside)) if destination.mount == mounts.own => relative(depth, &[inside]),
            Some(found) => mounts.lead(depth, found)?,
            None => relative(depth, &[&path]),
        }
    } else {
        let (ups, rest, as_stored) = if target.climbs_later {
            let start = if target.absolute { Position::root(depth) } else { Position::at(directory) };
            let walked = Walk::new(mounts, start, depth, &stored).run()?;
            (walked.ups, walked.rest, walked.as_stored && !target.absolute && link.nlink == 1)
        } else {
            let ups = if leaves { depth } else { target.ups };
            (ups, target.rest.to_vec(), !leaves)
        };
        let mut from = directory;
        for _ in 0..ups {
            from = tree.parent(from)?;
        }
        match mounts.entered(from, depth - ups, &rest) {
            Some(found) => mounts.lead(depth, found)?,
            None if as_stored => return Ok(stored),
            None => relative(ups, &[&rest]),
        }
    };
    if rewritten.len() > MAX_TARGET { Err(SymlinkError::TooLong(link.ino)) } else { Ok(rewritten) }
}

/// A target that climbs `ups` directories and goes down these paths, one after the other.
fn relative(ups: usize, down: &[&[u8]]) -> Vec<u8> {
    let parts = std::iter::repeat_n(&b".."[..], ups).chain(down.iter().copied());
    let parts: Vec<&[u8]> = parts.filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { b".".to_vec() } else { parts.join(&b'/') }
}

/// How many directories stand between `directory` and its mount's root; 0 for the root itself.
pub(super) fn depth(tree: &dyn Tree, mut directory: Ino) -> Result<usize, TreeError> {
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

    /// The path of the container that it leads to from a directory so deep in the mount at `mount`, as text.
    fn in_container(&self, mount: &[Vec<u8>], depth: usize) -> Vec<u8> {
        let above =
            if self.absolute { 0 } else { mount.len().saturating_sub(self.ups.saturating_sub(depth)) };
        let path = [&mount[..above].join(&b'/'), self.rest].join(&b'/');
        if self.climbs_later { clean(&path).join(&b'/') } else { skip_nothings(&path).to_vec() }
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

/// The names of a path, with `..` taken as text.
fn clean(path: &[u8]) -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    for component in components(path) {
        match component {
            Component::Up => drop(names.pop()),
            Component::Name(name) => names.push(name.to_vec()),
        }
    }
    names
}

/// What follows `names` in a path that begins with them.
fn strip<'p>(path: &'p [u8], names: &[Vec<u8>]) -> Option<&'p [u8]> {
    names.iter().try_fold(path, |rest, wanted| match first_name(rest)? {
        (name, after) if name == wanted.as_slice() => Some(skip_nothings(after)),
        _ => None,
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
    mounts: &'t Surroundings<'t>,
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
    fn new(mounts: &'t Surroundings<'t>, start: Position, depth: usize, path: &[u8]) -> Walk<'t> {
        let to_directory = matches!(path.rsplit(|&b| b == b'/').next(), Some(b"" | b"."));
        let mut walk = Walk {
            mounts,
            tree: mounts.tree,
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
        let stays = !target.absolute && !target.climbs_later && !self.mounts.may_be_entered(target.rest);
        self.as_stored &= stays && link.nlink == 1;
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
