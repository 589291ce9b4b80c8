//! At home on the system: mount(8) and fstab(5), a service manager, shells, as each of them runs the program.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::support::{Sandbox, succeed};

/// A sandbox with a tar of a root filesystem, and a script that sees the program beside the system's own under `mount.imagefs`
/// and `imagefs`. What the script mounts, it alone sees.
struct Host(Sandbox);

impl Host {
    fn new() -> Host {
        let sandbox = Sandbox::new();
        let script = r"
            mkdir -p 'root/etc' mnt 'mnt two'; printf 'ID=test\n' >root/etc/os-release
            printf '#!/bin/sh\necho ran\n' >root/etc/program; chmod 4755 root/etc/program
            tar --create --file 'root.tar' --directory root --numeric-owner --owner 0 --group 0 .
            cp root.tar 'a, b.tar'
        ";
        succeed(sandbox.command("bash").args(["-euc", script]));
        Host(sandbox)
    }

    /// What a script prints, in a mount namespace in which the program is installed.
    fn script(&self, script: &str) -> String {
        let install = r#"
            mount -t tmpfs none tmp; mkdir tmp/upper tmp/work
            mount -t overlay overlay -o lowerdir=/usr/sbin,upperdir=$PWD/tmp/upper,workdir=$PWD/tmp/work /usr/sbin
            ln -s "$IMAGEFS" /usr/sbin/mount.imagefs; ln -s "$IMAGEFS" /usr/sbin/imagefs
            exec 2>&1
        "#;
        let mut command = self.0.command("unshare");
        command
            .args(["--mount", "bash", "-euo", "pipefail", "-c", &format!("{install}{script}")])
            .env("IMAGEFS", env!("CARGO_BIN_EXE_imagefs"))
            .env("TMPDIR", "/tmp");
        let outcome = self.0.run(&mut command);
        let told = outcome.stdout.replace(self.0.path("").to_str().unwrap(), "/sandbox/");
        assert_eq!(outcome.code, Some(0), "{told}{}", outcome.stderr);
        told
    }
}

/// The rights of a mount as findmnt(8) has them, and no more of its options.
const RIGHTS: &str = r"rights() { findmnt --noheadings --output OPTIONS --mountpoint $1 | tr , '\n' |
    grep -E '^(ro|rw|nosuid|nodev|noexec|allow_other)$' | paste -sd,; }
    ";

#[test]
fn mount_takes_the_name_and_the_generic_options() {
    let host = Host::new();
    let told = host.script(&format!(
        "{RIGHTS}
        mount -t imagefs $PWD/root.tar $PWD/mnt
        rights mnt; cat mnt/rootfs/etc/os-release; findmnt --noheadings --output SOURCE,FSTYPE --mountpoint $PWD/mnt
        umount mnt
        mount -t imagefs $PWD/root.tar $PWD/mnt -o defaults,flat,noexec,noatime,nofail,_netdev,x-odd=1,comment=us,allow_other
        rights mnt; mnt/etc/program || echo status $?
        umount mnt
        mount -t imagefs -o flat,suid,dev,fsname='\"a\\,b\"' $PWD/root.tar $PWD/mnt
        rights mnt; mnt/etc/program; findmnt --noheadings --output SOURCE --mountpoint $PWD/mnt; umount mnt
        mount -f -t imagefs $PWD/root.tar $PWD/mnt; ls mnt
        mount -t imagefs $PWD/root.tar $PWD/mnt -o umask=022 || echo status $?"
    ));
    insta::assert_snapshot!(told, @r#"
    ro,nosuid,nodev
    ID=test
    /sandbox/root.tar fuse.imagefs
    ro,nosuid,nodev,noexec,allow_other
    bash: line 13: mnt/etc/program: Permission denied
    status 126
    ro,nosuid,nodev
    ran
    "a,b"
    error: unknown mount option 'umask'
    hint: the mount options are ro, flat, exact, layers, provenance, symlinks=contain|raw, xattr=auto|on|off, allow_other, uid=N, gid=N, kernel[=auto|copy], suid, dev, noexec, remount, fsname=NAME, only=PATTERN, timeout=SECONDS
    status 2
    "#);
}

#[test]
fn mount_fuse_runs_the_program_without_devices_and_setuid() {
    let host = Host::new();
    let told = host.script(&format!(
        "{RIGHTS}
        mount -t fuse.imagefs $PWD/root.tar $PWD/mnt -o flat
        rights mnt; cat mnt/etc/os-release; umount mnt
        mount -t fuse.imagefs $PWD/root.tar $PWD/mnt -o ro,flat,user,nofail,noauto
        rights mnt; umount mnt"
    ));
    insta::assert_snapshot!(told, @r#"
    ro,nosuid,nodev
    ID=test
    ro,nosuid,nodev,noexec
    "#);
}

#[test]
fn a_line_of_fstab_mounts_also_what_has_commas_and_blanks() {
    let host = Host::new();
    let told = host.script(&format!(
        r#"{RIGHTS}
        printf '%s %s imagefs ro,flat,noauto,nofail,_netdev,allow_other 0 0\n' $PWD/root.tar $PWD/mnt >fstab
        printf '%s %s imagefs ro,flat,noauto,x-systemd.automount 0 0\n' "$PWD/a,\040b.tar" "$PWD/mnt\040two" >>fstab
        mount --fstab fstab $PWD/mnt; mount --fstab fstab "$PWD/mnt two"
        rights mnt; cat mnt/etc/os-release 'mnt two/etc/os-release'; imagefs mounts --json | grep '"source"'
        mount --fstab fstab -o remount,noexec $PWD/mnt; rights mnt
        umount mnt 'mnt two'"#
    ));
    insta::assert_snapshot!(told, @r#"
    ro,nosuid,nodev,allow_other
    ID=test
    ID=test
        "source": "/sandbox/root.tar",
        "source": "/sandbox/a, b.tar",
    ro,nosuid,nodev,noexec,allow_other
    "#);
}

#[test]
fn what_is_mounted_is_remounted_with_other_rights() {
    let host = Host::new();
    let told = host.script(&format!(
        "{RIGHTS}
        mount -t imagefs $PWD/root.tar $PWD/mnt -o flat,allow_other
        exec 3<mnt/etc/os-release
        mount -o remount,noexec mnt; rights mnt; mnt/etc/program || echo status $?
        mount -o remount,exec mnt; rights mnt; cat <&3; exec 3<&-
        imagefs mount -o remount,noexec,suid x mnt; rights mnt; umount mnt
        imagefs mount -o remount x mnt || echo status $?
        imagefs mount -o remount x /proc || echo status $?"
    ));
    insta::assert_snapshot!(told, @r#"
    ro,nosuid,nodev,noexec,allow_other
    bash: line 11: mnt/etc/program: Permission denied
    status 126
    ro,nosuid,nodev,allow_other
    ID=test
    ro,nodev,noexec,allow_other
    error: nothing is mounted at "/sandbox/mnt"
    status 3
    error: what is mounted at "/proc" is not an imagefs mount but "proc"
    hint: unmount it with umount "/proc" if you mean it
    status 3
    "#);
}

#[test]
fn a_service_manager_is_told_when_the_mount_is_there() {
    let host = Host::new();
    let sandbox = &host.0;
    let socket = UnixDatagram::bind(sandbox.path("notify.sock")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
    let server = sandbox
        .imagefs(["mount", "-f", "./root.tar", "mnt"])
        .env("NOTIFY_SOCKET", sandbox.path("notify.sock"))
        .spawn()
        .unwrap();
    let mut message = [0; 512];
    let length = socket.recv(&mut message).unwrap();
    let text = String::from_utf8_lossy(&message[..length]);
    assert!(text.lines().any(|line| line == "READY=1"), "{text}");
    // At that very moment all of it can be read.
    assert_eq!(std::fs::read(sandbox.path("mnt/rootfs/etc/os-release")).unwrap(), b"ID=test\n");
    sandbox.unmount(&sandbox.path("mnt"));
    assert!(server.wait_with_output().unwrap().status.success());
    sandbox.assert_nothing_left();
}

#[test]
fn the_units_are_what_systemd_takes() {
    let host = Host::new();
    let units = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/systemd");
    // The program is looked for where the package puts it.
    let told = host.script(&format!(
        r"mkdir units; cp {units}/*.service {units}/examples/* units
        sed --in-place s,/usr/bin/imagefs,/usr/sbin/imagefs, units/imagefs@.service
        cp units/imagefs@.service units/imagefs@py.service
        systemd-analyze verify --man=no units/imagefs@py.service units/mnt-py.mount units/mnt-py.automount && echo taken
        printf '[Service]\nExecStart=/nowhere\nTypo=1\n' >units/bad.service
        systemd-analyze verify --man=no units/bad.service || echo refused"
    ));
    assert!(told.starts_with("taken\n") && told.ends_with("refused\n"), "{told}");
}
