//! Lines of JSON.

use alloc::format;
use alloc::string::String;

/// An object that is being written.
pub(crate) struct Object(String);

impl Object {
    pub(crate) fn new() -> Self {
        Self(String::from("{"))
    }

    pub(crate) fn number(self, name: &str, value: impl Into<i128>) -> Self {
        let value = value.into();
        self.raw(name, &format!("{value}"))
    }

    /// Bytes that are no UTF-8 become U+FFFD.
    pub(crate) fn text(self, name: &str, value: &[u8]) -> Self {
        let mut quoted = String::from("\"");
        for c in String::from_utf8_lossy(value).chars() {
            match c {
                '"' | '\\' => {
                    quoted.push('\\');
                    quoted.push(c);
                }
                c if (c as u32) < 0x20 => quoted.push_str(&format!("\\u{:04x}", c as u32)),
                c => quoted.push(c),
            }
        }
        quoted.push('"');
        self.raw(name, &quoted)
    }

    fn raw(mut self, name: &str, value: &str) -> Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&format!("\"{name}\":{value}"));
        self
    }

    /// The whole line.
    pub(crate) fn line(mut self) -> String {
        self.0.push_str("}\n");
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_json_cannot_hold_is_escaped() {
        let line = Object::new()
            .text("a", b"x\"\\\n\xff")
            .number("b", -3)
            .line();
        assert_eq!(line, "{\"a\":\"x\\\"\\\\\\u000a\u{fffd}\",\"b\":-3}\n");
    }
}
