//! Processes: making one, what it may do, how it ends, and the end of the machine.

use core::arch::naked_asm;
use core::ffi::{CStr, c_void};

use guest_protocol::{Capabilities, Rlimit};

use super::file::Fd;
use super::{Errno, Result, call};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    /// wait(2)'s status.
    pub(crate) status: i32,
    /// The largest resident set of it or of what it waited for, in bytes.
    pub(crate) peak_memory: u64,
}

/// A child's memory for its stack while it shares the parent's memory: enough for exec's preparation, which formats nothing
/// large and recurses nowhere.
#[repr(align(16))]
pub(crate) struct ChildStack(pub(crate) [u8; 16 << 10]);

/// Where a child's number comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Namespace {
    /// A new PID namespace, whose PID 1 it is.
    New,
    /// The one that [`join_namespace`] has named, or else the agent's own.
    Joined,
}

/// Makes a child, and gives its number and a pidfd. The child shares this process's memory, runs `run(argument)` on `stack`,
/// and this process stands still until the child has executed a program or ended: nothing is copied, which is most of what a
/// fork costs where the kernel is emulated, and what the child wrote can be read here.
///
/// # Safety
/// `argument` must be valid for `run` until this returns, and `run` must not unwind.
pub(crate) unsafe fn spawn(
    namespace: Namespace,
    stack: &mut ChildStack,
    run: extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> Result<(u32, Fd)> {
    let mut flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    if namespace == Namespace::New {
        flags |= libc::CLONE_NEWPID;
    }
    let mut pidfd = -1i32;
    let top = stack.0.as_mut_ptr_range().end;
    // SAFETY: `top` is the end of a stack of the child's own, aligned to 16; the kernel writes a descriptor to `pidfd`; the
    // rest is the caller's promise.
    let result = unsafe { clone(flags as usize, top, &mut pidfd, run, argument) };
    if result < 0 {
        return Err(Errno(-result as i32));
    }
    Ok((result as u32, Fd::own(pidfd as usize)))
}

/// Puts every child from now on in the PID namespace of this process.
pub(crate) fn join_namespace(pidfd: &Fd) -> Result<()> {
    let arguments = [
        pidfd.number() as usize,
        libc::CLONE_NEWPID as usize,
        0,
        0,
        0,
        0,
    ];
    // SAFETY: setns takes numbers.
    unsafe { call(libc::SYS_setns, arguments) }.map(drop)
}

/// clone(2) onto another stack.
///
/// # Safety
/// As for [`spawn`]; `stack` is the end of writable memory, aligned to 16.
#[unsafe(naked)]
unsafe extern "C" fn clone(
    flags: usize,
    stack: *mut u8,
    pidfd: *mut i32,
    run: extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> isize {
    naked_asm!(
        // The child finds what to run on its stack, since only its registers differ from the parent's.
        "sub rsi, 16",
        "mov [rsi], rcx",
        "mov [rsi + 8], r8",
        "xor r10d, r10d",
        "xor r8d, r8d",
        "mov eax, {clone}",
        "syscall",
        "test rax, rax",
        "jnz 2f",
        "xor ebp, ebp",
        "pop rax",
        "pop rdi",
        "call rax",
        "ud2",
        "2: ret",
        clone = const libc::SYS_clone,
    )
}

/// Replaces the program; returns only when it cannot be.
pub(crate) fn execute(path: &CStr, arguments: &[*const u8], environment: &[*const u8]) -> Errno {
    debug_assert!(arguments.last().is_some_and(|last| last.is_null()));
    debug_assert!(environment.last().is_some_and(|last| last.is_null()));
    let parameters = [
        path.as_ptr() as usize,
        arguments.as_ptr() as usize,
        environment.as_ptr() as usize,
        0,
        0,
        0,
    ];
    // SAFETY: the path ends in a zero byte; both arrays end in a null pointer and hold pointers to strings that end in a
    // zero byte, or the kernel answers EFAULT.
    match unsafe { call(libc::SYS_execve, parameters) } {
        Err(error) => error,
        Ok(_) => Errno(libc::EIO),
    }
}

/// As [`execute`], of an open file. Not for scripts, whose interpreter would find the file closed.
pub(crate) fn execute_file(file: &Fd, arguments: &[*const u8], environment: &[*const u8]) -> Errno {
    debug_assert!(arguments.last().is_some_and(|last| last.is_null()));
    debug_assert!(environment.last().is_some_and(|last| last.is_null()));
    let parameters = [
        file.number() as usize,
        c"".as_ptr() as usize,
        arguments.as_ptr() as usize,
        environment.as_ptr() as usize,
        libc::AT_EMPTY_PATH as usize,
        0,
    ];
    // SAFETY: as in `execute`, with an empty path.
    match unsafe { call(libc::SYS_execveat, parameters) } {
        Err(error) => error,
        Ok(_) => Errno(libc::EIO),
    }
}

pub(crate) fn exit(code: i32) -> ! {
    loop {
        // SAFETY: exit_group takes a number and does not return.
        let _ = unsafe { call(libc::SYS_exit_group, [code as usize, 0, 0, 0, 0, 0]) };
    }
}

/// Waits for a child that has ended, or is about to.
pub(crate) fn wait(pid: u32) -> Result<Ended> {
    let mut status = 0i32;
    // SAFETY: rusage is made of numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { core::mem::zeroed() };
    let arguments = [
        pid as usize,
        core::ptr::from_mut(&mut status) as usize,
        0,
        core::ptr::from_mut(&mut usage) as usize,
        0,
        0,
    ];
    loop {
        // SAFETY: the kernel writes an int and an rusage.
        match unsafe { call(libc::SYS_wait4, arguments) } {
            Ok(_) => {
                return Ok(Ended {
                    status,
                    // Kibibytes: getrusage(2).
                    peak_memory: (usage.ru_maxrss as u64).saturating_mul(1024),
                });
            }
            Err(Errno(libc::EINTR)) => {}
            Err(error) => return Err(error),
        }
    }
}

pub(crate) fn kill(pid: u32, signal: i32) -> Result<()> {
    let arguments = [pid as usize, signal as usize, 0, 0, 0, 0];
    // SAFETY: kill takes numbers.
    unsafe { call(libc::SYS_kill, arguments) }.map(drop)
}

/// Kills every process but the agent.
pub(crate) fn kill_all() -> Result<()> {
    let arguments = [usize::MAX, libc::SIGKILL as usize, 0, 0, 0, 0];
    // SAFETY: kill takes numbers; -1 leaves PID 1 and the caller out.
    match unsafe { call(libc::SYS_kill, arguments) } {
        // There is nobody else.
        Ok(_) | Err(Errno(libc::ESRCH)) => Ok(()),
        Err(error) => Err(error),
    }
}

pub(crate) fn new_session() -> Result<()> {
    // SAFETY: setsid takes nothing.
    unsafe { call(libc::SYS_setsid, [0; 6]) }.map(drop)
}

pub(crate) fn set_umask(mask: u32) {
    // SAFETY: umask takes a number and cannot fail.
    let _ = unsafe { call(libc::SYS_umask, [mask as usize, 0, 0, 0, 0, 0]) };
}

pub(crate) fn set_limit(limit: &Rlimit) -> Result<()> {
    let values = libc::rlimit64 {
        rlim_cur: limit.soft,
        rlim_max: limit.hard,
    };
    let arguments = [
        0,
        limit.resource as usize,
        core::ptr::from_ref(&values) as usize,
        0,
        0,
        0,
    ];
    // SAFETY: prlimit64 reads one rlimit64 and writes nothing to a null pointer; 0 is the caller.
    unsafe { call(libc::SYS_prlimit64, arguments) }.map(drop)
}

pub(crate) fn set_groups(groups: &[u32]) -> Result<()> {
    let arguments = [groups.len(), groups.as_ptr() as usize, 0, 0, 0, 0];
    // SAFETY: the kernel reads as many group IDs as the slice has.
    unsafe { call(libc::SYS_setgroups, arguments) }.map(drop)
}

/// Sets the real, effective and saved IDs: the group's first, since it takes the user's privilege.
pub(crate) fn set_ids(uid: u32, gid: u32) -> Result<()> {
    let (uid, gid) = (uid as usize, gid as usize);
    // SAFETY: setresgid and setresuid take numbers.
    unsafe { call(libc::SYS_setresgid, [gid, gid, gid, 0, 0, 0]) }?;
    // SAFETY: as above.
    unsafe { call(libc::SYS_setresuid, [uid, uid, uid, 0, 0, 0]) }.map(drop)
}

/// Changes of user keep the permitted capabilities from now until exec, or no more.
pub(crate) fn keep_capabilities(keep: bool) -> Result<()> {
    control(libc::PR_SET_KEEPCAPS, usize::from(keep), 0)
}

pub(crate) fn no_new_privileges() -> Result<()> {
    control(libc::PR_SET_NO_NEW_PRIVS, 1, 0)
}

/// Drops every capability outside the mask from the bounding set. The kernel says where its numbers end.
pub(crate) fn bound_capabilities(bounding: u64) -> Result<()> {
    for capability in 0..64 {
        if bounding >> capability & 1 == 1 {
            continue;
        }
        match control(libc::PR_CAPBSET_DROP, capability, 0) {
            Err(Errno(libc::EINVAL)) => break,
            other => other?,
        }
    }
    Ok(())
}

/// Sets effective, permitted, inheritable and ambient sets.
pub(crate) fn set_capabilities(sets: &Capabilities) -> Result<()> {
    /// _LINUX_CAPABILITY_VERSION_3: linux/capability.h.
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let half = |shift: u32| {
        [sets.effective, sets.permitted, sets.inheritable].map(|set| (set >> shift) as u32)
    };
    let data = [half(0), half(32)];
    let arguments = [header.as_ptr() as usize, data.as_ptr() as usize, 0, 0, 0, 0];
    // SAFETY: the kernel reads a header of two words, and two structures of three words as this version has.
    unsafe { call(libc::SYS_capset, arguments) }?;
    for capability in (0..64).filter(|capability| sets.ambient >> capability & 1 == 1) {
        control(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_RAISE as usize,
            capability,
        )?;
    }
    Ok(())
}

fn control(operation: i32, first: usize, second: usize) -> Result<()> {
    // SAFETY: the operations used here take numbers only.
    unsafe {
        call(
            libc::SYS_prctl,
            [operation as usize, first, second, 0, 0, 0],
        )
    }
    .map(drop)
}

pub(crate) fn set_hostname(name: &str) -> Result<()> {
    let arguments = [name.as_ptr() as usize, name.len(), 0, 0, 0, 0];
    // SAFETY: the kernel reads as many bytes as the name has.
    unsafe { call(libc::SYS_sethostname, arguments) }.map(drop)
}

/// Reads the last of the kernel's log, and gives how much there was.
pub(crate) fn kernel_log(buffer: &mut [u8]) -> Result<usize> {
    /// SYSLOG_ACTION_READ_ALL: the kernel's include/linux/syslog.h.
    const READ_ALL: usize = 3;
    let arguments = [
        READ_ALL,
        buffer.as_mut_ptr() as usize,
        buffer.len(),
        0,
        0,
        0,
    ];
    // SAFETY: the kernel writes no more than the buffer's length into it.
    unsafe { call(libc::SYS_syslog, arguments) }
}

pub(crate) fn sync() {
    // SAFETY: sync takes nothing and cannot fail.
    let _ = unsafe { call(libc::SYS_sync, [0; 6]) };
}

/// Resets the machine: both monitors end then. Returns never.
pub fn reset() -> ! {
    let arguments = [
        libc::LINUX_REBOOT_MAGIC1 as u32 as usize,
        libc::LINUX_REBOOT_MAGIC2 as usize,
        libc::LINUX_REBOOT_CMD_RESTART as usize,
        0,
        0,
        0,
    ];
    loop {
        // SAFETY: this command of reboot(2) takes no string.
        let _ = unsafe { call(libc::SYS_reboot, arguments) };
        super::time::sleep(1_000_000_000);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_shares_memory_and_its_end_is_seen() {
        extern "C" fn run(argument: *mut c_void) -> ! {
            // SAFETY: the test passes a pointer to an int that lives while the parent stands still.
            unsafe { argument.cast::<i32>().write_volatile(42) };
            exit(7)
        }
        if std::process::Command::new("unshare")
            .args(["--pid", "--fork", "true"])
            .status()
            .is_ok_and(|s| s.success())
        {
            let mut stack = alloc::boxed::Box::new(ChildStack([0; 16 << 10]));
            let mut cell = 0i32;
            // SAFETY: `cell` outlives the call, and `run` never unwinds.
            let (pid, pidfd) = unsafe {
                spawn(
                    Namespace::New,
                    &mut stack,
                    run,
                    core::ptr::from_mut(&mut cell).cast(),
                )
            }
            .unwrap();
            // SAFETY: `cell` is a valid int, written by the child meanwhile.
            assert_eq!(unsafe { (&raw const cell).read_volatile() }, 42);
            assert_eq!(wait(pid).unwrap().status, 7 << 8);
            drop(pidfd);
        } else {
            std::eprintln!("skipped: no right to make PID namespaces");
        }
    }
}
