//! The `key=value` words of a request.

/// The arguments of one request. Every key must be asked for, so that a misspelt one is an error and not a silent
/// default.
pub(crate) struct Args<'a> {
    pairs: Vec<(&'a str, &'a str, bool)>,
}

impl<'a> Args<'a> {
    /// Splits `words` at their first `=`.
    pub(crate) fn parse(words: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let pairs = words
            .map(|word| match word.split_once('=') {
                Some((key, value)) => Ok((key, value, false)),
                None => Err(format!("argument {word:?} is not key=value")),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { pairs })
    }

    /// The value of `key`.
    pub(crate) fn text(&mut self, key: &str) -> Option<&'a str> {
        let pair = self.pairs.iter_mut().find(|pair| pair.0 == key)?;
        pair.2 = true;
        Some(pair.1)
    }

    /// The value of `key` as a whole number from `least` to `most`, or `default` where it is not given.
    pub(crate) fn number(
        &mut self,
        key: &str,
        default: u64,
        least: u64,
        most: u64,
    ) -> Result<u64, String> {
        let Some(text) = self.text(key) else {
            return Ok(default);
        };
        match text.parse() {
            Ok(number) if (least..=most).contains(&number) => Ok(number),
            _ => Err(format!(
                "{key}={text} is not a number from {least} to {most}"
            )),
        }
    }

    /// Refuses what no work has asked for.
    pub(crate) fn finish(&self) -> Result<(), String> {
        match self.pairs.iter().find(|pair| !pair.2) {
            Some(pair) => Err(format!("unknown argument {:?}", pair.0)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_malformed_arguments_are_refused() {
        assert!(Args::parse(["size"].into_iter()).is_err());
        let mut args = Args::parse(["size=4", "color=red"].into_iter()).unwrap();
        assert_eq!(args.number("size", 1, 1, 8), Ok(4));
        assert!(args.finish().unwrap_err().contains("color"));
        let mut args = Args::parse(["size=9"].into_iter()).unwrap();
        assert!(args.number("size", 1, 1, 8).is_err());
    }
}
