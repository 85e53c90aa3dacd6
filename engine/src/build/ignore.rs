//! `.dockerignore`: which files of a context are none of it.

use crate::error::{Error, Result};

/// Patterns in a file at most, and bytes in each: matching costs their product.
const PATTERNS: usize = 10_000;
const LONGEST: usize = 4096;

/// The patterns of a context, in order: the last one that matches decides.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Debug, PartialEq, Eq)]
struct Pattern {
    tokens: Vec<Token>,
    /// `!`: what matches is of the context again.
    is_exception: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// `?`: one byte of a name.
    One,
    /// `*`: any bytes of a name.
    Name,
    /// `**/` or `**` before something: any directories, or none.
    Directories,
    /// `**` at the end: anything.
    Rest,
    /// `[…]`: one byte of a set.
    Set {
        ranges: Vec<(u8, u8)>,
        negated: bool,
    },
}

impl Ignore {
    /// Reads the file; errors call it by `name`.
    pub(super) fn parse(text: &str, name: &str) -> Result<Self> {
        let mut patterns = Vec::new();
        for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            if line.starts_with('#') {
                continue;
            }
            let (line, is_exception) = match line.trim().strip_prefix('!') {
                Some(rest) => (rest.trim(), true),
                None => (line.trim(), false),
            };
            let path = clean(line);
            if path.is_empty() {
                continue;
            }
            let refused =
                |reason: String| Error::Unsupported(format!("{name} line {}: {reason}", index + 1));
            if patterns.len() == PATTERNS || path.len() > LONGEST {
                return Err(refused("too many patterns, or too long a one".to_owned()));
            }
            patterns.push(Pattern {
                tokens: tokens(path.as_bytes()).map_err(refused)?,
                is_exception,
            });
        }
        Ok(Self { patterns })
    }

    /// Whether a path of the context, without a slash before it, is none of it: it or a directory above it matches.
    pub(super) fn ignores(&self, path: &[u8]) -> bool {
        let mut ignored = false;
        for pattern in &self.patterns {
            // Nothing to be gained from one that says what is so already.
            if pattern.is_exception == ignored && pattern.matches_or_above(path) {
                ignored = !pattern.is_exception;
            }
        }
        ignored
    }

    /// Whether something below an ignored directory can be of the context.
    pub(super) fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.is_exception)
    }
}

impl Pattern {
    /// Whether the path, or a directory above it, matches.
    fn matches_or_above(&self, path: &[u8]) -> bool {
        let reached = reach(&self.tokens, path);
        let ends_name = |at: usize| path.get(at).is_none_or(|next| *next == b'/');
        (1..=path.len()).any(|at| reached[at] && ends_name(at))
    }
}

/// Go's filepath.Clean for a relative path, without slashes around it.
fn clean(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if kept.last().is_some_and(|last| *last != "..") => {
                kept.pop();
            }
            part => kept.push(part),
        }
    }
    kept.join("/")
}

/// Reads a pattern of Go's filepath.Match, with `**`.
fn tokens(pattern: &[u8]) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = pattern;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        tokens.push(match first {
            b'*' if rest.first() == Some(&b'*') => {
                while let Some(after) = rest.strip_prefix(b"*") {
                    rest = after;
                }
                rest = rest.strip_prefix(b"/").unwrap_or(rest);
                if rest.is_empty() {
                    Token::Rest
                } else {
                    Token::Directories
                }
            }
            b'*' => Token::Name,
            b'?' => Token::One,
            b'\\' => {
                let (escaped, after) = rest.split_first().ok_or("it ends in a backslash")?;
                rest = after;
                Token::Byte(*escaped)
            }
            b'[' => {
                let (set, after) = set(rest)?;
                rest = after;
                set
            }
            byte => Token::Byte(*byte),
        });
    }
    Ok(tokens)
}

fn set(mut rest: &[u8]) -> Result<(Token, &[u8]), String> {
    let negated = rest.first() == Some(&b'^');
    if negated {
        rest = rest.get(1..).unwrap_or_default();
    }
    let mut ranges = Vec::new();
    let next = |rest: &mut &[u8]| -> Result<u8, String> {
        let missing = "a ] is missing";
        let (mut byte, mut after) = rest.split_first().ok_or(missing)?;
        if *byte == b'\\' {
            (byte, after) = after.split_first().ok_or(missing)?;
        }
        *rest = after;
        Ok(*byte)
    };
    loop {
        if rest.first() == Some(&b']') && !ranges.is_empty() {
            let rest = rest.get(1..).unwrap_or_default();
            return Ok((Token::Set { ranges, negated }, rest));
        }
        let low = next(&mut rest)?;
        let high = match rest.strip_prefix(b"-") {
            Some(after) if !after.starts_with(b"]") => {
                rest = after;
                next(&mut rest)?
            }
            _ => low,
        };
        ranges.push((low, high));
    }
}

/// Which beginnings of the text match, by their lengths: each token in turn advances the set of places reached so far, so that no
/// pattern is slow.
fn reach(tokens: &[Token], text: &[u8]) -> Vec<bool> {
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for token in tokens {
        let mut next = vec![false; text.len() + 1];
        match token {
            Token::Rest => {
                let first = reached.iter().position(|here| *here);
                if let Some(first) = first {
                    next[first..].fill(true);
                }
            }
            Token::Directories => {
                let mut any = false;
                for at in 0..=text.len() {
                    any |= reached[at];
                    // Nowhere, or behind any slash.
                    next[at] = reached[at] || (any && at > 0 && text[at - 1] == b'/');
                }
            }
            Token::Name => {
                let mut open = false;
                for at in 0..=text.len() {
                    open = reached[at] || (open && at > 0 && text[at - 1] != b'/');
                    next[at] = open;
                }
            }
            one => {
                for at in 0..text.len() {
                    next[at + 1] = reached[at] && one.takes(text[at]);
                }
            }
        }
        reached = next;
    }
    reached
}

impl Token {
    fn takes(&self, byte: u8) -> bool {
        match self {
            Self::Byte(wanted) => *wanted == byte,
            Self::One => byte != b'/',
            Self::Set { ranges, negated } => {
                byte != b'/'
                    && ranges
                        .iter()
                        .any(|(low, high)| (*low..=*high).contains(&byte))
                        != *negated
            }
            Self::Name | Self::Directories | Self::Rest => false,
        }
    }
}

/// Whether a name matches one part of a pattern of `COPY`.
///
/// # Errors
/// What is wrong with the pattern.
pub(super) fn name_matches(pattern: &[u8], name: &[u8]) -> Result<bool, String> {
    Ok(reach(&tokens(pattern)?, name)[name.len()])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ignored(patterns: &str, path: &str) -> bool {
        Ignore::parse(patterns, ".dockerignore")
            .unwrap()
            .ignores(path.as_bytes())
    }

    #[test]
    fn patterns_match_as_dockers_do() {
        for (patterns, path, wanted) in [
            ("a", "a", true),
            ("a", "a/b", true),
            ("a", "b/a", false),
            ("/a/", "a", true),
            ("./a/../b", "b", true),
            ("*/temp*", "x/temporary.txt", true),
            ("*/temp*", "x/y/temp", false),
            ("temp?", "tempa", true),
            ("temp?", "temp", false),
            ("**/*.go", "a/b/c.go", true),
            ("**/*.go", "c.go", true),
            ("**.go", "a/.go", true),
            ("a/**", "a/b/c", true),
            ("a/**", "a", false),
            ("a/**/z", "a/b/c/z", true),
            ("a/**/z", "a/z", true),
            ("**", "x/y", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("# a", "# a", false),
            ("*.md\n!README.md", "README.md", false),
            (
                "*.md\n!README*.md\nREADME-secret.md",
                "README-secret.md",
                true,
            ),
            ("dir\n!dir/kept", "dir/kept/x", false),
            ("dir\n!dir/kept", "dir/other", true),
            ("!a", "a", false),
            ("\n  \n a ", "a", true),
        ] {
            assert_eq!(ignored(patterns, path), wanted, "{patterns:?} {path:?}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_its_line() {
        let error = Ignore::parse("a\n[b", ".dockerignore").unwrap_err();
        assert_eq!(error.to_string(), ".dockerignore line 2: a ] is missing");
        assert!(Ignore::parse("a\\", "x").is_err());
    }

    #[test]
    fn no_pattern_is_slow() {
        let pattern = "**/*a".repeat(200);
        let path = vec!["a"; 1000].join("/");
        assert!(ignored(&pattern, &path));
        assert!(!ignored(&format!("{pattern}b"), &path));
    }

    proptest! {
        #[test]
        fn no_pattern_makes_it_panic(pattern in "[-a*?/!\\[\\]^\\\\#\n]{0,20}", path in "[a/]{0,10}") {
            if let Ok(ignore) = Ignore::parse(&pattern, "x") {
                ignore.ignores(path.as_bytes());
            }
        }

        #[test]
        fn a_plain_path_matches_itself_and_what_is_below(path in "[a-z]{1,5}(/[a-z]{1,5}){0,3}") {
            prop_assert!(ignored(&path, &path));
            let below = format!("{path}/x");
            prop_assert!(ignored(&path, &below));
            let beside = format!("{path}x");
            prop_assert!(!ignored(&path, &beside));
        }
    }
}
