//! Where output goes and input comes from: descriptors that others have opened, and that may be anything.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use guest_protocol::{Stream, WINDOW};

/// What a pipe takes whole when poll says that it takes something (POSIX's PIPE_BUF on Linux).
const PIPE_BUF: usize = 4096;

/// A stream of the process's, and the descriptor that it goes to.
pub(super) struct Output {
    pub(super) stream: Stream,
    given: OwnedFd,
    /// The same file, opened once more for writing without blocking. The flag belongs to the open file, which others share:
    /// the shell's terminal must not become non-blocking because of us.
    apart: Option<File>,
    /// How many bytes one write may have: without limit for what never blocks.
    most: usize,
    /// What has come and could not be written yet, never more than the window.
    waiting: VecDeque<u8>,
    /// What has been written since the guest was last told.
    pub(super) owed: u32,
    /// Why nobody takes it any more.
    pub(super) lost: Option<io::Error>,
}

impl Output {
    pub(super) fn new(stream: Stream, given: OwnedFd) -> Self {
        let apart = open_apart(&given, OpenOptions::new().write(true));
        let regular = File::open(format!("/proc/self/fd/{}", given.as_raw_fd()))
            .and_then(|file| file.metadata())
            .is_ok_and(|about| about.is_file());
        Self {
            stream,
            given,
            most: if apart.is_some() || regular {
                usize::MAX
            } else {
                PIPE_BUF
            },
            apart,
            waiting: VecDeque::new(),
            owed: 0,
            lost: None,
        }
    }

    /// Takes bytes that the guest has sent: written at once as far as that goes. False when they are more than the guest
    /// was granted.
    pub(super) fn take(&mut self, bytes: &[u8]) -> bool {
        if self.waiting.len() + bytes.len() + self.owed as usize > WINDOW as usize {
            return false;
        }
        if self.lost.is_some() {
            // In flight when the guest was told that nobody reads.
            return true;
        }
        let mut rest = bytes;
        // What may block is written to only after poll has said that it does not.
        while self.waiting.is_empty() && self.most == usize::MAX && !rest.is_empty() {
            match write(self.number(), rest) {
                Ok(0) => break,
                Ok(count) => {
                    self.owed += count as u32;
                    rest = &rest[count..];
                }
                Err(error) => {
                    self.failed(error);
                    break;
                }
            }
        }
        if self.lost.is_none() {
            self.waiting.extend(rest);
        }
        true
    }

    /// Writes what waits, now that poll has said that something can be.
    pub(super) fn drain(&mut self) {
        while let (front, _) = self.waiting.as_slices()
            && !front.is_empty()
        {
            let piece = &front[..front.len().min(self.most)];
            match write(self.number(), piece) {
                Ok(0) => break,
                Ok(count) => {
                    self.owed += count as u32;
                    self.waiting.drain(..count);
                }
                Err(error) => {
                    self.failed(error);
                    break;
                }
            }
            if self.most == PIPE_BUF {
                break;
            }
        }
        if self.lost.is_some() {
            self.waiting.clear();
        }
    }

    /// Whether everything that came is written, or lost.
    pub(super) fn is_clear(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The entry to poll with.
    pub(super) fn watch(&self) -> libc::pollfd {
        let fd = if self.waiting.is_empty() {
            -1
        } else {
            self.number()
        };
        libc::pollfd {
            fd,
            events: libc::POLLOUT,
            revents: 0,
        }
    }

    fn number(&self) -> i32 {
        self.apart
            .as_ref()
            .map_or(self.given.as_raw_fd(), AsRawFd::as_raw_fd)
    }

    /// Takes note of why a write was none: for now, or for good.
    fn failed(&mut self, error: io::Error) {
        if error.kind() != io::ErrorKind::WouldBlock {
            self.lost = Some(error);
        }
    }
}

/// Writes once.
fn write(fd: i32, bytes: &[u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the kernel reads no more than the slice.
        let count = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(count) {
            Ok(count) => return Ok(count),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

/// Where stdin comes from.
pub(super) struct Input {
    given: OwnedFd,
    apart: Option<File>,
}

impl Input {
    pub(super) fn new(given: OwnedFd) -> Self {
        let apart = open_apart(&given, OpenOptions::new().read(true));
        Self { given, apart }
    }

    /// The entry to poll with.
    pub(super) fn watch(&self) -> libc::pollfd {
        libc::pollfd {
            fd: self.number(),
            events: libc::POLLIN,
            revents: 0,
        }
    }

    fn number(&self) -> i32 {
        self.apart
            .as_ref()
            .map_or(self.given.as_raw_fd(), AsRawFd::as_raw_fd)
    }

    /// Reads once, after poll: `None` when there is nothing after all, 0 at the end (a terminal that has gone is one too).
    pub(super) fn read(&self, buffer: &mut [u8]) -> Option<usize> {
        // SAFETY: the kernel writes no more than the buffer holds.
        let count = unsafe { libc::read(self.number(), buffer.as_mut_ptr().cast(), buffer.len()) };
        match usize::try_from(count) {
            Ok(count) => Some(count),
            Err(_) => match io::Error::last_os_error().kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => None,
                _ => Some(0),
            },
        }
    }
}

/// Opens what a descriptor refers to once more, without blocking, when it is something that can block: a pipe or a terminal.
fn open_apart(given: &OwnedFd, options: &mut OpenOptions) -> Option<File> {
    let path = format!("/proc/self/fd/{}", given.as_raw_fd());
    let kind = std::fs::metadata(&path).ok()?.file_type();
    if !kind.is_fifo() && !kind.is_char_device() {
        return None;
    }
    options
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::{AsFd, BorrowedFd};

    fn owned(fd: &impl AsFd) -> OwnedFd {
        fd.as_fd().try_clone_to_owned().unwrap()
    }

    fn flags(fd: BorrowedFd<'_>) -> i32 {
        // SAFETY: F_GETFL takes nothing more.
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) }
    }

    #[test]
    fn a_full_pipe_keeps_nobody_waiting_and_loses_nothing() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut output = Output::new(Stream::Stdout, owned(&writer));
        assert_eq!(
            flags(writer.as_fd()) & libc::O_NONBLOCK,
            0,
            "the caller's descriptor is as it was"
        );
        let sent: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        assert!(output.take(&sent));
        assert!(!output.is_clear());
        let mut seen = vec![0; 200_000];
        let mut got = 0;
        while got < seen.len() {
            got += reader.read(&mut seen[got..]).unwrap();
            output.drain();
        }
        assert!(output.is_clear());
        assert_eq!(output.owed, 200_000);
        assert_eq!(seen, sent);
    }

    #[test]
    fn more_than_was_granted_is_refused() {
        let (_reader, writer) = io::pipe().unwrap();
        let mut output = Output::new(Stream::Stdout, owned(&writer));
        assert!(output.take(&vec![0; WINDOW as usize]));
        assert!(!output.take(&[0]));
    }

    #[test]
    fn a_reader_that_has_gone_is_noticed_and_the_rest_dropped() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut output = Output::new(Stream::Stderr, owned(&writer));
        assert!(output.take(b"x"));
        assert_eq!(
            output.lost.as_ref().and_then(io::Error::raw_os_error),
            Some(libc::EPIPE)
        );
        assert!(output.is_clear());
        assert!(output.take(b"y"));
    }

    #[test]
    fn a_regular_file_and_a_socket_take_everything() {
        let file = tempfile::tempfile().unwrap();
        let mut output = Output::new(Stream::Stdout, owned(&file));
        assert!(output.take(&[7; 100_000]));
        assert!(output.is_clear());
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut output = Output::new(Stream::Stdout, owned(&theirs));
        assert!(output.take(&[7; 10_000]));
        while !output.is_clear() {
            output.drain();
        }
        let mut seen = [0; 10_000];
        ours.read_exact(&mut seen).unwrap();
    }

    #[test]
    fn input_ends_when_its_writer_does() {
        let (reader, writer) = io::pipe().unwrap();
        let input = Input::new(owned(&reader));
        assert_eq!(input.read(&mut [0; 4]), None);
        drop(writer);
        assert_eq!(input.read(&mut [0; 4]), Some(0));
    }
}
