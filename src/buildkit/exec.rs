//! A process in a container of a build: what it is told on its standard input, and what it writes to its standard output.

use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::frontend::exec_message::Input;
use bollard_buildkit_proto::moby::buildkit::v1::frontend::{ExecMessage, FdMessage, InitMessage};
use bollard_buildkit_proto::pb::Meta;
use tokio::sync::mpsc::{self, Sender};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::drive::Bridge;
use super::{BuildError, llb};

/// How long a process may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// The name of the only process in a container.
const PROCESS: &str = "helper";

/// Messages that wait to be sent.
const MESSAGES: usize = 64;

/// What is kept of what a process says on its standard error, in bytes.
const MAX_COMPLAINT: usize = 4096;

/// The standard input of a process.
#[derive(Clone)]
pub(super) struct Stdin {
    messages: Sender<ExecMessage>,
}

/// The standard output of a process, until it has ended.
pub(super) struct Stdout {
    messages: Streaming<ExecMessage>,
    complaint: Vec<u8>,
    /// Keeps the process: it is killed when this is gone.
    _keep: Sender<ExecMessage>,
}

/// Starts the helper in a container.
pub(super) async fn start(bridge: &mut Bridge, container: &str) -> Result<(Stdin, Stdout), BuildError> {
    let doing = "start the helper in the build";
    let (send, messages) = mpsc::channel(MESSAGES);
    let meta = Meta { args: vec![llb::HELPER.into()], cwd: "/".into(), ..Meta::default() };
    let init = InitMessage {
        container_id: container.into(),
        meta: Some(meta),
        fds: vec![0, 1, 2],
        ..InitMessage::default()
    };
    let stdin = Stdin { messages: send.clone() };
    stdin.say(Input::Init(init)).await?;
    let started = async {
        let answer = bridge.exec_process(ReceiverStream::new(messages)).await;
        let mut messages = answer.map_err(|status| BuildError::of(doing, status))?.into_inner();
        match messages.message().await.map_err(|status| BuildError::of(doing, status))?.and_then(|m| m.input)
        {
            Some(Input::Started(_)) => Ok(Stdout { messages, complaint: Vec::new(), _keep: send }),
            Some(Input::Exit(exit)) => Err(BuildError::Helper(match exit.error {
                Some(status) => super::error::printable(&status.message),
                None => format!("it ended at once with status {}", exit.code),
            })),
            other => Err(BuildError::BadAnswer { doing, reason: format!("{other:?} in place of a start") }),
        }
    };
    match timeout(PATIENCE, started).await {
        Ok(started) => Ok((stdin, started?)),
        Err(_) => Err(BuildError::Late { doing, after: PATIENCE }),
    }
}

impl Stdin {
    pub async fn write(&self, data: Vec<u8>) -> Result<(), BuildError> {
        self.say(Input::File(FdMessage { fd: 0, eof: false, data })).await
    }

    /// Says that nothing more will come. A helper then ends by itself.
    pub async fn close(&self) {
        let _ = self.say(Input::File(FdMessage { fd: 0, eof: true, data: Vec::new() })).await;
    }

    async fn say(&self, input: Input) -> Result<(), BuildError> {
        let message = ExecMessage { process_id: PROCESS.into(), input: Some(input) };
        self.messages.send(message).await.map_err(|_| BuildError::Helper("it has ended".into()))
    }
}

impl Stdout {
    /// The next piece; `None` once the process has ended well.
    pub async fn read(&mut self) -> Result<Option<Vec<u8>>, BuildError> {
        loop {
            let message = self.messages.message().await;
            let message =
                message.map_err(|status| BuildError::of("read from the helper in the build", status))?;
            match message.and_then(|message| message.input) {
                Some(Input::File(piece)) if piece.fd == 1 && !piece.data.is_empty() => {
                    return Ok(Some(piece.data));
                }
                Some(Input::File(piece)) if piece.fd == 2 => {
                    let room = MAX_COMPLAINT.saturating_sub(self.complaint.len());
                    self.complaint.extend(piece.data.iter().take(room));
                }
                Some(Input::Exit(exit)) if exit.code != 0 || exit.error.is_some() => {
                    let why = String::from_utf8_lossy(&self.complaint).into_owned();
                    let why =
                        if why.is_empty() { exit.error.map_or_else(String::new, |e| e.message) } else { why };
                    let why = super::error::printable(&why);
                    return Err(BuildError::Helper(format!("it ended with status {}: {why}", exit.code)));
                }
                Some(Input::Done(_)) => return Ok(None),
                Some(_) => {}
                None => return Err(BuildError::Helper("its output ended before it did".into())),
            }
        }
    }
}
