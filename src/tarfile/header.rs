//! One 512-byte tar header: its checksum, its numbers, its name.
//!
//! A header may hold what the `tar` crate's accessors do not give: prefixes of other writers, times before 1970, blank
//! fields, and values that must be refused, not wrapped. The fields are those of tar(5).

use std::ops::Range;

use super::{ScanError, Timestamp};

/// The unit of a tar archive.
pub(super) const BLOCK: usize = 512;

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const TYPE_FLAG: usize = 156;
const LINK_NAME: Range<usize> = 157..257;
/// `magic` and `version`
const MAGIC: Range<usize> = 257..265;
const DEVICE_MAJOR: Range<usize> = 329..337;
const DEVICE_MINOR: Range<usize> = 337..345;
const PREFIX: Range<usize> = 345..500;
const GNU_SPARSE: Range<usize> = 386..482;
const GNU_IS_EXTENDED: usize = 482;
const GNU_REAL_SIZE: Range<usize> = 483..495;

/// Who fills a header beyond the fields that all have.
///
/// | magic and version | pedigree | prefix |
/// |---|---|---|
/// | `ustar` and two blanks, NUL | GNU | none: other fields are there |
/// | `ustar`, whatever follows | POSIX, and those that came near it | 155 bytes, or up to a NUL: star has other fields behind that |
/// | anything else | V7 | none |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pedigree {
    V7,
    Ustar,
    Gnu,
}

/// A header block whose checksum is right.
pub(super) struct RawHeader<'a> {
    block: &'a [u8; BLOCK],
    /// Where the block stands in the archive, for messages.
    at: u64,
}

impl<'a> RawHeader<'a> {
    /// Checks the checksum of a block that is not all zeros.
    pub fn parse(block: &'a [u8; BLOCK], at: u64) -> Result<RawHeader<'a>, ScanError> {
        let stored = parse_number(&block[CHECKSUM]);
        let field = CHECKSUM;
        let blanks = 8 * i64::from(b' ');
        let unsigned: i64 = block.iter().map(|&b| i64::from(b)).sum::<i64>()
            - block[field.clone()].iter().map(|&b| i64::from(b)).sum::<i64>()
            + blanks;
        if stored == Some(unsigned) {
            return Ok(RawHeader { block, at });
        }
        // Some writers of the 1980s summed signed characters.
        let signed: i64 = block.iter().map(|&b| i64::from(b as i8)).sum::<i64>()
            - block[field].iter().map(|&b| i64::from(b as i8)).sum::<i64>()
            + blanks;
        if stored == Some(signed) {
            return Ok(RawHeader { block, at });
        }
        Err(if at == 0 { ScanError::NotATar } else { ScanError::BadChecksum { at } })
    }

    pub fn type_flag(&self) -> u8 {
        self.block[TYPE_FLAG]
    }

    fn pedigree(&self) -> Pedigree {
        match &self.block[MAGIC] {
            b"ustar  \0" => Pedigree::Gnu,
            [b'u', b's', b't', b'a', b'r', ..] => Pedigree::Ustar,
            _ => Pedigree::V7,
        }
    }

    /// The name, with the prefix where the format has one.
    pub fn path(&self) -> Vec<u8> {
        let name = until_nul(&self.block[NAME]);
        let prefix = match self.pedigree() {
            Pedigree::Ustar => until_nul(&self.block[PREFIX]),
            Pedigree::V7 | Pedigree::Gnu => b"",
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub fn link_name(&self) -> Vec<u8> {
        until_nul(&self.block[LINK_NAME]).to_vec()
    }

    /// Permission and set-id bits. Some writers leave the file type in the upper bits; it is dropped.
    pub fn perm(&self) -> Result<u16, ScanError> {
        let mode = self.number("mode", &self.block[MODE])?;
        Ok((mode & 0o7777) as u16)
    }

    /// The owner; `None` for one that Linux cannot have.
    pub fn uid(&self) -> Result<Option<u32>, ScanError> {
        Ok(owner(self.number("uid", &self.block[UID])?))
    }

    /// The group; `None` for one that Linux cannot have.
    pub fn gid(&self) -> Result<Option<u32>, ScanError> {
        Ok(owner(self.number("gid", &self.block[GID])?))
    }

    pub fn size(&self) -> Result<u64, ScanError> {
        let size = self.number("size", &self.block[SIZE])?;
        u64::try_from(size).map_err(|_| self.bad("size"))
    }

    pub fn mtime(&self) -> Result<Timestamp, ScanError> {
        Ok(Timestamp { secs: self.number("mtime", &self.block[MTIME])?, nanos: 0 })
    }

    /// Device numbers; 0 and 0 in a format that has none.
    pub fn device(&self) -> Result<(u32, u32), ScanError> {
        if self.pedigree() == Pedigree::V7 {
            return Ok((0, 0));
        }
        let major = self.id("device major number", &self.block[DEVICE_MAJOR])?;
        Ok((major, self.id("device minor number", &self.block[DEVICE_MINOR])?))
    }

    /// The parts of an old GNU sparse header: the first four extents, whether more follow, and the file's size.
    pub fn gnu_sparse(&self) -> Result<Option<GnuSparse>, ScanError> {
        if self.pedigree() != Pedigree::Gnu {
            return Ok(None);
        }
        let size = parse_number(&self.block[GNU_REAL_SIZE]).and_then(|n| u64::try_from(n).ok());
        let extents = self.block[GNU_SPARSE].chunks_exact(24);
        Ok(Some(GnuSparse {
            extents: extents.map_while(|extent| sparse_extent(&extent[..12], &extent[12..])).collect(),
            extended: self.block[GNU_IS_EXTENDED] != 0,
            size: size.ok_or_else(|| self.bad("real size"))?,
        }))
    }

    fn id(&self, field: &'static str, bytes: &[u8]) -> Result<u32, ScanError> {
        u32::try_from(self.number(field, bytes)?).map_err(|_| self.bad(field))
    }

    fn number(&self, field: &'static str, bytes: &[u8]) -> Result<i64, ScanError> {
        parse_number(bytes).ok_or_else(|| self.bad(field))
    }

    fn bad(&self, field: &'static str) -> ScanError {
        ScanError::BadField { field, at: self.at }
    }
}

/// A number as the owner of a file. GNU's negative ones wrap, as in chown(2): -2 is 4294967294. -1 is nobody's.
fn owner(number: i64) -> Option<u32> {
    let wrapped = i32::try_from(number).map(|negative| negative as u32).ok();
    wrapped.or_else(|| u32::try_from(number).ok()).filter(|id| *id != u32::MAX)
}

/// What an old GNU sparse header says.
pub(super) struct GnuSparse {
    pub extents: Vec<(u64, u64)>,
    pub extended: bool,
    pub size: u64,
}

/// An offset and a length; `None` ends the list.
pub(super) fn sparse_extent(offset: &[u8], length: &[u8]) -> Option<(u64, u64)> {
    if offset[0] == 0 || length[0] == 0 {
        return None;
    }
    Some((u64::try_from(parse_number(offset)?).ok()?, u64::try_from(parse_number(length)?).ok()?))
}

/// A numeric field: octal digits between blanks, or big-endian two's complement where the top bit is set (GNU).
///
/// A blank field is 0. `None` where it is neither, or does not fit.
fn parse_number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        // The top bit is the marker; the next one is the sign.
        let negative = first & 0x40 != 0;
        let lead = if negative { first | 0x80 } else { first & 0x7f };
        let mut value: i128 = if negative { i128::from(lead as i8) } else { i128::from(lead) };
        for &byte in &field[1..] {
            value = value << 8 | i128::from(byte);
        }
        return i64::try_from(value).ok();
    }
    let blank = |b: &u8| *b == b' ' || *b == 0;
    // A NUL ends it, also as its first byte; GNU tar alone reads on after one.
    let start = field.iter().position(|b| *b != b' ').unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    let (negative, digits) = match &digits[..end] {
        [b'-', rest @ ..] if !rest.is_empty() => (true, rest),
        digits => (false, digits),
    };
    let mut value: i64 = 0;
    for &digit in digits {
        if !(b'0'..=b'7').contains(&digit) {
            return None;
        }
        value = value.checked_mul(8)?.checked_add(i64::from(digit - b'0'))?;
    }
    Some(if negative { -value } else { value })
}

pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

#[cfg(test)]
mod tests {
    use super::parse_number;

    #[test]
    fn numbers_in_every_spelling() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"77777777", Some(0o77777777)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"\x000000644", Some(0)),
            (b"-1      ", Some(-1)),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"0000648\0", None),
            (b"-\0\0\0\0\0\0\0", None),
        ] {
            assert_eq!(parse_number(field), value, "{field:?}");
        }
    }
}
