//! Sends directories of the user's to BuildKit: what of them it asks for, as it asks for it.
//!
//! The protocol is that of github.com/tonistiigi/fsutil: all names and attributes in one direction, the numbers of the files
//! whose bytes are wanted in the other, and then the bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bollard_buildkit_proto::fsutil::types::Packet;
use bollard_buildkit_proto::fsutil::types::packet::PacketType;
use bollard_buildkit_proto::moby::filesync::v1::file_sync_server::FileSync;
use tokio::sync::mpsc::{self, Sender};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::context::{Filter, walk};

/// What is sent of a file at one time, in bytes.
const CHUNK: usize = 32 << 10;

/// Packets that wait to be sent.
const PACKETS: usize = 64;

/// Directories, by the names under which they are asked for.
#[derive(Debug)]
pub(super) struct Directories(pub HashMap<&'static str, PathBuf>);

type Answer = Result<Packet, Status>;
type Files = Arc<Mutex<HashMap<u32, PathBuf>>>;

#[async_trait]
impl FileSync for Directories {
    type DiffCopyStream = ReceiverStream<Answer>;

    async fn diff_copy(
        &self,
        request: Request<Streaming<Packet>>,
    ) -> Result<Response<Self::DiffCopyStream>, Status> {
        let name = values(request.metadata(), "dir-name").pop().unwrap_or_default();
        let root = self.0.get(name.as_str());
        let root = root.ok_or_else(|| Status::not_found(format!("no access allowed to dir {name:?}")))?;
        let filter = Filter {
            include: values(request.metadata(), "include-patterns"),
            exclude: values(request.metadata(), "exclude-patterns"),
            follow: values(request.metadata(), "followpaths"),
        };
        tracing::debug!("BuildKit wants {root:?}: {filter:?}");
        let (send, packets) = mpsc::channel(PACKETS);
        let files = Files::default();
        let (root, known, told) = (root.clone(), Arc::clone(&files), send.clone());
        tokio::task::spawn_blocking(move || tell(&root, &filter, &known, &told));
        tokio::spawn(answer(request.into_inner(), files, send));
        Ok(Response::new(ReceiverStream::new(packets)))
    }

    type TarStreamStream = ReceiverStream<Answer>;

    async fn tar_stream(
        &self,
        _: Request<Streaming<Packet>>,
    ) -> Result<Response<Self::TarStreamStream>, Status> {
        Err(Status::unimplemented("only DiffCopy is spoken"))
    }
}

/// Sends the names and attributes. A file's number is how many were sent before it.
fn tell(root: &Path, filter: &Filter, files: &Mutex<HashMap<u32, PathBuf>>, send: &Sender<Answer>) {
    let mut next: u32 = 0;
    let walked = walk(root, filter, &mut |stat, place| {
        if stat.mode & !0o777 & !(1 << 23 | 1 << 22 | 1 << 20) == 0 {
            files.lock().unwrap_or_else(PoisonError::into_inner).insert(next, place);
        }
        next = next.saturating_add(1);
        let packet = Packet { r#type: PacketType::PacketStat.into(), stat: Some(stat), ..Packet::default() };
        send.blocking_send(Ok(packet)).is_ok()
    });
    let last = match walked {
        Ok(()) => Packet { r#type: PacketType::PacketStat.into(), ..Packet::default() },
        Err(error) => failure(&error),
    };
    let _ = send.blocking_send(Ok(last));
}

/// Sends the bytes that are asked for, file by file.
async fn answer(mut asked: Streaming<Packet>, files: Files, send: Sender<Answer>) {
    while let Ok(Some(packet)) = asked.message().await {
        match packet.r#type() {
            PacketType::PacketReq => {
                // Asked for once.
                let place = files.lock().unwrap_or_else(PoisonError::into_inner).remove(&packet.id);
                let Some(place) = place else {
                    let _ = send
                        .send(Ok(failure(&io::Error::other(format!("invalid file id {}", packet.id)))))
                        .await;
                    return;
                };
                let to = send.clone();
                let sent = tokio::task::spawn_blocking(move || copy(&place, packet.id, &to)).await;
                if !matches!(sent, Ok(true)) {
                    return;
                }
            }
            PacketType::PacketFin => {
                let packet = Packet { r#type: PacketType::PacketFin.into(), ..Packet::default() };
                let _ = send.send(Ok(packet)).await;
                return;
            }
            PacketType::PacketErr => {
                tracing::debug!("BuildKit gave a directory up: {}", String::from_utf8_lossy(&packet.data));
                return;
            }
            PacketType::PacketStat | PacketType::PacketData => {}
        }
    }
}

/// Sends a file's bytes, and an empty packet behind them. `false` if that is the end of all.
fn copy(place: &Path, id: u32, send: &Sender<Answer>) -> bool {
    let data = |data: &[u8]| Packet {
        r#type: PacketType::PacketData.into(),
        id,
        data: data.to_vec(),
        ..Packet::default()
    };
    let read = || -> io::Result<bool> {
        let mut file = File::open(place)?;
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = match file.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            if send.blocking_send(Ok(data(&buffer[..n]))).is_err() {
                return Ok(false);
            }
            if n == 0 {
                return Ok(true);
            }
        }
    };
    match read() {
        Ok(go_on) => go_on,
        Err(error) => {
            let error = io::Error::new(error.kind(), format!("{place:?}: {error}"));
            let _ = send.blocking_send(Ok(failure(&error)));
            false
        }
    }
}

fn failure(error: &io::Error) -> Packet {
    let data = error.to_string().into_bytes();
    Packet { r#type: PacketType::PacketErr.into(), data, ..Packet::default() }
}

/// The values of a header. Those that a header cannot hold come percent-encoded, and a header beside says so.
fn values(metadata: &MetadataMap, key: &'static str) -> Vec<String> {
    let encoded = metadata.contains_key(format!("{key}-encoded").as_str());
    let texts = metadata.get_all(key).iter().filter_map(|value| value.to_str().ok());
    texts.map(|text| if encoded { decode(text) } else { text.to_owned() }).collect()
}

/// Undoes Go's `url.QueryEscape`.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let hex = |b: &u8| (*b as char).to_digit(16).map(|digit| digit as u8);
        match (first, tail) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) if hex(high).is_some() && hex(low).is_some() => {
                bytes.push(hex(high).unwrap_or(0) << 4 | hex(low).unwrap_or(0));
                rest = after;
            }
            (b, _) => bytes.push(*b),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_was_encoded_is_decoded_and_no_other() {
        assert_eq!(decode("a+b%2F%C3%BC%zz%4"), "a b/ü%zz%4");
        let mut metadata = MetadataMap::new();
        metadata.insert("include-patterns", "a+b".parse().unwrap());
        assert_eq!(values(&metadata, "include-patterns"), ["a+b"]);
        metadata.insert("include-patterns-encoded", "1".parse().unwrap());
        assert_eq!(values(&metadata, "include-patterns"), ["a b"]);
    }
}
