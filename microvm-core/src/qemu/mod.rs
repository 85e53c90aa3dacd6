//! QEMU's `microvm` machine, under software emulation or on KVM: the twin of [`kvm`](crate::kvm).
//!
//! QEMU gets everything as open descriptors: what it may not open for itself cannot be exchanged under it, and nothing of the
//! instance's is a name in the file system. It starts with its processor stopped and a control socket (QMP) over which it is
//! set going; what it writes there when it ends is how its end is known.

mod arguments;
mod disk;
mod monitor;
mod share;
mod spawn;
mod tsc;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitStatus;
use std::time::Duration;

use crate::config::{MEMORY_MIB, VCPUS};
use crate::kernel::Kernel;
use crate::machine::{End, Ending};
use crate::process::Process;
use crate::{
    Accelerator, Error, Hypervisor, MicroVm, Result, VmConfig, cmdline, qemu_binary, substrate,
};

pub use share::virtiofsd_binary;

use arguments::{Network, Passed};
use monitor::Monitor;
use spawn::Child;

/// How long QEMU has until its first virtual CPU runs: a hundred times what it takes on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Starts machines with QEMU.
#[derive(Debug, Clone, Copy)]
pub struct Qemu {
    accelerator: Accelerator,
}

impl Qemu {
    /// QEMU with this accelerator: [`Accelerator::QemuKvm`] is KVM, everything else software emulation.
    pub fn new(accelerator: Accelerator) -> Self {
        Self { accelerator }
    }
}

impl Hypervisor for Qemu {
    fn launch(&self, config: &VmConfig) -> Result<MicroVm> {
        let clock = tsc::Measurement::start();
        check(config)?;
        let binary = qemu_binary().ok_or(Error::NoQemu)?;
        let kvm = self.accelerator == Accelerator::QemuKvm;
        // QEMU would find the same faults, and say so in its own words.
        Kernel::open(&config.kernel)?;

        let mut passed = Passed::default();
        let kernel = passed.file(open(&config.kernel, "cannot open the guest kernel")?);
        let initramfs = passed.file(open(&config.initramfs, "cannot open the initial RAM disk")?);
        let disks = disk::open(config, &mut passed)?;
        let (control, guest_end) = pair()?;
        let (qmp, qmp_end) = pair()?;
        let control_fd = passed.file(guest_end);
        let qmp_fd = passed.file(qmp_end);

        let networks = networks(config, disks.len(), &mut passed)?;
        let shared = crate::share::open(&config.shares)?;
        let server = match shared.is_empty() {
            true => None,
            false => Some(share::Server::start(shared, &mut passed, &config.cgroup)?),
        };

        // Only software emulation needs to be told of the clocks: KVM has a clock of its own to show the guest.
        let words = if kvm {
            String::new()
        } else {
            arguments::timing(config, clock.finish())
        };
        let extra = format!("{words} {}", config.extra_cmdline);
        let command_line =
            cmdline::for_guest(self.accelerator, &substrate(), config.discovery, &extra)?;
        let arguments = arguments::Machine {
            kvm,
            vcpus: config.vcpus,
            memory_mib: config.memory_mib,
            discovery: config.discovery,
            kernel,
            initramfs,
            command_line: &command_line,
            disks: &disks,
            control: control_fd,
            qmp: qmp_fd,
            shares: server.as_ref().map(|server| server.socket),
            networks: &networks,
        }
        .arguments(&passed);
        let child = Child::start(
            &binary,
            &arguments,
            passed,
            &config.console,
            &config.cgroup,
            None,
        )?;
        let Child { process, errors } = child;
        start(process, errors, server, control, qmp)
    }
}

/// Waits until QEMU runs, and puts the machine together.
fn start(
    process: Process,
    errors: File,
    server: Option<share::Server>,
    control: UnixStream,
    qmp: UnixStream,
) -> Result<MicroVm> {
    let mut ending = QemuEnding {
        monitor: Monitor::new(qmp)?,
        errors,
        server,
    };
    match ending.monitor.start(process.pidfd(), START_LIMIT) {
        Ok(stages) => Ok(MicroVm::new(process, control, stages, Box::new(ending))),
        Err(error) => {
            // Its own words are better than ours, when it has left any.
            drop(process);
            let said = ending.said();
            // When it is gone QEMU says only that it is.
            if let Some(why) = ending.server.and_then(share::Server::failed) {
                return Err(why);
            }
            Err(if said.is_empty() {
                error
            } else {
                Error::Start(said)
            })
        }
    }
}

/// The network devices, as far as the machine has places for them.
fn networks(config: &VmConfig, disks: usize, passed: &mut Passed) -> Result<Vec<Network>> {
    let nics = crate::nic::open(&config.networks)?;
    let most = arguments::network_slots(disks, !config.shares.is_empty(), config.discovery);
    if nics.len() > most {
        return Err(Error::OutOfRange {
            what: "the number of network devices beside what else QEMU's machine has places for",
            given: nics.len() as u64,
            least: 0,
            most: most as u64,
        });
    }
    let pass = |nic| Network::pass(nic, passed);
    Ok(nics.into_iter().map(pass).collect())
}

/// The bounds that both monitors share.
fn check(config: &VmConfig) -> Result<()> {
    let bounded = |what, given: u64, least: u64, most: u64| {
        if (least..=most).contains(&given) {
            return Ok(());
        }
        Err(Error::OutOfRange {
            what,
            given,
            least,
            most,
        })
    };
    bounded(
        "the number of vCPUs",
        config.vcpus.into(),
        (*VCPUS.start()).into(),
        (*VCPUS.end()).into(),
    )?;
    bounded(
        "the memory in MiB",
        config.memory_mib.into(),
        (*MEMORY_MIB.start()).into(),
        (*MEMORY_MIB.end()).into(),
    )
}

fn open(path: &std::path::Path, what: &'static str) -> Result<File> {
    File::open(path).map_err(|source| Error::File {
        path: path.to_owned(),
        what,
        source,
    })
}

/// Two ends of a stream: ours, and the one QEMU gets.
fn pair() -> Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = UnixStream::pair().map_err(Error::system("make a socket pair"))?;
    Ok((ours, theirs.into()))
}

/// The last of what a program wrote to stderr, on one line.
fn last_lines(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let last = lines.iter().rev().take(5).rev();
    last.map(|line| line.trim_start_matches("qemu-system-x86_64: "))
        .collect::<Vec<_>>()
        .join("; ")
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// What QEMU leaves when it ends.
struct QemuEnding {
    monitor: Monitor,
    /// The end to read of the pipe that is its stderr.
    errors: File,
    /// What serves the guest's shares: it ends after QEMU, whose end it sees by itself.
    server: Option<share::Server>,
}

impl QemuEnding {
    /// The last of what QEMU wrote to stderr, on one line.
    fn said(&mut self) -> String {
        let mut text = Vec::new();
        // It has ended, and nobody else has the pipe, so this comes to an end; the pipe itself holds 64 KiB at most.
        let _ = self.errors.read_to_end(&mut text);
        last_lines(&text)
    }
}

impl Ending for QemuEnding {
    fn end(&mut self, status: ExitStatus) -> End {
        if !status.success() {
            let said = self.said();
            return match End::from_status(status) {
                End::Exited(_) if !said.is_empty() => End::MonitorFailed(said),
                end => end,
            };
        }
        self.monitor.end()
    }
}
