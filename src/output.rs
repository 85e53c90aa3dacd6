//! How lists are printed: aligned columns, sizes and ages as docker's users read them.

use std::io::{self, Write};

/// Prints rows under a header, each column as wide as its widest cell and three spaces more, as docker does.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let mut widths: Vec<usize> = header.iter().map(|title| title.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut output = io::stdout().lock();
    let titles: Vec<String> = header.iter().map(|&title| title.to_owned()).collect();
    for row in std::iter::once(&titles).chain(rows) {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 3 - cell.chars().count()));
        }
        writeln!(output, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Tells the user something on standard error, as everything that is not output.
pub(crate) fn notice(line: &str) {
    eprintln!("plimsoll: {line}");
}

/// Does something to each instance, and prints the names of those it was done to; the exit code.
pub(crate) fn each(instances: &[String], mut work: impl FnMut(&str) -> engine::Result<()>) -> u8 {
    let mut code = 0;
    for wanted in instances {
        match work(wanted) {
            Ok(()) => println!("{wanted}"),
            Err(error) => {
                notice(&error.to_string());
                code = 1;
            }
        }
    }
    code
}

/// Asks whether to go on, as docker's prunes do.
pub(crate) fn confirm(what: &str) -> io::Result<bool> {
    print!("WARNING! {what}\nAre you sure you want to continue? [y/N] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "YES" | "Yes"))
}

/// Prints one JSON object a line.
pub(crate) fn json_lines(objects: impl IntoIterator<Item = serde_json::Value>) -> io::Result<()> {
    let mut output = io::stdout().lock();
    objects
        .into_iter()
        .try_for_each(|object| writeln!(output, "{object}"))
}

/// A size with decimal units and three digits: `4.21MB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 99.95 {
        format!("{value:.0}{}", UNITS[unit])
    } else if value >= 9.995 {
        format!("{}{}", trim_zeros(&format!("{value:.1}")), UNITS[unit])
    } else {
        format!("{}{}", trim_zeros(&format!("{value:.2}")), UNITS[unit])
    }
}

fn trim_zeros(number: &str) -> &str {
    number.trim_end_matches('0').trim_end_matches('.')
}

/// How long something took or is ago, in docker's words.
pub(crate) fn duration(seconds: u64) -> String {
    // docker rounds to whole hours, and counts everything longer in those.
    let hours = seconds.saturating_add(1_800) / 3_600;
    let minutes = seconds / 60;
    match (seconds, hours) {
        (0, _) => "Less than a second".into(),
        (1, _) => "1 second".into(),
        (2..60, _) => format!("{seconds} seconds"),
        (60..120, _) => "About a minute".into(),
        (120..3_600, _) => format!("{minutes} minutes"),
        (_, ..2) => "About an hour".into(),
        (_, 2..48) => format!("{hours} hours"),
        (_, 48..336) => format!("{} days", hours / 24),
        (_, 336..1_440) => format!("{} weeks", hours / 24 / 7),
        (_, 1_440..17_520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// How long ago a moment (seconds since 1970) was.
pub(crate) fn ago(seconds: u64) -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    format!("{} ago", duration(now.saturating_sub(seconds)))
}

/// Removes what could steer a terminal from a text that comes from outside.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_and_decimal_units() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (4_213_456, "4.21MB"),
            (42_000_000, "42MB"),
            (42_150_000, "42.1MB"),
            (999_900_000, "1GB"),
            (123_456_789_000, "123GB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn ages_are_told_in_dockers_words() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (59, "59 seconds"),
            (61, "About a minute"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5400, "2 hours"),
            (86_400 * 3, "3 days"),
            (86_400 * 800, "2 years"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[31mb\n"), "a\u{fffd}[31mb\u{fffd}");
    }
}
