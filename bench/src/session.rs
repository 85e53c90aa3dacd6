//! The host's half of the resident workload's protocol (its other half is bench/workload/src/serve.rs), and the check
//! of the instance's clock.

use std::io::Write;
use std::time::Duration;

use crate::clock;
use crate::launch::{Running, Trouble};

/// An answer longer than this is garbage.
const LONGEST_ANSWER: usize = 64 * 1024;
/// A ping a few times over, to learn what the way there and back takes.
const PINGS: usize = 10;
/// How far the instance's clock may be from the host's (measurement.md).
const CLOCK_TOLERANCE: f64 = 0.01;
/// How long ending an instance by end of input may take before it is pressed.
const GRACE: Duration = Duration::from_secs(10);

/// One request's outcome.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    /// Time of the measured sections by the instance's clock, nanoseconds.
    pub(crate) elapsed: u64,
    /// What the work came to.
    pub(crate) checksum: String,
    /// From reading the request to writing the answer by the instance's clock, nanoseconds.
    pub(crate) total: u64,
    /// From sending the request to receiving the answer by the host's clock, nanoseconds.
    pub(crate) host: u64,
}

/// A resident workload in a running instance.
#[derive(Debug)]
pub(crate) struct Session {
    running: Running,
    unread: Vec<u8>,
    /// The longest way there and back that was seen, nanoseconds.
    transport: u64,
    /// From the spawn until it said it was ready, nanoseconds.
    pub(crate) ready_after: u64,
}

impl Session {
    /// Waits for `ready` and learns the transport's delay.
    pub(crate) fn begin(running: Running, limit: Duration) -> Result<Self, Trouble> {
        let mut session = Self {
            running,
            unread: Vec::new(),
            transport: 0,
            ready_after: 0,
        };
        let spawned = session.running.spawned;
        let line = session.line("the workload's start", spawned, limit)?;
        if line != "ready" {
            return Err(Trouble::Answer(format!(
                "{line:?} came instead of \"ready\""
            )));
        }
        session.ready_after = clock::now() - spawned;
        for _ in 0..PINGS {
            let answer = session.ask("ping 1", limit)?;
            session.transport = session
                .transport
                .max(answer.host.saturating_sub(answer.total));
        }
        Ok(session)
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn ask(&mut self, request: &str, limit: Duration) -> Result<Answer, Trouble> {
        let sent = clock::now();
        let line = self.exchange(request, limit)?;
        let host = clock::now() - sent;
        parse(&line, host).map_err(|problem| Trouble::Answer(format!("{request}: {problem}")))
    }

    /// The text of a file in the instance.
    pub(crate) fn show(&mut self, path: &str, limit: Duration) -> Result<String, Trouble> {
        let line = self.exchange(&format!("show 1 path={path}"), limit)?;
        match line.strip_prefix("text ") {
            Some(text) => Ok(text.replace("\\n", "\n").replace("\\t", "\t")),
            None => Err(Trouble::Answer(format!("show {path}: {line}"))),
        }
    }

    fn exchange(&mut self, request: &str, limit: Duration) -> Result<String, Trouble> {
        let sent = clock::now();
        let mut bytes = request.as_bytes().to_vec();
        bytes.push(b'\n');
        let written = match &mut self.running.stdin {
            Some(stdin) => stdin.write_all(&bytes),
            None => Err(std::io::ErrorKind::BrokenPipe.into()),
        };
        if written.is_err() {
            return Err(self.running.explain_end());
        }
        self.line(request, sent, limit)
    }

    /// The next whole line of output.
    fn line(&mut self, what: &str, started: u64, limit: Duration) -> Result<String, Trouble> {
        loop {
            if let Some(end) = self.unread.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(line.trim_ascii_end()).into_owned());
            }
            if self.unread.len() > LONGEST_ANSWER {
                return Err(Trouble::Answer(format!(
                    "{what}: more than {LONGEST_ANSWER} bytes without an end of line"
                )));
            }
            let mut buffer = [0; 4096];
            match self.running.read(&mut buffer, what, started, limit)? {
                0 => return Err(self.running.explain_end()),
                bytes => self.unread.extend_from_slice(&buffer[..bytes]),
            }
        }
    }

    /// Why an answer's clock is not to be believed, if it is not: its total must be the host's bracket, less at most the
    /// transport's delay, within 1 %.
    pub(crate) fn clock_fault(&self, answer: &Answer) -> Option<String> {
        clock_fault(answer, self.transport)
    }

    /// The launcher's process.
    #[cfg(test)]
    pub(crate) fn pid(&self) -> i32 {
        self.running.pid()
    }

    /// Ends the instance as a user would.
    pub(crate) fn end(self) -> Result<(), Trouble> {
        self.running.stop(GRACE).map(|_| ())
    }
}

fn clock_fault(answer: &Answer, transport: u64) -> Option<String> {
    if answer.elapsed > answer.total {
        return Some("the instance's clock ran backwards".to_owned());
    }
    let host = answer.host as f64;
    let difference = host - answer.total as f64;
    let tolerance = host * CLOCK_TOLERANCE;
    // The way there and back takes its time, once more than seen at most; it never takes less than none.
    let behind = difference > tolerance + 2.0 * transport as f64;
    let ahead = difference < -tolerance;
    (behind || ahead).then(|| {
        format!(
            "the instance's clock says {} where the host's says {}",
            clock::words_ns(answer.total),
            clock::words_ns(answer.host)
        )
    })
}

fn parse(line: &str, host: u64) -> Result<Answer, String> {
    if let Some(message) = line.strip_prefix("error ") {
        return Err(message.to_owned());
    }
    let words: Vec<&str> = line.split(' ').collect();
    if let ["ok", elapsed, checksum, total] = words.as_slice()
        && let (Ok(elapsed), Ok(total)) = (elapsed.parse(), total.parse())
        && checksum.len() == 16
        && checksum.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        return Ok(Answer {
            elapsed,
            checksum: (*checksum).to_owned(),
            total,
            host,
        });
    }
    let shown: String = line.chars().take(80).collect();
    Err(format!("{shown:?} is no answer"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::Launch;

    const SOON: Duration = Duration::from_secs(20);
    const MS: u64 = 1_000_000;

    fn answer(total: u64, host: u64) -> Answer {
        Answer {
            elapsed: total,
            checksum: "0".repeat(16),
            total,
            host,
        }
    }

    #[test]
    fn a_clock_within_one_per_cent_and_the_transport_is_believed() {
        assert_eq!(clock_fault(&answer(100 * MS, 100 * MS + MS / 2), MS), None);
        assert_eq!(clock_fault(&answer(100 * MS, 102 * MS), MS), None);
    }

    #[test]
    fn a_clock_that_is_slow_or_fast_voids_the_sample() {
        assert!(clock_fault(&answer(90 * MS, 100 * MS), MS).is_some());
        assert!(clock_fault(&answer(102 * MS, 100 * MS), MS).is_some());
        let mut backwards = answer(10, 20);
        backwards.elapsed = 11;
        assert!(clock_fault(&backwards, MS).is_some());
    }

    #[test]
    fn answers_are_parsed_and_garbage_is_not() {
        let line = "ok 12 00000000000000ab 15";
        assert_eq!(
            parse(line, 20),
            Ok(Answer {
                elapsed: 12,
                checksum: "00000000000000ab".into(),
                total: 15,
                host: 20
            })
        );
        assert_eq!(parse("error no memory", 1), Err("no memory".to_owned()));
        for garbage in [
            "",
            "ok",
            "ok 1 2 3",
            "ok x 00000000000000ab 15",
            "Segmentation fault",
        ] {
            assert!(parse(garbage, 1).is_err(), "{garbage}");
        }
    }

    fn script(script: &str) -> Result<Session, Trouble> {
        Session::begin(Launch::new("/bin/sh", ["-c", script]).spawn(true)?, SOON)
    }

    #[test]
    fn a_workload_that_prints_garbage_dies_or_hangs_gives_a_sentence() {
        let garbage = script("echo hello; cat").unwrap_err().to_string();
        assert!(garbage.contains("\"hello\" came instead"), "{garbage}");
        let died = script("echo ready; read line; echo gone >&2; exit 4")
            .unwrap_err()
            .to_string();
        assert!(
            died.contains("exit code 4") && died.contains("gone"),
            "{died}"
        );
        let running = Launch::new("/bin/sh", ["-c", "sleep 60"])
            .spawn(true)
            .unwrap();
        let hung = Session::begin(running, Duration::from_millis(50))
            .unwrap_err()
            .to_string();
        assert!(hung.contains("took longer than"), "{hung}");
    }
}
