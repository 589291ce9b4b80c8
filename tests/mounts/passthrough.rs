//! Files that the kernel reads itself.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use imagefs::fuse::ViewOptions;
use imagefs::index::{DataFile, ExternalRuns, Ino, Run, Segment};

use super::support::*;
use crate::support::kernel_passes_through;

/// A directory whose file `big` stands in a file of its own, and a session that shows it.
struct Passed {
    fixture: Fixture,
    own: File,
    live: Live,
}

impl Passed {
    /// `script` makes `big`, and whatever else there is to be.
    #[track_caller]
    fn new(script: &str) -> Passed {
        let fixture = Fixture::new(script);
        let plain = fixture.filesystem();
        let ino = plain.tree().lookup(Ino::ROOT, b"big").unwrap().unwrap();
        let Segment::Data { at, len } = plain.tree().segment(ino, 0).unwrap() else { panic!("it is empty") };
        let own = tempfile::tempfile().unwrap();
        own.write_all_at(&fs::read(fixture.original.join("big")).unwrap(), 0).unwrap();
        // Beside the archive without these bytes.
        let tar = fs::read(&fixture.tar).unwrap();
        let rest = tempfile::tempfile().unwrap();
        rest.write_all_at(&tar[..at as usize], 0).unwrap();
        rest.write_all_at(&tar[(at + len) as usize..], at).unwrap();
        let external = ExternalRuns::default();
        assert!(external.add(Run { at, len }, own.try_clone().unwrap()));
        let filesystem = filesystem_of(&fixture.tar, DataFile::parted(rest, external));
        let live = Live::start(view(filesystem, ViewOptions::default()), &fixture.config()).unwrap();
        Passed { fixture, own, live }
    }

    fn path(&self) -> PathBuf {
        self.fixture.mountpoint.join("rootfs/big")
    }

    fn wanted(&self) -> Vec<u8> {
        fs::read(self.fixture.original.join("big")).unwrap()
    }

    /// Whether what is read of an open file is what stands on the disk, and not what the kernel was told once.
    fn is_passed(&self, file: &File) -> bool {
        let mut byte = [0];
        file.read_exact_at(&mut byte, 77).unwrap();
        let other = [!byte[0]];
        self.own.write_all_at(&other, 77).unwrap();
        let mut seen = [0];
        file.read_exact_at(&mut seen, 77).unwrap();
        self.own.write_all_at(&byte, 77).unwrap();
        seen == other
    }
}

const BIG: &str = "head -c 4200001 /dev/urandom > big; echo small > small; chmod 600 big";

#[test]
fn a_large_file_is_read_from_its_own_in_every_way() {
    let passed = Passed::new(BIG);
    let (path, wanted) = (passed.path(), passed.wanted());
    let file = File::open(&path).unwrap();
    assert_eq!(passed.is_passed(&file), kernel_passes_through(&passed.fixture.original));
    assert!(fs::read(&path).unwrap() == wanted);

    // SAFETY: nobody can change a file of a read-only mount.
    let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    assert!(map[..] == wanted[..]);

    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
    let mut read = Vec::new();
    // SAFETY: as above; what is read into has to be aligned, as a map is.
    let mut room = memmap2::MmapMut::map_anon(1 << 20).unwrap();
    while read.len() < wanted.len() {
        let n = direct.read_at(&mut room, read.len() as u64).unwrap();
        read.extend_from_slice(&room[..n]);
    }
    assert!(read == wanted);
    assert_eq!(direct.read_at(&mut room, (wanted.len() as u64).next_multiple_of(4096)).unwrap(), 0);

    let sent = tempfile::tempfile().unwrap();
    assert_eq!(rustix::fs::sendfile(&sent, &file, None, 1000).unwrap(), 1000);
    assert_eq!(fs::read(passed.fixture.mountpoint.join("rootfs/small")).unwrap(), b"small\n");
    assert!(OpenOptions::new().write(true).open(&path).is_err());
    passed.live.stop();
}

#[test]
fn a_large_file_keeps_its_attributes() {
    let passed = Passed::new(&format!("{BIG}; touch -d '1999-12-31 UTC' big"));
    let tell = || {
        let found = fs::metadata(passed.path()).unwrap();
        (found.mode(), found.uid(), found.size(), found.blocks(), found.mtime(), found.atime(), found.nlink())
    };
    let before = tell();
    assert_eq!((before.0 & 0o7777, before.2, before.4), (0o600, 4_200_001, 946_598_400));
    let mut file = File::open(passed.path()).unwrap();
    file.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(tell(), before);
    drop(file);
    assert_eq!(tell(), before);
    passed.live.stop();
}

#[test]
fn a_large_file_can_be_opened_often_and_closed_in_any_order() {
    let passed = Passed::new(BIG);
    let wanted = passed.wanted();
    let open = || File::open(passed.path()).unwrap();
    let is_whole = |file: &File| {
        let mut end = [0; 100];
        file.read_exact_at(&mut end, wanted.len() as u64 - 100).unwrap();
        end[..] == wanted[wanted.len() - 100..]
    };
    let (first, second) = (open(), open());
    drop(first);
    let third = open();
    assert!(is_whole(&second) && is_whole(&third));
    drop(second);
    assert!(is_whole(&third));
    drop(third);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..2500).for_each(|_| assert!(is_whole(&open()))));
        }
    });
    // What was mapped outlives its descriptor.
    // SAFETY: nobody can change a file of a read-only mount.
    let map = unsafe { memmap2::Mmap::map(&open()) }.unwrap();
    assert!(is_whole(&open()));
    assert!(map[..] == wanted[..]);
    drop(map);
    passed.live.stop();
}

#[test]
fn where_large_files_are_not_what_matters_no_file_is_opened() {
    let passed = Passed::new(&format!("{BIG}; seq 2000 | xargs touch"));
    assert!(!passed.is_passed(&File::open(passed.path()).unwrap()));
    assert!(fs::read(passed.path()).unwrap() == passed.wanted());
    passed.live.stop();
}

#[test]
fn a_large_program_runs_from_its_own_file() {
    let passed = Passed::new("cp /usr/bin/env big; truncate -s +2M big; chmod 755 big");
    assert_eq!(shell("rootfs/big printf works", &passed.fixture.mountpoint), "works");
    passed.live.stop();
}
