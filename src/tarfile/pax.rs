//! PAX extended headers: records `LENGTH KEY=VALUE\n`; see pax(1), "pax Header Block".

use std::collections::BTreeMap;

use super::{Oddities, Oddity, ScanError, Timestamp, acl};

/// `XATTR_SIZE_MAX`
pub(super) const MAX_VALUE: usize = 65536;

/// `XATTR_NAME_MAX`
const MAX_XATTR_NAME: usize = 255;

/// What `tar --selinux` calls a file's label.
const SELINUX: &[u8] = b"RHT.security.selinux";

/// What the records of an extended header say about an entry. A `None` leaves the plain header's word.
#[derive(Debug, Default, Clone)]
pub(super) struct PaxHeader {
    pub path: Option<Vec<u8>>,
    pub link_path: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<Timestamp>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Those that stand for ACLs that came as text.
    acls: BTreeMap<&'static [u8], Vec<u8>>,
    pub sparse: PaxSparse,
    /// What of them is not taken.
    pub oddities: Oddities,
}

/// The `GNU.sparse.*` records, of format 0.0, 0.1 or 1.0.
#[derive(Debug, Default, Clone)]
pub(super) struct PaxSparse {
    pub major: Option<u64>,
    pub name: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub extents: Vec<(u64, u64)>,
    offset: Option<u64>,
}

impl PaxSparse {
    /// Whether the entry's data begins with the map of format 1.0.
    pub fn map_in_data(&self) -> bool {
        self.major == Some(1)
    }
}

impl PaxHeader {
    /// Adds the records of one extended header block; a later record of a key replaces the earlier.
    pub fn add(&mut self, mut records: &[u8], at: u64) -> Result<(), ScanError> {
        let bad = || ScanError::BadPax { at };
        // Some writers fill the block up with NULs.
        while records.first().is_some_and(|&b| b != 0) {
            let space = records.iter().take(21).position(|&b| b == b' ').ok_or_else(bad)?;
            let length = usize::try_from(decimal(&records[..space]).ok_or_else(bad)?).map_err(|_| bad())?;
            let record = records.get(space + 1..length).ok_or_else(bad)?;
            records = &records[length..];
            let record = record.strip_suffix(b"\n").ok_or_else(bad)?;
            let equals = record.iter().position(|&b| b == b'=').ok_or_else(bad)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            if self.set(key, value).is_none() {
                match key {
                    // Without it nobody knows where the next header is.
                    b"size" => return Err(bad()),
                    b"path" | b"linkpath" => self.oddities.count(Oddity::PaxEntry),
                    key if key.starts_with(b"GNU.sparse.") => self.oddities.count(Oddity::PaxEntry),
                    _ => self.oddities.count(Oddity::PaxValue),
                }
            }
        }
        Ok(())
    }

    /// Forgets what may not come from a global header: what names or measures one single entry.
    pub fn keep_global(&mut self) {
        self.path = None;
        self.link_path = None;
        self.size = None;
        self.sparse = PaxSparse::default();
        self.xattrs.clear();
        self.oddities = Oddities::default();
        self.acls.clear();
    }

    /// Names and values of all extended attributes, sorted by name. An ACL is among them, unless the attribute that it stands
    /// for has a record of its own.
    pub fn take_xattrs(&mut self) -> Vec<(Vec<u8>, Vec<u8>)> {
        for (name, value) in std::mem::take(&mut self.acls) {
            self.xattrs.entry(name.to_vec()).or_insert(value);
        }
        std::mem::take(&mut self.xattrs).into_iter().collect()
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"path" => self.path = text(value)?,
            b"linkpath" => self.link_path = text(value)?,
            b"size" => self.size = optional(value, decimal)?,
            b"uid" => self.uid = optional(value, id)?,
            b"gid" => self.gid = optional(value, id)?,
            b"mtime" => self.mtime = optional(value, timestamp)?,
            b"GNU.sparse.major" => self.sparse.major = optional(value, decimal)?,
            b"GNU.sparse.name" => self.sparse.name = text(value)?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.size = optional(value, decimal)?,
            b"GNU.sparse.offset" => self.sparse.offset = Some(decimal(value)?),
            b"GNU.sparse.numbytes" => self.sparse.extents.push((self.sparse.offset.take()?, decimal(value)?)),
            b"GNU.sparse.map" => self.sparse.extents = sparse_map(value)?,
            _ => {
                if let Some((name, value)) = acl::attribute(key, value) {
                    self.acls.remove(name);
                    self.acls.extend(value.map(|value| (name, value)));
                    return Some(());
                }
                let (name, value) = if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    (name.to_vec(), value.to_vec())
                } else if key == SELINUX {
                    (b"security.selinux".to_vec(), value.to_vec())
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    (percent_decode(name)?, base64_decode(value)?)
                } else {
                    return Some(());
                };
                if name.is_empty() || name.contains(&0) {
                    return None;
                }
                if name.len() > MAX_XATTR_NAME || value.len() > MAX_VALUE {
                    self.oddities.count(Oddity::Xattr);
                    return Some(());
                }
                // libarchive writes both spellings of one attribute.
                self.xattrs.insert(name, value);
            }
        }
        Some(())
    }
}

/// An empty value takes back an earlier record; see pax(1).
fn optional<T>(value: &[u8], parse: impl Fn(&[u8]) -> Option<T>) -> Option<Option<T>> {
    if value.is_empty() { Some(None) } else { parse(value).map(Some) }
}

fn text(value: &[u8]) -> Option<Option<Vec<u8>>> {
    optional(value, |v| (!v.contains(&0)).then(|| v.to_vec()))
}

pub(super) fn id(value: &[u8]) -> Option<u32> {
    u32::try_from(decimal(value)?).ok()
}

pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// `[-]SECONDS[.FRACTION]`; what is finer than a nanosecond is cut off towards the past.
fn timestamp(value: &[u8]) -> Option<Timestamp> {
    let (negative, value) = match value {
        [b'-', rest @ ..] => (true, rest),
        value => (false, value),
    };
    let point = value.iter().position(|&b| b == b'.').unwrap_or(value.len());
    let fraction = value.get(point + 1..).unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let secs = i64::try_from(decimal(&value[..point])?).ok()?;
    let nanos = (0..9).fold(0u32, |n, i| n * 10 + fraction.get(i).map_or(0, |d| u32::from(d - b'0')));
    let finer = fraction.iter().skip(9).any(|&d| d != b'0');
    if !negative {
        return Some(Timestamp { secs, nanos });
    }
    Some(match nanos + u32::from(finer) {
        0 => Timestamp { secs: -secs, nanos: 0 },
        past => Timestamp { secs: -secs - 1, nanos: 1_000_000_000 - past },
    })
}

/// `offset,length,offset,length…`
fn sparse_map(value: &[u8]) -> Option<Vec<(u64, u64)>> {
    if value.is_empty() {
        return Some(Vec::new());
    }
    let mut numbers = value.split(|&b| b == b',').map(decimal);
    let mut extents = Vec::new();
    while let Some(offset) = numbers.next() {
        extents.push((offset?, numbers.next()??));
    }
    Some(extents)
}

fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let hex = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        out.push(match byte {
            b'%' => hex(*bytes.next()?)? << 4 | hex(*bytes.next()?)?,
            byte => byte,
        });
    }
    Some(out)
}

/// Base64 (RFC 4648) with or without padding, as libarchive writes it.
fn base64_decode(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().position(|&b| b == b'=').unwrap_or(text.len());
    if text.len() - end > 2 || text[end..].iter().any(|&b| b != b'=') {
        return None;
    }
    let mut out = Vec::with_capacity(end * 3 / 4);
    for group in text[..end].chunks(4) {
        let mut bits = 0u32;
        for &c in group {
            let value = match c {
                b'A'..=b'Z' => c - b'A',
                b'a'..=b'z' => c - b'a' + 26,
                b'0'..=b'9' => c - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        let bytes = (bits << (6 * (4 - group.len()))).to_be_bytes();
        match group.len() {
            1 => return None,
            n => out.extend_from_slice(&bytes[1..n]),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let body = key.len() + value.len() + 3;
        let mut length = body + 1;
        while length != body + length.to_string().len() {
            length = body + length.to_string().len();
        }
        [length.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
    }

    #[test]
    fn a_value_may_hold_newlines_and_nuls() {
        let mut pax = PaxHeader::default();
        pax.add(&record("SCHILY.xattr.user.x", b"a\n12 b=c\n\0"), 0).unwrap();
        assert_eq!(pax.xattrs, BTreeMap::from([(b"user.x".to_vec(), b"a\n12 b=c\n\0".to_vec())]));
    }

    #[test]
    fn an_empty_value_takes_back() {
        let mut pax = PaxHeader::default();
        pax.add(&[record("path", b"a"), record("path", b"")].concat(), 0).unwrap();
        assert_eq!(pax.path, None);
    }

    #[test]
    fn malformed_records_are_errors() {
        for bad in [
            &b"5 a=b"[..],
            b"7 a=b\n\0",
            b"99 a=b\n",
            b"x a=b\n",
            b"6 a:b\n",
            b"0 =\n",
            b"99999999999999999999999 a=b\n",
            b"12 size=-10\n",
        ] {
            assert!(PaxHeader::default().add(bad, 0).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn a_value_that_is_not_valid_is_passed_over_or_its_entry_is_left_out() {
        let odd = |key: &str, value: &[u8]| {
            let mut pax = PaxHeader { uid: Some(7), ..PaxHeader::default() };
            pax.add(&record(key, value), 0).unwrap();
            assert_eq!((pax.uid, pax.path.is_some()), (Some(7), false), "{key}");
            pax.oddities
        };
        for (key, value) in [("uid", "4294967296"), ("mtime", "1e5"), ("gid", "x"), ("SCHILY.xattr.", "x")] {
            assert_eq!(odd(key, value.as_bytes()).of(Oddity::PaxValue), 1, "{key}");
        }
        for key in ["path", "linkpath", "GNU.sparse.map"] {
            assert_eq!(odd(key, b"a\0b").of(Oddity::PaxEntry), 1, "{key}");
        }
        assert_eq!(odd("SCHILY.xattr.user.a", &[b'x'; MAX_VALUE + 1]).of(Oddity::Xattr), 1);
        assert!(odd("SCHILY.xattr.user.a", &[b'x'; MAX_VALUE]).is_empty());
    }

    #[test]
    fn times_keep_their_nanoseconds_on_either_side_of_1970() {
        for (text, secs, nanos) in [
            (&b"1"[..], 1, 0),
            (b"1.5", 1, 500_000_000),
            (b"-1.5", -2, 500_000_000),
            (b"-1", -1, 0),
            (b"1.9999999999", 1, 999_999_999),
            (b"-0.0000000001", -1, 999_999_999),
            (b"4102444800.000000001", 4102444800, 1),
        ] {
            assert_eq!(timestamp(text), Some(Timestamp { secs, nanos }), "{}", text.escape_ascii());
        }
        for bad in [&b""[..], b".5", b"1.x", b"--1", b"1e5"] {
            assert_eq!(timestamp(bad), None, "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn libarchive_attributes_are_decoded() {
        assert_eq!(base64_decode(b"aGVsbG8"), Some(b"hello".to_vec()));
        assert_eq!(base64_decode(b"aGVsbG8="), Some(b"hello".to_vec()));
        assert_eq!(base64_decode(b"a"), None);
        assert_eq!(percent_decode(b"user.a%20b"), Some(b"user.a b".to_vec()));
        assert_eq!(percent_decode(b"user.%2"), None);
    }

    #[test]
    fn the_last_word_on_an_attribute_counts_whatever_its_spelling() {
        let mut pax = PaxHeader::default();
        let records = [
            record("SCHILY.xattr.user.b", b"1"),
            record("LIBARCHIVE.xattr.user.a", b"aGVsbG8"),
            record("LIBARCHIVE.xattr.user.b", b"aGVsbG8"),
        ];
        pax.add(&records.concat(), 0).unwrap();
        let hello = b"hello".to_vec();
        assert_eq!(
            pax.xattrs,
            BTreeMap::from([(b"user.a".to_vec(), hello.clone()), (b"user.b".to_vec(), hello)])
        );
    }

    #[test]
    fn an_acl_as_text_stands_for_the_attribute_that_has_no_record() {
        let list = b"user::rw-,user:7:r--,group::r--,mask::r--,other::r--";
        let text = record("SCHILY.acl.access", list);
        let attribute = record("SCHILY.xattr.system.posix_acl_access", b"1");
        let xattrs = |records: &[&[u8]]| {
            let mut pax = PaxHeader::default();
            pax.add(&records.concat(), 0).unwrap();
            pax.take_xattrs()
        };
        let name = b"system.posix_acl_access".to_vec();
        for records in [[&attribute[..], &text], [&text, &attribute]] {
            assert_eq!(xattrs(&records), [(name.clone(), b"1".to_vec())]);
        }
        assert_eq!(
            xattrs(&[&text]),
            [(name, acl::attribute(b"SCHILY.acl.access", list).unwrap().1.unwrap())]
        );
        assert_eq!(xattrs(&[&text, &record("SCHILY.acl.access", b"")]), []);
        // Nothing but permissions, which the mode has.
        assert_eq!(xattrs(&[&record("SCHILY.acl.access", b"user::rw-,group::r--,other::r--")]), []);
    }
}
