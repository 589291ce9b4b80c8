//! No symlink leads out while the tree behind it changes: real mounts, and names that the kernel was given earlier.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use imagefs::fuse::{self, SessionConfig, View, ViewMount, ViewOptions};
use imagefs::index::{DataFile, Filesystem, Grower, GrowingTree, Order, Timestamp};
use imagefs::tarfile::{Content, Entry, EntryKind};
use std::sync::Arc;

/// Each attack is a race with the kernel's cache.
const ROUNDS: usize = 100;

const OUTSIDE: &str = "a file of this machine\n";
const INSIDE: &[u8] = b"a file of the image\n";

fn entry(path: &str, kind: EntryKind) -> Entry {
    let (path, mtime) = (path.trim_matches('/').into(), Timestamp::default());
    Entry { path, kind, perm: 0o755, uid: 0, gid: 0, mtime, xattrs: Vec::new() }
}

fn directory(path: &str) -> Entry {
    entry(path, EntryKind::Directory)
}

fn symlink(path: &str, target: &str) -> Entry {
    entry(path, EntryKind::Symlink(target.into()))
}

fn hard_link(path: &str, target: &str) -> Entry {
    entry(path, EntryKind::HardLink(target.into()))
}

/// A file with all that is in the data file of these tests.
fn file(path: &str) -> Entry {
    let content = Content::Contiguous { at: 0 };
    entry(path, EntryKind::Regular { size: INSIDE.len() as u64, content })
}

fn data() -> DataFile {
    let file = tempfile::tempfile().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, INSIDE, 0).unwrap();
    DataFile::owned(file)
}

/// A file that no image must lead to, and where to mount.
struct Scene {
    _home: tempfile::TempDir,
    secret: PathBuf,
    mountpoint: PathBuf,
}

impl Scene {
    fn new() -> Scene {
        let home = tempfile::Builder::new().prefix("imagefs-stale-").tempdir().unwrap();
        let (secret, mountpoint) = (home.path().join("secret"), home.path().join("mnt"));
        fs::write(&secret, OUTSIDE).unwrap();
        fs::create_dir(&mountpoint).unwrap();
        Scene { _home: home, secret, mountpoint }
    }

    fn secret(&self) -> &str {
        self.secret.to_str().unwrap()
    }

    fn mount(&self, filesystem: Arc<Filesystem>, options: ViewOptions) -> fuse::Session {
        let view = View::new(mounts(filesystem), options).unwrap();
        fuse::mount(view, &SessionConfig::new(&self.mountpoint)).unwrap()
    }

    /// What a program reads there, if anything: a file of the image.
    #[track_caller]
    fn read(&self, path: &str) -> bool {
        match fs::read(self.mountpoint.join(path)) {
            Ok(content) => {
                assert_eq!(
                    String::from_utf8_lossy(&content),
                    String::from_utf8_lossy(INSIDE),
                    "{path} leads out"
                );
                true
            }
            Err(_) => false,
        }
    }
}

fn mounts(filesystem: Arc<Filesystem>) -> Vec<ViewMount> {
    vec![ViewMount { name: "rootfs".into(), destinations: Vec::new(), may_be_file: false, filesystem }]
}

/// As `ls -l` does.
fn list(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if let Ok(found) = fs::symlink_metadata(entry.path())
            && found.file_type().is_symlink()
        {
            assert_eq!(fs::read_link(entry.path()).unwrap().as_os_str().len() as u64, found.size());
        }
    }
}

fn stop(session: fuse::Session) {
    session.stopper().stop();
    session.wait().unwrap();
}

fn filling() -> (Arc<Filesystem>, Grower) {
    Filesystem::filling(Order::Any, data(), None)
}

fn put(grower: &Grower, entries: impl IntoIterator<Item = Entry>) {
    for entry in entries {
        grower.insert(entry).unwrap();
    }
    grower.confirm(INSIDE.len() as u64);
}

#[test]
fn a_link_whose_place_gets_deeper_stays_inside() {
    for round in 0..ROUNDS {
        let scene = Scene::new();
        let (filesystem, grower) = filling();
        let session = scene.mount(filesystem, ViewOptions::default());
        let deep = "q/".repeat(12);
        put(&grower, [file(scene.secret()), symlink(&format!("{deep}k"), scene.secret())]);
        if round % 2 == 0 {
            // The deep name has been answered before the one at the top is there.
            assert!(scene.read(&format!("rootfs/{deep}k")));
        }
        put(&grower, [hard_link("L2", &format!("{deep}k"))]);
        list_some(&scene.mountpoint.join("rootfs"), "L2");
        put(&grower, [file("L2")]);
        grower.finish().unwrap();
        for _ in 0..20 {
            scene.read("rootfs/L2");
            scene.read(&format!("rootfs/{deep}k"));
        }
        stop(session);
    }
}

/// What `ls -l` asks of one name, in a directory whose listing has not ended.
#[track_caller]
fn list_some(dir: &Path, name: &str) {
    let found = fs::symlink_metadata(dir.join(name)).unwrap();
    assert!(found.file_type().is_symlink());
    assert_eq!(fs::read_link(dir.join(name)).unwrap().as_os_str().len() as u64, found.size());
}

#[test]
fn a_name_that_was_a_link_and_becomes_a_directory_leads_nowhere_else() {
    for _ in 0..ROUNDS {
        let scene = Scene::new();
        let (filesystem, grower) = filling();
        let session = scene.mount(filesystem, ViewOptions::default());
        let n = 11;
        let target = format!("a/{}{}{}", "b/".repeat(n), "../".repeat(n + 2), &scene.secret()[1..]);
        put(&grower, [file(scene.secret()), directory("s"), symlink("s/b", "."), directory("d")]);
        put(&grower, [symlink("d/L", &target), symlink("d/k", "/s"), hard_link("d/a", "d/k")]);
        for name in ["a", "k"] {
            list_some(&scene.mountpoint.join("rootfs/d"), name);
        }
        assert!(fs::metadata(scene.mountpoint.join("rootfs/d/a/b")).is_ok());
        put(&grower, [directory("d/a"), directory(&format!("d/a/{}", "b/".repeat(n)))]);
        grower.finish().unwrap();
        let mut read = 0;
        for _ in 0..20 {
            read += usize::from(scene.read("rootfs/d/L"));
        }
        assert!(read > 0, "it leads to a file of the image");
        stop(session);
    }
}

fn finished(entries: impl IntoIterator<Item = Entry>) -> Arc<Filesystem> {
    let mut tree = GrowingTree::default();
    for entry in entries {
        tree.insert(entry).unwrap();
    }
    tree.finish().unwrap();
    Arc::new(Filesystem::new(Arc::new(tree), vec![data()]))
}

#[test]
fn names_of_two_snapshots_lead_nowhere_else_together() {
    let scene = Scene::new();
    let ups = Path::new(&scene.mountpoint).components().count() - 1;
    let names: Vec<String> = (0..ups).map(|i| format!("p{i}")).collect();
    let target = format!("{}/{}{}", names.join("/"), "../".repeat(ups), &scene.secret()[1..]);
    let link = || [file(scene.secret()), symlink("z", &target)];
    // The link stays inside by the one tree or by the other, and by neither where both are met.
    let deep = || finished(link().into_iter().chain([directory(&names.join("/"))]));
    let shallow = || finished(link().into_iter().chain(names.iter().map(|name| symlink(name, "."))));
    let session =
        scene.mount(deep(), ViewOptions { flat: true, replaceable: true, ..ViewOptions::default() });
    let notifier = session.notifier();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    scene.read("z");
                }
            });
        }
        for round in 0..ROUNDS {
            notifier.replace(mounts(if round % 2 == 0 { shallow() } else { deep() })).unwrap();
            list(&scene.mountpoint);
            std::thread::yield_now();
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(scene.read("z"));
    stop(session);
}
