//! The messages that frames carry.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::config::{GuestConfig, Process, WindowSize};
use crate::frame::{Frame, encode};

/// Kinds of frames; the two directions share the numbers, so that a stream that comes back to its sender is noticed.
mod kind {
    pub(super) const START: u8 = 1;
    pub(super) const STDIN: u8 = 2;
    pub(super) const STDIN_EOF: u8 = 3;
    pub(super) const RESIZE: u8 = 4;
    pub(super) const SIGNAL: u8 = 5;
    pub(super) const SHUTDOWN: u8 = 6;
    pub(super) const OUTPUT_CREDIT: u8 = 7;
    pub(super) const OUTPUT_CLOSED: u8 = 8;
    pub(super) const PREPARE: u8 = 9;
    pub(super) const PROGRAM: u8 = 10;
    pub(super) const EXEC: u8 = 11;

    pub(super) const HELLO: u8 = 65;
    pub(super) const STARTED: u8 = 66;
    pub(super) const STDOUT: u8 = 67;
    pub(super) const STDERR: u8 = 68;
    pub(super) const STDIN_CREDIT: u8 = 69;
    pub(super) const STDIN_CLOSED: u8 = 70;
    pub(super) const EXITED: u8 = 71;
    pub(super) const FAILED: u8 = 72;
    pub(super) const PREPARED: u8 = 73;
}

/// Which process a message is about. The host numbers them and uses no number twice; what comes for a process that has
/// ended meanwhile is passed over by the agent.
pub type Channel = u32;

/// The channel of the process that Start names, and of what is about the machine.
pub const MAIN: Channel = 0;

/// An output stream of a process. With a terminal everything is [`Stream::Stdout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

/// Host to guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToGuest<'a> {
    /// Build the root file system and run this as the main process; sent once.
    Start(Box<GuestConfig>),
    /// Build the root file system, and run nothing but what Exec asks for; sent once, in place of Start. The
    /// configuration's process is not looked at.
    Prepare(Box<GuestConfig>),
    /// More of the program with this number, of which there may be [`MAX_PROGRAMS`](crate::MAX_PROGRAMS), for
    /// [`Exec::program`] to name.
    Program(u32, &'a [u8]),
    /// Run a further process on this channel: after Started or Prepared, while there are fewer than
    /// [`MAX_PROCESSES`](crate::MAX_PROCESSES).
    Exec(Channel, Box<Exec>),
    /// Bytes for the process's stdin, within what the agent granted.
    Stdin(Channel, &'a [u8]),
    /// The end of stdin.
    StdinEof(Channel),
    /// The terminal's new size.
    Resize(Channel, WindowSize),
    /// Send the process this signal (Linux's number on x86-64).
    Signal(Channel, u8),
    /// The host has disposed of so many bytes of an output stream: as many more may come.
    OutputCredit(Channel, Stream, u32),
    /// Nobody reads this output stream any more: the process gets SIGPIPE or EPIPE when it writes.
    OutputClosed(Channel, Stream),
    /// Kill every process; their exits are reported as any other, the main process's last. After Prepare, the end of the
    /// work: the main channel's Exited says that the disk has been settled.
    Shutdown,
}

/// Guest to host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToHost<'a> {
    /// The agent runs and waits for Start or Prepare.
    Hello(Hello),
    /// The root file system stands, as Prepare asked.
    Prepared(Prepared),
    /// The process has been executed.
    Started(Channel, Started),
    /// Bytes that the process wrote.
    Output(Channel, Stream, &'a [u8]),
    /// The process has read so many bytes of stdin: as many more may come.
    StdinCredit(Channel, u32),
    /// The process reads stdin no more.
    StdinClosed(Channel),
    /// The process has ended, and all that it wrote was sent before. The channel's last message. The main process's is the
    /// last of all: it comes after every other process's, since those end with its PID namespace, and when its writes are
    /// on the disk.
    Exited(Channel, Exited),
    /// The process could not be started, or not be carried on with. The channel's last message; the main channel's is the
    /// last of all.
    Failed(Channel, Failed),
}

/// One more process: in the PID namespace of the main process, with the same file systems. After Prepare it is in the
/// agent's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// What to run. Its working directory must exist.
    pub process: Process,
    /// The number of the program that the host has sent with [`ToGuest::Program`]: that is run, and the first argument is
    /// only its name. `None` runs what the image has by that name.
    pub program: Option<u32>,
    /// Gives the process the upper directory of the instance's writable disk as descriptor [`UPPER_FD`](crate::UPPER_FD).
    pub upper: bool,
}

/// The agent's first message. Times are nanoseconds of the guest's CLOCK_BOOTTIME.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// Must be [`crate::VERSION`].
    pub version: u32,
    /// When the agent's first instruction ran: the kernel has booted and executed it.
    pub entered_ns: u64,
    /// When this message was sent.
    pub now_ns: u64,
}

/// The root file system stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepared {
    /// When this message was sent, in nanoseconds of the guest's CLOCK_BOOTTIME.
    pub now_ns: u64,
}

/// The process runs. Times are nanoseconds of the guest's CLOCK_BOOTTIME.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Started {
    /// The process's ID as the agent sees it.
    pub pid: u32,
    /// When the file systems stood and the process was about to be made.
    pub prepared_ns: u64,
    /// When its exec had succeeded; also when this message was sent.
    pub now_ns: u64,
}

/// How the process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exited {
    /// Its status.
    pub status: Status,
    /// The guest's kernel ran out of memory, and killed it or a process below it that it died of.
    pub oom_killed: bool,
    /// The largest resident set of the process or of any it waited for, in bytes.
    pub peak_memory_bytes: u64,
    /// The guest's CLOCK_BOOTTIME when the agent had learned of it, nanoseconds.
    pub ended_ns: u64,
    /// The same clock when this message was sent.
    pub now_ns: u64,
}

/// An exit status, as wait(2) gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// It ended by itself with this code.
    Code(u8),
    /// This signal killed it.
    Signal(u8),
}

/// Why the process could not be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failed {
    /// Which sort of failure.
    pub kind: FailureKind,
    /// One sentence in English. The guest wrote it: the host's side escapes it before it shows it.
    pub message: String,
}

/// Sorts of failures, as docker's exit codes tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// There is no such program in the image: 127.
    NotFound,
    /// The program is there and cannot be executed: 126.
    NotExecutable,
    /// What Start or Exec asked for is wrong or contradictory.
    Config,
    /// A system call in the guest failed.
    System,
}

/// A frame that is not a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageError {
    /// The kind has no meaning in this direction.
    UnknownKind(u8),
    /// The payload is not what the kind says.
    Malformed {
        /// The message's name.
        message: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKind(kind) => write!(f, "a frame of the unknown kind {kind}"),
            Self::Malformed { message, reason } => {
                write!(f, "a malformed {message} message: {reason}")
            }
        }
    }
}

impl core::error::Error for MessageError {}

impl<'a> ToGuest<'a> {
    /// Reads a frame that came from the host.
    ///
    /// # Errors
    /// [`MessageError`] when it is none.
    pub fn parse(frame: &Frame<'a>) -> Result<Self, MessageError> {
        let Frame {
            channel, payload, ..
        } = *frame;
        Ok(match frame.kind {
            kind::START => Self::Start(json("Start", payload)?),
            kind::PREPARE => Self::Prepare(json("Prepare", payload)?),
            kind::PROGRAM => Self::Program(channel, payload),
            kind::EXEC => Self::Exec(channel, json("Exec", payload)?),
            kind::STDIN => Self::Stdin(channel, payload),
            kind::STDIN_EOF => {
                fixed::<0>("StdinEof", payload)?;
                Self::StdinEof(channel)
            }
            kind::RESIZE => {
                let [r0, r1, c0, c1] = fixed("Resize", payload)?;
                let size = WindowSize {
                    rows: u16::from_le_bytes([r0, r1]),
                    columns: u16::from_le_bytes([c0, c1]),
                };
                Self::Resize(channel, size)
            }
            kind::SIGNAL => {
                let [signal] = fixed("Signal", payload)?;
                Self::Signal(channel, signal)
            }
            kind::OUTPUT_CREDIT => {
                let [which, credit @ ..]: [u8; 5] = fixed("OutputCredit", payload)?;
                let stream = stream("OutputCredit", which)?;
                Self::OutputCredit(channel, stream, u32::from_le_bytes(credit))
            }
            kind::OUTPUT_CLOSED => {
                let [which] = fixed("OutputClosed", payload)?;
                Self::OutputClosed(channel, stream("OutputClosed", which)?)
            }
            kind::SHUTDOWN => {
                fixed::<0>("Shutdown", payload)?;
                Self::Shutdown
            }
            other => return Err(MessageError::UnknownKind(other)),
        })
    }

    /// Appends the message's frame to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Start(config) => encode(kind::START, MAIN, &to_json(config), out),
            Self::Prepare(config) => encode(kind::PREPARE, MAIN, &to_json(config), out),
            Self::Program(number, bytes) => encode(kind::PROGRAM, *number, bytes, out),
            Self::Exec(channel, exec) => encode(kind::EXEC, *channel, &to_json(exec), out),
            Self::Stdin(channel, bytes) => encode(kind::STDIN, *channel, bytes, out),
            Self::StdinEof(channel) => encode(kind::STDIN_EOF, *channel, &[], out),
            Self::Resize(channel, size) => {
                let [r0, r1] = size.rows.to_le_bytes();
                let [c0, c1] = size.columns.to_le_bytes();
                encode(kind::RESIZE, *channel, &[r0, r1, c0, c1], out);
            }
            Self::Signal(channel, signal) => encode(kind::SIGNAL, *channel, &[*signal], out),
            Self::OutputCredit(channel, stream, bytes) => {
                let [b0, b1, b2, b3] = bytes.to_le_bytes();
                let payload = [stream.number(), b0, b1, b2, b3];
                encode(kind::OUTPUT_CREDIT, *channel, &payload, out);
            }
            Self::OutputClosed(channel, stream) => {
                encode(kind::OUTPUT_CLOSED, *channel, &[stream.number()], out);
            }
            Self::Shutdown => encode(kind::SHUTDOWN, MAIN, &[], out),
        }
    }
}

impl<'a> ToHost<'a> {
    /// Reads a frame that came from the guest.
    ///
    /// # Errors
    /// [`MessageError`] when it is none.
    pub fn parse(frame: &Frame<'a>) -> Result<Self, MessageError> {
        let Frame {
            channel, payload, ..
        } = *frame;
        Ok(match frame.kind {
            kind::HELLO => Self::Hello(json("Hello", payload)?),
            kind::PREPARED => Self::Prepared(json("Prepared", payload)?),
            kind::STARTED => Self::Started(channel, json("Started", payload)?),
            kind::STDOUT => Self::Output(channel, Stream::Stdout, payload),
            kind::STDERR => Self::Output(channel, Stream::Stderr, payload),
            kind::STDIN_CREDIT => {
                let credit = u32::from_le_bytes(fixed("StdinCredit", payload)?);
                Self::StdinCredit(channel, credit)
            }
            kind::STDIN_CLOSED => {
                fixed::<0>("StdinClosed", payload)?;
                Self::StdinClosed(channel)
            }
            kind::EXITED => Self::Exited(channel, json("Exited", payload)?),
            kind::FAILED => Self::Failed(channel, json("Failed", payload)?),
            other => return Err(MessageError::UnknownKind(other)),
        })
    }

    /// Appends the message's frame to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello(hello) => encode(kind::HELLO, MAIN, &to_json(hello), out),
            Self::Prepared(prepared) => encode(kind::PREPARED, MAIN, &to_json(prepared), out),
            Self::Started(channel, started) => {
                encode(kind::STARTED, *channel, &to_json(started), out);
            }
            Self::Output(channel, stream, bytes) => encode(stream.kind(), *channel, bytes, out),
            Self::StdinCredit(channel, bytes) => {
                encode(kind::STDIN_CREDIT, *channel, &bytes.to_le_bytes(), out);
            }
            Self::StdinClosed(channel) => encode(kind::STDIN_CLOSED, *channel, &[], out),
            Self::Exited(channel, exited) => encode(kind::EXITED, *channel, &to_json(exited), out),
            Self::Failed(channel, failed) => encode(kind::FAILED, *channel, &to_json(failed), out),
        }
    }

    /// The message's name, for error messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "Hello",
            Self::Prepared(_) => "Prepared",
            Self::Started(..) => "Started",
            Self::Output(_, Stream::Stdout, _) => "Stdout",
            Self::Output(_, Stream::Stderr, _) => "Stderr",
            Self::StdinCredit(..) => "StdinCredit",
            Self::StdinClosed(_) => "StdinClosed",
            Self::Exited(..) => "Exited",
            Self::Failed(..) => "Failed",
        }
    }
}

impl Stream {
    /// The file descriptor's number.
    pub fn number(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }

    /// The kind of the frames with this stream's bytes, for a sender that writes header and bytes apart.
    pub fn kind(self) -> u8 {
        match self {
            Self::Stdout => kind::STDOUT,
            Self::Stderr => kind::STDERR,
        }
    }
}

impl ToGuest<'_> {
    /// The kind of [`ToGuest::Stdin`], for a sender that writes header and bytes apart.
    pub const STDIN_KIND: u8 = kind::STDIN;
}

fn stream(message: &'static str, number: u8) -> Result<Stream, MessageError> {
    match number {
        1 => Ok(Stream::Stdout),
        2 => Ok(Stream::Stderr),
        other => Err(malformed(
            message,
            alloc::format!("no output stream has the number {other}"),
        )),
    }
}

fn fixed<const N: usize>(message: &'static str, payload: &[u8]) -> Result<[u8; N], MessageError> {
    payload.try_into().map_err(|_| {
        malformed(
            message,
            alloc::format!("{} bytes in place of {N}", payload.len()),
        )
    })
}

fn json<'de, T: Deserialize<'de>>(
    message: &'static str,
    payload: &'de [u8],
) -> Result<T, MessageError> {
    serde_json::from_slice(payload).map_err(|error| malformed(message, error.to_string()))
}

fn malformed(message: &'static str, reason: String) -> MessageError {
    MessageError::Malformed { message, reason }
}

/// Serializing fails only for maps with keys that are no strings, and for a `Serialize` that fails by itself: the types here
/// have neither.
fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain structures serialize")
}

#[cfg(test)]
mod tests;
