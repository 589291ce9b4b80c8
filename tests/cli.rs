//! What the command says, and with which status it ends: everything that needs neither a daemon nor FUSE.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use insta::assert_snapshot;

use crate::support::manual::pages;
use crate::support::{Outcome, Sandbox};

/// Runs the command in a sandbox; tells its status and all that it printed.
fn run_in(sandbox: &Sandbox, arguments: &[&str]) -> String {
    told(sandbox, sandbox.imagefs(arguments).env("COLUMNS", "80"))
}

fn told(sandbox: &Sandbox, command: &mut Command) -> String {
    let Outcome { code, stdout, stderr } = sandbox.run(command);
    let mut text = format!("status: {}\n", code.unwrap());
    for (name, printed) in [("stdout", stdout), ("stderr", stderr)] {
        if !printed.is_empty() {
            text += &format!("{name}:\n{printed}");
        }
    }
    // An editor would take away the blanks that clap leaves at the ends of lines.
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n").replace(sandbox.path("").to_str().unwrap(), "/sandbox/")
}

/// Runs the command in a new sandbox.
fn run(arguments: &[&str]) -> String {
    run_in(&Sandbox::new(), arguments)
}

#[test]
fn help_tells_a_newcomer_what_there_is() {
    assert_snapshot!(run(&["--help"]), @r#"
    status: 0
    stdout:
    Look inside container images and containers without unpacking, running or
    pulling them

    imagefs presents an image or a container that the Docker or Podman daemon has,
    an image in an archive, or a tar of a root filesystem, as a read-only directory
    tree: list it, search it, read it, compare it with the tools you have. Or read
    it without mounting, with ls, cat, find and others.

    Usage: imagefs [OPTIONS] <COMMAND>

    Commands:
      mount        Mount an image, a container or a tar as a read-only directory
                   tree
      build        Build an image, and mount the result, or what a step left that
                   failed
      umount       Unmount, and end the server behind the mount [alias: unmount]
      mounts       List what is mounted
      refresh      Show a container as it is now
      ls           List a directory of a source
      cat          Print files of a source
      stat         Show the attributes of a file of a source
      tree         Draw a directory of a source as a tree
      find         Find files of a source by name, type, size and other attributes
      grep         Search the files of a source for lines that fit a pattern
      du           Show how large directories of a source are, or its layers
      cp           Copy a file or directory out of a source
      erofs        Write a source as an EROFS image: one file that the kernel mounts
      inspect      Show what a source is, and its mounts
      diff         Show how the root filesystems of two sources differ
      history      Show the layers of an image, and what each of them does
      blame        Show which layers of an image added, changed, replaced or removed
                   a path
      cache        Look after the cache
      completions  Print a script with which a shell completes imagefs
      help         Print this message or the help of the given subcommand(s)

    Options:
      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version

    Global options:
      -v, --verbose...
              Log what happens; twice: how; three times: everything

      -q, --quiet
              Print nothing but results and errors

          --log-file <FILE>
              Write the log to FILE

              Without it, the log goes to standard error, and that of a mount in the
              background to a file that `imagefs mounts --json` names. What is
              logged is also set by RUST_LOG, as in RUST_LOG=imagefs=debug.

          --cache-dir <DIR>
              Keep the cache in DIR

              Without it, the cache is in $XDG_CACHE_HOME/imagefs or
              ~/.cache/imagefs.

              [env: IMAGEFS_CACHE_DIR]

          --cache-limit <SIZE>
              Keep the cache below SIZE, as in 10GiB

              After an image was added, those that were used longest ago are
              removed, but for what is mounted.

              [env: IMAGEFS_CACHE_LIMIT]
              [default: 20GiB]

    Exit status:
      0    success
      1    the answer to a check is no (cache verify found damage, diff found
           differences)
      2    the command line is wrong
      3    no such image, archive, mount, file or cache entry
      4    the daemon or the registry cannot be reached, or failed
      5    the mountpoint or FUSE does not allow it
      6    the input is damaged, or of an unknown kind
      7    the cache cannot be used: permissions, no space left
      8    any other failure
      9    a step of a build failed; what it left is mounted
      129  hung up (SIGHUP) before it was done
      130  interrupted (SIGINT) before it was done
      141  nobody reads the output any more (SIGPIPE)
      143  terminated (SIGTERM) before it was done
    "#);
    assert_snapshot!(run(&["mount", "--help"]), @r#"
    status: 0
    stdout:
    Mount an image, a container or a tar as a read-only directory tree

    Returns when the mount answers; a server goes on in the background until it is
    unmounted. The first mount of an image reads it from the daemon into the cache
    while it is being used; what is asked for before it has come is waited for, or
    fetched alone. Later mounts have all of it at once. Nothing is pulled, and no
    container is started.

    Usage: imagefs mount [OPTIONS] <SOURCE> <MOUNTPOINT>

    Arguments:
      <SOURCE>
              A local image (a name, NAME@sha256:…, or an id, also a short one),
              docker://NAME, container:NAME, or the path of a tar or an image layout

              What begins with /, ./ or ../, or is the name of a file or an image
              layout here, is a path, and what it holds is found out: a root
              filesystem, or an image as docker save, podman save, skopeo and others
              write it. Of several images, :NAME or :@NUMBER behind the path chooses
              one. Everything else is an image of the daemon's, or else a container.
              To say which, write docker-daemon:NAME, container:NAME, volume:NAME,
              tar:PATH, docker-archive:PATH, oci-archive:PATH or oci:DIR.
              docker://NAME is an image in a registry, which is fetched layer by
              layer, without a daemon.

      <MOUNTPOINT>
              An empty directory

    Options:
      -o <OPTION[,…]>
              Mount options, as for mount(8): see the end of --help

      -f, --foreground
              Stay in the foreground, and unmount on Ctrl-C

              SIGTERM unmounts, and so do SIGINT and SIGHUP unless they were ignored
              when the command was started: as SIGHUP by nohup, and SIGINT by a
              shell script that starts it with &. There, end it with kill or
              `imagefs umount`.

          --wait
              Wait until all of the source has been read, and fail if that fails

          --mkdir
              Make MOUNTPOINT, and remove it after unmounting

      -H, --host <URL>
              The daemon to ask, as in unix:///run/podman/podman.sock

              Without it, the daemon that the docker command would ask: DOCKER_HOST,
              then the current docker context, then unix:///var/run/docker.sock.

          --platform <OS/ARCH[/VARIANT]>
              The platform that the image must be for, as in linux/arm64

          --max-size <SIZE>
              Refuse a layer, or a compressed archive, that unpacks to more than
              SIZE

              Without it, 64GiB, and what takes more than 256MiB on the disk may not
              unpack to more than a thousand times its size. Zeros take nothing.

          --insecure-registry <HOST[:PORT]>
              A registry that needs no certificate, nor TLS at all

              May be given more than once. A registry on this machine needs none in
              any case.

      -h, --help
              Print help (see a summary with '-h')

    Examples:
      imagefs mount python:3.12 /mnt/py            then look into /mnt/py/rootfs
      imagefs mount --mkdir -o flat debian deb     the root filesystem at ./deb
      imagefs mount ./rootfs.tar.zst /mnt/tar      a tar, plain or compressed
      imagefs mount oci:DIR:latest /mnt/x          an image that no daemon has
      imagefs mount container:web /mnt/web         a container, with its volumes
      imagefs mount sha256:7c0b… /mnt/x            if cached, no daemon is asked
      imagefs mount local: /mnt/docker             all that the engine has

    Mount options, given by -o as for mount(8):
      ro                 accepted; a mount is always read-only
      flat               the root filesystem at MOUNTPOINT, not MOUNTPOINT/rootfs
      symlinks=contain   links out of the image stay inside it (default)
      symlinks=raw       links as they are stored
      xattr=auto|on|off  extended attributes; auto (default): if there are any
      allow_other        let other users in; file permissions then apply to all
      uid=N, gid=N       show everything as owned by this user, this group
      kernel             have the kernel serve it, without a server: faster; root
                         only, Linux 6.12, complete sources only (it is waited
                         for), and every user is let in, as by allow_other
      kernel=auto        the same where it can be had at once, else as without
      kernel=copy        the same with a copy of all contents: twice the disk, but
                         st_blksize is 4096, not 512
      suid, dev          setuid bits and device files take effect; root only
      noexec             no program can be run
      remount            give what is mounted there other suid, dev, noexec; root
      only
      exact              a daemon's image as its layers are stored: nothing added or
                         lost by the export, but it takes longer
      layers             also layers/00-DIFFID, …: what each layer holds by itself;
                         implies exact
      provenance         list what names a file's layer among its attributes;
                         implies exact
      fsname=NAME        what df(1) and mount(8) show as the source
      only=PATTERN       of local:, what is named so, as in only=ghcr.io/*
      timeout=SECONDS    how long a read waits while nothing comes (default 30)

    What every filesystem takes is taken too: defaults, nosuid, nodev, nofail, x-…
    A comma in a value is written \, as in fsname=a\,b. So mount(8) and fstab(5)
    work, with -t imagefs, or without mount.imagefs, with -t fuse.imagefs. Neither
    of them hands suid and dev on.
      python:3.12 /mnt/py imagefs ro,nofail,_netdev,allow_other 0 0

    Unmount with `imagefs umount MOUNTPOINT`, or with plain umount.

    Options of all commands, as -v, -q and --cache-dir: imagefs --help
    "#);
    assert_snapshot!(run(&["umount", "-h"]), @r#"
    status: 0
    stdout:
    Unmount, and end the server behind the mount

    Usage: imagefs umount [OPTIONS] [MOUNTPOINT]...

    Arguments:
      [MOUNTPOINT]...  Where to unmount

    Options:
      -a, --all   Unmount everything that you have mounted
      -l, --lazy  Unmount though files are in use
      -h, --help  Print help (see more with '--help')
    "#);
    assert_snapshot!(run(&["cache", "-h"]), @r#"
    status: 0
    stdout:
    Look after the cache

    Usage: imagefs cache <COMMAND>

    Commands:
      ls      List what is in the cache, the last used first
      rm      Remove entries
      prune   Remove what was used longest ago until the rest is small enough
      verify  Check every byte of entries against their checksums, and remove the
              damaged ones
      dir     Print where the cache is
      help    Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help (see more with '--help')
    "#);
}

#[test]
fn a_wrong_command_line_says_what_is_wrong() {
    assert_snapshot!(run(&["mout", "debian", "mnt"]), @r#"
    status: 2
    stderr:
    error: unrecognized subcommand 'mout'

      tip: some similar subcommands exist: 'umount', 'mounts', 'mount'

    Usage: imagefs [OPTIONS] <COMMAND>

    For more information, try '--help'.
    "#);
    assert_snapshot!(run(&["mount", "debian"]), @r#"
    status: 2
    stderr:
    error: the following required arguments were not provided:
      <MOUNTPOINT>

    Usage: imagefs mount <SOURCE> <MOUNTPOINT>

    For more information, try '--help'.
    "#);
    assert_snapshot!(run(&["umount"]), @r#"
    status: 2
    stderr:
    error: the following required arguments were not provided:
      <MOUNTPOINT>...

    Usage: imagefs umount <MOUNTPOINT>...

    For more information, try '--help'.
    "#);
    assert_snapshot!(run(&["mount", "--platform", "pdp11", "debian", "mnt"]), @r#"
    status: 2
    stderr:
    error: invalid value 'pdp11' for '--platform <OS/ARCH[/VARIANT]>': "pdp11" is not a platform: write os/arch or os/arch/variant, as in linux/arm64

    For more information, try '--help'.
    "#);
    assert_snapshot!(run(&["cache", "prune", "--max-size", "10 apples"]), @r#"
    status: 2
    stderr:
    error: invalid value '10 apples' for '--max-size <SIZE>': unknown unit "apples": write B, KiB, MiB, GiB, TiB, or kB, MB, GB, TB

    For more information, try '--help'.
    "#);
}

#[test]
fn a_wrong_mount_option_says_what_to_write() {
    assert_snapshot!(run(&["mount", "-o", "ro,flatt", "debian", "mnt"]), @r#"
    status: 2
    stderr:
    error: unknown mount option 'flatt'
    hint: did you mean 'flat'?
    "#);
    assert_snapshot!(run(&["mount", "debian", "mnt", "-o", "xattr=yes"]), @r#"
    status: 2
    stderr:
    error: mount option 'xattr' cannot be 'yes'
    hint: write 'xattr=auto|on|off'
    "#);
    assert_snapshot!(run(&["mount", "-o", "rw", "debian", "mnt"]), @r#"
    status: 2
    stderr:
    error: mount option 'rw' is refused: a mount is always read-only
    hint: leave it out
    "#);
}

#[test]
fn a_mountpoint_that_will_not_do_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.directory("mnt");
    assert_snapshot!(run_in(&sandbox, &["mount", "/x.tar", "absent"]), @r#"
    status: 5
    stderr:
    error: mountpoint "/sandbox/absent" does not exist
    hint: create it: mkdir -p "/sandbox/absent"
    hint: or give --mkdir to have it made for this mount alone
    "#);
    assert_snapshot!(run_in(&sandbox, &["mount", "--mkdir", "/x.tar", "absent/too"]), @r#"
    status: 3
    stderr:
    error: cannot read "/x.tar": No such file or directory (os error 2)
    "#);
    fs::write(sandbox.path("mnt/file\n"), "").unwrap();
    assert_snapshot!(run_in(&sandbox, &["mount", "/x.tar", "mnt"]), @r#"
    status: 5
    stderr:
    error: mountpoint "/sandbox/mnt" is not empty
    hint: name an empty directory: a mount would hide what is there
    "#);
    assert_snapshot!(run_in(&sandbox, &["mount", "/x.tar", "mnt/file\n"]), @r#"
    status: 5
    stderr:
    error: mountpoint "/sandbox/mnt/file\n" is not a directory
    hint: name a directory
    "#);
    assert_snapshot!(run_in(&sandbox, &["mount", "--mkdir", "/x.tar", "cache/mnt"]), @r#"
    status: 5
    stderr:
    error: the mountpoint "/sandbox/cache/mnt" is inside the cache directory "/sandbox/cache"
    hint: choose another directory
    "#);
    assert_snapshot!(run_in(&sandbox, &["mount", "/x.tar", "/proc"]), @r#"
    status: 5
    stderr:
    error: something is already mounted at "/proc" ("proc")
    hint: name an empty directory; "/proc" is in use by something else
    "#);
    assert!(!sandbox.path("absent").exists());
    assert_eq!(fs::read_dir(sandbox.path("run/imagefs")).unwrap().count(), 0);
}

#[test]
fn what_is_not_mounted_cannot_be_unmounted() {
    assert_snapshot!(run(&["umount", "mnt"]), @r#"
    status: 3
    stderr:
    error: nothing is mounted at "/sandbox/mnt"
    hint: `imagefs mounts` lists what is mounted
    "#);
    assert_snapshot!(run(&["umount", "no/such/directory"]), @r#"
    status: 3
    stderr:
    error: nothing is mounted at "/sandbox/no/such/directory"
    hint: `imagefs mounts` lists what is mounted
    "#);
    assert_snapshot!(run(&["umount", "/proc"]), @r#"
    status: 3
    stderr:
    error: what is mounted at "/proc" is not an imagefs mount but "proc"
    hint: unmount it with umount "/proc" if you mean it
    "#);
    assert_snapshot!(run(&["umount", "--all"]), @"status: 0");
}

#[test]
fn nothing_mounted_is_an_empty_list() {
    assert_snapshot!(run(&["mounts"]), @r#"
    status: 0
    stdout:
    MOUNTPOINT  SOURCE  ID  PID  SINCE  STATE
    "#);
    assert_snapshot!(run(&["mounts", "--json"]), @r#"
    status: 0
    stdout:
    []
    "#);
}

#[test]
fn the_cache_is_where_the_user_says() {
    let sandbox = Sandbox::new();
    let command = &mut sandbox.imagefs(["cache", "dir"]);
    assert_snapshot!(told(&sandbox, command.env_remove("IMAGEFS_CACHE_DIR")), @r#"
    status: 0
    stdout:
    /sandbox/home/.cache/imagefs
    "#);
    assert_snapshot!(run_in(&sandbox, &["cache", "dir", "--cache-dir", "/elsewhere", "--json"]), @r#"
    status: 0
    stdout:
    "/elsewhere"
    "#);
    assert_snapshot!(run_in(&sandbox, &["cache", "dir"]), @r#"
    status: 0
    stdout:
    /sandbox/cache
    "#);
}

#[test]
fn an_empty_cache_is_an_empty_list() {
    let sandbox = Sandbox::new();
    assert_snapshot!(run_in(&sandbox, &["cache", "ls"]), @r#"
    status: 0
    stdout:
    KEY  SOURCE  KIND  IMAGES  SIZE  ENTRIES  LAST USED  STATE
    "#);
    assert_snapshot!(run_in(&sandbox, &["cache", "ls", "--json"]), @r#"
    status: 0
    stdout:
    []
    "#);
    assert_snapshot!(run_in(&sandbox, &["cache", "verify"]), @"status: 0");
    assert_snapshot!(run_in(&sandbox, &["cache", "prune"]), @r#"
    status: 0
    stderr:
    removed 0 entries, 0 B freed, 0 B kept
    "#);
    assert_snapshot!(run_in(&sandbox, &["cache", "prune", "--quiet"]), @"status: 0");
    assert_snapshot!(run_in(&sandbox, &["cache", "prune", "--json"]), @r#"
    status: 0
    stdout:
    {
      "freed": 0,
      "kept": 0,
      "removed": []
    }
    "#);
    assert_snapshot!(run_in(&sandbox, &["cache", "rm", "0123"]), @r#"
    status: 3
    stderr:
    error: no cache entry begins with 0123
    hint: `imagefs cache ls` lists the keys
    "#);
    assert_snapshot!(run_in(&sandbox, &["cache", "rm", "xyz"]), @r#"
    status: 2
    stderr:
    error: "xyz" is no key: give at least 4 of its hexadecimal digits
    "#);
}

#[test]
fn a_cache_that_others_could_write_to_is_refused() {
    let sandbox = Sandbox::new();
    let dir = sandbox.directory("shared");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    assert_snapshot!(run_in(&sandbox, &["cache", "ls", "--cache-dir", "shared"]), @r#"
    status: 7
    stderr:
    error: the cache directory "/sandbox/shared" can be written by others (mode 0777)
    hint: if all in it is yours: chmod -R go-w "/sandbox/shared"
    "#);
}

#[test]
fn a_variable_that_is_empty_counts_as_unset() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.imagefs(["cache", "dir"]);
    for name in ["IMAGEFS_CACHE_DIR", "IMAGEFS_CACHE_LIMIT", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "RUST_LOG"]
    {
        command.env(name, "");
    }
    assert_snapshot!(told(&sandbox, &mut command), @r#"
    status: 2
    stderr:
    error: a value is required for '--cache-dir <DIR>' but none was supplied

    For more information, try '--help'.
    "#);
}

#[test]
fn a_runtime_directory_that_others_could_write_to_is_refused() {
    let sandbox = Sandbox::new();
    let dir = sandbox.directory("run/imagefs");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    assert_snapshot!(run_in(&sandbox, &["mounts"]), @r#"
    status: 8
    stderr:
    error: the runtime directory "/sandbox/run/imagefs" is not a directory of yours alone
    hint: remove it, or `chmod 0700 "/sandbox/run/imagefs"` if it is yours
    "#);
}

#[test]
fn a_reader_that_has_seen_enough_is_told_nothing() {
    let sandbox = Sandbox::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = sandbox.imagefs(["mounts"]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(141), Vec::new()));
}

#[test]
fn a_log_that_cannot_be_written_is_told() {
    assert_snapshot!(run(&["--log-file", "/proc/no/log", "mounts"]), @r#"
    status: 8
    stderr:
    error: cannot open the log file "/proc/no/log"
      caused by: No such file or directory (os error 2)
    "#);
}

/// `UPDATE=1 cargo test --test all cli::manual` writes the pages anew.
#[test]
fn manual_pages_say_what_the_help_says() {
    let mut command = imagefs::cli::command().disable_help_subcommand(true);
    command.build();
    let pages = pages(&command);
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/man");
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(&dir).unwrap();
        for (name, page) in &pages {
            fs::write(dir.join(name), page).unwrap();
        }
    }
    let mut found: Vec<String> =
        fs::read_dir(&dir).unwrap().map(|page| page.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert!(pages.keys().eq(&found), "{found:?}");
    for (name, page) in &pages {
        assert!(page.is_ascii(), "{name} is not to be read in the C locale");
        assert_eq!(page, &fs::read_to_string(dir.join(name)).unwrap(), "docs/man/{name} is out of date");
    }
}
