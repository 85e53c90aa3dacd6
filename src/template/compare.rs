//! eq, ne, lt, le, gt, ge by the rules of text/template.

use std::cmp::Ordering;

use serde_json::{Number, Value};

use super::value::Val;

/// Why two values cannot be compared.
const INCOMPATIBLE: &str = "incompatible types for comparison";
const NOT_BASIC: &str = "invalid type for comparison";

/// Whether two values are equal.
pub(super) fn equal(left: &Val<'_>, right: &Val<'_>) -> Result<bool, String> {
    let (left, right) = match (left.json(), right.json()) {
        (Some(left), Some(right)) if !left.is_null() && !right.is_null() => (left, right),
        // Nothing and null are equal to each other only.
        (left, right) => {
            return Ok(left.is_none_or(Value::is_null) && right.is_none_or(Value::is_null));
        }
    };
    match (left, right) {
        (Value::Bool(left), Value::Bool(right)) => Ok(left == right),
        (Value::String(left), Value::String(right)) => Ok(left == right),
        (Value::Number(left), Value::Number(right)) => {
            Ok(order_numbers(left, right)? == Ordering::Equal)
        }
        (Value::Array(_) | Value::Object(_), _) | (_, Value::Array(_) | Value::Object(_)) => {
            Err("non-comparable type: a list or map".into())
        }
        _ => Err(INCOMPATIBLE.into()),
    }
}

/// How two values are ordered.
pub(super) fn order(left: &Val<'_>, right: &Val<'_>) -> Result<Ordering, String> {
    match (left.json(), right.json()) {
        (Some(Value::String(left)), Some(Value::String(right))) => Ok(left.cmp(right)),
        (Some(Value::Number(left)), Some(Value::Number(right))) => order_numbers(left, right),
        (Some(Value::String(_) | Value::Number(_)), Some(Value::String(_) | Value::Number(_))) => {
            Err(INCOMPATIBLE.into())
        }
        _ => Err(NOT_BASIC.into()),
    }
}

fn order_numbers(left: &Number, right: &Number) -> Result<Ordering, String> {
    match (left.is_f64(), right.is_f64()) {
        (true, true) => left
            .as_f64()
            .partial_cmp(&right.as_f64())
            .ok_or_else(|| INCOMPATIBLE.into()),
        (false, false) => Ok(left.as_i128().cmp(&right.as_i128())),
        _ => Err(INCOMPATIBLE.into()),
    }
}
