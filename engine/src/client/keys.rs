//! The keys that leave an instance without ending it: `ctrl-p,ctrl-q` unless told otherwise.

use std::str::FromStr;

/// A sequence of bytes as a terminal sends them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

impl Default for DetachKeys {
    fn default() -> Self {
        // ctrl-p, ctrl-q.
        Self(vec![16, 17])
    }
}

impl FromStr for DetachKeys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',')
            .map(key)
            .collect::<Option<Vec<u8>>>()
            .map(Self)
            .ok_or_else(|| {
                format!(
                    "invalid detach keys {text:?}: give single characters or ctrl-<a-z, @, [, \\, ], ^, _>, separated by commas"
                )
            })
    }
}

fn key(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [byte] => Some(*byte),
        _ => match text.strip_prefix("ctrl-")?.as_bytes() {
            [byte @ b'a'..=b'z'] => Some(byte - b'a' + 1),
            [byte @ (b'@' | b'['..=b'_')] => Some(byte - b'@'),
            _ => None,
        },
    }
}

/// Looks for the sequence in what is typed. Keys that could begin it are held back until it is known whether they do.
#[derive(Debug)]
pub(super) struct Watch {
    keys: Vec<u8>,
    seen: usize,
}

impl Watch {
    pub(super) fn new(keys: &DetachKeys) -> Self {
        Self {
            keys: keys.0.clone(),
            seen: 0,
        }
    }

    /// What of `typed` is for the instance, and whether the sequence has come.
    pub(super) fn pass(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(typed.len());
        for &byte in typed {
            if self.keys.get(self.seen) == Some(&byte) {
                self.seen += 1;
                if self.seen == self.keys.len() {
                    self.seen = 0;
                    return (out, true);
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.seen]);
            self.seen = usize::from(self.keys.first() == Some(&byte) && self.keys.len() > 1);
            if self.seen == 0 {
                out.push(byte);
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_found_also_when_it_comes_in_parts() {
        let mut watch = Watch::new(&DetachKeys::default());
        assert_eq!(watch.pass(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(watch.pass(b"\x11c"), (Vec::new(), true));
    }

    #[test]
    fn what_only_begins_like_it_reaches_the_instance() {
        let mut watch = Watch::new(&DetachKeys::default());
        assert_eq!(watch.pass(b"\x10x"), (b"\x10x".to_vec(), false));
        assert_eq!(watch.pass(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(watch.pass(b"\x11"), (Vec::new(), true));
    }

    #[test]
    fn keys_are_named_as_docker_names_them() {
        assert_eq!("ctrl-a,x,ctrl-]".parse(), Ok(DetachKeys(vec![1, b'x', 29])));
        for wrong in ["", "ctrl-", "ctrl-A", "ab", "ctrl-p,", "ctrl-é"] {
            assert!(wrong.parse::<DetachKeys>().is_err(), "{wrong:?}");
        }
    }
}
