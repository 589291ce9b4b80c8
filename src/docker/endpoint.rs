//! Where the daemon listens, found the way the docker command finds it.
//!
//! An [`Endpoint`] says which address, with which TLS files, and why that one. Only files and the environment
//! are read here, nothing is connected to. Must not import tokio or bollard.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::error::printable;
use crate::image::Digest;

/// Where the daemon listens when nothing says otherwise.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// The largest configuration file that is read, in bytes.
const CONFIG_LIMIT: u64 = 4 << 20;

/// The address of a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket, by its absolute path.
    Unix(String),
    /// A TCP port. An IPv6 address keeps its brackets.
    Tcp {
        /// Name or address of the machine.
        host: String,
        /// Port number.
        port: u16,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix://{}", printable(path)),
            Address::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
        }
    }
}

/// The files that a TLS connection to the daemon is made with, all in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Who may vouch for the daemon. Must exist.
    pub ca: PathBuf,
    /// Who we are. May be absent where the daemon does not ask.
    pub cert: PathBuf,
    /// The key of `cert`.
    pub key: PathBuf,
}

impl TlsFiles {
    fn in_directory(directory: &Path) -> TlsFiles {
        TlsFiles {
            ca: directory.join("ca.pem"),
            cert: directory.join("cert.pem"),
            key: directory.join("key.pem"),
        }
    }
}

/// What made an endpoint the one to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The user named it on the command line.
    Option,
    /// The environment variable `DOCKER_HOST`.
    DockerHost,
    /// The docker context of that name.
    Context(String),
    /// Nothing said otherwise.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Option => f.write_str("from --host"),
            Origin::DockerHost => f.write_str("from DOCKER_HOST"),
            Origin::Context(name) => write!(f, "from the docker context {}", printable(name)),
            Origin::Default => f.write_str("the default"),
        }
    }
}

/// Where a daemon listens, and how to speak with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Address,
    /// Set where the connection is encrypted; the daemon's certificate is then always verified.
    pub tls: Option<TlsFiles>,
    /// Why this endpoint.
    pub origin: Origin,
    /// `XDG_RUNTIME_DIR`, where rootless daemons have their sockets.
    runtime_directory: Option<PathBuf>,
}

/// Why no endpoint could be made out.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The value is no address.
    #[error("{value:?} ({origin}) is not the address of a daemon: {reason}")]
    BadAddress {
        /// What was given.
        value: String,
        /// Where it was given.
        origin: Origin,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// `ssh://`, which the docker command serves by running itself on the other machine.
    #[error("{value:?} ({origin}): a daemon cannot be reached through ssh:// directly")]
    Ssh {
        /// What was given.
        value: String,
        /// Where it was given.
        origin: Origin,
    },
    /// The context was never made.
    #[error("there is no docker context {name:?} in {directory:?}")]
    NoSuchContext {
        /// Its name.
        name: String,
        /// Where contexts are kept.
        directory: PathBuf,
    },
    /// A configuration file of docker cannot be read.
    #[error("cannot read {path:?}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A configuration file of docker is not what it should be.
    #[error("{path:?} is not a valid docker configuration file: {source}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where it goes wrong.
        source: serde_json::Error,
    },
}

impl EndpointError {
    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            EndpointError::BadAddress { .. } => {
                Some("write unix:///path/of/docker.sock, tcp://host:port or https://host:port".into())
            }
            EndpointError::Ssh { value, .. } => {
                let machine = value.trim_start_matches("ssh://");
                Some(format!(
                    "forward the daemon's socket and name the near end: \
                     ssh -nNT -L /tmp/docker.sock:{DEFAULT_SOCKET} {} & then --host unix:///tmp/docker.sock",
                    printable(machine)
                ))
            }
            EndpointError::NoSuchContext { .. } => Some("docker context ls shows those that exist".into()),
            EndpointError::Unreadable { .. } | EndpointError::Malformed { .. } => {
                Some("to do without docker's configuration, name the daemon with --host".into())
            }
        }
    }
}

impl Endpoint {
    /// The endpoint for this process: `explicit`, or what its environment and docker's configuration say.
    ///
    /// # Errors
    /// As [`Endpoint::resolve`].
    pub fn from_environment(explicit: Option<&str>) -> Result<Endpoint, EndpointError> {
        Endpoint::resolve(explicit, |name| std::env::var_os(name))
    }

    /// The endpoint that docker would use: `explicit` (its `-H`), else `DOCKER_HOST`, else the context that
    /// `DOCKER_CONTEXT` names, else `currentContext` of `$DOCKER_CONFIG/config.json`, else the default socket.
    ///
    /// `variable` looks up an environment variable; an empty one counts as unset.
    ///
    /// # Errors
    /// The first of them that is set is malformed, of no supported kind, or names a context that is not there.
    pub fn resolve(
        explicit: Option<&str>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Endpoint, EndpointError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| set(name).map(|value| value.to_string_lossy().into_owned());
        // Made absolute here, for the server that these files are read in stands elsewhere.
        let path = |name: &str| std::path::absolute(set(name)?).ok();

        let configuration = path("DOCKER_CONFIG").or_else(|| Some(path("HOME")?.join(".docker")));
        let runtime_directory = path("XDG_RUNTIME_DIR");
        let named = explicit
            .map(|value| (value.to_owned(), Origin::Option))
            .or_else(|| Some((text("DOCKER_HOST")?, Origin::DockerHost)));
        if let Some((value, origin)) = named {
            let encrypted = set("DOCKER_TLS_VERIFY").is_some() || set("DOCKER_TLS").is_some();
            let certificates = path("DOCKER_CERT_PATH").or_else(|| configuration.clone());
            let certificates = certificates.as_deref().map(TlsFiles::in_directory);
            let (address, tls) = parse_address(&value, &origin, encrypted, certificates)?;
            return Ok(Endpoint { address, tls, origin, runtime_directory });
        }

        let context = match (text("DOCKER_CONTEXT"), &configuration) {
            (Some(name), _) => Some(name),
            (None, Some(directory)) => current_context(directory)?,
            (None, None) => None,
        };
        match (context.filter(|name| name != "default"), configuration) {
            (Some(name), Some(directory)) => {
                let (address, tls) = open_context(&directory, &name)?;
                Ok(Endpoint { address, tls, origin: Origin::Context(name), runtime_directory })
            }
            (Some(name), None) => {
                Err(EndpointError::NoSuchContext { name, directory: "~/.docker/contexts".into() })
            }
            (None, _) => Ok(Endpoint {
                address: Address::Unix(DEFAULT_SOCKET.into()),
                tls: None,
                origin: Origin::Default,
                runtime_directory,
            }),
        }
    }

    /// Sockets of other daemons that exist on this machine: something to propose, never to guess.
    pub(super) fn alternatives(&self) -> Vec<String> {
        let rootless = self
            .runtime_directory
            .iter()
            .flat_map(|directory| [directory.join("docker.sock"), directory.join("podman/podman.sock")]);
        let system = [PathBuf::from(DEFAULT_SOCKET), PathBuf::from("/run/podman/podman.sock")];
        rootless
            .chain(system)
            .filter(|path| path.exists())
            .filter_map(|path| Some(Address::Unix(path.to_str()?.to_owned())))
            .filter(|address| *address != self.address)
            .map(|address| address.to_string())
            .collect()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.address, self.origin)
    }
}

/// Reads an address as docker's `-H` takes it. `encrypted` asks for TLS where the scheme leaves it open.
fn parse_address(
    value: &str,
    origin: &Origin,
    encrypted: bool,
    certificates: Option<TlsFiles>,
) -> Result<(Address, Option<TlsFiles>), EndpointError> {
    let bad = |reason| EndpointError::BadAddress {
        value: value.chars().take(200).collect(),
        origin: origin.clone(),
        reason,
    };
    let (scheme, rest) = match value.split_once("://") {
        Some(parts) => parts,
        None if value.contains('/') => return Err(bad("it has no scheme")),
        None => ("tcp", value),
    };
    let encrypted = match scheme {
        "unix" => {
            return match rest {
                "" => Ok((Address::Unix(DEFAULT_SOCKET.into()), None)),
                path if path.starts_with('/') && !path.contains('\0') => {
                    Ok((Address::Unix(path.into()), None))
                }
                _ => Err(bad("the path of the socket is not absolute")),
            };
        }
        "tcp" => encrypted,
        "http" => false,
        "https" => true,
        "ssh" => return Err(EndpointError::Ssh { value: value.into(), origin: origin.clone() }),
        _ => return Err(bad("its scheme is none of unix, tcp, http and https")),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match authority.rsplit_once(':') {
        // The colons of a bare [::1] are not those before a port.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let port = match port {
        Some(digits) => digits.parse().map_err(|_| bad("its port is not a number from 0 to 65535"))?,
        None if encrypted => 2376,
        None => 2375,
    };
    let host = if host.is_empty() { "localhost" } else { host };
    let plain =
        |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    let bracketed = |text: &str| {
        let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        inner.is_some_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok())
    };
    if !plain(host) && !bracketed(host) {
        return Err(bad("only a host and a port may follow the scheme"));
    }
    let tls = match (encrypted, certificates) {
        (false, _) => None,
        (true, Some(files)) => Some(files),
        (true, None) => return Err(bad("TLS is asked for, and DOCKER_CERT_PATH does not say with what")),
    };
    Ok((Address::Tcp { host: host.into(), port }, tls))
}

/// The name of the context in use, if docker's configuration has one.
fn current_context(configuration: &Path) -> Result<Option<String>, EndpointError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Configuration {
        current_context: Option<String>,
    }
    let read: Option<Configuration> = read_json(&configuration.join("config.json"))?;
    Ok(read.and_then(|configuration| configuration.current_context).filter(|name| !name.is_empty()))
}

/// The docker endpoint of a context. Its files are kept under the SHA-256 of its name.
fn open_context(configuration: &Path, name: &str) -> Result<(Address, Option<TlsFiles>), EndpointError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Context {
        #[serde(default)]
        endpoints: HashMap<String, ContextEndpoint>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct ContextEndpoint {
        #[serde(default)]
        host: String,
    }
    let directory = configuration.join("contexts");
    let id = Digest::from_bytes(Sha256::digest(name).into()).hex();
    let context: Context = read_json(&directory.join("meta").join(&id).join("meta.json"))?
        .ok_or_else(|| EndpointError::NoSuchContext { name: name.into(), directory: directory.clone() })?;

    let host = context.endpoints.get("docker").map_or("", |endpoint| endpoint.host.as_str());
    let host = if host.is_empty() { "unix://" } else { host };
    let tls = directory.join("tls").join(&id).join("docker");
    let encrypted = tls.is_dir();
    parse_address(host, &Origin::Context(name.into()), encrypted, Some(TlsFiles::in_directory(&tls)))
}

/// Reads a JSON file of docker's; `None` if there is none.
fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, EndpointError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(CONFIG_LIMIT).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| EndpointError::Malformed { path: path.into(), source }),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(EndpointError::Unreadable { path: path.into(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(explicit: Option<&str>, variables: &[(&str, &str)]) -> Result<Endpoint, EndpointError> {
        Endpoint::resolve(explicit, |name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value))
        })
    }

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.into(), port }
    }

    /// A directory as `docker context create far --docker host=tcp://far.example:2376,ca=…` leaves it.
    fn configuration(config_json: &str, tls: bool) -> tempfile::TempDir {
        // What `printf far | sha256sum` says.
        let id = "512eea46ceb3921dff4363c7069d89d4964d1d9fccaa0f411851a7aa60a5c868";
        let dir = tempfile::tempdir().unwrap();
        let meta = dir.path().join("contexts/meta").join(id);
        std::fs::create_dir_all(&meta).unwrap();
        std::fs::write(
            meta.join("meta.json"),
            r#"{"Name":"far","Metadata":{},"Endpoints":{"docker":{"Host":"tcp://far.example","SkipTLSVerify":false}}}"#,
        )
        .unwrap();
        if tls {
            std::fs::create_dir_all(dir.path().join("contexts/tls").join(id).join("docker")).unwrap();
        }
        std::fs::write(dir.path().join("config.json"), config_json).unwrap();
        dir
    }

    #[test]
    fn the_first_that_is_set_wins() {
        let dir = configuration(r#"{"currentContext":"far","auths":{}}"#, false);
        let config = ("DOCKER_CONFIG", dir.path().to_str().unwrap());
        let host = ("DOCKER_HOST", "unix:///run/host.sock");
        let context = ("DOCKER_CONTEXT", "default");

        let endpoint = resolve(Some("unix:///run/option.sock"), &[host, context, config]).unwrap();
        assert_eq!(endpoint.to_string(), "unix:///run/option.sock (from --host)");
        let endpoint = resolve(None, &[host, context, config]).unwrap();
        assert_eq!(endpoint.to_string(), "unix:///run/host.sock (from DOCKER_HOST)");
        let endpoint = resolve(None, &[context, config]).unwrap();
        assert_eq!(endpoint.to_string(), "unix:///var/run/docker.sock (the default)");
        let endpoint = resolve(None, &[config]).unwrap();
        assert_eq!(endpoint.to_string(), "tcp://far.example:2375 (from the docker context far)");
        let endpoint = resolve(None, &[("DOCKER_HOST", ""), ("HOME", "/nonexistent")]).unwrap();
        assert_eq!(endpoint.to_string(), "unix:///var/run/docker.sock (the default)");
    }

    #[test]
    fn a_context_brings_its_own_tls_files() {
        let dir = configuration("{}", true);
        let config = dir.path().to_str().unwrap();
        let endpoint = resolve(None, &[("DOCKER_CONTEXT", "far"), ("DOCKER_CONFIG", config)]).unwrap();
        assert_eq!(endpoint.address, tcp("far.example", 2376));
        let ca = endpoint.tls.unwrap().ca;
        assert!(ca.starts_with(dir.path().join("contexts/tls")) && ca.ends_with("docker/ca.pem"), "{ca:?}");
    }

    #[test]
    fn what_is_wrong_with_the_configuration_is_said() {
        let dir = configuration("{ nonsense", false);
        let config = ("DOCKER_CONFIG", dir.path().to_str().unwrap());
        assert!(matches!(resolve(None, &[config]), Err(EndpointError::Malformed { .. })));
        assert!(matches!(
            resolve(None, &[config, ("DOCKER_CONTEXT", "../../etc")]),
            Err(EndpointError::NoSuchContext { .. })
        ));
    }

    #[test]
    fn tls_is_asked_for_by_the_environment_or_the_scheme() {
        let verify = ("DOCKER_TLS_VERIFY", "1");
        let certificates = ("DOCKER_CERT_PATH", "/certs");
        let endpoint = resolve(Some("tcp://far"), &[verify, certificates]).unwrap();
        assert_eq!(endpoint.address, tcp("far", 2376));
        assert_eq!(endpoint.tls.unwrap().key, Path::new("/certs/key.pem"));
        let endpoint = resolve(Some("https://far:1"), &[("HOME", "/home/me")]).unwrap();
        assert_eq!(endpoint.tls.unwrap().ca, Path::new("/home/me/.docker/ca.pem"));
        assert_eq!(resolve(Some("unix:///s"), &[verify, certificates]).unwrap().tls, None);
        assert_eq!(resolve(Some("tcp://far"), &[certificates]).unwrap().tls, None);
        assert!(resolve(Some("https://far"), &[]).is_err(), "TLS without files must not go in the clear");
    }

    #[test]
    fn addresses_are_read_as_docker_reads_them() {
        for (value, address) in [
            ("tcp://10.0.0.1:99", tcp("10.0.0.1", 99)),
            ("tcp://:4243/", tcp("localhost", 4243)),
            ("tcp://[::1]", tcp("[::1]", 2375)),
            ("http://[::1]:80", tcp("[::1]", 80)),
            ("build-1:99", tcp("build-1", 99)),
            ("unix://", Address::Unix(DEFAULT_SOCKET.into())),
        ] {
            assert_eq!(resolve(Some(value), &[]).unwrap().address, address, "{value}");
        }
        for bad in
            ["unix://run/x", "/run/x.sock", "tcp://a:b", "tcp://a:1/v1", "tcp://u@h:1", "npipe:////./x"]
        {
            assert!(matches!(resolve(Some(bad), &[]), Err(EndpointError::BadAddress { .. })), "{bad}");
        }
    }

    #[test]
    fn ssh_is_refused_with_what_to_do_instead() {
        let error = resolve(None, &[("DOCKER_HOST", "ssh://me@far")]).unwrap_err();
        assert!(matches!(error, EndpointError::Ssh { .. }));
        assert!(error.hint().unwrap().contains("ssh -nNT -L"), "{error}");
    }
}
