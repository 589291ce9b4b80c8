//! Drives a build: the session, the solve, and the hold on what it leaves until nobody looks into that any more.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard_buildkit_proto::google::rpc;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bollard_buildkit_proto::moby::buildkit::v1::frontend::llb_bridge_client::LlbBridgeClient;
use bollard_buildkit_proto::moby::buildkit::v1::frontend::result::Result as Refs;
use bollard_buildkit_proto::moby::buildkit::v1::frontend::{self, PingRequest, ReturnRequest};
use bollard_buildkit_proto::moby::buildkit::v1::{SolveRequest, StatusRequest};
use bollard_buildkit_proto::pb::Platform;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::connection::{self, Server};
use super::exec::Stdin;
use super::session::{self, Shared};
use super::status::{self, Reporter, Tails};
use super::worker::Worker;
use super::{BuildError, FailedStep, MountSource, failure, helper, llb};
use crate::docker::Endpoint;
use crate::progress::Progress;

/// The longest message that is taken, in bytes: BuildKit's own limit.
const MAX_MESSAGE: usize = 16 << 20;

/// How long a server may take for a short answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the end of a build is waited for.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the status stream may still bring after the build has failed.
const LAST_WORDS: Duration = Duration::from_millis(500);

pub(super) type Bridge = LlbBridgeClient<InterceptedService<Channel, BuildId>>;

/// Names the build that a call is part of.
#[derive(Clone)]
pub(super) struct BuildId(AsciiMetadataValue);

impl Interceptor for BuildId {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("buildkit-controlapi-buildid", self.0.clone());
        Ok(request)
    }
}

/// What is to be built.
#[derive(Clone, Debug, Default)]
pub struct BuildRequest {
    /// The directory that `COPY` takes files from.
    pub context: PathBuf,
    /// The Dockerfile, if it is not `Dockerfile` in the context.
    pub dockerfile: Option<PathBuf>,
    /// The stage that is wanted, if it is not the last one.
    pub target: Option<String>,
    /// Values of `ARG`s.
    pub build_args: Vec<(String, String)>,
    /// Secrets, by their ids.
    pub secrets: HashMap<String, Vec<u8>>,
    /// The network of `RUN`s, if it is not BuildKit's own: `none` or `host`.
    pub network: Option<String>,
    /// Whether every step is to be run anew.
    pub no_cache: bool,
}

/// What came of a build.
#[derive(Debug)]
pub enum Outcome {
    /// The root filesystem of its result; `None` if that is empty.
    Built(Option<MountSource>),
    /// A step failed, and left this.
    Failed(Box<FailedStep>),
}

/// A build, and the daemon's hold on what it has made. Both end with this.
pub struct Build {
    pub(super) bridge: Bridge,
    solve: Mutex<Option<JoinHandle<()>>>,
    /// What is to be closed before the end.
    stdins: Mutex<Vec<Stdin>>,
    platform: Platform,
    /// Dropped last: all the rest is done by it.
    pub(super) worker: Worker,
}

impl fmt::Debug for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Build").finish_non_exhaustive()
    }
}

impl Build {
    /// Has a build made, and waits for what comes of it, however long that takes. `report` is told what is going on.
    ///
    /// # Errors
    /// The build cannot be made, for a reason that is no step's: see [`BuildError`].
    pub fn run(
        endpoint: &Endpoint,
        server: Server,
        request: BuildRequest,
        report: Reporter,
        progress: &Progress,
    ) -> Result<(Arc<Build>, Outcome), BuildError> {
        let dockerfile = request.dockerfile.clone().unwrap_or_else(|| request.context.join("Dockerfile"));
        let options = options(&request, &dockerfile)?;
        let shared = shared(request, &dockerfile)?;
        let worker = Worker::start().map_err(BuildError::Start)?;
        let (cancel, cancelled) = watch::channel(false);
        let _on_cancel = progress.on_cancel(move || _ = cancel.send(true));
        let started = worker.wait("begin the build", PATIENCE, begin(endpoint, server, shared, report))?;
        let Started { bridge, solve, platform, tails } = started;
        let build =
            Build { bridge, solve: Mutex::new(Some(solve)), stdins: Mutex::default(), platform, worker };
        let outcome = build.worker.handle().block_on(build.frontend(options, cancelled, tails))?;
        Ok((Arc::new(build), outcome))
    }

    /// Has the Dockerfile read and the build made.
    async fn frontend(
        &self,
        options: HashMap<String, String>,
        mut cancelled: watch::Receiver<bool>,
        tails: Arc<Tails>,
    ) -> Result<Outcome, BuildError> {
        let doing = "build";
        let request = frontend::SolveRequest {
            frontend: "dockerfile.v0".into(),
            frontend_opt: options,
            allow_result_return: true,
            allow_result_array_ref: true,
            evaluate: true,
            ..frontend::SolveRequest::default()
        };
        let mut bridge = self.bridge.clone();
        let solved = tokio::select! {
            solved = bridge.solve(request) => solved,
            _ = cancelled.wait_for(|cancelled| *cancelled) => return Err(BuildError::Cancelled),
        };
        match solved {
            Ok(answer) => {
                let result = answer.into_inner().result.and_then(|result| result.result);
                Ok(Outcome::Built(root_of(result).map(MountSource::result)))
            }
            Err(status) => match failure::read(&status) {
                Some(mut failed) => {
                    failed.output = tails.of(&failed.digest, LAST_WORDS).await;
                    Ok(Outcome::Failed(Box::new(failed)))
                }
                None => Err(failure::refusal(doing, status)),
            },
        }
    }

    /// A filesystem with the helper and so many mount points: its reference.
    pub(super) fn helper_root(&self, mounts: usize) -> Result<String, BuildError> {
        let doing = "put the helper beside the build";
        if helper::PROGRAM.is_empty() {
            return Err(BuildError::Helper("this imagefs was built without one".into()));
        }
        if self.platform.architecture != architecture() || self.platform.os != "linux" {
            let Platform { os, architecture, .. } = &self.platform;
            return Err(BuildError::Helper(format!("it does not run on {os}/{architecture}")));
        }
        let request = frontend::SolveRequest {
            definition: Some(llb::helper(helper::PROGRAM, mounts, self.platform.clone())),
            allow_result_return: true,
            allow_result_array_ref: true,
            evaluate: true,
            ..frontend::SolveRequest::default()
        };
        let mut bridge = self.bridge.clone();
        let answer = self.worker.wait(doing, PATIENCE, async move {
            bridge.solve(request).await.map_err(|status| BuildError::of(doing, status))
        })?;
        let root = root_of(answer.into_inner().result.and_then(|result| result.result));
        root.ok_or_else(|| BuildError::BadAnswer { doing, reason: "it has no result".into() })
    }

    /// A process of it that has been started.
    pub(super) fn opened(&self, stdin: &Stdin) {
        self.stdins.lock().unwrap_or_else(PoisonError::into_inner).push(stdin.clone());
    }

    pub(super) fn platform(&self) -> Platform {
        self.platform.clone()
    }
}

impl Build {
    /// Ends it: the daemon lets go of what it has made, though others may still hold this.
    pub(crate) fn end(&self) {
        let solve = self.solve.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(solve) = solve else { return };
        let mut bridge = self.bridge.clone();
        // The words are for the daemon's history of builds.
        let error = rpc::Status { code: 1, message: "imagefs has looked at it".into(), details: Vec::new() };
        let stdins = std::mem::take(&mut *self.stdins.lock().unwrap_or_else(PoisonError::into_inner));
        let farewell = async move {
            for stdin in stdins {
                stdin.close().await;
            }
            let _ = bridge.r#return(ReturnRequest { result: None, error: Some(error) }).await;
            let _ = solve.await;
            Ok(())
        };
        // Without it, the end of the connection is the end of the build.
        if let Err(error) = self.worker.wait("end the build", FAREWELL, farewell) {
            tracing::debug!("{error}");
        }
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        self.end();
    }
}

/// A build that waits to be told what to do.
struct Started {
    bridge: Bridge,
    solve: JoinHandle<()>,
    platform: Platform,
    tails: Arc<Tails>,
}

async fn begin(
    endpoint: &Endpoint,
    server: Server,
    shared: Shared,
    report: Reporter,
) -> Result<Started, BuildError> {
    let doing = "begin the build";
    let failed = |status| match server {
        Server::Docker => no_buildkit(endpoint, BuildError::of(doing, status)),
        Server::Buildkitd => BuildError::of(doing, status),
    };
    let channel = connection::connect(endpoint, server).await?;
    let (id, session) = (uuid()?, uuid()?);
    session::open(channel.clone(), &session, shared).await.map_err(failed)?;
    let mut control = ControlClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
    let wanted = StatusRequest { r#ref: id.clone() };
    let solve = SolveRequest { r#ref: id.clone(), session, ..SolveRequest::default() };
    let mut solving = ControlClient::new(channel.clone());
    let solve = tokio::spawn(async move {
        if let Err(status) = solving.solve(solve).await {
            tracing::debug!("the build has ended: {}", status.message());
        }
    });
    let tails = Arc::new(Tails::default());
    let telling = Arc::clone(&tails);
    tokio::spawn(async move {
        // Older servers answer once there is something to tell.
        match control.status(wanted).await {
            Ok(statuses) => status::follow(statuses.into_inner(), report, telling).await,
            Err(status) => tracing::warn!("it is not told how the build goes on: {}", status.message()),
        }
    });
    let id = id.parse().map_err(|_| BuildError::BadAnswer { doing, reason: "an id".into() })?;
    let mut bridge = LlbBridgeClient::with_interceptor(channel, BuildId(id));
    bridge = bridge.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
    let pong = bridge.ping(PingRequest {}).await.map_err(failed)?.into_inner();
    let platform = pong.workers.into_iter().next().and_then(|worker| worker.platforms.into_iter().next());
    Ok(Started { bridge, solve, platform: platform.unwrap_or_default(), tails })
}

/// What a Docker daemon means that speaks gRPC and knows no such call.
fn no_buildkit(endpoint: &Endpoint, error: BuildError) -> BuildError {
    match error {
        BuildError::Refused { message, .. } => {
            BuildError::NoBuildKit { endpoint: endpoint.to_string(), why: message }
        }
        other => other,
    }
}

/// What the frontend is told.
fn options(request: &BuildRequest, dockerfile: &Path) -> Result<HashMap<String, String>, BuildError> {
    let name = dockerfile.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| BuildError::Context {
        path: dockerfile.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidInput, "it has no name that BuildKit could take"),
    })?;
    let mut options = HashMap::from([("filename".to_owned(), name.to_owned())]);
    options.extend(request.target.iter().map(|target| ("target".to_owned(), target.clone())));
    options.extend(request.network.iter().map(|mode| ("force-network-mode".to_owned(), mode.clone())));
    options.extend(request.no_cache.then(|| ("no-cache".to_owned(), String::new())));
    let build_args = request.build_args.iter();
    options.extend(build_args.map(|(name, value)| (format!("build-arg:{name}"), value.clone())));
    Ok(options)
}

fn shared(request: BuildRequest, dockerfile: &Path) -> Result<Shared, BuildError> {
    let context = |path: &Path, source| BuildError::Context { path: path.to_owned(), source };
    let metadata = std::fs::metadata(&request.context).map_err(|e| context(&request.context, e))?;
    if !metadata.is_dir() {
        return Err(context(&request.context, io::ErrorKind::NotADirectory.into()));
    }
    if !std::fs::metadata(dockerfile).map_err(|e| context(dockerfile, e))?.is_file() {
        return Err(context(dockerfile, io::Error::other("it is no file")));
    }
    let beside = dockerfile.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directories =
        HashMap::from([("context", request.context.clone()), ("dockerfile", beside.to_owned())]);
    Ok(Shared { directories, secrets: request.secrets })
}

/// The reference of a result, of whatever form. Of several platforms there are several: we have asked for one.
fn root_of(result: Option<Refs>) -> Option<String> {
    let id = match result? {
        Refs::RefDeprecated(id) => Some(id),
        Refs::RefsDeprecated(refs) => refs.refs.into_values().next(),
        Refs::Ref(r) => Some(r.id),
        Refs::Refs(refs) => refs.refs.into_values().next().map(|r| r.id),
    };
    id.filter(|id| !id.is_empty())
}

/// The kernel's source of random UUIDs: random(4).
pub(super) fn uuid() -> Result<String, BuildError> {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(BuildError::Start)?;
    Ok(uuid.trim().to_owned())
}

/// This machine's architecture, as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}
