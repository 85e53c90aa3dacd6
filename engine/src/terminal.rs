//! The user's terminal: its size, raw mode, and the loop that joins it to an instance's.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::error::{Error, Result};
use crate::signals::Signals;

/// Rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) rows: u16,
    pub(crate) columns: u16,
}

impl Size {
    /// What terminals have been since the VT100.
    pub(crate) const DEFAULT: Self = Self {
        rows: 24,
        columns: 80,
    };
}

/// Size of the terminal behind `descriptor`, or what terminals have been since the VT100.
pub(crate) fn size(descriptor: BorrowedFd<'_>) -> Size {
    let mut window = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one winsize through the pointer, which is to one that lives through the call.
    let done = unsafe {
        libc::ioctl(
            std::os::fd::AsRawFd::as_raw_fd(&descriptor),
            libc::TIOCGWINSZ,
            &mut window,
        )
    };
    if done == 0 && window.ws_row > 0 && window.ws_col > 0 {
        Size {
            rows: window.ws_row,
            columns: window.ws_col,
        }
    } else {
        Size::DEFAULT
    }
}

/// Gives the terminal behind `descriptor` a size.
pub(crate) fn set_size(descriptor: BorrowedFd<'_>, size: Size) {
    let window = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one winsize through the pointer. A failure leaves the old size, which harms nothing.
    unsafe {
        libc::ioctl(
            std::os::fd::AsRawFd::as_raw_fd(&descriptor),
            libc::TIOCSWINSZ,
            &window,
        )
    };
}

/// Raw mode, as long as this lives. Every way out of `run` drops it; signals arrive as events, not as deaths.
#[derive(Debug)]
pub(crate) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Puts standard input's terminal into raw mode; `None` when standard input is no terminal.
    pub(crate) fn of_stdin() -> Option<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(stdin.as_fd()).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing better can be done for a terminal that has gone.
        let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &self.before);
    }
}

/// Bytes moved at once: a pipe's capacity.
const CHUNK: usize = 64 << 10;

/// Joins standard input and output to `master` until the process behind `ended` (a pidfd) is gone and all it wrote has
/// been passed on. `signal` is called for each signal that comes.
pub(crate) fn join(
    master: &OwnedFd,
    ended: BorrowedFd<'_>,
    signals: &Signals,
    interactive: bool,
    mut signal: impl FnMut(i32),
) -> Result<()> {
    set_nonblocking(master.as_fd())?;
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let mut typed: Vec<u8> = Vec::new();
    let mut reading = interactive;
    let mut buffer = vec![0; CHUNK];
    loop {
        let mut wanted = PollFlags::POLLIN;
        wanted.set(PollFlags::POLLOUT, !typed.is_empty());
        let stdin = io::stdin();
        // What was typed waits until the instance reads it; only then is more taken.
        let take = reading && typed.is_empty();
        let mut set = [
            PollFd::new(ended, PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(master.as_fd(), wanted),
            PollFd::new(
                stdin.as_fd(),
                if take {
                    PollFlags::POLLIN
                } else {
                    PollFlags::empty()
                },
            ),
        ];
        match poll(&mut set, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(e) => {
                return Err(Error::System {
                    action: "wait for the terminal",
                    source: e.into(),
                });
            }
        }
        let ready: Vec<bool> = set
            .iter()
            .map(|entry| entry.any().unwrap_or(false))
            .collect();
        while let Some(number) = signals.next() {
            if number == libc::SIGWINCH {
                set_size(master.as_fd(), size(io::stdin().as_fd()));
            } else {
                signal(number);
            }
        }
        if ready[3] && take {
            match input.read(&mut buffer) {
                Ok(0) => reading = false,
                Ok(count) => typed.extend_from_slice(&buffer[..count]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => reading = false,
            }
        }
        if !typed.is_empty() {
            match nix::unistd::write(master, &typed) {
                Ok(count) => drop(typed.drain(..count)),
                Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
                Err(_) => typed.clear(),
            }
        }
        let ended_now = ready[0];
        if ready[2] || ended_now {
            let mut state = pass_on(master, &mut output, &mut buffer);
            while ended_now && state == Flow::More {
                state = pass_on(master, &mut output, &mut buffer);
            }
            if ended_now {
                return Ok(());
            }
            if state == Flow::Closed {
                return wait_only(ended, signals, signal);
            }
        }
    }
}

/// Waits for the end of the process behind `ended`, passing signals on: all that is left once its standard streams
/// need no help.
pub(crate) fn wait_only(
    ended: BorrowedFd<'_>,
    signals: &Signals,
    mut signal: impl FnMut(i32),
) -> Result<()> {
    loop {
        let mut set = [
            PollFd::new(ended, PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut set, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(e) => {
                return Err(Error::System {
                    action: "wait for the instance",
                    source: e.into(),
                });
            }
        }
        while let Some(number) = signals.next() {
            signal(number);
        }
        if set[0].any().unwrap_or(false) {
            return Ok(());
        }
    }
}

/// What one read of the terminal found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Bytes; there may be more.
    More,
    /// Nothing for now.
    Dry,
    /// The last process on the terminal is gone.
    Closed,
}

/// Passes on what the instance wrote. A reader of ours that has gone does not stop the instance.
fn pass_on(master: &OwnedFd, output: &mut impl Write, buffer: &mut [u8]) -> Flow {
    match nix::unistd::read(master, buffer) {
        Ok(0) => Flow::Closed,
        Ok(count) => {
            let _ = output
                .write_all(&buffer[..count])
                .and_then(|()| output.flush());
            Flow::More
        }
        Err(nix::Error::EINTR) => Flow::More,
        Err(nix::Error::EAGAIN) => Flow::Dry,
        // EIO is how a terminal tells it.
        Err(_) => Flow::Closed,
    }
}

fn set_nonblocking(descriptor: BorrowedFd<'_>) -> Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let system = |e: nix::Error| Error::System {
        action: "prepare the terminal",
        source: e.into(),
    };
    let flags = fcntl(descriptor, FcntlArg::F_GETFL).map_err(system)?;
    fcntl(
        descriptor,
        FcntlArg::F_SETFL(OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK),
    )
    .map_err(system)?;
    Ok(())
}
