//! Why a virtual machine could not be started or watched.

use std::io;
use std::path::PathBuf;

/// Why a virtual machine could not be started or watched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A word that names no accelerator.
    #[error("unknown accelerator {0:?}: use auto, kvm, tcg or qemu-kvm")]
    UnknownAccelerator(String),
    /// KVM was asked for and cannot be used.
    #[error("{reason}")]
    NoKvm {
        /// Why, and what mends it.
        reason: String,
    },
    /// QEMU was asked for and is not installed.
    #[error("qemu-system-x86_64 is not installed: install the package qemu-system-x86")]
    NoQemu,
    /// Neither KVM nor QEMU is there.
    #[error(
        "no virtual machine can run here: {reason}; and qemu-system-x86_64 is not installed (package qemu-system-x86)"
    )]
    NothingRuns {
        /// Why there is no KVM, and what mends it.
        reason: String,
    },
    /// A number in the configuration that is out of its bounds.
    #[error("{what} must be between {least} and {most}, not {given}")]
    OutOfRange {
        /// What the number is.
        what: &'static str,
        /// The number.
        given: u64,
        /// Its lower bound.
        least: u64,
        /// Its upper bound.
        most: u64,
    },
    /// A file that the machine needs could not be used.
    #[error("{}: {what}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What failed, such as `cannot open the guest kernel`.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel file is nothing that can be booted.
    #[error("{}: {why}", path.display())]
    Kernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A disk file that cannot be a disk.
    #[error("{}: {why}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A template that no machine can be made from, or not this one.
    #[error("the template {} is refused: {why}", path.display())]
    Template {
        /// Its directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Something that cannot be shared with a guest.
    #[error("cannot share {name:?} with the guest: {why}")]
    Share {
        /// The share's name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// Something that cannot be a network device of a guest's.
    #[error(
        "cannot give the guest the network device {:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}: {why}",
        mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]
    )]
    Nic {
        /// The device's hardware address.
        mac: [u8; 6],
        /// What is wrong with it.
        why: String,
    },
    /// virtiofsd is needed, and is not installed.
    #[error(
        "virtiofsd is not installed, without which QEMU shares no directories with a guest: install the package \
         qemu-system-common (Debian 12) or virtiofsd (later)"
    )]
    NoVirtiofsd,
    /// Kernel, initial RAM disk or command line do not fit into what the machine has for them.
    #[error("{what} needs {needed} bytes, and there is room for {room}{hint}")]
    NoRoom {
        /// What does not fit.
        what: &'static str,
        /// Its size in bytes.
        needed: u64,
        /// The room there is, in bytes.
        room: u64,
        /// What mends it, with its own punctuation in front, or nothing.
        hint: &'static str,
    },
    /// The command line holds something that the kernel cannot be given.
    #[error("the kernel command line must be printable ASCII: {0:?}")]
    CommandLine(String),
    /// A KVM call failed.
    #[error("KVM cannot {what}: {source}")]
    Kvm {
        /// What was asked of it.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// This host's KVM lacks something that the monitor needs.
    #[error("this host's KVM lacks {0}, which the monitor needs")]
    KvmLacks(&'static str),
    /// A system call that the monitor needs failed.
    #[error("cannot {what}: {source}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The monitor could not be put into its cgroup.
    #[error("cannot put the virtual machine monitor into its cgroup: {0}")]
    Cgroup(#[source] io::Error),
    /// The monitor ended before the guest ran.
    #[error("the virtual machine monitor did not start: {0}")]
    Start(String),
}

impl Error {
    /// A closure for `map_err`: the system call that `what` names has failed.
    pub(crate) fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::System {
            what,
            source: error.into(),
        }
    }
}
