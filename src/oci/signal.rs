//! Signals by name or number.

use anyhow::{Result, bail};
use nix::sys::signal::Signal;

/// The number of a signal: `9`, `KILL`, `SIGKILL`, `sigkill`, `RTMIN+3`.
pub(super) fn parse(text: &str) -> Result<i32> {
    const FIRST_REAL_TIME: i32 = 34;
    const LAST: i32 = 64;
    if let Ok(number) = text.parse::<i32>() {
        if (1..=LAST).contains(&number) {
            return Ok(number);
        }
        bail!("unknown signal {text:?}: a number is 1 to {LAST}");
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Ok(signal) = format!("SIG{name}").parse::<Signal>() {
        return Ok(signal as i32);
    }
    let real_time = |prefix: &str, sign: i32, from: i32| {
        let rest = name.strip_prefix(prefix)?;
        let offset = match rest {
            "" => 0,
            rest => rest.get(1..)?.parse::<i32>().ok()?,
        };
        let number = from + sign * offset;
        (FIRST_REAL_TIME..=LAST).contains(&number).then_some(number)
    };
    match real_time("RTMIN", 1, FIRST_REAL_TIME).or_else(|| real_time("RTMAX", -1, LAST)) {
        Some(number) => Ok(number),
        None => bail!("unknown signal {text:?}: give a number, or a name such as TERM or SIGTERM"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_known_by_its_names() {
        for text in ["15", "TERM", "SIGTERM", "sigterm", "term"] {
            assert_eq!(parse(text).unwrap(), 15, "{text}");
        }
        assert_eq!(parse("RTMIN+3").unwrap(), 37);
        assert_eq!(parse("SIGRTMAX-1").unwrap(), 63);
        assert_eq!(parse("RTMIN").unwrap(), 34);
        for text in ["", "0", "65", "-1", "NOPE", "SIG", "RTMIN+31"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
