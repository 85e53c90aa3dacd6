//! Clocks.

use super::{Result, call};

const NANOSECONDS: u64 = 1_000_000_000;

/// Nanoseconds since the guest's kernel started.
pub fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let arguments = [
        libc::CLOCK_BOOTTIME as usize,
        core::ptr::from_mut(&mut time) as usize,
        0,
        0,
        0,
        0,
    ];
    // SAFETY: the kernel writes one timespec. The clock exists, so the call cannot fail.
    let _ = unsafe { call(libc::SYS_clock_gettime, arguments) };
    time.tv_sec as u64 * NANOSECONDS + time.tv_nsec as u64
}

/// Sets the wall clock, in nanoseconds since 1970.
pub(crate) fn set_realtime(nanoseconds: u64) -> Result<()> {
    let time = libc::timespec {
        tv_sec: (nanoseconds / NANOSECONDS) as i64,
        tv_nsec: (nanoseconds % NANOSECONDS) as i64,
    };
    let arguments = [
        libc::CLOCK_REALTIME as usize,
        core::ptr::from_ref(&time) as usize,
        0,
        0,
        0,
        0,
    ];
    // SAFETY: the kernel reads one timespec.
    unsafe { call(libc::SYS_clock_settime, arguments) }.map(drop)
}

pub(crate) fn sleep(nanoseconds: u64) {
    let time = libc::timespec {
        tv_sec: (nanoseconds / NANOSECONDS) as i64,
        tv_nsec: (nanoseconds % NANOSECONDS) as i64,
    };
    let arguments = [core::ptr::from_ref(&time) as usize, 0, 0, 0, 0, 0];
    // SAFETY: the kernel reads one timespec, and writes no remainder to a null pointer. Waking early does no harm.
    let _ = unsafe { call(libc::SYS_nanosleep, arguments) };
}
