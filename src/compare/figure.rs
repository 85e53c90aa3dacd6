//! Figures that a load prints: those that the user names by a pattern, and those of tools that everybody knows.

use anyhow::{Context, bail, ensure};
use regex_lite::Regex;
use reports::results::{Direction, Unit};

/// Something to be read in what the load prints.
#[derive(Debug, Clone)]
pub(super) struct Figure {
    /// What the report calls it.
    pub(super) name: String,
    pub(super) unit: Unit,
    pub(super) direction: Direction,
    /// The first group is the number; a second one its unit of time.
    pattern: Regex,
}

/// `NAME=PATTERN`, or `NAME<=PATTERN` where less is better.
pub(super) fn parse_all(texts: &[String]) -> anyhow::Result<Vec<Figure>> {
    texts.iter().map(|text| parse(text)).collect()
}

fn parse(text: &str) -> anyhow::Result<Figure> {
    let (name, pattern) = text
        .split_once('=')
        .with_context(|| format!("--figure {text}: it is NAME=PATTERN"))?;
    let (name, direction) = match name.strip_suffix('<') {
        Some(name) => (name, Direction::LowerIsBetter),
        None => (name, Direction::HigherIsBetter),
    };
    ensure!(
        !name.is_empty(),
        "--figure {text}: a name comes before the ="
    );
    let compiled =
        Regex::new(pattern).map_err(|error| anyhow::anyhow!("--figure {text}: {error}"))?;
    ensure!(
        compiled.captures_len() == 2,
        "--figure {text}: the pattern has one pair of parentheses, around the number"
    );
    Ok(Figure {
        name: name.to_owned(),
        unit: Unit::Count,
        direction,
        pattern: compiled,
    })
}

/// What redis-benchmark, wrk, ab and pgbench print, where the load is one of them.
pub(super) fn of_known_tools(load: &str) -> Vec<Figure> {
    let names = |tool: &str| {
        load.split(|c: char| c.is_whitespace() || c == '/')
            .any(|word| word == tool)
    };
    let known = |name: &str, unit, direction, pattern: &str| {
        // Ours, which a test compiles.
        Regex::new(pattern).ok().map(|pattern| Figure {
            name: name.to_owned(),
            unit,
            direction,
            pattern,
        })
    };
    let rate = |pattern| {
        known(
            "throughput",
            Unit::OperationsPerSecond,
            Direction::HigherIsBetter,
            pattern,
        )
    };
    let time = |name, pattern| known(name, Unit::Nanoseconds, Direction::LowerIsBetter, pattern);
    let figures = if names("redis-benchmark") {
        vec![rate(r"([0-9.]+) requests per second")]
    } else if names("wrk") {
        vec![
            rate(r"Requests/sec:\s+([0-9.]+)"),
            time("median latency", r"(?m)^\s+50%\s+([0-9.]+)(us|ms|s)$"),
            time(
                "latency of the slowest 1 %",
                r"(?m)^\s+99%\s+([0-9.]+)(us|ms|s)$",
            ),
        ]
    } else if names("ab") {
        vec![
            rate(r"Requests per second:\s+([0-9.]+)"),
            time("median latency", r"(?m)^\s+50%\s+([0-9.]+)()$"),
            time("latency of the slowest 1 %", r"(?m)^\s+99%\s+([0-9.]+)()$"),
        ]
    } else if names("pgbench") {
        vec![
            rate(r"tps = ([0-9.]+)"),
            time("mean latency", r"latency average = ([0-9.]+) (ms)"),
        ]
    } else {
        Vec::new()
    };
    figures.into_iter().flatten().collect()
}

impl Figure {
    /// The figure in what a load has printed, in its unit.
    pub(super) fn read(&self, printed: &str) -> anyhow::Result<f64> {
        let Some(found) = self.pattern.captures(printed) else {
            bail!(
                "the load prints no figure for {}: nothing in its output fits {}",
                self.name,
                self.pattern.as_str()
            );
        };
        let text = found.get(1).map_or("", |group| group.as_str());
        let number: f64 = text
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite() && *number >= 0.0)
            .with_context(|| {
                format!(
                    "{text:?}, which the load prints for {}, is no number",
                    self.name
                )
            })?;
        let nanoseconds = match found.get(2).map(|group| group.as_str()) {
            None => 1.0,
            Some("us") => 1e3,
            Some("s") => 1e9,
            // ab has no unit: it counts milliseconds.
            Some(_) => 1e6,
        };
        Ok(number * nanoseconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(load: &str, printed: &str) -> Vec<(String, f64)> {
        of_known_tools(load)
            .iter()
            .map(|figure| (figure.name.clone(), figure.read(printed).unwrap()))
            .collect()
    }

    #[test]
    fn what_known_tools_print_is_read_in_one_unit() {
        let wrk = "  Latency Distribution\n     50%  410.00us\n     75%  500.00us\n     99%    1.50ms\n  100 requests in 1.0s\nRequests/sec:   9876.54\n";
        let figures = read("/usr/bin/wrk --latency http://x", wrk);
        assert_eq!(figures[0], ("throughput".to_owned(), 9876.54));
        assert!((figures[1].1 - 410e3).abs() < 1.0 && (figures[2].1 - 1.5e6).abs() < 1.0);
        assert_eq!(
            read(
                "redis-benchmark -q",
                "SET: rps=0 (overall)\rSET: 52301.25 requests per second, p50=0.4 msec"
            ),
            [("throughput".to_owned(), 52301.25)]
        );
        assert_eq!(
            read("pgbench", "latency average = 2.5 ms\ntps = 400.1 (x)").len(),
            2
        );
        assert_eq!(
            read(
                "ab -n 5",
                "Requests per second:    5.5 [#/sec]\n  50%     12\n  99%     20\n"
            )[1]
            .1,
            12e6
        );
        assert!(of_known_tools("curl http://wrkx/").is_empty());
    }

    #[test]
    fn a_pattern_of_the_users_own_has_one_number() {
        let figure = parse("speed=speed: ([0-9]+) MB").unwrap();
        assert_eq!(figure.read("x\nspeed: 12 MB\n").unwrap(), 12.0);
        assert_eq!(figure.direction, Direction::HigherIsBetter);
        let sentence = figure.read("nothing").unwrap_err().to_string();
        assert!(
            sentence.contains("prints no figure for speed"),
            "{sentence}"
        );
        assert_eq!(
            parse("delay<=([0-9]+)").unwrap().direction,
            Direction::LowerIsBetter
        );
        for wrong in ["speed", "=x", "a=b", "a=(b)(c)", "a=("] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("a=(x)").unwrap().read("x").is_err());
    }
}
