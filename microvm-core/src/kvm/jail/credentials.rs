//! As whom the monitor runs, and what it may do.

use std::io;

use crate::share::Shared;

/// linux/capability.h.
const CHOWN: u32 = 0;
const DAC_OVERRIDE: u32 = 1;
const DAC_READ_SEARCH: u32 = 2;
const FOWNER: u32 = 3;
const FSETID: u32 = 4;
const SETGID: u32 = 6;
const SETUID: u32 = 7;
const SYS_ADMIN: u32 = 21;
const MKNOD: u32 = 27;
const SETFCAP: u32 = 31;

/// Which capabilities the monitor keeps, all of them among the first 32; one thread of it has them at last, which serves
/// files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Powers {
    /// It serves no files: none, and it is nobody.
    None,
    /// It lets go of the host's mounts.
    Leave,
    /// It serves files to be read only: it may read what others may not, and it is nobody.
    Read,
    /// It serves files to be written: it does to them what the guest's users and its root do, and it is who it was.
    Write,
}

impl Powers {
    pub(super) fn for_shares(shares: &[Shared]) -> Self {
        match shares.iter().all(|share| share.read_only) {
            _ if shares.is_empty() => Self::None,
            true => Self::Read,
            false => Self::Write,
        }
    }

    fn mask(self) -> u32 {
        let all: &[u32] = match self {
            Self::None => &[],
            Self::Leave => &[SYS_ADMIN],
            Self::Read => &[DAC_READ_SEARCH],
            // Files belong to whoever makes them in the guest (SETUID, SETGID, CHOWN), whose kernel has decided that it may
            // be done (DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER); set-user-ID bits, device nodes and capabilities of files are
            // kept as they are (FSETID, MKNOD, SETFCAP).
            Self::Write => &[
                CHOWN,
                DAC_OVERRIDE,
                DAC_READ_SEARCH,
                FOWNER,
                FSETID,
                SETGID,
                SETUID,
                MKNOD,
                SETFCAP,
            ],
        };
        all.iter().fold(0, |mask, number| mask | 1 << number)
    }
}

/// Effective, permitted and inheritable capabilities, low and high half.
type Sets = [[u32; 3]; 2];

/// _LINUX_CAPABILITY_VERSION_3, for the calling thread.
const HEADER: [u32; 2] = [0x2008_0522, 0];

fn check(result: i64) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn own() -> io::Result<Sets> {
    let mut sets = Sets::default();
    // SAFETY: the kernel reads a header of two words and writes two structures of three words, as this version has.
    check(unsafe { libc::syscall(libc::SYS_capget, HEADER.as_ptr(), sets.as_mut_ptr()) })?;
    Ok(sets)
}

fn set(sets: &Sets) -> io::Result<()> {
    // SAFETY: the kernel reads a header of two words and two structures of three words, as this version has.
    check(unsafe { libc::syscall(libc::SYS_capset, HEADER.as_ptr(), sets.as_ptr()) })
}

/// Whether this process may make namespaces.
pub(in crate::kvm) fn may_administer() -> bool {
    own().is_ok_and(|[[effective, ..], _]| effective >> SYS_ADMIN & 1 == 1)
}

/// Takes everything from the calling thread, and from those it will make, but these powers; for good.
pub(super) fn drop_all_but(powers: Powers, nobody: u32) -> io::Result<()> {
    let [[effective, ..], _] = own()?;
    let may = |number: u32| effective >> number & 1 == 1;
    // SAFETY: all take integers, but setgroups, which reads no group of a list without any. The raw calls are for this thread
    // alone.
    unsafe {
        // Nothing is ever executed in here, and were it, it would gain nothing.
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
        // 64 is more than there are: the first that there is not is an error, which ends it.
        for number in 0..64 {
            if libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) != 0 {
                break;
            }
        }
        check(
            libc::prctl(
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_CLEAR_ALL,
                0,
                0,
                0,
            )
            .into(),
        )?;
        if powers != Powers::Write && may(SETUID) && may(SETGID) && libc::geteuid() == 0 {
            check(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0).into())?;
            check(libc::syscall(
                libc::SYS_setgroups,
                0,
                std::ptr::null::<u32>(),
            ))?;
            check(libc::syscall(libc::SYS_setresgid, nobody, nobody, nobody))?;
            check(libc::syscall(libc::SYS_setresuid, nobody, nobody, nobody))?;
        }
    }
    keep(powers)?;
    // No other process of this user's looks into this one, and no core of it is written.
    // SAFETY: prctl takes integers.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }.into())
}

/// Takes all capabilities but these from the calling thread, for good.
pub(super) fn keep(powers: Powers) -> io::Result<()> {
    let [[_, permitted, _], _] = own()?;
    let kept = powers.mask() & permitted;
    set(&[[kept, kept, 0], [0; 3]])
}

/// What the calling thread may do, as a mask, for tests.
#[cfg(test)]
pub(super) fn capabilities() -> u64 {
    own().map_or(u64::MAX, |[[low, ..], [high, ..]]| {
        u64::from(high) << 32 | u64::from(low)
    })
}
