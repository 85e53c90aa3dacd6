//! Logical lines: directives read, comments left out, continued lines joined.

use super::parse::refuse;
use crate::Result;

/// Bytes of a Dockerfile. The longest in the field have some tens of KiB.
const LONGEST: usize = 1 << 20;

/// One instruction's text and the line that it begins on, counted from 1.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) number: usize,
    pub(super) text: String,
}

/// The escape character and the lines.
pub(super) fn split(bytes: &[u8]) -> Result<(char, Vec<Line>)> {
    if bytes.len() > LONGEST {
        return Err(refuse(
            1,
            format!("it is longer than the limit of {LONGEST} bytes"),
        ));
    }
    // Some editors put a byte order mark before everything.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let before = &bytes[..e.valid_up_to()];
        let line = before.iter().filter(|c| **c == b'\n').count() + 1;
        refuse(line, "it is not UTF-8 text")
    })?;
    if let Some(at) = text.find('\0') {
        let line = text[..at].matches('\n').count() + 1;
        return Err(refuse(line, "it contains a NUL character"));
    }
    let raw: Vec<&str> = text
        .split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .collect();
    let escape = directives(&raw)?;

    let mut lines = Vec::new();
    let mut open: Option<Line> = None;
    for (index, raw) in raw.iter().enumerate() {
        let trimmed = raw.trim_start();
        // Comments and empty lines may stand in the middle of an instruction.
        if trimmed.starts_with('#') || trimmed.is_empty() {
            continue;
        }
        let (part, goes_on) = continued(raw, escape);
        let line = open.get_or_insert_with(|| Line {
            number: index + 1,
            text: String::new(),
        });
        line.text.push_str(if line.text.is_empty() {
            part.trim_start()
        } else {
            part
        });
        if !goes_on && let Some(mut done) = open.take() {
            done.text.truncate(done.text.trim_end().len());
            lines.push(done);
        }
    }
    if let Some(mut last) = open {
        last.text.truncate(last.text.trim_end().len());
        lines.push(last);
    }
    lines.retain(|line| !line.text.is_empty());
    Ok((escape, lines))
}

/// Reads `# escape=` and `# syntax=` at the top of the file.
fn directives(lines: &[&str]) -> Result<char> {
    let mut escape = None;
    for (index, line) in lines.iter().enumerate() {
        let Some(comment) = line.trim_start().strip_prefix('#') else {
            break;
        };
        let Some((name, value)) = comment.split_once('=') else {
            break;
        };
        match name.trim().to_ascii_lowercase().as_str() {
            "escape" if escape.is_some() => {
                return Err(refuse(index + 1, "only one escape directive can be used"));
            }
            "escape" => {
                escape = Some(match value.trim() {
                    "\\" => '\\',
                    "`" => '`',
                    other => {
                        return Err(refuse(
                            index + 1,
                            format!("invalid escape directive {other:?}: it must be \\ or `"),
                        ));
                    }
                });
            }
            // Which other program should read the file, and what it should check: nothing to us.
            "syntax" | "check" => {}
            // Any other comment ends the directives.
            _ => break,
        }
    }
    Ok(escape.unwrap_or('\\'))
}

/// A line without the escape character at its end, and whether there was one. A doubled one is a character of the line.
fn continued(line: &str, escape: char) -> (&str, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        Some(rest) if !rest.ends_with(escape) => (rest, true),
        _ => (line, false),
    }
}
