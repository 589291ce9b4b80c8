//! imagefs's helper in a build: a static program that reads the filesystems of a build's container for imagefs.
//!
//! It stands alone in the container's root filesystem, with the mounts at `/f0`, `/f1`, …, read-only, so nothing of the image that
//! is being built is run. It answers requests on standard input (see [`wire`]) until that ends. There is never a second process in the
//! container: one that is killed while it starts may be left for good. `build.rs` of imagefs builds this with the standard library alone.

mod tar;
// Each end uses its half.
#[allow(dead_code)]
mod wire;
mod xattr;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use wire::{Attributes, MAX_READ, Reply, Request};

/// Requests that are answered at one time.
const THREADS: usize = 8;

const EIO: i32 = 5;
const EINVAL: i32 = 22;
const ENOTDIR: i32 = 20;

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What all threads share.
struct Server {
    input: Mutex<io::Stdin>,
    output: Mutex<io::Stdout>,
    /// The tars that are under way, by the numbers of their requests.
    streams: Mutex<HashMap<u64, Arc<Credit>>>,
}

fn serve() -> io::Result<()> {
    let server = Server {
        input: Mutex::new(io::stdin()),
        output: Mutex::new(io::stdout()),
        streams: Mutex::default(),
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| server.answer(scope))).collect();
        let ended = threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Err(io::ErrorKind::Other.into())));
        // Nobody is there any more to take what is still being written.
        lock(&server.streams).values().for_each(|credit| credit.end());
        ended
    })
}

impl Server {
    fn answer<'scope>(&'scope self, scope: &'scope thread::Scope<'scope, '_>) -> io::Result<()> {
        loop {
            let frame = read_frame(&mut lock(&self.input).lock())?;
            let Some(frame) = frame else { return Ok(()) };
            let (id, body) = frame.split_first_chunk().ok_or(io::ErrorKind::InvalidData)?;
            let id = u64::from_le_bytes(*id);
            match Request::decode(body) {
                Some((_, Request::More(pieces))) => {
                    if let Some(credit) = lock(&self.streams).get(&id) {
                        credit.add(pieces);
                    }
                }
                Some((mount, Request::Tar(path))) => {
                    let credit = Arc::new(Credit::default());
                    credit.add(wire::CREDIT);
                    lock(&self.streams).insert(id, Arc::clone(&credit));
                    scope.spawn(move || self.stream(id, &place(mount, &path), &credit));
                }
                Some((mount, request)) => self.say(id, &reply(mount, &request))?,
                None => self.say(id, &Reply::Failed(EINVAL))?,
            }
        }
    }

    /// Writes a tar in pieces, each for one of the credit.
    fn stream(&self, id: u64, root: &Path, credit: &Credit) {
        let written = tar::write(root, &mut Pieces { server: self, id, credit });
        lock(&self.streams).remove(&id);
        let why = written.err().map(|error| error.to_string()).unwrap_or_default();
        let _ = self.say(id, &Reply::End(why.into_bytes()));
    }

    fn say(&self, id: u64, reply: &Reply) -> io::Result<()> {
        let mut output = lock(&self.output);
        output.write_all(&reply.encode(id))?;
        output.flush()
    }
}

/// How many pieces of a tar may be sent; `None` once nobody takes any.
struct Credit(Mutex<Option<u32>>, Condvar);

impl Default for Credit {
    fn default() -> Credit {
        Credit(Mutex::new(Some(0)), Condvar::new())
    }
}

impl Credit {
    fn add(&self, pieces: u32) {
        let mut left = lock(&self.0);
        // A tar that is granted nothing more is given up.
        *left = left.filter(|_| pieces > 0).map(|left| left.saturating_add(pieces));
        self.1.notify_all();
    }

    fn end(&self) {
        *lock(&self.0) = None;
        self.1.notify_all();
    }

    /// Waits for one.
    fn take(&self) -> io::Result<()> {
        let none = |left: &mut Option<u32>| *left == Some(0);
        let mut left = self.1.wait_while(lock(&self.0), none).unwrap_or_else(PoisonError::into_inner);
        let one = left.and_then(|left| left.checked_sub(1)).ok_or(io::ErrorKind::BrokenPipe)?;
        *left = Some(one);
        Ok(())
    }
}

struct Pieces<'a> {
    server: &'a Server,
    id: u64,
    credit: &'a Credit,
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(MAX_READ as usize);
        self.credit.take()?;
        self.server.say(self.id, &Reply::Bytes(bytes[..n].to_vec()))?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_frame(input: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut len = [0; 4];
    match input.read_exact(&mut len) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let len = u32::from_le_bytes(len) as usize;
    if len > wire::MAX_FRAME {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; len];
    input.read_exact(&mut frame)?;
    Ok(Some(frame))
}

/// Where a path of a mount is here.
fn place(mount: u32, path: &[u8]) -> PathBuf {
    let path = [format!("/f{mount}/").as_bytes(), path].concat();
    PathBuf::from(OsStr::from_bytes(path.strip_suffix(b"/").unwrap_or(&path)))
}

fn reply(mount: u32, request: &Request) -> Reply {
    let answered = match request {
        Request::Stat(path) => {
            let path = place(mount, path);
            without_links(&path).and_then(|()| attributes(&path)).map(|found| Reply::Stat(Box::new(found)))
        }
        Request::Read { path, offset, len } => {
            let path = place(mount, path);
            without_links(&path).and_then(|()| read(&path, *offset, *len)).map(Reply::Bytes)
        }
        Request::Tar(_) | Request::More(_) => Err(io::Error::from_raw_os_error(EINVAL)),
    };
    answered.unwrap_or_else(|error| Reply::Failed(error.raw_os_error().unwrap_or(EIO)))
}

/// Links are followed by who asks, within the mount: one in the middle of a path would lead out of it.
fn without_links(path: &Path) -> io::Result<()> {
    let above: Vec<&Path> = path.ancestors().skip(1).collect();
    // Not the root, nor what the mount itself is.
    above.iter().rev().skip(1).try_for_each(|dir| match fs::symlink_metadata(dir)?.is_dir() {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(ENOTDIR)),
    })
}

fn attributes(path: &Path) -> io::Result<Attributes> {
    let metadata = fs::symlink_metadata(path)?;
    let target = match metadata.is_symlink() {
        true => fs::read_link(path)?.into_os_string().into_vec(),
        false => Vec::new(),
    };
    Ok(Attributes {
        mode: metadata.mode(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        links: metadata.nlink(),
        device: device(metadata.rdev()),
        size: metadata.size(),
        mtime: (metadata.mtime(), u32::try_from(metadata.mtime_nsec()).unwrap_or(0)),
        target,
        xattrs: xattr::all(path)?,
    })
}

fn read(path: &Path, offset: u64, len: u32) -> io::Result<Vec<u8>> {
    // To open a FIFO would wait, and to open a device do something.
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::from_raw_os_error(EINVAL));
    }
    let file = File::open(path)?;
    let mut bytes = vec![0; len.min(MAX_READ) as usize];
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// The major and the minor number of a device: makedev(3).
fn device(rdev: u64) -> (u32, u32) {
    let major = (rdev >> 32 & 0xffff_f000) | (rdev >> 8 & 0xfff);
    let minor = (rdev >> 12 & 0xffff_ff00) | (rdev & 0xff);
    (major as u32, minor as u32)
}

/// Whether a file is a device.
fn is_device(kind: &fs::FileType) -> bool {
    kind.is_char_device() || kind.is_block_device()
}
