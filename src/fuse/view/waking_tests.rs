//! Whoever waits is woken: a request that had no answer, and has one now, sees another generation.
//!
//! A model drives every kind of request against mounts in every state: dormant, asked for, filling, complete, lost, taken
//! from the cache, and replaced.

use std::io::Cursor;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};

use super::*;
use crate::index::{BriefStat, DataFile, Demand, Grower, Index, Order, write_index};
use crate::tarfile::{Content, Entry, EntryKind};

struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn name(&mut self) -> &'static str {
        ["a", "b", "c"][self.below(3)]
    }

    fn path(&mut self) -> String {
        let names: Vec<&str> = (0..1 + self.below(2)).map(|_| self.name()).collect();
        names.join("/")
    }
}

#[derive(Clone, Copy, Debug)]
enum Request {
    Lookup(Node, &'static str),
    Attributes(Node),
    List(Node),
    ListWithAttributes(Node),
    ReadLink(Node),
    Read(Node),
    Seek(Node),
    Xattr(Node),
}

impl Request {
    fn node(self) -> Node {
        match self {
            Request::Lookup(node, _) | Request::Attributes(node) | Request::List(node) => node,
            Request::ListWithAttributes(node) | Request::ReadLink(node) | Request::Read(node) => node,
            Request::Seek(node) | Request::Xattr(node) => node,
        }
    }

    /// Whether there is an answer; what was found is added to `nodes`.
    fn ask(self, view: &View, nodes: &mut Vec<Node>) -> bool {
        let result = match self {
            Request::Lookup(dir, name) => view.lookup(dir, name.as_bytes()).map(|found| {
                nodes.extend(found.map(|found| found.node));
            }),
            Request::Attributes(node) => view.attributes(node).map(drop),
            Request::List(node) => view.read_dir(&view.open_dir(node), 2, &mut |_| true),
            Request::ListWithAttributes(node) => {
                view.read_dir_plus(&view.open_dir(node), 2, &mut |_, _| true)
            }
            Request::ReadLink(node) => view.read_link(node).map(drop),
            Request::Read(node) => view.read(node, 0, &mut [0; 8]).map(drop),
            Request::Seek(node) => view.seek(node, 0, Whence::Hole).map(drop),
            Request::Xattr(node) => view.xattr_names(node).map(drop),
        };
        !result.is_err_and(|error| error.is_not_yet())
    }
}

/// Somebody who waits, and the generation that he has asked in.
struct Waiting(Request, u64);

/// What is put into one filesystem.
struct Stream {
    grower: Grower,
    begun: bool,
    over: bool,
}

struct Model {
    numbers: Numbers,
    started: (Sender<Grower>, Receiver<Grower>),
    streams: Vec<Stream>,
    demands: Vec<Receiver<Demand>>,
}

impl Model {
    fn mounts(&mut self) -> Vec<ViewMount> {
        ["rootfs", "data"].into_iter().map(|name| self.mount(name)).collect()
    }

    fn mount(&mut self, name: &str) -> ViewMount {
        let demands = (self.numbers.below(2) == 0).then(|| {
            let (sender, demands) = sync_channel(64);
            self.demands.push(demands);
            sender
        });
        let data = || DataFile::owned(tempfile::tempfile().unwrap());
        let filesystem = match self.numbers.below(3) {
            0 => {
                let (filesystem, grower) = Filesystem::filling(Order::DepthFirst, data(), demands);
                self.streams.push(Stream { grower, begun: false, over: false });
                filesystem
            }
            _ => {
                let started = self.started.0.clone();
                Filesystem::dormant(Order::DepthFirst, demands, move |grower| started.send(grower).unwrap())
            }
        };
        let destinations = (name != "rootfs").then(|| format!("/{name}").into()).into_iter().collect();
        ViewMount { name: name.into(), destinations, may_be_file: name != "rootfs", filesystem }
    }

    /// Something happens to one of the filesystems.
    fn happen(&mut self) {
        while let Ok(grower) = self.started.1.try_recv() {
            if self.numbers.below(2) == 0 {
                grower.store_in(DataFile::owned(tempfile::tempfile().unwrap()));
            }
            self.streams.push(Stream { grower, begun: false, over: false });
        }
        if self.streams.is_empty() {
            return;
        }
        let numbers = &mut self.numbers;
        let at = numbers.below(self.streams.len());
        let Stream { grower, begun, over } = &mut self.streams[at];
        if *over {
            return;
        }
        let mtime = Timestamp::default();
        let entry = |path: String, kind| Entry {
            path: path.into(),
            kind,
            perm: 0o755,
            uid: 0,
            gid: 0,
            mtime,
            xattrs: Vec::new(),
        };
        match numbers.below(12) {
            0 => {
                grower.lose();
                *over = true;
            }
            1 if !*begun => {
                grower.replace(index(grower), vec![DataFile::owned(tempfile::tempfile().unwrap())]);
                *over = true;
            }
            2 => {
                *over = true;
                match grower.finish() {
                    Err(_) => grower.lose(),
                    Ok(()) if numbers.below(2) == 0 => {
                        grower.complete(index(grower), vec![DataFile::owned(tempfile::tempfile().unwrap())]);
                    }
                    Ok(()) => {}
                }
            }
            3 => grower.absent(numbers.path().as_bytes()),
            4 => {
                let file_type = [FileType::Directory, FileType::Symlink, FileType::Regular][numbers.below(3)];
                let brief = BriefStat { file_type, perm: 0o755, size: 0, mtime };
                grower.found(numbers.path().as_bytes(), brief);
            }
            5 => {
                let path = numbers.path();
                grower.header(path.clone().as_bytes(), entry(path, EntryKind::Symlink(b"/data/x".to_vec())));
            }
            6 => grower.confirm(1 << 20),
            _ => {
                *begun = true;
                let kind = match numbers.below(5) {
                    0 => EntryKind::Regular { size: 8, content: Content::Contiguous { at: 0 } },
                    1 => EntryKind::Symlink(format!("{}/../{}", numbers.name(), numbers.name()).into()),
                    2 => EntryKind::Symlink(format!("/data/{}", numbers.name()).into()),
                    3 => EntryKind::HardLink(numbers.path().into()),
                    _ => EntryKind::Directory,
                };
                let path = if numbers.below(4) == 0 { String::new() } else { numbers.path() };
                let kind = if path.is_empty() { EntryKind::Directory } else { kind };
                if grower.insert(entry(path, kind)).is_err() {
                    grower.lose();
                    *over = true;
                }
            }
        }
    }
}

fn index(grower: &Grower) -> Arc<Index<Vec<u8>>> {
    let mut written = Cursor::new(Vec::new());
    grower.with_tree(|tree| write_index(tree, &[0; 32], &mut written).unwrap());
    Arc::new(Index::new(written.into_inner(), &[0; 32]).unwrap())
}

#[test]
fn whoever_waits_is_woken_by_what_brings_the_answer() {
    let mut woken = 0;
    for seed in 1..=300 {
        let started = channel();
        let numbers = Numbers(seed * 0x9E37_79B9);
        let mut model = Model { numbers, started, streams: Vec::new(), demands: Vec::new() };
        let flat = seed % 3 == 0;
        let options = ViewOptions { flat, replaceable: true, ..ViewOptions::default() };
        let view = View::new(model.mounts(), options).unwrap();
        let mut nodes = vec![Node::ROOT];
        let mut waiting: Vec<Waiting> = Vec::new();
        for _ in 0..200 {
            let node = nodes[model.numbers.below(nodes.len())];
            let name = match node {
                Node::ROOT if !flat => ["rootfs", "data", "absent"][model.numbers.below(3)],
                _ => model.numbers.name(),
            };
            let request = match model.numbers.below(12) {
                0..4 => Request::Lookup(node, name),
                4 => Request::List(node),
                5 => Request::ListWithAttributes(node),
                6 => Request::ReadLink(node),
                7 => Request::Read(node),
                8 => Request::Seek(node),
                9 => Request::Xattr(node),
                _ => Request::Attributes(node),
            };
            let generation = view.generation(node);
            if !request.ask(&view, &mut nodes) {
                waiting.push(Waiting(request, generation));
            }
            match model.numbers.below(60) {
                0 => drop(view.replace(model.mounts()).unwrap()),
                _ => model.happen(),
            }
            // As the waiting room does it, but that here also those are asked for whom nothing has changed.
            waiting.retain_mut(|Waiting(request, asked)| {
                let generation = view.generation(request.node());
                let answered = request.ask(&view, &mut nodes);
                assert!(!answered || generation != *asked, "seed {seed}: nobody wakes {request:?}");
                woken += usize::from(answered);
                *asked = generation;
                let progress = view.last_progress(request.node());
                assert!(answered || progress.is_some(), "seed {seed}: {request:?} waits for nothing");
                !answered
            });
            // A name in the top directory is never waited for: nobody could look up any other.
            assert!(flat || !waiting.iter().any(|w| matches!(w.0, Request::Lookup(Node::ROOT, _))), "{seed}");
        }
    }
    assert!(woken > 1_000, "only {woken} were woken");
}
