//! Instances as microVMs.

mod machine;
mod template;

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use container_core::cgroup::{self, Cgroup};
use guest_protocol::{
    Capabilities as CapabilitySets, Extent, File as GuestFile, GuestConfig, ImageDisk, Interface,
    Mount as GuestMount, Process as GuestProcess, Rlimit, SharedMount, WindowSize,
};
use image_core::{Image, Store};
use microvm_core::session::{
    self, FailureKind, Guest, Handle, Main, Options, SessionError, StdioFds,
};
use microvm_core::stock::Wants;
use microvm_core::{
    Accelerator, Discovery, Membership, Nic, Request, Share, Substrate, VmConfig, cmdline,
};
use oci_spec::runtime::LinuxResources;

use super::container::set_limits;
use super::{Backend, Context, Job, Running, disk};
use crate::doctor;
use crate::error::{Error, Result};
use crate::home::Home;
use crate::instance::Record;
use crate::network::{Connection, Endpoint, NetworkError, VM_ENDPOINTS_MAX};
use crate::process::Process;
use crate::spec::{Accel, InstanceSpec, Limits, Ulimit, VM_MEMORY};
use crate::volume::{self, Prepared};

use machine::{Boot, Machine};

/// How long a guest may take to boot. On kvm_pvm a busy host makes a minute of what is 20 s on an idle one.
const BOOT_PATIENCE: Duration = Duration::from_secs(180);

/// docker's size of /dev/shm, bytes.
const SHM_BYTES: u64 = 64 << 20;

/// The conventional mask.
const UMASK: u32 = 0o022;

/// What runs a VM, and why that.
#[derive(Debug, Clone)]
pub struct Choice {
    /// `kvm` or `tcg`: what `--accel` calls it.
    pub accelerator: &'static str,
    /// One line: which, and why.
    pub why: String,
    /// Whether that is hardware virtualization.
    pub hardware: bool,
    /// What the guest's kernel runs on: vmx, svm, kvm_pvm or tcg.
    pub substrate: String,
}

/// Decides what runs a VM.
///
/// # Errors
/// When what is asked for cannot run here, or nothing can.
pub fn choose_accelerator(accel: Accel) -> Result<Choice> {
    let (chosen, why) = microvm_core::choose(request(accel))?;
    let substrate = microvm_core::substrate();
    let emulated = chosen == Accelerator::Tcg;
    Ok(Choice {
        accelerator: if emulated { "tcg" } else { "kvm" },
        why,
        hardware: !emulated && substrate.is_hardware(),
        substrate: if emulated {
            "tcg".into()
        } else {
            substrate.to_string()
        },
    })
}

fn request(accel: Accel) -> Request {
    match accel {
        Accel::Auto => Request::Auto,
        Accel::Kvm => Request::Only(Accelerator::Kvm),
        Accel::Tcg => Request::Only(Accelerator::Tcg),
    }
}

/// The backend of microVMs.
pub(crate) struct Vm;

impl Backend for Vm {
    fn start(&self, job: &Job<'_>, context: &mut Context<'_>) -> Result<Box<dyn Running>> {
        Self::boot(job, context, false)
    }
}

impl Vm {
    /// Boots a machine; in some, a container engine is to run.
    pub(super) fn boot(
        job: &Job<'_>,
        context: &mut Context<'_>,
        engine: bool,
    ) -> Result<Box<dyn Running>> {
        let spec = &job.record.spec;
        let (accelerator, why) = microvm_core::choose(request(spec.accel))?;
        if spec.accel == Accel::Auto {
            (context.notice)(&why);
        }
        let console = console(job)?;
        let mounts = GuestMounts::of(volume::prepare(job.home, &spec.mounts, None)?)?;
        let wants = Wants {
            networks: !job.network.endpoints.is_empty(),
            shares: !mounts.shares.is_empty(),
            engine,
        };
        let mut config = config(job, &console, accelerator, wants)?;
        let image = image_disk(job)?;
        config.image_disk = image.files;
        config.shares = mounts.shares;
        config.networks = nics(job)?;
        let group = Group::make(job)?;
        config.cgroup = group.membership()?;
        let launched = template::launch(job, accelerator, config, &console, context.notice)?;
        for stage in launched.vm.stages() {
            context.timeline.add(stage.name, stage.at);
        }
        let boot = Boot {
            launched,
            console,
            config: GuestConfig {
                shares: mounts.shared,
                mounts: mounts.memory,
                networks: interfaces(job),
                files: files(job),
                ..guest_config(job, image.extents, accelerator)?
            },
            group,
            interactive: spec.interactive,
            accelerator: describe(accelerator),
        };
        Ok(Box::new(Machine::boot(boot)?))
    }
}

/// A machine without the instance's command, for work on the disk of one that does not run. Dropping it brings the disk to
/// rest and ends the machine.
pub(crate) struct Maintenance {
    handle: Handle,
    main: Option<Main>,
    group: Option<Group>,
}

impl Maintenance {
    /// Boots it. The instance's mounts are left out: only what it has written itself is looked at.
    pub(crate) fn boot(
        home: &Home,
        record: &Record,
        store: &Store,
        image: &Image,
        process: &Process,
    ) -> Result<Self> {
        let network = Connection::none(home, &record.id);
        let job = Job {
            home,
            record,
            store,
            image,
            process,
            network: &network,
            files: &[],
            terminal: None,
        };
        let (accelerator, _) = microvm_core::choose(request(record.spec.accel))?;
        let console = console(&job)?;
        let mut config = config(&job, &console, accelerator, Wants::default())?;
        let image = image_disk(&job)?;
        config.image_disk = image.files;
        let group = Group::make(&job)?;
        config.cgroup = group.membership()?;
        let vm = template::launch_at_once(&job, accelerator, config)?;
        let options = Options {
            limit: BOOT_PATIENCE,
            console: Some(console),
            interrupt: None,
        };
        let guest = guest_config(&job, image.extents, accelerator)?;
        let (handle, main) = Guest::connect(vm, options)
            .and_then(|machine| machine.maintain(guest))
            .map_err(failure)?;
        Ok(Self {
            handle,
            main: Some(main),
            group: Some(group),
        })
    }

    /// Runs one of our helpers in it; its exit code.
    pub(crate) fn tool(
        &self,
        args: &[&str],
        stdin: Option<BorrowedFd<'_>>,
        stdout: BorrowedFd<'_>,
        stderr: BorrowedFd<'_>,
    ) -> Result<u8> {
        let copy = |descriptor: BorrowedFd<'_>| {
            descriptor
                .try_clone_to_owned()
                .map_err(|source| Error::System {
                    action: "copy a descriptor",
                    source,
                })
        };
        let stdio = StdioFds {
            stdin: stdin.map(copy).transpose()?,
            stdout: copy(stdout)?,
            stderr: copy(stderr)?,
        };
        let request = session::ExecRequest {
            process: GuestProcess {
                args: std::iter::once("plimsoll-tools")
                    .chain(args.iter().copied())
                    .map(str::to_owned)
                    .collect(),
                env: Vec::new(),
                cwd: "/".into(),
                uid: 0,
                gid: 0,
                additional_gids: Vec::new(),
                umask: UMASK,
                terminal: None,
                stdin: stdio.stdin.is_some(),
                rlimits: Vec::new(),
                no_new_privileges: false,
                capabilities: None,
            },
            program: Some(guest_artifacts::TOOLS),
            upper: true,
        };
        let exec = self.handle.exec(request, stdio).map_err(failure)?;
        Ok(exec.wait().map_err(failure)?.code())
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.handle.shutdown();
        if let Some(main) = self.main.take() {
            // The disk is at rest when this returns; how the machine ends then does not matter.
            let _ = main.wait();
            let _ = main.finish();
        }
        drop(self.group.take());
    }
}

/// An instance's mounts in the words of the monitor and of the guest.
struct GuestMounts {
    shares: Vec<Share>,
    shared: Vec<SharedMount>,
    memory: Vec<GuestMount>,
}

impl GuestMounts {
    fn of(prepared: Prepared) -> Result<Self> {
        let mut mounts = Self {
            shares: Vec::new(),
            shared: Vec::new(),
            memory: Vec::new(),
        };
        for (number, resolved) in prepared.mounts.into_iter().enumerate() {
            let target = resolved.spec.target.clone();
            match resolved.source {
                Some(source) => {
                    let name = number.to_string();
                    mounts.shared.push(SharedMount {
                        name: name.clone(),
                        target,
                        read_only: resolved.read_only,
                    });
                    mounts.shares.push(Share {
                        name,
                        source,
                        read_only: resolved.read_only,
                    });
                }
                None => mounts.memory.push(tmpfs(target, &resolved.spec.options())),
            }
        }
        Ok(mounts)
    }
}

/// A tmpfs in the words of mount(2): flags for what every file system knows, the rest as its own options.
fn tmpfs(target: String, options: &[String]) -> GuestMount {
    let mut flags = 0;
    let mut data = Vec::new();
    for option in options {
        match option.as_str() {
            "noexec" => flags |= libc::MS_NOEXEC,
            "exec" => flags &= !libc::MS_NOEXEC,
            "nosuid" => flags |= libc::MS_NOSUID,
            "suid" => flags &= !libc::MS_NOSUID,
            "nodev" => flags |= libc::MS_NODEV,
            "dev" => flags &= !libc::MS_NODEV,
            "ro" => flags |= libc::MS_RDONLY,
            "rw" => flags &= !libc::MS_RDONLY,
            "noatime" => flags |= libc::MS_NOATIME,
            "nodiratime" => flags |= libc::MS_NODIRATIME,
            "strictatime" => flags |= libc::MS_STRICTATIME,
            "sync" => flags |= libc::MS_SYNCHRONOUS,
            // Propagation, which nobody else in the guest takes part in.
            "rprivate" | "private" | "rslave" | "slave" | "rshared" | "shared" => {}
            other => data.push(other),
        }
    }
    GuestMount {
        source: "tmpfs".into(),
        target,
        filesystem: "tmpfs".into(),
        flags,
        data: data.join(","),
    }
}

/// What a VM runs on, for people and reports.
fn describe(accelerator: Accelerator) -> String {
    match accelerator {
        Accelerator::Tcg => "tcg".to_owned(),
        _ => format!("kvm ({})", microvm_core::substrate()),
    }
}

/// What went wrong, with docker's exit code for it.
fn failure(error: SessionError) -> Error {
    match error {
        SessionError::Failed { kind, message } => Error::Guest {
            message,
            code: match kind {
                FailureKind::NotFound => 127,
                FailureKind::NotExecutable => 126,
                FailureKind::Config | FailureKind::System => 125,
            },
        },
        other => Error::Session(other),
    }
}

/// The monitor's cgroup, removed when this is dropped; nothing may run in it then.
struct Group {
    id: String,
    cgroup: Cgroup,
    released: bool,
}

impl Group {
    fn make(job: &Job<'_>) -> Result<Self> {
        let id = &job.record.id;
        let mut resources = LinuxResources::default();
        set_limits(&mut resources, &monitor_limits(&job.record.spec.limits));
        let cgroup = Cgroup::create(&cgroup::path_of_id(id)?, &resources, None)?;
        Ok(Self {
            id: id.clone(),
            cgroup,
            released: false,
        })
    }

    fn membership(&self) -> Result<Membership> {
        let unified = self
            .cgroup
            .unified_directory()
            .map(|directory| directory.try_clone_to_owned())
            .transpose()
            .map_err(|e| Error::io("open", self.cgroup.path(), e))?;
        Ok(Membership {
            unified,
            tasks: self.cgroup.tasks_files()?,
        })
    }

    /// Removes it, and tells the most memory that was used in it.
    fn release(mut self) -> Result<Option<u64>> {
        self.released = true;
        let peak = self.cgroup.stats().ok().and_then(|stats| stats.memory_peak);
        cgroup::remove_by_id(&self.id)?;
        Ok(peak)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.released {
            // What went wrong before is what the user is told; `doctor --repair` finds a cgroup that stays.
            let _ = cgroup::remove_by_id(&self.id);
        }
    }
}

/// The file for the guest's console, in the instance's directory.
fn console(job: &Job<'_>) -> Result<File> {
    let path = job.home.instance(&job.record.id).join("console.log");
    File::options()
        .create(true)
        .append(true)
        .read(true)
        .open(&path)
        .map_err(|e| Error::io("create", &path, e))
}

/// A VM of the size asked for: `-m` is its memory, and `--cpus` as many virtual CPUs as cover it, with a limit on the
/// monitor for the fraction.
fn config(
    job: &Job<'_>,
    console: &File,
    accelerator: Accelerator,
    wants: Wants,
) -> Result<VmConfig> {
    let home = job.home;
    let (kernel, initramfs, discovery) = match &job.record.spec.kernel {
        Some(path) => {
            let prepared = disk::prepare_kernel(home, path, accelerator, wants)?;
            (prepared.kernel, prepared.initramfs, prepared.discovery)
        }
        None => {
            let path = doctor::kernel_path();
            if !path.is_file() {
                return Err(Error::NoGuestKernel(path));
            }
            (path, None, Discovery::CommandLine)
        }
    };
    let initramfs = match initramfs {
        Some(path) => path,
        None => disk::initramfs(home)?,
    };
    let writable = job.home.instance(&job.record.id).join("disk.ext4");
    if !writable.exists() {
        disk::make_writable(home, &writable)?;
    }
    let console = console
        .try_clone()
        .map_err(|e| Error::io("open", "console.log", e))?;
    let limits = &job.record.spec.limits;
    let mut config = VmConfig::new(kernel, initramfs, console);
    config.discovery = discovery;
    config.writable_disk = Some(writable);
    config.vcpus = virtual_cpus(limits)?;
    // A fraction of a MiB is given up: the guest's memory is whole MiB.
    let mebibytes = limits.memory.unwrap_or(VM_MEMORY) >> 20;
    config.memory_mib = u32::try_from(mebibytes).unwrap_or(u32::MAX);
    Ok(config)
}

/// The largest packet on an Ethernet unless told otherwise, bytes (IEEE 802.3).
const MTU: u16 = 1500;

/// The machine's network devices: a tap for each of the instance's places.
fn nics(job: &Job<'_>) -> Result<Vec<Nic>> {
    let endpoints = &job.network.endpoints;
    if endpoints.len() > VM_ENDPOINTS_MAX {
        return Err(NetworkError::Refused(format!(
            "a VM has at most {VM_ENDPOINTS_MAX} network interfaces, and this one is on {} networks",
            endpoints.len()
        ))
        .into());
    }
    endpoints
        .iter()
        .map(|endpoint| {
            Ok(Nic {
                tap: endpoint.tap()?,
                mac: endpoint.mac.0,
                mtu: mtu(endpoint),
            })
        })
        .collect()
}

fn mtu(endpoint: &Endpoint) -> u16 {
    endpoint
        .mtu
        .and_then(|mtu| u16::try_from(mtu).ok())
        .unwrap_or(MTU)
}

/// The same in the words of the guest.
fn interfaces(job: &Job<'_>) -> Vec<Interface> {
    job.network
        .endpoints
        .iter()
        .map(|endpoint| Interface {
            mac: endpoint.mac.0,
            name: endpoint.interface.clone(),
            address: endpoint.address.octets(),
            prefix: endpoint.prefix,
            gateway: endpoint.routes.then(|| endpoint.gateway.octets()),
            mtu: mtu(endpoint),
        })
        .collect()
}

/// What lies over the image's files below /etc.
fn files(job: &Job<'_>) -> Vec<GuestFile> {
    job.files
        .iter()
        .map(|file| GuestFile {
            path: format!("/etc/{}", file.name),
            contents: file.contents.clone(),
            mode: 0o644,
        })
        .collect()
}

/// As many virtual CPUs as cover the number asked for.
fn virtual_cpus(limits: &Limits) -> Result<u8> {
    let wanted = limits.cpus.unwrap_or(1.0).ceil();
    let most = f64::from(*microvm_core::VCPUS.end());
    if wanted > most {
        return Err(Error::InvalidValue {
            flag: "--cpus",
            value: wanted.to_string(),
            reason: format!("a VM has at most {most} virtual CPUs"),
        });
    }
    Ok(wanted.max(1.0) as u8)
}

/// Limits of the monitor's process: only the fraction of its CPUs. Its memory is bounded by the guest's size, and the
/// number of processes is the guest's own affair.
fn monitor_limits(limits: &Limits) -> Limits {
    let fraction = limits.cpus.filter(|cpus| cpus.fract() != 0.0);
    Limits {
        cpus: fraction,
        ..Limits::default()
    }
}

/// The layers' EROFS files in the order of the disk, and where each begins on it.
struct Layers {
    files: Vec<PathBuf>,
    extents: Vec<Extent>,
}

fn image_disk(job: &Job<'_>) -> Result<Layers> {
    let layers = job.store.erofs_layers(job.image)?;
    let mut offset = 0;
    let mut extents = Vec::with_capacity(layers.len());
    for layer in &layers {
        extents.push(Extent {
            offset,
            length: layer.bytes,
        });
        offset += layer.bytes;
    }
    Ok(Layers {
        files: layers.into_iter().map(|layer| layer.path).collect(),
        extents,
    })
}

fn guest_config(
    job: &Job<'_>,
    layers: Vec<Extent>,
    accelerator: Accelerator,
) -> Result<GuestConfig> {
    let process = job.process;
    let identity = &process.identity;
    let terminal = job.terminal.map(|size| WindowSize {
        rows: size.rows,
        columns: size.columns,
    });
    Ok(GuestConfig {
        hostname: job.record.hostname().to_owned(),
        image: ImageDisk {
            device: "/dev/vda".into(),
            layers,
        },
        writable: Some("/dev/vdb".into()),
        read_only_rootfs: job.record.spec.read_only,
        shares: Vec::new(),
        mounts: Vec::new(),
        files: Vec::new(),
        networks: Vec::new(),
        shm_bytes: SHM_BYTES,
        process: GuestProcess {
            args: process.args.clone(),
            env: environment(&process.env, accelerator),
            cwd: process.cwd.clone(),
            uid: identity.uid,
            gid: identity.gid,
            additional_gids: identity.groups.clone(),
            umask: UMASK,
            terminal,
            stdin: job.record.spec.interactive,
            rlimits: rlimits(&job.record.spec.ulimits)?,
            no_new_privileges: job.record.spec.no_new_privileges,
            capabilities: capability_sets(&job.record.spec)?,
        },
        // Filled in by the session, of the moment in which it is sent.
        realtime_ns: 0,
        entropy: Vec::new(),
        late_devices: Vec::new(),
    })
}

/// `--cap-drop`: what is left of everything. `None` where nothing is dropped: the kernel is the instance's own, and root in
/// there may do what root may on a machine.
fn capability_sets(spec: &InstanceSpec) -> Result<Option<CapabilitySets>> {
    if spec.cap_drop.is_empty() || spec.privileged {
        return Ok(None);
    }
    let all = InstanceSpec {
        cap_add: vec!["ALL".to_owned()],
        ..spec.clone()
    };
    let left = super::container::capabilities(&all)?;
    let mask = container_core::capability_mask(&left);
    Ok(Some(CapabilitySets {
        bounding: mask,
        effective: mask,
        permitted: mask,
        inheritable: 0,
        ambient: 0,
    }))
}

/// `--ulimit` by the kernel's numbers.
fn rlimits(limits: &[Ulimit]) -> Result<Vec<Rlimit>> {
    let checked = super::container::rlimits(limits)?.unwrap_or_default();
    Ok(checked
        .iter()
        .map(|limit| Rlimit {
            resource: container_core::rlimit_number(limit.typ()),
            soft: limit.soft(),
            hard: limit.hard(),
        })
        .collect())
}

/// The environment; on kvm_pvm with the word that keeps glibc from AVX, whose registers the guest's kernel there does
/// not keep, unless the user or the image has set that variable.
fn environment(env: &[String], accelerator: Accelerator) -> Vec<String> {
    let mut env = env.to_vec();
    let pvm = accelerator != Accelerator::Tcg && microvm_core::substrate() == Substrate::Pvm;
    if pvm && !env.iter().any(|entry| entry.starts_with("GLIBC_TUNABLES=")) {
        env.push(cmdline::PVM_GLIBC_TUNABLES.to_owned());
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_of_a_cpu_is_a_whole_virtual_cpu_with_a_limit_on_the_monitor() {
        for (cpus, virtual_ones, limit) in [
            (None, 1, None),
            (Some(0.5), 1, Some(0.5)),
            (Some(2.0), 2, None),
            (Some(1.5), 2, Some(1.5)),
        ] {
            let limits = Limits {
                cpus,
                ..Limits::default()
            };
            assert_eq!(virtual_cpus(&limits).unwrap(), virtual_ones, "{cpus:?}");
            assert_eq!(monitor_limits(&limits).cpus, limit, "{cpus:?}");
        }
        assert!(
            virtual_cpus(&Limits {
                cpus: Some(65.0),
                ..Limits::default()
            })
            .is_err()
        );
    }

    #[test]
    fn the_users_own_glibc_tunables_stay() {
        let own = vec!["GLIBC_TUNABLES=glibc.malloc.check=1".to_owned()];
        assert_eq!(environment(&own, Accelerator::Kvm), own);
        assert_eq!(environment(&[], Accelerator::Tcg), Vec::<String>::new());
    }
}
