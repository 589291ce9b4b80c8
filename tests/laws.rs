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
    let shared = ["cleanup", "image", "mountinfo", "owner", "platform", "progress", "sparse_file"];
    let allowed = |room: &str| -> Vec<&str> {
        match room {
            "index" => vec!["tarfile"],
            "cache" => vec!["index"],
            "fuse" => vec!["index", "tarfile"],
            "erofs" => vec!["fuse", "index", "tarfile"],
            "compress" | "docker" | "http" | "tarfile" => vec![],
            "buildkit" => vec!["docker"],
            "oci" => vec!["compress", "registry", "tarfile"],
            "registry" => vec!["http"],
            "source" => {
                vec!["buildkit", "cache", "compress", "docker", "index", "oci", "registry", "tarfile"]
            }
            "gateway" => vec!["index", "source", "cache", "tarfile"],
            "cli" => rooms().iter().map(|room| &*room.clone().leak()).collect(),
            "cleanup" | "image" | "mountinfo" | "owner" | "platform" | "progress" | "sparse_file" => vec![],
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
        ("tokio::", &["buildkit", "docker", "http"][..]),
        ("bollard::", &["docker"]),
        ("hyper::", &["buildkit", "docker", "http"]),
        ("tonic::", &["buildkit"]),
        ("rustls::", &["http"]),
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

/// The files of `src/cli` that a file there imports from, by its `use` of `crate::cli::…` and `super::…`.
fn imports_within_cli(file: &Path, files: &[PathBuf]) -> Vec<PathBuf> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let code = fs::read_to_string(file).unwrap();
    let production = code.split("#[cfg(test)]").next().unwrap();
    let module = file.strip_prefix(&src).unwrap().with_extension("");
    let inside = if file.ends_with("mod.rs") { module.parent().unwrap().to_owned() } else { module.clone() };
    let mut found = Vec::new();
    for statement in production.split(';') {
        let Some(at) = statement.rfind("use ") else { continue };
        let spelled = statement[at + 4..].split(['{', '\n']).next().unwrap().trim();
        let mut path = match spelled.strip_prefix("crate::") {
            Some(rest) => rest.split("::").collect::<PathBuf>(),
            None if spelled.starts_with("super::") => {
                let ups = spelled.matches("super::").count();
                let base = inside.ancestors().nth(ups).unwrap();
                base.join(spelled.trim_start_matches("super::").split("::").collect::<PathBuf>())
            }
            None => continue,
        };
        // The longest beginning of the path that is a file; what follows are names inside it.
        loop {
            let is = |file: &&PathBuf| {
                let of = file.strip_prefix(&src).unwrap();
                of == path.with_extension("rs") || of == path.join("mod.rs")
            };
            match files.iter().find(is) {
                Some(other) => break found.push(other.clone()),
                None if !path.pop() => break,
                None => {}
            }
        }
    }
    found
}

#[test]
fn the_rooms_of_the_command_line_know_only_what_is_below_them() {
    for (room, above) in [
        ("output", &["verbs", "server", "process", "command_line"][..]),
        ("process", &["verbs", "server", "command_line"]),
        ("server", &["verbs", "command_line"]),
        ("verbs", &["command_line"]),
    ] {
        for other in above {
            let room = format!("cli/{room}");
            assert_eq!(mentions(&room, &format!("cli::{other}")), [""; 0], "{room} uses {other}");
            assert_eq!(mentions(&room, &format!("super::super::{other}")), [""; 0], "{room} uses {other}");
        }
    }
}

#[test]
fn no_files_of_the_command_line_import_each_other_in_a_circle() {
    let files = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli"));
    let mut left: Vec<(PathBuf, Vec<PathBuf>)> =
        files.iter().map(|file| (file.clone(), imports_within_cli(file, &files))).collect();
    let arrows: usize = left.iter().map(|(_, imports)| imports.len()).sum();
    assert!(arrows > files.len(), "the imports are not seen: {arrows} in {} files", files.len());
    // A file that imports none of those that are left is in no circle.
    loop {
        let names: Vec<PathBuf> = left.iter().map(|(file, _)| file.clone()).collect();
        let before = left.len();
        left.retain(|(_, imports)| imports.iter().any(|import| names.contains(import)));
        if left.len() == before {
            break;
        }
    }
    assert!(left.is_empty(), "a circle is among these: {left:#?}");
}

#[test]
fn every_script_tells_about_itself_and_has_its_row() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = fs::read_to_string(root.join("CONTRIBUTING.md")).unwrap();
    let mut scripts = 0;
    for entry in fs::read_dir(root.join("scripts")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name == "common.sh" {
            continue;
        }
        scripts += 1;
        assert!(
            table.contains(&format!("| `scripts/{name}")),
            "CONTRIBUTING.md does not say when to run {name}"
        );
        let mut command = std::process::Command::new(&path);
        let output = command.arg("--help").current_dir("/").output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{name}: {:?}", output.stderr);
        assert!(told.contains(name), "{name} --help tells {told:?}");
    }
    assert!(scripts > 5);
}
