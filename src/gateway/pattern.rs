//! Patterns for names, as in glob(7).

/// A pattern that a name matches as a whole: `*`, `?`, `[a-z]`, `[!a-z]`, and `\` before what is to stand for itself.
///
/// A leading dot is nothing special. `?` and brackets take one character of UTF-8, or one byte that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Token>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Unit(u32),
    Any,
    Many,
    Set { negated: bool, ranges: Vec<(u32, u32)> },
}

impl Pattern {
    /// Every text is a pattern: a bracket that is never closed stands for itself.
    pub fn new(text: impl AsRef<[u8]>) -> Pattern {
        let units = units(text.as_ref());
        let mut tokens = Vec::with_capacity(units.len());
        let mut at = 0;
        while let Some(&unit) = units.get(at) {
            at += 1;
            tokens.push(match char::from_u32(unit) {
                Some('*') => Token::Many,
                Some('?') => Token::Any,
                Some('\\') if at < units.len() => {
                    at += 1;
                    Token::Unit(units[at - 1])
                }
                Some('[') => match set(&units[at..]) {
                    Some((token, used)) => {
                        at += used;
                        token
                    }
                    None => Token::Unit(unit),
                },
                _ => Token::Unit(unit),
            });
        }
        Pattern(tokens)
    }

    /// Whether all of `name` fits.
    pub fn matches(&self, name: impl AsRef<[u8]>) -> bool {
        let name = units(name.as_ref());
        let (mut token, mut at) = (0, 0);
        // Where to go on if what follows the last star does not fit: only the last one ever has to give.
        let mut retry = None;
        loop {
            let fits = match (self.0.get(token), name.get(at)) {
                (Some(Token::Many), _) => {
                    retry = Some((token + 1, at));
                    token += 1;
                    continue;
                }
                (None, None) => return true,
                (Some(wanted), Some(&unit)) => wanted.fits(unit),
                _ => false,
            };
            if fits {
                (token, at) = (token + 1, at + 1);
                continue;
            }
            match retry {
                Some((after_star, taken)) if taken < name.len() => {
                    retry = Some((after_star, taken + 1));
                    (token, at) = (after_star, taken + 1);
                }
                _ => return false,
            }
        }
    }
}

impl Token {
    fn fits(&self, unit: u32) -> bool {
        match self {
            Token::Unit(wanted) => *wanted == unit,
            Token::Any | Token::Many => true,
            Token::Set { negated, ranges } => {
                ranges.iter().any(|&(low, high)| (low..=high).contains(&unit)) != *negated
            }
        }
    }
}

/// What follows an opening bracket, and how many units it takes up to and with the closing one.
fn set(units: &[u32]) -> Option<(Token, usize)> {
    const CLOSE: u32 = ']' as u32;
    const DASH: u32 = '-' as u32;
    let negated = units.first().is_some_and(|&unit| unit == '!' as u32 || unit == '^' as u32);
    let mut at = usize::from(negated);
    let mut ranges = Vec::new();
    loop {
        let mut low = *units.get(at)?;
        // A bracket that comes first is one of the set.
        if low == CLOSE && !ranges.is_empty() {
            return Some((Token::Set { negated, ranges }, at + 1));
        }
        if low == '\\' as u32 {
            at += 1;
            low = *units.get(at)?;
        }
        at += 1;
        match (units.get(at), units.get(at + 1)) {
            (Some(&DASH), Some(&high)) if high != CLOSE => {
                ranges.push((low, high));
                at += 2;
            }
            _ => ranges.push((low, low)),
        }
    }
}

/// The characters of a name; bytes that are none get numbers beyond them.
fn units(bytes: &[u8]) -> Vec<u32> {
    const BEYOND: u32 = char::MAX as u32 + 1;
    let mut units = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        units.extend(chunk.valid().chars().map(u32::from));
        units.extend(chunk.invalid().iter().map(|&byte| BEYOND + u32::from(byte)));
    }
    units
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &[u8], yes: &[&[u8]], no: &[&[u8]]) {
        let pattern = Pattern::new(pattern);
        for name in yes {
            assert!(pattern.matches(name), "{pattern:?} {}", name.escape_ascii());
        }
        for name in no {
            assert!(!pattern.matches(name), "{pattern:?} {}", name.escape_ascii());
        }
    }

    #[test]
    fn a_pattern_fits_whole_names() {
        check(b"*.py", &[b"a.py", b".py", b"a.py.py"], &[b"a.pyc", b"py", b""]);
        check(b"", &[b""], &[b"a"]);
        check(b"*", &[b"", b".x", b"\xff"], &[]);
        check(b"a*b*c", &[b"abc", b"aXbXbXc"], &[b"ab", b"acb", b"abcd"]);
        check(b"?", &[b"a", "ä".as_bytes(), b"\xff"], &[b"", b"ab", b"\xff\xff"]);
        check(b"[a-c!]x", &[b"ax", b"cx", b"!x"], &[b"dx", b"x"]);
        check(b"[!a-c]", &[b"d", "ß".as_bytes()], &[b"a", b""]);
        check(b"[]-]", &[b"]", b"-"], &[b"["]);
        check(br"\*[\]]", &[b"*]"], &[b"a]", br"\*]"]);
        check(b"[ab", &[b"[ab"], &[b"a", b"["]);
        check(br"a\", &[br"a\"], &[b"a"]);
    }

    #[test]
    fn a_pattern_built_to_cost_time_costs_little() {
        let pattern = Pattern::new("*a".repeat(100));
        assert!(!pattern.matches("a".repeat(99) + &"b".repeat(156)));
    }
}
