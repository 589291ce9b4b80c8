//! Headers with every field from every pedigree: where GNU tar, bsdtar and Python agree, imagefs agrees.

use super::archive::{Header, Sum, file, padded, pax, record, tar};
use super::tools::{extracted, indexed};

const ARCHIVES: usize = 200;

/// The same numbers in every run (xorshift64).
struct Dice(u64);

impl Dice {
    fn roll<T: Clone>(&mut self, choices: &[T]) -> T {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        choices[(self.0 >> 11) as usize % choices.len()].clone()
    }

    /// A number in a field of so many bytes.
    fn number(&mut self, value: u64, width: usize) -> Vec<u8> {
        let mut bytes =
            match self.roll(&["usual", "usual", "usual", "blank", "lead", "full", "binary", "bare"]) {
                "blank" => format!("{value:0width$o} ", width = width - 1).into_bytes(),
                "lead" => format!("{value:>width$o}\0", width = width - 1).into_bytes(),
                "full" => format!("{value:0width$o}").into_bytes(),
                "bare" => format!("{value:o}").into_bytes(),
                "binary" => {
                    let mut bytes = vec![0; width];
                    bytes[width - 8..].copy_from_slice(&value.to_be_bytes());
                    bytes[0] |= 0x80;
                    bytes
                }
                _ => format!("{value:0width$o}\0", width = width - 1).into_bytes(),
            };
        bytes.resize(width, 0);
        bytes
    }
}

fn archive(dice: &mut Dice) -> Vec<u8> {
    let type_flag = dice.roll(&[b'0', b'0', 0, 0, b'5', b'5', b'1', b'2', b'6', b'7', b'3', b'Z']);
    let content: &[u8] = dice.roll(&[&b""[..], b"", b"content", &[b'x'; 700]]);
    let long = [b'n'; 100];
    let name: &[u8] = dice.roll(&[&b"f"[..], b"d/", b"d/f", b"./f", b"d//f", &long]);
    let prefix: &[u8] = dice.roll(&[&b""[..], b"", b"p", b"p/q", &[b'p'; 131], &[b'p'; 155]]);
    let magic = dice.roll(&[
        *b"ustar\x0000",
        *b"ustar\x0000",
        *b"ustar  \0",
        *b"ustar\0 \0",
        *b"ustar\0\0\0",
        *b"ustar\0  ",
        *b"ustar 00",
        [0; 8],
    ]);
    let mut header = Header::new(name, type_flag, 0).magic(&magic).prefix(prefix);
    if matches!(type_flag, b'1' | b'2') {
        header = header.link(b"before");
    }
    if dice.roll(&[false, false, false, true]) {
        header = header.with(508, b"tar\0");
    }
    header.set(100, &dice.number(dice_mode(type_flag), 8));
    header.set(108, &dice.number(1000, 8));
    header.set(116, &dice.number(2_000_000, 8));
    header.set(124, &dice.number(content.len() as u64, 12));
    header.set(136, &dice.number(1_500_000_000, 12));
    header.set(329, &dice.number(1, 8));
    header.set(337, &dice.number(3, 8));
    let mut entries = vec![file("before", "it was there")];
    for _ in 0..dice.roll(&[0, 0, 1, 2]) {
        let records: [(&str, &[u8]); 5] = [
            ("path", b"pax/name"),
            ("mtime", b"1234567890"),
            ("uid", b"77"),
            ("comment", b"none"),
            ("gid", b"78"),
        ];
        let (key, value) = dice.roll(&records);
        entries.push(pax(&[record(key, value)]));
    }
    let sum = dice.roll(&[Sum::Usual, Sum::Usual, Sum::SevenDigits, Sum::Blanks, Sum::Signed]);
    entries.push(header.summed(sum));
    entries.push(padded(content));
    entries.push(file("z-after", "it is still found"));
    tar(&entries)
}

/// Some writers leave the file's type in the mode.
fn dice_mode(type_flag: u8) -> u64 {
    if type_flag == b'5' { 0o40755 } else { 0o4751 }
}

#[test]
fn where_all_tools_agree_so_does_imagefs() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let archives: Vec<Vec<u8>> = (0..ARCHIVES).map(|_| archive(&mut dice)).collect();
    let (mut agreed, mut wrong) = (0, Vec::new());
    for (archive, tools) in archives.iter().zip(extracted(&archives)) {
        let [Some(gnu), Some(bsd), Some(python)] = tools else { continue };
        if gnu != bsd || gnu != python {
            continue;
        }
        agreed += 1;
        let ours = indexed(archive).map(|(listing, _)| listing);
        if ours.as_ref() != Ok(&gnu) {
            let header = archive[1024..].chunks(512).take(5).map(|block| block.escape_ascii().to_string());
            wrong.push(format!("{gnu:#?}\nbut {ours:#?}\nof {:#?}", header.collect::<Vec<_>>()));
        }
    }
    assert!(wrong.is_empty(), "{} of {agreed}: {}", wrong.len(), wrong[0]);
    assert!(agreed > ARCHIVES / 4, "the tools agree on {agreed} of {ARCHIVES} only");
}
