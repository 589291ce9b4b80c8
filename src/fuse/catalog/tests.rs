use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::thread::{sleep, yield_now};
use std::time::Duration;

use super::*;
use crate::fuse::names::{Outline, SourceName};
use crate::fuse::operations::Operations;
use crate::fuse::testing::Builder;
use crate::fuse::view::{Attributes, View, ViewError, ViewMount, ViewOptions};
use crate::index::{Certainty, FileType};

/// Opens a source that has its key in `rootfs/key`; notes what was opened and what was dropped.
#[derive(Default)]
struct Engine {
    opened: Mutex<Vec<String>>,
    open: Arc<AtomicUsize>,
    flat: bool,
}

struct Held(Arc<AtomicUsize>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Provider for Engine {
    fn open(&self, key: &str) -> Result<OpenedSource, String> {
        self.opened.lock().unwrap().push(key.to_owned());
        if key == "broken" {
            return Err("the engine has lost it".to_owned());
        }
        let filesystem = Builder::new().dir("").file("key", key.as_bytes()).symlink("link", "/key").finish();
        let mount =
            ViewMount { name: "rootfs".into(), destinations: Vec::new(), may_be_file: false, filesystem };
        let options = ViewOptions {
            flat: self.flat,
            description: key.as_bytes().to_vec().into(),
            ..ViewOptions::default()
        };
        self.open.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let view = View::new(vec![mount], options).map_err(|e| e.to_string())?;
        Ok(OpenedSource { view, keep: Box::new(Held(Arc::clone(&self.open))) })
    }
}

fn source(key: &str, outline: Outline) -> SourceName {
    SourceName {
        key: key.to_owned(),
        mtime: Timestamp { secs: 7, nanos: 0 },
        outline,
        renewable: key.starts_with("c"),
    }
}

fn names(paths: &[(&str, &str)]) -> Directory {
    let mut names = Directory::default();
    for (path, key) in paths {
        let path: Vec<&[u8]> = path.split('/').map(str::as_bytes).collect();
        let outline = if key.starts_with('i') { Outline::RootAndDescription } else { Outline::Unknown };
        assert!(names.insert(&path, source(key, outline)));
    }
    names
}

struct Session {
    engine: Arc<Engine>,
    catalog: Catalog,
}

fn session(paths: &[(&str, &str)], flat: bool) -> Session {
    let engine = Arc::new(Engine { flat, ..Engine::default() });
    let provider: Arc<dyn Provider> = engine.clone();
    Session { catalog: Catalog::new(names(paths), provider, CatalogOptions::default()).unwrap(), engine }
}

/// Asks until there is an answer, as the waiting room does: again when the generation is another one.
fn answer<T>(
    catalog: &Catalog,
    node: Node,
    mut ask: impl FnMut() -> Result<T, ViewError>,
) -> Result<T, ViewError> {
    loop {
        let generation = catalog.generation(node);
        match ask() {
            Err(error) if error.is_not_yet() => {
                while catalog.generation(node) == generation {
                    let awaited = catalog.last_progress(node).is_some();
                    assert!(
                        awaited
                            || catalog.generation(node) != generation
                            || settles(catalog, node, generation)
                    );
                    yield_now();
                }
            }
            answer => return answer,
        }
    }
}

/// Whether an answer that has just come is told of: the generation follows it at once.
fn settles(catalog: &Catalog, node: Node, generation: u64) -> bool {
    for _ in 0..1000 {
        if catalog.generation(node) != generation {
            return true;
        }
        sleep(Duration::from_millis(1));
    }
    false
}

impl Session {
    fn look(&self, dir: Node, name: &str) -> Option<Attributes> {
        answer(&self.catalog, dir, || self.catalog.lookup(dir, name.as_bytes())).unwrap()
    }

    fn walk(&self, path: &str) -> Option<Attributes> {
        let mut found = None;
        let mut dir = Node::ROOT;
        for name in path.split('/') {
            found = self.look(dir, name);
            dir = found?.node;
        }
        found
    }

    fn read(&self, path: &str) -> String {
        let node = self.walk(path).unwrap().node;
        let mut buffer = [0; 64];
        let n = answer(&self.catalog, node, || self.catalog.read(node, 0, &mut buffer)).unwrap();
        String::from_utf8(buffer[..n].to_vec()).unwrap()
    }

    fn list(&self, dir: Node) -> Vec<(String, FileType, Node)> {
        let open = answer(&self.catalog, dir, || self.catalog.open_dir(dir)).unwrap();
        let mut found = Vec::new();
        let mut offset = 0;
        // One at a time, so that going on is tried as well.
        loop {
            let mut taken = false;
            answer(&self.catalog, dir, || {
                self.catalog.read_dir(&open, offset, &mut |entry| {
                    if taken {
                        return false;
                    }
                    taken = true;
                    offset = entry.next;
                    found.push((
                        String::from_utf8(entry.name.to_vec()).unwrap(),
                        entry.file_type,
                        entry.node,
                    ));
                    true
                })
            })
            .unwrap();
            if !taken {
                return found;
            }
        }
    }

    fn opened(&self) -> Vec<String> {
        self.engine.opened.lock().unwrap().clone()
    }

    fn forget(&self, path: &str, times: u64) {
        let node = self.walk(path).unwrap().node;
        self.catalog.forget(node, times + 1);
    }
}

fn plain(names: &[(String, FileType, Node)]) -> Vec<&str> {
    names.iter().map(|(name, _, _)| &**name).collect()
}

#[test]
fn listing_and_stat_open_nothing_that_is_known_from_outside() {
    let session = session(&[("images/a:1", "i1"), ("images/reg/b:1", "i2"), ("containers/web", "c1")], false);
    assert_eq!(plain(&session.list(Node::ROOT)), [".", "..", "containers", "images"]);
    let images = session.walk("images").unwrap();
    assert_eq!(
        (images.file_type, images.nlink, images.certainty),
        (FileType::Directory, 4, Certainty::Provisional)
    );
    assert_eq!(plain(&session.list(images.node)), [".", "..", "a:1", "reg"]);
    let a = session.walk("images/a:1").unwrap();
    assert_eq!(a.mtime.secs, 7, "when it was made, as the engine's list has it");
    assert_eq!(plain(&session.list(a.node)), [".", "..", ".imagefs.json", "rootfs"]);
    assert_eq!(session.walk("images/a:1/rootfs").unwrap().file_type, FileType::Directory);
    assert_eq!(session.walk("images/a:1/.imagefs.json").unwrap().size, 0, "not known yet");
    assert!(session.walk("images/a:1/.git").is_none());
    assert!(session.walk("containers/web").is_some());
    assert_eq!(session.opened(), [""; 0]);

    assert_eq!(
        plain(&session.list(session.walk("images/a:1/rootfs").unwrap().node)),
        [".", "..", "key", "link"]
    );
    assert_eq!(session.opened(), ["i1"]);
}

#[test]
fn what_is_inside_is_that_of_the_source_under_numbers_that_nobody_else_has() {
    let session = session(&[("images/a:1", "i1"), ("images/b:1", "i2"), ("containers/web", "c1")], false);
    for (path, key) in [("images/a:1", "i1"), ("images/b:1", "i2"), ("containers/web", "c1")] {
        assert_eq!(session.read(&format!("{path}/rootfs/key")), key);
        assert_eq!(session.read(&format!("{path}/.imagefs.json")), key);
        let link = session.walk(&format!("{path}/rootfs/link")).unwrap().node;
        assert_eq!(session.catalog.read_link(link).unwrap(), b"key", "as in a mount of its own");
        assert!(session.walk(&format!("{path}/rootfs/none")).is_none());
    }
    let mut nodes: Vec<Node> = ["images/a:1", "images/b:1", "containers/web"]
        .iter()
        .flat_map(|path| ["", "/rootfs", "/rootfs/key", "/.imagefs.json"].map(|rest| format!("{path}{rest}")))
        .map(|path| session.walk(&path).unwrap().node)
        .collect();
    nodes.sort_unstable();
    nodes.dedup();
    assert_eq!(nodes.len(), 12);
    // What a listing says is what a lookup finds.
    let top = session.walk("images/a:1").unwrap().node;
    for (name, _, node) in session.list(top) {
        let expected =
            if name.starts_with("..") || name == "." { top } else { session.look(top, &name).unwrap().node };
        assert_eq!(node, expected, "{name}");
    }
}

#[test]
fn several_names_of_one_source_open_it_once() {
    let session = session(&[("images/a:1", "i1"), ("images/a:latest", "i1")], false);
    assert_eq!(session.read("images/a:1/rootfs/key"), "i1");
    assert_eq!(session.read("images/a:latest/rootfs/key"), "i1");
    assert_ne!(session.walk("images/a:1").unwrap().node, session.walk("images/a:latest").unwrap().node);
    assert_eq!(session.opened(), ["i1"]);
}

#[test]
fn a_name_that_moved_leads_to_the_new_source_and_who_is_inside_stays() {
    let session = session(&[("images/a:1", "i1")], false);
    let inside = session.walk("images/a:1/rootfs").unwrap().node;
    assert_eq!(session.read("images/a:1/rootfs/key"), "i1");
    session.catalog.show(names(&[("images/a:1", "i2")]));
    assert_eq!(session.read("images/a:1/rootfs/key"), "i2");
    let old = session.look(inside, "key").unwrap().node;
    let mut buffer = [0; 8];
    assert_eq!(session.catalog.read(old, 0, &mut buffer).unwrap(), 2);
    assert_eq!(&buffer[..2], b"i1");
    session.catalog.show(names(&[("containers/web", "c1")]));
    assert!(session.walk("images").is_none(), "what is gone leaves no name");
    assert!(session.look(inside, "key").is_some());
}

#[test]
fn a_refresh_opens_again_what_can_change_and_nothing_else() {
    let session = session(&[("images/a:1", "i1"), ("containers/web", "c1")], false);
    for _ in 0..2 {
        assert_eq!(session.read("images/a:1/rootfs/key"), "i1");
        assert_eq!(session.read("containers/web/rootfs/key"), "c1");
        session.catalog.refresh();
    }
    assert_eq!(session.opened(), ["i1", "c1", "c1"]);
}

#[test]
fn what_nobody_uses_is_closed_once_the_kernel_has_let_go_of_it() {
    let session = session(&[("images/a:1", "i1"), ("images/b:1", "i2")], false);
    assert_eq!(session.read("images/a:1/rootfs/key"), "i1");
    let images = session.walk("images").unwrap().node;
    let idle = session.catalog.housekeep(Duration::ZERO, 10);
    assert_eq!(idle, [IdleName { dir: images, name: b"a:1".to_vec() }]);
    assert_eq!(session.catalog.usage().open, 1, "the kernel has nodes of it");
    assert_eq!(session.catalog.housekeep(Duration::from_secs(3600), 10), [], "it was used just now");
    assert_eq!(session.catalog.housekeep(Duration::from_secs(3600), 0).len(), 1, "it is one too many");
    // As the kernel does when it drops the name: each walk above gave each node once more.
    session.forget("images/a:1/rootfs/key", 1);
    session.forget("images/a:1/rootfs", 2);
    session.forget("images/a:1", 3);
    // The lookups on the way to these.
    let a = session.walk("images/a:1").unwrap().node;
    session.catalog.forget(a, 100);
    assert_eq!(session.catalog.housekeep(Duration::ZERO, 10), []);
    for _ in 0..1000 {
        if session.engine.open.load(std::sync::atomic::Ordering::SeqCst) == 0 {
            break;
        }
        sleep(Duration::from_millis(10));
    }
    assert_eq!(session.catalog.usage().open, 0);
    assert_eq!(session.engine.open.load(std::sync::atomic::Ordering::SeqCst), 0);
    assert_eq!(session.read("images/a:1/rootfs/key"), "i1", "and opened again");
}

#[test]
fn a_source_that_cannot_be_opened_is_an_error_inside_and_a_name_outside() {
    let session = session(&[("images/bad:1", "broken")], false);
    let bad = session.walk("images/bad:1").unwrap();
    assert_eq!(bad.file_type, FileType::Directory);
    let error =
        answer(&session.catalog, bad.node, || session.catalog.lookup(bad.node, b"rootfs")).unwrap_err();
    assert!(matches!(&error, ViewError::Unavailable(why) if why == "the engine has lost it"), "{error}");
    assert_eq!(session.opened(), ["broken"], "and not tried again at once");
    assert_eq!(session.catalog.failures(), ["broken: the engine has lost it"]);
}

#[test]
fn a_flat_source_stands_at_its_name() {
    let session = session(&[("volumes/v", "v1")], true);
    assert_eq!(session.read("volumes/v/key"), "v1");
    assert_eq!(plain(&session.list(session.walk("volumes/v").unwrap().node)), [".", "..", "key", "link"]);
}
