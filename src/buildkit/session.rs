//! What BuildKit may ask of whoever has a build made: files, secrets, credentials.
//!
//! The questions come as gRPC over a stream of bytes within our own connection, so one connection is all that a build needs.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bollard_buildkit_proto::health::health_check_response::ServingStatus;
use bollard_buildkit_proto::health::health_server::{Health, HealthServer};
use bollard_buildkit_proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use bollard_buildkit_proto::moby::buildkit::secrets::v1::secrets_server::{Secrets, SecretsServer};
use bollard_buildkit_proto::moby::buildkit::secrets::v1::{GetSecretRequest, GetSecretResponse};
use bollard_buildkit_proto::moby::buildkit::v1::BytesMessage;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bollard_buildkit_proto::moby::filesync::v1::auth_server::{Auth, AuthServer};
use bollard_buildkit_proto::moby::filesync::v1::file_sync_server::FileSyncServer;
use bollard_buildkit_proto::moby::filesync::v1::{
    CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse, GetTokenAuthorityRequest,
    GetTokenAuthorityResponse, VerifyTokenAuthorityRequest, VerifyTokenAuthorityResponse,
};
use futures_util::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, async_trait};

use super::credentials;
use super::file_sync::Directories;

/// What is sent at one time, in bytes.
const CHUNK: usize = 64 << 10;

/// Pieces that wait to be sent.
const PIECES: usize = 16;

/// The calls that are answered here.
const METHODS: [&str; 4] = [
    "/moby.filesync.v1.FileSync/DiffCopy",
    "/moby.filesync.v1.Auth/Credentials",
    "/moby.buildkit.secrets.v1.Secrets/GetSecret",
    "/grpc.health.v1.Health/Check",
];

/// What is shared with BuildKit in a session.
#[derive(Debug)]
pub(super) struct Shared {
    /// Directories, by the names under which they are asked for.
    pub directories: HashMap<&'static str, PathBuf>,
    /// Secrets, by their ids.
    pub secrets: HashMap<String, Vec<u8>>,
}

/// Opens a session of that id. It ends with the connection.
pub(super) async fn open(channel: Channel, id: &str, shared: Shared) -> Result<(), Status> {
    let (ours, theirs) = tokio::io::duplex(4 * CHUNK);
    let (mut from_us, mut to_us) = tokio::io::split(theirs);
    let (send, outgoing) = mpsc::channel(PIECES);
    tokio::spawn(serve(ours, shared));
    tokio::spawn(async move {
        let mut buffer = vec![0; CHUNK];
        while let Ok(n @ 1..) = from_us.read(&mut buffer).await {
            if send.send(BytesMessage { data: buffer[..n].to_vec() }).await.is_err() {
                break;
            }
        }
    });
    let mut request = Request::new(ReceiverStream::new(outgoing));
    head(request.metadata_mut(), id)?;
    let mut incoming = ControlClient::new(channel).session(request).await?.into_inner();
    tokio::spawn(async move {
        while let Ok(Some(message)) = incoming.message().await {
            if to_us.write_all(&message.data).await.is_err() {
                break;
            }
        }
    });
    Ok(())
}

fn head(metadata: &mut MetadataMap, id: &str) -> Result<(), Status> {
    let id = id.parse::<AsciiMetadataValue>().map_err(|_| Status::internal("the id of a session"))?;
    metadata.insert("x-docker-expose-session-uuid", id);
    metadata.insert("x-docker-expose-session-name", AsciiMetadataValue::from_static("imagefs"));
    metadata.insert("x-docker-expose-session-sharedkey", AsciiMetadataValue::from_static(""));
    for method in METHODS {
        metadata.append("x-docker-expose-session-grpc-method", AsciiMetadataValue::from_static(method));
    }
    Ok(())
}

async fn serve(stream: DuplexStream, shared: Shared) {
    let services = Arc::new(Services { secrets: shared.secrets });
    // Only this one comes, and it is served until it is gone.
    let once = futures_util::stream::once(std::future::ready(Ok::<_, io::Error>(stream)));
    let served = Server::builder()
        .add_service(FileSyncServer::new(Directories(shared.directories)))
        .add_service(AuthServer::from_arc(Arc::clone(&services)))
        .add_service(SecretsServer::from_arc(Arc::clone(&services)))
        .add_service(HealthServer::from_arc(services))
        .serve_with_incoming(once.chain(futures_util::stream::pending()))
        .await;
    if let Err(error) = served {
        tracing::debug!("the session with BuildKit: {error}");
    }
}

struct Services {
    secrets: HashMap<String, Vec<u8>>,
}

#[async_trait]
impl Secrets for Services {
    async fn get_secret(
        &self,
        request: Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        let id = request.into_inner().id;
        match self.secrets.get(&id) {
            Some(data) => Ok(Response::new(GetSecretResponse { data: data.clone() })),
            None => Err(Status::not_found(format!("secret {id}: not found"))),
        }
    }
}

#[async_trait]
impl Auth for Services {
    async fn credentials(
        &self,
        request: Request<CredentialsRequest>,
    ) -> Result<Response<CredentialsResponse>, Status> {
        let host = request.into_inner().host;
        // A helper may ask somebody, or a network.
        let found = tokio::task::spawn_blocking(move || credentials::of(&host)).await;
        let (username, secret) = found.unwrap_or_default().unwrap_or_default();
        Ok(Response::new(CredentialsResponse { username, secret }))
    }

    // BuildKit then gets its tokens itself.
    async fn fetch_token(
        &self,
        _: Request<FetchTokenRequest>,
    ) -> Result<Response<FetchTokenResponse>, Status> {
        Err(no_tokens())
    }

    async fn get_token_authority(
        &self,
        _: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        Err(no_tokens())
    }

    async fn verify_token_authority(
        &self,
        _: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        Err(no_tokens())
    }
}

fn no_tokens() -> Status {
    Status::unimplemented("tokens are left to BuildKit")
}

#[async_trait]
impl Health for Services {
    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }

    type WatchStream = tokio_stream::Iter<std::iter::Empty<Result<HealthCheckResponse, Status>>>;

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        Err(Status::unimplemented("there is one service"))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("the session ends with its connection"))
    }
}
