//! What unpacking may cost.

/// What one layer, or an archive that is compressed as a whole, may cost.
///
/// It is the disk and the time that count, not how well something is compressed: a run of zeros, of which a layer may have a
/// gigabyte in a few kilobytes (`/var/log/lastlog` of a user with a high number), is a [hole](crate::sparse_file) on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that it may unpack to, zeros included: what bounds the time.
    pub max_unpacked: u64,
    /// How many times its compressed size it may take on the disk.
    pub max_ratio: u64,
    /// Bytes on the disk before `max_ratio` counts.
    pub ratio_free: u64,
}

impl Limits {
    /// Up to `bytes`, however small it was.
    pub fn up_to(bytes: u64) -> Limits {
        Limits { max_unpacked: bytes, max_ratio: u64::MAX, ratio_free: bytes }
    }
}

impl Default for Limits {
    /// 64 GiB; on the disk 1,000 times the compressed size beyond the first 256 MiB.
    fn default() -> Limits {
        Limits { max_unpacked: 64 << 30, max_ratio: 1_000, ratio_free: 256 << 20 }
    }
}
