//! From a path to what stands there.
//!
//! The client's path is taken as text: cleaned, and always from the mount's root. The target of a symbolic link is
//! walked as a container's own kernel would, with the mount's root where the container has it: `/` is the root of the
//! container, not of the host, and a link that comes to another mount's destination leads out, whether the root
//! filesystem has anything there or not. No other mount is ever looked into.

use std::sync::Arc;

use super::GatewayError;
use super::error::to_path;
use super::wait::Question;
use crate::index::{FileType, Ino};
use crate::source::{Destinations, clean};

/// Symbolic links that are followed for one path, as in path_resolution(7).
const MAX_SYMLINKS: usize = 40;

/// What to do with a symbolic link at the end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// Follow it.
    Follow,
    /// Follow it unless it leads out, or from the root to nothing: then it is itself the answer.
    FollowInside,
    /// It is the answer.
    Keep,
}

/// Where the container has its mounts.
pub(super) struct Table {
    rows: Vec<Row>,
    destinations: Arc<Destinations>,
}

/// A mount, as far as a way may lead there.
#[derive(Clone, Debug)]
pub(super) struct Row {
    name: String,
    /// Whether it may be a single file, which stands in a directory of its own.
    may_be_file: bool,
}

impl Row {
    pub fn new(name: &str, may_be_file: bool) -> Row {
        Row { name: name.to_owned(), may_be_file }
    }
}

impl Table {
    /// By mount index.
    pub fn new(rows: Vec<Row>, destinations: Arc<Destinations>) -> Table {
        Table { rows, destinations }
    }

    fn destination(&self, mount: usize) -> &[Vec<u8>] {
        self.destinations.get(mount)
    }

    /// The mount to which a path of the container belongs, and the number of names that lead to it.
    pub fn owner(&self, names: &[Vec<u8>]) -> Option<(usize, usize)> {
        let ways = |mount: usize| self.destinations.spelled(mount).map(move |way| (mount, way));
        let holders = (1..self.rows.len()).flat_map(ways).filter(|(_, way)| names.starts_with(way));
        let root = std::iter::once((0, 0));
        root.chain(holders.map(|(mount, way)| (mount, way.len()))).max_by_key(|&(_, depth)| depth)
    }

    /// The error for a link to a path of the container that another mount has. `found` is what this mount has there, if
    /// it was looked for: only on a file a single file can be mounted.
    fn leads_out(&self, asked: &[u8], names: &[Vec<u8>], found: Option<FileType>) -> GatewayError {
        let (mount, depth) = self.owner(names).unwrap_or((0, 0));
        let row = self.rows.get(mount);
        let inside = names.get(depth..).unwrap_or_default();
        // It stands in the directory under its last name.
        let file = self.destination(mount).last().filter(|_| inside.is_empty());
        let file = file.map(|name| to_path(&absolute(&[name])));
        let inside = to_path(&absolute(inside));
        let (inside, or_file) = match (found, file) {
            (None, file) => (inside, file.filter(|_| row.is_some_and(|row| row.may_be_file))),
            (Some(FileType::Directory), _) | (_, None) => (inside, None),
            (Some(_), Some(file)) => (file, None),
        };
        GatewayError::LeadsOut {
            path: to_path(asked),
            target: to_path(&absolute(names)),
            mount: (row.map(|row| row.name.clone()).unwrap_or_default(), inside),
            or_file,
        }
    }
}

/// An absolute path of these names.
pub(super) fn absolute(names: &[impl AsRef<[u8]>]) -> Vec<u8> {
    if names.is_empty() {
        return b"/".to_vec();
    }
    names.iter().fold(Vec::new(), |mut path, name| {
        path.push(b'/');
        path.extend_from_slice(name.as_ref());
        path
    })
}

/// Finds what stands at a cleaned path of the mount `own`.
pub(super) fn walk(
    question: &Question<'_>,
    table: &Table,
    own: usize,
    names: &[Vec<u8>],
    last: Last,
) -> Result<Ino, GatewayError> {
    let ahead = names.iter().rev().cloned().collect();
    let mut walk =
        Walk { question, table, own, stack: Vec::new(), ahead, asked: names.len(), followed: 0, end: None };
    match (walk.run(last), walk.end) {
        (Err(GatewayError::LeadsOut { .. }), Some(end)) => Ok(end.link),
        (Err(GatewayError::NotFound(_)), Some(End { link, rooted: true })) => Ok(link),
        (result, _) => result,
    }
}

struct Walk<'a> {
    question: &'a Question<'a>,
    table: &'a Table,
    own: usize,
    /// The way from the mount's root to where the walk stands, the root left out.
    stack: Vec<(Vec<u8>, Ino)>,
    /// What is still to be walked, the next name last.
    ahead: Vec<Vec<u8>>,
    /// How many of those the client gave. They stand before those of links.
    asked: usize,
    followed: usize,
    /// With [`Last::FollowInside`], once the last name has turned out to be a link.
    end: Option<End>,
}

/// A symbolic link at the end of the client's path.
#[derive(Clone, Copy)]
struct End {
    link: Ino,
    /// Whether following it led over the root.
    rooted: bool,
}

impl Walk<'_> {
    fn run(&mut self, last: Last) -> Result<Ino, GatewayError> {
        while let Some(name) = self.ahead.pop() {
            let of_link = self.ahead.len() >= self.asked;
            self.asked = self.asked.min(self.ahead.len());
            // A client's path has none left.
            if name == b".." {
                self.climb()?;
                continue;
            }
            let Some(found) = self.question.lookup(self.position(), &name)? else {
                return Err(self.nothing_at(name, of_link));
            };
            let file_type = self.question.provisional_stat(found)?.file_type;
            match file_type {
                FileType::Symlink if last == Last::Keep && self.ahead.is_empty() => return Ok(found),
                FileType::Symlink => {
                    if last == Last::FollowInside && self.ahead.is_empty() && self.end.is_none() {
                        self.end = Some(End { link: found, rooted: false });
                    }
                    self.follow(found)?;
                }
                FileType::Directory => {
                    self.stack.push((name, found));
                    let leaves_again = self.ahead.last().is_some_and(|next| next == b"..");
                    if of_link && !leaves_again && self.is_other_mount(&self.container_path()) {
                        let found = Some(file_type).filter(|_| self.ahead.is_empty());
                        return Err(self.leads_out(self.container_path(), found));
                    }
                }
                _ if !self.ahead.is_empty() => return Err(GatewayError::NotADirectory(self.asked_for())),
                _ if !of_link => return Ok(found),
                _ => {
                    let mut path = self.container_path();
                    path.push(name);
                    return match self.is_other_mount(&path) {
                        true => Err(self.leads_out(path, Some(file_type))),
                        false => Ok(found),
                    };
                }
            }
        }
        Ok(self.position())
    }

    /// The error for a name that is not there. On the way of a link, a mount may be there or beneath.
    fn nothing_at(&self, name: Vec<u8>, of_link: bool) -> GatewayError {
        if !of_link {
            return GatewayError::NotFound(self.asked_for());
        }
        let stands = self.container_path();
        let mut path = stands.clone();
        path.push(name);
        let path = self.with_ahead(path);
        match self.table.owner(&path) {
            Some((mount, depth)) if mount != self.own && depth > stands.len() => {
                self.table.leads_out(&self.question.path, &path, None)
            }
            _ => GatewayError::NotFound(self.asked_for()),
        }
    }

    fn follow(&mut self, link: Ino) -> Result<(), GatewayError> {
        self.followed += 1;
        if self.followed > MAX_SYMLINKS {
            return Err(GatewayError::Loop(self.asked_for()));
        }
        let target = self.question.read_link(link)?;
        let names = target.split(|&b| b == b'/').filter(|name| !matches!(*name, b"" | b"."));
        let mut names: Vec<Vec<u8>> = names.map(<[u8]>::to_vec).collect();
        if target.starts_with(b"/") {
            self.go_to_root();
            // What stands between the container's root and this mount is another mount's affair: taken as text.
            if self.own != 0 {
                names = clean(&target).into_iter().map(<[u8]>::to_vec).collect();
                match self.table.owner(&names) {
                    Some((mount, depth)) if mount == self.own => drop(names.drain(..depth)),
                    _ => return Err(self.leads_out(names, None)),
                }
            }
        } else if target.is_empty() {
            return Err(GatewayError::NotFound(self.asked_for()));
        }
        self.ahead.extend(names.into_iter().rev());
        Ok(())
    }

    fn climb(&mut self) -> Result<(), GatewayError> {
        if self.stack.pop().is_none() {
            self.go_to_root();
            if self.own != 0 {
                let mut path = self.table.destination(self.own).to_vec();
                path.pop();
                return Err(self.leads_out(path, None));
            }
        }
        Ok(())
    }

    fn go_to_root(&mut self) {
        self.stack.clear();
        if let Some(end) = &mut self.end {
            end.rooted = true;
        }
    }

    fn position(&self) -> Ino {
        self.stack.last().map_or(Ino::ROOT, |&(_, ino)| ino)
    }

    /// Where the walk stands, as a path of the container.
    fn container_path(&self) -> Vec<Vec<u8>> {
        let below = self.stack.iter().map(|(name, _)| name);
        self.table.destination(self.own).iter().chain(below).cloned().collect()
    }

    /// Whether another mount is mounted at this path of the container.
    fn is_other_mount(&self, path: &[Vec<u8>]) -> bool {
        self.table.owner(path).is_some_and(|(mount, depth)| mount != self.own && depth == path.len())
    }

    /// The error for a way that goes on in another mount, at this path of the container.
    fn leads_out(&self, path: Vec<Vec<u8>>, found: Option<FileType>) -> GatewayError {
        self.table.leads_out(&self.question.path, &self.with_ahead(path), found)
    }

    /// A path with all that is still to be walked, as text.
    fn with_ahead(&self, mut path: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        for name in self.ahead.iter().rev() {
            match name.as_slice() {
                b".." => drop(path.pop()),
                name => path.push(name.to_vec()),
            }
        }
        path
    }

    fn asked_for(&self) -> std::path::PathBuf {
        to_path(&self.question.path)
    }
}

#[cfg(test)]
mod tests;
