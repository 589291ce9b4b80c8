//! Archives that other projects collected: what is mounted is what GNU tar and bsdtar make of them, or it is refused.
//!
//! They lie beside the project, in `../shared/corpora/tar`, and are listed there by what three independent tools say. Where
//! they do not, `scripts/test` leaves out what is in modules of this name.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::support::{Manifest, Outcome, Sandbox, archives};

/// Mounts that are under way at one time.
const THREADS: usize = 4;

/// In what a witness is not believed.
enum Quirk {
    /// GNU tar applies the path of a global header to every file, instead of to none.
    GlobalPath,
    /// A hard link to nothing, which GNU tar does not make.
    LinkToNothing,
    /// GNU tar does not know this spelling of an extended attribute, or is not asked for ACLs: it is the given one.
    Xattr(&'static str, &'static str),
    /// Of a sparse file, bsdtar hashes the data without its holes.
    Sparse,
    /// The same, and it would take bsdtar long: the file, the only one, has 12 GB.
    VastSparse(&'static str),
}

const QUIRKS: [(&str, Quirk); 12] = [
    ("dotnet/tar/node-tar/global-header.tar", Quirk::GlobalPath),
    ("dotnet/tar/node-tar/links-invalid.tar", Quirk::LinkToNothing),
    (
        "squashfs-tools-ng/lib/tar/test/data/xattr/xattr-libarchive.tar",
        Quirk::Xattr("input.txt", "user.mime_type=746578742f706c61696e"),
    ),
    (
        "squashfs-tools-ng/lib/tar/test/data/xattr/acl.tar",
        // user::rw-,user:65534:rw-,group::---,group:65533:rw-,mask::r--,other::---
        Quirk::Xattr(
            "input.txt",
            "system.posix_acl_access=0200000001000600ffffffff02000600feff000004000000ffffffff\
             08000600fdff000010000400ffffffff20000000ffffffff",
        ),
    ),
    ("squashfs-tools-ng/lib/tar/test/data/iterator/sparse.tar", Quirk::Sparse),
    ("squashfs-tools-ng/lib/tar/test/data/sparse-files/gnu-small.tar", Quirk::Sparse),
    ("squashfs-tools-ng/lib/tar/test/data/sparse-files/gnu.tar", Quirk::Sparse),
    ("squashfs-tools-ng/lib/tar/test/data/sparse-files/pax-gnu0-0.tar", Quirk::Sparse),
    ("squashfs-tools-ng/lib/tar/test/data/sparse-files/pax-gnu0-1.tar", Quirk::Sparse),
    ("squashfs-tools-ng/lib/tar/test/data/sparse-files/pax-gnu1-0.tar", Quirk::Sparse),
    ("tar-rs/sparse.tar", Quirk::Sparse),
    ("tar-rs/sparse-large.tar", Quirk::VastSparse("huge")),
];

/// Where the tools disagree: what is said of the archive, and why it is refused.
const DISAGREEMENTS: [(&str, &str); 6] = [
    // Nobody could reach what has no name; GNU tar calls it "." and so changes the root.
    ("tar-rs/empty_filename.tar", "an entry has no name"),
    ("dotnet/tar/node-tar/path-missing.tar", "an entry has no name"),
    // Whatever the rest of the record was to say, the file would be shown without it.
    ("tokio-tar/diff-014-unterminated-pax.tar", "an extended (PAX) header is not valid"),
    // The headers of an entry without the entry: the archive was cut.
    ("tokio-tar/diff-024-pending-pax-boundary.tar", "truncated"),
    // An interrupted download looks like this; an empty archive has at least its end mark.
    ("dotnet/tar/golang_tar/empty.tar", "not a tar archive"),
    // Who reads on after a header that is damaged may take a file's content for headers.
    ("dotnet/tar/node-tar/bad-cksum.tar", "a tar header was expected"),
];

fn path_of(name: &str) -> PathBuf {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpora/tar");
    assert!(corpus.is_dir(), "the collection of archives is missing: {}", corpus.display());
    corpus.join(name)
}

/// The archives of a list: the last column.
fn listed(list: &str) -> Vec<String> {
    let text = fs::read_to_string(path_of(list)).unwrap();
    let names: Vec<String> =
        text.lines().filter_map(|line| Some(line.rsplit_once('\t')?.1.to_owned())).collect();
    assert!(!names.is_empty(), "{list} is empty");
    names
}

/// Fails with all that is wrong with any of `names`, as `check` tells it; that is also given a number of its own.
fn check_all(names: &[String], check: impl Fn(usize, &str) -> Vec<String> + Sync) {
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(name) = names.get(number) else { return };
                    let mut found = check(number, name);
                    found.truncate(5);
                    if !found.is_empty() {
                        let lines = format!("{name}:\n  {}", found.join("\n  "));
                        wrong.lock().unwrap_or_else(PoisonError::into_inner).push(lines);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(wrong.is_empty(), "{} of {} archives:\n{}", wrong.len(), names.len(), wrong.join("\n"));
}

fn mount(sandbox: &Sandbox, name: &str, mountpoint: &Path) -> Outcome {
    let mut source = OsString::from("tar:");
    source.push(path_of(name));
    let options = ["mount", "--wait", "-o", "symlinks=raw"];
    sandbox.run(sandbox.imagefs(options).arg(source).arg(mountpoint))
}

#[test]
fn what_every_tool_accepts_is_mounted_as_the_tools_unpack_it() {
    let sandbox = Sandbox::new();
    let names = listed("ACCEPT.tsv");
    check_all(&names, |number, name| {
        let mountpoint = sandbox.directory(&format!("mounted-{number}"));
        let outcome = mount(&sandbox, name, &mountpoint);
        if outcome.code != Some(0) {
            return vec![format!("{outcome:?}")];
        }
        let found = Manifest::read(&mountpoint.join("rootfs"));
        sandbox.unmount(&mountpoint);
        compare(name, found, &sandbox.directory(&format!("extracted-{number}")))
    });
    sandbox.assert_nothing_left();
}

fn compare(name: &str, found: Manifest, extracted: &Path) -> Vec<String> {
    let tar = path_of(name);
    let quirk = QUIRKS.iter().find(|(of, _)| *of == name).map(|(_, quirk)| quirk);
    let mut told = match quirk {
        Some(Quirk::VastSparse(path)) => Manifest::default().with(path.as_bytes(), &[]),
        Some(Quirk::Sparse) => archives::mtree(&tar).ignoring("sha256"),
        _ => archives::mtree(&tar),
    };
    let implied = implied_directories(&told, &found);
    for path in &implied {
        told = told.with(path, &IMPLIED);
    }
    let mut differences = told.differences(&found);
    // On Linux a symlink has all permissions, whatever the archive says; bsdtar tells what that is.
    let gnu = |found: &Manifest| {
        archives::extract(&tar, extracted);
        let mut gnu = Manifest::read(extracted).ignoring_of("symlink", "mode");
        for path in &implied {
            gnu = gnu.without_attribute(path, "mtime");
        }
        gnu.differences(found)
    };
    match quirk {
        Some(Quirk::GlobalPath | Quirk::LinkToNothing) => {}
        Some(Quirk::Xattr(path, value)) => {
            assert_eq!(found.get(path, "xattrs"), Some(*value));
            differences.extend(gnu(&found.ignoring("xattrs")));
        }
        _ => differences.extend(gnu(&found)),
    }
    differences
}

/// What a directory looks like that no entry of the archive describes.
const IMPLIED: [(&str, &str); 5] =
    [("type", "directory"), ("mode", "755"), ("uid", "0"), ("gid", "0"), ("mtime", "0.000000000")];

/// The root, and the directories that are there because something below them is.
fn implied_directories(told: &Manifest, found: &Manifest) -> BTreeSet<Vec<u8>> {
    let told_of: BTreeSet<&[u8]> = told.paths().collect();
    let untold = found.paths().filter(|path| !told_of.contains(path));
    untold.filter(|path| *path == b"." || told.has_below(path)).map(<[u8]>::to_vec).collect()
}

#[test]
fn what_every_tool_refuses_is_refused_with_its_cause() {
    let sandbox = Sandbox::new();
    let names = listed("REJECT.tsv");
    check_all(&names, |number, name| refusal(&sandbox, number, name, "truncated"));
    sandbox.assert_nothing_left();
}

#[test]
fn where_the_tools_disagree_nothing_is_guessed() {
    let sandbox = Sandbox::new();
    let names = listed("DISAGREE.tsv");
    check_all(&names, |number, name| {
        let verdict = DISAGREEMENTS.iter().find(|(of, _)| *of == name);
        let (_, cause) = verdict.unwrap_or_else(|| panic!("nothing was decided about {name}"));
        refusal(&sandbox, number, name, cause)
    });
    sandbox.assert_nothing_left();
}

/// What is wrong with the way in which an archive is refused.
fn refusal(sandbox: &Sandbox, number: usize, name: &str, cause: &str) -> Vec<String> {
    let mountpoint = sandbox.directory(&format!("refused-{number}"));
    let outcome = mount(sandbox, name, &mountpoint);
    let errors: Vec<&str> = outcome.stderr.lines().filter(|line| !line.starts_with("hint: ")).collect();
    let told = matches!(errors[..], [error] if error.starts_with("error: ") && error.contains(cause));
    if outcome.code == Some(6) && told { Vec::new() } else { vec![format!("{outcome:?}")] }
}
