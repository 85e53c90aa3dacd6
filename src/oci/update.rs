//! `pause`, `resume` and `update`.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use super::Runtime;
use super::arguments::{IdArguments, UpdateArguments};
use super::state::{Container, Status};

impl Runtime {
    pub(super) fn pause(&self, arguments: &IdArguments) -> Result<u8> {
        let container = Container::open_locked(&self.root, &arguments.id)?;
        match container.status()? {
            Status::Created | Status::Running => {}
            other => bail!(
                "cannot pause container {}: it is {}",
                arguments.id,
                other.name()
            ),
        }
        container
            .cgroup()?
            .ok_or_else(|| anyhow!("container {} has no cgroup to be paused by", arguments.id))?
            .freeze()?;
        Ok(0)
    }

    pub(super) fn resume(&self, arguments: &IdArguments) -> Result<u8> {
        let container = Container::open_locked(&self.root, &arguments.id)?;
        let frozen = container
            .cgroup()?
            .filter(|cgroup| cgroup.frozen().unwrap_or(false));
        match frozen {
            Some(cgroup) => cgroup.thaw()?,
            None => bail!(
                "cannot resume container {}: it is {}, not paused",
                arguments.id,
                container.status()?.name()
            ),
        }
        Ok(0)
    }

    pub(super) fn update(&self, arguments: &UpdateArguments) -> Result<u8> {
        let container = Container::open_locked(&self.root, &arguments.id)?;
        let status = container.status()?;
        if !status.is_alive() {
            bail!(
                "cannot update container {}: it is {}",
                arguments.id,
                status.name()
            );
        }
        let resources = match &arguments.resources {
            Some(path) => read(path)?,
            None => from_flags(arguments),
        };
        if arguments.kernel_memory.is_some() {
            self.log
                .warn("--kernel-memory is ignored: kernels have dropped this limit");
        }
        container
            .cgroup()?
            .ok_or_else(|| anyhow!("container {} has no cgroup to be limited by", arguments.id))?
            .update(&resources)?;
        Ok(0)
    }
}

fn read(path: &Path) -> Result<LinuxResources> {
    let mut text = String::new();
    let cannot = || format!("cannot read {}", path.display());
    if path == Path::new("-") {
        std::io::stdin()
            .take(1 << 20)
            .read_to_string(&mut text)
            .with_context(cannot)?;
    } else {
        std::fs::File::open(path)
            .and_then(|file| file.take(1 << 20).read_to_string(&mut text))
            .with_context(cannot)?;
    }
    serde_json::from_str(&text)
        .with_context(|| format!("{} is not linux.resources in JSON", path.display()))
}

fn from_flags(arguments: &UpdateArguments) -> LinuxResources {
    let mut resources = LinuxResources::default();
    resources.set_devices(None);
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(arguments.memory)
        .set_swap(arguments.memory_swap)
        .set_reservation(arguments.memory_reservation)
        .set_kernel_tcp(arguments.kernel_memory_tcp);
    if memory != LinuxMemory::default() {
        resources.set_memory(Some(memory));
    }
    let mut cpu = LinuxCpu::default();
    cpu.set_period(arguments.cpu_period)
        .set_quota(arguments.cpu_quota)
        .set_burst(arguments.cpu_burst)
        .set_shares(arguments.cpu_share)
        .set_realtime_period(arguments.cpu_rt_period)
        .set_realtime_runtime(arguments.cpu_rt_runtime)
        .set_idle(arguments.cpu_idle)
        .set_cpus(arguments.cpuset_cpus.clone())
        .set_mems(arguments.cpuset_mems.clone());
    if cpu != LinuxCpu::default() {
        resources.set_cpu(Some(cpu));
    }
    if let Some(limit) = arguments.pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    if let Some(weight) = arguments.blkio_weight {
        let mut block = LinuxBlockIo::default();
        block.set_weight(Some(weight));
        resources.set_block_io(Some(block));
    }
    resources
}
