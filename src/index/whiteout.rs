//! The names by which a layer takes away what the layers below have.
//!
//! See "Whiteouts" in the [image layer specification][spec]. The name alone counts, whatever stands there.
//!
//! [spec]: https://github.com/opencontainers/image-spec/blob/v1.1.0/layer.md#whiteouts

/// What a name takes away from the layers below its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whiteout<'a> {
    /// `.wh.NAME`: NAME of the same directory, with all that is beneath it. NAME may be empty, `.` or `..`, which
    /// no directory has.
    Name(&'a [u8]),
    /// `.wh..wh..opq`: all that is in the same directory.
    Opaque,
}

impl Whiteout<'_> {
    /// What `name` takes away; `None` for an ordinary name.
    pub fn of(name: &[u8]) -> Option<Whiteout<'_>> {
        match name.strip_prefix(b".wh.")? {
            b".wh..opq" => Some(Whiteout::Opaque),
            name => Some(Whiteout::Name(name)),
        }
    }
}
