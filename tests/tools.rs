//! The tools that people use on a directory find in a mount what they find in the directory that was packed.
//!
//! What single system calls give is the matter of `mounts`.

use std::fs;
use std::path::PathBuf;

use crate::support::{Daemon, Manifest, Sandbox, archives, succeed};

/// A directory, and a mount of a tar of it.
struct Pair {
    sandbox: Sandbox,
    original: PathBuf,
    mounted: PathBuf,
}

impl Pair {
    /// Packs and mounts what a shell script leaves in an empty directory.
    #[track_caller]
    fn new(script: &str) -> Pair {
        let sandbox = Sandbox::new();
        let original = sandbox.directory("original");
        succeed(sandbox.command("bash").args(["-euc", script]).current_dir(&original));
        let pack =
            "tar --create --format=pax --sparse --xattrs --xattrs-include='*' --file root.tar -C original .";
        succeed(sandbox.command("sh").args(["-c", pack]));
        let mounted = sandbox.mount("mnt", ["-o", "symlinks=raw", "./root.tar"]).join("rootfs");
        Pair { sandbox, original, mounted }
    }

    /// What a script prints that runs in the original, and what it prints in the mount.
    #[track_caller]
    fn run(&self, script: &str) -> (String, String) {
        let run = |dir| {
            let mut command = self.sandbox.command("bash");
            let printed = succeed(command.args(["-euo", "pipefail", "-c", script]).current_dir(dir));
            printed.escape_ascii().to_string().replace(r"\n", "\n")
        };
        (run(&self.original), run(&self.mounted))
    }

    /// Fails unless a script prints the same in both, and something.
    #[track_caller]
    fn assert_alike(&self, script: &str) {
        let (original, mounted) = self.run(script);
        assert!(original.lines().count() > 2, "{script} prints next to nothing: {original}");
        assert_eq!(mounted, original, "{script}");
    }

    /// Fails unless a script, run in the mount, makes a copy of it in the directory `$COPY`.
    #[track_caller]
    fn assert_copies(&self, name: &str, script: &str) {
        let copy = self.sandbox.directory(name);
        let mut command = self.sandbox.command("bash");
        command.args(["-euo", "pipefail", "-c", script]).env("COPY", &copy).current_dir(&self.mounted);
        succeed(&mut command);
        let expected = Manifest::read(&self.original).with_holes(&self.original);
        expected.assert_same(&Manifest::read(&copy).with_holes(&copy));
    }
}

const TREE: &str = r#"
    mkdir -p etc usr/lib/deep empty; chmod 1777 empty
    printf 'root:x:0:0\nneedle\n' > etc/passwd; ln etc/passwd usr/lib/deep/linked; ln -s ../etc/passwd usr/link
    ln -s nowhere dangling
    head -c 300000 /dev/urandom > usr/lib/noise; chown 12:34 usr/lib/noise; chmod 4755 usr/lib/noise
    truncate -s 3M sparse; printf needle | dd of=sparse bs=1 seek=1048576 conv=notrunc status=none
    mknod null c 1 3; mkfifo fifo
    setfattr -n user.note -v text etc/passwd; setcap cap_net_raw+ep usr/lib/noise; setfacl -m u:77:r-- sparse
    touch "$(printf 'new\nline')" "$(printf 'latin-\351')" ' '
    # Older than a second: rsync takes two times of one second for the same.
    find . -depth -exec touch -hd '2001-02-03 04:05:06.789' {} +; touch -d 1960-01-01 empty
"#;

#[test]
fn the_tree_is_listed_alike() {
    let pair = Pair::new(TREE);
    pair.assert_alike(r"find . -type d -printf '%p %M %n %U %G %T@\n' | sort");
    pair.assert_alike(r"find . ! -type d -printf '%p %y %M %n %U %G %s %T@ %l\n' | sort");
    // Directories have no size that means anything, and how many blocks a file takes depends on the filesystem.
    pair.assert_alike(
        r"ls -lARn --time-style=full-iso | grep -v ^total | tr -s ' ' | sed -E 's/^(d[^ ]* ([^ ]* ){3})[0-9]*/\1/'",
    );
    pair.assert_alike("du --apparent-size --bytes etc/* usr/lib/* sparse | sort");
    pair.assert_alike("getfattr --dump --recursive --no-dereference --match=- . | sort");
}

#[test]
fn the_tree_is_searched_alike() {
    let pair = Pair::new(TREE);
    pair.assert_alike("grep --recursive --devices=skip --byte-offset --only-matching --text needle . | sort");
    let (original, mounted) =
        pair.run("find . -samefile etc/passwd | sort; find . -size +2M; find . -perm -4000");
    assert_eq!(original, "./etc/passwd\n./usr/lib/deep/linked\n./sparse\n./usr/lib/noise\n");
    assert_eq!(mounted, original);
}

#[test]
fn the_tree_is_copied_whole() {
    let pair = Pair::new(TREE);
    let all = "--sparse --xattrs --xattrs-include='*'";
    let tar = format!("tar --create --format=pax {all} . | tar --extract -p --same-owner {all} -C $COPY");
    pair.assert_copies("tar", &tar);
    pair.assert_copies("rsync", "rsync --quiet -aHAXS --numeric-ids ./ $COPY");
    pair.assert_copies("cp", "cp --archive . $COPY");
}

#[test]
fn access_control_lists_are_those_that_were_packed() {
    let pair = Pair::new(
        r#"
        mkdir shared; touch plain file shared/inside; chmod 640 file
        setfacl -m u:4242:rwx,u:4241:---,g:4343:rw-,m::rw- file
        setfacl -m g:4343:rwx,d:u:4242:r-x,d:o::--- shared; setfacl -d -m u::rwx,g::r-x,o::- .
        "#,
    );
    let list = |dir: &std::path::Path| {
        let mut list = pair.sandbox.command("sh");
        list.args(["-c", "find . | sort | getfacl --numeric -"]).current_dir(dir);
        String::from_utf8(succeed(&mut list)).unwrap()
    };
    let original = list(&pair.original);
    assert_eq!(list(&pair.mounted), original);
    for (program, options) in [("tar", "--format=posix"), ("bsdtar", "--no-xattrs --format=pax")] {
        let pack = format!(
            "{program} --acls {options} -c -f acls.tar -C original . && ! grep -q posix_acl acls.tar"
        );
        succeed(pair.sandbox.command("sh").args(["-c", &pack]));
        let mountpoint = pair.sandbox.mount(program, ["./acls.tar"]);
        assert_eq!(list(&mountpoint.join("rootfs")), original, "{program}");
    }
}

#[test]
fn an_access_control_list_of_somebody_without_a_number_is_left_out() {
    let pair = Pair::new("touch file; setfacl -m u:daemon:rwx file");
    succeed(
        pair.sandbox.command("sh").args(["-c", "tar --acls --format=posix -c -f acls.tar -C original ."]),
    );
    let mountpoint = pair.sandbox.mount("acls", ["./acls.tar"]);
    let mut listing = pair.sandbox.command("getfacl");
    listing.args(["--numeric", "--omit-header", "file"]).current_dir(mountpoint.join("rootfs"));
    // The group's permissions are the mask's: as the mode tells them.
    assert_eq!(String::from_utf8(succeed(&mut listing)).unwrap(), "user::rw-\ngroup::rwx\nother::r--\n\n");
}

#[test]
fn a_repository_is_in_the_state_in_which_it_was_packed() {
    let pair = Pair::new(
        r#"
        export GIT_CONFIG_GLOBAL=/dev/null
        git init --quiet --initial-branch=main
        git config user.name Somebody; git config user.email somebody@example.com
        echo one > one; echo two > two; mkdir dir; echo three > dir/three
        git add .; git commit --quiet --message first; echo changed >> two; echo new > new; rm dir/three
        "#,
    );
    pair.assert_alike("git -c safe.directory='*' status");
    pair.assert_alike("git -c safe.directory='*' diff");
    let (_, status) = pair.run("git -c safe.directory='*' status --porcelain");
    assert_eq!(status, " D dir/three\n M two\n?? new\n");
}

#[test]
fn an_editor_and_an_interpreter_read_from_a_mount() {
    let pair = Pair::new(
        r#"
        printf 'first\nsecond\nthird\nfourth\n' > text
        mkdir package; echo 'from .part import answer' > package/__init__.py; echo 'answer = 42' > package/part.py
        "#,
    );
    pair.assert_alike("vim.tiny -e -s -R -u NONE -c %print -c quit text");
    let (_, read_only) = pair.run("vim.tiny -e -s -R -u NONE -c 'set readonly?' -c quit text");
    assert_eq!(read_only.trim(), "readonly");
    let (_, answer) = pair.run("python3 -c 'import package, json; print(package.answer)'");
    assert_eq!(answer, "42\n");
    assert!(!pair.mounted.join("package/__pycache__").exists());
}

#[test]
fn the_image_s_own_python_runs_from_the_mount() {
    let sandbox = Sandbox::new();
    let docker = Daemon::docker();
    let mountpoint = sandbox.mount("mnt", ["--host", docker.host(), "imagefs-test/python"]);
    let script =
        "import json, ssl, sqlite3, email.mime.text; print(sorted(json.loads('{\"b\": 1, \"a\": 2}')))";
    let printed = succeed(sandbox.command("chroot").arg(mountpoint.join("rootfs")).args([
        "/usr/bin/python3",
        "-c",
        script,
    ]));
    assert_eq!(printed, b"['a', 'b']\n");
}

#[test]
fn a_tool_that_writes_is_told_that_the_filesystem_is_read_only() {
    let pair = Pair::new(TREE);
    for command in [
        "touch new",
        "touch etc/passwd",
        "mkdir new",
        "rmdir empty",
        "rm -f etc/passwd",
        "mv etc/passwd etc/group",
        "ln etc/passwd new",
        "ln -s etc/passwd new",
        "mknod new p",
        "chmod 600 etc/passwd",
        "chown 1 etc/passwd",
        "truncate -s 0 etc/passwd",
        "setfattr -n user.a -v b etc/passwd",
        "setfattr -x user.note etc/passwd",
        "cp etc/passwd new",
        "dd if=/dev/zero of=etc/passwd count=1 conv=notrunc status=none",
    ] {
        let mut shell = pair.sandbox.command("sh");
        let output = shell.args(["-c", command]).current_dir(&pair.mounted).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && told.contains("Read-only file system"), "{command}: {told}");
    }
    assert_eq!(fs::read_to_string(pair.mounted.join("etc/passwd")).unwrap(), "root:x:0:0\nneedle\n");
}

#[test]
fn a_mount_shows_what_it_is_of() {
    let sandbox = Sandbox::new();
    let tar = archives::fixture("small.tar");
    let mountpoint = sandbox.mount("mnt", [tar.as_os_str()]);
    let shown = succeed(sandbox.command("df").args(["--output=source,fstype,avail"]).arg(&mountpoint));
    let shown = String::from_utf8(shown).unwrap();
    let words: Vec<&str> = shown.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(words, [tar.to_str().unwrap(), "fuse.imagefs", "0"]);
}
