//! The verbs that read a source without mounting it, mostly over tars: what they say, and where copies go.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Stdio;

use insta::assert_snapshot;

use crate::support::archives::{extract, fixture};
use crate::support::proxy::{Fault, Proxy};
use crate::support::{Daemon, Manifest, Outcome, Sandbox, as_nobody, succeed};

const SMALL: &str = "imagefs-test/small";

/// A sandbox with a small tar in it.
fn place() -> Sandbox {
    let sandbox = Sandbox::new();
    let script = r#"
        mkdir -p root/etc/conf.d root/usr/bin root/dev root/empty
        printf 'ID=test\n' >root/etc/os-release
        seq 100000 >root/etc/numbers; printf x >root/etc/conf.d/a.conf; printf xy >root/etc/.hidden
        printf '#!/bin/sh\n' >root/usr/bin/tool; ln root/usr/bin/tool root/usr/bin/other
        ln -s /etc/os-release root/etc/release; ln -s usr/bin root/bin; ln -s nowhere root/dangling
        ln -s loop root/loop; mkfifo root/dev/pipe; mknod root/dev/null c 1 3
        printf '' >root/$'new\nline\e[31m'
        setfattr -n user.note -v hi root/etc/os-release
        chmod 4755 root/usr/bin/tool; chmod 1777 root/empty; chmod 640 root/etc/numbers; chown 12:34 root/etc/numbers
        find root -exec touch --no-dereference --date @1600000000.5 {} +
        tar --create --format=pax --xattrs --xattrs-include='*' --file root.tar --directory root \
            --sort=name --numeric-owner .
    "#;
    succeed(sandbox.command("bash").args(["-euc", script]));
    sandbox
}

fn run(sandbox: &Sandbox, arguments: &[&str]) -> Outcome {
    sandbox.run(sandbox.imagefs(arguments).env("COLUMNS", "80"))
}

/// Status and all that was printed.
fn told(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let Outcome { code, stdout, stderr } = run(sandbox, arguments);
    let mut text = format!("status: {}\n", code.unwrap());
    for (name, printed) in [("stdout", stdout), ("stderr", stderr)] {
        if !printed.is_empty() {
            text += &format!("{name}:\n{printed}");
        }
    }
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n").replace(sandbox.path("").to_str().unwrap(), "/sandbox/")
}

#[test]
fn ls_lists_as_its_namesake() {
    let sandbox = place();
    assert_snapshot!(told(&sandbox, &["ls", "./root.tar", "/etc"]), @r#"
    status: 0
    stdout:
    conf.d
    numbers
    os-release
    release
    "#);
    assert_snapshot!(told(&sandbox, &["ls", "-la", "./root.tar", "etc/../etc"]), @r#"
    status: 0
    stdout:
    -rw-r--r-- 1  0  0      2 Sep 13  2020 .hidden
    drwxr-xr-x 2  0  0   4096 Sep 13  2020 conf.d
    -rw-r----- 1 12 34 588895 Sep 13  2020 numbers
    -rw-r--r-- 1  0  0      8 Sep 13  2020 os-release
    lrwxrwxrwx 1  0  0     15 Sep 13  2020 release -> /etc/os-release
    "#);
    assert_snapshot!(told(&sandbox, &["ls", "-R", "./root.tar", "/usr"]), @r#"
    status: 0
    stdout:
    /usr:
    bin

    /usr/bin:
    other
    tool
    "#);
    assert_snapshot!(told(&sandbox, &["ls", "./root.tar", "/bin"]), @r#"
    status: 0
    stdout:
    other
    tool
    "#);
    assert_snapshot!(told(&sandbox, &["ls", "-l", "./root.tar", "/bin"]), @r#"
    status: 0
    stdout:
    lrwxrwxrwx 1 0 0 7 Sep 13  2020 /bin -> usr/bin
    "#);
    assert_snapshot!(told(&sandbox, &["ls", "-l", "./root.tar", "/dev"]), @r#"
    status: 0
    stdout:
    crw-r--r-- 1 0 0 1, 3 Sep 13  2020 null
    prw-r--r-- 1 0 0    0 Sep 13  2020 pipe
    "#);
    assert_snapshot!(told(&sandbox, &["ls", "./root.tar", "/none"]), @r#"
    status: 3
    stderr:
    error: no such file or directory: "/none"
    "#);
    assert_snapshot!(told(&sandbox, &["ls", "--json", "./root.tar", "/usr/bin"]), @r#"
    status: 0
    stdout:
    [
      {
        "path": "/usr/bin/other",
        "type": "file",
        "mode": "4755",
        "uid": 0,
        "gid": 0,
        "size": 10,
        "mtime": "2020-09-13T12:26:40.5Z",
        "mtime_sec": 1600000000,
        "mtime_nsec": 500000000,
        "inode": 19,
        "links": 2
      },
      {
        "path": "/usr/bin/tool",
        "type": "file",
        "mode": "4755",
        "uid": 0,
        "gid": 0,
        "size": 10,
        "mtime": "2020-09-13T12:26:40.5Z",
        "mtime_sec": 1600000000,
        "mtime_nsec": 500000000,
        "inode": 19,
        "links": 2
      }
    ]
    "#);
}

#[test]
fn cat_prints_bytes_and_follows_links_inside() {
    let sandbox = place();
    assert_snapshot!(told(&sandbox, &["cat", "./root.tar", "etc/release", "/bin/tool"]), @r#"
    status: 0
    stdout:
    ID=test
    #!/bin/sh
    "#);
    assert_snapshot!(told(&sandbox, &["cat", "./root.tar", "/etc"]), @r#"
    status: 8
    stderr:
    error: not a regular file: "/etc"
    "#);
    assert_snapshot!(told(&sandbox, &["cat", "./root.tar", "/loop"]), @r#"
    status: 8
    stderr:
    error: too many levels of symbolic links: "/loop"
    "#);
    assert_snapshot!(told(&sandbox, &["cat", "--json", "./root.tar", "/etc/release"]), @r#"
    status: 0
    stdout:
    [
      {
        "path": "/etc/release",
        "content": "ID=test\n"
      }
    ]
    "#);
    assert_snapshot!(told(&sandbox, &["cat", "--mount", "7", "./root.tar", "/etc"]), @r#"
    status: 3
    stderr:
    error: mount index 7 is out of bounds (1 available)
    hint: the only mount is 0, the root filesystem
    "#);
    assert_snapshot!(told(&sandbox, &["cat", "--mount", "-1", "./root.tar", "/etc"]), @r#"
    status: 3
    stderr:
    error: mount index -1 is out of bounds (1 available)
    hint: the only mount is 0, the root filesystem
    "#);
    assert_snapshot!(told(&sandbox, &["cat", "--mount", "data", "./root.tar", "/etc"]), @r#"
    status: 3
    stderr:
    error: there is no mount "data"
    hint: there is "rootfs"
    "#);
    let numbers = run(&sandbox, &["cat", "--mount", "rootfs", "./root.tar", "/etc/numbers"]).success().stdout;
    assert_eq!(numbers, fs::read_to_string(sandbox.path("root/etc/numbers")).unwrap());
}

#[test]
fn large_files_are_told_as_json_without_being_held() {
    let sandbox = Sandbox::new();
    let text = "ä€𝄞\"\\\n\0x".repeat(1 << 20);
    let mut bytes = text.clone().into_bytes();
    // What is no text is known at the end alone.
    bytes.push(0xff);
    fs::write(sandbox.path("text"), &text).unwrap();
    fs::write(sandbox.path("bytes"), &bytes).unwrap();
    succeed(sandbox.command("tar").args(["--create", "--file", "big.tar", "text", "bytes"]));
    run(&sandbox, &["ls", "./big.tar"]).success();
    // Less than it would take to hold one of them.
    let output = sandbox
        .command("prlimit")
        .args([
            "--data=12000000",
            env!("CARGO_BIN_EXE_imagefs"),
            "cat",
            "--json",
            "./big.tar",
            "text",
            "bytes",
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told[0]["path"], "text");
    assert!(told[0]["content"].as_str() == Some(&text), "another text");
    let list: Vec<u8> = serde_json::from_value(told[1]["content"].clone()).unwrap();
    assert!(list == bytes, "other bytes");
}

#[test]
fn stat_tells_all_there_is() {
    let sandbox = place();
    assert_snapshot!(told(&sandbox, &["stat", "./root.tar", "/etc/os-release"]), @r#"
    status: 0
    stdout:
        Path: /etc/os-release
        Type: file
        Size: 8
        Mode: 0644 (-rw-r--r--)
       Owner: 0:0
    Modified: 2020-09-13T12:26:40.5Z
       Inode: 13
       Links: 1
       Xattr: user.note="hi"
    "#);
    assert_snapshot!(told(&sandbox, &["stat", "./root.tar", "/etc/release"]), @r#"
    status: 0
    stdout:
        Path: /etc/release
        Type: symlink
      Target: /etc/os-release
        Size: 15
        Mode: 0777 (lrwxrwxrwx)
       Owner: 0:0
    Modified: 2020-09-13T12:26:40.5Z
       Inode: 14
       Links: 1
    "#);
    assert_snapshot!(told(&sandbox, &["stat", "-L", "--json", "./root.tar", "/etc/release"]), @r#"
    status: 0
    stdout:
    {
      "path": "/etc/release",
      "type": "file",
      "mode": "0644",
      "uid": 0,
      "gid": 0,
      "size": 8,
      "mtime": "2020-09-13T12:26:40.5Z",
      "mtime_sec": 1600000000,
      "mtime_nsec": 500000000,
      "inode": 13,
      "links": 1,
      "xattrs": [
        {
          "name": "user.note",
          "value": "hi"
        }
      ]
    }
    "#);
    assert_snapshot!(told(&sandbox, &["stat", "./root.tar", "/dev/null"]), @r#"
    status: 0
    stdout:
        Path: /dev/null
        Type: character device
      Device: 1, 3
        Mode: 0644 (crw-r--r--)
       Owner: 0:0
    Modified: 2020-09-13T12:26:40.5Z
       Inode: 5
       Links: 1
    "#);
    assert_snapshot!(told(&sandbox, &["stat", "./root.tar", "/etc/os-release/x"]), @r#"
    status: 8
    stderr:
    error: not a directory: "/etc/os-release/x"
    "#);
}

#[test]
fn tree_draws_what_is_there() {
    let sandbox = place();
    assert_snapshot!(told(&sandbox, &["tree", "./root.tar", "/etc"]), @r#"
    status: 0
    stdout:
    /etc
    ├── conf.d
    │   └── a.conf
    ├── numbers
    ├── os-release
    └── release -> /etc/os-release

    1 directory, 4 files
    "#);
    assert_snapshot!(told(&sandbox, &["tree", "-aL", "1", "./root.tar", "/etc"]), @r#"
    status: 0
    stdout:
    /etc
    ├── .hidden
    ├── conf.d
    ├── numbers
    ├── os-release
    └── release -> /etc/os-release

    1 directory, 4 files
    "#);
    let json = run(&sandbox, &["tree", "--json", "./root.tar", "/etc/conf.d"]).success().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((json["path"].as_str(), json["type"].as_str()), (Some("/etc/conf.d"), Some("directory")));
    assert_eq!(json["contents"][0]["path"], "/etc/conf.d/a.conf");
}

#[test]
fn find_finds_by_name_type_and_size() {
    let sandbox = place();
    assert_snapshot!(told(&sandbox, &["find", "./root.tar", "-name", "*o*", "-type", "f"]), @r#"
    status: 0
    stdout:
    /etc/conf.d/a.conf
    /etc/os-release
    /usr/bin/other
    /usr/bin/tool
    "#);
    assert_snapshot!(told(&sandbox, &["find", "./root.tar", "/etc", "-size", "+100k"]), @r#"
    status: 0
    stdout:
    /etc/numbers
    "#);
    assert_snapshot!(told(&sandbox, &["find", "./root.tar", "--type", "p,c,l"]), @r#"
    status: 0
    stdout:
    /bin
    /dangling
    /dev/null
    /dev/pipe
    /etc/release
    /loop
    "#);
    // A directory has the size that it has in a mount.
    assert_snapshot!(told(&sandbox, &["find", "./root.tar", "/etc", "-size", "8"]), @r#"
    status: 0
    stdout:
    /etc
    /etc/conf.d
    "#);
    assert_snapshot!(told(&sandbox, &["find", "./root.tar", "/usr", "-size", "0"]), @"status: 0");
    assert_snapshot!(told(&sandbox, &["find", "./root.tar", "-name", "none"]), @r#"status: 0"#);
    // Each has to fit, as for find(1).
    let both = ["find", "./root.tar", "/etc", "-type", "f,d", "-type", "d"];
    assert_snapshot!(told(&sandbox, &both), @r#"
    status: 0
    stdout:
    /etc
    /etc/conf.d
    "#);
    assert_snapshot!(told(&sandbox, &["find", "./root.tar", "-type", "f", "-type", "d"]), @r#"status: 0"#);
    assert_snapshot!(told(&sandbox, &["find", "./root.tar", "-type", "x"]), @r#"
    status: 2
    stderr:
    error: invalid value 'x' for '--type <T[,T...]>': write f, d, l, b, c, p or s

    For more information, try '--help'.
    "#);
    let zeros = run(&sandbox, &["find", "./root.tar", "/", "-0", "-name", "new*"]).success().stdout;
    assert_eq!(zeros, "/new\nline\u{1b}[31m\0");
}

#[test]
fn inspect_shows_the_mount_table() {
    let sandbox = place();
    let json = run(&sandbox, &["inspect", "--json", "./root.tar"]).success().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["kind"], "tar");
    assert_eq!(json["command"], serde_json::json!(["/bin/sh"]));
    assert_eq!(json["mounts"][0]["name"], "rootfs");
    assert_eq!(json["mounts"][0]["type"], "rootfs");
    let text = run(&sandbox, &["inspect", "./root.tar"]).success().stdout;
    assert!(text.contains("MOUNT  NAME    DESTINATION"), "{text}");
}

#[test]
fn who_has_seen_enough_is_not_complained_about() {
    let sandbox = place();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = sandbox.imagefs(["cat", "./root.tar", "/etc/numbers"]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(141), Vec::new()));
}

#[test]
fn a_copy_is_what_gnu_tar_extracts() {
    let tar = fixture("torture.tar");
    let sandbox = Sandbox::new();
    extract(&tar, &sandbox.directory("expected"));
    let expected = Manifest::read(&sandbox.path("expected")).with_holes(&sandbox.path("expected"));
    let source = tar.to_str().unwrap();
    run(&sandbox, &["cp", source, "/", "copied"]).success();
    let copied = Manifest::read(&sandbox.path("copied")).with_holes(&sandbox.path("copied"));
    expected.assert_same(&copied);

    // And by way of a tar.
    let archive = fs::File::create(sandbox.path("copy.tar")).unwrap();
    let mut command = sandbox.imagefs(["cp", source, "/", "-"]);
    assert!(command.stdout(archive).status().unwrap().success());
    extract(&sandbox.path("copy.tar"), &sandbox.directory("from-tar"));
    expected.ignoring("data").assert_same(&Manifest::read(&sandbox.path("from-tar")));
}

#[test]
fn a_copy_goes_into_a_directory_or_becomes_what_is_named() {
    let sandbox = place();
    sandbox.directory("out");
    run(&sandbox, &["cp", "./root.tar", "/etc/numbers", "out"]).success();
    run(&sandbox, &["cp", "./root.tar", "/etc/numbers", "out/other"]).success();
    run(&sandbox, &["cp", "./root.tar", "/etc", "out"]).success();
    run(&sandbox, &["cp", "./root.tar", "/bin", "out/link"]).success();
    run(&sandbox, &["cp", "-L", "./root.tar", "/bin", "out/real"]).success();
    let stat = |name: &str| fs::symlink_metadata(sandbox.path("out").join(name)).unwrap();
    assert_eq!(
        (stat("numbers").len(), stat("numbers").uid(), stat("numbers").mode() & 0o777),
        (588_895, 12, 0o640)
    );
    assert_eq!(stat("other").len(), 588_895);
    assert_eq!(stat("etc/conf.d/a.conf").len(), 1);
    assert!(stat("link").is_symlink() && stat("real").is_dir());
    assert_eq!(stat("real/tool").ino(), stat("real/other").ino());

    // What is in a directory, as for cp -r and docker cp.
    fs::create_dir(sandbox.path("contents")).unwrap();
    run(&sandbox, &["cp", "./root.tar", "/etc/.", "contents"]).success();
    assert!(sandbox.path("contents/numbers").exists() && !sandbox.path("contents/etc").exists());
    let refused = run(&sandbox, &["cp", "./root.tar", "/etc/numbers/.", "contents"]);
    assert!(refused.code == Some(8) && refused.stderr.contains("is not a directory"), "{refused:#?}");
    let again = run(&sandbox, &["cp", "./root.tar", "/etc/numbers", "out"]);
    assert_eq!(again.code, Some(8), "{again:?}");
    assert!(again.stderr.contains("exists already"), "{again:?}");
    fs::write(sandbox.path("out/numbers"), "mine").unwrap();
    run(&sandbox, &["cp", "--force", "./root.tar", "/etc/numbers", "out"]).success();
    assert_eq!(stat("numbers").len(), 588_895);
    let nowhere = run(&sandbox, &["cp", "./root.tar", "/etc/numbers", "absent/x"]);
    assert_eq!(nowhere.code, Some(8), "{nowhere:?}");
    // A slash at the end wants a directory, which only one can become.
    for dest in ["out/new/", "out/new/.", "out/numbers/"] {
        let refused = run(&sandbox, &["cp", "--force", "./root.tar", "/etc/os-release", dest]);
        assert_eq!(refused.code, Some(8), "{refused:?}");
        assert_eq!(refused.stderr, format!("error: {dest} is not a directory\n"));
        assert!(!sandbox.path("out/new").exists());
    }
    run(&sandbox, &["cp", "./root.tar", "/etc", "out/new/"]).success();
    assert_eq!(stat("new/numbers").len(), 588_895);
}

#[test]
fn a_link_that_is_to_be_followed_and_leads_nowhere_is_not_copied() {
    let sandbox = place();
    symlink("/none", sandbox.path("root/rooted")).unwrap();
    succeed(sandbox.command("tar").args(["--create", "--file", "root.tar", "--directory", "root", "."]));
    for dest in ["copy", "-"] {
        for link in ["dangling", "rooted"] {
            let outcome = run(&sandbox, &["cp", "-L", "./root.tar", link, dest]);
            assert_eq!((outcome.code, &*outcome.stdout), (Some(3), ""), "{outcome:?}");
            assert!(outcome.stderr.contains("no such file or directory"), "{outcome:?}");
        }
    }
    assert!(fs::symlink_metadata(sandbox.path("copy")).is_err());
    run(&sandbox, &["cp", "./root.tar", "rooted", "copy"]).success();
    assert_eq!(fs::read_link(sandbox.path("copy")).unwrap(), Path::new("/none"));
}

#[test]
fn whoever_is_not_root_copies_what_they_may() {
    let sandbox = place();
    let out = sandbox.directory("out");
    for path in [sandbox.path(""), out.clone(), sandbox.path("cache"), sandbox.path("home")] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    for path in [&out, &sandbox.path("cache")] {
        rustix::fs::chown(path, Some(rustix::fs::Uid::from_raw(65534)), None).unwrap();
    }
    fs::set_permissions(sandbox.path("root.tar"), fs::Permissions::from_mode(0o644)).unwrap();
    let mut command = sandbox.command("sh");
    as_nobody(&mut command, "", env!("CARGO_BIN_EXE_imagefs"));
    command.args(["cp", "--json", "./root.tar", "/", "out/copy"]);
    let outcome = sandbox.run(&mut command).success();
    let tally: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((&tally["devices_lost"], &tally["special_bits_lost"]), (&1.into(), &1.into()), "{tally}");
    let tool = fs::metadata(out.join("copy/usr/bin/tool")).unwrap();
    assert_eq!((tool.uid(), tool.mode() & 0o7777), (65534, 0o755));
    // That files become theirs is told by the tally alone: every cp(1) does that.
    assert!(tally["owners_lost"].as_u64() > Some(0), "{tally}");
    assert!(outcome.stderr.contains("could not keep devices"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("the owner of"), "{}", outcome.stderr);

    // Whatever their umask.
    let mut command = sandbox.command("sh");
    as_nobody(&mut command, "umask 0777;", env!("CARGO_BIN_EXE_imagefs"));
    command.args(["cp", "--quiet", "./root.tar", "/etc", "out/masked"]);
    sandbox.run(&mut command).success();
    let mode = |name: &str| fs::metadata(out.join("masked").join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("conf.d"), mode("conf.d/a.conf"), mode("numbers")), (0o755, 0o644, 0o640));
}

/// Entries of a tar, each with the header's own bytes: nothing is made safe on the way.
fn hostile(entries: &[(&str, tar::EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, entry_type, link, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(*entry_type);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        // null(4), for a device.
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        header.set_cksum();
        tar.write_all(header.as_bytes()).unwrap();
        tar.write_all(content).unwrap();
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// Name, type, link target, content.
type Member = (&'static str, tar::EntryType, &'static str, &'static [u8]);

#[test]
fn no_copy_breaks_out() {
    use tar::EntryType::{Char, Directory, Link, Regular, Symlink};
    let archives: [&[Member]; 11] = [
        &[("/sandbox-canary", Regular, "", b"broken"), ("../canary", Regular, "", b"broken")],
        &[("a/../../canary", Regular, "", b"broken"), ("../../../../canary", Regular, "", b"broken")],
        &[("link", Symlink, "..", b""), ("link/canary", Regular, "", b"broken")],
        &[("link", Symlink, "../canary", b""), ("link", Regular, "", b"broken")],
        &[("out", Symlink, "/CANARYDIR", b""), ("out/canary", Regular, "", b"broken")],
        &[("hard", Link, "../canary", b""), ("hard", Regular, "", b"broken")],
        &[("hard", Link, "/etc/passwd", b"")],
        &[("dir", Directory, "", b""), ("dir", Symlink, "..", b""), ("dir/canary", Regular, "", b"broken")],
        &[("one", Symlink, "../canary", b""), ("two", Link, "one", b""), ("three", Link, "two", b"")],
        &[("device", Char, "", b""), ("device", Regular, "", b"broken")],
        &[("device", Char, "", b""), ("same", Link, "device", b"")],
    ];
    for (number, entries) in archives.iter().enumerate() {
        let sandbox = Sandbox::new();
        let out = sandbox.directory("out");
        fs::write(sandbox.path("canary"), "alive").unwrap();
        let mut tar = hostile(entries);
        let canary_dir = sandbox.path("").to_str().unwrap().trim_end_matches('/').to_owned();
        if number == 4 {
            let absolute =
                hostile(&[("out", Symlink, &canary_dir, b""), ("out/canary", Regular, "", b"broken")]);
            tar = absolute;
        }
        fs::write(sandbox.path("bad.tar"), tar).unwrap();
        // Into a directory that exists, and into a new one, twice over.
        for dest in ["out", "out/new", "out/new"] {
            run(&sandbox, &["cp", "--force", "./bad.tar", "/", dest]);
        }
        assert_eq!(fs::read(sandbox.path("canary")).unwrap(), b"alive", "archive {number}");
        assert_eq!(fs::metadata(sandbox.path("canary")).unwrap().nlink(), 1, "archive {number}");
        let mut left: Vec<_> =
            fs::read_dir(sandbox.path("")).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["bad.tar", "cache", "canary", "home", "out", "run", "tmp"], "archive {number}");
        assert!(out.is_dir());
        assert!(!Path::new("/sandbox-canary").exists());
        // A device is made and never opened.
        if number == 9 {
            assert_eq!(fs::read(out.join("device")).unwrap(), b"broken");
        } else if number == 10 {
            let made = fs::symlink_metadata(out.join("same")).unwrap();
            assert!(made.file_type().is_char_device());
            assert_eq!((made.rdev(), made.nlink()), (rustix::fs::makedev(1, 3), 2));
        }
    }
}

#[test]
fn a_copy_follows_no_link_that_is_there_already() {
    let sandbox = place();
    let (out, outside) = (sandbox.directory("out"), sandbox.directory("outside"));
    fs::write(outside.join("numbers"), "alive").unwrap();
    // Where the copy would put a directory, a file, and a file's directory.
    symlink(&outside, out.join("etc")).unwrap();
    let refused = run(&sandbox, &["cp", "--force", "./root.tar", "/etc", "out"]);
    assert_eq!(refused.code, Some(8), "{refused:?}");
    symlink(outside.join("numbers"), out.join("numbers")).unwrap();
    run(&sandbox, &["cp", "--force", "./root.tar", "/etc/numbers", "out"]).success();
    assert!(!out.join("numbers").is_symlink());
    assert_eq!(fs::read(outside.join("numbers")).unwrap(), b"alive");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn names_reach_a_terminal_escaped() {
    let sandbox = place();
    // script(1) gives the command a terminal.
    let line = format!("{} find ./root.tar -name 'new*'", env!("CARGO_BIN_EXE_imagefs"));
    let output = sandbox
        .command("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let shown = output.stdout.trim_ascii_end();
    assert_eq!(String::from_utf8_lossy(shown), r"/new\nline\u{1b}[31m");
}

#[test]
fn a_verb_that_waits_shows_how_far_it_is_and_then_only_its_answer() {
    let sandbox = Sandbox::new();
    let proxy = Proxy::before(Daemon::docker().host(), Fault::HoldAfter(100_000));
    let start = |options: &str| {
        let verb = format!(
            "{} ls --color=never {options} --host {} {SMALL} /bin",
            env!("CARGO_BIN_EXE_imagefs"),
            proxy.address()
        );
        let mut script = sandbox.command("script");
        script.args(["--quiet", "--return", "--command", &verb, "/dev/null"]);
        script.env("TERM", "xterm").stdout(Stdio::piped()).spawn().unwrap()
    };
    let mut waiting = start("");
    let mut shown = Vec::new();
    // It is drawn for as long as the export stands still.
    while !shown.windows(7).any(|word| word == b"entries") {
        let mut piece = [0; 256];
        let n = waiting.stdout.as_mut().unwrap().read(&mut piece).unwrap();
        assert!(n > 0, "no bar: {}", shown.escape_ascii());
        shown.extend_from_slice(&piece[..n]);
    }
    proxy.release();
    let rest = waiting.wait_with_output().unwrap().stdout;
    let listed = b"busybox\r\nsh\r\ntouch\r\n";
    assert!(rest.ends_with(listed), "{}", rest.escape_ascii());
    // Nothing of it stays on the terminal: the last thing before the answer is that its line is wiped.
    let before = &rest[..rest.len() - listed.len()];
    assert!(before.ends_with(b"\x1b[2K") || before.ends_with(b"\r"), "{}", before.escape_ascii());
    assert_eq!(start("--quiet").wait_with_output().unwrap().stdout, listed);
}

/// What `imagefs` prints on success.
fn said(sandbox: &Sandbox, arguments: &[&str]) -> String {
    run(sandbox, arguments).success().stdout
}

#[test]
fn a_path_may_stand_behind_the_source() {
    let sandbox = place();
    for (joined, apart) in [
        (&["ls", "./root.tar:/etc"][..], &["ls", "./root.tar", "/etc"][..]),
        (&["ls", "tar:root.tar:/etc", "/usr"], &["ls", "tar:root.tar", "/etc", "/usr"]),
        (
            &["cat", "./root.tar:/etc/os-release", "/etc/numbers"],
            &["cat", "./root.tar", "etc/os-release", "etc/numbers"],
        ),
        (&["stat", "./root.tar:/bin", "/etc"], &["stat", "./root.tar", "/bin", "/etc"]),
        (&["tree", "./root.tar:/usr"], &["tree", "./root.tar", "/usr"]),
        (&["find", "./root.tar:/usr", "-type", "f"], &["find", "./root.tar", "/usr", "-type", "f"]),
        (&["cp", "./root.tar:/etc", "-"], &["cp", "./root.tar", "/etc", "-"]),
        (&["du", "./root.tar:/etc"], &["du", "./root.tar", "/etc"]),
    ] {
        let told = run(&sandbox, joined).success().stdout;
        assert!(!told.is_empty());
        assert_eq!(told, said(&sandbox, apart), "{joined:?}");
    }
    // A name with a colon and a slash of its own.
    succeed(sandbox.command("bash").args(["-euc", "mkdir odd:; cp root.tar odd:/x.tar"]));
    assert_eq!(said(&sandbox, &["cat", "odd:/x.tar", "/etc/os-release"]), "ID=test\n");
    assert_eq!(said(&sandbox, &["cat", "odd:/x.tar:/etc/os-release"]), "ID=test\n");
    assert_snapshot!(told(&sandbox, &["cat", "./root.tar"]), @r#"
    status: 2
    stderr:
    error: no path of the source was given
    hint: write it behind the source: SOURCE PATH, or SOURCE:/PATH
    "#);
    assert_snapshot!(told(&sandbox, &["cp", "./root.tar:/etc", "/usr", "x"]), @r#"
    status: 2
    stderr:
    error: one path is copied at a time
    hint: write either SOURCE PATH DEST, or SOURCE:/PATH DEST
    "#);
}

/// A mounted copy of the tar, which the tools that are compared with read.
fn beside_the_tools(sandbox: &Sandbox) -> std::path::PathBuf {
    sandbox.mount("mnt", ["-o", "flat,symlinks=raw", "./root.tar"])
}

#[test]
fn ls_sorts_and_writes_times_as_ls_does() {
    let sandbox = place();
    let script = "touch -d '2 hours ago' root/etc/numbers; touch -d 2001-02-03T04:05:06 root/etc/os-release
        tar --create --format=pax --file root.tar --directory root --sort=name --numeric-owner .";
    succeed(sandbox.command("bash").args(["-euc", script]));
    let mountpoint = beside_the_tools(&sandbox);
    for flags in ["-1t", "-1S", "-1tr", "-1Sr", "-1r", "-1A", "-1d"] {
        let theirs =
            succeed(sandbox.command("ls").args([flags, "etc"]).env("LC_ALL", "C").current_dir(&mountpoint));
        let ours = said(&sandbox, &["ls", flags, "./root.tar", "/etc"]).replace("/etc", "etc");
        assert_eq!(ours, String::from_utf8(theirs).unwrap(), "{flags}");
    }
    for zone in ["UTC", "Asia/Kathmandu", "America/Los_Angeles"] {
        let theirs = succeed(
            sandbox
                .command("ls")
                .args(["-ln", "--time-style=locale", "etc"])
                .envs([("LC_ALL", "C"), ("TZ", zone)])
                .current_dir(&mountpoint),
        );
        let ours =
            sandbox.run(sandbox.imagefs(["ls", "-l", "./root.tar", "/etc"]).env("TZ", zone)).success().stdout;
        // The first line of the tool is the number of blocks.
        let columns = |text: &str| -> Vec<Vec<String>> {
            let lines = text.lines().filter(|line| !line.starts_with("total"));
            lines.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
        };
        assert_eq!(columns(&ours), columns(&String::from_utf8(theirs).unwrap()), "{zone}");
    }
    sandbox.unmount(&mountpoint);
    assert_snapshot!(said(&sandbox, &["ls", "-ldh", "./root.tar", "/etc", "/usr/bin/tool"]), @r#"
    drwxr-xr-x 3 0 0 4.0 KiB Sep 13  2020 /etc
    -rwsr-xr-x 2 0 0    10 B Sep 13  2020 /usr/bin/tool
    "#);
    assert_snapshot!(said(&sandbox, &["ls", "-lh", "./root.tar", "/usr/bin"]), @r#"
    -rwsr-xr-x 2 0 0 10 B Sep 13  2020 other
    -rwsr-xr-x 2 0 0 10 B Sep 13  2020 tool
    "#);
}

#[test]
fn names_are_in_the_colours_that_ls_gives_them() {
    let sandbox = place();
    succeed(
        sandbox
            .command("bash")
            .args(["-euc", "touch root/etc/x.tar.gz; chmod 777 root/empty; tar cf root.tar -C root ."]),
    );
    let mountpoint = beside_the_tools(&sandbox);
    let colors =
        String::from_utf8(succeed(sandbox.command("dircolors").arg("-b").env("TERM", "xterm-256color")))
            .unwrap();
    let colors = colors.split('\'').nth(1).unwrap().to_owned();
    for dir in ["/etc", "/usr/bin", "/dev"] {
        let theirs = succeed(
            sandbox
                .command("ls")
                .args(["-1", "--color=always", &format!(".{dir}")])
                .envs([("LC_ALL", "C"), ("LS_COLORS", &colors)])
                .current_dir(&mountpoint),
        );
        let ours = sandbox
            .run(sandbox.imagefs(["ls", "--color=always", "./root.tar", dir]).env("LS_COLORS", &colors))
            .success();
        // The same codes may be written in another order, and with a zero before; a reset may come first.
        let plain = |text: &str| -> Vec<Vec<String>> {
            let piece = |piece: &str| {
                let (codes, rest) = piece.split_once('m').unwrap_or(("", piece));
                let mut codes: Vec<String> =
                    codes.split(';').map(|code| code.trim_start_matches('0').to_owned()).collect();
                codes.sort();
                codes.push(rest.to_owned());
                codes
            };
            text.split("\x1b[")
                .map(piece)
                .filter(|codes| codes.last().is_some_and(|rest| !rest.is_empty()))
                .collect()
        };
        assert_eq!(plain(&ours.stdout), plain(&String::from_utf8(theirs).unwrap()), "{dir}");
    }
    sandbox.unmount(&mountpoint);
    assert!(!said(&sandbox, &["ls", "./root.tar", "/usr/bin"]).contains('\x1b'));
}

#[test]
fn find_finds_what_find_finds() {
    let sandbox = place();
    let script = "printf 'root:x:0:0::/:/bin/sh\nme:x:12:34::/:/bin/sh\n' >root/etc/passwd; printf 'us:x:34:\n' >root/etc/group
        touch -d 2022-02-03 root/etc/new
        tar --create --format=pax --file root.tar --directory root --sort=name --numeric-owner .";
    succeed(sandbox.command("bash").args(["-euc", script]));
    let mountpoint = beside_the_tools(&sandbox);
    for predicates in [
        "-iname TOOL*",
        "-path */etc/*.conf",
        "-perm 640",
        "-perm -4000",
        "-perm /1022",
        "-user 12",
        "-group 34",
        "-newer etc/os-release",
        "-empty",
        "-maxdepth 1",
        "-mindepth 2",
        "-mindepth 1 -maxdepth 1 -type d",
        "-iname *A* -type f",
        "-name *e* -size -2k -perm -444",
    ] {
        let words: Vec<&str> = predicates.split(' ').collect();
        let theirs = succeed(
            sandbox.command("find").arg(".").args(&words).args(["-printf", "/%P\n"]).current_dir(&mountpoint),
        );
        let theirs = String::from_utf8(theirs).unwrap();
        let mut theirs: Vec<String> = theirs.lines().map(str::to_owned).collect();
        let ours = said(&sandbox, &[&["find", "./root.tar"], &words[..]].concat());
        let mut ours: Vec<String> = ours.lines().map(str::to_owned).collect();
        theirs.sort();
        ours.sort();
        assert!(!theirs.is_empty(), "{predicates} finds nothing");
        assert_eq!(ours, theirs, "{predicates}");
    }
    sandbox.unmount(&mountpoint);
    assert_eq!(said(&sandbox, &["find", "./root.tar", "-user", "me"]), "/etc/numbers\n");
    assert_eq!(said(&sandbox, &["find", "./root.tar", "-group", "us", "-print0"]), "/etc/numbers\0");
    assert_snapshot!(said(&sandbox, &["find", "./root.tar:/usr/bin", "-ls"]), @r#"
    21 drwxr-xr-x   2 0        0                4096 Sep 13  2020 /usr/bin
    22 -rwsr-xr-x   2 0        0                  10 Sep 13  2020 /usr/bin/other
    22 -rwsr-xr-x   2 0        0                  10 Sep 13  2020 /usr/bin/tool
    "#);
    assert_snapshot!(told(&sandbox, &["find", "./root.tar", "-user", "nobody"]), @r#"
    status: 3
    stderr:
    error: /etc/passwd of the source does not name 'nobody'
    "#);
    assert_snapshot!(told(&sandbox, &["find", "./root.tar", "-exec", "rm"]), @r#"
    status: 2
    stderr:
    error: unexpected argument '-e' found

      tip: for what only find(1) can, mount the source, and let find(1) search it

    Usage: imagefs find [OPTIONS] <SOURCE> [PATH]...

    For more information, try '--help'.
    "#);
    assert_snapshot!(told(&sandbox, &["cache", "ls", "-x"]), @r#"
    status: 2
    stderr:
    error: unexpected argument '-x' found

    Usage: imagefs cache ls [OPTIONS]

    For more information, try '--help'.
    "#);
}

#[test]
fn grep_finds_what_grep_finds() {
    let sandbox = place();
    let script = r"printf 'a\0needle\n' >root/etc/binary; printf 'Needle one\nno\nneedle two, needle three\nlast needles' >root/etc/text
        mkdir root/etc/sub; printf 'needle\n' >root/etc/sub/file.py; ln -s text root/etc/link
        tar --create --format=pax --file root.tar --directory root --sort=name --numeric-owner .";
    succeed(sandbox.command("bash").args(["-euc", script]));
    let mountpoint = beside_the_tools(&sandbox);
    for (flags, pattern, path) in [
        ("-r", "needle", "etc"),
        ("-rn", "needle", "etc"),
        ("-rl", "needle", "etc"),
        ("-ri", "NEEDLE", "etc"),
        ("-n", "needle", "etc/text"),
        ("-c", "needle", "etc/text"),
        ("-o", "needle", "etc/text"),
        ("-w", "needle", "etc/text"),
        ("-F", "two, n", "etc/text"),
        ("-A1", "one", "etc/text"),
        ("-B1", "two", "etc/text"),
        ("-C1", "no", "etc/text"),
        ("-n", "needle", "etc/link"),
        ("-r", "nothing of the kind", "etc"),
        ("-a", "needle", "etc/binary"),
        ("-r --include=*.py", "needle", "etc"),
    ] {
        let mut command = sandbox.command("grep");
        command.args(flags.split(' ')).args([pattern, path]).env("LC_ALL", "C").current_dir(&mountpoint);
        let theirs = sandbox.run(&mut command);
        let mut arguments = vec!["grep"];
        arguments.extend(flags.split(' '));
        let path = format!("/{path}");
        arguments.extend([pattern, "./root.tar", &path]);
        let ours = run(&sandbox, &arguments);
        assert_eq!(ours.code, theirs.code, "{arguments:?} {ours:?}");
        let lines = |text: &str| {
            // That a binary file matches is told on standard error.
            let mut lines: Vec<String> = text
                .lines()
                .filter(|line| !line.contains("binary file matches"))
                .map(|line| line.trim_start_matches('/').to_owned())
                .collect();
            lines.sort();
            lines
        };
        assert_eq!(lines(&ours.stdout), lines(&theirs.stdout), "{arguments:?}");
    }
    sandbox.unmount(&mountpoint);
    assert_snapshot!(told(&sandbox, &["grep", "needle", "./root.tar:/etc/binary"]), @r#"
    status: 0
    stdout:
    binary file matches (found "\0" byte around offset 1)
    "#);
    assert_snapshot!(told(&sandbox, &["grep", "(", "./root.tar"]), @r#"
    status: 2
    stderr:
    error: the pattern '(' cannot be understood
      caused by: regex parse error:\n    (?:()\n    ^\nerror: unclosed group
    hint: with -F it is taken as it stands
    "#);
    assert_snapshot!(told(&sandbox, &["grep", "--color=always", "two", "./root.tar:/etc/text"]), @r#"
    status: 0
    stdout:
    needle [0m[1m[31mtwo[0m, needle three
    "#);
}

#[test]
fn du_adds_up_as_du_does() {
    let sandbox = place();
    let mountpoint = beside_the_tools(&sandbox);
    // The kernel says 0 for directories here; the tool counts what it says.
    for flags in ["-b", "-ab", "-sb", "-bd1"] {
        let find = "find . -type f -printf '%i %s\\n' | sort -u | awk '{ s += $2 } END { print s }'";
        let all =
            String::from_utf8(succeed(sandbox.command("bash").args(["-c", find]).current_dir(&mountpoint)))
                .unwrap();
        let ours = said(&sandbox, &["du", flags, "./root.tar"]);
        let last = ours.lines().last().unwrap();
        assert_eq!(last, format!("{}\t/", all.trim()), "{flags}");
    }
    sandbox.unmount(&mountpoint);
    assert_snapshot!(said(&sandbox, &["du", "./root.tar"]), @r#"
    0	/dev
    0	/empty
    1	/etc/conf.d
    576	/etc
    1	/usr/bin
    1	/usr
    576	/
    "#);
    assert_snapshot!(said(&sandbox, &["du", "-ahd1", "./root.tar:/etc"]), @r#"
    2 B	/etc/.hidden
    1 B	/etc/conf.d
    575 KiB	/etc/numbers
    8 B	/etc/os-release
    0 B	/etc/release
    575 KiB	/etc
    "#);
    assert_snapshot!(said(&sandbox, &["du", "--json", "./root.tar", "/usr/bin", "/etc/numbers"]), @r#"
    [
      {
        "path": "/usr/bin",
        "bytes": 10
      },
      {
        "path": "/etc/numbers",
        "bytes": 588895
      }
    ]
    "#);
}

#[test]
fn tree_draws_directories_alone_and_several_trees() {
    let sandbox = place();
    assert_snapshot!(said(&sandbox, &["tree", "-d", "./root.tar"]), @r#"
    /
    ├── dev
    ├── empty
    ├── etc
    │   └── conf.d
    └── usr
        └── bin

    6 directories
    "#);
    assert_snapshot!(said(&sandbox, &["tree", "./root.tar", "/usr", "/dev"]), @r#"
    /usr
    └── bin
        ├── other
        └── tool
    /dev
    ├── null
    └── pipe

    1 directory, 4 files
    "#);
}
