//! `imagefs history`, `blame` and `diff`: what the user is told, and with which status.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use insta::assert_snapshot;
use rustix::process::{Pid, Signal, kill_process};

use super::build::Layer;
use super::image;
use crate::support::{Daemon, Outcome, Sandbox, archives, wait_until};

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    let base = || {
        Layer::new(0)
            .dir("./")
            .dir("etc/")
            .file("etc/secret", "1234")
            .file("etc/passwd", "root")
            .symlink("link", "etc/passwd")
            .symlink("configuration", "etc")
    };
    let fresh = || Layer::new(1).file("etc/passwd", "user").file("etc/new/motd", "hello\n").without("none");
    image(&sandbox.path(""), "a", [base(), fresh(), Layer::new(2).without("etc/secret").dir("etc/")]);
    image(&sandbox.path(""), "b", [base(), fresh()]);
    sandbox
}

fn run(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let Outcome { code, stdout, stderr } = sandbox.run(&mut sandbox.imagefs(arguments));
    format!("{stdout}{stderr}status {}", code.unwrap())
}

#[test]
fn history_tells_what_each_layer_does() {
    let sandbox = sandbox();
    // How well umoci compresses is its own affair.
    insta::with_settings!({filters => vec![(r"\d\d\d B", "nnn B")]}, {
        assert_snapshot!(run(&sandbox, &["history", "oci:l:a"]), @r"
        LAYER  DIFF ID       SIZE   ENTRIES  ADDED  CHANGED  REMOVED  CREATED BY
        0      c7cb4a8cf0a4  nnn B  6        5      0        0        step 0
        1      d6f0de7b8568  nnn B  3        2      1        0        step 1
        2      9611fdc72b29  nnn B  2        0      1        1        step 2
        status 0
        ");
    });
    let json = sandbox.run(&mut sandbox.imagefs(["history", "--json", "oci:l:a"])).success().stdout;
    let layers: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(layers[2]["removed"], 1);
    assert_eq!(layers[2]["created_by"], "step 2");
    assert!(layers[2]["diff_id"].as_str().unwrap().starts_with("sha256:"));
}

#[test]
fn du_tells_what_each_layer_wastes() {
    let sandbox = sandbox();
    // Of layer 0, one file is replaced by layer 1, and the other removed by layer 2.
    assert_snapshot!(run(&sandbox, &["du", "--layers", "oci:l:a"]), @r"
    LAYER  DIFF ID       FILES  WASTED  CREATED BY
    0      c7cb4a8cf0a4  8 B    8 B     step 0
    1      d6f0de7b8568  10 B   0 B     step 1
    2      9611fdc72b29  0 B    0 B     step 2

    18 B in files, 8 B wasted: 55.6 % efficient
    status 0
    ");
    let json = sandbox.run(&mut sandbox.imagefs(["du", "--layers", "--json", "oci:l:b"])).success().stdout;
    let layers: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&layers[0]["bytes"], &layers[0]["wasted"]), (&8.into(), &4.into()));
}

#[test]
fn blame_tells_who_did_something_to_a_path() {
    let sandbox = sandbox();
    let blame = |path: &str| {
        let json = sandbox.run(&mut sandbox.imagefs(["blame", "--json", "oci:l:a", path])).success().stdout;
        let deeds: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
        let deeds = deeds.iter().map(|d| format!("{} {}", d["layer"], d["deed"].as_str().unwrap()));
        deeds.collect::<Vec<_>>().join(", ")
    };
    assert_eq!(blame("/etc/secret"), "0 added, 2 removed");
    assert_eq!(blame("etc/passwd"), "0 added, 1 replaced");
    assert_eq!(blame("configuration/../etc/./new//motd"), "1 added");
    assert_eq!(blame("configuration/passwd"), "0 added, 1 replaced");
    assert_eq!(blame("link"), "0 added", "the link, not what it leads to");
    assert_eq!(blame("etc"), "0 added, 2 changed");
    assert_eq!(blame("../../.."), "0 added");
    let joined = run(&sandbox, &["blame", "oci:l:a:/etc/secret"]);
    assert_eq!(joined, run(&sandbox, &["blame", "oci:l:a", "/etc/secret"]));
    assert_eq!(
        run(&sandbox, &["blame", "oci:l:a", "etc/none"]),
        "error: no layer of oci:l:a has ever had etc/none\nstatus 3"
    );
}

#[test]
fn the_cache_tells_how_many_images_share_a_layer() {
    let sandbox = sandbox();
    for image in ["oci:l:a", "oci:l:b"] {
        sandbox.run(&mut sandbox.imagefs(["history", image])).success();
    }
    let table = sandbox.run(&mut sandbox.imagefs(["cache", "ls"])).success().stdout;
    let mut shared: Vec<_> = table
        .lines()
        .filter(|line| line.contains("  layer  "))
        .map(|line| line.split("  layer  ").nth(1).unwrap().split_whitespace().next().unwrap())
        .collect();
    shared.sort();
    assert_eq!(shared, ["1", "2", "2"], "{table}");
}

#[test]
fn a_tar_has_no_layers_to_tell_about() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("root.tar"), Layer::new(0).file("etc/f", "").tar()).unwrap();
    for arguments in [&["history", "./root.tar"][..], &["blame", "./root.tar", "etc/f"]] {
        let told = run(&sandbox, arguments);
        let tar = sandbox.path("root.tar");
        assert!(told.starts_with(&format!("error: the layers of {tar:?} are not known\nhint: ")), "{told}");
        assert!(told.ends_with("status 2"), "{told}");
    }
}

#[test]
fn diff_tells_every_difference() {
    let sandbox = sandbox();
    assert_eq!(run(&sandbox, &["diff", "oci:l:a", "oci:l:a"]), "status 0");
    assert_snapshot!(run(&sandbox, &["diff", "oci:l:a", "oci:l:b"]), @r"
    changed  /etc  mode 0712 -> 0702, uid 1202 -> 1002, gid 2202 -> 2002, mtime 1000000202.000000000 -> 1000000002.000000000
    added    /etc/secret
    status 1
    ");
    std::fs::write(
        sandbox.path("root.tar"),
        Layer::new(0)
            .dir("./")
            .dir("etc/")
            .file("etc/passwd", "USER")
            .fifo("link")
            .symlink("configuration", "/etc")
            .tar(),
    )
    .unwrap();
    assert_snapshot!(run(&sandbox, &["diff", "oci:l:b", "./root.tar"]), @r"
    changed  /configuration  uid 1006 -> 1005, gid 2006 -> 2005, mtime 1000000006.000000000 -> 1000000005.000000000, target etc -> /etc
    removed  /etc/new
    removed  /etc/new/motd
    changed  /etc/passwd  mode 0745 -> 0703, uid 1101 -> 1003, gid 2101 -> 2003, mtime 1000000101.000000000 -> 1000000003.000000000, content
    removed  /etc/secret
    changed  /link  type symlink -> fifo
    status 1
    ");
    let json = sandbox.run(&mut sandbox.imagefs(["diff", "--json", "oci:l:b", "./root.tar"])).stdout;
    let rows: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    let row = rows.iter().find(|row| row["path"] == "/etc/passwd").unwrap();
    let content = row["attributes"].as_array().unwrap().iter().find(|a| a["attribute"] == "content").unwrap();
    // By sha256sum.
    assert_eq!(content["before"], "sha256:04f8996da763b7a969b1028ee3007569eaf3a635486ddab211d512c85b9df8fb");
    assert_ne!(content["after"], content["before"]);
}

#[test]
fn diff_tells_times_before_1970() {
    let sandbox = Sandbox::new();
    for (name, times) in [("before.tar", ["-0.5", "-1.25"]), ("after.tar", ["-1.5", "1.25"])] {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, time) in ["a", "b"].iter().zip(times) {
            builder.append_pax_extensions([("mtime", time.as_bytes())]).unwrap();
            let mut header = tar::Header::new_ustar();
            header.set_size(0);
            builder.append_data(&mut header, path, std::io::empty()).unwrap();
        }
        std::fs::write(sandbox.path(name), builder.into_inner().unwrap()).unwrap();
    }
    assert_snapshot!(run(&sandbox, &["diff", "./before.tar", "./after.tar"]), @r"
    changed  /a  mtime -0.500000000 -> -1.500000000
    changed  /b  mtime -1.250000000 -> 1.250000000
    status 1
    ");
}

#[test]
fn diff_tells_which_names_are_links_of_each_other() {
    let sandbox = Sandbox::new();
    let write = |name: &str, links: [(&str, &str); 3]| {
        let files = Layer::new(0).dir("./").file("a", "1").file("new", "1").file("z", "1");
        let layer = links.into_iter().fold(files, |layer, (path, target)| layer.link(path, target));
        std::fs::write(sandbox.path(name), layer.tar()).unwrap();
    };
    write("before.tar", [("b", "a"), ("y", "z"), ("x", "y")]);
    write("same.tar", [("y", "z"), ("x", "z"), ("b", "a")]);
    write("after.tar", [("y", "a"), ("x", "z"), ("b", "z")]);
    write("fewer.tar", [("y", "z"), ("x", "new"), ("b", "a")]);
    let diff = |after: &str| run(&sandbox, &["diff", "./before.tar", after]);
    assert_eq!(diff("./same.tar"), "status 0");
    assert_snapshot!(diff("./after.tar"), @r"
    changed  /b  mode 0702 -> 0704, uid 1002 -> 1004, gid 2002 -> 2004, mtime 1000000002.000000000 -> 1000000004.000000000, links 2 -> 3, name /a -> /b
    changed  /x  name /x -> /b
    changed  /y  mode 0704 -> 0702, uid 1004 -> 1002, gid 2004 -> 2002, mtime 1000000004.000000000 -> 1000000002.000000000, links 3 -> 2, name /x -> /a
    changed  /z  name /x -> /b
    status 1
    ");
    assert_snapshot!(diff("./fewer.tar"), @r"
    changed  /new  links 1 -> 2
    changed  /x  mode 0704 -> 0703, uid 1004 -> 1003, gid 2004 -> 2003, mtime 1000000004.000000000 -> 1000000003.000000000, links 3 -> 2, name /x -> /new
    changed  /y  links 3 -> 2, name /x -> /y
    changed  /z  links 3 -> 2, name /x -> /y
    status 1
    ");
}

#[test]
fn diff_is_interrupted_while_it_compares() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("empty.tar"), Layer::new(0).dir("./").tar()).unwrap();
    let full = (0..5000).fold(Layer::new(0), |layer, n| layer.file(&format!("{n:090}"), ""));
    std::fs::write(sandbox.path("full.tar"), full.tar()).unwrap();
    let mut diff = sandbox.imagefs(["diff", "./empty.tar", "./full.tar"]);
    let mut diff = diff.stdout(Stdio::piped()).spawn().unwrap();
    // Once it has begun to print; then nobody reads on, and it can only wait.
    let mut printed = BufReader::new(diff.stdout.take().unwrap());
    printed.read_line(&mut String::new()).unwrap();
    kill_process(Pid::from_child(&diff), Signal::INT).unwrap();
    assert!(wait_until(|| sandbox.processes().is_empty()), "it goes on");
    assert_eq!(diff.wait().unwrap().code(), Some(130));
}

#[test]
fn an_export_differs_from_the_layers_as_documented() {
    let mut replaced = 0;
    // The Debian image has files of its own where Docker puts others; Podman puts none.
    for (daemon, image) in
        [(Daemon::docker(), "torture"), (Daemon::docker(), "python"), (Daemon::podman(), "torture")]
    {
        let sandbox = Sandbox::new();
        let name = format!("imagefs-test/{image}");
        let layers =
            format!("docker-archive:{}", archives::fixture("forms").join(image).join("docker.tar").display());
        let exact = ["diff", "--json", "--exact", "--host", daemon.host(), &name, &layers];
        assert_eq!(run(&sandbox, &exact), "[]\nstatus 0", "{}", daemon.name);
        let told = run(&sandbox, &["diff", "--json", "--host", daemon.host(), &layers, &name]);
        let (json, status) = told.rsplit_once("status ").unwrap();
        assert_eq!(status, "1");
        let rows: Vec<serde_json::Value> = serde_json::from_str(json).unwrap();
        for row in &rows {
            assert!(documented(daemon.name == "docker", row), "{}: {row}", daemon.name);
        }
        let content = |row: &&serde_json::Value| row["attributes"].to_string().contains("\"content\"");
        replaced += rows.iter().filter(content).count();
    }
    assert!(replaced > 0, "Docker empties files that the image has");
}

/// Whether a difference is among those of docs/semantics.md, "What a daemon changes".
fn documented(docker: bool, row: &serde_json::Value) -> bool {
    // A path that is no UTF-8 is another thing than a string, and none of these.
    let (path, change) = (row["path"].as_str().unwrap_or_default(), row["change"].as_str().unwrap());
    let replaced = ["/dev/console", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab"];
    if docker && replaced.contains(&path) {
        return change != "removed";
    }
    if docker && ["/dev", "/dev/pts", "/dev/shm", "/proc", "/sys"].contains(&path) && change == "added" {
        return true;
    }
    change == "changed"
        && row["attributes"].as_array().unwrap().iter().all(|attribute| {
            let [before, after] = ["before", "after"].map(|side| attribute[side].as_str().unwrap());
            match attribute["attribute"].as_str().unwrap() {
                _ if path == "/" => true,
                "mtime" if docker && (path == "/etc" || path == "/dev") => true,
                "mtime" => {
                    let secs: i64 = before.split_once('.').unwrap().0.parse().unwrap();
                    after == format!("{}.000000000", secs.max(0))
                }
                // Its second name says 0644 in its header.
                "mode" => path.starts_with("/links/pipe") && after == "0644",
                "xattrs" => {
                    let lost = |name: &str| match docker {
                        true => name != "security.capability",
                        // Its value is empty.
                        false => name == "user.empty",
                    };
                    after.is_empty() && before.split(' ').all(lost)
                }
                _ => false,
            }
        })
}
