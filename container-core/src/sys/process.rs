//! The rest of what makes a process: its session, limits, schedule, names and its new program.

use std::ffi::{CStr, c_char};
use std::os::unix::thread::JoinHandleExt;
use std::thread::JoinHandle;

use super::{Errno, Fd, Result, check, check_int};

/// setsid(2).
pub(crate) fn new_session() -> Result<()> {
    // SAFETY: no memory is passed.
    check_int(unsafe { libc::setsid() }).map(drop)
}

/// Blocks every signal and returns the mask there was.
pub(crate) fn block_signals() -> libc::sigset_t {
    // SAFETY: both sets are ours to write, and the call cannot fail with these arguments (pthread_sigmask(3)).
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut old);
        old
    }
}

/// Restores a mask of [`block_signals`].
pub(crate) fn restore_signals(mask: &libc::sigset_t) {
    // SAFETY: the set was filled by the kernel.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) };
}

/// `struct sigaction` as the kernel takes it on x86-64.
#[repr(C)]
#[derive(Default)]
struct KernelSigaction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

/// Signals that end nothing by default, or that stop and continue: they wait for the command (signal(7)).
const HARMLESS: [libc::c_int; 8] = [
    libc::SIGCHLD,
    libc::SIGCONT,
    libc::SIGURG,
    libc::SIGWINCH,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGSTOP,
];

/// A descriptor that is readable when a signal waits which would have ended the process, all of them being blocked.
pub(crate) fn deadly_signals() -> Result<Fd> {
    // SAFETY: the set is ours to write.
    let deadly = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut set);
        for signal in HARMLESS {
            libc::sigdelset(&mut set, signal);
        }
        set
    };
    // SAFETY: the set is readable.
    check_int(unsafe { libc::signalfd(-1, &deadly, libc::SFD_CLOEXEC) })
}

/// The number of the signal that waits on a descriptor of [`deadly_signals`].
pub(crate) fn waiting_signal(signals: Fd) -> Result<libc::c_int> {
    // `struct signalfd_siginfo` begins with the number and is 128 bytes long.
    let mut info = [0_u8; 128];
    super::file::read(signals, &mut info)?;
    let [a, b, c, d, ..] = info;
    Ok(i32::from_ne_bytes([a, b, c, d]))
}

/// Waits for any signal, all of them being blocked, and takes it.
pub(crate) fn take_signal() -> Result<libc::c_int> {
    // SAFETY: the set is ours to write; a null pointer asks for no details.
    check_int(unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigwaitinfo(&all, std::ptr::null_mut())
    })
}

/// Sends a signal by process ID.
pub(crate) fn kill(pid: libc::pid_t, signal: libc::c_int) -> Result<()> {
    // SAFETY: no memory is passed.
    check_int(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Reaps a child that has ended, if there is one: its process ID and how it ended.
pub(crate) fn reap() -> Result<Option<(libc::pid_t, Ended)>> {
    let mut status = 0;
    // SAFETY: the status is ours to write.
    let pid = check_int(unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) })?;
    if pid == 0 {
        return Ok(None);
    }
    let ended = if libc::WIFSIGNALED(status) {
        Ended::Signaled(libc::WTERMSIG(status))
    } else {
        Ended::Exited(libc::WEXITSTATUS(status))
    };
    Ok(Some((pid, ended)))
}

/// Makes the calling process the leader of a group of its own.
pub(crate) fn new_group() -> Result<()> {
    // SAFETY: no memory is passed.
    check_int(unsafe { libc::setpgid(0, 0) }).map(drop)
}

/// Names the calling thread, as ps(1) shows it; 15 bytes at most.
pub(crate) fn set_name(name: &CStr) {
    // SAFETY: the name is terminated.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

/// How many processors a set can name: the most a kernel for x86-64 is built for (NR_CPUS).
pub(crate) const MOST_PROCESSORS: usize = 8192;

/// A set of processors, one bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Processors(Box<[u64; MOST_PROCESSORS / 64]>);

impl Processors {
    /// The processors of a list, numbers below [`MOST_PROCESSORS`]; others are left out.
    pub(crate) fn new(numbers: impl IntoIterator<Item = usize>) -> Self {
        let mut words = Box::new([0_u64; MOST_PROCESSORS / 64]);
        for number in numbers {
            if let Some(word) = words.get_mut(number / 64) {
                *word |= 1 << (number % 64);
            }
        }
        Self(words)
    }
}

/// Binds the calling thread to processors.
pub(crate) fn set_affinity(processors: &Processors) -> Result<()> {
    // SAFETY: the set is as long as we say.
    check(unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            0,
            size_of_val(processors.0.as_ref()),
            processors.0.as_ptr(),
        )
    })
    .map(drop)
}

/// How many memory nodes a policy can name: the most a kernel is built for (NODES_SHIFT 10).
pub(crate) const MOST_NODES: usize = 1024;

/// What set_mempolicy(2) takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemoryPolicy {
    mode: libc::c_int,
    nodes: [u64; MOST_NODES / 64],
}

impl MemoryPolicy {
    /// A mode with its flags, and the nodes it is about, numbers below [`MOST_NODES`]; others are left out.
    pub(crate) fn new(mode: libc::c_int, nodes: impl IntoIterator<Item = usize>) -> Self {
        let mut words = [0_u64; MOST_NODES / 64];
        for node in nodes {
            if let Some(word) = words.get_mut(node / 64) {
                *word |= 1 << (node % 64);
            }
        }
        Self { mode, nodes: words }
    }
}

/// Sets where the calling thread's memory comes from.
pub(crate) fn set_memory_policy(policy: &MemoryPolicy) -> Result<()> {
    // The kernel takes one bit less than it is told.
    let bits = MOST_NODES + 1;
    // SAFETY: the mask has the bits that the kernel reads.
    check(unsafe {
        libc::syscall(
            libc::SYS_set_mempolicy,
            policy.mode,
            policy.nodes.as_ptr(),
            bits,
        )
    })
    .map(drop)
}

/// Gives every signal its default action. clone3 has done so for those that were handled, but not for those that were
/// ignored, as SIGPIPE is in every Rust program; and `execve` passes that on.
pub(crate) fn reset_signals() {
    const SIGNALS: libc::c_int = 64;
    let default = KernelSigaction::default();
    for signal in 1..=SIGNALS {
        // SAFETY: the structure is read; a null pointer asks for nothing back. SIGKILL and SIGSTOP answer EINVAL. The raw
        // call is used because the C library hides two signals of its own, which it ignores or handles.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const default,
                std::ptr::null_mut::<KernelSigaction>(),
                size_of::<u64>(),
            )
        };
    }
}

/// Lets every signal through.
pub(crate) fn unblock_signals() {
    // SAFETY: the set is ours to write.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// umask(2).
pub(crate) fn set_umask(mask: u32) {
    // SAFETY: no memory is passed; the call cannot fail.
    unsafe { libc::umask(mask) };
}

/// Sets a resource limit of the calling process.
pub(crate) fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: the structure is read; a null pointer asks for nothing back.
    check_int(unsafe { libc::prlimit(0, resource, &limit, std::ptr::null_mut()) }).map(drop)
}

/// The soft and hard resource limit of the calling process.
pub(crate) fn limit(resource: u32) -> Result<(u64, u64)> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the structure is ours to write; a null pointer changes nothing.
    check_int(unsafe { libc::prlimit(0, resource, std::ptr::null(), &mut limit) })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// sethostname(2).
pub(crate) fn set_hostname(name: &[u8]) -> Result<()> {
    // SAFETY: the name is readable for its length.
    check_int(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// setdomainname(2).
pub(crate) fn set_domainname(name: &[u8]) -> Result<()> {
    // SAFETY: the name is readable for its length.
    check_int(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// personality(2).
pub(crate) fn set_personality(persona: libc::c_ulong) -> Result<()> {
    // SAFETY: no memory is passed.
    check_int(unsafe { libc::personality(persona) }).map(drop)
}

/// ioprio_set(2) of the calling process.
pub(crate) fn set_io_priority(priority: u32) -> Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) }).map(drop)
}

/// `struct sched_attr` of sched_setattr(2), its first version.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SchedulerAttributes {
    pub(crate) size: u32,
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

/// sched_setattr(2) of the calling process.
pub(crate) fn set_scheduler(attributes: &SchedulerAttributes) -> Result<()> {
    // SAFETY: the structure states its own size.
    check(unsafe {
        libc::syscall(
            libc::SYS_sched_setattr,
            0,
            std::ptr::from_ref(attributes),
            0,
        )
    })
    .map(drop)
}

/// Null-terminated lists of strings, as execve(2) takes them.
pub(crate) struct Strings {
    pointers: Vec<*const c_char>,
    // The pointers lead into these; a CString's bytes stay where they are when it is moved.
    _owned: Vec<std::ffi::CString>,
}

impl Strings {
    /// Prepares a list.
    pub(crate) fn new(strings: Vec<std::ffi::CString>) -> Self {
        let pointers = strings
            .iter()
            .map(|text| text.as_ptr())
            .chain([std::ptr::null()])
            .collect();
        Self {
            pointers,
            _owned: strings,
        }
    }
}

/// execve(2). Returns only when it failed.
pub(crate) fn execute(path: &CStr, arguments: &Strings, environment: &Strings) -> Errno {
    // SAFETY: the path is terminated, both lists end with a null pointer and their strings are alive.
    unsafe {
        libc::execve(
            path.as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
        )
    };
    Errno::last()
}

/// Ends the process without running anything of the program's own.
pub(crate) fn exit(code: libc::c_int) -> ! {
    // SAFETY: never returns; no handlers run.
    unsafe { libc::_exit(code) }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With this code.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
}

/// How many processors the calling thread may use.
pub(crate) fn allowed_processors() -> usize {
    // SAFETY: an empty set is all zeros, and the call fills no more than its size.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        match libc::sched_getaffinity(0, size_of_val(&allowed), &mut allowed) {
            0 => usize::try_from(libc::CPU_COUNT(&allowed)).unwrap_or(1),
            _ => 1,
        }
    }
}

/// Has a thread that has just been started go on, on another of the processors that it may use than this one, if there are
/// several. In a virtual machine Linux takes an idle processor for one that the host has taken away, and would let both share
/// this one.
pub(crate) fn move_elsewhere<T>(thread: &JoinHandle<T>) {
    // SAFETY: an empty set is all zeros; the calls fill no more than its size, and the thread is there until it is joined.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        let here = libc::sched_getcpu();
        if libc::sched_getaffinity(0, size_of_val(&allowed), &mut allowed) != 0 {
            return;
        }
        match usize::try_from(here) {
            Ok(here) if here < libc::CPU_SETSIZE as usize => libc::CPU_CLR(here, &mut allowed),
            _ => return,
        }
        if libc::CPU_COUNT(&allowed) > 0 {
            // Where it fails the thread runs where it is.
            let _ = libc::pthread_setaffinity_np(
                thread.as_pthread_t(),
                size_of_val(&allowed),
                &allowed,
            );
        }
    }
}

/// Waits for the process of a pidfd, which must be a child, and reaps it. `None` (only without `block`) means that
/// it is still running.
pub(crate) fn wait(pidfd: Fd, block: bool) -> Result<Option<Ended>> {
    let flags = libc::WEXITED | if block { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: the structure is plain integers in unions, for which zero is a value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: the structure is ours to write.
        match check_int(unsafe {
            libc::waitid(libc::P_PIDFD, pidfd as libc::id_t, &mut info, flags)
        }) {
            Err(Errno(libc::EINTR)) => continue,
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        // SAFETY: waitid fills these members; they stay zero when nothing has changed yet.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        return Ok(match (pid, info.si_code) {
            (0, _) => None,
            (_, libc::CLD_EXITED) => Some(Ended::Exited(status)),
            _ => Some(Ended::Signaled(status)),
        });
    }
}
