//! Single files of a container, by path: the archive endpoint.
//!
//! Must not import anything of the crate outside `docker`.

use jiff::Timestamp;

use super::client::encode;
use super::image::parse_time;
use super::{ByteStream, ContainerId, Daemon, DockerError, Engine};

/// What the daemon says about a path. It does not say who owns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathStat {
    /// `st_mode`: type, permissions, setuid, setgid and sticky bits.
    pub mode: u32,
    /// In bytes; for what is no regular file, whatever its filesystem says.
    pub size: u64,
    /// Modification time, as the daemon's filesystem has it: an export cuts it to whole seconds.
    pub mtime: Option<Timestamp>,
    /// Where a symlink leads in the end, as a path of the container: not the target that it stores.
    pub resolved: Option<String>,
}

impl PathStat {
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        const S_IFDIR: u32 = 0o040000;
        self.mode & S_IFMT == S_IFDIR
    }
}

impl Daemon {
    /// What stands at `path` in the container; `None` if nothing does. A symlink at its end is not followed.
    ///
    /// One request (a HEAD, about a millisecond on Docker), and another one to be sure where nothing is found. Symlinks on
    /// the way are followed, in the daemon's way: where none is, and every name but the last is a directory, `None` is
    /// certain.
    ///
    /// # Errors
    /// [`DockerError::ContainerNotFound`], so that a container that was removed does not look empty;
    /// [`DockerError::NameNotSupported`] from Podman for a name that is not UTF-8 or holds one of `*?[\`;
    /// [`DockerError::Refused`] for a symlink that leads in a circle or, on Docker, through what is no directory.
    pub fn stat_path(&self, container: &ContainerId, path: &[u8]) -> Result<Option<PathStat>, DockerError> {
        let doing = describe("stat", path);
        let target = target(container, path);
        let docker = match self.engine {
            Engine::Docker => self.client.aimed_at(&target),
            // It denies a link that leads nowhere (4.3), and describes it even so.
            Engine::Podman => {
                self.check_plain(path, &doing)?;
                self.client.frankly_aimed_at(&target).ok_or_else(|| DockerError::BadAnswer {
                    doing: doing.clone(),
                    reason: "over TLS, what is not there looks like a link that leads nowhere".into(),
                })?
            }
        };
        let answer = self.client.call(&doing, docker.get_container_archive_info("", None));
        let stat = match answer {
            // The answer to a HEAD does not say which of the two is absent (404), nor what failed (500).
            Err(DockerError::Refused { status: 404 | 500, .. }) => {
                return match self.fetch(container, path, &doing, |_| {})? {
                    None => Ok(None),
                    Some(_) => {
                        let reason = "it denies what it then delivers".into();
                        Err(DockerError::BadAnswer { doing, reason })
                    }
                };
            }
            answer => answer?,
        };
        let mode = st_mode(stat.file_mode);
        Ok(Some(PathStat {
            mode,
            size: stat.size.try_into().unwrap_or(0),
            mtime: stat.modification_time.as_deref().and_then(parse_time),
            // Podman fills it in for everything.
            resolved: (mode & S_IFMT == S_IFLNK).then_some(stat.link_target),
        }))
    }

    /// A tar of what stands at `path` in the container, with all that is below it; `None` if nothing does.
    ///
    /// Its first header is for `path` itself: who wants no more drops the stream then. Docker gives a symlink as
    /// it is; Podman (4.3) gives what the link leads to, under the name of the link, and says of everything that the
    /// user of the container owns it.
    ///
    /// # Errors
    /// [`DockerError::ContainerNotFound`]; [`DockerError::NameNotSupported`] for a name that is not UTF-8, and from
    /// Podman for one that holds one of `*?[\`.
    pub fn archive(&self, container: &ContainerId, path: &[u8]) -> Result<Option<ByteStream>, DockerError> {
        self.archive_with(container, path, |_| {})
    }

    /// As [`Daemon::archive`], which waits for the daemon's first bytes: `begun` is told of the stream before that, and
    /// may keep what [hangs it up](ByteStream::hang_up_handle).
    ///
    /// # Errors
    /// As there, and [`DockerError::HungUp`].
    pub fn archive_with(
        &self,
        container: &ContainerId,
        path: &[u8],
        begun: impl FnOnce(&ByteStream),
    ) -> Result<Option<ByteStream>, DockerError> {
        let doing = describe("fetch", path);
        self.check_plain(path, &doing)?;
        self.fetch(container, path, &doing, begun)
    }

    fn fetch(
        &self,
        container: &ContainerId,
        path: &[u8],
        doing: &str,
        begun: impl FnOnce(&ByteStream),
    ) -> Result<Option<ByteStream>, DockerError> {
        let mut stream = self.client.get(&target(container, path), doing, self.client.patience.answer)?;
        begun(&stream);
        match stream.fill() {
            Ok(()) => Ok(Some(stream)),
            Err(DockerError::Refused { status: 404, message, .. }) => {
                match message.to_ascii_lowercase().contains("no such container") {
                    true => Err(self.no_container(container.as_str())),
                    false => Ok(None),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Refuses a name that the daemon does not take as it is. Podman (4.3) finds no name that is not UTF-8, and
    /// matches patterns: it denies an existing `[`, and for `a?` it delivers `ab` too. Docker (20.10) finds a name
    /// that is not UTF-8, and then delivers an empty tar.
    fn check_plain(&self, path: &[u8], doing: &str) -> Result<(), DockerError> {
        let pattern = self.engine == Engine::Podman && path.iter().any(|b| b"*?[\\".contains(b));
        match pattern || std::str::from_utf8(path).is_err() {
            true => Err(DockerError::NameNotSupported { doing: doing.into(), engine: self.engine }),
            false => Ok(()),
        }
    }
}

fn target(container: &ContainerId, path: &[u8]) -> String {
    format!("/containers/{container}/archive?path={}", encode(path))
}

fn describe(verb: &str, path: &[u8]) -> String {
    format!("{verb} {}", path.escape_ascii())
}

const S_IFMT: u32 = 0o170000;
const S_IFLNK: u32 = 0o120000;

/// `st_mode` of a Go `os.FileMode`: the same nine permission bits, and everything else elsewhere
/// (<https://pkg.go.dev/io/fs#FileMode>).
fn st_mode(go: u32) -> u32 {
    const DEVICE: u32 = 1 << 26;
    const CHAR_DEVICE: u32 = 1 << 21;
    const TYPES: [(u32, u32); 5] = [
        (1 << 31, 0o040000),
        (1 << 27, S_IFLNK),
        (1 << 25, 0o010000),
        (1 << 24, 0o140000),
        (DEVICE, 0o060000),
    ];
    const BITS: [(u32, u32); 3] = [(1 << 23, 0o4000), (1 << 22, 0o2000), (1 << 20, 0o1000)];
    let file_type = match TYPES.iter().find(|(bit, _)| go & bit != 0) {
        Some((DEVICE, _)) if go & CHAR_DEVICE != 0 => 0o020000,
        Some((_, st)) => *st,
        None => 0o100000,
    };
    let special: u32 = BITS.iter().filter(|(bit, _)| go & bit != 0).map(|(_, st)| st).sum();
    file_type | special | go & 0o777
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_modes_become_what_stat_says() {
        for (go, st) in [
            (0o644, 0o100644),
            (1 << 31 | 0o755, 0o040755),
            (1 << 31 | 1 << 20 | 0o777, 0o041777),
            (1 << 31 | 1 << 22 | 0o775, 0o042775),
            (1 << 27 | 0o777, 0o120777),
            (1 << 23 | 0o755, 0o104755),
            (1 << 26 | 0o660, 0o060660),
            (1 << 26 | 1 << 21 | 0o666, 0o020666),
            (1 << 25 | 0o600, 0o010600),
            (1 << 24 | 0o755, 0o140755),
        ] {
            assert_eq!(st_mode(go), st, "{go:o}");
        }
    }
}
