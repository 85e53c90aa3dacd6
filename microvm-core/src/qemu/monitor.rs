//! QEMU's control socket: QMP, JSON objects one after another (QEMU's docs/interop/qmp-spec.txt).

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::machine::End;
use crate::{Error, Result, Stage};

/// QEMU says a few hundred bytes over its life; more than this is not QEMU.
const MAX_BYTES: usize = 1 << 20;

/// What comes over the socket, as far as it is of interest here.
#[derive(Deserialize)]
struct Said {
    #[serde(rename = "return")]
    returned: Option<serde_json::Value>,
    error: Option<Complaint>,
    event: Option<String>,
    data: Option<EventData>,
}

#[derive(Deserialize)]
struct Complaint {
    desc: String,
}

#[derive(Deserialize)]
struct EventData {
    reason: Option<String>,
}

pub(super) struct Monitor {
    socket: UnixStream,
    unread: Vec<u8>,
}

impl Monitor {
    pub(super) fn new(socket: UnixStream) -> Result<Self> {
        socket
            .set_nonblocking(true)
            .map_err(Error::system("set QEMU's socket non-blocking"))?;
        Ok(Self {
            socket,
            unread: Vec::new(),
        })
    }

    /// Sets the processor going, once QEMU has come so far.
    ///
    /// # Errors
    /// When QEMU ends before, refuses, or takes longer than the limit.
    pub(super) fn start(&mut self, process: BorrowedFd<'_>, limit: Duration) -> Result<Vec<Stage>> {
        // Both at once: the first is answered when the machine stands, the second when its processor runs.
        self.socket
            .write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"cont\"}\n")
            .map_err(|error| Error::Start(format!("QEMU's socket: {error}")))?;
        let until = Instant::now() + limit;
        let mut stages = Vec::new();
        let names = [Stage::VMM_READY, Stage::FIRST_INSTRUCTION];
        while let Some(name) = names.get(stages.len()) {
            match self.next()? {
                Some(Said {
                    error: Some(complaint),
                    ..
                }) => return Err(Error::Start(complaint.desc)),
                Some(Said {
                    returned: Some(_), ..
                }) => stages.push(Stage::now(name)),
                Some(_) => {}
                None => self.wait(process, until)?,
            }
        }
        Ok(stages)
    }

    /// Why QEMU, which has ended orderly, did so.
    pub(super) fn end(&mut self) -> End {
        while let Ok(Some(said)) = self.next() {
            let reason = said.data.and_then(|data| data.reason);
            match (said.event.as_deref(), reason.as_deref()) {
                (Some("SHUTDOWN"), Some("host-signal" | "host-qmp-quit" | "host-ui")) => {
                    return End::Stopped;
                }
                (Some("SHUTDOWN"), _) => return End::GuestReset,
                _ => {}
            }
        }
        End::Exited(0)
    }

    /// The next thing that QEMU has said, if there is one whole already.
    fn next(&mut self) -> Result<Option<Said>> {
        let garbled =
            |error: &dyn std::fmt::Display| Error::Start(format!("QEMU's socket: {error}"));
        loop {
            let mut stream = serde_json::Deserializer::from_slice(&self.unread).into_iter::<Said>();
            match stream.next() {
                Some(Ok(said)) => {
                    let used = stream.byte_offset();
                    self.unread.drain(..used);
                    return Ok(Some(said));
                }
                Some(Err(error)) if !error.is_eof() => return Err(garbled(&error)),
                _ => {}
            }
            if self.unread.len() > MAX_BYTES {
                return Err(garbled(&"a message without an end"));
            }
            let mut more = [0; 4096];
            match self.socket.read(&mut more) {
                Ok(0) => return Ok(None),
                Ok(count) => self.unread.extend_from_slice(&more[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A reset: QEMU ended without having read all that was sent.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(garbled(&error)),
            }
        }
    }

    /// Waits until QEMU says something.
    fn wait(&self, process: BorrowedFd<'_>, until: Instant) -> Result<()> {
        let watch = |fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        let mut polls = [watch(self.socket.as_raw_fd()), watch(process.as_raw_fd())];
        let left = until.saturating_duration_since(Instant::now()).as_millis();
        let left = i32::try_from(left).unwrap_or(i32::MAX);
        // SAFETY: `polls` is two valid pollfds, and the count says two.
        match unsafe { libc::poll(polls.as_mut_ptr(), 2, left) } {
            0 => Err(Error::Start("QEMU does not answer".to_owned())),
            ready if ready < 0 => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
                error => Err(Error::system("wait for QEMU")(error)),
            },
            _ if polls[1].revents != 0 => Err(Error::Start(
                "QEMU ended at once and said nothing".to_owned(),
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn monitor(said: &[u8]) -> Monitor {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(said).unwrap();
        Monitor::new(ours).unwrap()
    }

    #[test]
    fn a_reset_and_a_signal_are_told_apart() {
        let greeting = br#"{"QMP": {"version": {}, "capabilities": ["oob"]}}"#;
        let reset = br#"{"timestamp": {"seconds": 1}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#;
        let signal = br#"{"event": "SHUTDOWN", "data": {"guest": false, "reason": "host-signal"}}"#;
        let all = |last: &[u8]| [&greeting[..], b"\r\n", last, b"\r\n"].concat();
        assert_eq!(monitor(&all(reset)).end(), End::GuestReset);
        assert_eq!(monitor(&all(signal)).end(), End::Stopped);
        assert_eq!(monitor(greeting).end(), End::Exited(0));
    }

    #[test]
    fn what_is_not_json_is_an_error() {
        assert!(monitor(b"login: ").next().is_err());
        assert!(monitor(b"{\"event\": ").next().unwrap().is_none());
    }
}
