//! FUSE requests to the view's answers and back.
//!
//! Each method turns a request into a question, and the answer into a reply; it decides nothing else. The
//! answer is complete before the reply is touched, and a reply may be sent by any thread: one that has to wait
//! for its answer does so in the [`WaitingRoom`], not here. `fuser` is imported here and in the session only.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, PollEvents, PollFlags,
    PollNotifier, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

mod convert;
mod handles;
mod passthrough;
mod pending;

use self::convert::{attr, kind, negative, ttl};
use self::handles::{Handles, Opening};
use self::passthrough::Passthrough;
use super::node::Node;
use super::operations::Operations;
use super::polling::Polling;
use super::readahead::Readahead;
use super::view::Access;
use super::waiting::WaitingRoom;
use crate::index::Whence;

/// A number stands for one inode as long as the session lives.
const GENERATION: Generation = Generation(0);

/// The most that one request reads, unless the kernel's own limit is lower.
const MAX_REQUEST: u32 = 1024 * 1024;

/// Read-ahead requests that the kernel may have under way.
const MAX_BACKGROUND: u16 = 64;

/// The same while a mount is being filled: those that wait for bytes must not keep others from being sent.
const MAX_BACKGROUND_WAITING: u16 = u16::MAX;

thread_local! {
    /// What a thread reads into, from the question to the reply; as large as the largest request it has seen.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(super) struct Adapter {
    view: Arc<dyn Operations>,
    /// Where requests wait; none where everything is there from the start.
    waiting: Option<Arc<WaitingRoom>>,
    handles: Arc<Handles>,
    /// Told of requests by the thread that took them from the kernel, and not of those that had to wait.
    readahead: Arc<Readahead>,
    /// Told of each answer by the thread that gave it and now goes to read; none where polling never pays.
    polling: Option<Polling>,
    /// None where the kernel asks for all bytes.
    passthrough: Option<Arc<Passthrough>>,
    /// Whether the kernel takes ENOSYS to open(2) for "no file ever needs opening".
    no_open: bool,
    /// The same for directories.
    no_opendir: bool,
}

impl Adapter {
    pub(super) fn new(
        view: Arc<dyn Operations>,
        waiting: Option<Arc<WaitingRoom>>,
        readahead: Arc<Readahead>,
        polling: Option<Polling>,
    ) -> Adapter {
        let handles = Arc::new(Handles::default());
        Adapter {
            view,
            waiting,
            handles,
            readahead,
            polling,
            passthrough: None,
            no_open: false,
            no_opendir: false,
        }
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        if let Some(room) = &self.waiting {
            room.close();
        }
    }
}

/// Replies as getxattr(2) and listxattr(2) want it: with the length alone if there is no room for any bytes.
fn give_xattr(size: u32) -> impl FnOnce(ReplyXattr, Vec<u8>) + Send + 'static {
    move |reply, bytes| match u32::try_from(bytes.len()) {
        Ok(len) if size == 0 => reply.size(len),
        Ok(len) if len <= size => reply.data(&bytes),
        _ => reply.error(Errno::ERANGE),
    }
}

fn node(ino: INodeNo) -> Node {
    Node(ino.0)
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let offered = config.capabilities();
        self.no_open = offered.contains(InitFlags::FUSE_NO_OPEN_SUPPORT);
        self.no_opendir = offered.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        let mut wanted = vec![
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        ];
        // What a symlink leads to is kept inside its mount by where its names stand, and one that is nearer to the
        // root may still come: the kernel must ask each time until all are known.
        if self.waiting.is_none() {
            wanted.push(InitFlags::FUSE_CACHE_SYMLINKS);
        }
        // One by one, since one that the kernel lacks would reject all.
        for capability in wanted {
            if config.add_capabilities(capability).is_err() {
                tracing::debug!("the kernel lacks {capability:?}");
            }
        }
        self.passthrough = Passthrough::agree(&*self.view, config).map(Arc::new);
        // Each setter answers a value out of range with the nearest one that is not.
        if let Err(nearest) = config.set_max_readahead(MAX_REQUEST) {
            let _ = config.set_max_readahead(nearest);
        }
        // Nothing is ever written, but the number of pages in a request follows from this.
        if let Err(nearest) = config.set_max_write(MAX_REQUEST) {
            let _ = config.set_max_write(nearest);
        }
        let background = if self.waiting.is_some() { MAX_BACKGROUND_WAITING } else { MAX_BACKGROUND };
        let _ = config.set_max_background(background);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.as_bytes().to_vec();
        let absence = ttl(self.view.absence(node(parent)));
        self.answer(
            req,
            parent,
            reply,
            move |view, _| view.lookup(node(parent), &name),
            move |reply: ReplyEntry, found| match found {
                Some(found) => reply.entry(&ttl(found.certainty), &attr(&found), GENERATION),
                None => reply.entry(&absence, &negative(), GENERATION),
            },
        );
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.view.forget(node(ino), nlookup);
    }

    fn getattr(&self, req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        self.answer(
            req,
            ino,
            reply,
            move |view, _| match fh {
                Some(_) => view.attributes_of_open(node(ino)),
                None => view.attributes(node(ino)),
            },
            |reply: ReplyAttr, found| reply.attr(&ttl(found.certainty), &attr(&found)),
        );
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        self.answer(
            req,
            ino,
            reply,
            move |view, _| view.read_link(node(ino)),
            |reply: ReplyData, target| reply.data(&target),
        );
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            reply.error(Errno::EROFS);
        } else if let Some(passthrough) = self.passthrough.as_ref().filter(|p| p.is_allowed(&reply)) {
            let passthrough = Arc::clone(passthrough);
            self.answer(
                req,
                ino,
                reply,
                move |view, reply: &mut ReplyOpen| passthrough.open(view, node(ino), reply),
                |reply, opened| match opened {
                    Some(backing) => reply.opened_passthrough(FileHandle(0), FopenFlags::empty(), &backing),
                    None => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
                },
            );
        } else if self.no_open {
            reply.error(Errno::ENOSYS);
        } else {
            reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
        }
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let size = size as usize;
        let mut readahead = Some(Arc::clone(&self.readahead));
        self.answer(
            req,
            ino,
            reply,
            move |view, _| {
                let readahead = readahead.take();
                let n = BUFFER.with_borrow_mut(|buffer| {
                    if buffer.len() < size {
                        buffer.resize(size, 0);
                    }
                    view.read(node(ino), offset, &mut buffer[..size])
                })?;
                if let (Some(readahead), 0) = (readahead, offset) {
                    readahead.asked(view, node(ino));
                }
                Ok(n)
            },
            |reply: ReplyData, n| BUFFER.with_borrow(|buffer| reply.data(&buffer[..n])),
        );
    }

    fn release(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        if let Some(passthrough) = &self.passthrough {
            passthrough.close(node(ino));
        }
        self.answer(req, ino, reply, |_, _| Ok(()), |reply: ReplyEmpty, ()| reply.ok());
    }

    fn lseek(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let whence = match whence {
            libc::SEEK_DATA => Whence::Data,
            libc::SEEK_HOLE => Whence::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        self.answer(
            req,
            ino,
            reply,
            move |view, _| view.seek(node(ino), offset, whence),
            |reply: ReplyLseek, found| match i64::try_from(found) {
                Ok(found) => reply.offset(found),
                Err(_) => reply.error(Errno::EOVERFLOW),
            },
        );
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let (handles, no_opendir) = (Arc::clone(&self.handles), self.no_opendir);
        self.answer(
            req,
            ino,
            reply,
            move |view, _| handles.open(view, node(ino)),
            move |reply: ReplyOpen, opening| match opening {
                Opening::Needless if no_opendir => reply.error(Errno::ENOSYS),
                Opening::Handle { handle, keep: false } => reply.opened(handle, FopenFlags::empty()),
                Opening::Handle { keep: true, .. } | Opening::Needless => {
                    reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR);
                }
            },
        );
    }

    fn readdir(&self, req: &Request, ino: INodeNo, handle: FileHandle, offset: u64, reply: ReplyDirectory) {
        let dir = self.handles.get(handle, node(ino));
        self.answer(
            req,
            ino,
            reply,
            move |view, reply: &mut ReplyDirectory| {
                view.read_dir(&dir, offset, &mut |entry| {
                    let name = OsStr::from_bytes(entry.name);
                    !reply.add(INodeNo(entry.node.0), entry.next, kind(entry.file_type), name)
                })
            },
            |reply, ()| reply.ok(),
        );
    }

    fn readdirplus(
        &self,
        req: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let dir = self.handles.get(handle, node(ino));
        let mut readahead = Some(Arc::clone(&self.readahead));
        self.answer(
            req,
            ino,
            reply,
            move |view, reply: &mut ReplyDirectoryPlus| {
                let readahead = readahead.take();
                let mut ended = true;
                view.read_dir_plus(&dir, offset, &mut |entry, found| {
                    ended = false;
                    let (number, name) = (INodeNo(entry.node.0), OsStr::from_bytes(entry.name));
                    !reply.add(number, entry.next, name, &ttl(found.certainty), &attr(found), GENERATION)
                })?;
                if let (Some(readahead), true) = (readahead, ended) {
                    readahead.listed(view, node(ino));
                }
                Ok(())
            },
            |reply, ()| reply.ok(),
        );
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.handles.close(handle);
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let space = self.view.space();
        reply.statfs(space.blocks, 0, 0, space.files, 0, space.block_size, space.name_max, space.block_size);
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.as_bytes().to_vec();
        self.answer(req, ino, reply, move |view, _| view.xattr(node(ino), &name), give_xattr(size));
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.answer(req, ino, reply, move |view, _| view.xattr_names(node(ino)), give_xattr(size));
    }

    fn access(&self, req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let access =
            Access { write: mask.contains(AccessFlags::W_OK), execute: mask.contains(AccessFlags::X_OK) };
        self.answer(
            req,
            ino,
            reply,
            move |view, _| view.access(node(ino), access),
            |reply: ReplyEmpty, ()| reply.ok(),
        );
    }

    // The kernel remembers each ENOSYS, does without, and asks no more.

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn bmap(&self, _req: &Request, _ino: INodeNo, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }

    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn getlk(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _owner: LockOwner,
        _start: u64,
        _end: u64,
        _typ: i32,
        _pid: u32,
        reply: ReplyLock,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn setlk(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _owner: LockOwner,
        _start: u64,
        _end: u64,
        _typ: i32,
        _pid: u32,
        _sleep: bool,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    // The kernel refuses every change on a read-only mount itself; these are for one that was remounted `rw`.

    fn setattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, _target: &Path, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn rename(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _newparent: INodeNo,
        _newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _req: &Request, _ino: INodeNo, _newparent: INodeNo, _newname: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn setxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }
}
