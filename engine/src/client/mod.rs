//! The command's side of an instance's streams: terminal, standard input, signals, and word of the end.

mod keys;

use std::io::{self, IsTerminal, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::error::{Error, Result};
use crate::home::Home;
use crate::signals::Signals;
use crate::supervisor::protocol::{CHUNK, Link, Packet, Reply, Request, WINDOW};
use crate::supervisor::{Polls, connect};
use crate::terminal::{self, RawMode};

pub use keys::DetachKeys;

/// How a command takes part in an instance.
#[derive(Debug, Clone, Default)]
pub struct Attach {
    /// Standard input is passed on.
    pub stdin: bool,
    /// Standard output is shown.
    pub stdout: bool,
    /// Standard error is shown.
    pub stderr: bool,
    /// Signals are passed on.
    pub sig_proxy: bool,
    /// The keys that leave the instance.
    pub detach_keys: DetachKeys,
}

impl Attach {
    /// Everything a foreground `run` does, standard input if `stdin`.
    pub fn foreground(stdin: bool) -> Self {
        Self {
            stdin,
            stdout: true,
            stderr: true,
            sig_proxy: true,
            detach_keys: DetachKeys::default(),
        }
    }

    /// Copies of this process's descriptors for what it wants to see.
    pub(crate) fn descriptors(&self) -> [Option<BorrowedFd<'static>>; 2] {
        // SAFETY: 1 and 2 are open as long as this process runs (Rust's runtime sees to it), and nothing here closes them.
        let standard = |number| unsafe { BorrowedFd::borrow_raw(number) };
        [
            self.stdout.then(|| standard(1)),
            self.stderr.then(|| standard(2)),
        ]
    }
}

/// How a conversation with a supervisor came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Parting {
    /// The instance (or the process that was asked for) has ended.
    Ended {
        code: u8,
        oom_killed: bool,
        error: Option<String>,
    },
    /// It could not be started.
    Failed { code: u8, message: String },
    /// It goes on without this command.
    Detached,
    /// A signal ended this command and not the instance (`--sig-proxy=false`).
    Interrupted(i32),
    /// The supervisor is gone without a word.
    Lost,
}

/// A conversation about streams.
pub(crate) struct Conversation<'a> {
    pub(crate) link: Link,
    pub(crate) attach: &'a Attach,
    /// The instance has a terminal.
    pub(crate) terminal: bool,
    /// It runs already.
    pub(crate) running: bool,
    pub(crate) signals: &'a Signals,
    pub(crate) notice: &'a mut dyn FnMut(&str),
    /// Called once it runs.
    pub(crate) started: &'a mut dyn FnMut(),
}

impl Conversation<'_> {
    /// Carries everything until the end, or until the user leaves.
    pub(crate) fn hold(self) -> Result<Parting> {
        let Self {
            link,
            attach,
            terminal,
            mut running,
            signals,
            notice,
            started,
        } = self;
        let mut keys = keys::Watch::new(&attach.detach_keys);
        let mut raw = None;
        let make_raw = || {
            // Raw mode only for a command that runs: every error before is printed on an ordinary terminal.
            (terminal && attach.stdin).then(RawMode::of_stdin).flatten()
        };
        if running {
            raw = make_raw();
        }
        let mut reading = attach.stdin;
        let mut credit = WINDOW;
        let mut leaving = false;
        let mut packet = Vec::new();
        let mut typed = Vec::new();
        let parting = loop {
            let mut polls = Polls::default();
            let heard = polls.add(link.number(), libc::POLLIN);
            let signalled = polls.add(signals.number(), libc::POLLIN);
            let input = polls.add_if(
                reading && credit > 0 && running && !leaving,
                io::stdin().as_raw_fd(),
                libc::POLLIN,
            );
            polls.wait(None)?;
            if polls.is_ready(signalled)
                && let Some(number) = obey_signals(&link, signals, attach, terminal)
            {
                break Parting::Interrupted(number);
            }
            if polls.is_ready(input) {
                typed.resize(CHUNK.min(credit), 0);
                match io::stdin().lock().read(&mut typed) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Ok(count) if count > 0 => {
                        let bytes = typed.get(..count).unwrap_or_default();
                        let (bytes, leave) = if terminal {
                            keys.pass(bytes)
                        } else {
                            (bytes.to_vec(), false)
                        };
                        // A supervisor that is gone is noticed below.
                        if !bytes.is_empty() && link.send_stdin(&bytes).is_ok() {
                            credit -= bytes.len();
                        }
                        if leave {
                            leaving = true;
                            let _ = link.send(&Request::Detach, &[]);
                        }
                    }
                    _ => {
                        reading = false;
                        let _ = link.send(&Request::StdinEnd, &[]);
                    }
                }
            }
            if !polls.is_ready(heard) {
                continue;
            }
            match link.receive::<Reply>(&mut packet, false) {
                Packet::Message(reply, _) => match reply {
                    Reply::Notice(line) => notice(&line),
                    Reply::Started => {
                        running = true;
                        raw = make_raw();
                        started();
                    }
                    Reply::Credit(bytes) => credit = (credit + bytes as usize).min(WINDOW),
                    Reply::StdinClosed => reading = false,
                    Reply::Done => {}
                    Reply::Detached => break Parting::Detached,
                    Reply::Refused(message) => break Parting::Failed { code: 125, message },
                    Reply::Failed { code, message } => break Parting::Failed { code, message },
                    Reply::Ended {
                        code,
                        oom_killed,
                        error,
                    } => {
                        break Parting::Ended {
                            code,
                            oom_killed,
                            error,
                        };
                    }
                },
                Packet::Nothing => {}
                Packet::Stdin(_) | Packet::Closed => break Parting::Lost,
            }
        };
        drop(raw);
        Ok(parting)
    }
}

/// Passes signals on; gives the one that ends this command instead.
fn obey_signals(link: &Link, signals: &Signals, attach: &Attach, terminal: bool) -> Option<i32> {
    while let Some(number) = signals.next() {
        if number == libc::SIGWINCH {
            if terminal {
                resize(link);
            }
        } else if attach.sig_proxy {
            let request = Request::Signal {
                number,
                by_user: false,
            };
            let _ = link.send(&request, &[]);
        } else if !matches!(
            number,
            libc::SIGCONT | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU
        ) {
            return Some(number);
        }
    }
    None
}

/// Tells the supervisor how large this command's terminal is.
pub(crate) fn resize(link: &Link) {
    let size = own_size();
    let request = Request::Resize {
        rows: size.rows,
        columns: size.columns,
    };
    // A supervisor that is gone is noticed elsewhere.
    let _ = link.send(&request, &[]);
}

/// The size of this command's terminal: that of its output, or of its input where only that is one.
pub(crate) fn own_size() -> terminal::Size {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    if stdout.is_terminal() {
        terminal::size(stdout.as_fd())
    } else {
        terminal::size(stdin.as_fd())
    }
}

/// Asks the supervisor of an instance for something, and waits for its answer. `None`: there is no supervisor.
pub(crate) fn ask(home: &Home, id: &str, request: &Request) -> Result<Option<Reply>> {
    let Some(link) = connect(home, id)? else {
        return Ok(None);
    };
    if link.send(request, &[]).is_err() {
        return Ok(None);
    }
    Ok(answer(&link))
}

/// The next answer that is not about something else.
pub(crate) fn answer(link: &Link) -> Option<Reply> {
    let mut buffer = Vec::new();
    loop {
        match link.receive::<Reply>(&mut buffer, true) {
            Packet::Message(Reply::Notice(_) | Reply::Credit(_), _) => {}
            Packet::Message(reply, _) => return Some(reply),
            _ => return None,
        }
    }
}

/// Ends an instance at once and for good; without a supervisor there is nothing to end.
pub(crate) fn end_at_once(home: &Home, id: &str) {
    let request = Request::Signal {
        number: libc::SIGKILL,
        by_user: true,
    };
    // What does not listen is killed by its cgroup.
    if let Ok(Some(link)) = connect(home, id) {
        let _ = link.send(&request, &[]);
    }
}

/// Copies a descriptor, closed on exec.
pub(crate) fn copy(descriptor: BorrowedFd<'_>) -> Result<std::os::fd::OwnedFd> {
    descriptor
        .try_clone_to_owned()
        .map_err(|source| Error::System {
            action: "copy a descriptor",
            source,
        })
}
