//! What is shown of a build that failed, and of one that did not.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::process::Command;

use super::{Build, Server, names};
use crate::support::{Sandbox, succeed};

const STEP: &str = "\
FROM base AS data
RUN echo from-data > /d.txt && mkdir /sub && echo deep > /sub/deep
FROM base
RUN echo one > /one
RUN --mount=type=cache,id=imagefs-test-failures,target=/var/cache/x \\
    --mount=type=bind,from=data,source=/sub,target=/data --mount=type=tmpfs,target=/scratch \\
    --mount=type=secret,id=token \\
    echo two > /two && cat /run/secrets/token > /dev/null && mkdir /dir && chown 12:34 /dir && chmod 2750 /dir && \\
    mknod /device c 1 300 && mkfifo /pipe && ln /two /dir/second && ln -s /etc/hello /absolute && \\
    ln -s ../../../etc/hello /climbs && truncate -s 9000000 /holes && echo end >> /holes && \\
    touch -d '2001-02-03 04:05:06' /old && rm /one && echo kept > /var/cache/x/c && echo last words && exit 7
RUN echo never > /never
";

#[test]
#[ignore = "needs IMAGEFS_TEST_BUILDKIT"]
fn a_step_that_fails_is_shown_as_it_left_off_with_all_that_it_had() {
    for server in &Server::all() {
        let sandbox = Sandbox::new();
        let build = Build::new(&sandbox, server, "b", STEP);
        fs::write(sandbox.path("secret"), "hush").unwrap();
        let secret = format!("id=token,src={}", sandbox.path("secret").display());
        let outcome = build.fail(&["--secret", &secret]);
        for said in ["lines 7 to 13 of the Dockerfile", "exit code: 7", "last words", "CANCELED"] {
            assert_eq!(outcome.stderr.contains(said), said != "CANCELED", "{said}: {}", outcome.stderr);
        }
        assert!(!outcome.stderr.contains("hush"), "{}", outcome.stderr);
        let shown = [".imagefs.json", "before", "data", "rootfs", "scratch", "var-cache-x"];
        assert_eq!(build.names(""), shown, "{}", server.address);

        // Each by itself, ahead of everything else.
        assert_eq!(build.read("rootfs/two"), "two\n");
        assert_eq!(build.read("data/deep"), "deep\n");
        assert_eq!(build.read("var-cache-x/c"), "kept\n");
        assert_eq!(build.read("before/one"), "one\n");
        assert_eq!(build.names("scratch"), [""; 0]);
        assert!(!build.path("rootfs/one").exists() && !build.path("rootfs/never").exists());
        assert!(!build.path("before/two").exists());
        assert_eq!(build.names("data"), ["deep"], "only what was mounted");

        let stat = |path: &str| fs::symlink_metadata(build.path(path)).unwrap();
        let dir = stat("rootfs/dir");
        assert_eq!((dir.uid(), dir.gid(), dir.mode()), (12, 34, 0o42750));
        let device = stat("rootfs/device");
        assert!(device.file_type().is_char_device());
        assert_eq!((rustix::fs::major(device.rdev()), rustix::fs::minor(device.rdev())), (1, 300));
        assert!(stat("rootfs/pipe").file_type().is_fifo());
        assert_eq!(stat("rootfs/old").mtime(), 981_173_106);
        // Links are resolved within the mount, however they are spelled.
        assert_eq!(build.read("rootfs/absolute"), "hello\n");
        assert_eq!(build.read("rootfs/climbs"), "hello\n");
        // Everything has come, and so are the links of a file known.
        assert_eq!(names(&build.path("rootfs/dir")), ["second"]);
        succeed(Command::new("find").arg(build.path("rootfs")));
        assert_eq!(
            (stat("rootfs/two").nlink(), stat("rootfs/two").ino()),
            (2, stat("rootfs/dir/second").ino())
        );
        let holes = stat("rootfs/holes");
        assert_eq!(holes.len(), 9_000_004);
        assert!(holes.blocks() * 512 < 1 << 20, "{} blocks", holes.blocks());
        assert!(fs::read(build.path("rootfs/holes")).unwrap().ends_with(b"\0end\n"));
        assert!(fs::write(build.path("rootfs/x"), "").is_err());
        build.unmount();
        sandbox.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs IMAGEFS_TEST_BUILDKIT"]
fn a_build_that_succeeds_is_mounted_and_with_on_error_is_not() {
    for server in &Server::all() {
        let sandbox = Sandbox::new();
        let lines = "ARG WORD=none\nRUN echo $WORD > /word\nFROM base AS other\nCOPY kept* /copied/\n";
        let build = Build::new(&sandbox, server, "b", lines);
        for file in ["kept", "kept-too", "kept.not", "other"] {
            fs::write(build.context.join(file), file).unwrap();
        }
        fs::write(build.context.join(".dockerignore"), "*.not\n").unwrap();
        let outcome = build.run(&["--on-error"]).success();
        assert_eq!(outcome.stdout, "");
        assert_eq!(sandbox.mounts(), [""; 0].map(std::path::PathBuf::from));
        build.run(&[]).success();
        assert_eq!(build.names(""), [".imagefs.json", "rootfs"]);
        assert_eq!(build.names("rootfs/copied"), ["kept", "kept-too"]);
        build.unmount();
        build.run(&["--target", "base", "--build-arg", "WORD=given", "-q"]).success();
        assert_eq!(build.read("rootfs/word"), "given\n");
        build.unmount();
        sandbox.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs IMAGEFS_TEST_BUILDKIT"]
fn an_instruction_that_copies_is_shown_as_far_as_it_came() {
    for server in &Server::all() {
        let sandbox = Sandbox::new();
        let missing = Build::new(&sandbox, server, "missing", "FROM base\nCOPY nope /x\n");
        fs::write(missing.context.join("unasked"), "").unwrap();
        missing.fail(&[]);
        assert_eq!(missing.names(""), [".imagefs.json", "copy-source"], "{}", server.address);
        // BuildKit has asked for what the instructions name, and for nothing else.
        assert_eq!(missing.names("copy-source"), ["base.tar"]);
        missing.unmount();

        let workdir = Build::new(&sandbox, server, "workdir", "WORKDIR /etc/hello/x\n");
        workdir.fail(&[]);
        assert_eq!(workdir.read("rootfs/etc/hello"), "hello\n");
        assert_eq!(workdir.names("rootfs"), workdir.names("before"));
        workdir.unmount();

        let add = Build::new(&sandbox, server, "add", "ADD cut.tar.gz /x\n");
        let noise = succeed(Command::new("head").args(["-c", "300000", "/dev/urandom"]));
        fs::write(sandbox.path("first"), &noise).unwrap();
        fs::write(sandbox.path("second"), &noise).unwrap();
        let tar =
            ["-C", sandbox.path("").to_str().unwrap(), "-czf", "-", "first", "second"].map(str::to_owned);
        let whole = succeed(Command::new("tar").args(tar));
        fs::write(add.context.join("cut.tar.gz"), &whole[..whole.len() - 100_000]).unwrap();
        add.fail(&[]);
        assert_eq!(fs::read(add.path("rootfs/x/first")).unwrap(), noise, "what was unpacked until then");
        assert!(!add.path("before/x").exists());
        add.unmount();
        sandbox.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs IMAGEFS_TEST_BUILDKIT"]
fn what_the_gateway_cannot_show_comes_through_the_helper() {
    let lines = "RUN touch \"$(/bin/busybox printf '/n\\377me')\" && \\
        dd if=/dev/zero of=/large bs=1M count=20 && echo end >> /large && mkdir /many && cd /many && \\
        for i in $(seq 1 20000); do : > a-name-that-is-as-long-as-some-are-$i; done; false\n";
    for server in &Server::all() {
        let sandbox = Sandbox::new();
        let build = Build::new(&sandbox, server, "b", lines);
        build.fail(&[]);
        assert!(build.path("rootfs").join(OsStr::from_bytes(b"n\xffme")).exists(), "{}", server.address);
        let large = fs::read(build.path("rootfs/large")).unwrap();
        assert_eq!((large.len(), &large[20 << 20..]), ((20 << 20) + 4, &b"end\n"[..]));
        assert_eq!(build.names("rootfs/many").len(), 20_000);
        build.unmount();
    }
}

#[test]
#[ignore = "needs IMAGEFS_TEST_BUILDKIT"]
fn a_step_that_was_given_up_because_of_another_has_not_failed() {
    let lines = "FROM base AS slow\nRUN sleep 600\nFROM base AS quick\nRUN sleep 1; exit 3\n\
        FROM base\nCOPY --from=slow /etc/hello /a\nCOPY --from=quick /etc/hello /b\n";
    for server in &Server::all() {
        let sandbox = Sandbox::new();
        let build = Build::new(&sandbox, server, "b", lines);
        let outcome = build.fail(&[]);
        let line = |word: &str| outcome.stderr.lines().filter(|line| line.contains(word)).count();
        assert_eq!((line(" ERROR: "), line(" CANCELED")), (1, 1), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("exit code: 3"), "{}", outcome.stderr);
        build.unmount();
    }
}
