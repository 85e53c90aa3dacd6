//! Users, groups, capabilities and the filter: who the process is and what it may do.

use super::{Result, check, check_int};

/// `_LINUX_CAPABILITY_VERSION_3` of capget(2): two 32-bit words a set.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The three sets capset(2) takes, one bit a capability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sets {
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
}

/// The calling thread's capabilities.
pub(crate) fn capabilities() -> Result<Sets> {
    let mut header = CapHeader {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 writes two elements.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    let [low, high] = data;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok(Sets {
        effective: join(low.effective, high.effective),
        permitted: join(low.permitted, high.permitted),
        inheritable: join(low.inheritable, high.inheritable),
    })
}

/// Sets the calling thread's capabilities.
pub(crate) fn set_capabilities(sets: Sets) -> Result<()> {
    let mut header = CapHeader {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let word = |shift: u32| CapData {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let data = [word(0), word(32)];
    // SAFETY: version 3 reads two elements.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) }).map(drop)
}

fn prctl(option: libc::c_int, second: libc::c_ulong, third: libc::c_ulong) -> Result<libc::c_int> {
    // SAFETY: the options used in this module take numbers; unused arguments must be zero.
    check_int(unsafe {
        libc::prctl(
            option,
            second,
            third,
            0 as libc::c_ulong,
            0 as libc::c_ulong,
        )
    })
}

/// Whether a capability is in the bounding set; an error means that the kernel does not know it.
pub(crate) fn is_bounding(capability: u32) -> Result<bool> {
    prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(capability), 0).map(|set| set == 1)
}

/// Takes a capability out of the bounding set.
pub(crate) fn drop_bounding(capability: u32) -> Result<()> {
    prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0).map(drop)
}

/// Empties the ambient set.
pub(crate) fn clear_ambient() -> Result<()> {
    prctl(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong,
        0,
    )
    .map(drop)
}

/// Puts a capability into the ambient set; it must be permitted and inheritable.
pub(crate) fn raise_ambient(capability: u32) -> Result<()> {
    prctl(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong,
        libc::c_ulong::from(capability),
    )
    .map(drop)
}

/// Keeps the permitted set over a change of user (prctl(2), `PR_SET_KEEPCAPS`).
pub(crate) fn keep_capabilities() -> Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, 1, 0).map(drop)
}

/// No `execve` from here on may gain privileges.
pub(crate) fn set_no_new_privileges() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// Shuts other processes out of this one's memory and of its files in /proc.
pub(crate) fn make_undumpable() -> Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0, 0).map(drop)
}

/// Whether other processes may look into this one's memory; as `PR_SET_DUMPABLE` takes it back.
pub(crate) fn dumpable() -> Result<libc::c_int> {
    prctl(libc::PR_GET_DUMPABLE, 0, 0)
}

/// Lets other processes look into this one's memory again, as they could before.
pub(crate) fn restore_dumpable(before: libc::c_int) -> Result<()> {
    // 2 cannot be set by hand (prctl(2)); it is what shutting out is, too.
    let value = if before == 1 { 1 } else { 0 };
    prctl(libc::PR_SET_DUMPABLE, value, 0).map(drop)
}

/// The kernel sends this signal when the thread that made this process ends.
pub(crate) fn set_parent_death_signal(signal: libc::c_int) -> Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong, 0).map(drop)
}

/// Sets real, effective and saved user ID, of this thread only (the child has no other).
pub(crate) fn set_user(uid: u32) -> Result<()> {
    // SAFETY: no memory is passed. The raw call is used because the C library's would signal the other threads.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// Sets real, effective and saved group ID, of this thread only.
pub(crate) fn set_group(gid: u32) -> Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

/// Sets the supplementary groups, of this thread only.
pub(crate) fn set_groups(groups: &[u32]) -> Result<()> {
    // SAFETY: the slice is as long as we say.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// Loads a seccomp filter.
pub(crate) fn load_filter(
    program: &[libc::sock_filter],
    flags: libc::c_ulong,
) -> Result<libc::c_long> {
    let program = libc::sock_fprog {
        // The compiler of filters bounds its length by BPF_MAXINSNS (4096).
        len: program.len() as libc::c_ushort,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies `len` instructions from the pointer and does not write to them.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    })
}

/// keyctl(2), `KEYCTL_JOIN_SESSION_KEYRING`: leaves the launcher's keys behind.
pub(crate) fn join_session_keyring(name: &std::ffi::CStr) -> Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: the name is terminated.
    check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) }).map(drop)
}
