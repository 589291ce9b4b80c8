//! Tars byte by byte: every field as no library would write it.

/// One header, by its fields' bytes.
#[derive(Clone)]
pub struct Header(pub [u8; 512]);

/// How a checksum is spelled.
#[derive(Clone, Copy)]
pub enum Sum {
    Usual,
    SevenDigits,
    Blanks,
    /// Of signed characters.
    Signed,
}

impl Header {
    /// A POSIX header with sound fields.
    pub fn new(name: &[u8], type_flag: u8, size: usize) -> Header {
        let mut header = Header([0; 512]);
        header.set(0, name);
        header.set(100, b"0000640\0");
        header.set(108, b"0001750\0");
        header.set(116, b"0001751\0");
        header.set(124, format!("{size:011o}\0").as_bytes());
        header.set(136, b"07346545000\0");
        header.0[156] = type_flag;
        header.magic(b"ustar\x0000")
    }

    pub fn set(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn with(mut self, at: usize, bytes: &[u8]) -> Header {
        self.set(at, bytes);
        self
    }

    /// `magic` and `version`
    pub fn magic(self, bytes: &[u8; 8]) -> Header {
        self.with(257, bytes)
    }

    pub fn prefix(self, prefix: &[u8]) -> Header {
        self.with(345, prefix)
    }

    pub fn link(self, target: &[u8]) -> Header {
        self.with(157, target)
    }

    pub fn summed(mut self, sum: Sum) -> Vec<u8> {
        self.set(148, b"        ");
        let unsigned: i64 = self.0.iter().map(|&b| i64::from(b)).sum();
        let signed: i64 = self.0.iter().map(|&b| i64::from(b as i8)).sum();
        let spelled = match sum {
            Sum::Usual => format!("{unsigned:06o}\0 "),
            Sum::SevenDigits => format!("{unsigned:07o}\0"),
            Sum::Blanks => format!("{unsigned:>6o}\0 "),
            Sum::Signed => format!("{signed:06o}\0 "),
        };
        self.set(148, spelled.as_bytes());
        self.0.to_vec()
    }

    /// The header with what follows it.
    pub fn and(self, content: &[u8]) -> Vec<u8> {
        [self.summed(Sum::Usual), padded(content)].concat()
    }
}

pub fn padded(content: &[u8]) -> Vec<u8> {
    let mut bytes = content.to_vec();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

pub fn file(name: &str, content: &str) -> Vec<u8> {
    Header::new(name.as_bytes(), b'0', content.len()).and(content.as_bytes())
}

/// One record of an extended header.
pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let mut length = body + 1;
    while length != body + length.to_string().len() {
        length = body + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// An extended header of those records.
pub fn pax(records: &[Vec<u8>]) -> Vec<u8> {
    let records = records.concat();
    Header::new(b"PaxHeaders/x", b'x', records.len()).and(&records)
}

pub const END: [u8; 1024] = [0; 1024];

/// An archive of these entries, whole.
pub fn tar(entries: &[Vec<u8>]) -> Vec<u8> {
    [&entries.concat()[..], &END].concat()
}
