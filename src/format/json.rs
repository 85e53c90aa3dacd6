//! JSON with the members of structs in Go's order, as docker's `inspect` shows them.

use serde_json::Value;

use crate::template::{LABELS, Shape};

/// Writes a value: on one line, or with each member on a line and four spaces a level.
pub(crate) fn write(value: &Value, shape: Shape, pretty: bool) -> String {
    let mut out = String::new();
    item(&mut out, value, shape, pretty.then_some(0));
    out
}

fn item(out: &mut String, value: &Value, shape: Shape, level: Option<usize>) {
    match value {
        Value::Array(items) if !items.is_empty() => {
            list(out, ['[', ']'], level, items, |out, member, level| {
                item(out, member, shape.inner(""), level);
            });
        }
        Value::Object(members) => {
            let members = ordered(members, shape);
            if members.is_empty() {
                out.push_str("{}");
                return;
            }
            list(
                out,
                ['{', '}'],
                level,
                &members,
                |out, (name, member), level| {
                    out.push_str(&Value::from(name.as_str()).to_string());
                    out.push_str(if level.is_some() { ": " } else { ":" });
                    item(out, member, shape.inner(name), level);
                },
            );
        }
        _ => out.push_str(
            &value
                .to_string()
                .replace('\u{2028}', "\\u2028")
                .replace('\u{2029}', "\\u2029"),
        ),
    }
}

fn list<T>(
    out: &mut String,
    [open, close]: [char; 2],
    level: Option<usize>,
    items: &[T],
    mut write: impl FnMut(&mut String, &T, Option<usize>),
) {
    let deeper = level.map(|level| level + 1);
    let line = |out: &mut String, level: Option<usize>| {
        if let Some(level) = level {
            out.push('\n');
            out.extend(std::iter::repeat_n("    ", level));
        }
    };
    out.push(open);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        line(out, deeper);
        write(out, item, deeper);
    }
    line(out, level);
    out.push(close);
}

/// The members that the struct has, in its order, then others by name.
fn ordered(members: &serde_json::Map<String, Value>, shape: Shape) -> Vec<(&String, &Value)> {
    let place = |name: &str| match shape {
        Shape::Struct(known) => known
            .fields
            .iter()
            .position(|(field, _)| *field == name)
            .unwrap_or(usize::MAX),
        _ => 0,
    };
    let mut ordered: Vec<(&String, &Value)> = members
        .iter()
        .filter(|(name, _)| name.as_str() != LABELS)
        .collect();
    ordered.sort_by(|(left, _), (right, _)| (place(left), left).cmp(&(place(right), right)));
    ordered
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::template::Struct;

    #[test]
    fn members_stand_in_the_structs_order_and_others_follow_by_name() {
        static INNER: Struct = Struct::new(&[("Z", Shape::Any), ("A", Shape::Any)]);
        static OUTER: Struct =
            Struct::new(&[("Second", Shape::Any), ("First", Shape::Struct(&INNER))]);
        let value = json!({"First": {"A": 1, "Z": [1, {}]}, "Second": [], "b": "x\n<", "a": {}});
        assert_eq!(
            write(&value, Shape::Struct(&OUTER), false),
            r#"{"Second":[],"First":{"Z":[1,{}],"A":1},"a":{},"b":"x\n<"}"#
        );
        assert_eq!(
            write(&json!([{"b": [1], "a": {}}]), Shape::Any, true),
            "[\n    {\n        \"a\": {},\n        \"b\": [\n            1\n        ]\n    }\n]"
        );
    }
}
