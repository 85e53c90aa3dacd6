//! What the command line asks for, as far as it must be known before criterion reads it: whether anything is measured at
//! all, and how many benchmarks.

use regex::Regex;

/// Criterion's options that take a value (criterion 0.8, `Criterion::configure_from_args`).
const WITH_VALUE: [&str; 18] = [
    "-c",
    "--color",
    "--colour",
    "-s",
    "--save-baseline",
    "-b",
    "--baseline",
    "--baseline-lenient",
    "--format",
    "--profile-time",
    "--load-baseline",
    "--sample-size",
    "--warm-up-time",
    "--measurement-time",
    "--nresamples",
    "--noise-threshold",
    "--confidence-level",
    "--significance-level",
];

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Names only, help, or the version.
    Describe,
    /// Everything once, nothing kept.
    Test,
    /// The real thing.
    Measure,
}

/// The command line, seen with criterion's eyes.
#[derive(Debug)]
pub(crate) struct CommandLine {
    pub(crate) mode: Mode,
    /// The filter as typed.
    pub(crate) filter: Option<String>,
    /// Whether the user sets the time of a benchmark.
    pub(crate) measurement_time: bool,
    exact: bool,
    ignored: bool,
    pattern: Option<Regex>,
}

impl CommandLine {
    /// Reads the arguments after the program's name.
    pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> Self {
        let mut line = Self {
            mode: Mode::Test,
            filter: None,
            measurement_time: false,
            exact: false,
            ignored: false,
            pattern: None,
        };
        let (mut bench, mut test, mut describe) = (false, false, false);
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let name = arg.split('=').next().unwrap_or_default();
            match name {
                "--bench" => bench = true,
                "--test" => test = true,
                "--list" | "--help" | "-h" | "--version" | "-V" => describe = true,
                "--exact" => line.exact = true,
                "--ignored" => line.ignored = true,
                _ => {}
            }
            line.measurement_time |= name == "--measurement-time";
            if !arg.starts_with('-') {
                line.filter.get_or_insert(arg);
            } else if WITH_VALUE.contains(&arg.as_str())
                || arg == "--plotting-backend"
                || arg == "--output-format"
            {
                args.next();
            }
        }
        line.mode = match (describe, bench && !test) {
            (true, _) => Mode::Describe,
            (false, true) => Mode::Measure,
            (false, false) => Mode::Test,
        };
        // An expression that criterion cannot read is criterion's to complain about.
        line.pattern = line
            .filter
            .as_deref()
            .and_then(|filter| Regex::new(filter).ok());
        line
    }

    /// Whether criterion will run the benchmark of this name.
    pub(crate) fn takes(&self, id: &str) -> bool {
        match (&self.filter, self.exact) {
            _ if self.ignored => false,
            (None, _) => true,
            (Some(filter), true) => filter == id,
            (Some(_), false) => self
                .pattern
                .as_ref()
                .is_some_and(|pattern| pattern.is_match(id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> CommandLine {
        CommandLine::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn modes_are_those_of_criterion() {
        assert_eq!(parse("--bench").mode, Mode::Measure);
        assert_eq!(parse("").mode, Mode::Test);
        assert_eq!(parse("--test --bench").mode, Mode::Test);
        assert_eq!(parse("--list --bench").mode, Mode::Describe);
    }

    #[test]
    fn filters_are_expressions_unless_exact() {
        let line = parse("--sample-size 20 cpu/sha --bench");
        assert_eq!(line.filter.as_deref(), Some("cpu/sha"));
        assert!(
            line.takes("cpu/sha256") && line.takes("cpu/sha256-all") && !line.takes("start/warm")
        );
        let line = parse("cpu/sha256 --exact --bench");
        assert!(line.takes("cpu/sha256") && !line.takes("cpu/sha256-all"));
        assert!(parse("--bench").takes("anything"));
        assert!(!parse("--ignored --bench").takes("anything"));
        assert!(parse("--measurement-time=3 --bench").measurement_time);
    }
}
