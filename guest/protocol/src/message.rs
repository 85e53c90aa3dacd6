//! The messages that frames carry.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::config::{GuestConfig, WindowSize};
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

    pub(super) const HELLO: u8 = 65;
    pub(super) const STARTED: u8 = 66;
    pub(super) const STDOUT: u8 = 67;
    pub(super) const STDERR: u8 = 68;
    pub(super) const STDIN_CREDIT: u8 = 69;
    pub(super) const STDIN_CLOSED: u8 = 70;
    pub(super) const EXITED: u8 = 71;
    pub(super) const FAILED: u8 = 72;
}

/// An output stream of the process. With a terminal everything is [`Stream::Stdout`].
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
    /// Run this; sent once.
    Start(Box<GuestConfig>),
    /// Bytes for the process's stdin, within what the agent granted.
    Stdin(&'a [u8]),
    /// The end of stdin.
    StdinEof,
    /// The terminal's new size.
    Resize(WindowSize),
    /// Send the process this signal (Linux's number on x86-64).
    Signal(u8),
    /// The host has disposed of so many bytes of an output stream: as many more may come.
    OutputCredit(Stream, u32),
    /// Nobody reads this output stream any more: the process gets SIGPIPE or EPIPE when it writes.
    OutputClosed(Stream),
    /// Kill the process; its exit is reported as any other.
    Shutdown,
}

/// Guest to host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToHost<'a> {
    /// The agent runs and waits for Start.
    Hello(Hello),
    /// The process has been executed.
    Started(Started),
    /// Bytes that the process wrote.
    Output(Stream, &'a [u8]),
    /// The process has read so many bytes of stdin: as many more may come.
    StdinCredit(u32),
    /// The process reads stdin no more.
    StdinClosed,
    /// The process has ended, all its output was sent before, and its writes are on the disk. The last message.
    Exited(Exited),
    /// The process could not be started. The last message.
    Failed(Failed),
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
    /// What Start asked for is wrong or contradictory.
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
        let payload = frame.payload;
        Ok(match frame.kind {
            kind::START => Self::Start(json("Start", payload)?),
            kind::STDIN => Self::Stdin(payload),
            kind::STDIN_EOF => {
                fixed::<0>("StdinEof", payload)?;
                Self::StdinEof
            }
            kind::RESIZE => {
                let [r0, r1, c0, c1] = fixed("Resize", payload)?;
                Self::Resize(WindowSize {
                    rows: u16::from_le_bytes([r0, r1]),
                    columns: u16::from_le_bytes([c0, c1]),
                })
            }
            kind::SIGNAL => {
                let [signal] = fixed("Signal", payload)?;
                Self::Signal(signal)
            }
            kind::OUTPUT_CREDIT => {
                let [which, credit @ ..]: [u8; 5] = fixed("OutputCredit", payload)?;
                Self::OutputCredit(stream("OutputCredit", which)?, u32::from_le_bytes(credit))
            }
            kind::OUTPUT_CLOSED => {
                let [which] = fixed("OutputClosed", payload)?;
                Self::OutputClosed(stream("OutputClosed", which)?)
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
            Self::Start(config) => encode(kind::START, &to_json(config), out),
            Self::Stdin(bytes) => encode(kind::STDIN, bytes, out),
            Self::StdinEof => encode(kind::STDIN_EOF, &[], out),
            Self::Resize(size) => {
                let [r0, r1] = size.rows.to_le_bytes();
                let [c0, c1] = size.columns.to_le_bytes();
                encode(kind::RESIZE, &[r0, r1, c0, c1], out);
            }
            Self::Signal(signal) => encode(kind::SIGNAL, &[*signal], out),
            Self::OutputCredit(stream, bytes) => {
                let [b0, b1, b2, b3] = bytes.to_le_bytes();
                encode(kind::OUTPUT_CREDIT, &[stream.number(), b0, b1, b2, b3], out);
            }
            Self::OutputClosed(stream) => encode(kind::OUTPUT_CLOSED, &[stream.number()], out),
            Self::Shutdown => encode(kind::SHUTDOWN, &[], out),
        }
    }
}

impl<'a> ToHost<'a> {
    /// Reads a frame that came from the guest.
    ///
    /// # Errors
    /// [`MessageError`] when it is none.
    pub fn parse(frame: &Frame<'a>) -> Result<Self, MessageError> {
        let payload = frame.payload;
        Ok(match frame.kind {
            kind::HELLO => Self::Hello(json("Hello", payload)?),
            kind::STARTED => Self::Started(json("Started", payload)?),
            kind::STDOUT => Self::Output(Stream::Stdout, payload),
            kind::STDERR => Self::Output(Stream::Stderr, payload),
            kind::STDIN_CREDIT => {
                Self::StdinCredit(u32::from_le_bytes(fixed("StdinCredit", payload)?))
            }
            kind::STDIN_CLOSED => {
                fixed::<0>("StdinClosed", payload)?;
                Self::StdinClosed
            }
            kind::EXITED => Self::Exited(json("Exited", payload)?),
            kind::FAILED => Self::Failed(json("Failed", payload)?),
            other => return Err(MessageError::UnknownKind(other)),
        })
    }

    /// Appends the message's frame to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello(hello) => encode(kind::HELLO, &to_json(hello), out),
            Self::Started(started) => encode(kind::STARTED, &to_json(started), out),
            Self::Output(stream, bytes) => encode(stream.kind(), bytes, out),
            Self::StdinCredit(bytes) => encode(kind::STDIN_CREDIT, &bytes.to_le_bytes(), out),
            Self::StdinClosed => encode(kind::STDIN_CLOSED, &[], out),
            Self::Exited(exited) => encode(kind::EXITED, &to_json(exited), out),
            Self::Failed(failed) => encode(kind::FAILED, &to_json(failed), out),
        }
    }

    /// The message's name, for error messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "Hello",
            Self::Started(_) => "Started",
            Self::Output(Stream::Stdout, _) => "Stdout",
            Self::Output(Stream::Stderr, _) => "Stderr",
            Self::StdinCredit(_) => "StdinCredit",
            Self::StdinClosed => "StdinClosed",
            Self::Exited(_) => "Exited",
            Self::Failed(_) => "Failed",
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
mod tests {
    use super::*;
    use crate::config::{Capabilities, Extent, File, ImageDisk, Mount, Process, Rlimit};
    use crate::frame::Decoder;
    use alloc::vec;
    use proptest::prelude::*;

    fn config(
        args: Vec<String>,
        env: Vec<String>,
        layers: Vec<(u64, u64)>,
        sizes: (u16, u16),
    ) -> GuestConfig {
        GuestConfig {
            hostname: "h".into(),
            image: ImageDisk {
                device: "/dev/vda".into(),
                layers: layers
                    .into_iter()
                    .map(|(offset, length)| Extent { offset, length })
                    .collect(),
            },
            writable: Some("/dev/vdb".into()),
            read_only_rootfs: false,
            shares: Vec::new(),
            mounts: vec![Mount {
                source: "tmpfs".into(),
                target: "/run".into(),
                filesystem: "tmpfs".into(),
                flags: 6,
                data: "size=1m".into(),
            }],
            files: vec![File {
                path: "/etc/hostname".into(),
                contents: "h\n".into(),
                mode: 0o644,
            }],
            shm_bytes: 64 << 20,
            process: Process {
                args,
                env,
                cwd: "/".into(),
                uid: 0,
                gid: 0,
                additional_gids: vec![1, 2],
                umask: 0o22,
                terminal: Some(WindowSize {
                    rows: sizes.0,
                    columns: sizes.1,
                }),
                stdin: true,
                rlimits: vec![Rlimit {
                    resource: 7,
                    soft: 1,
                    hard: u64::MAX,
                }],
                no_new_privileges: true,
                capabilities: Some(Capabilities {
                    bounding: u64::MAX,
                    effective: 1,
                    permitted: 2,
                    inheritable: 3,
                    ambient: 4,
                }),
            },
            realtime_ns: 1,
            entropy: vec![0, 255],
        }
    }

    fn through_to_guest(message: &ToGuest<'_>) {
        let mut out = Vec::new();
        message.encode(&mut out);
        let mut decoder = Decoder::new(crate::MAX_TO_GUEST);
        decoder.push(&out);
        let frame = decoder.next().unwrap().unwrap();
        assert_eq!(&ToGuest::parse(&frame).unwrap(), message);
    }

    fn through_to_host(message: &ToHost<'_>) {
        let mut out = Vec::new();
        message.encode(&mut out);
        let mut decoder = Decoder::new(crate::MAX_TO_HOST);
        decoder.push(&out);
        let frame = decoder.next().unwrap().unwrap();
        assert_eq!(&ToHost::parse(&frame).unwrap(), message);
    }

    proptest! {
        #[test]
        fn messages_to_the_guest_come_out_as_they_went_in(
            args in prop::collection::vec(any::<String>(), 0..5),
            env in prop::collection::vec(any::<String>(), 0..5),
            layers in prop::collection::vec(any::<(u64, u64)>(), 0..130),
            sizes in any::<(u16, u16)>(),
            bytes in prop::collection::vec(any::<u8>(), 0..crate::MAX_DATA),
            number in any::<u32>(),
            signal in any::<u8>(),
        ) {
            through_to_guest(&ToGuest::Start(Box::new(config(args, env, layers, sizes))));
            through_to_guest(&ToGuest::Stdin(&bytes));
            through_to_guest(&ToGuest::StdinEof);
            through_to_guest(&ToGuest::Resize(WindowSize { rows: sizes.0, columns: sizes.1 }));
            through_to_guest(&ToGuest::Signal(signal));
            through_to_guest(&ToGuest::OutputCredit(Stream::Stderr, number));
            through_to_guest(&ToGuest::OutputClosed(Stream::Stdout));
            through_to_guest(&ToGuest::Shutdown);
        }

        #[test]
        fn messages_to_the_host_come_out_as_they_went_in(
            numbers in any::<(u32, u64, u64)>(),
            bytes in prop::collection::vec(any::<u8>(), 0..crate::MAX_DATA),
            text in any::<String>(),
            flag in any::<bool>(),
            code in any::<u8>(),
        ) {
            let (small, first, second) = numbers;
            through_to_host(&ToHost::Hello(Hello { version: small, entered_ns: first, now_ns: second }));
            through_to_host(&ToHost::Started(Started { pid: small, prepared_ns: first, now_ns: second }));
            through_to_host(&ToHost::Output(Stream::Stdout, &bytes));
            through_to_host(&ToHost::Output(Stream::Stderr, &bytes));
            through_to_host(&ToHost::StdinCredit(small));
            through_to_host(&ToHost::StdinClosed);
            for status in [Status::Code(code), Status::Signal(code)] {
                through_to_host(&ToHost::Exited(Exited {
                    status,
                    oom_killed: flag,
                    peak_memory_bytes: first,
                    ended_ns: first,
                    now_ns: second,
                }));
            }
            through_to_host(&ToHost::Failed(Failed { kind: FailureKind::NotFound, message: text }));
        }

        #[test]
        fn garbage_is_a_message_or_an_error_and_never_a_panic(kind in any::<u8>(), payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let frame = Frame { kind, payload: &payload };
            let _ = ToHost::parse(&frame);
            let _ = ToGuest::parse(&frame);
        }
    }

    #[test]
    fn what_the_host_says_is_an_unknown_kind_to_the_host() {
        let frame = Frame {
            kind: kind::SIGNAL,
            payload: &[15],
        };
        assert_eq!(
            ToHost::parse(&frame),
            Err(MessageError::UnknownKind(kind::SIGNAL))
        );
    }

    #[test]
    fn a_message_with_an_unknown_field_is_refused() {
        let frame = Frame {
            kind: kind::HELLO,
            payload: br#"{"version":1,"entered_ns":1,"now_ns":2,"more":3}"#,
        };
        let error = ToHost::parse(&frame).unwrap_err().to_string();
        assert!(
            error.starts_with("a malformed Hello message: unknown field `more`"),
            "{error}"
        );
    }

    #[test]
    fn deeply_nested_json_is_refused() {
        let payload = vec![b'['; 100_000];
        let frame = Frame {
            kind: kind::HELLO,
            payload: &payload,
        };
        assert!(matches!(
            ToHost::parse(&frame),
            Err(MessageError::Malformed {
                message: "Hello",
                ..
            })
        ));
    }

    #[test]
    fn a_stream_that_does_not_exist_is_refused() {
        let frame = Frame {
            kind: kind::OUTPUT_CLOSED,
            payload: &[3],
        };
        assert!(ToGuest::parse(&frame).is_err());
    }
}
