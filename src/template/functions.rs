//! The functions that a template can call: text/template's and docker's.

use std::cmp::Ordering;

use serde_json::Value;

use super::value::{Val, type_name};
use super::{compare, printf};
use crate::format::json;

/// Every function, with the least and the most arguments it takes.
const FUNCTIONS: [(&str, usize, usize); 25] = [
    ("and", 1, usize::MAX),
    ("eq", 2, usize::MAX),
    ("ge", 2, 2),
    ("gt", 2, 2),
    ("index", 1, usize::MAX),
    ("join", 2, 2),
    ("json", 1, 1),
    ("le", 2, 2),
    ("len", 1, 1),
    ("lower", 1, 1),
    ("lt", 2, 2),
    ("ne", 2, 2),
    ("not", 1, 1),
    ("or", 1, usize::MAX),
    ("pad", 3, 3),
    ("print", 0, usize::MAX),
    ("printf", 1, usize::MAX),
    ("println", 0, usize::MAX),
    ("slice", 1, 4),
    ("split", 2, 2),
    ("title", 1, 1),
    ("truncate", 2, 2),
    ("upper", 1, 1),
    ("html", 0, usize::MAX),
    ("urlquery", 0, usize::MAX),
];

/// The most spaces that `pad` adds on a side.
const WIDEST: i64 = 1_000_000;

pub(super) fn is_known(name: &str) -> bool {
    FUNCTIONS.iter().any(|(known, ..)| *known == name)
}

/// Calls a function. The error is the whole message.
pub(super) fn call<'v>(name: &str, values: &[Val<'v>], titles: bool) -> Result<Val<'v>, String> {
    let (least, most) = FUNCTIONS
        .iter()
        .find(|(known, ..)| *known == name)
        .map_or((0, 0), |(_, least, most)| (*least, *most));
    let count = values.len();
    if count < least || count > most {
        let wanted = if most == usize::MAX {
            format!("at least {least}")
        } else {
            most.to_string()
        };
        return Err(format!(
            "wrong number of args for {name}: want {wanted} got {count}"
        ));
    }
    let value = |index: usize| values.get(index).cloned().unwrap_or(Val::NONE);
    let calling = |message: String| format!("error calling {name}: {message}");
    if titles
        && matches!(
            name,
            "json" | "split" | "join" | "title" | "lower" | "upper" | "truncate"
        )
    {
        return Ok(Val::owned(text(&value(0))?));
    }
    let ordered = |wanted: fn(Ordering) -> bool| {
        compare::order(&value(0), &value(1))
            .map(|order| Val::owned(wanted(order)))
            .map_err(calling)
    };
    Ok(match name {
        // Those two end early in the interpreter; this is what they come to.
        "and" => decisive(values, false),
        "or" => decisive(values, true),
        "not" => Val::owned(!value(0).truth()),
        "eq" => {
            let mut equal = false;
            for other in values.iter().skip(1) {
                equal |= compare::equal(&value(0), other).map_err(calling)?;
            }
            Val::owned(equal)
        }
        "ne" => Val::owned(!compare::equal(&value(0), &value(1)).map_err(calling)?),
        "lt" => ordered(Ordering::is_lt)?,
        "le" => ordered(Ordering::is_le)?,
        "gt" => ordered(Ordering::is_gt)?,
        "ge" => ordered(Ordering::is_ge)?,
        "len" => Val::owned(length(&value(0)).map_err(calling)?),
        "index" => values
            .iter()
            .skip(1)
            .try_fold(value(0), |item, key| index(&item, key))
            .map_err(calling)?,
        "slice" => slice(&value(0), values.get(1..).unwrap_or_default()).map_err(calling)?,
        "print" => Val::owned(printf::sprint(values)),
        "println" => Val::owned(printf::sprintln(values)),
        "printf" => Val::owned(printf::sprintf(
            &text(&value(0))?,
            values.get(1..).unwrap_or_default(),
        )),
        "html" => Val::owned(html(&printf::sprint(values))),
        "urlquery" => Val::owned(url_query(&printf::sprint(values))),
        "json" => Val::owned(value(0).json().map_or_else(
            || "null".into(),
            |json| json::write(json, value(0).shape, false),
        )),
        "split" => Val::owned(split(&text(&value(0))?, &text(&value(1))?)),
        "join" => Val::owned(join(&value(0), &text(&value(1))?)?),
        "title" => Val::owned(title(&text(&value(0))?)),
        "lower" => Val::owned(text(&value(0))?.to_lowercase()),
        "upper" => Val::owned(text(&value(0))?.to_uppercase()),
        "pad" => {
            let (before, after) = (integer(&value(1))?, integer(&value(2))?);
            if before < 0 || after < 0 {
                return Err(calling("strings: negative Repeat count".into()));
            }
            let source = text(&value(0))?;
            let spaces = |count: i64| " ".repeat(usize::try_from(count.min(WIDEST)).unwrap_or(0));
            Val::owned(if source.is_empty() {
                source
            } else {
                format!("{}{source}{}", spaces(before), spaces(after))
            })
        }
        "truncate" => {
            let source = text(&value(0))?;
            let length = integer(&value(1))?;
            let Ok(length) = usize::try_from(length) else {
                return Err(calling(format!("slice bounds out of range [:{length}]")));
            };
            Val::owned(source.chars().take(length).collect::<String>())
        }
        _ => return Err(format!("function {name:?} not defined")),
    })
}

fn decisive<'v>(values: &[Val<'v>], truth: bool) -> Val<'v> {
    values
        .iter()
        .find(|value| value.truth() == truth)
        .or(values.last())
        .cloned()
        .unwrap_or(Val::NONE)
}

fn wrong(value: &Val<'_>, expected: &str) -> String {
    match value.json() {
        None => format!("invalid value; expected {expected}"),
        Some(json) => format!(
            "wrong type for value; expected {expected}; got {}",
            type_name(json)
        ),
    }
}

fn text(value: &Val<'_>) -> Result<String, String> {
    match value.json() {
        Some(Value::String(text)) => Ok(text.clone()),
        _ => Err(wrong(value, "string")),
    }
}

fn integer(value: &Val<'_>) -> Result<i64, String> {
    value
        .json()
        .and_then(Value::as_i64)
        .ok_or_else(|| wrong(value, "int"))
}

fn length(value: &Val<'_>) -> Result<usize, String> {
    match value.json() {
        Some(Value::String(text)) => Ok(text.len()),
        Some(Value::Array(items)) => Ok(items.len()),
        Some(Value::Object(members)) => Ok(members.len()),
        Some(Value::Null) if !matches!(value.shape, super::Shape::Any) => Ok(0),
        Some(other) => Err(format!("len of type {}", type_name(other))),
        None => Err("len of nil pointer".into()),
    }
}

/// One step of `index`: what is missing in a map of strings is empty, elsewhere no value.
fn index<'v>(item: &Val<'v>, key: &Val<'_>) -> Result<Val<'v>, String> {
    use super::Shape;
    let position = |length: usize| {
        let position = key
            .json()
            .and_then(Value::as_i64)
            .ok_or_else(|| match key.json() {
                None | Some(Value::Null) => "cannot index slice/array with nil".to_owned(),
                Some(other) => format!("cannot index slice/array with type {}", type_name(other)),
            })?;
        usize::try_from(position)
            .ok()
            .filter(|&at| at < length)
            .ok_or_else(|| format!("index out of range: {position}"))
    };
    match item.json() {
        None => Err("index of untyped nil".into()),
        Some(Value::Null) if matches!(item.shape, Shape::List(_)) => position(0).map(|_| Val::NONE),
        Some(Value::Null) if matches!(item.shape, Shape::Map(_)) => Ok(absent(item.shape)),
        Some(Value::Array(items)) => {
            let at = position(items.len())?;
            Ok(item
                .part(item.shape.inner(""), |value| value.get(at))
                .unwrap_or(Val::NONE))
        }
        Some(Value::String(text)) => {
            let at = position(text.len())?;
            Ok(text
                .as_bytes()
                .get(at)
                .map_or(Val::NONE, |&byte| Val::owned(u64::from(byte))))
        }
        Some(Value::Object(_)) => {
            let name = key.json().and_then(Value::as_str).ok_or_else(|| {
                format!(
                    "value has type {}; should be string",
                    key.json().map_or("<nil>", type_name)
                )
            })?;
            Ok(item
                .part(item.shape.inner(name), |value| value.get(name))
                .unwrap_or_else(|| absent(item.shape)))
        }
        Some(Value::Null) => Err("index of untyped nil".into()),
        Some(other) => Err(format!("can't index item of type {}", type_name(other))),
    }
}

/// Go's zero value for what a map does not have.
fn absent(shape: super::Shape) -> Val<'static> {
    use super::Shape;
    match shape {
        Shape::Map(Shape::Any) => Val::owned(""),
        Shape::Map(inner) => Val {
            data: Some(std::borrow::Cow::Owned(Value::Null)),
            shape: *inner,
        },
        _ => Val::NONE,
    }
}

fn slice<'v>(item: &Val<'v>, keys: &[Val<'_>]) -> Result<Val<'v>, String> {
    let total = match item.json() {
        Some(Value::String(_)) if keys.len() == 3 => {
            return Err("cannot 3-index slice a string".into());
        }
        Some(Value::String(text)) => text.len(),
        Some(Value::Array(items)) => items.len(),
        None | Some(Value::Null) => return Err("slice of untyped nil".into()),
        Some(other) => return Err(format!("can't slice item of type {}", type_name(other))),
    };
    let mut bounds = Vec::new();
    for key in keys {
        let bound = integer(key)?;
        let bound = usize::try_from(bound)
            .ok()
            .filter(|&bound| bound <= total)
            .ok_or_else(|| format!("index out of range: {bound}"))?;
        bounds.push(bound);
    }
    let start = bounds.first().copied().unwrap_or(0);
    let end = bounds.get(1).copied().unwrap_or(total);
    if start > end {
        return Err(format!("invalid slice index: {start} > {end}"));
    }
    Ok(match item.json() {
        Some(Value::Array(items)) => Val {
            data: Some(std::borrow::Cow::Owned(Value::Array(
                items.get(start..end).unwrap_or_default().to_vec(),
            ))),
            shape: item.shape,
        },
        Some(Value::String(text)) => Val::owned(
            String::from_utf8_lossy(text.as_bytes().get(start..end).unwrap_or_default())
                .into_owned(),
        ),
        _ => Val::NONE,
    })
}

fn split(source: &str, separator: &str) -> Vec<String> {
    if separator.is_empty() {
        return source.chars().map(String::from).collect();
    }
    source.split(separator).map(str::to_owned).collect()
}

fn join(list: &Val<'_>, separator: &str) -> Result<String, String> {
    let items = match list.json() {
        Some(Value::Array(items)) => items.as_slice(),
        Some(Value::Null) => &[],
        _ => return Err(wrong(list, "[]string")),
    };
    let words: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
    words
        .map(|words| words.join(separator))
        .ok_or_else(|| wrong(list, "[]string"))
}

/// The first letter of each word made large.
fn title(source: &str) -> String {
    let mut before = ' ';
    source
        .chars()
        .map(|character| {
            let starts = !(before.is_alphanumeric() || before == '_' || before == '\'');
            before = character;
            if starts {
                character.to_uppercase().next().unwrap_or(character)
            } else {
                character
            }
        })
        .collect()
}

fn html(source: &str) -> String {
    let mut escaped = String::new();
    for character in source.chars() {
        match character {
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\0' => escaped.push('\u{fffd}'),
            _ => escaped.push(character),
        }
    }
    escaped
}

fn url_query(source: &str) -> String {
    let mut escaped = String::new();
    for byte in source.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte));
            }
            b' ' => escaped.push('+'),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}
