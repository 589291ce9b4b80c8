//! A tar made by GNU tar from a real directory, and sessions that show it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use imagefs::fuse::{
    self, End, MountStatus, SessionConfig, SessionError, Stopper, View, ViewMount, ViewOptions, mount_status,
};
use imagefs::index::{DataFile, Filesystem, GrowingTree};
use imagefs::tarfile::{EndMark, FileInput, Scanner};

use crate::support::as_nobody;

/// Runs a program and returns what it wrote to its standard output.
#[track_caller]
pub fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Vec<u8> {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[track_caller]
pub fn shell(script: &str, dir: &Path) -> String {
    let output = Command::new("bash").args(["-euc", script]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A directory, and the same as a tar.
pub struct Fixture {
    _home: tempfile::TempDir,
    pub original: PathBuf,
    pub tar: PathBuf,
    pub mountpoint: PathBuf,
}

impl Fixture {
    /// Runs `script` in an empty directory and packs what it leaves there.
    #[track_caller]
    pub fn new(script: &str) -> Fixture {
        let home = tempfile::Builder::new().prefix("imagefs-mounts-").tempdir().unwrap();
        shell("chmod 0755 .; mkdir original mnt; chmod 0777 mnt", home.path());
        let (original, tar) = (home.path().join("original"), home.path().join("original.tar"));
        shell(script, &original);
        let all = ["--create", "--format=pax", "--xattrs", "--xattrs-include=*", "--acls", "--sparse"];
        let source =
            [OsStr::new("-f"), tar.as_os_str(), OsStr::new("-C"), original.as_os_str(), OsStr::new(".")];
        run("tar", all.iter().map(OsStr::new).chain(source));
        let mountpoint = home.path().join("mnt");
        Fixture { original, tar, mountpoint, _home: home }
    }

    pub fn filesystem(&self) -> Arc<Filesystem> {
        filesystem(&self.tar)
    }

    pub fn config(&self) -> SessionConfig {
        SessionConfig::new(&self.mountpoint)
    }

    /// Mounts the tar as the only mount of a session.
    #[track_caller]
    pub fn mount(&self, options: ViewOptions) -> Live {
        Live::start(view(self.filesystem(), options), &self.config()).unwrap()
    }
}

pub fn filesystem(tar: &Path) -> Arc<Filesystem> {
    filesystem_of(tar, DataFile::owned(File::open(tar).unwrap()))
}

/// What is in `tar`, with the bytes from `data`.
pub fn filesystem_of(tar: &Path, data: DataFile) -> Arc<Filesystem> {
    let file = File::open(tar).unwrap();
    let size = file.metadata().unwrap().len();
    let mut tree = GrowingTree::default();
    let mut scanner = Scanner::new(FileInput::new(&file, size), EndMark::Required);
    while let Some(entry) = scanner.next_entry().unwrap() {
        tree.insert(entry).unwrap();
    }
    tree.finish().unwrap();
    Arc::new(Filesystem::new(Arc::new(tree), vec![data]))
}

pub fn view(filesystem: Arc<Filesystem>, options: ViewOptions) -> View {
    View::new(
        vec![ViewMount { name: "rootfs".into(), destinations: Vec::new(), may_be_file: false, filesystem }],
        options,
    )
    .unwrap()
}

/// A session in this process.
pub struct Live {
    stopper: Stopper,
    waiting: Option<JoinHandle<Result<End, SessionError>>>,
}

impl Live {
    pub fn start(view: View, config: &SessionConfig) -> Result<Live, SessionError> {
        let session = fuse::mount(view, config)?;
        let stopper = session.stopper();
        Ok(Live { stopper, waiting: Some(std::thread::spawn(move || session.wait())) })
    }

    /// Waits for somebody else to end it.
    #[track_caller]
    pub fn wait(mut self) -> End {
        self.waiting.take().unwrap().join().unwrap().unwrap()
    }

    #[track_caller]
    pub fn stop(self) -> End {
        self.stopper.stop();
        self.wait()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(waiting) = self.waiting.take() {
            let _ = waiting.join();
        }
    }
}

/// A session in a process of its own.
pub struct Server {
    pub child: Child,
    stdin: Option<ChildStdin>,
    /// What it said instead of being ready.
    pub refusal: Option<String>,
    mountpoint: PathBuf,
}

const TAR: &str = "IMAGEFS_TEST_TAR";
const MOUNTPOINT: &str = "IMAGEFS_TEST_MOUNTPOINT";
const ALLOW_OTHER: &str = "IMAGEFS_TEST_ALLOW_OTHER";

impl Server {
    pub fn start(fixture: &Fixture) -> Server {
        Server::spawn(fixture, Command::new(std::env::current_exe().unwrap()))
    }

    /// Mounts as the user `nobody`, with whatever `environment` adds.
    pub fn start_unprivileged(fixture: &Fixture, allow_other: bool) -> Server {
        let mut command = Command::new("sh");
        as_nobody(&mut command, "", std::env::current_exe().unwrap());
        if allow_other {
            command.env(ALLOW_OTHER, "1");
        }
        Server::spawn(fixture, command)
    }

    fn spawn(fixture: &Fixture, mut command: Command) -> Server {
        let mut child = command
            .args(["--exact", "mounts::server", "--ignored", "--nocapture"])
            .env(TAR, &fixture.tar)
            .env(MOUNTPOINT, &fixture.mountpoint)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let said = lines.find_map(|l| l.strip_prefix("server: ").map(str::to_owned)).expect("a word");
        // Whatever else it writes must not fill the pipe.
        std::thread::spawn(move || lines.count());
        let refusal = (said != "ready").then_some(said);
        Server { child, stdin, refusal, mountpoint: fixture.mountpoint.clone() }
    }

    /// Asks it to stop and waits for its end.
    #[track_caller]
    pub fn stop(mut self) {
        drop(self.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }

    #[track_caller]
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Ok(MountStatus::Stale) = mount_status(&self.mountpoint) {
            let _ = fuse::unmount(&self.mountpoint, true);
        }
    }
}

/// What [`Server`] runs.
pub fn serve() {
    let (Some(tar), Some(mountpoint)) = (std::env::var_os(TAR), std::env::var_os(MOUNTPOINT)) else {
        panic!("started by another test only");
    };
    let mut config = SessionConfig::new(mountpoint);
    config.fsname = OsString::from("a b,c\\d");
    config.allow_other = std::env::var_os(ALLOW_OTHER).is_some();
    let session = match fuse::mount(view(filesystem(Path::new(&tar)), ViewOptions::default()), &config) {
        Ok(session) => session,
        Err(error) => {
            println!("\nserver: {error} ({})", error.hint().unwrap_or_default());
            return;
        }
    };
    println!("\nserver: ready");
    std::io::stdout().flush().unwrap();
    let stopper = session.stopper();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_line(&mut String::new());
        stopper.stop();
    });
    session.wait().unwrap();
}
