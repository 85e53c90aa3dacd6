//! System calls, without a C library: each a safe function over the one raw call here.
//!
//! The agent is frugal with them. On a host whose KVM works by page tables a guest's system call costs about a millisecond.

pub(crate) mod file;
pub(crate) mod mount;
pub(crate) mod net;
pub(crate) mod process;
pub(crate) mod time;

use core::arch::asm;
use core::fmt;

pub(crate) use file::Fd;

/// An error number of Linux's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Errno(pub(crate) i32);

pub(crate) type Result<T> = core::result::Result<T, Errno>;

/// Makes a system call; arguments that it does not take are ignored by the kernel.
///
/// # Safety
/// The arguments must be right for the call: pointers valid for what the kernel reads and writes through them.
pub(crate) unsafe fn call(number: i64, arguments: [usize; 6]) -> Result<usize> {
    let result: isize;
    // SAFETY: this is x86-64's calling convention for system calls: the number in rax, six arguments, the result in rax,
    // rcx and r11 overwritten, everything else kept. What the kernel does to memory is the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            in("r8") arguments[4],
            in("r9") arguments[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    // The kernel's error range: MAX_ERRNO in include/linux/err.h.
    if (-4095..0).contains(&result) {
        Err(Errno(-result as i32))
    } else {
        Ok(result as usize)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        guest_freestanding::errno::describe(self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_gives_its_result_or_its_error() {
        // SAFETY: getpid takes no arguments.
        let pid = unsafe { call(libc::SYS_getpid, [0; 6]) };
        assert_eq!(pid, Ok(std::process::id() as usize));
        // SAFETY: close takes a number.
        let closed = unsafe { call(libc::SYS_close, [usize::MAX, 0, 0, 0, 0, 0]) };
        assert_eq!(closed, Err(Errno(libc::EBADF)));
    }
}
