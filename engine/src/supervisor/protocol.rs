//! What a command and an instance's supervisor say to each other: one message a packet, over a Unix socket that keeps
//! packets apart. The first byte is the kind; then raw bytes, or JSON for what has a structure.
//!
//! Whoever connects is root (the socket lies in a directory that only root enters), and is still checked: a command of
//! another version, or one cut off, must not harm the instance.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::network::Attachment;

/// Bytes of standard input in one packet. A packet must fit into a socket's buffer (net.core.wmem_default, 208 KiB).
pub(crate) const CHUNK: usize = 32 << 10;

/// How many bytes of standard input may be on their way before the supervisor has passed them on.
pub(crate) const WINDOW: usize = 128 << 10;

/// The most descriptors that come with a packet.
const DESCRIPTORS: usize = 3;

/// The longest packet: a request in JSON with a long environment.
const PACKET_MAX: usize = 160 << 10;

/// From a command to a supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Join the instance's streams. The descriptors that come with it are where its output goes: stdout, then stderr,
    /// as far as they are wanted.
    Attach {
        /// Whether this command sends standard input.
        stdin: bool,
        /// Whether a descriptor for stdout comes along.
        stdout: bool,
        /// Whether one for stderr comes along.
        stderr: bool,
    },
    /// The window of the command's terminal, in characters.
    Resize {
        /// Height.
        rows: u16,
        /// Width.
        columns: u16,
    },
    /// Standard input has ended.
    StdinEnd,
    /// Leave the streams; answered by [`Reply::Detached`] when nothing more will be written to them.
    Detach,
    /// Send the first process a signal. With `by_user` the restart policy is over with.
    Signal {
        /// Its number.
        number: i32,
        /// Whether the user wants the instance to end: `kill`, and not a signal that was passed on.
        by_user: bool,
    },
    /// End the instance: this signal, and SIGKILL after so many seconds (never, if negative).
    Stop {
        /// The signal; `None` for the instance's own.
        signal: Option<i32>,
        /// Patience in seconds; `None` for the instance's own.
        timeout: Option<i64>,
    },
    /// Stop all its processes in their tracks.
    Pause,
    /// Let them go on.
    Unpause,
    /// Run another process in the guest; its streams come as descriptors (stdin, stdout, stderr).
    Exec(Box<ExecRequest>),
    /// Put a running container on one more network.
    Connect(Box<Attachment>),
    /// Take it off the network with this name.
    Disconnect(String),
    /// Only wait: for the end, or for the next one if it does not run.
    Watch,
}

/// A process to run beside the first one, in a VM.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct ExecRequest {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// Rows and columns of its terminal.
    pub(crate) terminal: Option<(u16, u16)>,
    pub(crate) stdin: bool,
    /// It is a program of ours (guest/tools) and not one of the image's.
    pub(crate) tool: bool,
    /// Root of the machine in every respect, for `--privileged`.
    pub(crate) privileged: bool,
    /// Nobody waits for it.
    pub(crate) detached: bool,
}

/// From a supervisor to a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// One line for the user about what was decided.
    Notice(String),
    /// The instance's command runs (again).
    Started,
    /// It could not be started.
    Failed {
        /// docker's exit code for it.
        code: u8,
        /// The sentence.
        message: String,
    },
    /// So many bytes of standard input were passed on.
    Credit(u32),
    /// Standard input is not read any more.
    StdinClosed,
    /// The streams are let go of.
    Detached,
    /// What was asked for is done.
    Done,
    /// What was asked for cannot be done.
    Refused(String),
    /// The instance (or the process that was asked for) has ended, and everything it wrote is written.
    Ended {
        /// As a shell tells it.
        code: u8,
        /// The memory limit killed it.
        oom_killed: bool,
        /// What else the user should know.
        error: Option<String>,
    },
}

/// The first byte of a packet.
const JSON: u8 = 0;
const STDIN: u8 = 1;

/// A socket between the two, either end.
#[derive(Debug)]
pub(crate) struct Link {
    socket: OwnedFd,
}

/// What came.
#[derive(Debug)]
pub(crate) enum Packet<T> {
    /// A message, with descriptors.
    Message(T, Vec<OwnedFd>),
    /// Bytes of standard input.
    Stdin(Vec<u8>),
    /// Nothing for now.
    Nothing,
    /// The other side is gone, or speaks another language.
    Closed,
}

impl Link {
    /// Two ends.
    pub(crate) fn pair() -> Result<(Self, Self)> {
        let mut ends = [0; 2];
        // SAFETY: the kernel writes two descriptors into the array.
        let made = unsafe {
            libc::socketpair(
                libc::AF_UNIX,
                libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
                0,
                ends.as_mut_ptr(),
            )
        };
        if made != 0 {
            return Err(system("make a socket pair"));
        }
        // SAFETY: both were just made, and nobody else has them.
        Ok(unsafe { (Self::from_raw(ends[0]), Self::from_raw(ends[1])) })
    }

    /// # Safety
    /// The descriptor must be open, and nobody else's.
    pub(crate) unsafe fn from_raw(descriptor: i32) -> Self {
        Self {
            // SAFETY: the caller's promise.
            socket: unsafe { OwnedFd::from_raw_fd(descriptor) },
        }
    }

    /// The descriptor, to poll.
    pub(crate) fn number(&self) -> i32 {
        self.socket.as_raw_fd()
    }

    /// Sends a message, with descriptors. Waits for room.
    ///
    /// # Errors
    /// When the other side is gone.
    pub(crate) fn send<T: Serialize>(
        &self,
        message: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let mut packet = vec![JSON];
        serde_json::to_writer(&mut packet, message)?;
        if packet.len() > PACKET_MAX {
            return Err(io::Error::other(
                "the arguments and the environment are too long for one message",
            ));
        }
        self.send_packet(&packet, descriptors, 0)
    }

    /// Sends a message unless that would mean waiting; a command that does not read what it is told loses it.
    pub(crate) fn offer<T: Serialize>(&self, message: &T) -> io::Result<()> {
        let mut packet = vec![JSON];
        serde_json::to_writer(&mut packet, message)?;
        self.send_packet(&packet, &[], libc::MSG_DONTWAIT)
    }

    /// Sends bytes of standard input, at most [`CHUNK`].
    pub(crate) fn send_stdin(&self, bytes: &[u8]) -> io::Result<()> {
        let mut packet = Vec::with_capacity(bytes.len() + 1);
        packet.push(STDIN);
        packet.extend_from_slice(bytes);
        self.send_packet(&packet, &[], 0)
    }

    fn send_packet(
        &self,
        packet: &[u8],
        descriptors: &[BorrowedFd<'_>],
        flags: i32,
    ) -> io::Result<()> {
        let numbers: Vec<i32> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let mut control = ControlBuffer::default();
        let mut part = libc::iovec {
            iov_base: packet.as_ptr().cast_mut().cast(),
            iov_len: packet.len(),
        };
        // SAFETY: all zeros is an empty msghdr.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &mut part;
        header.msg_iovlen = 1;
        if !numbers.is_empty() {
            control.put(&mut header, numbers.get(..DESCRIPTORS).unwrap_or(&numbers));
        }
        loop {
            // SAFETY: the header points to one part and to a control buffer, which live through the call and are only read.
            let sent = unsafe { libc::sendmsg(self.number(), &header, flags | libc::MSG_NOSIGNAL) };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Whether the other side is there and has sent nothing that waits to be taken.
    fn is_silent(&self) -> bool {
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        // SAFETY: no bytes are asked for, so that none are written.
        let peeked = unsafe { libc::recv(self.number(), std::ptr::null_mut(), 0, flags) };
        peeked < 0 && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock
    }

    /// Takes the next packet, waiting for it if `wait`.
    pub(crate) fn receive<T: for<'a> Deserialize<'a>>(
        &self,
        buffer: &mut Vec<u8>,
        wait: bool,
    ) -> Packet<T> {
        if !wait && self.is_silent() {
            return Packet::Nothing;
        }
        make_room(buffer, PACKET_MAX);
        let mut control = ControlBuffer::default();
        let mut part = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        // SAFETY: all zeros is an empty msghdr.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.bytes.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control.bytes);
        let flags = libc::MSG_CMSG_CLOEXEC | if wait { 0 } else { libc::MSG_DONTWAIT };
        let count = loop {
            // SAFETY: the kernel writes no more than the part and the control buffer hold.
            let count = unsafe { libc::recvmsg(self.number(), &mut header, flags) };
            if count >= 0 {
                break count as usize;
            }
            match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                // The other side has gone without reading all that was sent to it. The kernel says so once, and before what
                // the other side had said itself.
                error if error.kind() == io::ErrorKind::ConnectionReset => {}
                error if error.kind() == io::ErrorKind::WouldBlock => return Packet::Nothing,
                _ => return Packet::Closed,
            }
        };
        let descriptors = control.take(&header);
        let cut = header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
        match buffer.get(..count) {
            Some([STDIN, bytes @ ..]) if !cut => Packet::Stdin(bytes.to_vec()),
            Some([JSON, json @ ..]) if !cut => match serde_json::from_slice(json) {
                Ok(message) => Packet::Message(message, descriptors),
                Err(_) => Packet::Closed,
            },
            _ => Packet::Closed,
        }
    }
}

/// Makes a buffer so long. New zeros are pages that nobody has touched: only what is then written is ever there.
pub(super) fn make_room(buffer: &mut Vec<u8>, length: usize) {
    if buffer.len() != length {
        *buffer = vec![0; length];
    }
}

/// Room for the descriptors of one packet, aligned as the kernel wants it.
#[derive(Default)]
struct ControlBuffer {
    bytes: [u64; 8],
}

impl ControlBuffer {
    fn put(&mut self, header: &mut libc::msghdr, numbers: &[i32]) {
        let bytes = size_of_val(numbers) as u32;
        header.msg_control = self.bytes.as_mut_ptr().cast();
        // SAFETY: pure arithmetic.
        header.msg_controllen = unsafe { libc::CMSG_SPACE(bytes) } as usize;
        // SAFETY: the buffer holds one header and up to three numbers (32 of its 64 bytes), and is aligned for it.
        unsafe {
            let first = libc::CMSG_FIRSTHDR(header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(bytes) as usize;
            std::ptr::copy_nonoverlapping(
                numbers.as_ptr().cast::<u8>(),
                libc::CMSG_DATA(first),
                bytes as usize,
            );
        }
    }

    fn take(&self, header: &libc::msghdr) -> Vec<OwnedFd> {
        let mut found = Vec::new();
        // SAFETY: the kernel has filled the buffer and said how far; the macros stay within that.
        unsafe {
            let mut next = libc::CMSG_FIRSTHDR(header);
            while !next.is_null() {
                if (*next).cmsg_level == libc::SOL_SOCKET && (*next).cmsg_type == libc::SCM_RIGHTS {
                    let count = ((*next).cmsg_len - libc::CMSG_LEN(0) as usize) / size_of::<i32>();
                    for index in 0..count {
                        let number = libc::CMSG_DATA(next)
                            .cast::<i32>()
                            .add(index)
                            .read_unaligned();
                        found.push(OwnedFd::from_raw_fd(number));
                    }
                }
                next = libc::CMSG_NXTHDR(header, next);
            }
        }
        found
    }
}

/// The last system error, with what was tried.
pub(crate) fn system(action: &'static str) -> Error {
    Error::System {
        action,
        source: io::Error::last_os_error(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    #[test]
    fn a_message_arrives_whole_with_its_descriptors() {
        let (ours, theirs) = Link::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let attach = Request::Attach {
            stdin: true,
            stdout: true,
            stderr: false,
        };
        ours.send(&attach, &[writer.as_fd()]).unwrap();
        drop(writer);
        let mut buffer = Vec::new();
        let Packet::Message(message, descriptors) = theirs.receive::<Request>(&mut buffer, true)
        else {
            panic!("no message");
        };
        assert_eq!(message, attach);
        let [given] = <[OwnedFd; 1]>::try_from(descriptors).unwrap();
        std::fs::File::from(given).write_all(b"x").unwrap();
        let mut seen = Vec::new();
        io::Read::read_to_end(&mut reader, &mut seen).unwrap();
        assert_eq!(seen, b"x");
    }

    #[test]
    fn input_keeps_its_bytes_and_the_end_is_noticed() {
        let (ours, theirs) = Link::pair().unwrap();
        let mut buffer = Vec::new();
        assert!(matches!(
            theirs.receive::<Request>(&mut buffer, false),
            Packet::Nothing
        ));
        let sent: Vec<u8> = (0..CHUNK).map(|n| n as u8).collect();
        ours.send_stdin(&sent).unwrap();
        drop(ours);
        match theirs.receive::<Request>(&mut buffer, true) {
            Packet::Stdin(bytes) => assert_eq!(bytes, sent),
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            theirs.receive::<Request>(&mut buffer, true),
            Packet::Closed
        ));
    }

    #[test]
    fn the_last_word_is_heard_of_one_who_has_not_read_everything() {
        let (ours, theirs) = Link::pair().unwrap();
        ours.send(&Request::StdinEnd, &[]).unwrap();
        theirs.send(&Reply::Done, &[]).unwrap();
        drop(theirs);
        for wait in [true, false] {
            match ours.receive::<Reply>(&mut Vec::new(), wait) {
                Packet::Message(Reply::Done, _) if wait => {}
                Packet::Closed if !wait => {}
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn garbage_is_the_end_of_the_conversation() {
        let (ours, theirs) = Link::pair().unwrap();
        for packet in [&b"\0{"[..], b"\x07x", b"\0\"Nope\""] {
            ours.send_packet(packet, &[], 0).unwrap();
            assert!(matches!(
                theirs.receive::<Request>(&mut Vec::new(), true),
                Packet::Closed
            ));
        }
    }
}
