//! Builds the helper that reads a build's filesystems (`helper/`): a static program of the standard library alone, which goes
//! into the binary. Where a static one cannot be made, as on a system without glibc's static library, imagefs is built without.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=helper");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("imagefs-helper");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or("rustc".into()));
    rustc.args(["--crate-name", "imagefs_helper", "--crate-type", "bin", "--edition", "2024"]);
    rustc.args(["--target", &variable("TARGET"), "-C", "target-feature=+crt-static"]);
    rustc.args(["-C", "opt-level=s", "-C", "panic=abort", "-C", "strip=symbols", "-C", "codegen-units=1"]);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = std::ffi::OsString::from("linker=");
        option.push(linker);
        rustc.arg("-C").arg(option);
    }
    rustc.arg("-o").arg(&out).arg("helper/main.rs");
    let built = rustc.output();
    if !built.as_ref().is_ok_and(|built| built.status.success()) {
        let why = built
            .map_or_else(|error| error.to_string(), |built| String::from_utf8_lossy(&built.stderr).into());
        let why =
            why.lines().find(|line| line.starts_with("error")).unwrap_or("it cannot be linked").to_owned();
        println!(
            "cargo::warning=imagefs build reads through BuildKit's own calls alone, for its helper was not built: {why}"
        );
        fs::write(&out, b"").expect("cargo's own directory can be written to");
    }
    println!("cargo::rustc-env=IMAGEFS_HELPER={}", out.display());
}
