//! Go's printf, print and println for the values of a template.

use std::iter::Peekable;
use std::str::Chars;

use serde_json::{Number, Value};

use super::Shape;
use super::value::{Val, print_float, type_name};

/// The widest field; Go's own bound.
const WIDEST: usize = 1_000_000;

#[derive(Debug, Default, Clone, Copy)]
struct Flags {
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// Go's fmt.Sprint: a space between two values neither of which is a string.
pub(super) fn sprint(values: &[Val<'_>]) -> String {
    let mut text = String::new();
    let mut before_is_text = true;
    for (index, value) in values.iter().enumerate() {
        let is_text = matches!(value.json(), Some(Value::String(_)));
        if index > 0 && !is_text && !before_is_text {
            text.push(' ');
        }
        text.push_str(&argument_text(value));
        before_is_text = is_text;
    }
    text
}

/// Go's fmt.Sprintln.
pub(super) fn sprintln(values: &[Val<'_>]) -> String {
    let words: Vec<String> = values.iter().map(argument_text).collect();
    format!("{}\n", words.join(" "))
}

/// A value as an argument of a function: what is missing is nil there.
fn argument_text(value: &Val<'_>) -> String {
    match value.json() {
        None => "<nil>".into(),
        Some(_) => value.text(),
    }
}

/// Go's fmt.Sprintf.
pub(super) fn sprintf(format: &str, values: &[Val<'_>]) -> String {
    let mut out = String::new();
    let mut arguments = values.iter();
    let mut characters = format.chars().peekable();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let mut flags = Flags::default();
        while let Some(&flag) = characters.peek() {
            match flag {
                '-' => flags.minus = true,
                '+' => flags.plus = true,
                '#' => flags.sharp = true,
                ' ' => flags.space = true,
                '0' => flags.zero = true,
                _ => break,
            }
            characters.next();
        }
        match size(&mut characters, &mut arguments) {
            Ok(width) => {
                flags.minus |= width.is_some_and(|width| width < 0);
                flags.width = width.map(|width| bounded(width.unsigned_abs()));
            }
            Err(Bad) => out.push_str("%!(BADWIDTH)"),
        }
        if characters.next_if_eq(&'.').is_some() {
            match size(&mut characters, &mut arguments) {
                Ok(precision) => {
                    flags.precision = Some(
                        precision
                            .and_then(|precision| u64::try_from(precision).ok())
                            .map_or(0, bounded),
                    );
                }
                Err(Bad) => out.push_str("%!(BADPREC)"),
            }
        }
        match characters.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some(verb) => match arguments.next() {
                None => {
                    out.push_str("%!");
                    out.push(verb);
                    out.push_str("(MISSING)");
                }
                Some(value) => {
                    let null = Value::Null;
                    one(
                        &mut out,
                        verb,
                        flags,
                        value.json().unwrap_or(&null),
                        value.shape,
                    );
                }
            },
        }
    }
    let extra: Vec<String> = arguments
        .map(|value| match value.json() {
            None | Some(Value::Null) => "<nil>".into(),
            Some(json) => format!("{}={}", type_name(json), value.text()),
        })
        .collect();
    if !extra.is_empty() {
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    out
}

/// A width or precision that is no number.
struct Bad;

/// Reads digits or `*`.
fn size<'a, 'v: 'a>(
    characters: &mut Peekable<Chars<'_>>,
    arguments: &mut impl Iterator<Item = &'a Val<'v>>,
) -> Result<Option<i64>, Bad> {
    if characters.next_if_eq(&'*').is_some() {
        return arguments
            .next()
            .and_then(|value| value.json()?.as_i64())
            .map(Some)
            .ok_or(Bad);
    }
    let mut number = None;
    while let Some(digit) = characters.peek().and_then(|c| c.to_digit(10)) {
        characters.next();
        number = Some(
            number
                .unwrap_or(0_i64)
                .saturating_mul(10)
                .saturating_add(i64::from(digit)),
        );
    }
    Ok(number)
}

fn bounded(size: u64) -> usize {
    usize::try_from(size).map_or(WIDEST, |size| size.min(WIDEST))
}

/// Prints one value by one verb.
fn one(out: &mut String, verb: char, flags: Flags, value: &Value, shape: Shape) {
    match value {
        Value::Array(items) if verb != 'T' && verb != 'v' => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                one(out, verb, flags, item, shape.inner(""));
            }
            out.push(']');
            return;
        }
        Value::Object(members) if verb != 'T' && verb != 'v' => {
            out.push_str("map[");
            for (index, (name, member)) in super::value::sorted(members).into_iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                one(out, verb, flags, &Value::String(name.clone()), Shape::Any);
                out.push(':');
                one(out, verb, flags, member, shape.inner(name));
            }
            out.push(']');
            return;
        }
        _ => {}
    }
    match (verb, value) {
        ('T', _) => pad(out, type_name(value).to_owned(), flags, false),
        ('v', Value::Number(number)) => {
            self::number(out, if number.is_f64() { 'g' } else { 'd' }, flags, number)
        }
        ('v', Value::String(text)) if flags.sharp => pad(out, quote(text), flags, false),
        ('v', _) => {
            let mut text = String::new();
            super::value::print(&mut text, value, shape);
            pad(out, text, flags, false);
        }
        ('t', Value::Bool(value)) => pad(out, value.to_string(), flags, false),
        ('s', Value::String(text)) => pad(out, cut(text, flags), flags, false),
        ('q', Value::String(text)) => pad(out, quote(&cut(text, flags)), flags, false),
        ('x' | 'X', Value::String(text)) => {
            let hex: String = text
                .bytes()
                .map(|byte| {
                    if verb == 'x' {
                        format!("{byte:02x}")
                    } else {
                        format!("{byte:02X}")
                    }
                })
                .collect();
            pad(out, hex, flags, false);
        }
        (_, Value::Number(number)) if number_verb(verb, number) => {
            self::number(out, verb, flags, number)
        }
        (_, Value::Null) => {
            out.push_str("%!");
            out.push(verb);
            out.push_str("(<nil>)");
        }
        _ => {
            let mut text = String::new();
            super::value::print(&mut text, value, shape);
            out.push_str(&format!("%!{verb}({}={text})", type_name(value)));
        }
    }
}

fn number_verb(verb: char, number: &Number) -> bool {
    if number.is_f64() {
        matches!(verb, 'e' | 'E' | 'f' | 'F' | 'g' | 'G')
    } else {
        matches!(verb, 'd' | 'b' | 'o' | 'O' | 'x' | 'X' | 'c' | 'q' | 'U')
    }
}

fn number(out: &mut String, verb: char, flags: Flags, number: &Number) {
    let value = number.as_f64().unwrap_or_default();
    let (negative, digits) = match number.as_i128() {
        Some(integer) if !number.is_f64() => {
            let size = integer.unsigned_abs();
            let digits = match verb {
                'b' => format!("{size:b}"),
                'o' => format!("{}{size:o}", if flags.sharp { "0" } else { "" }),
                'O' => format!("0o{size:o}"),
                'x' => format!("{}{size:x}", if flags.sharp { "0x" } else { "" }),
                'X' => format!("{}{size:X}", if flags.sharp { "0X" } else { "" }),
                'U' => format!("U+{size:04X}"),
                'c' | 'q' => {
                    let character = u32::try_from(size)
                        .ok()
                        .and_then(char::from_u32)
                        .unwrap_or(char::REPLACEMENT_CHARACTER);
                    let text = if verb == 'c' {
                        character.to_string()
                    } else {
                        format!("{character:?}")
                    };
                    return pad(out, text, flags, false);
                }
                _ => match flags.precision {
                    Some(precision) => format!("{size:0precision$}"),
                    None => size.to_string(),
                },
            };
            (integer < 0, digits)
        }
        _ => {
            let size = value.abs();
            let precision = flags.precision.unwrap_or(6);
            let digits = match verb {
                'f' | 'F' => format!("{size:.precision$}"),
                'e' | 'E' => exponent(&format!("{size:.precision$e}")),
                _ => print_float(size),
            };
            let digits = if matches!(verb, 'E' | 'G') {
                digits.to_uppercase()
            } else {
                digits
            };
            (value.is_sign_negative(), digits)
        }
    };
    let sign = match (negative, flags.plus, flags.space) {
        (true, ..) => "-",
        (_, true, _) => "+",
        (.., true) => " ",
        _ => "",
    };
    let width = flags.width.unwrap_or(0);
    let used = sign.len() + digits.len();
    if flags.zero && !flags.minus && used < width {
        out.push_str(sign);
        out.extend(std::iter::repeat_n('0', width - used));
        out.push_str(&digits);
    } else {
        pad(out, format!("{sign}{digits}"), flags, true);
    }
}

/// Go writes at least two digits of an exponent, with its sign.
fn exponent(text: &str) -> String {
    match text.split_once('e') {
        Some((digits, exponent)) => match exponent.strip_prefix('-') {
            Some(size) => format!("{digits}e-{size:0>2}"),
            None => format!("{digits}e+{exponent:0>2}"),
        },
        None => text.to_owned(),
    }
}

fn cut(text: &str, flags: Flags) -> String {
    match flags.precision {
        Some(precision) => text.chars().take(precision).collect(),
        None => text.to_owned(),
    }
}

/// Fills up to the width: with zeros on the left where asked for, as Go does with text too.
fn pad(out: &mut String, text: String, flags: Flags, number: bool) {
    let missing = flags
        .width
        .unwrap_or(0)
        .saturating_sub(text.chars().count());
    let filler = if flags.zero && !flags.minus && !number {
        '0'
    } else {
        ' '
    };
    let filling = std::iter::repeat_n(filler, missing);
    if flags.minus {
        out.push_str(&text);
        out.extend(filling);
    } else {
        out.extend(filling);
        out.push_str(&text);
    }
}

/// Go's strconv.Quote.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            _ if character.is_control() => {
                let code = u32::from(character);
                quoted.push_str(&if code < 0x80 {
                    format!("\\x{code:02x}")
                } else {
                    format!("\\u{code:04x}")
                });
            }
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}
