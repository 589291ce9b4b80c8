//! No symlink leads out of its mount, however the kernel gets to it.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use imagefs::fuse::{self, SessionConfig, View, ViewMount, ViewOptions};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::support::*;

/// Where a path leads when all its symlinks are followed, as an absolute path of this machine.
fn lands(root: impl AsFd, path: &Path, resolve: ResolveFlags) -> Result<PathBuf, Errno> {
    let found = rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&found);
    Ok(std::fs::read_link(format!("/proc/self/fd/{number}")).unwrap())
}

fn symlinks_beneath(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut ahead = vec![root.to_owned()];
    while let Some(dir) = ahead.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => ahead.push(entry.path()),
                kind if kind.is_symlink() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Fills `root` with directories, files and symlinks between them, most of which climb.
fn tangle(root: &Path, seed: u64) {
    let mut numbers = Numbers(seed);
    let dirs = ["", "a", "a/b", "a/b/c", "a/b/c/d", "b", "b/a", "c", "c/c"];
    for dir in &dirs[1..] {
        std::fs::create_dir(root.join(dir)).unwrap();
        std::fs::write(root.join(dir).join("f"), dir).unwrap();
    }
    for i in 0..60 {
        let mut target = String::new();
        if numbers.below(4) == 0 {
            target.push('/');
        }
        for _ in 0..1 + numbers.below(7) {
            let link = format!("l{}", numbers.below(60));
            let parts = ["..", "..", "..", "a", "b", "c", "f", ".", link.as_str(), link.as_str()];
            target.push_str(parts[numbers.below(parts.len())]);
            target.push('/');
        }
        let target = target.trim_end_matches('/');
        let target = if target.is_empty() { "/" } else { target };
        let path = root.join(dirs[numbers.below(dirs.len())]).join(format!("l{i}"));
        std::os::unix::fs::symlink(target, &path).unwrap();
        if numbers.below(8) == 0 {
            let second = root.join(dirs[numbers.below(dirs.len())]).join(format!("h{i}"));
            rustix::fs::linkat(CWD, &path, CWD, &second, AtFlags::empty()).unwrap();
        }
    }
}

/// Compares the mount with what the kernel finds in the original when that is its root (`RESOLVE_IN_ROOT`).
#[test]
fn a_symlink_leads_where_it_leads_inside_the_container_or_nowhere() {
    let (mut compared, mut several) = (0, 0);
    for seed in 1..=24 {
        let fixture = Fixture::new("true");
        tangle(&fixture.original, seed);
        let all = [
            "-cf".as_ref(),
            fixture.tar.as_os_str(),
            "-C".as_ref(),
            fixture.original.as_os_str(),
            ".".as_ref(),
        ];
        run("tar", all);
        for flat in [false, true] {
            let live = fixture.mount(ViewOptions { flat, ..ViewOptions::default() });
            let root = if flat { fixture.mountpoint.clone() } else { fixture.mountpoint.join("rootfs") };
            let original = File::open(&fixture.original).unwrap();
            for link in symlinks_beneath(&fixture.original) {
                let path = link.strip_prefix(&fixture.original).unwrap();
                let shown = lands(CWD, &root.join(path), ResolveFlags::empty());
                if let Ok(place) = &shown {
                    assert!(place.starts_with(&root), "seed {seed}: {path:?} leads out, to {place:?}");
                }
                let inside = lands(&original, path, ResolveFlags::IN_ROOT);
                let shown = shown.map(|place| place.strip_prefix(&root).unwrap().to_owned());
                let inside = inside.map(|place| place.strip_prefix(&fixture.original).unwrap().to_owned());
                // Which of its names is asked is unknown when a link has several, and so where it leads.
                if reaches_hard_link(&fixture.original, path) {
                    several += 1;
                } else if shown != inside && inside != Err(Errno::LOOP) {
                    panic!(
                        "seed {seed}, flat {flat}: {path:?} -> {:?} shown as {:?} leads to {shown:?}, not {inside:?}",
                        std::fs::read_link(&link).unwrap(),
                        std::fs::read_link(root.join(path)).unwrap(),
                    );
                } else {
                    compared += 1;
                }
            }
            live.stop();
        }
    }
    assert!(compared > 1000 && several > 10, "{compared} and {several}");
}

/// Whether a link of several names is met by anything that the link at `path` may lead through.
fn reaches_hard_link(root: &Path, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let links: Vec<PathBuf> = symlinks_beneath(root);
    let mut ahead = vec![root.join(path)];
    let mut seen = std::collections::BTreeSet::new();
    while let Some(link) = ahead.pop() {
        if !seen.insert(link.clone()) {
            continue;
        }
        if std::fs::symlink_metadata(&link).unwrap().nlink() > 1 {
            return true;
        }
        for name in std::fs::read_link(&link).unwrap().iter() {
            ahead.extend(links.iter().filter(|other| other.file_name() == Some(name)).cloned());
        }
    }
    false
}

#[test]
fn an_absolute_target_beneath_a_volume_leads_into_that_volume() {
    let rootfs =
        Fixture::new("mkdir -p var/lib/data etc; echo host > etc/name; ln -s /var/lib/data/file etc/link");
    let volume = Fixture::new("echo volume > file; ln -s /etc/name back; ln -s /var/lib/data/file own");
    let mounts = vec![
        ViewMount {
            name: "rootfs".into(),
            destinations: Vec::new(),
            may_be_file: false,
            filesystem: rootfs.filesystem(),
        },
        ViewMount {
            name: "var-lib-data".into(),
            destinations: vec!["/var/lib/data".into()],
            may_be_file: false,
            filesystem: volume.filesystem(),
        },
    ];
    let view = View::new(mounts, ViewOptions::default()).unwrap();
    let live = Live::start(view, &SessionConfig::new(&rootfs.mountpoint)).unwrap();
    let at = |script| shell(script, &rootfs.mountpoint);
    assert_eq!(at("cat rootfs/etc/link var-lib-data/back var-lib-data/own"), "volume\nhost\nvolume\n");
    assert_eq!(at("ls rootfs/var/lib/data"), "");
    live.stop();
    assert_eq!(fuse::mount_status(&rootfs.mountpoint).unwrap(), fuse::MountStatus::Nothing);
}
