//! Names as JSON, for use with `#[serde(with = "text")]`: a string where a name is UTF-8, else a list of its bytes.

use std::ffi::OsStr;

use serde::Serialize;

pub(crate) use crate::cache::text::{deserialize, serialize};

/// A name that is all there is to write.
#[derive(Debug, Serialize)]
pub struct Name<'a>(#[serde(serialize_with = "serialize")] pub &'a OsStr);
