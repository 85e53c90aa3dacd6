//! Descriptors for engines, and the terminal or the waiting of a command in the foreground.

use std::fs;
use std::io::{IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{read, write};

/// Whether the flags and the process agree about who gets the terminal.
pub(super) fn check_terminal(terminal: bool, socket: Option<&Path>, detached: bool) -> Result<()> {
    match (terminal, socket) {
        (true, None) if detached => bail!(
            "the process wants a terminal, and nobody is there to hold it: give --console-socket"
        ),
        (false, Some(_)) => {
            bail!("--console-socket: the process has no terminal (process.terminal is false)")
        }
        _ => Ok(()),
    }
}

/// Sends a descriptor to whoever listens at a socket.
pub(super) fn send(socket: &Path, name: &str, descriptor: BorrowedFd<'_>) -> Result<()> {
    let stream = UnixStream::connect(socket)
        .with_context(|| format!("cannot connect to {}", socket.display()))?;
    sendmsg::<()>(
        stream.as_raw_fd(),
        &[IoSlice::new(name.as_bytes())],
        &[ControlMessage::ScmRights(&[descriptor.as_raw_fd()])],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .with_context(|| format!("cannot send a descriptor to {}", socket.display()))?;
    Ok(())
}

/// Writes a process ID for whoever watches the file: it is there whole or not at all.
pub(super) fn write_pid(path: &Path, pid: i32) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.{}", std::process::id()));
    fs::write(&new, pid.to_string())
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Signals that this process takes by descriptor: they are for the container.
pub(super) struct Signals(SignalFd);

impl Signals {
    /// Blocks all signals. Those that tell of this process's own mistakes are never blocked.
    pub(super) fn take() -> Result<Self> {
        let mut set = SigSet::all();
        for signal in [
            Signal::SIGBUS,
            Signal::SIGSEGV,
            Signal::SIGILL,
            Signal::SIGFPE,
            Signal::SIGCHLD,
            Signal::SIGPIPE,
        ] {
            set.remove(signal);
        }
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None).context("cannot block signals")?;
        let descriptor = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context("cannot take signals")?;
        Ok(Self(descriptor))
    }

    fn next(&self) -> Option<i32> {
        match self.0.read_signal() {
            Ok(Some(info)) => i32::try_from(info.ssi_signo).ok(),
            _ => None,
        }
    }
}

/// This process's terminal in raw mode; dropping it restores the mode.
struct RawMode(Termios);

impl RawMode {
    /// `None` where standard input is no terminal.
    fn new() -> Option<Self> {
        let before = tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that has gone needs no mode.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0);
    }
}

/// Height and width of this process's terminal; zeros where there is none.
pub(super) fn window() -> (u16, u16) {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the structure is ours to write; where the call fails it stays as it is.
    unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (size.ws_row, size.ws_col)
}

fn resize(master: &OwnedFd) {
    let (rows, columns) = window();
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the structure is read.
    unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
}

/// Stays until a process has ended: carries its terminal, if there is one, and passes signals on.
pub(super) fn attend(
    pidfd: BorrowedFd<'_>,
    master: Option<OwnedFd>,
    signals: &Signals,
    send: impl Fn(i32),
) -> Result<()> {
    let raw = master.as_ref().and_then(|_| RawMode::new());
    let stdin = std::io::stdin();
    let mut reads = master.is_some();
    let mut ended = false;
    let mut buffer = vec![0_u8; 64 << 10];
    loop {
        let mut polled = vec![PollFd::new(signals.0.as_fd(), PollFlags::POLLIN)];
        polled.push(PollFd::new(pidfd, PollFlags::POLLIN));
        if let Some(master) = &master {
            polled.push(PollFd::new(master.as_fd(), PollFlags::POLLIN));
            if reads {
                polled.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
            }
        }
        // After the end, what the terminal still holds is read without waiting.
        let timeout = if ended {
            PollTimeout::ZERO
        } else {
            PollTimeout::NONE
        };
        match poll(&mut polled, timeout) {
            Err(Errno::EINTR) => continue,
            other => other.context("cannot wait for the process")?,
        };
        let ready: Vec<bool> = polled
            .iter()
            .map(|one| one.revents().is_some_and(|events| !events.is_empty()))
            .collect();
        let is_ready = |index: usize| ready.get(index).copied().unwrap_or(false);
        if is_ready(0) {
            while let Some(signal) = signals.next() {
                match (&master, signal) {
                    (Some(master), libc::SIGWINCH) => resize(master),
                    (None, libc::SIGWINCH) => {}
                    (_, signal) => send(signal),
                }
            }
        }
        if let Some(master) = &master {
            if is_ready(2) {
                match read(master, &mut buffer) {
                    Ok(length @ 1..) => {
                        let mut out = std::io::stdout().lock();
                        // Whoever read it has gone; the process goes on.
                        let _ = out
                            .write_all(buffer.get(..length).unwrap_or_default())
                            .and_then(|()| out.flush());
                        continue;
                    }
                    // EIO: its last user has closed it.
                    _ if ended => break,
                    _ => {}
                }
            }
            if reads && is_ready(3) {
                match read(&stdin, &mut buffer) {
                    Ok(length @ 1..) => {
                        let mut rest = buffer.get(..length).unwrap_or_default();
                        while !rest.is_empty() {
                            match write(master, rest) {
                                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                                Err(Errno::EINTR) => {}
                                Err(_) => break,
                            }
                        }
                    }
                    _ => reads = false,
                }
            }
        }
        if ended {
            break;
        }
        ended = is_ready(1);
        if ended && master.is_none() {
            break;
        }
    }
    drop(raw);
    Ok(())
}
