//! Patterns for names, as in glob(7).

/// A pattern that a name matches as a whole: `*`, `?`, `[a-z]`, `[!a-z]`, `[[:digit:]]`, and `\` before what is to stand
/// for itself.
///
/// A leading dot is nothing special. `?` and brackets take one character of UTF-8, or one byte that is none. The classes
/// are those of Unicode, but digits, which are those of ASCII, as in a UTF-8 locale; a character is equivalent
/// (`[[=a=]]`) to itself alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Token>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Unit(u32),
    Any,
    Many,
    Set { negated: bool, members: Vec<Member> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    Range(u32, u32),
    Class(Class),
}

/// A named class of characters; see wctype(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Alnum,
    Alpha,
    Blank,
    Cntrl,
    Digit,
    Graph,
    Lower,
    Print,
    Punct,
    Space,
    Upper,
    Xdigit,
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
            Token::Set { negated, members } => members.iter().any(|member| member.fits(unit)) != *negated,
        }
    }
}

impl Member {
    fn fits(self, unit: u32) -> bool {
        match self {
            Member::Range(low, high) => (low..=high).contains(&unit),
            Member::Class(class) => char::from_u32(unit).is_some_and(|c| class.has(c)),
        }
    }
}

impl Class {
    fn named(name: &str) -> Option<Class> {
        Some(match name {
            "alnum" => Class::Alnum,
            "alpha" => Class::Alpha,
            "blank" => Class::Blank,
            "cntrl" => Class::Cntrl,
            "digit" => Class::Digit,
            "graph" => Class::Graph,
            "lower" => Class::Lower,
            "print" => Class::Print,
            "punct" => Class::Punct,
            "space" => Class::Space,
            "upper" => Class::Upper,
            "xdigit" => Class::Xdigit,
            _ => return None,
        })
    }

    fn has(self, c: char) -> bool {
        match self {
            Class::Alnum => c.is_alphanumeric(),
            Class::Alpha => c.is_alphabetic(),
            Class::Blank => matches!(c, ' ' | '\t'),
            Class::Cntrl => c.is_control(),
            Class::Digit => c.is_ascii_digit(),
            Class::Graph => !c.is_control() && !c.is_whitespace(),
            Class::Lower => c.is_lowercase(),
            Class::Print => !c.is_control(),
            Class::Punct => !c.is_control() && !c.is_whitespace() && !c.is_alphanumeric(),
            Class::Space => c.is_whitespace(),
            Class::Upper => c.is_uppercase(),
            Class::Xdigit => c.is_ascii_hexdigit(),
        }
    }
}

/// What follows an opening bracket, and how many units it takes up to and with the closing one.
fn set(units: &[u32]) -> Option<(Token, usize)> {
    const CLOSE: u32 = ']' as u32;
    const DASH: u32 = '-' as u32;
    let negated = units.first().is_some_and(|&unit| unit == '!' as u32 || unit == '^' as u32);
    let first = usize::from(negated);
    let mut at = first;
    let mut members = Vec::new();
    let mut known = true;
    loop {
        let mut low = *units.get(at)?;
        // A bracket that comes first is one of the set.
        if low == CLOSE && at > first {
            // With a class that does not exist nothing fits, as in fnmatch(3).
            let (negated, members) = if known { (negated, members) } else { (false, Vec::new()) };
            return Some((Token::Set { negated, members }, at + 1));
        }
        if let Some((name, used)) = class(&units[at..]) {
            match Class::named(&name) {
                Some(class) => members.push(Member::Class(class)),
                None => known = false,
            }
            at += used;
            continue;
        }
        if low == '\\' as u32 {
            at += 1;
            low = *units.get(at)?;
            at += 1;
        } else {
            (low, at) = element(units, at)?;
        }
        match (units.get(at), units.get(at + 1)) {
            (Some(&DASH), Some(&next)) if next != CLOSE => {
                let (high, after) = element(units, at + 1)?;
                members.push(Member::Range(low, high));
                at = after;
            }
            _ => members.push(Member::Range(low, low)),
        }
    }
}

/// The name in `[:name:]` at the front, and how many units that takes.
fn class(units: &[u32]) -> Option<(String, usize)> {
    const LONGEST: usize = 32;
    let mut rest = units.iter().map_while(|&unit| char::from_u32(unit));
    if (rest.next()?, rest.next()?) != ('[', ':') {
        return None;
    }
    let text: String = rest.take(LONGEST).collect();
    let (name, _) = text.split_once(":]")?;
    name.bytes().all(|b| b.is_ascii_lowercase()).then(|| (name.to_owned(), name.len() + 4))
}

/// One element of a set, and what follows it: a character, be it written as `[.c.]` or `[=c=]`.
fn element(units: &[u32], at: usize) -> Option<(u32, usize)> {
    let is = |offset: usize, c: char| units.get(at + offset) == Some(&u32::from(c));
    let enclosed = |by: char| is(0, '[') && is(1, by) && is(3, by) && is(4, ']');
    match enclosed('.') || enclosed('=') {
        true => Some((*units.get(at + 2)?, at + 5)),
        false => Some((*units.get(at)?, at + 1)),
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
    fn a_set_may_have_classes() {
        check(b"[[:alpha:]]*", &[b"a", "ä1".as_bytes(), "Ω".as_bytes()], &[b"1", b"_", b"\xff", b""]);
        check(b"[![:alpha:]]", &[b"1", b":", b"\xff"], &[b"a", "é".as_bytes()]);
        check(b"[[:digit:]x-z_]", &[b"7", b"y", b"_"], &[b"a", b":", b"d", "\u{0664}".as_bytes()]);
        check(b"[[:upper:][:space:]]", &[b"B", b" ", b"\n"], &[b"b"]);
        check(b"[[:punct:]]", &[b"_", b"[", b"-"], &[b"a", b" ", b"7"]);
        check(b"[[.-.][=a=]]", &[b"-", b"a"], &[b".", b"=", b"["]);
        check(b"[[.a.]-[.c.]]", &[b"b"], &[b"d", b"-"]);
        // What is no class is characters.
        check(b"[[:a]", &[b"[", b":", b"a"], &[b"b"]);
        check(b"[a-[:alpha:]]", &[b"a]"], &[b"a", b"b"]);
        check(b"[[=ab=]]", &[b"a]"], &[b"a"]);
        for unknown in ["[[:foo:]]", "[![:foo:]]", "[[:foo:]a]"] {
            check(unknown.as_bytes(), &[], &[b"a", b":", b"f", b"[:foo:]"]);
        }
    }

    #[test]
    fn a_pattern_built_to_cost_time_costs_little() {
        let pattern = Pattern::new("*a".repeat(100));
        assert!(!pattern.matches("a".repeat(99) + &"b".repeat(156)));
    }
}
