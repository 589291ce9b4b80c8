//! What is said between imagefs and its helper in a build: frames over the helper's standard input and output.
//!
//! Both ends are built from this one file at the same time, so there are no versions. Numbers are little-endian. A frame is its
//! length in four bytes, then the number of the request that it belongs to in eight, and then its body.

/// The longest frame, in bytes, its length not included.
pub const MAX_FRAME: usize = 2 << 20;

/// The most that is read of a file at one time, in bytes.
pub const MAX_READ: u32 = 1 << 20;

/// Pieces of a tar that may be under way, unread.
pub const CREDIT: u32 = 64;

/// What is asked of one mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// What stands at a path, no link followed.
    Stat(Vec<u8>),
    /// Bytes of the regular file at a path.
    Read { path: Vec<u8>, offset: u64, len: u32 },
    /// A tar of all that is at a path, in as many replies as it takes: no more of them than [`CREDIT`] at a time.
    Tar(Vec<u8>),
    /// So many more replies of the tar that was asked for under the number of this request.
    More(u32),
}

/// What the helper answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Stat(Box<Attributes>),
    /// Bytes of a file, or the next piece of a tar.
    Bytes(Vec<u8>),
    /// The system's number of an error.
    Failed(i32),
    /// The end of a tar; what it failed at, if it did.
    End(Vec<u8>),
}

/// What lstat(2), readlink(2) and lgetxattr(2) say of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub links: u64,
    pub device: (u32, u32),
    pub size: u64,
    pub mtime: (i64, u32),
    pub target: Vec<u8>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Request {
    /// A frame.
    pub fn encode(&self, id: u64, mount: u32) -> Vec<u8> {
        frame(id, |body| {
            body.extend(mount.to_le_bytes());
            match self {
                Request::Stat(path) => {
                    body.push(0);
                    body.extend(path);
                }
                Request::Read { path, offset, len } => {
                    body.push(1);
                    body.extend(offset.to_le_bytes());
                    body.extend(len.to_le_bytes());
                    body.extend(path);
                }
                Request::Tar(path) => {
                    body.push(2);
                    body.extend(path);
                }
                Request::More(pieces) => {
                    body.push(3);
                    body.extend(pieces.to_le_bytes());
                }
            }
        })
    }

    /// The mount and the request of a frame's body.
    pub fn decode(body: &[u8]) -> Option<(u32, Request)> {
        let mut rest = Rest(body);
        let mount = rest.u32()?;
        let request = match rest.u8()? {
            0 => Request::Stat(rest.0.to_vec()),
            1 => {
                let (offset, len) = (rest.u64()?, rest.u32()?);
                Request::Read { path: rest.0.to_vec(), offset, len }
            }
            2 => Request::Tar(rest.0.to_vec()),
            3 => Request::More(rest.u32()?),
            _ => return None,
        };
        Some((mount, request))
    }
}

impl Reply {
    /// A frame.
    pub fn encode(&self, id: u64) -> Vec<u8> {
        frame(id, |body| match self {
            Reply::Stat(stat) => {
                body.push(0);
                for number in [stat.mode, stat.uid, stat.gid, stat.device.0, stat.device.1, stat.mtime.1] {
                    body.extend(number.to_le_bytes());
                }
                body.extend(stat.links.to_le_bytes());
                body.extend(stat.size.to_le_bytes());
                body.extend(stat.mtime.0.to_le_bytes());
                let texts = stat.xattrs.iter().flat_map(|(name, value)| [name, value]);
                for text in std::iter::once(&stat.target).chain(texts) {
                    body.extend((text.len() as u32).to_le_bytes());
                    body.extend(text);
                }
            }
            Reply::Bytes(bytes) => {
                body.push(1);
                body.extend(bytes);
            }
            Reply::Failed(errno) => {
                body.push(2);
                body.extend(errno.to_le_bytes());
            }
            Reply::End(why) => {
                body.push(3);
                body.extend(why);
            }
        })
    }

    /// The reply of a frame's body.
    pub fn decode(body: &[u8]) -> Option<Reply> {
        let mut rest = Rest(body);
        Some(match rest.u8()? {
            0 => {
                let mut stat = Attributes {
                    mode: rest.u32()?,
                    uid: rest.u32()?,
                    gid: rest.u32()?,
                    device: (rest.u32()?, rest.u32()?),
                    ..Attributes::default()
                };
                let nanos = rest.u32()?;
                (stat.links, stat.size) = (rest.u64()?, rest.u64()?);
                stat.mtime = (rest.u64()? as i64, nanos);
                stat.target = rest.text()?;
                while !rest.0.is_empty() {
                    stat.xattrs.push((rest.text()?, rest.text()?));
                }
                Reply::Stat(Box::new(stat))
            }
            1 => Reply::Bytes(rest.0.to_vec()),
            2 => Reply::Failed(rest.u32()? as i32),
            3 => Reply::End(rest.0.to_vec()),
            _ => return None,
        })
    }
}

fn frame(id: u64, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = vec![0; 4];
    frame.extend(id.to_le_bytes());
    fill(&mut frame);
    let len = (frame.len() - 4) as u32;
    frame[..4].copy_from_slice(&len.to_le_bytes());
    frame
}

/// A frame: its number, its body, and how long all of it is.
pub type Frame<'a> = (u64, &'a [u8], usize);

/// Takes the first frame off what has come: `Ok(None)` if it is not all there; `Err` if it is none.
pub fn split_frame(bytes: &[u8]) -> Result<Option<Frame<'_>>, ()> {
    let mut rest = Rest(bytes);
    let Some(len) = rest.u32() else { return Ok(None) };
    let len = len as usize;
    if !(8..=MAX_FRAME).contains(&len) {
        return Err(());
    }
    let Some(frame) = rest.0.get(..len) else { return Ok(None) };
    let mut frame = Rest(frame);
    Ok(frame.u64().map(|id| (id, frame.0, 4 + len)))
}

/// What is still to be read of a body.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<Vec<u8>> {
        let len = self.u32()? as usize;
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head.to_vec())
    }
}
