//! Names and texts that may come from a hostile image, made fit for a terminal.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;

/// The text with everything escaped that would move a cursor or turn the direction of what follows.
pub fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, c| {
        match c {
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => {
                escaped.extend(c.escape_unicode());
            }
            c if c.is_control() => escaped.extend(c.escape_default()),
            c => escaped.push(c),
        }
        escaped
    })
}

/// A name or path for a message: escaped, and bytes that are not UTF-8 as `\xNN`.
pub fn name(name: impl AsRef<OsStr>) -> String {
    name.as_ref().as_bytes().utf8_chunks().fold(String::new(), |mut text, chunk| {
        text.push_str(&escape(chunk.valid()));
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_a_cursor_is_printed_as_it_is() {
        assert_eq!(escape("a\x1b[2Jb\r\nc\u{9b}\u{202e}d"), "a\\u{1b}[2Jb\\r\\nc\\u{9b}\\u{202e}d");
        assert_eq!(escape("naïve 名前 'q' \\"), "naïve 名前 'q' \\");
        assert_eq!(name(OsStr::from_bytes(b"a\xff\n")), "a\\xff\\n");
    }
}
