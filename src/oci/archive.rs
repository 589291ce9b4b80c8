//! A tar that holds an image: recognised, listed once, then read in place.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::error::{OciError, shown};
use super::spec;
use super::store::{Section, Store, document};
use super::{OpenOptions, Transport};
use crate::compress::{Compression, Unpacker};
use crate::progress::{Phase, Progress};
use crate::sparse_file;
use crate::tarfile::{Content, EndMark, Entry, EntryKind, FileInput, Forward, ScanError, Scanner, TarInput};

/// What the names of an archive's members may take in memory, bytes, with [`MEMBER_COST`] for each.
const MAX_CATALOGUE: usize = 32 << 20;

/// What a member costs in memory beside its name, bytes.
const MEMBER_COST: usize = 128;

/// Members among which an image's description has to come, where nobody said that there is one. A layer is four
/// members at most.
const MAX_RECOGNISED: usize = 20_000;

/// Symbolic links followed on the way to one blob; path_resolution(7).
const MAX_LINKS: usize = 40;

/// `PATH_MAX`: a way of megabytes would be walked for hours.
const MAX_PATH: usize = 4096;

/// An archive and the places of its members.
#[derive(Debug)]
pub(super) struct Archive {
    file: Arc<File>,
    catalogue: Catalogue,
    /// The file that it was unpacked from, if it was.
    packed: Option<File>,
}

#[derive(Debug, Default)]
struct Catalogue {
    members: HashMap<Vec<u8>, Member>,
    bytes: usize,
}

/// What a member is, as far as an image is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Member {
    /// A regular file: where its content starts in the tar, and how many bytes it has.
    File { offset: u64, size: u64 },
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A hard link to another member.
    HardLink(Vec<u8>),
    /// A directory.
    Directory,
    /// A device, a FIFO or a sparse file.
    Other,
}

impl Member {
    fn of(kind: EntryKind) -> Member {
        match kind {
            EntryKind::Regular { size, content: Content::Contiguous { at } } => {
                Member::File { offset: at, size }
            }
            EntryKind::Symlink(target) => Member::Symlink(target),
            EntryKind::HardLink(target) => Member::HardLink(target),
            EntryKind::Directory => Member::Directory,
            EntryKind::Regular { .. } | EntryKind::Device(..) | EntryKind::Fifo => Member::Other,
        }
    }
}

/// What to make of an archive while its members pass by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// The user says what it is.
    Collect,
    /// Find out what it is, and stop as soon as it turns out not to be an image.
    Recognise,
}

impl Archive {
    /// Lists an archive whose transport the user named.
    pub(super) fn open(path: &Path, options: &OpenOptions<'_>) -> Result<Archive, OciError> {
        Archive::open_and_look(path, options, Look::Collect).map(|(archive, _)| archive)
    }

    /// Lists an archive and says how its image is to be read; `None` for a tar that holds none.
    pub(super) fn recognise(
        path: &Path,
        options: &OpenOptions<'_>,
    ) -> Result<Option<(Archive, Transport)>, OciError> {
        let (archive, transport) = Archive::open_and_look(path, options, Look::Recognise)?;
        let Some(transport) = transport else { return Ok(None) };
        // Other programs have a file of that name, too.
        let is_meant = transport != Transport::DockerArchive
            || document(&archive, "manifest.json").is_ok_and(|bytes| spec::is_docker_manifest(&bytes));
        Ok(is_meant.then_some((archive, transport)))
    }

    fn open_and_look(
        path: &Path,
        options: &OpenOptions<'_>,
        look: Look,
    ) -> Result<(Archive, Option<Transport>), OciError> {
        let file = open_file(path)?;
        let mut catalogue = Catalogue::default();
        let read_failed = |source| OciError::Io { doing: "read", path: path.to_owned(), source };
        if Compression::of_file(&file).map_err(read_failed)? == Compression::None {
            let transport = scan(file_input(&file, path)?, path, look, &mut catalogue)?;
            return Ok((Archive { file: Arc::new(file), catalogue, packed: None }, transport));
        }
        let unpacker =
            Unpacker::new(&file, options.limits).map_err(|e| OciError::of_stream(&shown(path), e))?;
        let (archive, transport) = Archive::copy_and_look(unpacker, path, options, look)?;
        Ok((Archive { packed: Some(file), ..archive }, transport))
    }

    /// Lists an archive that comes as a stream, all of which is read and copied to a file without a name.
    pub(super) fn copy(
        mut stream: impl Read,
        path: &Path,
        options: &OpenOptions<'_>,
    ) -> Result<Archive, OciError> {
        let (archive, _) = Archive::copy_and_look(&mut stream, path, options, Look::Collect)?;
        // The stream may have more to say than the archive: that it broke off, for one.
        io::copy(&mut stream, &mut io::sink()).map_err(|source| OciError::Io {
            doing: "read",
            path: path.to_owned(),
            source,
        })?;
        Ok(archive)
    }

    fn copy_and_look(
        source: impl Read,
        path: &Path,
        options: &OpenOptions<'_>,
        look: Look,
    ) -> Result<(Archive, Option<Transport>), OciError> {
        let OpenOptions { spool, progress, .. } = *options;
        if let Some(progress) = progress {
            progress.enter(Phase::Reading);
        }
        let mut catalogue = Catalogue::default();
        let spooled = spool_file(spool)?;
        let spooling = Spooling { source, copy: &spooled, written: 0, directory: spool, progress };
        let input = Forward(BufReader::with_capacity(128 << 10, spooling));
        let transport = scan(input, path, look, &mut catalogue)?;
        Ok((Archive { file: Arc::new(spooled), catalogue, packed: None }, transport))
    }

    /// The file that `name` leads to, links within the archive followed.
    fn find(&self, name: &str) -> Result<Section, OciError> {
        if name.len() > MAX_PATH {
            let start = name.chars().take(100).collect();
            return Err(OciError::BadPath { blob: start, reason: "is longer than a path may be" });
        }
        let bad = |reason| OciError::BadPath { blob: name.to_owned(), reason };
        let mut place: Vec<Vec<u8>> = Vec::new();
        let mut ahead: Vec<Vec<u8>> = components(name.as_bytes());
        ahead.reverse();
        let mut links = 0;
        while let Some(component) = ahead.pop() {
            if component == b".." {
                place.pop().ok_or_else(|| bad("leads out of the archive"))?;
                continue;
            }
            place.push(component);
            let target = match self.catalogue.members.get(&place.join(&b'/')) {
                Some(Member::Symlink(target)) => {
                    place.pop();
                    target
                }
                Some(Member::HardLink(target)) => {
                    place.clear();
                    target
                }
                Some(Member::File { offset, size }) if ahead.is_empty() => {
                    return Ok(Section::new(self.file.clone(), *offset, *size, name));
                }
                Some(Member::Directory) | None if !ahead.is_empty() => continue,
                None => return Err(OciError::Missing(name.to_owned())),
                Some(_) => return Err(bad("is not a file")),
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(bad("is a loop of links"));
            }
            if target.starts_with(b"/") {
                return Err(bad("leads out of the archive"));
            }
            ahead.extend(components(target).into_iter().rev());
            if target.len() > MAX_PATH || place.len() + ahead.len() > MAX_PATH {
                return Err(bad("is longer than a path may be"));
            }
        }
        Err(bad("is not a file"))
    }
}

impl Store for Archive {
    fn section(&self, name: &str, size: Option<u64>) -> Result<Section, OciError> {
        self.find(name)?.expect_size(size)
    }

    fn unpacked_from(&self) -> Option<&File> {
        self.packed.as_ref()
    }
}

impl Catalogue {
    /// A later member of the same name takes the place of an earlier one.
    fn add(&mut self, path: &Path, name: &[u8], member: Member) -> Result<(), OciError> {
        let link = match &member {
            Member::Symlink(target) | Member::HardLink(target) => target.len(),
            _ => 0,
        };
        self.bytes = self.bytes.saturating_add(MEMBER_COST + name.len() + link);
        if self.bytes > MAX_CATALOGUE {
            return Err(OciError::NotAnImage(path.to_owned()));
        }
        self.members.insert(components(name).join(&b'/'), member);
        Ok(())
    }
}

/// Directories that root filesystems have at their top and image archives have not; hier(7).
const ROOTFS_DIRECTORIES: [&[u8]; 20] = [
    b"bin", b"boot", b"dev", b"etc", b"home", b"lib", b"lib32", b"lib64", b"media", b"mnt", b"opt", b"proc",
    b"root", b"run", b"sbin", b"srv", b"sys", b"tmp", b"usr", b"var",
];

fn scan(
    input: impl TarInput,
    path: &Path,
    look: Look,
    catalogue: &mut Catalogue,
) -> Result<Option<Transport>, OciError> {
    let (mut layout, mut index, mut manifest) = (false, false, false);
    // What docker save wrote before 1.10.
    let (mut repositories, mut layers) = (false, false);
    let failed = |error| scan_error(path, error);
    // Digests tell whether all of it is there.
    let mut scanner = Scanner::new(input, EndMark::Unneeded);
    let mut members = 0;
    while let Some(Entry { path: name, kind, .. }) = scanner.next_entry().map_err(failed)? {
        let member = Member::of(kind);
        members += 1;
        if look == Look::Recognise {
            if members > MAX_RECOGNISED {
                return Ok(None);
            }
            match components(&name).as_slice() {
                [top, ..] if ROOTFS_DIRECTORIES.contains(&&top[..]) => return Ok(None),
                [top] if !matches!(member, Member::Directory | Member::Other) => match &top[..] {
                    b"oci-layout" => layout = true,
                    b"index.json" => index = true,
                    b"manifest.json" => manifest = true,
                    b"repositories" => repositories = true,
                    _ => {}
                },
                [id, file] if &file[..] == b"layer.tar" && is_id(id) => layers = true,
                _ => {}
            }
        }
        match catalogue.add(path, &name, member) {
            Err(OciError::NotAnImage(_)) if look == Look::Recognise => return Ok(None),
            result => result?,
        }
    }
    if members == 0 {
        return Err(OciError::NotATar(path.to_owned()));
    }
    match (layout && index, manifest) {
        (true, _) => Ok(Some(Transport::OciArchive)),
        (false, true) => Ok(Some(Transport::DockerArchive)),
        (false, false) if repositories && layers => Err(OciError::BeforeManifests(path.to_owned())),
        (false, false) => Ok(None),
    }
}

/// Whether a name is an image's or layer's id, as docker spelled them.
fn is_id(name: &[u8]) -> bool {
    name.len() == 64 && name.iter().all(u8::is_ascii_hexdigit)
}

fn scan_error(path: &Path, error: ScanError) -> OciError {
    let path = path.to_owned();
    match error {
        ScanError::NotATar => OciError::NotATar(path),
        ScanError::Io(error) => OciError::of_stream(&shown(&path), error),
        problem => OciError::DamagedArchive { path, problem },
    }
}

/// The components of a name, without empty ones and `.`.
fn components(name: &[u8]) -> Vec<Vec<u8>> {
    name.split(|b| *b == b'/').filter(|c| !c.is_empty() && *c != b".").map(<[u8]>::to_vec).collect()
}

fn open_file(path: &Path) -> Result<File, OciError> {
    let failed = |source| OciError::Io { doing: "open", path: path.to_owned(), source };
    // Without NONBLOCK a FIFO would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed(e.into()))?);
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(OciError::WrongTransport { path: path.to_owned(), wanted: "file" });
    }
    Ok(file)
}

fn file_input<'a>(file: &'a File, path: &Path) -> Result<FileInput<'a>, OciError> {
    let failed = |source| OciError::Io { doing: "read", path: path.to_owned(), source };
    Ok(FileInput::new(file, file.metadata().map_err(failed)?.len()))
}

/// A stream that is written to a file as it is read, and told of.
struct Spooling<'a, R> {
    source: R,
    copy: &'a File,
    written: u64,
    directory: &'a Path,
    progress: Option<&'a Progress>,
}

impl<R: Read> Read for Spooling<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(progress) = self.progress {
            progress.check().map_err(OciError::from)?;
        }
        let n = self.source.read(buf)?;
        if let Some(progress) = self.progress {
            progress.add_bytes(n as u64);
        }
        sparse_file::append(self.copy, &buf[..n], self.written).map_err(|source| OciError::Spool {
            doing: "unpack the archive into",
            directory: self.directory.to_owned(),
            source,
        })?;
        self.written += n as u64;
        Ok(n)
    }
}

/// A file for what is unpacked, which ends with its last descriptor.
fn spool_file(directory: &Path) -> Result<File, OciError> {
    let failed = |source| OciError::Spool {
        doing: "make a temporary file in",
        directory: directory.to_owned(),
        source,
    };
    sparse_file::unnamed(File::open(directory).map_err(failed)?).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(members: &[(&str, Member)]) -> Archive {
        let mut catalogue = Catalogue::default();
        for (name, member) in members {
            catalogue.add(Path::new("a.tar"), name.as_bytes(), member.clone()).unwrap();
        }
        Archive { file: Arc::new(File::open("/dev/null").unwrap()), catalogue, packed: None }
    }

    fn link(target: &str) -> Member {
        Member::Symlink(target.into())
    }

    #[test]
    fn links_are_followed_within_the_archive_only() {
        let file = Member::File { offset: 512, size: 3 };
        let archive = archive(&[
            ("./a/layer.tar", file.clone()),
            ("b/layer.tar", link("../a/layer.tar")),
            ("c", link("b")),
            ("hard", Member::HardLink("a/layer.tar".into())),
            ("out", link("../../etc/passwd")),
            ("absolute", link("/a/layer.tar")),
            ("loop", link("pool")),
            ("pool", link("loop")),
            ("self", Member::HardLink("self".into())),
            ("d", Member::Directory),
            ("far", link(&"d/../".repeat(1000))),
        ]);
        for name in ["a/layer.tar", "b/layer.tar", "c/layer.tar", "hard", "./d/../a//layer.tar"] {
            assert_eq!(archive.find(name).unwrap().size(), 3, "{name}");
        }
        for (name, error) in [
            ("out", "out: leads out of the archive"),
            ("absolute", "absolute: leads out of the archive"),
            ("../a/layer.tar", "../a/layer.tar: leads out of the archive"),
            ("loop", "loop: is a loop of links"),
            ("self", "self: is a loop of links"),
            ("d", "d: is not a file"),
            ("far", "far: is longer than a path may be"),
            (&"d/".repeat(4 << 20), &format!("{}: is longer than a path may be", "d/".repeat(50))),
            ("a/layer.tar/x", "a/layer.tar/x: is not a file"),
            ("", ": is not a file"),
            ("none", "the image lacks none"),
            ("a/none", "the image lacks a/none"),
        ] {
            assert_eq!(archive.find(name).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn names_take_bounded_memory() {
        let mut catalogue = Catalogue::default();
        let name = vec![b'n'; 1 << 20];
        let result = (0..64).try_for_each(|_| catalogue.add(Path::new("a.tar"), &name, Member::Directory));
        assert!(matches!(result, Err(OciError::NotAnImage(_))));
    }
}
