//! `-o exact` with a daemon that keeps images in containerd's store, where an image's id is the digest of its manifest
//! or its index. No such daemon runs here: one that says what it would say stands in for it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use imagefs::image::Platform;
use serde_json::{Value, json};

use super::build::Layer;
use super::sources::{Ask, Place};
use crate::oci::build::{Layout, Member, OCI_INDEX, digest, tar};
use crate::support::Manifest;

/// A daemon that has one image.
struct StandIn {
    address: String,
    /// The paths that were asked for.
    asked: Arc<Mutex<Vec<String>>>,
}

impl StandIn {
    fn at(socket: &Path, inspected: Value, saved: Vec<u8>) -> StandIn {
        let listener = UnixListener::bind(socket).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let asking = Arc::clone(&asked);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let path = request(&client);
                let (status, body) = match path.as_str() {
                    "/_ping" => ("200 OK", b"OK".to_vec()),
                    path if path.ends_with("/json") => ("200 OK", inspected.to_string().into_bytes()),
                    path if path.ends_with("/get") => ("200 OK", saved.clone()),
                    _ => ("404 Not Found", b"{\"message\":\"page not found\"}".to_vec()),
                };
                asking.lock().unwrap().push(path);
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                // Who has read enough hangs up.
                let _ = (&client).write_all(&[head.as_bytes(), &body].concat());
            }
        });
        StandIn { address: format!("unix://{}", socket.display()), asked }
    }

    fn saves(&self) -> usize {
        self.asked.lock().unwrap().iter().filter(|path| path.ends_with("/get")).count()
    }
}

/// The path of a request that has no body.
fn request(client: &UnixStream) -> String {
    let lines = BufReader::new(client).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let lines: Vec<_> = lines.collect();
    lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned()
}

/// An image as `docker save` writes it: the layout of an index that lists another platform too, which was not saved, and
/// the `manifest.json` of old. Gives the id, and the archive.
fn saved(layers: &[Vec<u8>]) -> (String, Vec<u8>) {
    let mut layout = Layout::default();
    let mut image = layout.image(layers, &Platform::host().to_string(), |_, _| {});
    let blob =
        |descriptor: &Value| descriptor["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
    let manifest: Value = serde_json::from_slice(&layout.files[&blob(&image)]).unwrap();
    let names: Vec<_> = manifest["layers"].as_array().unwrap().iter().map(blob).collect();
    let docker = json!([{"Config": blob(&manifest["config"]), "RepoTags": null, "Layers": names}]);
    image["platform"] = json!({"os": "linux", "architecture": Platform::host().architecture});
    let mut other = image.clone();
    other["digest"] = json!(digest(b"not here"));
    other["platform"] = json!({"os": "linux", "architecture": "mips"});
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [other, image]});
    let index = layout.json(OCI_INDEX, &index);
    let id = index["digest"].as_str().unwrap().to_owned();
    layout.list(index, None);
    let mut files = layout.complete();
    files.insert("manifest.json".into(), docker.to_string().into_bytes());
    (id, tar(files.iter().map(|(name, bytes)| (name.as_str(), Member::File(bytes.clone())))))
}

#[test]
fn an_image_whose_id_is_that_of_an_index_is_saved_once() {
    let place = Place::new();
    let layers =
        || [Layer::new(0).dir("./").file("gone", ""), Layer::new(1).without("gone").file("f", "text")];
    let (id, archive) = saved(&layers().map(Layer::tar));
    let inspected = json!({
        "Id": id, "RepoTags": ["app:1"], "Os": "linux", "Architecture": Platform::host().architecture,
        "RootFS": {"Type": "layers", "Layers": layers().map(|layer| digest(&layer.tar()))},
        "Config": {"Cmd": ["sh"]},
    });
    let daemon = StandIn::at(&place.path("socket"), inspected, archive);
    let ask = Ask { host: Some(&daemon.address), exact: true, ..Ask::default() };
    place.layout("a", layers());
    let expected = place.unpacked("a");
    for _cold_then_warm in 0..2 {
        let source = place.open_with("app:1", ask).0.unwrap();
        assert_eq!(source.identity, id);
        expected.assert_same(&Manifest::of(&source.mounts[0].filesystem));
        assert_eq!(daemon.saves(), 1);
    }
    let nobody = Ask { host: Some("unix:///nonexistent"), ..ask };
    place.open_with(&id, nobody).0.unwrap();
    // The layers are everybody's.
    let (source, read) = place.open_with("%/l", Ask::default());
    assert_ne!(source.unwrap().identity, id);
    assert_eq!(read, 0);
}
