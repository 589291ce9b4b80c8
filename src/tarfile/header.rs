//! One 512-byte tar header: its checksum, its numbers, its name.
//!
//! The field layout is that of the `tar` crate; the numbers are read here because a header may hold what that
//! crate's accessors do not give: times before 1970, blank fields, and values that must be refused, not wrapped.

use tar::Header;

use super::{ScanError, Timestamp};

/// The unit of a tar archive.
pub(super) const BLOCK: usize = 512;

/// A header block whose checksum is right.
pub(super) struct RawHeader<'a> {
    header: &'a Header,
    /// Where the block stands in the archive, for messages.
    at: u64,
}

impl<'a> RawHeader<'a> {
    /// Checks the checksum of a block that is not all zeros.
    pub fn parse(block: &'a [u8; BLOCK], at: u64) -> Result<RawHeader<'a>, ScanError> {
        let header = Header::from_byte_slice(block);
        let stored = parse_number(&header.as_old().cksum);
        let field = 148..156;
        let blanks = 8 * i64::from(b' ');
        let unsigned: i64 = block.iter().map(|&b| i64::from(b)).sum::<i64>()
            - block[field.clone()].iter().map(|&b| i64::from(b)).sum::<i64>()
            + blanks;
        if stored == Some(unsigned) {
            return Ok(RawHeader { header, at });
        }
        // Some writers of the 1980s summed signed characters.
        let signed: i64 = block.iter().map(|&b| i64::from(b as i8)).sum::<i64>()
            - block[field].iter().map(|&b| i64::from(b as i8)).sum::<i64>()
            + blanks;
        if stored == Some(signed) {
            return Ok(RawHeader { header, at });
        }
        Err(if at == 0 { ScanError::NotATar } else { ScanError::BadChecksum { at } })
    }

    pub fn type_flag(&self) -> u8 {
        self.header.as_old().linkflag[0]
    }

    /// The name, with the ustar prefix where the format has one.
    pub fn path(&self) -> Vec<u8> {
        let name = until_nul(&self.header.as_old().name);
        match self.header.as_ustar() {
            Some(ustar) if ustar.prefix[0] != 0 => {
                let prefix = until_nul(&ustar.prefix);
                [prefix, b"/", name].concat()
            }
            _ => name.to_vec(),
        }
    }

    pub fn link_name(&self) -> Vec<u8> {
        until_nul(&self.header.as_old().linkname).to_vec()
    }

    /// Permission and set-id bits. Some writers leave the file type in the upper bits; it is dropped.
    pub fn perm(&self) -> Result<u16, ScanError> {
        let mode = self.number("mode", &self.header.as_old().mode)?;
        Ok((mode & 0o7777) as u16)
    }

    pub fn uid(&self) -> Result<u32, ScanError> {
        self.id("uid", &self.header.as_old().uid)
    }

    pub fn gid(&self) -> Result<u32, ScanError> {
        self.id("gid", &self.header.as_old().gid)
    }

    pub fn size(&self) -> Result<u64, ScanError> {
        let size = self.number("size", &self.header.as_old().size)?;
        u64::try_from(size).map_err(|_| self.bad("size"))
    }

    pub fn mtime(&self) -> Result<Timestamp, ScanError> {
        Ok(Timestamp { secs: self.number("mtime", &self.header.as_old().mtime)?, nanos: 0 })
    }

    /// Device numbers; 0 and 0 in a format that has none.
    pub fn device(&self) -> Result<(u32, u32), ScanError> {
        let (major, minor) = match (self.header.as_ustar(), self.header.as_gnu()) {
            (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
            (_, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
            _ => return Ok((0, 0)),
        };
        Ok((self.id("device major number", major)?, self.id("device minor number", minor)?))
    }

    /// The parts of an old GNU sparse header: the first four extents, whether more follow, and the file's size.
    pub fn gnu_sparse(&self) -> Result<Option<GnuSparse>, ScanError> {
        let Some(gnu) = self.header.as_gnu() else { return Ok(None) };
        let size = parse_number(&gnu.realsize).and_then(|n| u64::try_from(n).ok());
        Ok(Some(GnuSparse {
            extents: gnu.sparse.iter().map_while(|s| sparse_extent(&s.offset, &s.numbytes)).collect(),
            extended: gnu.isextended[0] != 0,
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
    let start = field.iter().position(|b| !blank(b)).unwrap_or(field.len());
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
