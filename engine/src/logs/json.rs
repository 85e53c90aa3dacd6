//! One record of a log, to and from JSON, at the speed of memory.

use std::borrow::Cow;

use serde::Deserialize;

use super::Stream;

/// How many bytes are looked at together: what the compiler makes vector instructions of.
const BLOCK: usize = 32;

/// Appends a record. `text` is what was written, with its newline if it has one.
pub(super) fn encode(out: &mut Vec<u8>, text: &[u8], stream: Stream, time: &str) {
    out.extend_from_slice(b"{\"log\":\"");
    match std::str::from_utf8(text) {
        Ok(_) => escape(out, text),
        // As docker does: what is no UTF-8 cannot be said in JSON.
        Err(_) => escape(out, String::from_utf8_lossy(text).as_bytes()),
    }
    out.extend_from_slice(b"\",\"stream\":\"");
    out.extend_from_slice(stream.as_str().as_bytes());
    out.extend_from_slice(b"\",\"time\":\"");
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(b"\"}\n");
}

fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

fn escape(out: &mut Vec<u8>, text: &[u8]) {
    let (blocks, rest) = text.as_chunks::<BLOCK>();
    for block in blocks {
        let found = block
            .iter()
            .fold(0u8, |found, byte| found | u8::from(needs_escape(*byte)));
        if found == 0 {
            out.extend_from_slice(block);
        } else {
            escape_slowly(out, block);
        }
    }
    escape_slowly(out, rest);
}

fn escape_slowly(out: &mut Vec<u8>, text: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for &byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => {
                let low = DIGITS[usize::from(byte & 15)];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', b'0' + (byte >> 4), low]);
            }
            _ => out.push(byte),
        }
    }
}

/// A record as it is read: borrowed where nothing was escaped.
#[derive(Debug, Deserialize)]
pub(super) struct Record<'a> {
    #[serde(borrow)]
    pub(super) log: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) stream: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) time: Cow<'a, str>,
}

/// Reads a line of a log file; `None` for one that is damaged.
pub(super) fn decode(line: &[u8]) -> Option<Record<'_>> {
    serde_json::from_slice(line).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(text: &[u8]) -> String {
        let mut out = Vec::new();
        encode(&mut out, text, Stream::Stderr, "T");
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
        let record = decode(&out).unwrap();
        assert_eq!((&*record.stream, &*record.time), ("stderr", "T"));
        record.log.into_owned()
    }

    #[test]
    fn whatever_is_text_is_read_back_as_it_was() {
        let all: String = (0..0x3000).filter_map(char::from_u32).collect();
        for text in [
            "",
            "\n",
            "a\"b\\c\u{7f}\t\r\u{1}\u{1b}[0m\n",
            "ü€😀\n",
            &all,
        ] {
            assert_eq!(there_and_back(text.as_bytes()), text);
        }
    }

    #[test]
    fn what_is_no_utf8_becomes_the_replacement_character() {
        assert_eq!(there_and_back(b"a\xffb\n"), "a\u{fffd}b\n");
    }
}
