//! Single files of an image in a registry: from the uppermost layers, as long as no layer below could change the answer.

use std::ffi::OsString;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::Mmap;

use super::remote::Line;
use super::single_paths::{Fetched, Found, MAX_SYMLINKS, names};
use super::{Context, SourceError, layers};
use crate::cache::{Cache, Entry};
use crate::index::{FileType, Filesystem, Index, Ino, Tree, TreeError, Whiteout};
use crate::oci::OciImage;
use crate::progress::Progress;
use crate::tarfile::{self, Content, EntryKind};

/// Reads single files of an image, one layer after the other, from the top. What was fetched is in the cache.
pub(crate) struct LayerPaths {
    pub(super) source: OsString,
    pub(super) image: Arc<OciImage>,
    pub(super) line: Arc<Line>,
    pub(super) cache: Cache,
    pub(super) max_size: Option<u64>,
    pub(super) progress: Arc<Progress>,
    /// The uppermost layers, the first of them on top.
    pub(super) fetched: Mutex<Vec<Layer>>,
}

/// A layer that was fetched.
pub(crate) struct Layer {
    entry: Entry,
    /// See [`passes_through`].
    passes_through: bool,
}

/// What the uppermost layers say of a path.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// This is it: an inode of a layer, counted from the top.
    Is(usize, Ino),
    /// There is nothing.
    Nothing,
    /// It depends on the next layer.
    Open,
    /// It has to be put together from all layers.
    Unclear,
}

impl LayerPaths {
    /// What stands at a path from the root. Symlinks on the way are followed, and with `follow` one at the end as well.
    pub(super) fn find(&self, path: &[u8], follow: bool) -> Result<Found, SourceError> {
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let layers = self.image.layers.len();
            let count = fetched.len();
            let lowest = |number: usize| number + 1 == layers;
            if fetched.iter().enumerate().any(|(number, layer)| layer.passes_through && !lowest(number)) {
                return Ok(Found::Unclear);
            }
            let there: Vec<&Index<Mmap>> = fetched.iter().map(|layer| &**layer.entry.index()).collect();
            // What is damaged is told by whoever puts all of it together.
            match decide(&there, layers, path, follow).unwrap_or(Verdict::Unclear) {
                Verdict::Is(layer, ino) => {
                    let Some(layer) = fetched.get(layer) else { return Ok(Found::Unclear) };
                    return match described(layer.entry.index(), ino) {
                        Ok(entry) => {
                            let file = LayerFile { filesystem: layer.entry.filesystem()?, ino, position: 0 };
                            Ok(Found::File(Box::new(Fetched::new(entry, file))))
                        }
                        Err(_) => Ok(Found::Unclear),
                    };
                }
                Verdict::Nothing => return Ok(Found::Nothing),
                Verdict::Open if count < layers => {
                    let entry = self.fetch(count)?;
                    let passes_through = passes_through(entry.index()).unwrap_or(true);
                    fetched.push(Layer { entry, passes_through });
                }
                Verdict::Open | Verdict::Unclear => return Ok(Found::Unclear),
            }
        }
    }

    /// The entry of a layer, counted from the top.
    fn fetch(&self, number: usize) -> Result<Entry, SourceError> {
        let layer = self.image.layers.iter().rev().nth(number).ok_or(SourceError::NoStream)?;
        let context = Context { max_size: self.max_size, ..Context::new(&self.cache, &self.progress) };
        self.progress.expect_bytes(self.progress.bytes().saturating_add(layer.size));
        let entry = layers::open_layer(&self.source, &self.image, layer, None, &context);
        if entry.is_err() {
            self.line.hang_up();
        }
        entry
    }
}

/// What a layer says of a file.
fn described<B: AsRef<[u8]> + Send + Sync>(layer: &Index<B>, ino: Ino) -> Result<tarfile::Entry, TreeError> {
    let stat = layer.stat(ino)?;
    let mut xattrs = Vec::new();
    layer.xattrs(ino, &mut |name, value| {
        xattrs.push((name.to_vec(), value.to_vec()));
        true
    })?;
    let kind = match stat.file_type {
        // Where its bytes are is known to the filesystem that reads them.
        FileType::Regular => EntryKind::Regular { size: stat.size, content: Content::Contiguous { at: 0 } },
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink(layer.read_link(ino)?),
        FileType::Fifo => EntryKind::Fifo,
        device => EntryKind::Device(device, stat.device),
    };
    let (perm, uid, gid, mtime) = (stat.perm, stat.uid, stat.gid, stat.mtime);
    Ok(tarfile::Entry { path: Vec::new(), kind, perm, uid, gid, mtime, xattrs })
}

/// The bytes of one file of a layer, which stays open meanwhile.
struct LayerFile {
    filesystem: Filesystem,
    ino: Ino,
    position: u64,
}

impl Read for LayerFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.filesystem.read(self.ino, self.position, buf).map_err(io::Error::other)?;
        self.position += n as u64;
        Ok(n)
    }
}

/// A directory as the layers have it.
#[derive(Clone)]
struct Place {
    /// Its number in each layer that has it and can be seen, with the number of the layer.
    dirs: Vec<(usize, Ino)>,
    /// The first layer that has no say in what is in it.
    end: usize,
}

/// What `layers`, the uppermost first, say of a path of an image that has `total` of them.
///
/// None of them but the lowest may [pass through](passes_through) a directory.
fn decide<B: AsRef<[u8]> + Send + Sync>(
    layers: &[&Index<B>],
    total: usize,
    path: &[u8],
    follow: bool,
) -> Result<Verdict, TreeError> {
    let root = Place { dirs: (0..layers.len()).map(|layer| (layer, Ino::ROOT)).collect(), end: total };
    let (mut places, mut ahead) = (vec![root], names(path));
    let mut followed = 0;
    while let Some(name) = ahead.pop() {
        if name == b".." {
            if places.len() > 1 {
                places.pop();
            }
            continue;
        }
        let Some(place) = places.last() else { return Ok(Verdict::Unclear) };
        match step(layers, place, &name)? {
            Step::Down(below) if ahead.is_empty() => {
                let Some(&(layer, ino)) = below.dirs.first() else { return Ok(Verdict::Unclear) };
                return Ok(match layers.get(layer).map(|layer| layer.is_implicit(ino)) {
                    Some(Ok(false)) => Verdict::Is(layer, ino),
                    _ => Verdict::Unclear,
                });
            }
            Step::Down(below) => places.push(below),
            Step::Symlink(layer, ino) if follow || !ahead.is_empty() => {
                followed += 1;
                let Some(index) = layers.get(layer) else { return Ok(Verdict::Unclear) };
                let target = index.read_link(ino)?;
                if followed > MAX_SYMLINKS || target.is_empty() {
                    return Ok(Verdict::Unclear);
                }
                if target.starts_with(b"/") {
                    places.truncate(1);
                }
                ahead.extend(names(&target));
            }
            Step::Symlink(layer, ino) | Step::File(layer, ino) if ahead.is_empty() => {
                return Ok(Verdict::Is(layer, ino));
            }
            Step::Nothing => return Ok(Verdict::Nothing),
            Step::Open => return Ok(Verdict::Open),
            // Nothing is beneath a file, whatever that is called.
            Step::Symlink(..) | Step::File(..) | Step::Unclear => return Ok(Verdict::Unclear),
        }
    }
    // The root, whose attributes may be those of any layer.
    Ok(Verdict::Unclear)
}

/// What a name of a directory is.
enum Step {
    Down(Place),
    Symlink(usize, Ino),
    File(usize, Ino),
    Nothing,
    Open,
    Unclear,
}

fn step<B: AsRef<[u8]> + Send + Sync>(
    layers: &[&Index<B>],
    place: &Place,
    name: &[u8],
) -> Result<Step, TreeError> {
    if Whiteout::of(name).is_some() {
        return Ok(Step::Nothing);
    }
    let whiteout = [b".wh.", name].concat();
    let (mut dirs, mut end) = (Vec::new(), place.end);
    for &(number, dir) in &place.dirs {
        if number >= end {
            break;
        }
        let Some(layer) = layers.get(number) else { break };
        match layer.lookup(dir, name)? {
            None => {}
            Some(ino) => match layer.stat(ino)?.file_type {
                FileType::Directory => dirs.push((number, ino)),
                // What an upper layer has there is a directory: it has taken the place of this.
                _ if !dirs.is_empty() => end = number,
                _ if is_link_out(layer, ino)? => return Ok(Step::Unclear),
                FileType::Symlink => return Ok(Step::Symlink(number, ino)),
                _ => return Ok(Step::File(number, ino)),
            },
        }
        if layer.lookup(dir, &whiteout)?.is_some() || layer.lookup(dir, b".wh..wh..opq")?.is_some() {
            end = end.min(number + 1);
        }
    }
    match (dirs.is_empty(), end > layers.len()) {
        (true, true) => Ok(Step::Open),
        (true, false) => Ok(Step::Nothing),
        (false, _) => Ok(Step::Down(Place { dirs, end })),
    }
}

/// Whether a layer has a directory, but for its root, that no entry describes: the way to it may lead through symlinks of the
/// layers below, to any place.
fn passes_through<B: AsRef<[u8]> + Send + Sync>(layer: &Index<B>) -> Result<bool, TreeError> {
    let implicit = layer.summary().entries.saturating_add(1).saturating_sub(layer.described());
    Ok(implicit > u64::from(layer.is_implicit(Ino::ROOT)?))
}

/// Whether a file is but another name for one of the layers below.
fn is_link_out<B: AsRef<[u8]> + Send + Sync>(layer: &Index<B>, ino: Ino) -> Result<bool, TreeError> {
    for link in layer.links_out() {
        if link?.0 == ino {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{GrowingTree, Merge, write_index};
    use crate::tarfile::Timestamp;

    /// The index of a layer: `d/` is a directory, `a -> b` a symlink, `a = b` a hard link, everything else a file.
    fn layer(members: &[&str]) -> Index<Vec<u8>> {
        let mut tree = GrowingTree::of_layer();
        for member in members {
            let (path, kind) = match (member.split_once(" -> "), member.split_once(" = ")) {
                (Some((path, target)), _) => (path, EntryKind::Symlink(target.into())),
                (_, Some((path, target))) => (path, EntryKind::HardLink(target.into())),
                _ if member.ends_with('/') => (member.trim_end_matches('/'), EntryKind::Directory),
                _ => (*member, EntryKind::Regular { size: 0, content: Content::Contiguous { at: 0 } }),
            };
            let mtime = Timestamp::default();
            let (path, xattrs) = (path.into(), Vec::new());
            let entry = tarfile::Entry { path, kind, perm: 0o755, uid: 0, gid: 0, mtime, xattrs };
            tree.insert(entry).unwrap();
        }
        tree.finish().unwrap();
        let mut bytes = std::io::Cursor::new(Vec::new());
        write_index(&tree, &[0; 32], &mut bytes).unwrap();
        Index::new(bytes.into_inner(), &[0; 32]).unwrap()
    }

    /// For layers with the uppermost first: how many of them it takes to decide, and what is found: the number of the
    /// layer from the top. `None` where all of it has to be put together.
    fn verdict(layers: &[Index<Vec<u8>>], path: &str, follow: bool) -> (usize, Option<Option<usize>>) {
        for count in 0..=layers.len() {
            let there: Vec<_> = layers.iter().take(count).collect();
            let unclear = there
                .iter()
                .enumerate()
                .any(|(number, layer)| number + 1 < layers.len() && passes_through(layer).unwrap());
            match decide(&there, layers.len(), path.as_bytes(), follow).unwrap() {
                _ if unclear => return (count, None),
                Verdict::Open => {}
                Verdict::Is(layer, _) => return (count, Some(Some(layer))),
                Verdict::Nothing => return (count, Some(None)),
                Verdict::Unclear => return (count, None),
            }
        }
        panic!("{path} stays open");
    }

    /// What the merge of all layers has at a path, by the number of its layer from the top; no symlink is followed.
    fn merged(layers: &[Index<Vec<u8>>], path: &str) -> Option<usize> {
        let mut merge = Merge::new();
        for layer in layers.iter().rev() {
            merge.add(layer).unwrap();
        }
        merge.stat(path.as_bytes()).map(|stat| layers.len() - 1 - usize::from(stat.layer.0))
    }

    #[test]
    fn what_the_upper_layers_decide_is_what_the_merge_says() {
        let image = [
            layer(&[
                "etc/",
                "etc/top",
                "etc/.wh.gone",
                "opt/",
                "opt/.wh..wh..opq",
                "opt/new",
                ".wh.srv",
                "was-dir",
            ]),
            layer(&[
                "etc/",
                "etc/middle",
                "etc/top",
                "lib -> usr/lib",
                "was-file/",
                "was-file/in",
                "hard = base/file",
            ]),
            layer(&[
                "base/",
                "base/file",
                "etc/",
                "etc/gone",
                "etc/low",
                "opt/",
                "opt/old",
                "srv/",
                "srv/x",
                "usr/",
                "usr/lib/",
                "usr/lib/so",
                "was-dir/",
                "was-dir/in",
                "was-file",
            ]),
        ];
        for (path, layers, found) in [
            ("etc/top", 1, Some(0)),
            ("etc/gone", 1, None),
            ("opt/new", 1, Some(0)),
            ("opt/old", 1, None),
            ("opt", 1, Some(0)),
            ("srv", 1, None),
            ("srv/x", 1, None),
            ("was-dir", 1, Some(0)),
            ("etc", 1, Some(0)),
            ("lib", 2, Some(1)),
            ("etc/middle", 2, Some(1)),
            ("was-file", 2, Some(1)),
            ("was-file/in", 2, Some(1)),
            ("etc/low", 3, Some(2)),
            ("none", 3, None),
            ("etc/none", 3, None),
            ("base/file", 3, Some(2)),
            ("etc/.wh.gone", 1, None),
        ] {
            assert_eq!(verdict(&image, path, false), (layers, Some(found)), "{path}");
            if !path.contains(".wh.") {
                assert_eq!(merged(&image, path), found, "{path}");
            }
        }
        assert_eq!(verdict(&image, "lib/so", false), (3, Some(Some(2))), "a symlink on the way is followed");
        assert_eq!(
            verdict(&image, "lib/../lib/so", false),
            (3, Some(Some(2))),
            "up from where the symlink leads"
        );
        assert_eq!(verdict(&image, "hard", false), (2, None), "another name for what is below");
        assert_eq!(verdict(&image, "was-dir/in", false), (1, None), "beneath a file");
        assert_eq!(verdict(&image, "", false).1, None);
    }

    #[test]
    fn a_layer_that_passes_through_a_directory_may_put_things_anywhere() {
        // The merge has the new file in usr/lib.
        let image = [layer(&["lib/so"]), layer(&["usr/", "usr/lib/", "usr/lib/so", "lib -> usr/lib"])];
        assert_eq!(merged(&image, "usr/lib/so"), Some(0));
        assert_eq!(verdict(&image, "usr/lib/so", false), (1, None));
        // Of the lowest layer there is nothing below.
        assert_eq!(verdict(&image[..1], "lib/so", false), (1, Some(Some(0))));
    }

    #[test]
    fn links_in_a_circle_are_left_to_the_whole() {
        let image = [layer(&["a -> b", "b -> a", "abs -> /d/f", "d/", "d/f", "d/up -> ../abs"])];
        assert_eq!(verdict(&image, "a", true).1, None);
        assert_eq!(verdict(&image, "a", false).1, Some(Some(0)));
        assert_eq!(verdict(&image, "d/up", true), (1, Some(Some(0))));
    }
}
