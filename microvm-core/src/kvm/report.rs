//! What the monitor tells the process that started it, through a pipe: one line of JSON for each thing.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::ExitStatus;

use serde::{Deserialize, Serialize};

use crate::machine::{End, Ending};
use crate::process::readable;

/// The longest that all reports of a monitor may be: what the monitor says is not trusted without bound, since the
/// guest may have taken it over.
const MAX_BYTES: usize = 64 << 10;

/// A report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Report {
    /// Everything is set up, at this time.
    Ready(u64),
    /// The first virtual CPU enters the guest, at this time.
    FirstInstruction(u64),
    /// The machine cannot be started, and why.
    Refused(String),
    /// The machine has ended.
    End(End),
}

impl Report {
    /// Writes the report in one piece. Nobody may be there to read it any more.
    pub(super) fn send(&self, mut pipe: impl Write) {
        if let Ok(mut line) = serde_json::to_vec(self) {
            line.push(b'\n');
            let _ = pipe.write_all(&line);
        }
    }
}

/// The reading end of the pipe.
pub(super) struct Reports {
    pipe: File,
    unread: Vec<u8>,
    total: usize,
    /// Lines that are no reports: what a panic has said.
    words: String,
}

impl Reports {
    pub(super) fn new(pipe: File) -> Self {
        Self {
            pipe,
            unread: Vec::new(),
            total: 0,
            words: String::new(),
        }
    }

    /// Waits for the next report. Nothing comes any more when the monitor is gone, or says too much.
    pub(super) fn next(&mut self) -> io::Result<Option<Report>> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(report) => return Ok(Some(report)),
                    Err(_) => {
                        self.words.push_str(&String::from_utf8_lossy(&line));
                        continue;
                    }
                }
            }
            let mut piece = [0; 4096];
            match self.pipe.read(&mut piece) {
                Ok(0) => return Ok(None),
                Ok(_) if self.total >= MAX_BYTES => return Ok(None),
                Ok(got) => {
                    self.total += got;
                    self.unread.extend_from_slice(&piece[..got]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Ending for Reports {
    fn end(&mut self, status: ExitStatus) -> End {
        // The monitor has ended, so what it wrote is there. Were another process to hold the pipe open, nothing would
        // be readable and nobody waits for it.
        while readable(self.pipe.as_fd(), Some(std::time::Duration::ZERO)).unwrap_or(false)
            || !self.unread.is_empty()
        {
            match self.next() {
                Ok(Some(Report::End(end))) => return end,
                Ok(Some(Report::Refused(why))) => return End::MonitorFailed(why),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        match self.words.split_whitespace().collect::<Vec<_>>().join(" ") {
            words if words.is_empty() => End::from_status(status),
            words => End::MonitorFailed(words),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn pipe() -> (Reports, io::PipeWriter) {
        let (reader, writer) = io::pipe().unwrap();
        (Reports::new(File::from(OwnedFd::from(reader))), writer)
    }

    #[test]
    fn reports_arrive_as_they_were_sent() {
        let (mut reports, writer) = pipe();
        let failure = End::EmulationFailure {
            vcpu: 1,
            suberror: 1,
            rip: 0xffff_ffff_8100_0000,
            bytes: vec![0xcc, 0x90],
        };
        let sent = [
            Report::Ready(u64::MAX),
            Report::FirstInstruction(2),
            Report::Refused("no \"room\"\nleft".to_owned()),
            Report::End(failure),
        ];
        sent.iter().for_each(|report| report.send(&writer));
        drop(writer);
        for report in &sent {
            assert_eq!(reports.next().unwrap().as_ref(), Some(report));
        }
        assert_eq!(reports.next().unwrap(), None);
    }

    #[test]
    fn the_reason_comes_from_the_pipe_and_from_the_status_when_there_is_none() {
        let (mut reports, writer) = pipe();
        Report::Ready(1).send(&writer);
        Report::End(End::TripleFault {
            vcpu: 0,
            rip: 0x1000,
        })
        .send(&writer);
        drop(writer);
        assert_eq!(
            reports.end(ExitStatus::from_raw(0)),
            End::TripleFault {
                vcpu: 0,
                rip: 0x1000
            }
        );

        let (mut reports, writer) = pipe();
        drop(writer);
        assert_eq!(reports.end(ExitStatus::from_raw(9)), End::Killed(9));
        assert_eq!(reports.end(ExitStatus::from_raw(0)), End::Exited(0));
    }

    #[test]
    fn a_panic_is_heard_and_a_flood_is_not() {
        let (mut reports, mut writer) = pipe();
        writer
            .write_all(b"\nthread 'vcpu0' panicked at\n oh dear\n")
            .unwrap();
        drop(writer);
        let end = End::MonitorFailed("thread 'vcpu0' panicked at oh dear".to_owned());
        assert_eq!(reports.end(ExitStatus::from_raw(6)), end);
        let (mut reports, mut writer) = pipe();
        let flood = std::thread::spawn(move || while writer.write_all(&[b'x'; 4096]).is_ok() {});
        assert_eq!(reports.next().unwrap(), None);
        drop(reports);
        flood.join().unwrap();
    }

    #[test]
    fn a_monitor_whose_pipe_lives_on_does_not_keep_its_owner_waiting() {
        let (mut reports, _held_open) = pipe();
        assert_eq!(reports.end(ExitStatus::from_raw(9)), End::Killed(9));
    }
}
