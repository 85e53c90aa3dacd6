//! The host's half of the resident workload's protocol (its other half is bench/workload/src/serve.rs), and the check
//! of the instance's clock.

use std::io::Write;
use std::time::Duration;

use crate::clock;
use crate::launch::{Running, Trouble};

/// An answer longer than this is garbage.
const LONGEST_ANSWER: usize = 64 * 1024;
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
    /// When the request had been read, by the instance's clock.
    received: u64,
    /// When the answer was about to be written, by the instance's clock.
    answered: u64,
    /// When the request was sent, by the host's clock.
    sent: u64,
    /// When the answer had been read, by the host's clock.
    arrived: u64,
}

impl Answer {
    /// From sending the request to receiving the answer by the host's clock, nanoseconds.
    pub(crate) fn host(&self) -> u64 {
        self.arrived - self.sent
    }

    /// The most that the instance's clock can be ahead of the host's: the request was read after it was sent.
    fn most_ahead(&self) -> i128 {
        i128::from(self.received) - i128::from(self.sent)
    }

    /// The least that it can be ahead: the answer was written before it arrived.
    fn least_ahead(&self) -> i128 {
        i128::from(self.answered) - i128::from(self.arrived)
    }
}

/// A resident workload in a running instance.
#[derive(Debug)]
pub(crate) struct Session {
    running: Running,
    unread: Vec<u8>,
    /// From the spawn until it said it was ready, nanoseconds.
    pub(crate) ready_after: u64,
}

impl Session {
    /// Waits for `ready`, and sees that requests are answered.
    pub(crate) fn begin(running: Running, limit: Duration) -> Result<Self, Trouble> {
        let mut session = Self {
            running,
            unread: Vec::new(),
            ready_after: 0,
        };
        let spawned = session.running.spawned;
        for companion in session.running.companions() {
            let mut said = [0; 16];
            let what = "the server's start";
            let bytes = companion.read(&mut said, what, companion.spawned, limit)?;
            if bytes == 0 {
                return Err(companion.explain_end());
            }
            if said.get(..bytes) != Some(&b"ready\n"[..]) {
                return Err(Trouble::Answer(
                    "the server did not say \"ready\"".to_owned(),
                ));
            }
        }
        let line = session.line("the workload's start", spawned, limit)?;
        if line != "ready" {
            return Err(Trouble::Answer(format!(
                "{line:?} came instead of \"ready\""
            )));
        }
        session.ready_after = clock::now() - spawned;
        session.ask("ping 1", limit)?;
        Ok(session)
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn ask(&mut self, request: &str, limit: Duration) -> Result<Answer, Trouble> {
        let sent = clock::now();
        let line = self.exchange(request, limit)?;
        let arrived = clock::now();
        parse(&line, sent, arrived)
            .map_err(|problem| Trouble::Answer(format!("{request}: {problem}")))
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

    /// Sends a request between two pings, and says with its answer why the instance's clock is not to be believed, if it
    /// is not.
    pub(crate) fn ask_by_the_clock(
        &mut self,
        request: &str,
        limit: Duration,
    ) -> Result<(Answer, Option<String>), Trouble> {
        let before = self.ask("ping 1", limit)?;
        let answer = self.ask(request, limit)?;
        let after = self.ask("ping 1", limit)?;
        let fault = clock_fault(&before, &answer, &after);
        Ok((answer, fault))
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

/// Compares the instance's clock with the host's across an answer. Each exchange bounds how far the one is ahead of the
/// other, more closely the quicker it was. A clock that runs as it should is ahead by the same before and after; the
/// bounds of the pings must allow that, within 1 % of the time between. A slow transport only makes the bounds wider: it
/// never voids a sample by itself.
fn clock_fault(before: &Answer, answer: &Answer, after: &Answer) -> Option<String> {
    if answer.answered < answer.received
        || u128::from(answer.elapsed) > u128::from(answer.answered - answer.received)
    {
        return Some("the instance's clock ran backwards".to_owned());
    }
    let tolerance = (answer.host() as f64 * CLOCK_TOLERANCE) as i128;
    let lost = before.least_ahead() - after.most_ahead();
    let gained =
        (after.least_ahead() - before.most_ahead()).max(answer.least_ahead() - answer.most_ahead());
    let of = clock::words_ns(answer.host());
    let words = |nanoseconds: i128| clock::words_ns(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
    if lost > tolerance {
        return Some(format!(
            "the instance's clock lost {} of {of} against the host's",
            words(lost)
        ));
    }
    (gained > tolerance).then(|| {
        format!(
            "the instance's clock gained {} in {of} against the host's",
            words(gained)
        )
    })
}

fn parse(line: &str, sent: u64, arrived: u64) -> Result<Answer, String> {
    if let Some(message) = line.strip_prefix("error ") {
        return Err(message.to_owned());
    }
    let words: Vec<&str> = line.split(' ').collect();
    if let ["ok", elapsed, checksum, received, answered] = words.as_slice()
        && let (Ok(elapsed), Ok(received), Ok(answered)) =
            (elapsed.parse(), received.parse(), answered.parse())
        && checksum.len() == 16
        && checksum.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        return Ok(Answer {
            elapsed,
            checksum: (*checksum).to_owned(),
            received,
            answered,
            sent,
            arrived,
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

    /// An exchange of which the way there and the way back take `way` each, in an instance whose clock is at `ahead`.
    fn exchange(sent: u64, way: u64, takes: u64, ahead: i64) -> Answer {
        let inside = |host: u64| host.saturating_add_signed(ahead);
        let (received, arrived) = (sent + way, sent + way + takes + way);
        Answer {
            elapsed: takes,
            checksum: "0".repeat(16),
            received: inside(received),
            answered: inside(received + takes),
            sent,
            arrived,
        }
    }

    const FAR: i64 = 3_000_000_000;

    #[test]
    fn a_true_clock_is_believed_however_slow_the_transport() {
        for way in [MS / 100, MS, 50 * MS] {
            let before = exchange(1000 * MS, MS / 100, 0, FAR);
            let answer = exchange(1010 * MS, way, 100 * MS, FAR);
            let after = exchange(1300 * MS, way, 0, FAR);
            assert_eq!(clock_fault(&before, &answer, &after), None, "{way}");
        }
    }

    #[test]
    fn a_clock_that_is_slow_or_fast_voids_the_sample() {
        // It loses or gains 2 ms of 100.
        for (change, word) in [(-2 * MS as i64, "lost"), (2 * MS as i64, "gained")] {
            let before = exchange(1000 * MS, MS / 10, 0, FAR);
            let mut answer = exchange(1001 * MS, MS / 10, 100 * MS, FAR);
            answer.answered = answer.answered.saturating_add_signed(change);
            answer.elapsed = answer.elapsed.saturating_add_signed(change);
            let after = exchange(1102 * MS, MS / 10, 0, FAR + change);
            let fault = clock_fault(&before, &answer, &after).unwrap();
            assert!(fault.contains(word), "{fault}");
        }
        let ping = exchange(1000 * MS, MS, 0, 0);
        let mut backwards = exchange(1000 * MS, MS, MS, 0);
        backwards.answered = backwards.received - 1;
        assert!(clock_fault(&ping, &backwards, &ping).is_some());
    }

    #[test]
    fn answers_are_parsed_and_garbage_is_not() {
        let answer = parse("ok 12 00000000000000ab 15 30", 10, 40).unwrap();
        assert_eq!(
            (answer.elapsed, answer.host(), answer.checksum.as_str()),
            (12, 30, "00000000000000ab")
        );
        assert_eq!(parse("error no memory", 1, 2), Err("no memory".to_owned()));
        for garbage in [
            "",
            "ok",
            "ok 1 2 3 4",
            "ok x 00000000000000ab 15 30",
            "Segmentation fault",
        ] {
            assert!(parse(garbage, 1, 2).is_err(), "{garbage}");
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
