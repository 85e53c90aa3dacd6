//! What a registry asks for before it answers: the `WWW-Authenticate` header (RFC 9110, 11.6.1).

/// One way in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// The ways in that a header offers and we know; Bearer before Basic.
pub(super) fn parse<'h>(headers: impl Iterator<Item = &'h str>) -> Option<Challenge> {
    let mut basic = false;
    for header in headers {
        let mut scheme = String::new();
        let mut parameters: Vec<(String, String)> = Vec::new();
        for token in tokens(header) {
            match token {
                Token::Scheme(name) => {
                    if let Some(found) = bearer(&scheme, &parameters) {
                        return Some(found);
                    }
                    scheme = name;
                    parameters.clear();
                    basic |= scheme.eq_ignore_ascii_case("basic");
                }
                Token::Parameter(key, value) => parameters.push((key, value)),
            }
        }
        if let Some(found) = bearer(&scheme, &parameters) {
            return Some(found);
        }
    }
    basic.then_some(Challenge::Basic)
}

fn bearer(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let value = |name: &str| {
        let found = parameters
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(found.1.clone()).filter(|value| !value.is_empty())
    };
    Some(Challenge::Bearer {
        realm: value("realm")?,
        service: value("service"),
        scope: value("scope"),
    })
}

enum Token {
    Scheme(String),
    Parameter(String, String),
}

/// Schemes and `key=value` pairs in their order. What does not fit the grammar ends the list.
fn tokens(mut rest: &str) -> Vec<Token> {
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        if end == 0 {
            return found;
        }
        let word = rest[..end].to_owned();
        let after = rest[end..].trim_start_matches([' ', '\t']);
        let Some(value) = after.strip_prefix('=') else {
            found.push(Token::Scheme(word));
            rest = &rest[end..];
            continue;
        };
        let value = value.trim_start_matches([' ', '\t']);
        if let Some(quoted) = value.strip_prefix('"') {
            let mut text = String::new();
            let mut characters = quoted.char_indices();
            let mut closed = None;
            while let Some((at, c)) = characters.next() {
                match c {
                    '"' => {
                        closed = Some(at + 1);
                        break;
                    }
                    '\\' => text.extend(characters.next().map(|(_, escaped)| escaped)),
                    c => text.push(c),
                }
            }
            let Some(closed) = closed else {
                return found;
            };
            rest = &quoted[closed..];
            found.push(Token::Parameter(word, text));
        } else {
            let end = value.find([' ', '\t', ',']).unwrap_or(value.len());
            found.push(Token::Parameter(word, value[..end].to_owned()));
            rest = &value[end..];
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(header: &str) -> Option<Challenge> {
        parse(std::iter::once(header))
    }

    #[test]
    fn the_challenges_of_registries_are_read() {
        let bearer = Some(Challenge::Bearer {
            realm: "https://auth.docker.io/token".to_owned(),
            service: Some("registry.docker.io".to_owned()),
            scope: Some("repository:library/debian:pull,push".to_owned()),
        });
        assert_eq!(
            one(
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/debian:pull,push""#
            ),
            bearer
        );
        assert_eq!(
            one(
                r#"bearer realm = "https://auth.docker.io/token" , scope="repository:library/debian:pull,push", service=registry.docker.io"#
            ),
            bearer
        );
        assert_eq!(one(r#"Basic realm="basic-realm""#), Some(Challenge::Basic));
        assert_eq!(one("BASIC"), Some(Challenge::Basic));
    }

    #[test]
    fn a_token_is_preferred_to_a_password() {
        let both = [
            r#"Basic realm="x", Bearer realm="https://y\"z""#,
            "Negotiate",
        ];
        let Some(Challenge::Bearer { realm, .. }) = parse(both.into_iter()) else {
            panic!("no bearer");
        };
        assert_eq!(realm, "https://y\"z");
    }

    #[test]
    fn what_offers_no_way_in_is_none() {
        for bad in [
            "",
            "Digest realm=\"x\"",
            "Bearer",
            "Bearer realm=\"x",
            "Bearer service=\"x\"",
            "=,=",
            "Bearer realm=\"\"",
        ] {
            assert_eq!(one(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_headers_never_panic(header in ".{0,80}", near in "[Bearilm=\",\\\\ é]{0,40}") {
            let _ = one(&header);
            let _ = one(&near);
        }
    }
}
