//! The daemon side against a real Docker and a real Podman.
//!
//! Their sockets are named by `IMAGEFS_TEST_DOCKER` and `IMAGEFS_TEST_PODMAN`. Every test makes what it reads.
use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use imagefs::docker::{
    ByteStream, ChangeKind, ContainerState, Daemon, DockerError, Endpoint, Engine, Image, MountKind,
    Patience, Unreachable,
};
use imagefs::image::Platform;

use crate::support::proxy::{Fault, Proxy};

/// The image that most tests read.
const NAME: &str = "imagefs-test/docker-tier:latest";

/// Makes a test of `fn NAME(Engine)` for each of the two daemons.
macro_rules! on_both_daemons {
    ($($name:ident),* $(,)?) => {
        mod on_docker { $(#[test] fn $name() { super::$name(super::Engine::Docker) })* }
        mod on_podman { $(#[test] fn $name() { super::$name(super::Engine::Podman) })* }
    };
}

on_both_daemons!(
    an_image_is_found_by_each_of_its_names,
    a_missing_image_is_reported_with_the_nearest_name,
    an_image_for_another_platform_is_refused,
    an_export_holds_the_image_and_nothing_is_left,
    an_image_without_a_command_or_without_any_file_is_exported,
    a_dropped_throwaway_is_removed_also_in_the_midst_of_its_export,
    a_single_path_is_found_fetched_or_absent,
    a_removed_container_does_not_look_empty,
    the_throwaway_of_a_killed_process_is_swept_and_no_other,
    a_mount_by_name_costs_six_requests,
    a_body_that_is_cut_is_never_taken_for_a_whole_one,
    a_body_that_stalls_is_given_up,
    a_waiting_read_ends_when_told_to,
    a_stream_that_nobody_reads_is_hung_up_all_the_same,
    dropping_a_stream_hangs_up,
    a_container_shows_its_mount_table,
    a_volume_is_read_through_a_throwaway,
    what_a_container_changed_is_listed,
    an_image_is_saved_as_an_archive,
);

fn socket(engine: Engine) -> String {
    let variable = match engine {
        Engine::Docker => "IMAGEFS_TEST_DOCKER",
        Engine::Podman => "IMAGEFS_TEST_PODMAN",
    };
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: run scripts/test, which starts it"))
}

fn daemon_at(socket: &str) -> Daemon {
    Daemon::connect(&Endpoint::from_environment(Some(socket)).unwrap()).unwrap()
}

fn daemon(engine: Engine) -> Daemon {
    let daemon = daemon_at(&socket(engine));
    assert_eq!(daemon.engine(), engine);
    daemon
}

/// Runs the docker command against the daemon; returns its trimmed output.
fn docker(engine: Engine, arguments: &[&str], input: &[u8]) -> String {
    let mut child = Command::new("docker")
        .args(["--host", &socket(engine)])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "docker {arguments:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A tar of a small root filesystem with one file of each interesting kind, and one of 8 MiB.
fn rootfs() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &[u8], kind, mode, link: Option<&str>, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_000_000_000);
        header.set_uid(7);
        header.set_gid(8);
        header.set_size(content.len() as u64);
        if let Some(link) = link {
            header.set_link_name(link).unwrap();
        }
        tar.append_data(&mut header, std::ffi::OsStr::from_bytes(path), content).unwrap();
    };
    use tar::EntryType::{Directory, Fifo, Regular, Symlink};
    let mut noise = Vec::new();
    for i in 0..1_u64 << 20 {
        noise.extend(i.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    }
    add(b"data/", Directory, 0o1777, None, b"");
    add(b"data/inside", Regular, 0o640, None, b"volume");
    add(b"etc/", Directory, 0o755, None, b"");
    add(b"etc/chain", Symlink, 0o777, Some("dangling"), b"");
    add(b"etc/dangling", Symlink, 0o777, Some("/nowhere"), b"");
    add(b"etc/[", Regular, 0o600, None, b"[");
    add(b"etc/hello", Regular, 0o4755, None, b"hello\n");
    add(b"etc/link", Symlink, 0o777, Some("/etc/hello"), b"");
    add(b"etc/pipe", Fifo, 0o600, None, b"");
    add(b"etc/\xff\xfe", Regular, 0o600, None, b"x");
    add(b"noise", Regular, 0o600, None, &noise);
    tar.into_inner().unwrap()
}

/// An image of [`rootfs`] with a volume, made once.
fn image(engine: Engine) -> Image {
    static MADE: Mutex<BTreeMap<&str, Image>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let key = if engine == Engine::Docker { "docker" } else { "podman" };
    let make = || {
        let changes = ["VOLUME /data", "ENV A=b", "ENTRYPOINT [\"/bin/x\"]", "LABEL l=m"];
        let mut arguments = vec!["import"];
        for change in &changes {
            arguments.extend(["--change", change]);
        }
        arguments.extend(["-", NAME]);
        docker(engine, &arguments, &rootfs());
        daemon(engine).image(&NAME.parse().unwrap(), None).unwrap()
    };
    made.entry(key).or_insert_with(make).clone()
}

/// What a tar holds: names, and the content of regular files.
fn entries(stream: impl Read) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(stream).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        found.insert(entry.path_bytes().into_owned(), content);
    }
    found
}

/// The daemon's error within an error of a read.
fn carried(error: &io::Error) -> &DockerError {
    error.get_ref().unwrap().downcast_ref().unwrap()
}

fn is_gone(daemon: &Daemon, id: &str) -> bool {
    matches!(daemon.container(&id.parse().unwrap()), Err(DockerError::ContainerNotFound { .. }))
}

fn an_image_is_found_by_each_of_its_names(engine: Engine) {
    let image = image(engine);
    let daemon = daemon(engine);
    let hex = image.id.hex();
    let tagged = &image.names[0];
    for name in [tagged, &hex, &hex[..12], &image.id.to_string(), &format!("sha256:{}", &hex[..12])] {
        assert_eq!(daemon.image(&name.parse().unwrap(), None).unwrap(), image, "{name}");
    }
    assert!(tagged.ends_with(NAME), "{tagged}");
    assert_eq!(image.platform, Platform::host());
    assert_eq!(image.layers.len(), 1);
    assert_eq!(image.config.env, ["A=b"]);
    assert_eq!(image.config.entrypoint, ["/bin/x"]);
    assert_eq!(image.config.labels["l"], "m");
    assert!(image.config.volumes.contains("/data"));
    assert!(image.created.is_some() && image.size > 8 << 20, "{image:?}");
}

fn a_missing_image_is_reported_with_the_nearest_name(engine: Engine) {
    image(engine);
    let daemon = daemon(engine);
    let error = daemon.image(&"imagefs-test/dokcer-tier".parse().unwrap(), None).unwrap_err();
    let message = format!("image not found in local {engine} storage: imagefs-test/dokcer-tier");
    assert_eq!(error.to_string(), message);
    let hint = error.hint().unwrap();
    assert!(hint.contains(NAME) && hint.contains("pull imagefs-test/dokcer-tier"), "{hint}");
    let short = format!("sha256:{}", "f".repeat(40));
    for id in [&short, "ffffffffffff", &format!("sha256:{}", "f".repeat(64))] {
        let error = daemon.image(&id.parse().unwrap(), None).unwrap_err();
        assert!(matches!(&error, DockerError::ImageNotFound { pull: None, .. }), "{id}: {error:?}");
    }
}

fn an_image_for_another_platform_is_refused(engine: Engine) {
    let image = image(engine);
    let name = image.names[0].parse().unwrap();
    let wanted: Platform = "linux/s390x".parse().unwrap();
    let error = daemon(engine).image(&name, Some(&wanted)).unwrap_err().to_string();
    assert!(error.contains(&format!("is for {}, not for linux/s390x", Platform::host())), "{error}");
    assert_eq!(daemon(engine).image(&name, Some(&Platform::host())).unwrap(), image);
}

fn an_export_holds_the_image_and_nothing_is_left(engine: Engine) {
    let image = image(engine);
    let daemon = daemon(engine);
    let throwaway = daemon.throwaway(&image).unwrap();
    let id = throwaway.id().to_string();
    assert_eq!(daemon.container(&id.parse().unwrap()).unwrap().state, ContainerState::Created);
    let mounts = docker(engine, &["inspect", "--format", "{{range .Mounts}}{{.Type}} {{end}}", &id], b"");
    assert!(!mounts.contains("volume"), "the image's volume was made: {mounts}");

    let found = entries(throwaway.export().unwrap());
    let expected = entries(&rootfs()[..]);
    for (name, content) in &expected {
        assert_eq!(found.get(name), Some(content), "{}", name.escape_ascii());
    }
    throwaway.remove().unwrap();
    assert!(is_gone(&daemon, &id));
}

fn an_image_without_a_command_or_without_any_file_is_exported(engine: Engine) {
    let empty = tar::Builder::new(Vec::new()).into_inner().unwrap();
    for (name, tar) in [("imagefs-test/bare:latest", rootfs()), ("imagefs-test/empty:latest", empty)] {
        docker(engine, &["import", "-", name], &tar);
        let daemon = daemon(engine);
        let image = daemon.image(&name.parse().unwrap(), None).unwrap();
        assert_eq!(image.config, Default::default());
        let throwaway = daemon.throwaway(&image).unwrap();
        let found = entries(throwaway.export().unwrap());
        assert_eq!(found.contains_key(&b"etc/hello"[..]), name.contains("bare"), "{found:?}");
        throwaway.remove().unwrap();
    }
}

fn a_dropped_throwaway_is_removed_also_in_the_midst_of_its_export(engine: Engine) {
    let image = image(engine);
    let daemon = daemon(engine);
    let throwaway = daemon.throwaway(&image).unwrap();
    let id = throwaway.id().to_string();
    let mut export = throwaway.export().unwrap();
    assert!(!export.fill_buf().unwrap().is_empty());
    drop(export);
    drop(throwaway);
    assert!(is_gone(&daemon, &id));
}

fn a_single_path_is_found_fetched_or_absent(engine: Engine) {
    let image = image(engine);
    let throwaway = daemon(engine).throwaway(&image).unwrap();
    let stat = |path: &str| throwaway.stat_path(path.as_bytes()).unwrap();

    let hello = stat("/etc/hello").unwrap();
    assert_eq!((hello.mode, hello.size, hello.resolved), (0o104755, 6, None));
    assert_eq!(hello.mtime.unwrap().to_string(), "2001-09-09T01:46:40Z");
    assert_eq!(stat("/data").unwrap().mode, 0o041777, "what the image has beneath its volume");
    assert_eq!(stat("/data/inside").unwrap().size, 6);
    assert_eq!(stat("/etc/pipe").unwrap().mode, 0o010600);
    let link = stat("/etc/link").unwrap();
    assert_eq!((link.mode, link.resolved.as_deref()), (0o120777, Some("/etc/hello")));
    let (dangling, chain) = (stat("/etc/dangling").unwrap(), stat("/etc/chain").unwrap());
    assert_eq!((dangling.mode, dangling.size), (0o120777, 8));
    assert_eq!((chain.mode, chain.size), (0o120777, 8));
    assert_eq!(stat("/etc/nothing"), None);
    assert_eq!(stat("/nothing/further"), None);
    assert_eq!(stat("/etc/a&path=b#d%65+ é"), None);

    let file = entries(throwaway.archive(b"/data/inside").unwrap().unwrap());
    assert_eq!(file, BTreeMap::from([(b"inside".to_vec(), b"volume".to_vec())]));
    let directory = entries(throwaway.archive(b"/etc").unwrap().unwrap());
    assert_eq!(directory[&b"etc/\xff\xfe"[..]], b"x");
    assert!(throwaway.archive(b"/etc/nothing").unwrap().is_none());

    // What the daemon would mistake is refused rather than denied or confused.
    let refused = |error: Option<DockerError>| matches!(error, Some(DockerError::NameNotSupported { .. }));
    assert!(refused(throwaway.archive(b"/etc/\xff\xfe").err()));
    match engine {
        Engine::Docker => {
            assert_eq!(throwaway.stat_path(b"/etc/\xff\xfe").unwrap().unwrap().size, 1);
            assert_eq!(throwaway.stat_path(b"/etc/\xff").unwrap(), None);
            assert_eq!(stat("/etc/[").unwrap().size, 1);
            let file = entries(throwaway.archive(b"/etc/[").unwrap().unwrap());
            assert_eq!(file, BTreeMap::from([(b"[".to_vec(), b"[".to_vec())]));
        }
        Engine::Podman => {
            for name in [&b"/etc/\xff\xfe"[..], b"/etc/[", b"/etc/h?llo", b"/etc/*", b"/etc\\/hello"] {
                assert!(refused(throwaway.stat_path(name).err()), "{}", name.escape_ascii());
                assert!(refused(throwaway.archive(name).err()), "{}", name.escape_ascii());
            }
        }
    }
}

fn a_removed_container_does_not_look_empty(engine: Engine) {
    let throwaway = daemon(engine).throwaway(&image(engine)).unwrap();
    docker(engine, &["rm", "--force", throwaway.id().as_str()], b"");
    for error in [
        throwaway.stat_path(b"/etc/hello").err(),
        throwaway.stat_path(b"/nothing").err(),
        throwaway.archive(b"/etc/hello").err(),
    ] {
        assert!(matches!(error, Some(DockerError::ContainerNotFound { .. })), "{error:?}");
    }
    let error = throwaway.export().unwrap().fill_buf().unwrap_err();
    assert!(matches!(carried(&error), DockerError::Refused { status: 404, .. }), "{error:?}");
    throwaway.remove().unwrap();
}

const OWNED_IMAGE: &str = "IMAGEFS_TEST_OWNED_IMAGE";
const OWNED_SOCKET: &str = "IMAGEFS_TEST_OWNED_SOCKET";

#[test]
#[ignore = "is a process of the sweeping test, which kills it"]
fn a_process_that_owns_a_throwaway() {
    let daemon = daemon_at(&std::env::var(OWNED_SOCKET).unwrap());
    let image = daemon.image(&std::env::var(OWNED_IMAGE).unwrap().parse().unwrap(), None).unwrap();
    let throwaway = daemon.throwaway(&image).unwrap();
    println!("\nowns={}", throwaway.id());
    // Until it is killed, or else whoever started it has ended.
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

fn the_throwaway_of_a_killed_process_is_swept_and_no_other(engine: Engine) {
    let image = image(engine);
    let daemon = daemon(engine);
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "docker::a_process_that_owns_a_throwaway", "--ignored", "--nocapture"])
        .env(OWNED_IMAGE, image.id.to_string())
        .env(OWNED_SOCKET, socket(engine))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = io::BufReader::new(owner.stdout.take().unwrap()).lines();
    let orphan = lines.find_map(|line| Some(line.unwrap().strip_prefix("owns=")?.to_owned())).unwrap();
    let ours = daemon.throwaway(&image).unwrap();
    // Somebody's container of an image that carries our label is not ours.
    let label =
        docker(engine, &["inspect", "--format", "{{index .Config.Labels \"imagefs.owner\"}}", &orphan], b"");
    let label = format!("imagefs.owner={label}");
    let foreign = docker(engine, &["create", "--label", &label, &image.id.to_string(), "x"], b"");

    daemon.sweep_orphans().unwrap();
    assert!(!is_gone(&daemon, &orphan), "its owner is alive");
    owner.kill().unwrap();
    owner.wait().unwrap();
    daemon.sweep_orphans().unwrap();
    assert!(is_gone(&daemon, &orphan), "its owner is dead");
    assert!(!is_gone(&daemon, ours.id().as_str()), "ours is not an orphan");
    assert!(!is_gone(&daemon, &foreign), "it has no name of ours");
    docker(engine, &["rm", "--volumes", &foreign], b"");
}

fn a_mount_by_name_costs_six_requests(engine: Engine) {
    let name = image(engine).names[0].parse().unwrap();
    let proxy = Proxy::before(&socket(engine), Fault::None);
    let daemon = daemon_at(&proxy.address());
    let image = daemon.image(&name, None).unwrap();
    assert_eq!(proxy.requests(), 3, "a warm mount pings, asks who the daemon is, and for the image");
    let throwaway = daemon.throwaway(&image).unwrap();
    io::copy(&mut throwaway.export().unwrap(), &mut io::sink()).unwrap();
    throwaway.remove().unwrap();
    assert_eq!(proxy.requests(), 6);
}

/// An export that goes through a proxy which spoils it after 1 MiB, read to its end.
fn spoiled_export(engine: Engine, fault: Fault) -> (usize, io::Error, ByteStream) {
    let image = image(engine);
    let direct = daemon(engine).throwaway(&image).unwrap();
    let proxy = Proxy::before(&socket(engine), fault);
    // What comes late on a busy machine has not stalled.
    let stalls = matches!(fault, Fault::StallAfter(_));
    let idle = if stalls { Duration::from_secs(3) } else { Duration::from_secs(300) };
    let patience = Patience { idle, ..Patience::default() };
    let endpoint = Endpoint::from_environment(Some(&proxy.address())).unwrap();
    let spoiled = Daemon::connect_with(&endpoint, patience).unwrap();
    let mut export = spoiled.export(direct.id()).unwrap();
    let mut read = 0;
    loop {
        match export.fill_buf() {
            Ok(chunk) => {
                let n = chunk.len();
                assert!(n > 0, "a spoiled body looked whole after {read} bytes");
                export.consume(n);
                read += n;
            }
            Err(error) => return (read, error, export),
        }
    }
}

fn a_body_that_is_cut_is_never_taken_for_a_whole_one(engine: Engine) {
    let (read, error, mut export) = spoiled_export(engine, Fault::CutAfter(1 << 20));
    assert!(read > 0 && read <= 1 << 20, "{read}");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert!(matches!(carried(&error), DockerError::Cut { .. }), "{error:?}");
    assert!(export.fill_buf().is_err(), "to read on must not look like the end");
}

fn a_body_that_stalls_is_given_up(engine: Engine) {
    let (read, error, _) = spoiled_export(engine, Fault::StallAfter(1 << 20));
    assert!(read > 0 && read <= 1 << 20, "{read}");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(matches!(carried(&error), DockerError::Stalled { .. }), "{error:?}");
}

fn a_waiting_read_ends_when_told_to(engine: Engine) {
    let image = image(engine);
    let direct = daemon(engine).throwaway(&image).unwrap();
    let proxy = Proxy::before(&socket(engine), Fault::StallAfter(0));
    let mut export = daemon_at(&proxy.address()).export(direct.id()).unwrap();
    let hang_up = export.hang_up_handle();
    let teller = std::thread::spawn(move || hang_up.hang_up());
    let error = export.fill_buf().unwrap_err();
    assert!(matches!(carried(&error), DockerError::HungUp { .. }), "{error:?}");
    teller.join().unwrap();
}

/// An export that has begun to come, through a proxy that sees it end.
fn with_export(engine: Engine, act: impl FnOnce(ByteStream, &Proxy)) {
    let image = image(engine);
    let direct = daemon(engine).throwaway(&image).unwrap();
    let proxy = Proxy::before(&socket(engine), Fault::None);
    let daemon = daemon_at(&proxy.address());
    let mut export = daemon.export(direct.id()).unwrap();
    assert!(!export.fill_buf().unwrap().is_empty());
    act(export, &proxy);
}

fn a_stream_that_nobody_reads_is_hung_up_all_the_same(engine: Engine) {
    with_export(engine, |mut export, proxy| {
        export.hang_up_handle().hang_up();
        proxy.wait_until_all_hung_up();
        let error = io::copy(&mut export, &mut io::sink()).unwrap_err();
        assert!(matches!(carried(&error), DockerError::HungUp { .. }), "{error:?}");
    });
}

fn dropping_a_stream_hangs_up(engine: Engine) {
    with_export(engine, |export, proxy| {
        drop(export);
        proxy.wait_until_all_hung_up();
    });
}

fn a_container_shows_its_mount_table(engine: Engine) {
    let image = image(engine);
    let host = tempfile::tempdir().unwrap();
    let bind = format!("{}:/bound:ro", host.path().display());
    let volume = format!("imagefs-test-{}-{:?}", std::process::id(), engine).to_lowercase();
    let named = format!("{volume}:/var/named");
    let arguments =
        ["create", "--tmpfs", "/scratch", "--volume", &bind, "--volume", &named, &image.id.to_string(), "x"];
    let id = docker(engine, &arguments, b"");
    let container = daemon(engine).container(&id[..12].parse().unwrap()).unwrap();
    docker(engine, &["rm", "--volumes", &id], b"");
    docker(engine, &["volume", "rm", &volume], b"");

    assert_eq!(container.id.as_str(), id);
    assert_eq!(container.image, image.id);
    assert_eq!(container.state, ContainerState::Created);
    let table: Vec<_> =
        container.mounts.iter().map(|m| (m.destination.as_str(), m.kind.clone(), m.read_only)).collect();
    let expected = [
        ("/bound", MountKind::Bind, true),
        ("/data", MountKind::Volume, false),
        ("/scratch", MountKind::Tmpfs, false),
        ("/var/named", MountKind::Volume, false),
    ];
    assert_eq!(table, expected);
    assert_eq!(container.mounts[0].source, host.path().to_str().unwrap());
    assert_eq!(container.mounts[3].name.as_deref(), Some(volume.as_str()));
}

fn a_volume_is_read_through_a_throwaway(engine: Engine) {
    let image = image(engine);
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("file"), "bound").unwrap();
    let bind = format!("{}:/bound", host.path().display());
    let id = docker(engine, &["create", "--volume", &bind, &image.id.to_string(), "x"], b"");
    let daemon = daemon(engine);
    let container = daemon.container(&id.parse().unwrap()).unwrap();
    let throwaway = daemon.throwaway_with_volumes_of(&container).unwrap();
    let found = entries(throwaway.archive(b"/bound").unwrap().unwrap());
    assert_eq!(found.values().filter(|content| *content == b"bound").count(), 1, "{found:?}");
    throwaway.remove().unwrap();
    assert!(!is_gone(&daemon, &id), "the other container is left alone");
    assert!(host.path().join("file").exists(), "and so is what it binds");
    docker(engine, &["rm", "--volumes", &id], b"");
}

fn what_a_container_changed_is_listed(engine: Engine) {
    let throwaway = daemon(engine).throwaway(&image(engine)).unwrap();
    let id = throwaway.id().as_str();
    docker(engine, &["cp", "-", &format!("{id}:/etc")], &{
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o644);
        tar.append_data(&mut header, "added", &b"new"[..]).unwrap();
        tar.into_inner().unwrap()
    });
    let changes = daemon(engine).changes(throwaway.id()).unwrap();
    let kind = |path: &str| changes.iter().find(|change| change.path == path).map(|change| change.kind);
    assert_eq!(kind("/etc/added"), Some(ChangeKind::Added), "{changes:?}");
    assert_eq!(kind("/noise"), None);
}

fn an_image_is_saved_as_an_archive(engine: Engine) {
    let image = image(engine);
    let found = entries(daemon(engine).save(&image).unwrap());
    assert!(found.contains_key(&b"manifest.json"[..]), "{:?}", found.keys());
}

/// Why a connection to `address` fails.
fn refusal(address: &str) -> (Unreachable, String) {
    // What is slow on a busy machine is not silent.
    let connect = Duration::from_millis(if address.ends_with("silent") { 300 } else { 300_000 });
    let patience = Patience { connect, ..Patience::default() };
    let endpoint = Endpoint::from_environment(Some(address)).unwrap();
    match Daemon::connect_with(&endpoint, patience) {
        Err(error @ DockerError::Unreachable { why, .. }) => (why, error.hint().unwrap()),
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("connected to {address}"),
    }
}

#[test]
fn an_unreachable_daemon_is_told_from_a_silent_and_from_a_wrong_one() {
    let dir = tempfile::tempdir().unwrap();
    let socket = |name: &str| format!("unix://{}", dir.path().join(name).display());

    let (why, hint) = refusal(&socket("absent"));
    assert_eq!(why, Unreachable::Absent);
    assert!(hint.contains("is the daemon running?"), "{hint}");
    std::fs::write(dir.path().join("file"), "").unwrap();
    assert_eq!(refusal(&socket("file")).0, Unreachable::NotASocket);
    drop(UnixListener::bind(dir.path().join("left")).unwrap());
    assert_eq!(refusal(&socket("left")).0, Unreachable::Refused);
    let _silent = UnixListener::bind(dir.path().join("silent")).unwrap();
    assert_eq!(refusal(&socket("silent")).0, Unreachable::Silent);
    for (name, answer) in [
        ("html", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"),
        ("other", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
        ("nothing", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
        ("ssh", "SSH-2.0-OpenSSH_9.2\r\n"),
        ("closed", ""),
    ] {
        let listener = UnixListener::bind(dir.path().join(name)).unwrap();
        let server = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            assert!(connection.read(&mut request).unwrap() > 0);
            connection.write_all(answer.as_bytes()).unwrap();
        });
        assert_eq!(refusal(&socket(name)).0, Unreachable::NotDocker, "{name}");
        server.join().unwrap();
    }
}

#[test]
fn one_daemon_serves_several_threads() {
    let image = Arc::new(image(Engine::Docker));
    let throwaway = Arc::new(daemon(Engine::Docker).throwaway(&image).unwrap());
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let throwaway = throwaway.clone();
            std::thread::spawn(move || {
                let mut export = throwaway.export().unwrap();
                for _ in 0..10 {
                    assert!(throwaway.stat_path(b"/etc/hello").unwrap().is_some());
                }
                io::copy(&mut export, &mut io::sink()).unwrap()
            })
        })
        .collect();
    let sizes: Vec<u64> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(sizes.iter().all(|size| *size == sizes[0] && *size > 8 << 20), "{sizes:?}");
}
