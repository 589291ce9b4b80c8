//! The laws of `docs/design.md`: who may import what.

use std::fs;
use std::path::{Path, PathBuf};

/// Every source file below `dir`, by its path from `src`.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The lines of production code in a room (a file or a directory of `src`) that mention `word`.
fn mentions(room: &str, word: &str) -> Vec<String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = sources(&src);
    let of_room = |path: &&PathBuf| path.strip_prefix(&src).unwrap().starts_with(room);
    let mut found = Vec::new();
    let mut seen = 0;
    for path in files.iter().filter(of_room) {
        seen += 1;
        for line in fs::read_to_string(path).unwrap().lines() {
            let code = line.split("//").next().unwrap();
            let starts = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            if code.match_indices(word).any(|(at, _)| starts(at)) {
                found.push(format!("{}: {}", path.strip_prefix(&src).unwrap().display(), line.trim()));
            }
        }
    }
    assert!(seen > 0, "there is no room {room}");
    found
}

/// The top-level modules of the crate.
fn rooms() -> Vec<String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let names = fs::read_dir(src).unwrap().map(|entry| entry.unwrap().path());
    let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    names.map(stem).filter(|name| name != "lib" && name != "main").collect()
}

#[test]
fn a_room_uses_only_the_rooms_that_it_may() {
    let shared = ["cleanup", "image", "owner", "progress"];
    let allowed = |room: &str| -> Vec<&str> {
        match room {
            "index" => vec![],
            "cache" => vec!["index"],
            "fuse" => vec!["index"],
            "docker" | "oci" => vec![],
            "source" => vec!["cache", "docker", "index", "oci"],
            "gateway" => vec!["index", "source", "cache"],
            "cli" => rooms().iter().map(|room| &*room.clone().leak()).collect(),
            "cleanup" | "image" | "owner" | "progress" => vec![],
            other => panic!("src/{other} has no law: add one here and in docs/design.md"),
        }
    };
    for room in rooms() {
        let path = if shared.contains(&room.as_str()) { format!("{room}.rs") } else { room.clone() };
        for other in rooms().iter().filter(|other| **other != room) {
            if !allowed(&room).contains(&other.as_str()) && !shared.contains(&other.as_str()) {
                assert_eq!(mentions(&path, &format!("crate::{other}")), [""; 0], "{room} uses {other}");
            }
        }
    }
}

#[test]
fn a_foreign_crate_stays_in_its_room() {
    for (name, homes) in [
        ("tokio::", &["docker"][..]),
        ("bollard::", &["docker"]),
        ("hyper::", &["docker"]),
        ("fuser::", &["fuse"]),
        ("clap::", &["cli"]),
        ("indicatif::", &["cli"]),
    ] {
        for room in rooms() {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(&room);
            let path = if path.is_dir() { room.clone() } else { format!("{room}.rs") };
            if homes.contains(&room.as_str()) {
                assert_ne!(mentions(&path, name), [""; 0], "{name} is not used where it is at home");
            } else {
                assert_eq!(mentions(&path, name), [""; 0], "{name} is used outside of {homes:?}");
            }
        }
    }
    let answers = mentions("fuse/view.rs", "fuser::");
    assert_eq!(answers, [""; 0], "the filesystem's answers know no fuser");
}

#[test]
fn unsafe_code_is_denied_but_for_the_memory_map() {
    let mut found = Vec::new();
    for room in rooms() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(&room);
        found.extend(mentions(&if path.is_dir() { room } else { format!("{room}.rs") }, "unsafe "));
    }
    assert_eq!(found, ["index/reader.rs: unsafe { Mmap::map(file) }"]);
    assert!(!mentions("lib.rs", "unsafe_code").is_empty());
}
