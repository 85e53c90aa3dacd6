//! The supervisor's process.

use std::os::fd::AsRawFd;

use nix::sys::signal::Signal;

use super::protocol::system;
use super::{Launch, Supervisor, null};
use crate::error::Result;
use crate::signals::Signals;

/// Its name, as `ps -o comm` shows it; at most 15 bytes.
const NAME: &[u8] = b"plimsoll-sup\0";

/// Forks the supervisor of an instance. This process's copies of the lock and of the descriptors are closed.
///
/// # Errors
/// When the system has no room for another process. Nothing is started then.
pub(crate) fn spawn(launch: Launch) -> Result<()> {
    // SAFETY: this process has one thread (the command line's), so that the child may do whatever this process may.
    match unsafe { libc::fork() } {
        0 => be_supervisor(launch),
        pid if pid < 0 => Err(system("start the instance's supervisor")),
        _ => Ok(()),
    }
}

/// Closes every descriptor that is not the supervisor's: the command's end of the link, and whatever it has inherited, which
/// would stay open as long as the instance runs.
fn close_the_rest(launch: &Launch) -> Result<()> {
    let sinks = launch
        .starter
        .sinks
        .iter()
        .flatten()
        .map(AsRawFd::as_raw_fd);
    let mut kept: Vec<u32> = [0, 1, 2, launch.lock.number(), launch.starter.link.number()]
        .into_iter()
        .chain(sinks)
        .map(i32::cast_unsigned)
        .collect();
    kept.sort_unstable();
    let mut from = 0;
    for fd in kept.into_iter().chain([u32::MAX]) {
        if from < fd {
            // SAFETY: what is closed belongs to values of the command's, which this process never touches again: it ends by
            // _exit, without destructors.
            if unsafe { libc::syscall(libc::SYS_close_range, from, fd - 1, 0) } != 0 {
                return Err(system("let go of the command's descriptors"));
            }
        }
        from = fd.saturating_add(1);
    }
    Ok(())
}

fn be_supervisor(mut launch: Launch) -> ! {
    let _guard = NoReturn;
    // SAFETY: mallopt takes numbers. A thread that helps with the start would leave an arena of its own behind.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    launch.timeline.mark("supervisor");
    if let Ok(signals) = close_the_rest(&launch).and_then(|()| isolate()) {
        let (supervisor, lock) = Supervisor::new(launch, signals);
        supervisor.run(lock);
    }
    // SAFETY: _exit ends the process without destructors or exit handlers, which belong to the command.
    unsafe { libc::_exit(0) }
}

/// Cuts the process off from the command that started it.
fn isolate() -> Result<Signals> {
    // SAFETY: prctl reads the name, which ends in a zero; setsid has no arguments; neither signal has a handler of ours; umask
    // takes a number.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, NAME.as_ptr());
        libc::setsid();
        // Who reads the instance's output may go at any time. A container's process gets its signals reset.
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
        // What instances find is not to depend on the command's.
        libc::umask(0o022);
    }
    let signals = Signals::only(&[Signal::SIGTERM])?;
    let null = null()?;
    for standard in 0..=2 {
        // SAFETY: dup2 takes two numbers; what was there is the command's, which has its own copy.
        if unsafe { libc::dup2(null.as_raw_fd(), standard) } < 0 {
            return Err(system("let go of the command's standard streams"));
        }
    }
    Ok(signals)
}

/// Gives back what starting has used: an idle supervisor is there as long as its instance. Its heap is trimmed, and the
/// program's text and constants are unmapped page by page, of which waiting in poll brings few back.
pub(super) fn shrink() {
    // SAFETY: malloc_trim gives the kernel pages that the allocator does not use.
    unsafe { libc::malloc_trim(0) };
    let here = 0_u8;
    let here = (&raw const here).addr() as u64 & !(PAGE - 1);
    // SAFETY: everything below this function's frame and those it calls (a page is left for them) has been used and is not any
    // more; the kernel passes over what was never mapped.
    unsafe {
        libc::madvise(
            (here - STACK) as *mut libc::c_void,
            (STACK - PAGE) as usize,
            libc::MADV_DONTNEED,
        )
    };
    // SAFETY: the kernel gives every program the address of its program headers and their number, and they stay mapped.
    let headers = unsafe {
        let first = libc::getauxval(libc::AT_PHDR) as *const libc::Elf64_Phdr;
        let count = libc::getauxval(libc::AT_PHNUM) as usize;
        if first.is_null() {
            return;
        }
        std::slice::from_raw_parts(first, count)
    };
    // The headers name their own place in the file's terms: what is left is where the program was loaded.
    let Some(own) = headers.iter().find(|header| header.p_type == libc::PT_PHDR) else {
        return;
    };
    let base = (headers.as_ptr() as u64).wrapping_sub(own.p_vaddr);
    for header in headers {
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let start = base.wrapping_add(header.p_vaddr) & !(PAGE - 1);
        let end = base
            .wrapping_add(header.p_vaddr)
            .wrapping_add(header.p_memsz)
            .next_multiple_of(PAGE);
        // SAFETY: the range is a segment of the program that nobody can write to, so that every page of it is as the file has
        // it, and comes back from there when it is touched.
        unsafe {
            libc::madvise(
                start as *mut libc::c_void,
                (end - start) as usize,
                libc::MADV_DONTNEED,
            )
        };
    }
}

/// How much of the stack below is given back: more than starting an instance uses.
const STACK: u64 = 512 << 10;

/// The size of a page on x86-64, bytes.
const PAGE: u64 = 4096;

/// Ends the process should a panic unwind to where the command's code begins.
struct NoReturn;

impl Drop for NoReturn {
    fn drop(&mut self) {
        // SAFETY: as in `be_supervisor`.
        unsafe { libc::_exit(101) }
    }
}
