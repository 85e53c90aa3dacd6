//! Why a session came to nothing.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use guest_protocol::{Failed, FailureKind, FrameError, MAX_PROCESSES, MessageError, ToHost};

use crate::End;

/// How much of the console is shown.
const CONSOLE_LINES: usize = 12;
/// How much of the console's end is read for that, in bytes.
const CONSOLE_BYTES: u64 = 4096;
/// How much of a message of the guest's is shown, in characters.
const MESSAGE_CHARACTERS: usize = 2000;

/// Why a session came to nothing.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The machine ended before the process had.
    #[error("the virtual machine ended before its process did: {end}{console}")]
    Ended {
        /// How it ended.
        end: End,
        /// The last lines of the guest's console, each on a line of its own, or nothing.
        console: String,
    },
    /// The guest's kernel has panicked, which ends the machine as a reset does.
    #[error("the guest's kernel panicked: {why}{console}")]
    Panicked {
        /// Why, in the kernel's words.
        why: String,
        /// As for [`SessionError::Ended`].
        console: String,
    },
    /// The guest's agent has given up before it had a channel to say so on.
    #[error("the guest agent gave up: {why}{console}")]
    GaveUp {
        /// Why, in the agent's words.
        why: String,
        /// As for [`SessionError::Ended`].
        console: String,
    },
    /// The agent closed the channel, or the monitor did, and the machine still runs.
    #[error("the guest agent closed the control channel{console}")]
    Closed {
        /// As for [`SessionError::Ended`].
        console: String,
    },
    /// The time was up.
    #[error("the guest did not {what} within {} s{console}", limit.as_secs_f32())]
    TooLate {
        /// What it was to do.
        what: &'static str,
        /// How long it had.
        limit: Duration,
        /// As for [`SessionError::Ended`].
        console: String,
    },
    /// The agent is another version's.
    #[error(
        "the guest agent speaks version {theirs} of the protocol, not {ours}: the initial RAM disk is not this program's"
    )]
    Version {
        /// The agent's.
        theirs: u32,
        /// This crate's.
        ours: u32,
    },
    /// What came is not a frame.
    #[error("the guest agent broke the protocol: it sent {0}")]
    Frame(#[from] FrameError),
    /// What came is not a message.
    #[error("the guest agent broke the protocol: it sent {0}")]
    Message(String),
    /// A message that has no place here.
    #[error("the guest agent broke the protocol: it sent {message} {place}")]
    Unexpected {
        /// The message's name.
        message: &'static str,
        /// Where in the conversation.
        place: &'static str,
    },
    /// A message for a process that there is not, or that has ended.
    #[error(
        "the guest agent broke the protocol: it sent {message} for process {channel}, which does not run"
    )]
    Unknown {
        /// The message's name.
        message: &'static str,
        /// The process's number.
        channel: u32,
    },
    /// More output than the host had granted.
    #[error("the guest agent broke the protocol: it sent more output than there was room for")]
    Flood,
    /// The agent could not start the process, or could not go on with it.
    #[error("{message}")]
    Failed {
        /// Which sort of failure.
        kind: FailureKind,
        /// The agent's sentence, escaped.
        message: String,
    },
    /// There are as many processes in the guest as there may be.
    #[error("{MAX_PROCESSES} processes run in the virtual machine already, and no more may")]
    TooMany,
    /// The machine has ended, or its main process has.
    #[error("the virtual machine has ended")]
    Over,
    /// The caller gave the start up.
    #[error("the start was given up")]
    Abandoned,
    /// A system call failed on the host.
    #[error("cannot {what}: {source}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// Why it failed.
        source: Arc<io::Error>,
    },
}

impl SessionError {
    /// For a machine that has ended so, with what its console says.
    pub(super) fn ended(end: End, console: Option<&File>) -> Self {
        let text = console.and_then(|console| read_tail(console).ok());
        let text = text.unwrap_or_default();
        let console = last_lines(&text);
        if end == End::GuestReset {
            if let Some(why) = said(&text, "Kernel panic - not syncing: ") {
                return Self::Panicked { why, console };
            }
            if let Some(why) = said(&text, "plimsoll agent: ") {
                return Self::GaveUp { why, console };
            }
        }
        Self::Ended { end, console }
    }

    pub(super) fn unexpected(message: &ToHost<'_>, place: &'static str) -> Self {
        Self::Unexpected {
            message: message.name(),
            place,
        }
    }

    pub(super) fn unknown(message: &ToHost<'_>, channel: u32) -> Self {
        Self::Unknown {
            message: message.name(),
            channel,
        }
    }

    pub(super) fn failed(failed: Failed) -> Self {
        Self::Failed {
            kind: failed.kind,
            message: printable(&failed.message),
        }
    }

    pub(super) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System {
            what,
            source: Arc::new(source),
        }
    }
}

impl From<MessageError> for SessionError {
    fn from(error: MessageError) -> Self {
        // The reason may quote what the guest sent.
        Self::Message(printable(&error.to_string()))
    }
}

/// A guest's text for the host's terminal: bounded, and without anything that a terminal would obey.
fn printable(text: &str) -> String {
    let escape = |c: char| {
        if c.is_control() || is_invisible(c) {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    text.chars().take(MESSAGE_CHARACTERS).map(escape).collect()
}

/// Characters that reorder or hide those around them (Unicode's bidirectional controls and zero-width characters).
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// What follows these words at the end of the console. When a kernel panics, a dozen lines of the stack come after why.
fn said(text: &str, words: &str) -> Option<String> {
    text.lines()
        .find_map(|line| line.split_once(words))
        .map(|(_, why)| printable(why.trim_end()))
}

/// The console's last lines, each after a line break and indented; nothing when there are none.
pub(super) fn console_tail(console: Option<&File>) -> String {
    let Some(console) = console else {
        return String::new();
    };
    last_lines(&read_tail(console).unwrap_or_default())
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    let skipped = lines.len().saturating_sub(CONSOLE_LINES);
    lines
        .iter()
        .skip(skipped)
        .fold(String::new(), |tail, line| {
            tail + "\n  guest console: " + &printable(line)
        })
}

fn read_tail(console: &File) -> io::Result<String> {
    // The caller's own descriptor may be for writing only.
    let console = File::open(format!("/proc/self/fd/{}", console.as_raw_fd()))?;
    let about = console.metadata()?;
    if !about.is_file() {
        return Ok(String::new());
    }
    let start = about.len().saturating_sub(CONSOLE_BYTES);
    let mut bytes = vec![0; CONSOLE_BYTES as usize];
    let count = console.read_at(&mut bytes, start)?;
    bytes.truncate(count);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_panic_is_told_from_a_guest_that_powers_off() {
        let mut console = tempfile::NamedTempFile::new().unwrap();
        let ended = |end| SessionError::ended(end, Some(console.as_file())).to_string();
        assert!(ended(End::GuestReset).ends_with("the guest powered off"));
        console
            .write_all(
                b"[    1.0] Kernel panic - not syncing: No working init found.\n[ 1.1] CPU: 0\n",
            )
            .unwrap();
        let ended = |end| SessionError::ended(end, Some(console.as_file())).to_string();
        let said = ended(End::GuestReset);
        assert!(
            said.starts_with(
                "the guest's kernel panicked: No working init found.\n  guest console: "
            ),
            "{said}"
        );
        assert!(ended(End::Killed(9)).contains("killed by signal 9"));
    }

    #[test]
    fn an_agent_that_found_no_channel_is_heard_by_the_console() {
        let mut console = tempfile::NamedTempFile::new().unwrap();
        console
            .write_all(b"plimsoll agent: there is no port\r\n[ 61.0] reboot: Restarting system\n")
            .unwrap();
        let said = SessionError::ended(End::GuestReset, Some(console.as_file())).to_string();
        assert!(
            said.starts_with("the guest agent gave up: there is no port\n  guest console: "),
            "{said}"
        );
    }

    #[test]
    fn a_guests_escape_sequences_are_shown_not_obeyed() {
        assert_eq!(
            printable("a\x1b[2Jb\u{202e}c\nd"),
            "a\\u{1b}[2Jb\\u{202e}c\\nd"
        );
        assert_eq!(printable(&"x".repeat(10_000)).len(), MESSAGE_CHARACTERS);
    }

    #[test]
    fn the_last_lines_of_the_console_are_shown_though_it_is_open_for_writing_only() {
        let folder = tempfile::tempdir().unwrap();
        let mut console = File::create(folder.path().join("console")).unwrap();
        for line in 0..100 {
            write!(console, "line {line}\r\n").unwrap();
        }
        let tail = console_tail(Some(&console));
        assert_eq!(tail.lines().count(), CONSOLE_LINES + 1);
        assert!(tail.ends_with("\n  guest console: line 99"), "{tail}");
        assert_eq!(console_tail(None), "");
    }
}
