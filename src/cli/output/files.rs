//! How files are shown: to people, and as JSON.

use std::path::PathBuf;

use serde::Serialize;

use super::{size, text};
use crate::gateway::FileStat;
use crate::index::{FileType, Timestamp};

/// What a file is, in one word.
pub fn type_name(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Regular => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::CharDevice => "character device",
        FileType::BlockDevice => "block device",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
    }
}

/// What a file is, in the letter that find(1) has for it.
pub fn type_letter(file_type: FileType) -> char {
    match file_type {
        FileType::Regular => 'f',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::CharDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
    }
}

/// Type and permissions as ls(1) writes them: `-rwxr-xr-x`.
pub fn mode(file: &FileStat) -> String {
    let first = match file.file_type {
        FileType::Regular => '-',
        other => type_letter(other),
    };
    let mut text = String::from(first);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = file.perm >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (file.perm & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// A file's size, with a unit if that is asked for, or a device's numbers.
pub fn size(file: &FileStat, with_unit: bool) -> String {
    match file.file_type {
        FileType::CharDevice | FileType::BlockDevice => format!("{}, {}", file.device.0, file.device.1),
        _ if with_unit => size::show(file.size),
        _ => file.size.to_string(),
    }
}

/// A time as ls(1) writes it in the POSIX locale: local, to the minute for the last six months, else to the day.
pub fn short_time(time: Timestamp) -> String {
    let Some(time) = jiff_time(time) else { return time.secs.to_string() };
    let age = jiff::Timestamp::now().as_second() - time.as_second();
    let recent = (0..SIX_MONTHS).contains(&age);
    let local = time.to_zoned(jiff::tz::TimeZone::system());
    local.strftime(if recent { "%b %e %H:%M" } else { "%b %e  %Y" }).to_string()
}

/// As ls(1) counts them: half of a mean Gregorian year, in seconds.
const SIX_MONTHS: i64 = 31_556_952 / 2;

/// A time with all its digits, in UTC.
pub fn instant(time: Timestamp) -> String {
    jiff_time(time).map_or_else(|| format!("@{time}"), |time| time.to_string())
}

/// What is beyond the years that can be written has none.
fn jiff_time(time: Timestamp) -> Option<jiff::Timestamp> {
    let nanos = i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    jiff::Timestamp::from_nanosecond(nanos).ok()
}

/// A file, as JSON shows it.
#[derive(Serialize)]
pub struct Row {
    #[serde(with = "text")]
    path: PathBuf,
    #[serde(rename = "type")]
    file_type: &'static str,
    /// Octal.
    mode: String,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: Option<String>,
    mtime_sec: i64,
    mtime_nsec: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<[u32; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inode: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    xattrs: Vec<Xattr>,
}

/// A name or value: text where it is UTF-8, else a list of bytes.
#[derive(Serialize)]
struct Text(#[serde(with = "text")] PathBuf);

#[derive(Serialize)]
struct Xattr {
    name: Text,
    value: Text,
}

impl Text {
    fn of(bytes: Vec<u8>) -> Text {
        use std::os::unix::ffi::OsStringExt as _;
        Text(std::ffi::OsString::from_vec(bytes).into())
    }
}

impl From<FileStat> for Row {
    fn from(file: FileStat) -> Row {
        let is_device = matches!(file.file_type, FileType::CharDevice | FileType::BlockDevice);
        let xattr = |(name, value)| Xattr { name: Text::of(name), value: Text::of(value) };
        Row {
            path: file.path,
            file_type: type_name(file.file_type),
            mode: format!("{:04o}", file.perm),
            uid: file.uid,
            gid: file.gid,
            size: file.size,
            mtime: jiff_time(file.mtime).map(|time| time.to_string()),
            mtime_sec: file.mtime.secs,
            mtime_nsec: file.mtime.nanos,
            target: file.link_target.map(Text),
            device: is_device.then_some([file.device.0, file.device.1]),
            inode: file.inode.map(|inode| inode.number),
            links: file.inode.map(|inode| inode.links),
            xattrs: file.xattrs.into_iter().map(xattr).collect(),
        }
    }
}
