//! Archives, and what independent tools make of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Manifest, succeed};

/// An archive that `scripts/fixtures` made.
pub fn fixture(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fixtures").join(name);
    assert!(path.exists(), "{} is missing: run this test with scripts/test", path.display());
    path
}

/// Extracts `tar` into the directory `dest` with GNU tar, as root, with all it can restore.
#[track_caller]
pub fn extract(tar: &Path, dest: &Path) {
    succeed(
        Command::new("tar")
            .args(["--extract", "--preserve-permissions", "--same-owner", "--numeric-owner"])
            .args(["--xattrs", "--xattrs-include=*", "--warning=none", "--sparse"])
            .arg("--file")
            .arg(tar)
            .arg("--directory")
            .arg(dest),
    );
}

/// What bsdtar says of every entry of `tar`.
#[track_caller]
pub fn mtree(tar: &Path) -> Manifest {
    let mut source = std::ffi::OsString::from("@");
    source.push(tar);
    let text = succeed(
        Command::new("bsdtar")
            .args(["--create", "--file", "-", "--format=mtree"])
            .arg("--options=!all,type,mode,uid,gid,size,time,link,device,sha256")
            .arg(source),
    );
    Manifest::from_mtree(&text)
}
