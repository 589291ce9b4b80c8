//! Names as JSON, for use with `#[serde(with = "text")]`: a string where a name is UTF-8, else a list of its bytes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Deserialize)]
#[serde(untagged)]
enum Spelling {
    Text(String),
    Bytes(Vec<u8>),
}

/// A name that is all there is to write.
#[derive(Debug, Serialize)]
pub struct Name<'a>(#[serde(serialize_with = "serialize")] pub &'a OsStr);

/// Writes a name.
pub fn serialize<S: Serializer>(name: &impl AsRef<OsStr>, serializer: S) -> Result<S::Ok, S::Error> {
    let name = name.as_ref();
    match name.to_str() {
        Some(text) => serializer.serialize_str(text),
        None => name.as_bytes().serialize(serializer),
    }
}

/// Reads a name.
pub fn deserialize<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: From<OsString>,
{
    Ok(T::from(match Spelling::deserialize(deserializer)? {
        Spelling::Text(text) => text.into(),
        Spelling::Bytes(bytes) => OsString::from_vec(bytes),
    }))
}
