//! Cuts a template into tokens, by the lexical rules of text/template.

use super::parser::SyntaxError;

/// A token and where it begins (a byte offset).
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) position: usize,
    pub(super) kind: TokenKind,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum TokenKind {
    /// What stands outside of actions, trimmed already.
    Text(String),
    Open,
    Close,
    Space,
    Dot,
    /// `.Name`
    Field(String),
    /// `$name`, or `$`
    Variable(String),
    /// A keyword, `true`, `false`, `nil`, or a function's name
    Word(String),
    Number(serde_json::Number, String),
    Quoted(String, String),
    Pipe,
    Declare,
    Assign,
    Comma,
    LeftParenthesis,
    RightParenthesis,
}

impl TokenKind {
    /// How the token is named in an error.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Open => "\"{{\"".into(),
            Self::Close => "\"}}\"".into(),
            Self::Space => "\" \"".into(),
            Self::Dot => "<.>".into(),
            Self::Field(name) => format!("<.{name}>"),
            Self::Variable(name) => format!("{name:?}"),
            Self::Word(word) => format!("<{word}>"),
            Self::Number(_, written) | Self::Quoted(_, written) => format!("{written:?}"),
            Self::Pipe => "\"|\"".into(),
            Self::Declare => "\":=\"".into(),
            Self::Assign => "\"=\"".into(),
            Self::Comma => "\",\"".into(),
            Self::LeftParenthesis => "\"(\"".into(),
            Self::RightParenthesis => "\")\"".into(),
        }
    }
}

const OPEN: &str = "{{";
const CLOSE: &str = "}}";
const SPACES: [char; 4] = [' ', '\t', '\r', '\n'];

pub(super) fn tokens(text: &str) -> Result<Vec<Token>, SyntaxError> {
    let mut lexer = Lexer {
        text,
        at: 0,
        tokens: Vec::new(),
    };
    lexer.run()?;
    Ok(lexer.tokens)
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
    tokens: Vec<Token>,
}

impl<'t> Lexer<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn push(&mut self, position: usize, kind: TokenKind) {
        self.tokens.push(Token { position, kind });
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, SyntaxError> {
        Err(SyntaxError {
            position: self.at,
            message: message.into(),
        })
    }

    fn run(&mut self) -> Result<(), SyntaxError> {
        let mut trim_start = false;
        while !self.rest().is_empty() {
            let rest = self.rest();
            let end = rest.find(OPEN).unwrap_or(rest.len());
            let (text, action) = rest.split_at(end);
            let trims = starts_with_trim(action.strip_prefix(OPEN).unwrap_or_default());
            let mut shown = text;
            if trim_start {
                shown = shown.trim_start_matches(SPACES);
            }
            if trims {
                shown = shown.trim_end_matches(SPACES);
            }
            if !shown.is_empty() {
                self.push(self.at, TokenKind::Text(shown.to_owned()));
            }
            self.at += end;
            if action.is_empty() {
                break;
            }
            let open = self.at;
            self.at += OPEN.len() + if trims { 2 } else { 0 };
            trim_start = if self.rest().starts_with("/*") {
                self.comment()?
            } else {
                self.push(open, TokenKind::Open);
                self.action()?
            };
        }
        Ok(())
    }

    /// Skips a comment with its closing delimiter, and says whether that trims.
    fn comment(&mut self) -> Result<bool, SyntaxError> {
        let Some(end) = self.rest().find("*/") else {
            return self.fail("unclosed comment");
        };
        self.at += end + 2;
        let rest = self.rest();
        if rest.starts_with(CLOSE) {
            self.at += CLOSE.len();
            Ok(false)
        } else if let Some(length) = closing_trim(rest) {
            self.at += length;
            Ok(true)
        } else {
            self.fail("comment ends before closing delimiter")
        }
    }

    /// Reads an action up to its closing delimiter, and says whether that trims.
    fn action(&mut self) -> Result<bool, SyntaxError> {
        let mut depth = 0_usize;
        loop {
            let start = self.at;
            let rest = self.rest();
            if let Some(length) = closing_trim(rest) {
                self.end_of_action(depth)?;
                self.push(start, TokenKind::Close);
                self.at += length;
                return Ok(true);
            }
            if rest.starts_with(CLOSE) {
                self.end_of_action(depth)?;
                self.push(start, TokenKind::Close);
                self.at += CLOSE.len();
                return Ok(false);
            }
            let Some(first) = rest.chars().next() else {
                return self.fail("unclosed action");
            };
            let second = rest.chars().nth(1);
            match first {
                _ if SPACES.contains(&first) => self.spaces(),
                '|' => self.single(TokenKind::Pipe),
                ',' => self.single(TokenKind::Comma),
                '=' => self.single(TokenKind::Assign),
                ':' if second == Some('=') => {
                    self.push(start, TokenKind::Declare);
                    self.at += 2;
                }
                ':' => return self.fail("expected :="),
                '(' => {
                    depth += 1;
                    self.single(TokenKind::LeftParenthesis);
                }
                ')' if depth == 0 => return self.fail("unexpected right paren"),
                ')' => {
                    depth -= 1;
                    self.single(TokenKind::RightParenthesis);
                }
                '"' => self.quoted()?,
                '`' => self.raw()?,
                '\'' => self.character()?,
                '.' if !second.is_some_and(|c| c.is_ascii_digit()) => self.field()?,
                '$' => {
                    self.at += 1;
                    let name = self.name();
                    self.terminated(first)?;
                    self.push(start, TokenKind::Variable(format!("${name}")));
                }
                '+' | '-' | '.' | '0'..='9' => self.number()?,
                _ if first.is_alphabetic() || first == '_' => {
                    let name = self.name().to_owned();
                    self.terminated(first)?;
                    self.push(start, TokenKind::Word(name));
                }
                _ => {
                    return self.fail(format!("unexpected {first:?} in command"));
                }
            }
        }
    }

    fn end_of_action(&self, depth: usize) -> Result<(), SyntaxError> {
        if depth > 0 {
            return self.fail("unclosed left paren");
        }
        Ok(())
    }

    fn single(&mut self, kind: TokenKind) {
        self.push(self.at, kind);
        self.at += 1;
    }

    /// Passes over spaces, but leaves the one that belongs to a closing trim marker.
    fn spaces(&mut self) {
        let start = self.at;
        while closing_trim(self.rest()).is_none() && self.rest().starts_with(SPACES) {
            self.at += 1;
        }
        self.push(start, TokenKind::Space);
    }

    /// Passes over letters, digits and underscores.
    fn name(&mut self) -> &'t str {
        let rest = self.rest();
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    /// A name must be followed by something that may follow a name.
    fn terminated(&self, _first: char) -> Result<(), SyntaxError> {
        match self.rest().chars().next() {
            None | Some(' ' | '\t' | '\r' | '\n' | '.' | ',' | '|' | ':' | ')' | '(' | '=') => {
                Ok(())
            }
            _ if self.rest().starts_with(CLOSE) => Ok(()),
            Some(other) => self.fail(format!(
                "bad character U+{:04X} {other:?}",
                u32::from(other)
            )),
        }
    }

    fn field(&mut self) -> Result<(), SyntaxError> {
        let start = self.at;
        self.at += 1;
        let name = self.name().to_owned();
        if name.is_empty() {
            self.push(start, TokenKind::Dot);
            return self.terminated('.');
        }
        self.terminated('.')?;
        self.push(start, TokenKind::Field(name));
        Ok(())
    }

    fn number(&mut self) -> Result<(), SyntaxError> {
        let start = self.at;
        let rest = self.rest();
        let mut before = ' ';
        let end = rest
            .find(|c: char| {
                let part = c.is_alphanumeric()
                    || c == '_'
                    || c == '.'
                    || (matches!(c, '+' | '-') && matches!(before, ' ' | 'e' | 'E' | 'p' | 'P'));
                before = c;
                !part
            })
            .unwrap_or(rest.len());
        let written = rest.get(..end).unwrap_or_default();
        let Some(number) = number(written) else {
            return self.fail(format!("bad number syntax: {written:?}"));
        };
        self.at += end;
        self.push(start, TokenKind::Number(number, written.to_owned()));
        Ok(())
    }

    fn raw(&mut self) -> Result<(), SyntaxError> {
        let start = self.at;
        let rest = self.rest();
        let Some(end) = rest.get(1..).and_then(|rest| rest.find('`')) else {
            return self.fail("unterminated raw quoted string");
        };
        let written = rest.get(..end + 2).unwrap_or_default();
        let content = written.trim_matches('`').replace('\r', "");
        self.at += written.len();
        self.push(start, TokenKind::Quoted(content, written.to_owned()));
        Ok(())
    }

    fn quoted(&mut self) -> Result<(), SyntaxError> {
        let start = self.at;
        let (content, written) = self.escaped('"', "unterminated quoted string")?;
        self.push(start, TokenKind::Quoted(content, written));
        Ok(())
    }

    /// `'x'` is the character's number.
    fn character(&mut self) -> Result<(), SyntaxError> {
        let start = self.at;
        let (content, written) = self.escaped('\'', "unterminated character constant")?;
        let mut characters = content.chars();
        let (Some(character), None) = (characters.next(), characters.next()) else {
            return self.fail(format!("malformed character constant: {written}"));
        };
        self.push(
            start,
            TokenKind::Number(u32::from(character).into(), written),
        );
        Ok(())
    }

    /// Reads what stands between two quotes, with Go's escapes; gives it and how it was written.
    fn escaped(
        &mut self,
        quote: char,
        unterminated: &str,
    ) -> Result<(String, String), SyntaxError> {
        let rest = self.rest();
        let mut content = String::new();
        let mut characters = rest.char_indices().skip(1);
        while let Some((at, character)) = characters.next() {
            match character {
                '\n' => break,
                _ if character == quote => {
                    let end = at + 1;
                    self.at += end;
                    return Ok((content, rest.get(..end).unwrap_or_default().to_owned()));
                }
                '\\' => {
                    let Some((_, escape)) = characters.next() else {
                        break;
                    };
                    let digits = match escape {
                        'a' => Err('\u{7}'),
                        'b' => Err('\u{8}'),
                        'f' => Err('\u{c}'),
                        'n' => Err('\n'),
                        'r' => Err('\r'),
                        't' => Err('\t'),
                        'v' => Err('\u{b}'),
                        '\\' | '"' | '\'' => Err(escape),
                        'x' => Ok(2),
                        'u' => Ok(4),
                        'U' => Ok(8),
                        _ => return self.fail(format!("invalid syntax: \\{escape} in a string")),
                    };
                    match digits {
                        Err(character) => content.push(character),
                        Ok(count) => {
                            let code: String = characters
                                .by_ref()
                                .take(count)
                                .map(|(_, digit)| digit)
                                .collect();
                            match u32::from_str_radix(&code, 16).ok().and_then(char::from_u32) {
                                Some(character) if code.len() == count => content.push(character),
                                _ => {
                                    return self.fail(format!(
                                        "invalid syntax: \\{escape}{code} in a string"
                                    ));
                                }
                            }
                        }
                    }
                }
                _ => content.push(character),
            }
        }
        self.fail(unterminated)
    }
}

/// Whether an action's text begins with the marker that trims what stands before.
fn starts_with_trim(action: &str) -> bool {
    action
        .strip_prefix('-')
        .is_some_and(|rest| rest.starts_with(SPACES))
}

/// The length of a closing delimiter with the marker that trims what follows.
fn closing_trim(text: &str) -> Option<usize> {
    let rest = text.strip_prefix(SPACES)?;
    rest.starts_with("-}}").then_some(4)
}

/// A number as Go writes them: decimal, 0x, 0o, 0b, with underscores, or with a point or exponent.
fn number(written: &str) -> Option<serde_json::Number> {
    let plain = written.replace('_', "");
    let (negative, digits) = match plain.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = [("0x", 16), ("0o", 8), ("0b", 2)]
        .into_iter()
        .find_map(|(prefix, radix)| Some((radix, lower.strip_prefix(prefix)?)))
        .unwrap_or((10, &lower));
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '.') {
        return None;
    }
    if let Ok(value) = i128::from_str_radix(digits, radix) {
        let value = if negative { -value } else { value };
        return match i64::try_from(value) {
            Ok(value) => Some(value.into()),
            Err(_) => Some(u64::try_from(value).ok()?.into()),
        };
    }
    // What Rust reads as numbers besides: inf and nan.
    if radix != 10 || digits.contains(|c: char| c.is_ascii_alphabetic() && c != 'e') {
        return None;
    }
    let value: f64 = digits.parse().ok()?;
    serde_json::Number::from_f64(if negative { -value } else { value })
}
