//! Images made by hand, so that they can be wrong in one place.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use imagefs::image::Digest;
use serde_json::{Value, json};
use sha2::Digest as _;

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

pub fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(sha2::Sha256::digest(bytes).into())
}

/// A tar with one file.
pub fn layer(name: &str, content: &[u8]) -> Vec<u8> {
    tar([(name, Member::File(content.to_vec()))])
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub enum Member {
    File(Vec<u8>),
    Directory,
    Symlink(&'static str),
}

pub fn tar<'a>(members: impl IntoIterator<Item = (&'a str, Member)>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, member) in members {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        match member {
            Member::File(content) => {
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, name, &content[..]).unwrap();
            }
            Member::Directory => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_size(0);
                builder.append_data(&mut header, name, &[][..]).unwrap();
            }
            Member::Symlink(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                builder.append_link(&mut header, name, target).unwrap();
            }
        }
    }
    builder.into_inner().unwrap()
}

/// The files of an image layout.
#[derive(Clone, Default)]
pub struct Layout {
    pub files: BTreeMap<String, Vec<u8>>,
    pub entries: Vec<Value>,
}

impl Layout {
    /// Stores a blob and gives its descriptor.
    pub fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        self.files.insert(format!("blobs/sha256/{}", digest.hex()), bytes.to_vec());
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    pub fn json(&mut self, media_type: &str, value: &Value) -> Value {
        self.blob(media_type, value.to_string().as_bytes())
    }

    /// Stores an image, and gives the descriptor of its manifest. `edit` may spoil configuration and manifest.
    pub fn image(
        &mut self,
        layers: &[Vec<u8>],
        platform: &str,
        edit: impl Fn(&mut Value, &mut Value),
    ) -> Value {
        let (os, architecture) = platform.split_once('/').unwrap();
        let diff_ids: Vec<_> = layers.iter().map(|l| digest(l)).collect();
        let mut config = json!({
            "os": os, "architecture": architecture,
            "config": {"Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": layers.iter().enumerate().map(|(i, _)| json!({"created_by": format!("step {i}")}))
                .collect::<Vec<_>>(),
        });
        let layers: Vec<_> = layers.iter().map(|l| self.blob(OCI_LAYER, l)).collect();
        let mut manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": layers});
        edit(&mut config, &mut manifest);
        if manifest.get("config").is_none() {
            manifest["config"] = self.json(OCI_CONFIG, &config);
        }
        self.json(OCI_MANIFEST, &manifest)
    }

    /// Puts a descriptor into `index.json`.
    pub fn list(&mut self, mut descriptor: Value, name: Option<&str>) {
        if let Some(name) = name {
            descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        self.entries.push(descriptor);
    }

    /// A layout of one image.
    pub fn of(layers: &[Vec<u8>], edit: impl Fn(&mut Value, &mut Value)) -> Layout {
        let mut layout = Layout::default();
        let image = layout.image(layers, "linux/amd64", edit);
        layout.list(image, None);
        layout
    }

    pub fn complete(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = self.files.clone();
        files.insert("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": self.entries});
        files.insert("index.json".into(), index.to_string().into_bytes());
        files
    }

    pub fn write(&self, directory: &Path) {
        for (name, bytes) in self.complete() {
            let path = directory.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
}
