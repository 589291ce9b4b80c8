//! The patterns that BuildKit sends to say which files it wants, and which not.
//!
//! They are those of `.dockerignore`, as github.com/moby/patternmatcher reads them: a `*` stops at a slash, a `**` does not,
//! `!` makes an exception, the last pattern that fits counts, and what holds for a directory holds for all that is in it.

/// A list of patterns.
#[derive(Debug, Default)]
pub(super) struct Patterns(Vec<Pattern>);

/// Which patterns of a list a directory fits, for what is in it.
#[derive(Clone, Debug, Default)]
pub(super) struct Fits(Vec<bool>);

#[derive(Debug)]
struct Pattern {
    exception: bool,
    text: String,
    tokens: Vec<Token>,
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Char(char),
    /// `?`: any one character but a slash.
    One,
    /// `*`: any number of them.
    Some,
    /// `**/`: nothing, or any number of directories.
    Dirs,
    /// `**` at the end: all the rest.
    Rest,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Patterns {
    /// Reads a list; an entry that is empty says nothing.
    pub fn new<S: AsRef<str>>(list: &[S]) -> Patterns {
        let texts = list.iter().map(|text| clean(text.as_ref().trim())).filter(|text| text != ".");
        Patterns(texts.map(|text| Pattern::new(&text)).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a path fits, and what is to be known of that for the paths below it. `parent` is what was told of the directory
    /// that it is in.
    pub fn fit(&self, path: &str, parent: &Fits) -> (bool, Fits) {
        let mut fits = false;
        let mut each = vec![false; self.0.len()];
        for (at, pattern) in self.0.iter().enumerate() {
            let inherited = parent.0.get(at).copied().unwrap_or(false);
            // What could only say again what holds already is not asked.
            if !inherited && pattern.exception != fits {
                continue;
            }
            each[at] = inherited || pattern.is_match(path);
            if each[at] {
                fits = !pattern.exception;
            }
        }
        (fits, Fits(each))
    }

    /// Whether something below a directory may fit a pattern (or, with `exceptions`, an exception) though the directory does
    /// not.
    pub fn may_fit_below(&self, dir: &str, exceptions: bool) -> bool {
        let dir = format!("{dir}/");
        self.0.iter().filter(|pattern| pattern.exception == exceptions).any(|pattern| {
            let plain = pattern.text.split(['*', '?', '[', '\\']).next().unwrap_or_default();
            // What stands before the first wildcard decides; where there is none, all of it.
            match plain.len() == pattern.text.len() {
                true => plain.starts_with(&dir),
                false => plain.starts_with(&dir) || dir.starts_with(plain),
            }
        })
    }
}

impl Pattern {
    fn new(text: &str) -> Pattern {
        let (exception, text) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        Pattern { exception, text: text.to_owned(), tokens: tokens(text) }
    }

    /// Follows all ways through the pattern at once, so that no pattern takes long.
    fn is_match(&self, path: &str) -> bool {
        let n = self.tokens.len();
        // Where in the pattern one may be; the second half stands for the inside of a `**/`.
        let mut here = vec![false; 2 * n + 1];
        let enter = |set: &mut Vec<bool>, mut at: usize| loop {
            set[at] = true;
            match self.tokens.get(at) {
                Some(Token::Some | Token::Dirs | Token::Rest) => at += 1,
                _ => break,
            }
        };
        enter(&mut here, 0);
        for c in path.chars() {
            let mut next = vec![false; 2 * n + 1];
            for (at, token) in self.tokens.iter().enumerate() {
                let inside = here[n + 1 + at];
                if !here[at] && !inside {
                    continue;
                }
                match token {
                    Token::Char(this) if c == *this => enter(&mut next, at + 1),
                    Token::One if c != '/' => enter(&mut next, at + 1),
                    Token::Class { negated, ranges }
                        if ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *negated =>
                    {
                        enter(&mut next, at + 1);
                    }
                    Token::Some if c != '/' => enter(&mut next, at),
                    Token::Rest => enter(&mut next, at),
                    Token::Dirs => {
                        next[n + 1 + at] = true;
                        if c == '/' {
                            enter(&mut next, at + 1);
                        }
                    }
                    _ => {}
                }
            }
            here = next;
        }
        here[n]
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            '*' if chars.peek() == Some(&'*') => {
                chars.next();
                if chars.peek() == Some(&'/') {
                    chars.next();
                }
                if chars.peek().is_none() { Token::Rest } else { Token::Dirs }
            }
            '*' => Token::Some,
            '?' => Token::One,
            '\\' => Token::Char(chars.next().unwrap_or('\\')),
            '[' => class(&mut chars),
            c => Token::Char(c),
        });
    }
    tokens
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Token {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    let one = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| match chars.next()? {
        '\\' => chars.next(),
        c => Some(c),
    };
    while chars.peek().is_some_and(|&c| c != ']' || ranges.is_empty()) {
        let Some(from) = one(chars) else { break };
        let to = match chars.next_if_eq(&'-') {
            Some(_) => one(chars).unwrap_or(from),
            None => from,
        };
        ranges.push((from, to));
    }
    chars.next();
    Token::Class { negated, ranges }
}

/// A path without empty names and `.`, and with `..` taken as text: Go's `filepath.Clean`, of which `.` is the shortest answer.
pub(super) fn clean(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    let absolute = path.starts_with('/');
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." if names.last().is_some_and(|last| *last != "..") => drop(names.pop()),
            ".." if absolute => {}
            name => names.push(name),
        }
    }
    match (absolute, names.is_empty()) {
        (true, _) => format!("/{}", names.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => names.join("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a path fits, asked as a walk asks: directory by directory.
    fn fits(list: &[&str], path: &str) -> bool {
        let patterns = Patterns::new(list);
        let mut known = Fits::default();
        let mut last = false;
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            (last, known) = patterns.fit(&path[..end], &known);
        }
        last
    }

    // The cases of patternmatcher_test.go.
    #[test]
    fn a_pattern_fits_what_docker_says_that_it_fits() {
        for (pattern, path, expected) in [
            ("**", "file", true),
            ("**", "dir/file", true),
            ("**/", "file", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "dir/dir2/file", true),
            ("**/dir", "dir", true),
            ("**/dir", "dir/file", true),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/*", "dir/dir2/dir2/file", true),
            ("**file", "file", true),
            ("**file", "dir/file", true),
            ("**/file", "dir/dir/file", true),
            ("**/file*", "dir/dir/file.txt", true),
            ("**/file*txt", "dir/dir/file.txt", true),
            ("**/**/*.txt2", "dir/dir/file.txt", false),
            ("**/*.txt", "file.txt", true),
            ("a**/*.txt", "a/file.txt", true),
            ("a**/*.txt", "a/dir/dir/file.txt", true),
            ("a/*.txt", "a/dir/file.txt", false),
            ("a/*.txt", "a/file.txt", true),
            ("a[b-d]e", "ae", false),
            ("a[b-d]e", "ace", true),
            ("a[^b-d]e", "aze", true),
            ("a[\\]]x", "a]x", true),
            (".*", ".foo", true),
            (".*", "foo", false),
            ("abc.def", "abcdef", false),
            ("abc.def", "abcZdef", false),
            ("abc?def", "abcZdef", true),
            ("abc?def", "abcdef", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("**/foo/bar", "foo/bar", true),
            ("**/foo/bar", "dir/dir2/foo/bar", true),
            ("abc/**", "abc", false),
            ("abc/**", "abc/def/ghi", true),
            ("**/.foo", ".foo", true),
            ("**/.foo", "bar.foo", false),
            ("./bar/.*", "bar/.foo", true),
            ("a(b)c/def", "a(b)c/def", true),
            ("*c", "ab/c", false),
        ] {
            assert_eq!(fits(&[pattern], path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn the_last_pattern_that_fits_counts_and_a_directory_stands_for_what_is_in_it() {
        assert!(!fits(&["**", "!util/docker/web"], "util/docker/web/foo"));
        assert!(fits(&["**", "!util/docker/web", "util/docker/web/foo"], "util/docker/web/foo"));
        assert!(fits(&["*", "!src"], "other/src"));
        assert!(!fits(&["*.md", "!README*.md"], "README.md"));
        assert!(fits(&["*.md", "!README*.md", "README-secret.md"], "README-secret.md"));
        assert!(!fits(&["", "  ", "."], "anything"));
    }

    #[test]
    fn a_directory_is_passed_over_only_where_nothing_in_it_can_fit() {
        let include = Patterns::new(&["src/lib/*.rs", "doc"]);
        assert!(include.may_fit_below("src", false) && include.may_fit_below("src/lib", false));
        assert!(!include.may_fit_below("target", false) && !include.may_fit_below("doc2", false));
        assert!(include.may_fit_below("src/lib/deep", false), "a wildcard may stand for a slash");
        let exclude = Patterns::new(&["**", "!a/b"]);
        assert!(exclude.may_fit_below("a", true) && !exclude.may_fit_below("c", true));
        assert!(Patterns::new(&["*", "!**/x"]).may_fit_below("c", true));
    }

    #[test]
    fn paths_are_cleaned_as_go_does() {
        for (path, clean_path) in
            [("", "."), ("./a//b/", "a/b"), ("a/../..", ".."), ("/../a", "/a"), ("/", "/"), ("a/..", ".")]
        {
            assert_eq!(clean(path), clean_path, "{path}");
        }
    }
}
