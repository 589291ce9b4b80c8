use std::io::Write as _;
use std::time::Duration;

use super::*;
use crate::index::{DataFile, Filesystem, GrowingTree};
use crate::progress::Progress;
use crate::tarfile::{EndMark, Scanner};

/// A filesystem of directories, files and `link -> target`s.
fn filesystem(entries: &[&str]) -> Filesystem {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o755);
        match entry.split_once(" -> ") {
            Some((name, target)) => {
                header.set_entry_type(tar::EntryType::Symlink);
                tar.append_link(&mut header, name, target).unwrap();
            }
            None => {
                let directory = entry.ends_with('/');
                header.set_entry_type(if directory {
                    tar::EntryType::Directory
                } else {
                    tar::EntryType::Regular
                });
                tar.append_data(&mut header, entry, &b""[..]).unwrap();
            }
        }
    }
    let tar = tar.into_inner().unwrap();
    let mut tree = GrowingTree::default();
    let mut scanner = Scanner::new(tar.as_slice(), EndMark::Required);
    while let Some(entry) = scanner.next_entry().unwrap() {
        tree.insert(entry).unwrap();
    }
    tree.finish().unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&tar).unwrap();
    Filesystem::new(std::sync::Arc::new(tree), vec![DataFile::owned(file)])
}

/// A container whose mounts are `rootfs`, `data` and `data-sub`, and some that are never looked into: two single files
/// and a volume, of which the root filesystem has one file.
struct Container([Filesystem; 3]);

impl Container {
    fn new() -> Container {
        Container([
            filesystem(&[
                "data/",
                "database",
                "etc/passwd",
                "abs -> /etc/passwd",
                "up -> ../../../etc/passwd",
                "dangling -> nothing",
                "dangling-abs -> /nothing",
                "dir -> etc",
                "via -> dir/../database",
                "loop -> loop",
                "a -> /data/file",
                "b -> /database",
                "deep -> /data/sub/file",
                "round -> /data/../etc/passwd",
                "self -> etc/../self",
                "through -> etc/passwd/x",
                "etc/bound.conf",
                "bound -> /etc/bound.conf",
                "near-bound -> etc/bound.conf",
                "etc/next -> bound.conf",
                "unmade -> /etc/unmade.conf",
                "lib -> var/lib",
                "deep-file -> /data/conf",
                "data/hidden",
                "data/near -> hidden",
            ]),
            filesystem(&[
                "file",
                "sub/",
                "own -> /data/file",
                "out -> /etc/passwd",
                "up -> ../etc/passwd",
                "in -> sub/file",
                "near -> /data/../data/file",
                "prefix -> /database",
                "bound -> /etc/bound.conf",
                "conf",
                "near-conf -> conf",
            ]),
            filesystem(&["file", "up -> ../file"]),
        ])
    }

    /// Where a walk leads: the inode's own path, or the error.
    fn walk(&self, mount: usize, path: &str, last: Last) -> String {
        let mounts = [
            ("rootfs", "/", false),
            ("data", "/data", false),
            ("data-sub", "/data/sub/", false),
            ("data-conf", "/data/conf", true),
            ("etc-bound.conf", "/etc/bound.conf", true),
            ("etc-unmade.conf", "/etc/unmade.conf", true),
            ("var-lib", "/var/lib", false),
        ];
        let destinations = mounts[1..].iter().map(|(_, destination, _)| (*destination).to_owned());
        let rows = mounts.iter().map(|(name, _, may_be_file)| Row::new(name, *may_be_file));
        let table = Table::new(rows.collect(), Arc::new(Destinations::new(destinations.collect(), None)));
        let progress = Progress::new();
        let names: Vec<Vec<u8>> = clean(path.as_bytes()).into_iter().map(<[u8]>::to_vec).collect();
        let filesystem = &self.0[mount];
        let question = Question {
            filesystem,
            mount: None,
            progress: &progress,
            patience: Duration::ZERO,
            path: absolute(&names),
        };
        match walk(&question, &table, mount, &names, last) {
            Ok(ino) => format!("{} {:?}", ino, filesystem.tree().stat(ino).unwrap().file_type),
            Err(error) => error.hint().unwrap_or_else(|| error.to_string()),
        }
    }

    #[track_caller]
    fn leads(&self, mount: usize, path: &str, to: &str) {
        let wanted = self.walk(mount, to, Last::Keep);
        assert!(!wanted.contains(' ') || !wanted.contains('"'), "{wanted}");
        assert_eq!(self.walk(mount, path, Last::Follow), wanted, "{path}");
    }

    #[track_caller]
    fn fails(&self, mount: usize, path: &str, with: &str) {
        assert_eq!(self.walk(mount, path, Last::Follow), with);
    }

    /// Following the link inside leads back to the link.
    #[track_caller]
    fn is_itself(&self, mount: usize, path: &str) {
        assert_eq!(self.walk(mount, path, Last::FollowInside), self.walk(mount, path, Last::Keep));
        assert!(self.walk(mount, path, Last::Keep).ends_with("Symlink"));
    }
}

#[test]
fn a_path_is_cleaned_and_begins_at_the_root() {
    let container = Container::new();
    for path in ["/etc/passwd", "etc/passwd", "./etc//passwd/", "x/../etc/passwd", "../../etc/passwd"] {
        container.leads(0, path, "/etc/passwd");
    }
    for root in ["", "/", ".", "..", "../../..", "/a/.."] {
        container.leads(0, root, "/");
    }
}

#[test]
fn a_link_is_followed_inside_its_mount() {
    let container = Container::new();
    for link in ["abs", "up", "dir/passwd", "round"] {
        container.leads(0, link, "/etc/passwd");
        assert_eq!(container.walk(0, link, Last::FollowInside), container.walk(0, link, Last::Follow));
    }
    container.leads(0, "via", "/database");
    // /data is another mount, /database is not beneath it.
    container.leads(0, "b", "/database");
    container.leads(1, "own", "/file");
    container.leads(1, "near", "/file");
}

#[test]
fn a_link_that_leads_out_says_where_to() {
    let container = Container::new();
    container.fails(0, "a", r#"ask mount "data" for "/file""#);
    container.fails(0, "deep", r#"ask mount "data-sub" for "/file""#);
    container.fails(1, "out", r#"ask mount "rootfs" for "/etc/passwd""#);
    container.fails(1, "prefix", r#"ask mount "rootfs" for "/database""#);
    container.fails(1, "up", r#"ask mount "rootfs" for "/etc/passwd""#);
    container.fails(1, "in", r#"ask mount "data-sub" for "/file""#);
    container.fails(2, "up", r#"ask mount "data" for "/file""#);
    for (mount, link) in [(0, "a"), (0, "deep"), (1, "out"), (1, "prefix"), (1, "up"), (1, "in"), (2, "up")] {
        container.is_itself(mount, link);
    }
}

#[test]
fn a_link_to_a_single_file_says_where_that_is() {
    let container = Container::new();
    for link in ["bound", "near-bound", "etc/next"] {
        container.fails(0, link, r#"ask mount "etc-bound.conf" for "/bound.conf""#);
        container.is_itself(0, link);
    }
    container.fails(1, "near-conf", r#"ask mount "data-conf" for "/conf""#);
    // Nobody has seen what it is mounted on.
    let either = r#"ask mount "etc-bound.conf" for "/", or for "/bound.conf" if it is a single file"#;
    container.fails(1, "bound", either);
    let either = r#"ask mount "data-conf" for "/", or for "/conf" if it is a single file"#;
    container.fails(0, "deep-file", either);
    let either = r#"ask mount "etc-unmade.conf" for "/", or for "/unmade.conf" if it is a single file"#;
    container.fails(0, "unmade", either);
}

#[test]
fn a_link_leads_out_though_nothing_is_there() {
    let container = Container::new();
    container.fails(0, "lib", r#"ask mount "var-lib" for "/""#);
    container.fails(0, "lib/file", r#"ask mount "var-lib" for "/file""#);
    container.is_itself(0, "lib");
}

#[test]
fn a_mount_that_is_named_by_its_path_stays_what_the_root_filesystem_has_there() {
    let container = Container::new();
    assert_eq!(container.walk(0, "/data", Last::Follow), container.walk(0, "/data", Last::Keep));
    container.fails(0, "/data/file", r#"no such file or directory: "/data/file""#);
    container.fails(0, "/var/lib", r#"no such file or directory: "/var/lib""#);
    container.leads(0, "/etc/bound.conf", "/etc/bound.conf");
    container.leads(0, "/data/near", "/data/hidden");
}

#[test]
fn a_way_that_leads_nowhere_is_told_as_what_it_is() {
    let container = Container::new();
    container.fails(0, "etc/none", r#"no such file or directory: "/etc/none""#);
    container.fails(0, "etc/passwd/x", r#"not a directory: "/etc/passwd/x""#);
    container.fails(0, "through", r#"not a directory: "/through""#);
    container.fails(0, "dangling", r#"no such file or directory: "/dangling""#);
    for link in ["loop", "self"] {
        container.fails(0, link, &format!(r#"too many levels of symbolic links: "/{link}""#));
    }
    assert_eq!(
        container.walk(0, "dangling", Last::FollowInside),
        r#"no such file or directory: "/dangling""#
    );
    container.is_itself(0, "dangling-abs");
}

#[test]
fn forty_links_are_followed_and_no_more() {
    let mut entries: Vec<String> = (0..41).map(|n| format!("l{n} -> l{}", n + 1)).collect();
    entries.push("l41".into());
    let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
    let container = Container([filesystem(&entries), filesystem(&[]), filesystem(&[])]);
    container.leads(0, "l1", "l41");
    container.fails(0, "l0", r#"too many levels of symbolic links: "/l0""#);
}
