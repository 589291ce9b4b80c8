//! The maps of sparse files: old GNU headers and the map in the data of PAX format 1.0.

use super::header::{BLOCK, sparse_extent};
use super::pax::decimal;
use super::scanner::{MAX_METADATA, Scanner};
use super::{Content, Extent, ScanError, TarInput};

/// Adds the 21 entries of an extension block; says whether another block follows.
pub(super) fn extension(block: &[u8; BLOCK], extents: &mut Vec<(u64, u64)>) -> bool {
    const ENTRY: usize = 24;
    let (entries, rest) = block.split_at(21 * ENTRY);
    extents.extend(entries.chunks_exact(ENTRY).map_while(|entry| sparse_extent(&entry[..12], &entry[12..])));
    rest[0] != 0
}

/// Reads the map that stands before the data in format 1.0: decimal numbers, each on a line, padded to a block.
pub(super) fn read_map<R: TarInput>(
    scanner: &mut Scanner<R>,
    stored: u64,
    at: u64,
) -> Result<Vec<(u64, u64)>, ScanError> {
    let bad = || ScanError::BadSparse { at };
    let start = scanner.position;
    let mut line = Vec::new();
    let mut numbers = Vec::new();
    let mut wanted = None;
    loop {
        let used = scanner.position - start;
        if used >= stored || used > MAX_METADATA {
            return Err(bad());
        }
        let block = scanner.read_block("a sparse map")?.ok_or_else(bad)?;
        for byte in block {
            if byte != b'\n' {
                line.push(byte);
                if line.len() > 20 {
                    return Err(bad());
                }
                continue;
            }
            let number = decimal(&line).ok_or_else(bad)?;
            line.clear();
            match wanted {
                None => wanted = Some(number.checked_mul(2).ok_or_else(bad)?),
                Some(_) => numbers.push(number),
            }
            if wanted == Some(numbers.len() as u64) {
                return Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect());
            }
        }
    }
}

/// Places a map's runs in the archive: they stand there one behind the other, from `data` on, in `room` bytes.
pub(super) fn extents(
    map: &[(u64, u64)],
    size: u64,
    data: u64,
    room: u64,
    at: u64,
) -> Result<Content, ScanError> {
    let bad = || ScanError::BadSparse { at };
    let mut extents: Vec<Extent> = Vec::new();
    let (mut end, mut used) = (0, 0u64);
    for &(offset, len) in map {
        let stop = offset.checked_add(len).filter(|&stop| stop <= size).ok_or_else(bad)?;
        if offset < end {
            return Err(bad());
        }
        match extents.last_mut() {
            _ if len == 0 => {}
            Some(last) if last.offset + last.len == offset => last.len += len,
            _ => extents.push(Extent { offset, len, at: data.checked_add(used).ok_or_else(bad)? }),
        }
        used = used.checked_add(len).filter(|&used| used <= room).ok_or_else(bad)?;
        end = stop;
    }
    match extents[..] {
        [Extent { offset: 0, len, at }] if len == size => Ok(Content::Contiguous { at }),
        _ => Ok(Content::Sparse(extents)),
    }
}
