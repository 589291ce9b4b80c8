//! A stream that a test lets come piece by piece, and a session that shows what has come.

use std::fs::File;
use std::io::{Cursor, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use imagefs::fuse::{self, End, SessionConfig, SessionError, Stopper, View, ViewMount, ViewOptions};
use imagefs::index::{
    DataFile, Demand, DemandSender, Filesystem, Grower, Index, Order, Timestamp, write_index,
};
use imagefs::tarfile::{Content, Entry, EntryKind};

const IDENTITY: [u8; 32] = [1; 32];

/// What a path is.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    Directory,
    File(Vec<u8>),
    Symlink(String),
    /// A hard link to an earlier path.
    Link(String),
}

/// Fills a filesystem as a tar stream would: a file's bytes come after its header, and count once the next
/// header has come.
pub struct Stream {
    pub filesystem: Arc<Filesystem>,
    pub grower: Grower,
    data: File,
    end: u64,
}

impl Stream {
    pub fn new() -> Stream {
        Stream::make(Order::DepthFirst, None)
    }

    pub fn of_unknown_order() -> Stream {
        Stream::make(Order::Any, None)
    }

    /// One whose reader is asked for what has not come.
    pub fn with_wishes() -> (Stream, Receiver<Demand>) {
        let (wishes, wished) = sync_channel(64);
        let stream = Stream::make(Order::DepthFirst, Some(wishes));
        stream.grower.spool_in(tempfile::tempfile().unwrap());
        (stream, wished)
    }

    fn make(order: Order, wishes: Option<DemandSender>) -> Stream {
        let data = tempfile::tempfile().unwrap();
        let readable = DataFile::owned(data.try_clone().unwrap());
        let (filesystem, grower) = Filesystem::filling(order, readable, wishes);
        Stream { filesystem, grower, data, end: 0 }
    }

    /// Brings one entry.
    pub fn put(&mut self, path: &str, what: &What) {
        self.grower.confirm(self.end);
        self.grower.insert(entry(path, what, self.end)).unwrap();
        if let What::File(bytes) = what {
            self.data.write_all(bytes).unwrap();
            self.end += bytes.len() as u64;
        }
    }

    /// How many bytes have come.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The stream has ended well: goes over to the index.
    pub fn finish(self) {
        self.grower.finish().unwrap();
        let mut index = Cursor::new(Vec::new());
        self.grower.with_tree(|tree| write_index(tree, &IDENTITY, &mut index)).unwrap();
        let index = Index::new(index.into_inner(), &IDENTITY).unwrap();
        self.grower.complete(Arc::new(index), vec![DataFile::owned(self.data)]);
    }
}

/// An entry with attributes that follow from its path, so that they can be checked.
pub fn entry(path: &str, what: &What, at: u64) -> Entry {
    let kind = match what {
        What::Directory => EntryKind::Directory,
        What::File(bytes) => {
            EntryKind::Regular { size: bytes.len() as u64, content: Content::Contiguous { at } }
        }
        What::Symlink(target) => EntryKind::Symlink(target.as_bytes().to_vec()),
        What::Link(target) => EntryKind::HardLink(target.as_bytes().to_vec()),
    };
    let number = path.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    Entry {
        path: path.as_bytes().to_vec(),
        kind,
        perm: 0o500 | (number & 0o077) as u16,
        uid: number % 70_000,
        gid: number % 60_000,
        mtime: Timestamp { secs: number.into(), nanos: number % 1_000_000_000 },
        xattrs: Vec::new(),
    }
}

/// A session that shows one filesystem at its mountpoint.
pub struct Live {
    home: tempfile::TempDir,
    stopper: Stopper,
    waiting: Option<JoinHandle<Result<End, SessionError>>>,
}

impl Live {
    /// `name` is what the log calls the mount.
    pub fn start(stream: &Stream, name: &str, timeout: Duration) -> Live {
        let home = tempfile::Builder::new().prefix("imagefs-lazy-").tempdir().unwrap();
        let filesystem = Arc::clone(&stream.filesystem);
        let mount = ViewMount { name: name.into(), destinations: Vec::new(), may_be_file: false, filesystem };
        let view = View::new(vec![mount], ViewOptions { flat: true, ..ViewOptions::default() }).unwrap();
        let config = SessionConfig { timeout, ..SessionConfig::new(home.path()) };
        let session = fuse::mount(view, &config).unwrap();
        let stopper = session.stopper();
        Live { home, stopper, waiting: Some(std::thread::spawn(move || session.wait())) }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.home.path().join(path)
    }

    #[track_caller]
    pub fn stop(mut self) -> End {
        self.stopper.stop();
        self.waiting.take().unwrap().join().unwrap().unwrap()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(waiting) = self.waiting.take() {
            let _ = waiting.join();
        }
    }
}

/// Numbers that look random and are the same in every run.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % limit as u64) as usize
    }
}
