//! Extended attributes: each different one is stored once, in an area that all inodes share.

use std::collections::HashMap;
use std::io;

use sha2::{Digest as _, Sha256};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32};

use super::ErofsError;
use super::area::Area;
use super::format::{XATTR_UNIT, XattrEntry, XattrHeader, split_prefix};

/// How many shared attributes an inode can name.
const MAX_SHARED: usize = u8::MAX as usize;

/// The words that an inode's attributes may take at most, their header included.
const MAX_WORDS: usize = u16::MAX as usize + 2;

/// The words of the header.
const HEADER_WORDS: usize = size_of::<XattrHeader>() / 4;

/// The attributes that were met, by a hash that nobody can find another one for.
#[derive(Default)]
pub(super) struct Xattrs {
    known: HashMap<[u8; 16], u32>,
    /// How many had a name or a value for which the format has no room.
    pub(super) left_out: u64,
}

/// What stands behind an inode of its attributes.
#[derive(Default)]
pub(super) struct Body(Vec<u8>);

impl Body {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// `i_xattr_icount`
    pub(super) fn count(&self) -> u16 {
        let words = self.0.len() / 4;
        words.checked_sub(HEADER_WORDS - 1).and_then(|count| u16::try_from(count).ok()).unwrap_or(0)
    }
}

impl Xattrs {
    /// What is to stand behind an inode with these attributes. One that was not met before goes to the shared area, which
    /// begins at `start`; without `area` all have been met.
    pub(super) fn body(
        &mut self,
        attributes: &[(Vec<u8>, Vec<u8>)],
        start: u64,
        mut area: Option<&mut Area<'_>>,
    ) -> Result<Body, ErofsError> {
        let (mut shared, mut inline) = (Vec::new(), Vec::new());
        for (name, value) in attributes {
            let Some(entry) = encode(name, value) else {
                self.left_out += u64::from(area.is_some());
                continue;
            };
            if shared.len() == MAX_SHARED {
                inline.extend(entry);
                continue;
            }
            let hash = Sha256::digest(&entry);
            let mut key = [0; 16];
            key.copy_from_slice(&hash[..16]);
            let number = match (self.known.get(&key), &mut area) {
                (Some(number), _) => *number,
                (None, Some(area)) => {
                    let number = u32::try_from((area.position() - start) / XATTR_UNIT);
                    let number =
                        number.map_err(|_| ErofsError::TooLarge("all extended attributes together"))?;
                    area.write(&entry)?;
                    self.known.insert(key, number);
                    number
                }
                (None, None) => return Err(io::Error::other("an attribute came up late").into()),
            };
            shared.push(U32::new(number));
        }
        if shared.is_empty() {
            return Ok(Body::default());
        }
        let header = XattrHeader { shared_count: shared.len() as u8, ..XattrHeader::default() };
        let body = [header.as_bytes(), shared.as_bytes(), &inline].concat();
        match body.len() / 4 <= MAX_WORDS {
            true => Ok(Body(body)),
            false => Err(ErofsError::TooLarge("the extended attributes of a file")),
        }
    }
}

/// An attribute as it is stored; `None` if it cannot be.
fn encode(name: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    let (prefix, rest) = split_prefix(name)?;
    let name_len = u8::try_from(rest.len()).ok()?;
    let value_len = U16::new(u16::try_from(value.len()).ok()?);
    let head = XattrEntry { name_len, prefix, value_len };
    let mut entry = [head.as_bytes(), rest, value].concat();
    entry.resize(entry.len().next_multiple_of(4), 0);
    Some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(name: &str, value: &[u8]) -> (Vec<u8>, Vec<u8>) {
        (name.into(), value.into())
    }

    #[test]
    fn equal_attributes_are_stored_once_and_what_does_not_fit_is_counted() {
        let file = tempfile::tempfile().unwrap();
        let (mut xattrs, mut area) = (Xattrs::default(), Area::new(&file, 512));
        let a = [attribute("user.a", b"1"), attribute("com.apple.x", b"2")];
        let b =
            [attribute("user.a", b"1"), attribute("user.b", &[7; 65535]), attribute("user.c", &[7; 65536])];
        let first = xattrs.body(&a, 512, Some(&mut area)).unwrap();
        assert_eq!(first.bytes()[4], 1);
        assert_eq!((first.len(), first.count()), (16, 2));
        let end = area.position();
        let second = xattrs.body(&b, 512, Some(&mut area)).unwrap();
        assert_eq!(&second.bytes()[12..20], [0, 0, 0, 0, ((end - 512) / 4) as u8, 0, 0, 0]);
        assert_eq!(xattrs.left_out, 2);
        assert_eq!(xattrs.body(&b, 512, None).unwrap().bytes(), second.bytes());
        assert_eq!(xattrs.body(&[], 512, None).unwrap().count(), 0);
    }

    #[test]
    fn more_than_can_be_shared_stand_behind_the_inode() {
        let file = tempfile::tempfile().unwrap();
        let (mut xattrs, mut area) = (Xattrs::default(), Area::new(&file, 0));
        let many: Vec<_> = (0..300).map(|i| attribute(&format!("user.{i}"), b"v")).collect();
        let body = xattrs.body(&many, 0, Some(&mut area)).unwrap();
        assert_eq!(body.bytes()[4], 255);
        let (inline, mut count) = (&body.bytes()[12 + 4 * 255..], 0);
        let mut at = 0;
        while at < inline.len() {
            at += (4 + usize::from(inline[at]) + 1).next_multiple_of(4);
            count += 1;
        }
        assert_eq!((at, count), (inline.len(), 45));
        let huge: Vec<_> = (0..300).map(|i| attribute(&format!("user.{i}"), &[0; 60_000])).collect();
        assert!(matches!(xattrs.body(&huge, 0, Some(&mut area)), Err(ErofsError::TooLarge(_))));
    }
}
