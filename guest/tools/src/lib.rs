//! What the engine needs done inside a microVM, for images that have no tools of their own: `plimsoll cp`, `diff` and `top`.
//!
//! The host sends this program along when it is wanted (see `guest-protocol`), so each of its bytes is copied by the guest's
//! kernel, and it runs where a system call may cost a millisecond: it has neither standard library nor C library, as the
//! agent. It runs as a process of the instance, below its root: so it can reach no more than that could.
//!
//! ```text
//! tar-out PATH [NAME]              an archive of PATH on stdout; its entries are NAME (by default PATH's last part) and below
//! tar-in [--owner UID:GID] DIR     unpacks the archive on stdin below DIR
//! stat PATH                        what PATH is, as a line of JSON
//! read PATH                        what is in a small file
//! write PATH                       what is on stdin in its place, the file staying the same
//! upper FD                         what the overlay's upper directory on the descriptor FD holds
//! upper-out FD                     the same as a layer's archive
//! ps                               the processes of the PID namespace, a line of JSON each
//! ```
//!
//! Exit codes: 0, or with a sentence on stderr [`NOT_FOUND`] when PATH or DIR is not there, else [`FAILED`].
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod failure;
mod input;
mod json;
mod output;
mod pack;
mod ps;
mod stat;
mod tar;
mod text;
mod unpack;
mod upper;

use alloc::format;

use rustix::fd::BorrowedFd;
use rustix::fs::{Gid, Uid};

use failure::Failure;
pub use failure::{FAILED, NOT_FOUND};
use output::Output;

/// Does what the arguments say, the program's own name not among them; gives the exit code.
pub fn run(arguments: &[&[u8]]) -> i32 {
    match command(arguments) {
        Ok(()) => 0,
        Err(failure) => {
            complain(&failure.message);
            failure.code
        }
    }
}

/// Says something on stderr.
pub fn complain(message: &str) {
    // SAFETY: stderr is open, or writing fails and harms nothing.
    let stderr = unsafe { BorrowedFd::borrow_raw(2) };
    let _ = rustix::io::write(stderr, format!("{message}\n").as_bytes());
}

fn command(arguments: &[&[u8]]) -> Result<(), Failure> {
    // SAFETY: descriptors 0 and 1 are this process's stdio and nobody closes them.
    let (stdin, stdout) = unsafe { (BorrowedFd::borrow_raw(0), BorrowedFd::borrow_raw(1)) };
    let mut output = Output::new(stdout);
    match arguments {
        [b"tar-out", path] => pack::pack(path, None, &mut output)?,
        [b"tar-out", path, name] => pack::pack(path, Some(name), &mut output)?,
        [b"tar-in", directory] => unpack::unpack(stdin, directory, None)?,
        [b"tar-in", b"--owner", owner, directory] => {
            unpack::unpack(stdin, directory, Some(parse_owner(owner)?))?;
        }
        [b"stat", path] => stat::stat(path, &mut output)?,
        [b"read", path] => text::show(path, &mut output)?,
        [b"write", path] => text::replace(stdin, path)?,
        [b"upper", number] => {
            let number = parse(number)
                .and_then(|number| i32::try_from(number).ok())
                .ok_or_else(|| Failure::new("upper wants a descriptor's number"))?;
            // SAFETY: whoever started this program has opened the descriptor for it, or its use fails.
            upper::list(unsafe { BorrowedFd::borrow_raw(number) }, &mut output)?;
        }
        [b"upper-out", number] => {
            let number = parse(number)
                .and_then(|number| i32::try_from(number).ok())
                .ok_or_else(|| Failure::new("upper-out wants a descriptor's number"))?;
            // SAFETY: as above.
            pack::pack_upper(unsafe { BorrowedFd::borrow_raw(number) }, &mut output)?;
        }
        [b"ps"] => ps::list(&mut output)?,
        _ => {
            return Err(Failure::new(
                "usage: tar-out PATH [NAME] | tar-in [--owner UID:GID] DIR | stat PATH | read PATH | write PATH | upper FD | upper-out FD | ps",
            ));
        }
    }
    output.flush()
}

/// A decimal number.
fn parse(text: &[u8]) -> Option<u64> {
    core::str::from_utf8(text).ok()?.parse().ok()
}

fn parse_owner(text: &[u8]) -> Result<(Uid, Gid), Failure> {
    let parse = || {
        let at = text.iter().position(|byte| *byte == b':')?;
        let uid = u32::try_from(parse(text.get(..at)?)?).ok()?;
        let gid = u32::try_from(parse(text.get(at + 1..)?)?).ok()?;
        owner(uid, gid)
    };
    parse().ok_or_else(|| Failure::new("--owner wants UID:GID"))
}

/// The two IDs; the largest number stands for none.
fn owner(uid: u32, gid: u32) -> Option<(Uid, Gid)> {
    (uid != u32::MAX && gid != u32::MAX).then(|| (Uid::from_raw(uid), Gid::from_raw(gid)))
}
