//! `plimsoll logs`.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, anyhow};
use engine::Home;
use engine::logs::{self, Query, Stream};

use crate::cli::LogsArguments;

pub(crate) fn logs(root: &Path, arguments: &LogsArguments) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    let found = engine::look(&home, &arguments.instance)?;
    if !found.record.spec.log.kept {
        return Err(anyhow!(
            "configured logging driver does not support reading: {} was made with --log-driver none",
            found.record.name
        ));
    }
    let now = logs::now();
    let moment = |flag: &str, text: &Option<String>| {
        text.as_deref()
            .map(|text| {
                logs::parse_time(text, now).ok_or_else(|| {
                    anyhow!("invalid value for {flag}: {text:?} is neither a time (2026-01-02T03:04:05Z) nor a duration (42m)")
                })
            })
            .transpose()
    };
    let query = Query {
        // docker takes whatever is no number for "all".
        tail: arguments.tail.parse::<u64>().ok(),
        since: moment("--since", &arguments.since)?,
        until: moment("--until", &arguments.until)?,
    };
    let id = found.record.id.clone();
    let has_ended = || !engine::is_owned(&home, &id);
    let mut printer = Printer {
        timestamps: arguments.timestamps,
        details: arguments.details,
        goes_on: [false; 2],
        out: io::BufWriter::with_capacity(64 << 10, io::stdout().lock()),
        error: io::stderr().lock(),
        follow: arguments.follow,
    };
    let path = home.log(&id);
    let follow: Option<logs::Follow<'_>> = arguments.follow.then_some(&has_ended);
    let read = logs::read(&path, &query, follow, &mut |entry| printer.print(&entry));
    let read = read.and_then(|()| printer.out.flush());
    match read {
        // `logs | head` is done when head is.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        other => {
            other.with_context(|| format!("cannot read the log {}", path.display()))?;
            Ok(0)
        }
    }
}

struct Printer<'a> {
    timestamps: bool,
    details: bool,
    /// Whether the last record of a stream had no newline, so that the next one goes on with its line.
    goes_on: [bool; 2],
    out: io::BufWriter<io::StdoutLock<'a>>,
    error: io::StderrLock<'a>,
    follow: bool,
}

impl Printer<'_> {
    fn print(&mut self, entry: &logs::Entry<'_>) -> io::Result<()> {
        let goes_on = &mut self.goes_on[entry.stream as usize];
        let begins = !*goes_on;
        *goes_on = !entry.text.ends_with('\n');
        let out: &mut dyn Write = match entry.stream {
            Stream::Stdout => &mut self.out,
            Stream::Stderr => {
                // The two streams keep their order as far as they can.
                self.out.flush()?;
                &mut self.error
            }
        };
        if begins && self.timestamps {
            write!(out, "{} ", entry.time)?;
        }
        if begins && self.details {
            // docker has a place for labels and environment here, which are not kept in this log.
            out.write_all(b" ")?;
        }
        out.write_all(entry.text.as_bytes())?;
        if self.follow {
            out.flush()?;
        }
        Ok(())
    }
}
