//! Where an attached command wants the instance's output: descriptors of its own, written to without ever waiting.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

/// How much may wait for a slow reader before the instance is kept from writing more, as docker's attach does.
pub(super) const BACKLOG: usize = 256 << 10;

/// A command's descriptor, which is looked at when there is something to write: most commands write little or nothing, and
/// each system call before is part of a start.
#[derive(Debug)]
pub(super) enum Outlet {
    /// As it came.
    Given(OwnedFd),
    /// In use.
    Open(Sink),
    /// Given up.
    Closed,
}

impl Outlet {
    /// Takes bytes, and writes as many as go at once.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        if let Self::Given(_) = self
            && let Self::Given(given) = std::mem::replace(self, Self::Closed)
        {
            *self = Self::Open(Sink::new(given));
        }
        if let Self::Open(sink) = self {
            sink.take(bytes);
        }
    }

    /// The sink, if anything was ever written.
    pub(super) fn sink(&self) -> Option<&Sink> {
        match self {
            Self::Open(sink) => Some(sink),
            _ => None,
        }
    }

    /// As [`Outlet::sink`].
    pub(super) fn sink_mut(&mut self) -> Option<&mut Sink> {
        match self {
            Self::Open(sink) => Some(sink),
            _ => None,
        }
    }
}

/// A descriptor that output goes to.
#[derive(Debug)]
pub(super) struct Sink {
    file: File,
    kind: Kind,
    waiting: VecDeque<u8>,
    /// Nobody reads it any more.
    lost: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Opened anew with O_NONBLOCK, or never blocking in the first place.
    Free,
    /// A socket, which is told with each call not to wait.
    Socket,
    /// Whatever else: written to in small pieces, and only after poll.
    Careful,
}

/// What a pipe takes whole when poll says that it takes something (POSIX's PIPE_BUF on Linux).
const PIPE_BUF: usize = 4096;

impl Sink {
    /// Takes a command's descriptor. The flag O_NONBLOCK belongs to the open file, which the command's terminal shares with
    /// its shell: so what can block is opened once more.
    pub(super) fn new(given: OwnedFd) -> Self {
        let path = format!("/proc/self/fd/{}", given.as_raw_fd());
        let kind = std::fs::metadata(&path).map(|about| about.file_type());
        let (file, kind) = match kind {
            Ok(kind) if kind.is_fifo() || kind.is_char_device() => {
                let again = OpenOptions::new()
                    .write(true)
                    .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
                    .open(path);
                match again {
                    Ok(file) => (file, Kind::Free),
                    Err(_) => (given.into(), Kind::Careful),
                }
            }
            Ok(kind) if kind.is_socket() => (given.into(), Kind::Socket),
            Ok(kind) if kind.is_file() => (given.into(), Kind::Free),
            _ => (given.into(), Kind::Careful),
        };
        Self {
            file,
            kind,
            waiting: VecDeque::new(),
            lost: false,
        }
    }

    /// Takes bytes, and writes as many as go at once.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        if self.lost {
            return;
        }
        let mut rest = bytes;
        while self.waiting.is_empty() && self.kind != Kind::Careful && !rest.is_empty() {
            match self.write(rest) {
                Some(count) => rest = rest.get(count..).unwrap_or_default(),
                None => break,
            }
        }
        if !self.lost {
            self.waiting.extend(rest);
        }
    }

    /// Writes what waits, after poll has said that something can be written.
    pub(super) fn drain(&mut self) {
        while !self.waiting.is_empty() {
            let front = self.waiting.as_slices().0;
            let most = if self.kind == Kind::Careful {
                PIPE_BUF
            } else {
                usize::MAX
            };
            let piece = front
                .get(..front.len().min(most))
                .unwrap_or_default()
                .to_vec();
            match self.write(&piece) {
                Some(count) => drop(self.waiting.drain(..count.min(self.waiting.len()))),
                None => break,
            }
            if self.kind == Kind::Careful {
                break;
            }
        }
        if self.lost {
            self.waiting = VecDeque::new();
        }
    }

    /// Writes once: how much, or `None` when nothing goes for now or for good.
    fn write(&mut self, bytes: &[u8]) -> Option<usize> {
        let number = self.file.as_raw_fd();
        loop {
            let count = match self.kind {
                // SAFETY: the kernel reads no more than the slice.
                Kind::Socket => unsafe {
                    libc::send(
                        number,
                        bytes.as_ptr().cast(),
                        bytes.len(),
                        libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                    )
                },
                // SAFETY: the kernel reads no more than the slice.
                _ => unsafe { libc::write(number, bytes.as_ptr().cast(), bytes.len()) },
            };
            match usize::try_from(count) {
                Ok(0) => return None,
                Ok(count) => return Some(count),
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error if error.kind() == io::ErrorKind::WouldBlock => return None,
                    _ => {
                        self.lost = true;
                        return None;
                    }
                },
            }
        }
    }

    /// Whether everything that came is written, or nobody wants it any more.
    pub(super) fn is_clear(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether the instance must wait for this reader.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= BACKLOG
    }

    /// The descriptor, to poll for room.
    pub(super) fn number(&self) -> i32 {
        self.file.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_full_pipe_keeps_nobody_waiting_and_loses_nothing() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut sink = Sink::new(writer.into());
        let sent: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        sink.take(&sent);
        assert!(!sink.is_clear());
        let mut seen = vec![0; sent.len()];
        let mut got = 0;
        while got < seen.len() {
            got += reader.read(&mut seen[got..]).unwrap();
            sink.drain();
        }
        assert!(sink.is_clear());
        assert_eq!(seen, sent);
    }

    #[test]
    fn a_reader_that_has_gone_is_forgotten() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut sink = Sink::new(writer.into());
        // Where SIGPIPE would end a program, the supervisor ignores it; so does the test harness.
        sink.take(b"x");
        assert!(sink.lost && sink.is_clear());
    }

    #[test]
    fn sockets_and_files_take_their_bytes() {
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut sink = Sink::new(theirs.into());
        sink.take(b"abc");
        let mut seen = [0; 3];
        ours.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"abc");
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut sink = Sink::new(file.reopen().unwrap().into());
        sink.take(&[7; 100_000]);
        assert_eq!(std::fs::read(file.path()).unwrap().len(), 100_000);
    }
}
