//! One clear sentence for what the container's process could not do.

use crate::child::report::{Failure, Refusal, Step};
use crate::error::Error;
use crate::plan::devices::{DEFAULT_DEVICES, DEFAULT_LINKS};
use crate::plan::rootfs::{HostPath, RootPlan};
use crate::plan::{Plan, show};
use crate::sys::Errno;

/// Why clone3 failed.
pub(super) fn clone(plan: &Plan, errno: Errno) -> Error {
    let hint = match errno.0 {
        libc::ENOSPC => {
            " (the limit on nested or on all namespaces is reached: see /proc/sys/user/max_*_namespaces)"
        }
        libc::EPERM if !plan.namespaces.makes_user() => " (this takes root)",
        libc::EAGAIN => " (the limit on processes is reached)",
        libc::EINVAL => " (a namespace of the specification is missing from this kernel)",
        _ => "",
    };
    Error::setup(format!("make the container's process{hint}"), errno)
}

fn path(path: &HostPath) -> String {
    show(&path.path).into_owned()
}

/// The sentence for a failure.
pub(crate) fn failure(plan: &Plan, failure: Failure) -> Error {
    let Failure { step, index, errno } = failure;
    let index = index as usize;
    if step == Step::Execute {
        return execute(plan.command(), index, errno);
    }
    let target = |kind: &str, list: &[crate::plan::Restricted]| {
        format!(
            "{kind} /{}",
            list.get(index)
                .map(|restricted| show(&restricted.path.path))
                .unwrap_or_default()
        )
    };
    let mount = || match plan.mounts.get(index) {
        Some(mount) => format!("/{}", show(&mount.target.path)),
        None => "a mount".to_owned(),
    };
    let doing = match step {
        Step::Launcher => "hear from the launcher".to_owned(),
        Step::UserNamespace => "become root of the user namespace (is ID 0 mapped?)".to_owned(),
        Step::Join => match plan.namespaces.join.get(index) {
            Some(join) => format!("join the namespace {}", join.path.display()),
            None => "join the container's namespaces (is it still running?)".to_owned(),
        },
        Step::Session => "make a session".to_owned(),
        Step::Keyring => "make a session keyring".to_owned(),
        Step::Propagation => "make the mounts private".to_owned(),
        Step::Overlay => match (&plan.root, errno.0) {
            (RootPlan::Overlay { upper, .. }, libc::EINVAL) => format!(
                "mount the overlay (upper and work must be on one file system that supports it, and not themselves an overlay: {})",
                path(upper)
            ),
            (_, libc::ENODEV) => {
                "mount the overlay (the kernel has no overlay file system: modprobe overlay)"
                    .to_owned()
            }
            _ => "mount the overlay".to_owned(),
        },
        Step::OverlayLayer | Step::OverlayUpper | Step::OverlayWork => {
            let RootPlan::Overlay {
                lower, upper, work, ..
            } = &plan.root
            else {
                return Error::setup("mount the overlay", errno);
            };
            match step {
                Step::OverlayUpper => format!("use {} as the upper layer", path(upper)),
                Step::OverlayWork => format!("use {} as the overlay's work directory", path(work)),
                _ => format!(
                    "use {} as a layer",
                    lower.get(index).map(path).unwrap_or_default()
                ),
            }
        }
        Step::RootDirectory | Step::Chroot => match &plan.root {
            RootPlan::Directory(directory, _) | RootPlan::Chroot(directory) => {
                format!("enter the root {}", path(directory))
            }
            _ => "enter the root".to_owned(),
        },
        Step::MountSource => match plan.mounts.get(index).map(|mount| &mount.kind) {
            Some(
                crate::plan::mounts::Kind::Bind { source, .. }
                | crate::plan::mounts::Kind::Prepared { source, .. },
            ) => {
                format!("bind {} to {}", show(source), mount())
            }
            _ => format!("mount {}", mount()),
        },
        Step::MountTarget if errno == Errno(libc::ELOOP) => format!(
            "make the mount point {} (proc and sysfs are mounted on directories, not on what a link in the image leads to)",
            mount()
        ),
        Step::MountTarget => format!("make the mount point {}", mount()),
        Step::Mount => format!("mount {}", mount()),
        Step::MountAttributes => format!("set the mount options of {}", mount()),
        Step::CopyUp => format!("copy what is below the tmpfs at {}", mount()),
        Step::CgroupEntrance => "enter the container's cgroups".to_owned(),
        Step::CgroupNamespace => "make a cgroup namespace".to_owned(),
        Step::CgroupMount => format!("mount the cgroups at {}", mount()),
        Step::NetworkNamespace => "enter the network namespace".to_owned(),
        Step::Loopback => "bring the loopback interface up".to_owned(),
        Step::DefaultDevice => {
            format!(
                "make /dev/{}",
                DEFAULT_DEVICES
                    .get(index)
                    .map(|device| show(device.name))
                    .unwrap_or_default()
            )
        }
        Step::DefaultLink => {
            format!(
                "make /dev/{}",
                DEFAULT_LINKS
                    .get(index)
                    .map(|(name, _)| show(name))
                    .unwrap_or_default()
            )
        }
        Step::Device => match plan.devices.get(index) {
            Some(device) => format!("make the device /{}", show(&device.target.path)),
            None => "make a device".to_owned(),
        },
        Step::WorkingDirectory => format!(
            "enter the working directory {}",
            show(&plan.process.absolute_cwd)
        ),
        Step::Terminal => "open a terminal (is devpts mounted at /dev/pts?)".to_owned(),
        Step::Console => "make /dev/console".to_owned(),
        Step::Pivot => "make the root file system the root".to_owned(),
        Step::Sysctl => match plan.sysctls.get(index) {
            Some(sysctl) => format!("set the sysctl {}", sysctl.name),
            None => "set a sysctl".to_owned(),
        },
        Step::SysctlFile => "set sysctls (is proc mounted at /proc?)".to_owned(),
        Step::MaskedPath => target("mask", &plan.masked),
        Step::ReadonlyPath => target("make read-only", &plan.readonly),
        Step::ReadonlyRoot => "make the root read-only".to_owned(),
        Step::Hostname => "set the hostname".to_owned(),
        Step::Domainname => "set the domainname".to_owned(),
        Step::Limit => match plan.process.limits.get(index) {
            Some(limit) => format!("set {} to {}:{}", limit.name, limit.soft, limit.hard),
            None => "set a resource limit".to_owned(),
        },
        Step::Personality => "set the personality".to_owned(),
        Step::Scheduler => "set the scheduler".to_owned(),
        Step::IoPriority => "set the I/O priority".to_owned(),
        Step::Affinity => "set process.execCPUAffinity".to_owned(),
        Step::OomScore => format!(
            "set process.oomScoreAdj to {}{}",
            plan.process.oom_score_adj.unwrap_or_default(),
            if errno == Errno(libc::EACCES) {
                " (lowering it takes CAP_SYS_RESOURCE)"
            } else {
                ""
            }
        ),
        Step::Time => "make a time namespace with linux.timeOffsets".to_owned(),
        Step::MemoryPolicy => "set linux.memoryPolicy".to_owned(),
        Step::Init => "start the command below an init".to_owned(),
        Step::Stdio => "set up standard input, output and error".to_owned(),
        Step::Groups => "set the supplementary groups".to_owned(),
        Step::Group => format!("become group {}", plan.process.gid),
        Step::User => format!("become user {}", plan.process.uid),
        Step::Capabilities => "set the capabilities".to_owned(),
        Step::NoNewPrivileges => "set no_new_privs".to_owned(),
        Step::Filter => "load the seccomp filter".to_owned(),
        Step::Execute => "execute".to_owned(),
    };
    Error::setup(doing, errno)
}

/// The sentence for a failure after the gate, told to a caller who has no plan.
pub(super) fn late_failure(command: &str, failure: Failure) -> Error {
    let doing = match failure.step {
        Step::Execute => return execute(command, failure.index as usize, failure.errno),
        Step::Filter => "load the seccomp filter",
        Step::Capabilities => "set the capabilities",
        Step::Init => "start the command below an init",
        _ => "start the container",
    };
    Error::setup(doing, failure.errno)
}

fn execute(command: &str, refusal: usize, errno: Errno) -> Error {
    let command = command.to_owned();
    if refusal == Refusal::OwnProgram as usize {
        let reason =
            "it leads to this runtime's own program file, which must not be reached from inside"
                .to_owned();
        return Error::NotExecutable { command, reason };
    }
    match errno.0 {
        libc::ENOENT if refusal == Refusal::Interpreter as usize => Error::CommandNotFound {
            command,
            reason: "no such file or directory (the file exists; the loader or script interpreter it names does not)"
                .to_owned(),
        },
        libc::ENOENT if !command.contains('/') => {
            Error::CommandNotFound { command, reason: "executable file not found in $PATH".to_owned() }
        }
        libc::ENOENT | libc::ENOTDIR => Error::CommandNotFound { command, reason: errno.to_string() },
        _ => Error::NotExecutable { command, reason: errno.to_string() },
    }
}
