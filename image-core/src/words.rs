//! Words with quotes, backslashes and variables, as Dockerfile instructions hold them.

use std::iter::Peekable;
use std::str::Chars;

/// A word whose variables have not been put in yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Variable {
        name: String,
        otherwise: Option<Otherwise>,
    },
}

/// What follows a variable's name inside braces.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Otherwise {
    /// `:-` and `-` stand in for a missing value, `:+` and `+` replace one that is there.
    replaces_present: bool,
    /// With a colon, an empty value counts as missing.
    empty_is_missing: bool,
    word: Word,
}

impl From<&str> for Word {
    /// The text as it is, without quotes or variables.
    fn from(text: &str) -> Self {
        let mut word = Self::default();
        text.chars().for_each(|c| word.push(c));
        word
    }
}

impl Word {
    /// Reads one word, in which `escape` takes the meaning from the character after it; the whole text belongs to it.
    pub(crate) fn parse(text: &str, escape: char) -> Result<Self, String> {
        let mut characters = Source {
            characters: text.chars().peekable(),
            escape,
        };
        read_word(&mut characters, None, 0)
    }

    /// The word with its variables put in; what `lookup` does not know is empty.
    #[must_use]
    pub fn expand(&self, lookup: &dyn Fn(&str) -> Option<String>) -> String {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(literal) => text.push_str(literal),
                Piece::Variable { name, otherwise } => {
                    let value = lookup(name);
                    let Some(otherwise) = otherwise else {
                        text.push_str(&value.unwrap_or_default());
                        continue;
                    };
                    let present = value
                        .as_ref()
                        .is_some_and(|v| !(otherwise.empty_is_missing && v.is_empty()));
                    if present == otherwise.replaces_present {
                        text.push_str(&otherwise.word.expand(lookup));
                    } else if present {
                        text.push_str(&value.unwrap_or_default());
                    }
                }
            }
        }
        text
    }

    fn push(&mut self, character: char) {
        match self.0.last_mut() {
            Some(Piece::Text(text)) => text.push(character),
            _ => self.0.push(Piece::Text(character.to_string())),
        }
    }
}

/// The characters of a text, and the one that escapes others: a backslash unless a Dockerfile says that it is another.
struct Source<'t> {
    characters: Peekable<Chars<'t>>,
    escape: char,
}

impl Source<'_> {
    fn next(&mut self) -> Option<char> {
        self.characters.next()
    }

    fn next_if(&mut self, holds: impl FnOnce(&char) -> bool) -> Option<char> {
        self.characters.next_if(holds)
    }

    fn next_is(&mut self, wanted: char) -> bool {
        self.characters.next_if_eq(&wanted).is_some()
    }
}

/// Splits at white space outside quotes. Quotes and escapes stay for [`Word::parse`].
pub(crate) fn split(text: &str, escape: char) -> Vec<&str> {
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        if quote.is_none() && c.is_whitespace() {
            if let Some(start) = start.take() {
                words.push(&text[start..at]);
            }
            continue;
        }
        start.get_or_insert(at);
        match (c, quote) {
            (c, None | Some('"')) if c == escape => {
                characters.next();
            }
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            _ => {}
        }
    }
    if let Some(start) = start {
        words.push(&text[start..]);
    }
    words
}

/// How deep `${a:-${b:-…}}` may go.
const DEEPEST: usize = 16;

fn read_word(characters: &mut Source<'_>, end: Option<char>, depth: usize) -> Result<Word, String> {
    if depth > DEEPEST {
        return Err(format!("variables are nested more than {DEEPEST} deep"));
    }
    let mut word = Word::default();
    let escape = characters.escape;
    while let Some(c) = characters.next() {
        match c {
            c if Some(c) == end => return Ok(word),
            c if c == escape => word.push(characters.next().unwrap_or(c)),
            '\'' => read_quoted(
                characters,
                '\'',
                |_, c, word| {
                    word.push(c);
                    Ok(())
                },
                &mut word,
            )?,
            '"' => read_quoted(
                characters,
                '"',
                |characters, c, word| match c {
                    c if c == escape => {
                        // Inside double quotes it only escapes what would mean something there.
                        let next = characters.next_if(|c| matches!(c, '"' | '$') || *c == escape);
                        word.push(next.unwrap_or(c));
                        Ok(())
                    }
                    '$' => read_variable(characters, word, depth),
                    c => {
                        word.push(c);
                        Ok(())
                    }
                },
                &mut word,
            )?,
            '$' => read_variable(characters, &mut word, depth)?,
            c => word.push(c),
        }
    }
    match end {
        Some(end) => Err(format!("a variable's closing '{end}' is missing")),
        None => {
            if word.0.is_empty() {
                word.0.push(Piece::Text(String::new()));
            }
            Ok(word)
        }
    }
}

fn read_quoted(
    characters: &mut Source<'_>,
    quote: char,
    mut inside: impl FnMut(&mut Source<'_>, char, &mut Word) -> Result<(), String>,
    word: &mut Word,
) -> Result<(), String> {
    while let Some(c) = characters.next() {
        if c == quote {
            return Ok(());
        }
        inside(characters, c, word)?;
    }
    Err(format!("a closing {quote} is missing"))
}

fn read_variable(characters: &mut Source<'_>, word: &mut Word, depth: usize) -> Result<(), String> {
    let braced = characters.next_is('{');
    let mut name = String::new();
    while let Some(c) = characters.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
        name.push(c);
    }
    if !braced {
        if name.is_empty() {
            word.push('$');
        } else {
            word.0.push(Piece::Variable {
                name,
                otherwise: None,
            });
        }
        return Ok(());
    }
    if name.is_empty() {
        return Err("a variable in braces has no name".to_owned());
    }
    let empty_is_missing = characters.next_is(':');
    let otherwise = match characters.next() {
        Some('}') if !empty_is_missing => None,
        Some(operator @ ('-' | '+')) => Some(Otherwise {
            replaces_present: operator == '+',
            empty_is_missing,
            word: read_word(characters, Some('}'), depth + 1)?,
        }),
        Some(_) => {
            return Err(format!(
                "after ${{{name} only }}, :-, -, :+ and + are supported"
            ));
        }
        None => return Err("a variable's closing '}' is missing".to_owned()),
    };
    word.0.push(Piece::Variable { name, otherwise });
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expanded(text: &str) -> String {
        Word::parse(text, '\\').unwrap().expand(&|name| match name {
            "A" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        })
    }

    #[test]
    fn quotes_are_taken_off_and_single_ones_keep_dollars() {
        assert_eq!(expanded(r#"a" b "c"#), "a b c");
        assert_eq!(expanded("'$A'"), "$A");
        assert_eq!(expanded(r#""$A""#), "value");
    }

    #[test]
    fn backslashes_escape_as_in_a_dockerfile() {
        assert_eq!(expanded(r"a\ b\$A"), "a b$A");
        assert_eq!(expanded(r#""a\b\"\$A""#), r#"a\b"$A"#);
        assert_eq!(expanded(r"end\"), r"end\");
    }

    #[test]
    fn another_escape_leaves_backslashes_alone() {
        let word = Word::parse(r"C:\dir`$x", '`').unwrap();
        assert_eq!(word.expand(&|_| None), r"C:\dir$x");
    }

    #[test]
    fn variables_take_their_values_and_substitutes() {
        assert_eq!(expanded("x${A}y$A:$NONE!"), "xvalueyvalue:!");
        assert_eq!(
            expanded("${NONE:-other}${EMPTY:-also}${EMPTY-not}"),
            "otheralso"
        );
        assert_eq!(expanded("${A:+yes}${EMPTY:+no}${EMPTY+set}"), "yesset");
        assert_eq!(expanded("${NONE:-${A}}"), "value");
        assert_eq!(expanded("5$ $"), "5$ $");
    }

    #[test]
    fn what_is_left_open_is_refused() {
        for bad in ["'a", "\"a", "${A", "${A:-b", "${}", "${A:?x}", "${A:"] {
            assert!(Word::parse(bad, '\\').is_err(), "{bad}");
        }
        assert!(Word::parse(&"${A:-".repeat(100), '\\').is_err());
    }

    #[test]
    fn splitting_respects_quotes_and_escapes() {
        assert_eq!(
            split(r#" a "b c" d\ e 'f "g' "#, '\\'),
            ["a", "\"b c\"", r"d\ e", "'f \"g'"]
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = Word::parse(&text, '\\');
            let _ = split(&text, '`');
        }

        #[test]
        fn literal_words_expand_to_themselves(text in ".{0,40}") {
            prop_assert_eq!(Word::from(text.as_str()).expand(&|_| None), text);
        }
    }
}
