//! Instances as containers; and, for comparison, with nothing but a root file system of their own.

use std::fs::DirBuilder;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;

use container_core::{ExitStatus, Launch, Rootfs, Stdio, Teardown};
use oci_spec::runtime::{
    LinuxCpu, LinuxMemory, LinuxNamespaceType, LinuxPids, LinuxResources, Mount, Spec, User,
};

use super::{Backend, Context, Job};
use crate::error::{Error, Result};
use crate::run::{Exit, Status};
use crate::signals::Signals;
use crate::spec::{Limits, Network};
use crate::terminal;

/// Length of the scheduler's accounting period, µs: docker's for `--cpus`, and the kernel's own default.
const CPU_PERIOD: u64 = 100_000;

/// The backend of containers, and of the native way.
pub(crate) struct Container {
    /// Whether namespaces, capabilities and seccomp isolate it.
    pub(crate) isolated: bool,
}

impl Backend for Container {
    fn run(&self, job: &Job<'_>, context: &mut Context<'_>) -> Result<Exit> {
        let layers = job.store.layer_dirs(job.image)?;
        let directory = job.instance.directory();
        let (upper, work) = (directory.join("upper"), directory.join("work"));
        for path in [&upper, &work] {
            // 0755: the upper directory becomes the instance's root directory.
            DirBuilder::new()
                .mode(0o755)
                .create(path)
                .map_err(|e| Error::io("create", path, e))?;
        }
        let spec = runtime_spec(job, self.isolated);
        let stdio = if job.spec.terminal {
            let size = terminal::size(std::io::stdout().as_fd());
            Stdio::Terminal {
                rows: size.rows,
                columns: size.columns,
            }
        } else {
            Stdio::Inherit {
                stdin: job.spec.interactive,
            }
        };
        let mut container = container_core::start(Launch::new(
            &job.instance.record.id,
            &spec,
            Rootfs::Overlay {
                lower: &layers,
                upper: &upper,
                work: &work,
                // What goes with the instance need not reach the disk.
                volatile: job.spec.auto_remove,
            },
            stdio,
        ))?;
        for stage in container.stages() {
            context.timeline.add(stage.name, stage.at);
        }
        (context.started)();
        attend(&mut container, context.signals, job.spec.interactive)?;
        let exit = container.wait()?;
        let stats = container.cgroup().and_then(|cgroup| cgroup.stats().ok());
        if job.spec.auto_remove {
            // The overlay writes back whatever its upper directory still holds when it goes. Whatever cannot be removed
            // now is removed, or told, when the instance is settled.
            let _ = std::fs::remove_dir_all(&upper);
            let _ = std::fs::remove_dir_all(&work);
        }
        container.release(Teardown::Leave)?;
        Ok(Exit {
            status: match exit.status {
                ExitStatus::Exited(code) => Status::Code(code),
                ExitStatus::Signaled(number) => Status::Signal(number),
            },
            oom_killed: exit.oom_killed,
            peak_memory: stats.and_then(|stats| stats.memory_peak),
        })
    }
}

/// Carries the terminal, if there is one, and signals until the command has ended.
fn attend(
    container: &mut container_core::Container,
    signals: &Signals,
    interactive: bool,
) -> Result<()> {
    let master = container.take_terminal();
    // A signal that comes after the end has nobody to reach.
    let signal = |number| drop(container.signal(number));
    match master {
        Some(master) => terminal::join(&master, container.pidfd(), signals, interactive, signal),
        None => terminal::wait_only(container.pidfd(), signals, |number| {
            // The window's size concerns only those who have a terminal from us.
            if number != libc::SIGWINCH {
                signal(number);
            }
        }),
    }
}

/// The instance in the words of the OCI runtime specification.
fn runtime_spec(job: &Job<'_>, isolated: bool) -> Spec {
    let args = job.process.args.clone();
    let mut spec = if isolated {
        container_core::default_spec(args)
    } else {
        native_spec(args)
    };
    let identity = &job.process.identity;
    if let Some(process) = spec.process_mut() {
        process.set_env(Some(job.process.env.clone()));
        process.set_cwd(job.process.cwd.clone().into());
        process.set_terminal(Some(job.spec.terminal));
        let mut user = User::default();
        user.set_uid(identity.uid);
        user.set_gid(identity.gid);
        user.set_additional_gids(Some(identity.groups.clone()));
        process.set_user(user);
    }
    if let Some(root) = spec.root_mut() {
        root.set_readonly(Some(job.spec.read_only));
    }
    if isolated {
        spec.set_hostname(Some(job.hostname.to_owned()));
    }
    if let Some(linux) = spec.linux_mut() {
        if job.spec.seccomp_unconfined || !isolated {
            linux.set_seccomp(None);
        }
        if job.spec.network == Network::Host {
            let mut namespaces = linux.namespaces().clone().unwrap_or_default();
            namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Network);
            linux.set_namespaces(Some(namespaces));
        }
        let mut resources = linux.resources().clone().unwrap_or_default();
        set_limits(&mut resources, &job.spec.limits);
        linux.set_resources(Some(resources));
    }
    spec
}

/// No isolation but the root file system: what the other ways are compared with. The host's /proc, /sys and /dev are
/// there, since the command runs on the host.
fn native_spec(args: Vec<String>) -> Spec {
    let mut spec = container_core::default_spec(args);
    spec.set_hostname(None);
    let mounts = ["/proc", "/sys", "/dev"]
        .into_iter()
        .map(|path| {
            let mut mount = Mount::default();
            mount.set_destination(path.into());
            mount.set_source(Some(path.into()));
            mount.set_typ(Some("bind".into()));
            mount.set_options(Some(vec!["rbind".into(), "rprivate".into()]));
            mount
        })
        .collect();
    spec.set_mounts(Some(mounts));
    if let Some(process) = spec.process_mut() {
        process.set_capabilities(None);
        process.set_no_new_privileges(Some(false));
    }
    if let Some(linux) = spec.linux_mut() {
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        namespaces.retain(|namespace| namespace.typ() == LinuxNamespaceType::Mount);
        linux.set_namespaces(Some(namespaces));
        linux.set_masked_paths(None);
        linux.set_readonly_paths(None);
        linux.set_devices(None);
        let mut resources = linux.resources().clone().unwrap_or_default();
        resources.set_devices(None);
        linux.set_resources(Some(resources));
    }
    spec
}

/// docker's flags as the kernel's limits.
pub(crate) fn set_limits(resources: &mut LinuxResources, limits: &Limits) {
    if let Some(bytes) = limits.memory {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let mut memory = LinuxMemory::default();
        memory.set_limit(Some(bytes));
        // docker's default: as much swap as memory, both counted together.
        memory.set_swap(Some(bytes.saturating_mul(2)));
        resources.set_memory(Some(memory));
    }
    if let Some(cpus) = limits.cpus {
        let mut cpu = LinuxCpu::default();
        cpu.set_period(Some(CPU_PERIOD));
        cpu.set_quota(Some(cpu_quota(cpus)));
        resources.set_cpu(Some(cpu));
    }
    if let Some(most) = limits.pids {
        let mut pids = LinuxPids::default();
        pids.set_limit(i64::try_from(most).unwrap_or(i64::MAX));
        resources.set_pids(Some(pids));
    }
}

/// CPUs as µs of run time in each period; the kernel takes no less than 1 ms.
fn cpu_quota(cpus: f64) -> i64 {
    ((cpus * CPU_PERIOD as f64) as i64).max(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_the_kernels_numbers() {
        let mut resources = LinuxResources::default();
        set_limits(
            &mut resources,
            &Limits {
                memory: Some(64 << 20),
                cpus: Some(1.5),
                pids: Some(7),
            },
        );
        let memory = resources.memory().unwrap();
        assert_eq!(
            (memory.limit(), memory.swap()),
            (Some(64 << 20), Some(128 << 20))
        );
        let cpu = resources.cpu().clone().unwrap();
        assert_eq!((cpu.quota(), cpu.period()), (Some(150_000), Some(100_000)));
        assert_eq!(resources.pids().as_ref().unwrap().limit(), 7);
        assert_eq!(cpu_quota(0.001), 1000);
    }
}
