//! What an archive's headers claim takes no memory out of proportion, and no log: see SECURITY.md.

use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;
use std::process::Stdio;

use crate::support::Sandbox;

/// What the peak of memory may be, beside 200 bytes for each entry: the promise, and the pages of a debug build's code, which
/// count as resident though they are the file's.
const BASE: u64 = (64 + 24) << 20;

struct Archive(tar::Builder<Vec<u8>>);

impl Archive {
    fn new() -> Archive {
        Archive(tar::Builder::new(Vec::new()))
    }

    fn entry(
        &mut self,
        kind: tar::EntryType,
        name: &str,
        target: &str,
        pax: &[(&str, &[u8])],
        content: &[u8],
    ) {
        let mut records = pax.to_vec();
        if name.len() > 100 {
            records.push(("path", name.as_bytes()));
        }
        if !target.is_empty() {
            records.push(("linkpath", target.as_bytes()));
        }
        if !records.is_empty() {
            self.0.append_pax_extensions(records).unwrap();
        }
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        header.set_path(&name[..name.len().min(100)]).unwrap();
        header.set_cksum();
        self.0.append(&header, content).unwrap();
    }

    fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// What a command said, and the most memory that it took.
struct Outcome {
    code: Option<i32>,
    stderr: String,
    peak: u64,
}

/// Lists the root directory of an archive.
fn list(archive: Vec<u8>) -> Outcome {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("archive.tar"), archive).unwrap();
    let mut command = sandbox.imagefs(["ls", "tar:archive.tar", "/"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).unwrap();
        text
    });
    let mut peak = 0;
    let code = loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        if let Some(line) = status.lines().find(|line| line.starts_with("VmHWM:")) {
            peak = line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10;
        }
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    };
    Outcome { code, stderr: reading.join().unwrap(), peak }
}

#[track_caller]
fn assert_refused(archive: Vec<u8>, entries: u64) {
    let outcome = list(archive);
    assert_eq!(outcome.code, Some(6), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("take more than 32 MiB, and 96 bytes for each entry"),
        "{}",
        outcome.stderr
    );
    assert!(outcome.stderr.len() < 10_000, "{} bytes of messages", outcome.stderr.len());
    let most = BASE + 200 * entries;
    assert!(outcome.peak <= most, "{} bytes for {entries} entries", outcome.peak);
}

#[test]
fn maps_of_sparse_files() {
    let mut map = String::new();
    for run in 0..100_000 {
        write!(map, "{}{},1", if run == 0 { "" } else { "," }, run * 2).unwrap();
    }
    let content = vec![b'x'; 100_000];
    let mut archive = Archive::new();
    for number in 0..30 {
        let pax: [(&str, &[u8]); 2] = [("GNU.sparse.size", b"200000"), ("GNU.sparse.map", map.as_bytes())];
        archive.entry(tar::EntryType::Regular, &format!("s{number}"), "", &pax, &content);
    }
    assert_refused(archive.finish(), 30);
}

/// A path of some 4,000 bytes.
fn long(number: usize) -> String {
    format!("{}{number}", ("y".repeat(250) + "/").repeat(15))
}

#[test]
fn hard_links_to_what_never_comes() {
    let links = |count: usize| {
        let mut archive = Archive::new();
        for number in 0..count {
            archive.entry(tar::EntryType::Link, &format!("l{number}"), &long(number), &[], b"");
        }
        archive.finish()
    };
    assert_refused(links(20_000), 20_000);
    // Fewer of them are empty files, and told of once.
    let outcome = list(links(2_000));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("has no target") && outcome.stderr.contains("1999 others"),
        "{}",
        outcome.stderr
    );
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
}

#[test]
fn targets_of_symbolic_links() {
    let mut archive = Archive::new();
    for number in 0..20_000 {
        archive.entry(tar::EntryType::Symlink, &format!("l{number}"), &long(number), &[], b"");
    }
    assert_refused(archive.finish(), 20_000);
}

#[test]
fn directories_that_are_only_passed_through() {
    let mut archive = Archive::new();
    for number in 0..1_000 {
        let path = format!("{number}/{}", "a/".repeat(1_900));
        archive.entry(tar::EntryType::Regular, &format!("{path}f"), "", &[], b"");
    }
    assert_refused(archive.finish(), 1_000);
}
