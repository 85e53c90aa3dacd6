//! `--name=value` before an instruction's arguments.

use super::parse::refuse;
use crate::Result;

/// The flags of one instruction, and what follows them.
pub(super) struct Flags<'t> {
    line: usize,
    keyword: &'t str,
    found: Vec<(&'t str, Option<&'t str>)>,
    pub(super) rest: &'t str,
}

impl<'t> Flags<'t> {
    pub(super) fn split(line: usize, keyword: &'t str, text: &'t str) -> Self {
        let mut rest = text.trim_start();
        let mut found = Vec::new();
        while let Some(flag) = rest.strip_prefix("--") {
            let end = flag.find(char::is_whitespace).unwrap_or(flag.len());
            let (word, after) = flag.split_at(end);
            rest = after.trim_start();
            // Whatever follows -- is an argument.
            if word.is_empty() {
                break;
            }
            found.push(match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word, None),
            });
        }
        Self {
            line,
            keyword,
            found,
            rest,
        }
    }

    /// Takes a flag with a value; it can be given once.
    pub(super) fn take(&mut self, name: &str) -> Result<Option<&'t str>> {
        let mut taken = None;
        while let Some(at) = self.found.iter().position(|(known, _)| *known == name) {
            let (_, value) = self.found.remove(at);
            let value = value.filter(|value| !value.is_empty()).ok_or_else(|| {
                refuse(
                    self.line,
                    format!("{} --{name} needs a value", self.keyword),
                )
            })?;
            if taken.replace(value).is_some() {
                return Err(refuse(
                    self.line,
                    format!("{} --{name} is given twice", self.keyword),
                ));
            }
        }
        Ok(taken)
    }

    /// Refuses what was not taken.
    pub(super) fn finish(&self) -> Result<()> {
        match self.found.first() {
            None => Ok(()),
            Some((name, _)) => Err(refuse(
                self.line,
                format!("{} --{name} is not supported", self.keyword),
            )),
        }
    }
}
