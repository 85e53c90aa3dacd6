//! Which system calls each kind of thread may make. Any other ends the monitor, and the machine with it: it is a mistake of
//! ours or the guest's hand, and for neither is there a good way to go on. The one that made the call is told of, by
//! SIGSYS.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use crate::{Error, Result};

/// What a thread is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kvm) enum Work {
    /// Runs a virtual CPU, writes the guest's console, and resets devices.
    Vcpu,
    /// Serves the devices that are quick, and sees the machine to its end.
    Devices,
    /// The same, and writes the machine into a template's files.
    Saving,
    /// Serves a disk.
    Disk,
    /// Serves files.
    Files,
    /// Serves a network device.
    Network,
    /// Lets go of the host's mounts.
    Leave,
}

impl Work {
    /// What its thread is called.
    pub(in crate::kvm) fn name(self) -> &'static str {
        match self {
            Self::Vcpu => "vcpu",
            Self::Devices | Self::Saving => "devices",
            Self::Disk => "disk",
            Self::Files => "files",
            Self::Network => "network",
            Self::Leave => "leave",
        }
    }
}

/// What every thread does: its memory, waiting for other threads, reading and writing descriptors, the time, its end; and
/// what a panic takes on its way to it.
const EVERYONE: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_lseek,
    libc::SYS_ftruncate,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_poll,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
];

/// What a device's event loop does.
const EVENTS: &[i64] = &[
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
];

/// How the control channel is read and written.
const CHANNEL: &[i64] = &[
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
];

/// What is done with a disk's file.
const DISK: &[i64] = &[
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
];

/// What is done with files that are shared, all of it by descriptors (devices/virtio/fs/host.rs), and as whom.
const FILES: &[i64] = &[
    libc::SYS_capset,
    libc::SYS_copy_file_range,
    libc::SYS_fallocate,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_fdatasync,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_flock,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_getdents64,
    libc::SYS_getrlimit,
    libc::SYS_linkat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_preadv,
    libc::SYS_prlimit64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_readlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_setfsgid,
    libc::SYS_setfsuid,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_syncfs,
    libc::SYS_timerfd_settime,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
];

/// What lets go of mounts.
const LEAVE: &[i64] = &[libc::SYS_umount2];

/// What a reset of the device that serves files takes, which is the virtual CPU's doing.
const FILES_RESET: &[i64] = &[libc::SYS_statx, libc::SYS_timerfd_settime];

/// What KVM is asked by a thread that runs a virtual CPU: KVM_RUN, KVM_GET_REGS, KVM_SET_REGS, KVM_GET_SREGS, KVM_TRANSLATE,
/// KVM_GET_VCPU_EVENTS and KVM_SET_VCPU_EVENTS (linux/kvm.h, on x86-64).
const KVM: &[u64] = &[
    0xae80,
    0x8090_ae81,
    0x4090_ae82,
    0x8138_ae83,
    0xc018_ae85,
    0x8040_ae9f,
    0x4040_aea0,
];

/// What a template's state is read with: KVM_RUN, the registers (KVM_GET_REGS, _SREGS, _XSAVE, _XCRS, _DEBUGREGS, _LAPIC, _MP_STATE,
/// _VCPU_EVENTS, _MSRS and KVM_SET_MSRS, _TSC_KHZ, KVM_KVMCLOCK_CTRL), and of the machine KVM_GET_IRQCHIP, _PIT2, _CLOCK.
const KVM_STATE: &[u64] = &[
    0xae80,
    0x8090_ae81,
    0x8138_ae83,
    0x9000_aea4,
    0x8188_aea6,
    0x8080_aea1,
    0x8400_ae8e,
    0x8004_ae98,
    0x8040_ae9f,
    0xc008_ae88,
    0x4008_ae89,
    0xaea3,
    0xaead,
    0xc208_ae62,
    0x8070_ae9f,
    0x8030_ae7c,
];

/// TUNSETOFFLOAD: what a tap leaves to the guest is settled when its driver starts and resets the device, which is the virtual
/// CPU's doing.
const TAP: u64 = 0x4004_54d0;

/// The names that newer C libraries give to what they map (PR_SET_VMA).
const NAME_MAPPING: u64 = 0x5356_4d41;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The filters, ready to be installed.
pub(super) struct Filters {
    vcpu: BpfProgram,
    devices: BpfProgram,
    saving: BpfProgram,
    disk: BpfProgram,
    files: BpfProgram,
    network: BpfProgram,
    leave: BpfProgram,
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::System {
        what: "filter system calls",
        source: std::io::Error::other(error.to_string()),
    }
}

/// An argument that must be this.
fn is(argument: u8, width: SeccompCmpArgLen, value: u64) -> Result<SeccompCondition> {
    SeccompCondition::new(argument, width, SeccompCmpOp::Eq, value).map_err(failed)
}

/// Allowed when the argument is one of these.
fn one_of(argument: u8, width: SeccompCmpArgLen, values: &[u64]) -> Result<Vec<SeccompRule>> {
    values
        .iter()
        .map(|value| SeccompRule::new(vec![is(argument, width.clone(), *value)?]).map_err(failed))
        .collect()
}

/// What every thread may do, of a process with this number.
fn everyone(process: u64) -> Result<Rules> {
    let mut rules: Rules = EVERYONE.iter().map(|call| (*call, Vec::new())).collect();
    // Memory that code is executed from is never made.
    let executable = libc::PROT_EXEC as u64;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let without = SeccompCondition::new(
            2,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::MaskedEq(executable),
            0,
        )
        .map_err(failed)?;
        rules.insert(call, vec![SeccompRule::new(vec![without]).map_err(failed)?]);
    }
    // Threads are kicked and a panic aborts: signals to this process alone.
    rules.insert(
        libc::SYS_tgkill,
        one_of(0, SeccompCmpArgLen::Dword, &[process])?,
    );
    rules.insert(
        libc::SYS_prctl,
        one_of(0, SeccompCmpArgLen::Dword, &[NAME_MAPPING])?,
    );
    Ok(rules)
}

fn compile(mut rules: Rules, more: &[&[i64]]) -> Result<BpfProgram> {
    for call in more.iter().copied().flatten() {
        rules.insert(*call, Vec::new());
    }
    SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )
    .and_then(BpfProgram::try_from)
    .map_err(failed)
}

impl Filters {
    /// The filters for this process, which serves files or does not.
    pub(super) fn new(files: bool) -> Result<Self> {
        let common = everyone(std::process::id().into())?;
        let mut vcpu = common.clone();
        let asked = [KVM, &[TAP]].concat();
        vcpu.insert(libc::SYS_ioctl, one_of(1, SeccompCmpArgLen::Dword, &asked)?);
        let mut network = common.clone();
        network.insert(libc::SYS_ioctl, one_of(1, SeccompCmpArgLen::Dword, &[TAP])?);
        let mut saving = common.clone();
        let state = one_of(1, SeccompCmpArgLen::Dword, KVM_STATE)?;
        saving.insert(libc::SYS_ioctl, state);
        let reset = if files { FILES_RESET } else { &[] };
        Ok(Self {
            vcpu: compile(vcpu, &[reset])?,
            devices: compile(common.clone(), &[EVENTS, CHANNEL])?,
            saving: compile(saving, &[EVENTS, CHANNEL, DISK])?,
            disk: compile(common.clone(), &[EVENTS, DISK])?,
            network: compile(network, &[EVENTS])?,
            leave: compile(common.clone(), &[LEAVE])?,
            files: match files {
                true => compile(common, &[EVENTS, FILES])?,
                false => BpfProgram::new(),
            },
        })
    }

    /// Lets this thread make the calls of its work and no others, for good.
    pub(super) fn install(&self, work: Work) -> Result<()> {
        let filter = match work {
            Work::Vcpu => &self.vcpu,
            Work::Devices => &self.devices,
            Work::Saving => &self.saving,
            Work::Disk => &self.disk,
            Work::Files => &self.files,
            Work::Network => &self.network,
            Work::Leave => &self.leave,
        };
        apply_filter(filter).map_err(failed)
    }
}
