//! Our own virtual machine monitor, on KVM.
//!
//! The monitor is a child process, forked without another program: what the machine needs is opened and checked by the
//! starter, so that everything that can be refused is refused before a process exists, and the child needs no path, no
//! file system and no rights of its own.

mod bus;
mod capabilities;
mod child;
mod jail;
mod kick;
mod monitor;
mod report;
pub(crate) mod saved;
mod vcpu;
mod vm;

#[cfg(test)]
pub(crate) use jail::tests::seal_for_files;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

pub use capabilities::probe;
use kvm_ioctls::Kvm as KvmFd;

use self::child::Channels;
use self::monitor::{Draft, Origin, PLACES, Parts};
use self::report::{Report, Reports};
use self::saved::Fit;
use crate::accelerator::behind_open_kvm;
use crate::config::{MEMORY_MIB, VCPUS};
use crate::devices::virtio::blk::Disk;
use crate::kernel::Kernel;
use crate::machine::Ending;
use crate::process::{Fork, Process, fork_apart, fork_into, pidfd_of};
use crate::{
    Accelerator, Discovery, Error, Hypervisor, Membership, MicroVm, Result, Stage, Start,
    Substrate, VmConfig, cmdline, nic, share,
};

/// Starts machines with our own monitor, in a child process without another program.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kvm;

impl Hypervisor for Kvm {
    /// Forks. In a process with several threads this relies on two things: glibc's `fork` makes its allocator usable in
    /// the child, and the child uses nothing else that another thread may have locked (it reads no environment and prints
    /// nothing, but for the message of a panic).
    fn launch(&self, config: &VmConfig) -> Result<MicroVm> {
        let (parts, control) = open(config)?;
        let late = match &config.start {
            Start::Template(_) => Some(parts.late_devices()),
            Start::Boot | Start::Draft(_) => None,
        };
        let vm = launch(parts, control, &config.cgroup)?;
        Ok(match late {
            Some(devices) => vm.resumed(devices),
            None => vm,
        })
    }
}

/// Starts a machine of these parts.
fn launch(parts: Parts, control: UnixStream, cgroup: &Membership) -> Result<MicroVm> {
    let (reports, for_reports) = pipe()?;
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(Error::system("open /dev/null"))?;
    let parent = std::process::id() as i32;
    let starter = pidfd_of(parent).map_err(Error::system("watch this process"))?;
    let channels = Channels {
        reports: for_reports,
        null,
        parent,
        starter,
    };
    // SAFETY: the child calls `be_monitor` at once and nothing after it; what that relies on is said above.
    let forked = match jail::may_administer() {
        // SAFETY: as above.
        true => unsafe { fork_apart(cgroup, channels.starter.as_fd()) },
        // SAFETY: as above.
        false => unsafe { fork_into(cgroup) },
    };
    let process = match forked {
        Ok(Fork::Child(entered)) => child::be_monitor(parts, channels, entered),
        Ok(Fork::Parent(pid)) => Process::adopt(pid)?,
        Err(error) => return Err(Error::system("fork the monitor's process")(error)),
    };
    // The child has its own of everything; the pipes and files must end with it.
    drop((parts, channels));
    let mut reports = Reports::new(reports);
    let mut stages = Vec::with_capacity(2);
    let process = start(process, &mut reports, &mut stages)?;
    Ok(MicroVm::new(process, control, stages, Box::new(reports)))
}

/// Waits until the monitor says that the guest runs, or why it does not.
fn start(mut process: Process, reports: &mut Reports, stages: &mut Vec<Stage>) -> Result<Process> {
    loop {
        match reports
            .next()
            .map_err(Error::system("hear from the monitor"))?
        {
            Some(Report::Ready(at)) => stages.push(Stage {
                name: Stage::VMM_READY,
                at,
            }),
            Some(Report::FirstInstruction(at)) => {
                stages.push(Stage {
                    name: Stage::FIRST_INSTRUCTION,
                    at,
                });
                return Ok(process);
            }
            Some(Report::Refused(why)) => return Err(Error::Start(why)),
            Some(Report::End(end)) => return Err(Error::Start(end.to_string())),
            None => {
                let end = match process.wait_for(None)? {
                    Some(status) => reports.end(status).to_string(),
                    None => "it said nothing".to_owned(),
                };
                return Err(Error::Start(end));
            }
        }
    }
}

/// Opens and checks everything that the machine is made of; the starter's end of the control channel comes with it.
fn open(config: &VmConfig) -> Result<(Parts, UnixStream)> {
    within(
        "the number of virtual CPUs",
        config.vcpus.into(),
        VCPUS.start(),
        VCPUS.end(),
    )?;
    within(
        "the memory in MiB",
        config.memory_mib.into(),
        MEMORY_MIB.start(),
        MEMORY_MIB.end(),
    )?;
    let kvm = probe()?;
    let most = kvm.get_max_vcpus() as u64;
    within(
        "the number of virtual CPUs on this host",
        config.vcpus.into(),
        &1u8,
        &(most.min(255) as u8),
    )?;
    let substrate = behind_open_kvm();
    let command_line = cmdline::for_guest(
        Accelerator::Kvm,
        &substrate,
        config.discovery,
        &config.extra_cmdline,
    )?;
    let origin = origin(config, &command_line, (&kvm, &substrate))?;
    let mut disks = Vec::with_capacity(2);
    if !config.image_disk.is_empty() {
        disks.push(Disk::image(&config.image_disk)?);
    }
    if let Some(path) = &config.writable_disk {
        disks.push(Disk::writable(path)?);
    }
    let shares = share::open(&config.shares)?;
    let networks = nic::open(&config.networks)?;
    let console = config
        .console
        .try_clone()
        .map_err(Error::system("copy the console's descriptor"))?;
    let (control, for_guest) =
        UnixStream::pair().map_err(Error::system("make the control channel"))?;
    let parts = Parts {
        kvm,
        substrate,
        origin,
        discovery: config.discovery,
        disks,
        shares,
        networks,
        console,
        control: for_guest,
        command_line,
        vcpus: config.vcpus,
        memory_mib: config.memory_mib,
        #[cfg(test)]
        intruder: None,
    };
    Ok((parts, control))
}

/// What the machine begins with.
fn origin(config: &VmConfig, command_line: &str, kvm: (&KvmFd, &Substrate)) -> Result<Origin> {
    if config.discovery == Discovery::Acpi && !matches!(config.start, Start::Boot) {
        // By which names such a kernel would be asked to look again differs from kernel to kernel.
        return Err(Error::Start(
            "a kernel that finds its devices by ACPI can have no template".to_owned(),
        ));
    }
    let fit = || Fit::of(config, command_line, kvm, PLACES);
    let draft = match &config.start {
        Start::Template(template) => {
            return match template.saved.fit.differs_from(&fit()?) {
                None => Ok(Origin::Template(template.clone())),
                Some(why) => Err(Error::Template {
                    path: template.path.clone(),
                    why,
                }),
            };
        }
        Start::Boot => None,
        Start::Draft(files) => Some(Box::new(Draft {
            files: files.try_clone()?,
            fit: fit()?,
        })),
    };
    let (initramfs, initramfs_bytes) = open_initramfs(&config.initramfs)?;
    Ok(Origin::Boot {
        kernel: Kernel::open(&config.kernel)?,
        initramfs,
        initramfs_bytes,
        draft,
    })
}

fn open_initramfs(path: &Path) -> Result<(File, u64)> {
    let failed = |what| {
        move |source| Error::File {
            path: path.to_owned(),
            what,
            source,
        }
    };
    let file = File::open(path).map_err(failed("cannot open the initial RAM disk"))?;
    let about = file
        .metadata()
        .map_err(failed("cannot read the initial RAM disk"))?;
    match about.is_file() {
        true => Ok((file, about.len())),
        false => Err(failed("cannot use the initial RAM disk")(io::Error::other(
            "it is no regular file",
        ))),
    }
}

fn within<T: Copy + Into<u64>>(what: &'static str, given: u64, least: &T, most: &T) -> Result<()> {
    let (least, most) = ((*least).into(), (*most).into());
    if (least..=most).contains(&given) {
        Ok(())
    } else {
        Err(Error::OutOfRange {
            what,
            given,
            least,
            most,
        })
    }
}

fn pipe() -> Result<(File, File)> {
    let (reader, writer) = io::pipe().map_err(Error::system("make a pipe"))?;
    Ok((
        File::from(OwnedFd::from(reader)),
        File::from(OwnedFd::from(writer)),
    ))
}
