//! What a virtual machine is made of.

use std::fs::File;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::template::{DraftFiles, Template};

/// How many virtual CPUs a machine may have. The upper bound keeps every APIC id inside the eight bits of an MP table.
pub const VCPUS: RangeInclusive<u8> = 1..=64;

/// How much memory a machine may have, in MiB: from what a small kernel boots in to one tebibyte.
pub const MEMORY_MIB: RangeInclusive<u32> = 64..=1024 * 1024;

/// The cgroup that the monitor is in from the start, before it has allocated anything for the guest.
///
/// It gets there in ways that need no lock over all threads of the host, whose price is an RCU grace period (5 to 14 ms
/// here): it is made inside the unified hierarchy's cgroup, and it enters those of version 1 by itself.
#[derive(Debug, Default)]
pub struct Membership {
    /// The directory of the unified hierarchy's cgroup.
    pub unified: Option<OwnedFd>,
    /// The `tasks` files of cgroups of version 1, open for writing.
    pub tasks: Vec<File>,
}

/// A directory or a file of the host that the guest sees. All of a machine's are one file system of the kind `virtiofs`
/// with the tag [`SHARES_TAG`](guest_protocol::SHARES_TAG), and each is an entry in its root directory.
#[derive(Debug)]
pub struct Share {
    /// The entry's name: 1 to 16 lower-case letters and digits.
    pub name: String,
    /// The directory or regular file, open with `O_PATH`.
    pub source: OwnedFd,
    /// Whether the guest may only read.
    pub read_only: bool,
}

/// How many network devices a machine may have.
pub const NICS_MAX: usize = 4;

/// A network device of the guest's.
#[derive(Debug)]
pub struct Nic {
    /// The host's end: a tap (`IFF_TAP`, `IFF_NO_PI`, `IFF_VNET_HDR`, a header of 12 bytes) that does not block.
    pub tap: OwnedFd,
    /// The guest's hardware address.
    pub mac: [u8; 6],
    /// The largest packet, bytes.
    pub mtu: u16,
}

/// How a machine comes to where its agent waits.
#[derive(Debug, Default)]
pub enum Start {
    /// It boots.
    #[default]
    Boot,
    /// It boots in order to become a template: without disks, shares and networks, until [`MicroVm::save`](crate::MicroVm::save).
    Draft(DraftFiles),
    /// It goes on from a template, which must have been made from the same kernel and in the same size.
    Template(Template),
}

/// How a guest's kernel finds its processors and devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Discovery {
    /// Its command line names the devices and an MP table the processors: `CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES` and
    /// `CONFIG_X86_MPPARSE`, and nothing to interpret at boot.
    #[default]
    CommandLine,
    /// By ACPI's tables, as distributions' kernels do.
    Acpi,
}

/// What a virtual machine is made of. Every path is opened by the launching process, before anything is started.
pub struct VmConfig {
    /// The guest kernel: an uncompressed ELF `vmlinux` for x86-64 with a PVH entry point.
    pub kernel: PathBuf,
    /// How that finds its devices.
    pub discovery: Discovery,
    /// The initial RAM disk, as a cpio archive that the kernel can unpack.
    pub initramfs: PathBuf,
    /// Files that together, one after another, are the read-only disk `/dev/vda`. Each is a multiple of 512 bytes
    /// long. With none there is no read-only disk, and the writable one is the first.
    pub image_disk: Vec<PathBuf>,
    /// The file that is the writable disk, `/dev/vdb` after a read-only one: a multiple of 512 bytes, may be sparse.
    pub writable_disk: Option<PathBuf>,
    /// Directories and files of the host that the guest sees.
    pub shares: Vec<Share>,
    /// Its network devices, at most [`NICS_MAX`].
    pub networks: Vec<Nic>,
    /// Virtual CPUs, within [`VCPUS`].
    pub vcpus: u8,
    /// Guest memory in MiB, within [`MEMORY_MIB`].
    pub memory_mib: u32,
    /// Words to put at the end of the kernel's command line, after everything that this crate puts there by itself.
    pub extra_cmdline: String,
    /// Where the output of the guest's serial console goes. A regular file is kept below a bound by forgetting the
    /// oldest output; a pipe or terminal that is full loses output rather than hold the guest up.
    pub console: File,
    /// The cgroup of the monitor's process.
    pub cgroup: Membership,
    /// How it comes to where its agent waits. QEMU's machines all boot.
    pub start: Start,
}

impl VmConfig {
    /// A machine with one virtual CPU and 256 MiB, without disks.
    pub fn new(kernel: PathBuf, initramfs: PathBuf, console: File) -> Self {
        Self {
            kernel,
            discovery: Discovery::default(),
            initramfs,
            image_disk: Vec::new(),
            writable_disk: None,
            shares: Vec::new(),
            networks: Vec::new(),
            vcpus: 1,
            memory_mib: 256,
            extra_cmdline: String::new(),
            console,
            cgroup: Membership::default(),
            start: Start::Boot,
        }
    }
}

/// A moment in a machine's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage {
    /// What had just been done: `vmm-ready`, `first-instruction`.
    pub name: &'static str,
    /// When it was done, in nanoseconds of the host's `CLOCK_MONOTONIC`.
    pub at: u64,
}

impl Stage {
    /// All devices and virtual CPUs are set up.
    pub const VMM_READY: &'static str = "vmm-ready";
    /// The first virtual CPU is about to enter the guest for the first time.
    pub const FIRST_INSTRUCTION: &'static str = "first-instruction";

    /// A stage that ends now.
    pub fn now(name: &'static str) -> Self {
        Self {
            name,
            at: monotonic_now(),
        }
    }
}

/// Nanoseconds of the host's `CLOCK_MONOTONIC`.
pub fn monotonic_now() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a valid timespec to write to, and CLOCK_MONOTONIC exists on every Linux, so the call cannot
    // fail or write anywhere else.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
