//! Mounts that are used while they are being filled. They need root and `/dev/fuse`.

mod random;
mod stream;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::Duration;

use imagefs::fuse::End;
use imagefs::index::{BriefStat, Demand, FileType, Grower, Incoming};
use imagefs::tarfile::Entry;
use rustix::fs::{Mode, OFlags, RawDir};

use self::stream::{Live, Stream, What, entry};
use crate::support::wait_until;

/// Long enough that nobody gives up in a test in which nobody should.
const PATIENCE: Duration = Duration::from_secs(120);

fn file(size: usize) -> What {
    What::File((0..size).map(|i| (i * 7 + i / 251) as u8).collect())
}

fn bytes(what: &What) -> &[u8] {
    match what {
        What::File(bytes) => bytes,
        _ => panic!("no file"),
    }
}

fn names(dir: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().into_string().unwrap();
        assert!(names.insert(name.clone()), "{name} is listed twice");
    }
    Ok(names)
}

fn error<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// What this process has logged about `what`.
fn log(what: &str) -> Vec<String> {
    static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    static BEGIN: Once = Once::new();
    struct Writer;
    impl Write for Writer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            LOG.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    BEGIN.call_once(|| tracing_subscriber::fmt().with_ansi(false).with_writer(|| Writer).init());
    let log = LOG.lock().unwrap_or_else(PoisonError::into_inner).clone();
    String::from_utf8(log).unwrap().lines().filter(|line| line.contains(what)).map(str::to_owned).collect()
}

#[test]
fn what_has_not_come_is_waited_for_and_what_has_come_is_not() {
    let mut stream = Stream::new();
    let (early, late) = (file(3000), file(300_000));
    stream.put("a", &What::Directory);
    stream.put("a/early", &early);
    stream.put("a/late", &late);
    let live = Live::start(&stream, "rootfs", PATIENCE);
    let (sender, answers) = channel();
    let later: Vec<_> = ["a/late", "b/last"].map(|path| live.path(path)).into();
    let (absent, dir) = (live.path("a/absent"), live.path("a"));
    thread::scope(|scope| {
        for path in &later {
            let sender = sender.clone();
            scope.spawn(move || sender.send(fs::read(path).unwrap()).unwrap());
        }
        let list = scope.spawn(|| names(&dir).unwrap());
        let miss = scope.spawn(|| error(fs::metadata(&absent)));
        assert_eq!(fs::read(live.path("a/early")).unwrap(), bytes(&early));
        assert_eq!(fs::metadata(live.path("a/late")).unwrap().len(), 300_000);
        assert!(answers.recv_timeout(Duration::from_millis(100)).is_err(), "nothing of it has come");
        assert!(!list.is_finished() && !miss.is_finished());
        // The walk leaves the directory: it is complete, and so are the bytes before.
        stream.put("b", &What::Directory);
        assert_eq!(answers.recv().unwrap(), bytes(&late));
        assert_eq!(list.join().unwrap(), ["early", "late"].map(String::from).into());
        assert_eq!(miss.join().unwrap(), Some(libc::ENOENT));
        stream.put("b/last", &early);
        stream.finish();
        assert_eq!(answers.recv().unwrap(), bytes(&early));
    });
    assert_eq!(live.stop(), End::Stopped);
}

/// Reads a little of an open directory.
fn read_some(dir: &impl std::os::fd::AsFd) -> Vec<String> {
    let mut buffer = [MaybeUninit::uninit(); 512];
    let mut entries = RawDir::new(dir, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let name = String::from_utf8(entry.unwrap().file_name().to_bytes().to_vec()).unwrap();
        names.push(name);
        if entries.is_buffer_empty() {
            break;
        }
    }
    names
}

#[test]
fn a_listing_neither_misses_nor_repeats_a_name_when_the_mount_goes_over_to_its_index() {
    let mut stream = Stream::new();
    // An index lists by name, the stream does not.
    let all: Vec<String> = (0..900).map(|i| format!("name-{:03}", i * 7 % 900)).collect();
    stream.put("d", &What::Directory);
    for name in &all[..500] {
        stream.put(&format!("d/{name}"), &file(1));
    }
    let live = Live::start(&stream, "rootfs", PATIENCE);
    let open =
        || rustix::fs::open(live.path("d"), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let (dir, begun) = (open(), open());
    let mut listed = read_some(&dir);
    assert!(listed.len() < 500, "the kernel has not taken all");
    let mut listed_after = Vec::new();
    for name in &all[500..] {
        stream.put(&format!("d/{name}"), &file(1));
    }
    stream.finish();
    for (dir, listed) in [(&dir, &mut listed), (&begun, &mut listed_after), (&open(), &mut Vec::new())] {
        loop {
            let more = read_some(dir);
            if more.is_empty() {
                break;
            }
            listed.extend(more);
        }
        let mut sorted: Vec<&String> = listed.iter().filter(|name| !name.starts_with('.')).collect();
        sorted.sort();
        let mut expected: Vec<&String> = all.iter().collect();
        expected.sort();
        assert_eq!(sorted, expected);
    }
    // What the kernel keeps of it is whole.
    for _ in 0..3 {
        assert_eq!(names(&live.path("d")).unwrap(), all.iter().cloned().collect());
    }
}

#[test]
fn a_stalled_stream_is_an_error_after_the_timeout_and_no_longer_once_it_goes_on() {
    assert_eq!(log("stalled-mount"), [""; 0]);
    let mut stream = Stream::new();
    stream.put("came", &file(10));
    stream.put("coming", &file(100_000));
    let live = Live::start(&stream, "stalled-mount", Duration::from_millis(300));
    assert_eq!(error(fs::metadata(live.path("later"))), Some(libc::EIO));
    assert_eq!(error(fs::read(live.path("coming"))), Some(libc::EIO));
    assert_eq!(error(names(&live.path(""))), Some(libc::EIO));
    assert!(wait_until(|| log("stalled-mount").len() >= 3));
    let log = log("stalled-mount");
    assert!(
        log.iter().all(|line| line.contains("ERROR") && line.contains("nothing came for 300ms")),
        "{log:?}"
    );
    assert_eq!(fs::read(live.path("came")).unwrap(), bytes(&file(10)));

    stream.put("later", &file(20));
    assert_eq!(fs::read(live.path("coming")).unwrap(), bytes(&file(100_000)));
    stream.finish();
    assert_eq!(fs::read(live.path("later")).unwrap(), bytes(&file(20)));
    assert_eq!(names(&live.path("")).unwrap().len(), 3);
}

#[test]
fn a_moving_stream_is_waited_for_longer_than_the_timeout() {
    let mut stream = Stream::new();
    // On a busy machine a pause may take much longer than it should.
    let live = Live::start(&stream, "rootfs", Duration::from_secs(3));
    let path = live.path("last");
    let waiting = thread::spawn(move || fs::read(path));
    for _ in 0..80 {
        thread::sleep(Duration::from_millis(50));
        stream.grower.alive();
    }
    stream.put("last", &file(5));
    stream.finish();
    assert_eq!(waiting.join().unwrap().unwrap(), bytes(&file(5)));
}

#[test]
fn a_thousand_that_wait_keep_nobody_else_waiting() {
    const WAITING: usize = 500;
    // Large ones are read ahead in the background, of which the kernel does only so much at a time.
    let (large, small) = (file(600_000), file(50));
    let coming = |i: usize| if i.is_multiple_of(5) { &large } else { &small };
    let mut stream = Stream::new();
    for i in 0..20 {
        stream.put(&format!("came-{i}"), &large);
    }
    let confirmed = stream.end();
    for i in 0..WAITING {
        stream.put(&format!("coming-{i}"), coming(i));
        // Their headers have come, their bytes have not.
        stream.grower.confirm(confirmed);
    }
    let live = Live::start(&stream, "rootfs", PATIENCE);
    let started = AtomicUsize::new(0);
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..2 * WAITING)
            .map(|i| {
                let name = if i % 2 == 0 { "coming" } else { "later" };
                let (path, started) = (live.path(&format!("{name}-{}", i / 2)), &started);
                scope.spawn(move || {
                    started.fetch_add(1, Ordering::SeqCst);
                    fs::read(path).unwrap()
                })
            })
            .collect();
        assert!(wait_until(|| started.load(Ordering::SeqCst) == 2 * WAITING));
        thread::sleep(Duration::from_millis(200));
        for i in 0..20 {
            assert!(fs::read(live.path(&format!("came-{i}"))).unwrap() == bytes(&large));
        }
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
        for i in 0..WAITING {
            stream.put(&format!("later-{i}"), coming(i));
        }
        stream.finish();
        for (i, waiting) in waiting.into_iter().enumerate() {
            assert!(waiting.join().unwrap() == bytes(coming(i / 2)), "{i}");
        }
    });
    assert_eq!(live.stop(), End::Stopped);
}

#[test]
fn a_stream_that_is_lost_leaves_what_had_come() {
    let mut stream = Stream::new();
    stream.put("whole", &What::Directory);
    stream.put("whole/file", &file(5000));
    stream.put("whole/link", &What::Symlink("file".into()));
    stream.put("part", &What::Directory);
    stream.put("part/came", &file(10));
    stream.put("part/cut", &file(10));
    let live = Live::start(&stream, "rootfs", PATIENCE);
    let waiting: Vec<_> = ["part/never", "part/cut"]
        .map(|path| live.path(path))
        .map(|path| thread::spawn(move || error(fs::read(path))))
        .into();
    thread::sleep(Duration::from_millis(50));
    stream.grower.lose();
    for waiting in waiting {
        assert_eq!(waiting.join().unwrap(), Some(libc::EIO));
    }
    assert_eq!(error(fs::metadata(live.path("never"))), Some(libc::EIO));
    assert_eq!(error(fs::metadata(live.path("whole/absent"))), Some(libc::ENOENT));
    assert_eq!(names(&live.path("whole")).unwrap(), ["file", "link"].map(String::from).into());
    assert_eq!(fs::read(live.path("whole/link")).unwrap(), bytes(&file(5000)));
    assert_eq!(fs::read(live.path("part/came")).unwrap(), bytes(&file(10)));
    // Its names are told, and then that there were more.
    let mut listing = fs::read_dir(live.path("part")).unwrap();
    let mut told = BTreeSet::new();
    let end = loop {
        match listing.next() {
            Some(Ok(entry)) => assert!(told.insert(entry.file_name().as_bytes().to_vec())),
            Some(Err(error)) => break error.raw_os_error(),
            None => break None,
        }
    };
    assert_eq!((told.len(), end), (2, Some(libc::EIO)));
}

#[test]
fn the_end_of_a_session_waits_for_nobody_who_waits() {
    let mut stream = Stream::new();
    stream.put("coming", &file(100_000));
    let live = Live::start(&stream, "rootfs", PATIENCE);
    let started = AtomicUsize::new(0);
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..100)
            .map(|i| {
                let path = live.path(if i % 2 == 0 { "coming" } else { "later" });
                let started = &started;
                scope.spawn(move || {
                    started.fetch_add(1, Ordering::SeqCst);
                    fs::read(path)
                })
            })
            .collect();
        assert!(wait_until(|| started.load(Ordering::SeqCst) == 100));
        thread::sleep(Duration::from_millis(100));
        let mountpoint = live.path("");
        assert_eq!(live.stop(), End::Stopped);
        for waiting in waiting {
            assert!(waiting.join().unwrap().is_err());
        }
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(mountpoint.to_str().unwrap().trim_end_matches('/')));
    });
    drop(stream);
}

#[test]
fn a_path_that_was_fetched_alone_is_the_same_file_when_the_stream_brings_it() {
    let (mut stream, wished) = Stream::with_wishes();
    let grower = stream.grower.clone();
    let content = file(2000);
    let fetched = content.clone();
    // Whoever is asked for a path alone. Of a hard link it cannot tell that it is one.
    let daemon = thread::spawn(move || {
        let mut asked = Vec::new();
        for wish in wished {
            match &wish {
                Demand::Existence(path) if path == b"d" => {
                    let mtime = entry("d", &What::Directory, 0).mtime;
                    grower.found(
                        path,
                        BriefStat { file_type: FileType::Directory, perm: 0o755, size: 0, mtime },
                    );
                }
                Demand::Existence(path) if path == b"d/first" || path == b"d/link" => {
                    let Entry { perm, mtime, .. } = entry("d/first", &fetched, 0);
                    grower.found(path, BriefStat { file_type: FileType::Regular, perm, size: 2000, mtime });
                }
                Demand::Existence(path) => grower.absent(path),
                Demand::Header(path) | Demand::Target(path) | Demand::Content(path) => {
                    grower.header(path, entry("d/first", &fetched, 0));
                    if let Some(mut incoming) = grower.content(path, 2000) {
                        incoming.write_all(bytes(&fetched)).unwrap();
                    }
                }
            }
            asked.push(wish);
        }
        asked
    });
    let live = Live::start(&stream, "rootfs", PATIENCE);
    assert_eq!(error(fs::metadata(live.path("d/absent"))), Some(libc::ENOENT));
    // One is read before the stream brings it, the other is held open.
    let first = fs::metadata(live.path("d/first")).unwrap();
    assert_eq!(fs::read(live.path("d/first")).unwrap(), bytes(&content));
    let link = fs::File::open(live.path("d/link")).unwrap();
    let expected = entry("d/first", &content, 0);
    let owner = |m: &fs::Metadata| (m.uid(), m.gid(), m.mode() as u16 & 0o7777);
    assert_eq!(owner(&first), (expected.uid, expected.gid, expected.perm));
    assert_ne!(link.metadata().unwrap().ino(), first.ino(), "nobody can know yet that it is the same");

    stream.put("d", &What::Directory);
    stream.put("d/first", &content);
    stream.put("d/link", &What::Link("d/first".into()));
    stream.grower.confirm(stream.end());
    let check = || {
        let (a, b) = ["d/first", "d/link"].map(|path| fs::metadata(live.path(path)).unwrap()).into();
        assert_eq!((a.ino(), b.ino()), (first.ino(), first.ino()));
        let mut buffer = vec![0; 2000];
        link.read_exact_at(&mut buffer, 0).unwrap();
        assert_eq!(buffer, bytes(&content));
        assert_eq!(owner(&link.metadata().unwrap()), owner(&first));
    };
    check();
    stream.finish();
    check();
    assert!(wait_until(|| fs::metadata(live.path("d/link")).unwrap().nlink() == 2));
    assert_eq!(names(&live.path("d")).unwrap(), ["first", "link"].map(String::from).into());
    let asked = daemon.join().unwrap();
    let looks = asked.iter().filter(|wish| **wish == Demand::Existence(b"d/first".to_vec())).count();
    assert_eq!(looks, 1, "{asked:?}");
}

/// Answers wishes for the file `large` of `size` bytes; its bytes come by `give`.
fn serve_large(
    grower: &Grower,
    wished: Receiver<Demand>,
    what: &What,
    give: impl FnOnce(Incoming) + Send + 'static,
) -> thread::JoinHandle<()> {
    let (grower, entry) = (grower.clone(), entry("large", what, 0));
    let size = bytes(what).len() as u64;
    let mut give = Some(give);
    thread::spawn(move || {
        for wish in wished {
            let path = wish.path();
            match wish {
                Demand::Existence(_) => {
                    let Entry { perm, mtime, .. } = entry;
                    grower.found(path, BriefStat { file_type: FileType::Regular, perm, size, mtime });
                }
                Demand::Header(_) | Demand::Target(_) => grower.header(path, entry.clone()),
                Demand::Content(_) => {
                    give.take().expect("asked once")(grower.content(path, size).unwrap());
                }
            }
        }
    })
}

#[test]
fn a_file_that_is_fetched_alone_is_read_as_it_comes_and_stays_when_the_stream_is_lost() {
    let (mut stream, wished) = Stream::with_wishes();
    let large = file(3 << 20);
    let (first, second) = bytes(&large).split_at(2 << 20);
    let (first, second) = (first.to_vec(), second.to_vec());
    let (sender, go_on) = channel::<()>();
    let daemon = serve_large(&stream.grower, wished, &large, move |mut incoming| {
        incoming.write_all(&first).unwrap();
        go_on.recv().unwrap();
        incoming.write_all(&second).unwrap();
    });
    let live = Live::start(&stream, "rootfs", PATIENCE);
    let open = fs::File::open(live.path("large")).unwrap();
    let mut some = vec![0; 100_000];
    open.read_exact_at(&mut some, 1 << 20).unwrap();
    assert_eq!(some, bytes(&large)[1 << 20..][..100_000]);
    // The stream comes to the file, and not past it: it has no bytes of it to show.
    stream.put("large", &large);
    open.read_exact_at(&mut some, 1 << 19).unwrap();
    assert_eq!(some, bytes(&large)[1 << 19..][..100_000]);
    sender.send(()).unwrap();
    assert!(fs::read(live.path("large")).unwrap() == bytes(&large));
    stream.grower.lose();
    daemon.join().unwrap();
    assert!(fs::read(live.path("large")).unwrap() == bytes(&large));
    assert_eq!(error(fs::read(live.path("other"))), Some(libc::EIO));
}

#[test]
fn a_file_that_does_not_come_whole_is_left_to_the_stream() {
    let (mut stream, wished) = Stream::with_wishes();
    let large = file(2 << 20);
    let part = bytes(&large)[..1 << 20].to_vec();
    let (sender, given) = channel();
    let daemon = serve_large(&stream.grower, wished, &large, move |mut incoming| {
        incoming.write_all(&part).unwrap();
        drop(incoming);
        sender.send(()).unwrap();
    });
    let live = Live::start(&stream, "rootfs", PATIENCE);
    let path = live.path("large");
    let reading = thread::spawn(move || fs::read(path).unwrap());
    given.recv().unwrap();
    stream.put("large", &large);
    stream.finish();
    assert!(reading.join().unwrap() == bytes(&large));
    daemon.join().unwrap();
}

#[test]
fn a_symlink_stays_inside_when_a_name_nearer_to_the_root_turns_up() {
    let mut stream = Stream::new();
    stream.put("d", &What::Directory);
    stream.put("d/e", &What::Directory);
    stream.put("d/e/link", &What::Symlink("../../file".into()));
    let live = Live::start(&stream, "rootfs", PATIENCE);
    assert_eq!(fs::read_link(live.path("d/e/link")).unwrap(), Path::new("../../file"));
    stream.put("top", &What::Link("d/e/link".into()));
    assert_eq!(fs::read_link(live.path("top")).unwrap(), Path::new("file"));
    stream.put("z", &file(3));
    stream.finish();
    assert_eq!(fs::read_link(live.path("top")).unwrap(), Path::new("file"));
}

#[test]
fn link_counts_and_directories_are_right_in_the_end() {
    let mut stream = Stream::new();
    stream.put("d", &What::Directory);
    stream.put("d/first", &file(3));
    let live = Live::start(&stream, "rootfs", PATIENCE);
    let links = |path: &str| fs::metadata(live.path(path)).unwrap().nlink();
    assert_eq!((links("d/first"), links("d")), (1, 2));
    stream.put("d/sub", &What::Directory);
    stream.put("d/sub/link", &What::Link("d/first".into()));
    stream.finish();
    assert!(wait_until(|| (links("d/first"), links("d")) == (2, 3)));
}
