//! What GNU tar, bsdtar and Python's tarfile make of an archive, and what imagefs does.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};

use imagefs::index::{DirCookie, FileType, GrowingTree, Ino, Tree};
use imagefs::tarfile::{EndMark, Oddities, Scanner};

/// A line for each file of a tree, sorted. A directory in which there is something may have been implied: only that it is one
/// is told of it.
pub type Listing = Vec<String>;

/// The tools.
pub const TOOLS: [&str; 3] = ["GNU tar", "bsdtar", "Python"];

/// Extracts `N.tar` into `N.0`, `N.1` and `N.2`, for each N up to the one that is given; `N.M.failed` says that a tool failed.
const EXTRACT: &str = r#"
for n in $(seq 0 "$1"); do
    mkdir $n.0 $n.1 $n.2
    tar --extract --preserve-permissions --same-owner --numeric-owner --warning=none --directory=$n.0 --file=$n.tar ||
        touch $n.0.failed
    bsdtar -x -p --numeric-owner -C $n.1 -f $n.tar || touch $n.1.failed
done
python3 - "$1" <<'END'
import sys, tarfile
options = {'filter': 'fully_trusted'} if hasattr(tarfile, 'fully_trusted_filter') else {}
for n in range(int(sys.argv[1]) + 1):
    try:
        with tarfile.open(f'{n}.tar') as tar:
            tar.errorlevel = 2
            tar.extractall(f'{n}.2', numeric_owner=True, **options)
    except Exception:
        open(f'{n}.2.failed', 'w').close()
END
"#;

/// What each tool extracts of each archive; `None` where it fails.
pub fn extracted(archives: &[Vec<u8>]) -> Vec<[Option<Listing>; 3]> {
    let directory = tempfile::tempdir().unwrap();
    for (number, archive) in archives.iter().enumerate() {
        fs::write(directory.path().join(format!("{number}.tar")), archive).unwrap();
    }
    let last = (archives.len() - 1).to_string();
    let mut shell = Command::new("sh");
    shell.args(["-c", EXTRACT, "sh", &last]).current_dir(directory.path()).stderr(Stdio::null());
    assert!(shell.status().unwrap().success());
    let of = |number: usize, tool: usize| {
        let root = directory.path().join(format!("{number}.{tool}"));
        let failed = directory.path().join(format!("{number}.{tool}.failed")).exists();
        (!failed).then(|| on_disk(&root))
    };
    (0..archives.len()).map(|number| [of(number, 0), of(number, 1), of(number, 2)]).collect()
}

fn on_disk(root: &Path) -> Listing {
    let mut lines = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let (file_type, kind) = (metadata.file_type(), metadata.mode() >> 12);
            let mut content = Vec::new();
            if file_type.is_dir() {
                todo.push(path.clone());
                content = vec![b'.'; fs::read_dir(&path).unwrap().count()];
            } else if file_type.is_symlink() {
                content = fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec();
            } else if file_type.is_file() {
                content = fs::read(&path).unwrap();
            }
            let device = file_type.is_char_device() || file_type.is_block_device();
            let device = if device { metadata.rdev() } else { 0 };
            let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
            let owner = (metadata.uid(), metadata.gid());
            lines.push(line(
                &name,
                kind,
                metadata.mode() & 0o7777,
                owner,
                metadata.mtime(),
                device,
                &content,
            ));
        }
    }
    lines.sort();
    lines
}

fn line(
    name: &[u8],
    kind: u32,
    perm: u32,
    owner: (u32, u32),
    mtime: i64,
    device: u64,
    content: &[u8],
) -> String {
    let (name, shown) = (name.escape_ascii(), content.escape_ascii());
    match kind {
        // A directory with something in it.
        0o04 if !content.is_empty() => format!("{name} directory"),
        0o04 => format!("{name} empty directory {perm:o} {owner:?} {mtime}"),
        0o12 => format!("{name} -> {shown} {owner:?}"),
        _ => format!("{name} {kind:o} {perm:o} {owner:?} {mtime} {device} {shown}"),
    }
}

/// What imagefs makes of an archive of the user's, and what it leaves out.
pub fn indexed(archive: &[u8]) -> Result<(Listing, Oddities), String> {
    let mut scanner = Scanner::new(archive, EndMark::Optional);
    let mut tree = GrowingTree::default();
    while let Some(entry) = scanner.next_entry().map_err(|e| e.to_string())? {
        tree.insert(entry).map_err(|e| e.to_string())?;
    }
    tree.finish().map_err(|e| e.to_string())?;
    let mut oddities = scanner.oddities().clone();
    oddities.add(tree.oddities());
    let mut lines = Vec::new();
    let mut todo = vec![(Vec::new(), Ino::ROOT)];
    while let Some((path, directory)) = todo.pop() {
        for (name, ino) in names(&tree, directory) {
            let path = if path.is_empty() { name } else { [&path[..], b"/", &name].concat() };
            let stat = tree.stat(ino).unwrap();
            let mut content = Vec::new();
            match stat.file_type {
                FileType::Directory => content = vec![b'.'; names(&tree, ino).len()],
                FileType::Symlink => content = tree.read_link(ino).unwrap().to_vec(),
                FileType::Regular => {
                    if let imagefs::index::Segment::Data { len, at, .. } = tree.segment(ino, 0).unwrap() {
                        content = archive[at as usize..][..len as usize].to_vec();
                    }
                }
                _ => {}
            }
            if stat.file_type == FileType::Directory {
                todo.push((path.clone(), ino));
            }
            let device = match stat.file_type {
                FileType::CharDevice | FileType::BlockDevice => {
                    rustix::fs::makedev(stat.device.0, stat.device.1)
                }
                _ => 0,
            };
            let kind = u32::from(stat.file_type.mode_bits() >> 12);
            let owner = (stat.uid, stat.gid);
            lines.push(line(&path, kind, u32::from(stat.perm), owner, stat.mtime.secs, device, &content));
        }
    }
    lines.sort();
    Ok((lines, oddities))
}

fn names(tree: &GrowingTree, directory: Ino) -> Vec<(Vec<u8>, Ino)> {
    let mut names = Vec::new();
    let mut emit = |entry: imagefs::index::DirEntry<'_>| {
        names.push((entry.name.to_vec(), entry.ino));
        true
    };
    tree.read_dir(directory, DirCookie::START, &mut emit).unwrap();
    names
}
