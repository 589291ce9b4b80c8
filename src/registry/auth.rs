//! How a registry wants to be shown who asks: RFC 9110 "Basic", and the [token] flow that Docker began.
//!
//! [token]: https://distribution.github.io/distribution/spec/auth/token/

use std::collections::HashMap;

use serde::Deserialize;

use crate::http::{HeaderMap, header};

/// What a 401 asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password.
    Basic,
    /// A token of this service.
    Bearer {
        /// Where it is to be had.
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// What a token service answers.
#[derive(Deserialize)]
pub(super) struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl TokenAnswer {
    /// The token, under either of its two names.
    pub(super) fn token(self) -> String {
        if self.token.is_empty() { self.access_token } else { self.token }
    }
}

/// What a 401 asks for, a token before a password. Several challenges may stand in one header, or in several.
pub(super) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut found = None;
    for value in headers.get_all(header::WWW_AUTHENTICATE) {
        let Ok(text) = value.to_str() else { continue };
        for (scheme, mut parameters) in parse(text) {
            if scheme.eq_ignore_ascii_case("bearer") {
                if let Some(realm) = parameters.remove("realm") {
                    let (service, scope) = (parameters.remove("service"), parameters.remove("scope"));
                    return Some(Challenge::Bearer { realm, service, scope });
                }
            } else if scheme.eq_ignore_ascii_case("basic") {
                found = Some(Challenge::Basic);
            }
        }
    }
    found
}

/// Takes challenges apart: RFC 9110, section 11.6.1. What cannot be understood ends the list.
fn parse(text: &str) -> Vec<(String, HashMap<String, String>)> {
    let mut challenges: Vec<(String, HashMap<String, String>)> = Vec::new();
    let mut rest = text.trim_start_matches([' ', ',', '\t']);
    while !rest.is_empty() {
        let end = rest.find([' ', ',', '=', '\t']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let value = after.trim_start().strip_prefix('=').map(str::trim_start);
        match (value, challenges.last_mut()) {
            (Some(value), Some((_, parameters))) if !word.is_empty() => {
                let Some((value, after)) = parameter(value) else { break };
                parameters.insert(word.to_ascii_lowercase(), value);
                rest = after;
            }
            (None, _) if !word.is_empty() => {
                challenges.push((word.to_owned(), HashMap::new()));
                rest = after;
            }
            _ => break,
        }
        rest = rest.trim_start_matches([' ', ',', '\t']);
    }
    challenges
}

/// A token or a quoted string, and what follows it.
fn parameter(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', ',', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Some((value, &quoted[at + 1..])),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::WWW_AUTHENTICATE, value.parse().unwrap());
        }
        challenge(&headers)
    }

    #[test]
    fn a_token_is_preferred_wherever_it_stands() {
        let bearer = |service: Option<&str>, scope: Option<&str>| {
            let (service, scope) = (service.map(str::to_owned), scope.map(str::to_owned));
            Some(Challenge::Bearer { realm: "https://a/token".into(), service, scope })
        };
        let docker = r#"Bearer realm="https://a/token",service="b c",scope="repository:x/y:pull,push""#;
        assert_eq!(of(&[docker]), bearer(Some("b c"), Some("repository:x/y:pull,push")));
        let both = r#"Basic realm="x", Bearer realm="https://a/token" , service=b"#;
        assert_eq!(of(&[both]), bearer(Some("b"), None));
        assert_eq!(of(&["Basic", r#"bearer realm="https:\/\/a/token""#]), bearer(None, None));
        assert_eq!(of(&[r#"BASIC realm="a""#]), Some(Challenge::Basic));
    }

    #[test]
    fn nonsense_asks_for_nothing() {
        for nonsense in ["", "Negotiate", "Bearer", "Bearer service=\"a\"", "=,=", "Bearer realm=\"a"] {
            assert_eq!(of(&[nonsense]), None, "{nonsense}");
        }
    }
}
