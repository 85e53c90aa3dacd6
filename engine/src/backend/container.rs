//! Instances as containers; and, for comparison, with nothing but a root file system of their own.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use container_core::{
    Ahead, ExitStatus, Launch, Meanwhile, NetworkSetup, Rootfs, Stdio, Teardown, seccomp,
};
use oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilities, LinuxCpu, LinuxMemory, LinuxNamespaceType,
    LinuxPids, LinuxResources, Mount, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Spec, User,
};

use oci_spec::runtime;

use super::{Backend, Context, Ended, Exit, Job, Place, Remains, Running, Streams};
use crate::error::{Error, Result};
use crate::instance::{self, Record};
use crate::network::{self, NetworkError, NetworkMode};
use crate::process::Process;
use crate::spec::{BackendKind, InstanceSpec, Limits, Ulimit};
use crate::supervisor::{null, set_nonblocking};
use crate::terminal::{self, Size};
use crate::timeline::Timeline;
use crate::volume::{self, Prepared};

/// Length of the scheduler's accounting period, µs: docker's for `--cpus`, and the kernel's own default.
const CPU_PERIOD: u64 = 100_000;

/// The backend of containers, and of the native way.
pub(crate) struct Container {
    /// Whether namespaces, capabilities and seccomp isolate it.
    pub(crate) isolated: bool,
}

/// The directories of an instance's root file system.
struct Root {
    layers: Vec<PathBuf>,
    upper: PathBuf,
    work: PathBuf,
    volatile: bool,
}

impl Root {
    fn new(place: &Place<'_>) -> Result<Self> {
        let directory = place.home.instance(&place.record.id);
        let (upper, work) = (directory.join("upper"), directory.join("work"));
        Ok(Self {
            layers: place.store.layer_dirs(place.image)?,
            upper,
            work,
            // What goes with the instance need not reach the disk.
            volatile: place.record.spec.auto_remove,
        })
    }

    /// Makes what is not there yet.
    fn make(&self) -> Result<()> {
        for path in [&self.upper, &self.work] {
            // 0755: the upper directory becomes the instance's root directory.
            match DirBuilder::new().mode(0o755).create(path) {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(Error::io("create", path, e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn rootfs(&self) -> Rootfs<'_> {
        Rootfs::Overlay {
            lower: &self.layers,
            upper: &self.upper,
            work: &self.work,
            volatile: self.volatile,
        }
    }
}

impl Backend for Container {
    fn begin(&self, place: &Place<'_>) -> Result<Option<Ahead>> {
        if !Ahead::is_worthwhile() {
            return Ok(None);
        }
        let own_network = self.isolated
            && matches!(
                place.record.spec.network.mode,
                NetworkMode::None | NetworkMode::Networks
            );
        let root = Root::new(place)?;
        root.make()?;
        Ok(Some(Ahead::begin(&root.rootfs(), own_network)?))
    }

    fn start(&self, job: &Job<'_>, context: &mut Context<'_>) -> Result<Box<dyn Running>> {
        let root = Root::new(&job.place())?;
        if context.begun.is_none() {
            root.make()?;
        }
        let asked = &job.record.spec;
        let mut spec = runtime_spec(job.record, job.process, self.isolated)?;
        if asked.privileged && self.isolated {
            container_core::make_privileged(&mut spec)?;
        }
        // Held until the container has them: by descriptor, so that nobody exchanges a source meanwhile.
        let prepared = volume::prepare(job.home, &asked.mounts, None)?;
        add_files(&mut spec, job)?;
        add_mounts(&mut spec, &prepared);
        if self.isolated
            && let NetworkMode::Container(other) = &asked.network.mode
        {
            join_network(&mut spec, job, other)?;
        }
        let (stdio, streams) = stdio(job)?;
        let mut launch = Launch::new(&job.record.id, &spec, root.rootfs(), stdio);
        launch.ahead = context.begun.take();
        launch.meanwhile = Some(Meanwhile(context.meanwhile));
        launch.init = asked.init;
        // What went wrong with the network in the engine's own words, which the container's start only passes on as a failure.
        let failed = Mutex::new(None);
        let endpoints = &job.network.endpoints;
        let plug = |namespace: BorrowedFd<'_>| {
            endpoints.iter().try_for_each(|endpoint| {
                endpoint.plug(namespace).map_err(|error| {
                    *lock(&failed) = Some(error);
                    io::Error::from_raw_os_error(libc::ENETDOWN)
                })
            })
        };
        if !endpoints.is_empty() {
            launch.network = Some(NetworkSetup(&plug));
        }
        let mut container = container_core::start(launch)
            .map_err(|error| lock(&failed).take().unwrap_or(error.into()))?;
        for stage in container.stages() {
            context.timeline.add(stage.name, stage.at);
        }
        let (streams, master) = match container.take_terminal() {
            Some(master) => of_terminal(master, job.record.spec.interactive)?,
            None => (streams, None),
        };
        Ok(Box::new(Contained {
            container,
            streams,
            master,
        }))
    }
}

/// A lock that nobody panics under.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The container's streams, and the supervisor's ends of them.
fn stdio(job: &Job<'_>) -> Result<(Stdio, Streams)> {
    if let Some(size) = job.terminal {
        let stdio = Stdio::Terminal {
            rows: size.rows,
            columns: size.columns,
        };
        return Ok((stdio, Streams::default()));
    }
    let pipe = || {
        std::io::pipe().map_err(|source| Error::System {
            action: "make a pipe",
            source,
        })
    };
    let (theirs, input) = if job.record.spec.interactive {
        let (reader, writer) = pipe()?;
        set_nonblocking(writer.as_fd())?;
        (OwnedFd::from(reader), Some(OwnedFd::from(writer)))
    } else {
        (null()?, None)
    };
    let (output, stdout) = pipe()?;
    let (errors, stderr) = pipe()?;
    set_nonblocking(output.as_fd())?;
    set_nonblocking(errors.as_fd())?;
    let streams = Streams {
        input,
        output: Some(output.into()),
        errors: Some(errors.into()),
    };
    Ok((
        Stdio::Descriptors([theirs, stdout.into(), stderr.into()]),
        streams,
    ))
}

/// A terminal's master as streams, and a copy to change its size by.
fn of_terminal(master: OwnedFd, interactive: bool) -> Result<(Streams, Option<OwnedFd>)> {
    set_nonblocking(master.as_fd())?;
    let copy = || {
        master.try_clone().map_err(|source| Error::System {
            action: "copy the terminal's descriptor",
            source,
        })
    };
    let (input, kept) = (interactive.then(copy).transpose()?, copy()?);
    let streams = Streams {
        input,
        output: Some(master),
        errors: None,
    };
    Ok((streams, Some(kept)))
}

/// A container that runs.
struct Contained {
    container: container_core::Container,
    streams: Streams,
    master: Option<OwnedFd>,
}

impl Running for Contained {
    fn pid(&self) -> i32 {
        self.container.pid()
    }

    fn take_streams(&mut self) -> Streams {
        std::mem::take(&mut self.streams)
    }

    fn ended(&self) -> BorrowedFd<'_> {
        self.container.pidfd()
    }

    fn signal(&self, number: i32) -> Result<()> {
        Ok(self.container.signal(number)?)
    }

    fn resize(&self, size: Size) {
        if let Some(master) = &self.master {
            terminal::set_size(master.as_fd(), size);
        }
    }

    fn freeze(&self, frozen: bool) -> Result<()> {
        match self.container.cgroup() {
            Some(cgroup) if frozen => Ok(cgroup.freeze()?),
            Some(cgroup) => Ok(cgroup.thaw()?),
            None => Err(Error::Unsupported(
                "pause needs a cgroup, and this instance has none".into(),
            )),
        }
    }

    fn finish(self: Box<Self>, passing: bool) -> Result<(Exit, Remains)> {
        let mut container = self.container;
        let exit = container.wait()?;
        // A dozen files are read for it, so only for whoever asks.
        let stats = Timeline::is_wanted()
            .then(|| container.cgroup().and_then(|cgroup| cgroup.stats().ok()))
            .flatten();
        let remains = if passing {
            Remains::of(container)
        } else {
            container.release(Teardown::Leave)?;
            Remains::default()
        };
        let exit = Exit {
            ended: match exit.status {
                ExitStatus::Exited(code) => Ended::Code(code),
                ExitStatus::Signaled(number) => Ended::Signal(number),
            },
            oom_killed: exit.oom_killed,
            peak_memory: stats.and_then(|stats| stats.memory_peak),
        };
        Ok((exit, remains))
    }
}

/// The instance in the words of the OCI runtime specification.
fn runtime_spec(record: &Record, process: &Process, isolated: bool) -> Result<Spec> {
    let asked = &record.spec;
    let args = process.args.clone();
    let mut spec = if isolated {
        container_core::default_spec(args)
    } else {
        native_spec(args)
    };
    let identity = &process.identity;
    if let Some(runs) = spec.process_mut() {
        runs.set_env(Some(process.env.clone()));
        runs.set_cwd(process.cwd.clone().into());
        runs.set_terminal(Some(asked.terminal));
        runs.set_rlimits(rlimits(&asked.ulimits)?);
        runs.set_no_new_privileges(Some(asked.no_new_privileges));
        let mut user = User::default();
        user.set_uid(identity.uid);
        user.set_gid(identity.gid);
        user.set_additional_gids(Some(identity.groups.clone()));
        runs.set_user(user);
    }
    if let Some(root) = spec.root_mut() {
        root.set_readonly(Some(asked.read_only));
    }
    if isolated {
        spec.set_hostname(Some(record.hostname().to_owned()));
    }
    if let Some(linux) = spec.linux_mut() {
        if asked.seccomp_unconfined || !isolated {
            linux.set_seccomp(None);
        } else if !asked.cap_add.is_empty() || !asked.cap_drop.is_empty() {
            // docker's filter opens with the capabilities that go with a call.
            linux.set_seccomp(Some(seccomp::docker_default(&capabilities(asked)?)));
        }

        if asked.network.mode == NetworkMode::Host {
            let mut namespaces = linux.namespaces().clone().unwrap_or_default();
            namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Network);
            linux.set_namespaces(Some(namespaces));
        }
        let mut resources = linux.resources().clone().unwrap_or_default();
        set_limits(&mut resources, &asked.limits);
        if let Some(cpus) = &asked.cpuset {
            let mut cpu = resources.cpu().clone().unwrap_or_else(no_cpu_limits);
            cpu.set_cpus(Some(cpus.clone()));
            resources.set_cpu(Some(cpu));
        }
        linux.set_resources(Some(resources));
    }
    if isolated && let Some(process) = spec.process_mut() {
        let wanted = capabilities(asked)?;
        let mut sets = LinuxCapabilities::default();
        sets.set_bounding(Some(wanted.clone()));
        sets.set_effective(Some(wanted.clone()));
        sets.set_permitted(Some(wanted));
        sets.set_inheritable(Some(Capabilities::new()));
        sets.set_ambient(Some(Capabilities::new()));
        process.set_capabilities(Some(sets));
    }
    Ok(spec)
}

/// The files below /etc that every container has.
fn add_files(spec: &mut Spec, job: &Job<'_>) -> Result<()> {
    let owner = match &job.record.spec.network.mode {
        // Who shares a network shares what is known of it.
        NetworkMode::Container(other) => other,
        _ => &job.record.id,
    };
    if owner == &job.record.id {
        network::write_files(job.home, job.record, job.files)?;
    }
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for file in job.files {
        let mut options = vec!["rbind".to_owned(), "rprivate".to_owned()];
        if job.record.spec.read_only {
            options.push("ro".to_owned());
        }
        let mut mount = Mount::default();
        mount.set_destination(Path::new("/etc").join(file.name));
        mount.set_source(Some(network::file_path(job.home, owner, file.name)));
        mount.set_typ(Some("bind".to_owned()));
        mount.set_options(Some(options));
        mounts.push(mount);
    }
    spec.set_mounts(Some(mounts));
    Ok(())
}

/// Puts the container into the network namespace of another.
fn join_network(spec: &mut Spec, job: &Job<'_>, other: &str) -> Result<()> {
    let found = instance::look(job.home, other)?;
    let joins = found.record.spec.backend == BackendKind::Container;
    if !joins {
        return Err(NetworkError::Refused(format!(
            "--network container:{} is refused: that is a {}, and only a container's network can be joined",
            found.record.name,
            found.record.spec.backend.as_str()
        ))
        .into());
    }
    if !found.is_running() || found.state.pid == 0 {
        return Err(NetworkError::JoinNotRunning(found.record.id).into());
    }
    let Some(linux) = spec.linux_mut() else {
        return Ok(());
    };
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    for namespace in &mut namespaces {
        if namespace.typ() == LinuxNamespaceType::Network {
            namespace.set_path(Some(format!("/proc/{}/ns/net", found.state.pid).into()));
        }
    }
    linux.set_namespaces(Some(namespaces));
    Ok(())
}

/// The user's mounts, after those that every container has.
fn add_mounts(spec: &mut Spec, prepared: &Prepared) {
    if prepared.mounts.is_empty() {
        return;
    }
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for resolved in &prepared.mounts {
        let mount = resolved.oci();
        // What is mounted over one of ours takes its place: /dev/shm, for example.
        mounts.retain(|known| known.destination() != mount.destination());
        mounts.push(mount);
    }
    spec.set_mounts(Some(mounts));
}

/// docker's defaults, with what the user adds and drops; for a privileged instance, all that the host can give.
pub(crate) fn capabilities(asked: &InstanceSpec) -> Result<Capabilities> {
    let parse = |flag: &'static str, name: &str| -> Result<Capability> {
        let plain = name.to_ascii_uppercase();
        let plain = plain.strip_prefix("CAP_").unwrap_or(&plain);
        plain.parse().map_err(|_| Error::InvalidValue {
            flag,
            value: name.to_owned(),
            reason: "there is no such capability: capabilities(7) lists them".into(),
        })
    };
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let drops_all = asked.cap_drop.iter().any(is_all);
    let mut set: Capabilities = if asked.privileged || asked.cap_add.iter().any(is_all) {
        container_core::held_capabilities()?
    } else if drops_all {
        Capabilities::new()
    } else {
        container_core::DEFAULT_CAPABILITIES.into_iter().collect()
    };
    for name in asked.cap_drop.iter().filter(|name| !is_all(name)) {
        set.remove(&parse("--cap-drop", name)?);
    }
    for name in asked.cap_add.iter().filter(|name| !is_all(name)) {
        set.insert(parse("--cap-add", name)?);
    }
    Ok(set)
}

/// `--ulimit` in the specification's words.
pub(crate) fn rlimits(limits: &[Ulimit]) -> Result<Option<Vec<PosixRlimit>>> {
    if limits.is_empty() {
        return Ok(None);
    }
    limits
        .iter()
        .map(|limit| {
            let wrong = |reason: String| Error::InvalidValue {
                flag: "--ulimit",
                value: limit.name.clone(),
                reason,
            };
            let kind = format!("RLIMIT_{}", limit.name.to_ascii_uppercase());
            let kind: PosixRlimitType = serde_json::from_value(kind.into())
                .map_err(|_| wrong("there is no such limit: getrlimit(2) lists them".into()))?;
            PosixRlimitBuilder::default()
                .typ(kind)
                .soft(limit.soft)
                .hard(limit.hard)
                .build()
                .map_err(|e| wrong(e.to_string()))
        })
        .collect::<Result<Vec<_>>>()
        .map(Some)
}

/// `LinuxCpu::default()` carries samples of oci-spec's own.
fn no_cpu_limits() -> LinuxCpu {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(None)
        .set_quota(None)
        .set_period(None)
        .set_cpus(None)
        .set_mems(None);
    cpu
}

/// What another process in a running container is, and the filter of its system calls.
pub(crate) fn beside(
    record: &Record,
    process: &Process,
    privileged: bool,
) -> Result<(runtime::Process, Option<runtime::LinuxSeccomp>)> {
    let isolated = record.spec.backend == BackendKind::Container;
    let mut spec = runtime_spec(record, process, isolated)?;
    if isolated && (privileged || record.spec.privileged) {
        container_core::make_privileged(&mut spec)?;
    }
    let seccomp = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.seccomp().clone());
    let process = spec.process().clone().ok_or_else(|| Error::System {
        action: "describe a process",
        source: std::io::ErrorKind::InvalidData.into(),
    })?;
    Ok((process, seccomp))
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
        memory.set_swap(Some(match limits.memory_swap {
            Some(0) | None => bytes.saturating_mul(2),
            Some(both) => both,
        }));
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
                ..Limits::default()
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
