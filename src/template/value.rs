//! Values while a template runs, and how Go prints them.

use std::borrow::Cow;
use std::fmt::Write;

use serde_json::{Number, Value};

use super::{Missing, Shape};

/// The key under which a list's row keeps its labels for `.Label "name"`. It is never shown.
pub(crate) const LABELS: &str = "\0labels";

/// A JSON value with what is known of it, or no value at all.
#[derive(Debug, Clone)]
pub(super) struct Val<'v> {
    pub(super) data: Option<Cow<'v, Value>>,
    pub(super) shape: Shape,
}

impl<'v> Val<'v> {
    pub(super) const NONE: Val<'static> = Val {
        data: None,
        shape: Shape::Any,
    };

    pub(super) fn borrowed(value: &'v Value, shape: Shape) -> Self {
        Self {
            data: Some(Cow::Borrowed(value)),
            shape,
        }
    }

    pub(super) fn owned(value: impl Into<Value>) -> Self {
        Self {
            data: Some(Cow::Owned(value.into())),
            shape: Shape::Any,
        }
    }

    pub(super) fn json(&self) -> Option<&Value> {
        self.data.as_deref()
    }

    /// A part of this value, borrowed if this is.
    pub(super) fn part(
        &self,
        shape: Shape,
        take: impl FnOnce(&Value) -> Option<&Value> + Copy,
    ) -> Option<Self> {
        let data = match self.data.as_ref()? {
            Cow::Borrowed(value) => Cow::Borrowed(take(value)?),
            Cow::Owned(value) => Cow::Owned(take(value)?.clone()),
        };
        Some(Self {
            data: Some(data),
            shape,
        })
    }

    /// Go's truth: what is not empty.
    pub(super) fn truth(&self) -> bool {
        match self.json() {
            None | Some(Value::Null) => false,
            Some(Value::Bool(value)) => *value,
            Some(Value::Number(number)) => number.as_f64() != Some(0.0),
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Object(members)) => {
                matches!(self.shape, Shape::Struct(_)) || !members.is_empty()
            }
        }
    }

    /// The field of that name.
    pub(super) fn field(&self, name: &str, missing: Missing) -> Result<Self, String> {
        let name = match self.shape {
            Shape::Struct(fields) => fields.resolve(name),
            _ => name,
        };
        let inner = self.shape.inner(name);
        let absent = || match missing {
            Missing::Nothing => Ok(Val::NONE),
            Missing::Entry => Err(format!("map has no entry for key {name:?}")),
            Missing::Field(kind) => Err(format!("can't evaluate field {name} in type {kind}")),
        };
        match self.json() {
            None => Ok(Val::NONE),
            Some(Value::Object(members)) => {
                if members.contains_key(name) {
                    return Ok(self
                        .part(inner, |value| value.get(name))
                        .unwrap_or(Val::NONE));
                }
                match self.shape {
                    Shape::Map(_) => Ok(Val::NONE),
                    Shape::Struct(fields) if fields.field(name).is_some() => Ok(Self {
                        data: Some(Cow::Owned(match inner {
                            Shape::Text => "".into(),
                            _ => Value::Null,
                        })),
                        shape: inner,
                    }),
                    _ => absent(),
                }
            }
            Some(Value::Null) => match self.shape {
                Shape::Map(_) => Ok(Val::NONE),
                _ => Err(format!("nil pointer evaluating interface {{}}.{name}")),
            },
            Some(other) => Err(format!(
                "can't evaluate field {name} in type {}",
                type_name(other)
            )),
        }
    }

    /// As `%v` prints it, `<no value>` where there is none.
    pub(super) fn text(&self) -> String {
        match self.json() {
            None => "<no value>".into(),
            Some(value) => {
                let mut text = String::new();
                print(&mut text, value, self.shape);
                text
            }
        }
    }
}

/// The Go type that JSON of this kind is decoded to.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// Prints as Go's `%v`: `[a b]`, `map[a:1 b:2]`, `{a 1}`.
pub(super) fn print(out: &mut String, value: &Value, shape: Shape) {
    match value {
        Value::Null => out.push_str(match shape {
            Shape::List(_) => "[]",
            Shape::Map(_) => "map[]",
            Shape::Text => "",
            Shape::Any | Shape::Struct(_) => "<nil>",
        }),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&print_number(number)),
        Value::String(text) => out.push_str(text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                print(out, item, shape.inner(""));
            }
            out.push(']');
        }
        Value::Object(members) => {
            if let Shape::Struct(known) = shape {
                out.push('{');
                for (index, (name, shape)) in known.fields.iter().enumerate() {
                    if index > 0 {
                        out.push(' ');
                    }
                    print(out, members.get(*name).unwrap_or(&Value::Null), *shape);
                }
                out.push('}');
                return;
            }
            out.push_str("map[");
            for (index, (name, member)) in sorted(members).into_iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                out.push_str(name);
                out.push(':');
                print(out, member, shape.inner(name));
            }
            out.push(']');
        }
    }
}

/// An object's members by key, without what is never shown.
pub(super) fn sorted(members: &serde_json::Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut sorted: Vec<_> = members
        .iter()
        .filter(|(name, _)| name.as_str() != LABELS)
        .collect();
    sorted.sort_by_key(|(name, _)| *name);
    sorted
}

/// Integers as they are, others as Go's `%v`.
pub(super) fn print_number(number: &Number) -> String {
    match number.as_f64() {
        Some(value) if number.is_f64() => print_float(value),
        _ => number.to_string(),
    }
}

/// A float's shortest digits, with an exponent below 1e-4 and from 1e21 on.
pub(super) fn print_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.into();
    }
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value == 0.0 || (-4..21).contains(&exponent) {
        return format!("{value}");
    }
    let mut text = digits.to_owned();
    let sign = if exponent < 0 { '-' } else { '+' };
    // A String takes whatever is written.
    let _ = write!(text, "e{sign}{:02}", exponent.unsigned_abs());
    text
}
