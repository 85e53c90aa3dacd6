//! Pseudo-terminals.

use super::{Fd, Result, check_int};

/// Opens the slave of a pty master without going through a path (ioctl_tty(2), since Linux 4.13).
const TIOCGPTPEER: libc::c_ulong = 0x5441;

/// Unlocks the slave of a pty master.
pub(crate) fn unlock(master: Fd) -> Result<()> {
    let locked: libc::c_int = 0;
    // SAFETY: the ioctl reads one int.
    check_int(unsafe { libc::ioctl(master, libc::TIOCSPTLCK, &raw const locked) }).map(drop)
}

/// Opens the slave of a pty master, close-on-exec and without making it the controlling terminal.
pub(crate) fn slave(master: Fd) -> Result<Fd> {
    // SAFETY: the argument is a set of open flags.
    check_int(unsafe {
        libc::ioctl(
            master,
            TIOCGPTPEER,
            libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC,
        )
    })
}

/// Sets the size of a terminal's window in characters.
pub(crate) fn set_size(terminal: Fd, rows: u16, columns: u16) -> Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the ioctl reads the structure.
    check_int(unsafe { libc::ioctl(terminal, libc::TIOCSWINSZ, &raw const size) }).map(drop)
}

/// Makes a terminal the controlling terminal of the session that the caller leads.
pub(crate) fn make_controlling(terminal: Fd) -> Result<()> {
    // SAFETY: the argument is a number.
    check_int(unsafe { libc::ioctl(terminal, libc::TIOCSCTTY, 0) }).map(drop)
}

/// Makes the calling process's group the one in the foreground of its terminal.
pub(crate) fn take_foreground(terminal: Fd) -> Result<()> {
    // SAFETY: takes nothing, cannot fail.
    let group: libc::pid_t = unsafe { libc::getpgrp() };
    // SAFETY: the ioctl reads one process ID.
    check_int(unsafe { libc::ioctl(terminal, libc::TIOCSPGRP, &raw const group) }).map(drop)
}
