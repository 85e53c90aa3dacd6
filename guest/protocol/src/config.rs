//! What the host tells the agent to run: the payload of [`crate::ToGuest::Start`].

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Everything the agent needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestConfig {
    /// The guest's host name, at most 64 bytes (Linux's limit).
    pub hostname: String,
    /// Where the image's layers are.
    pub image: ImageDisk,
    /// The block device with the ext4 file system that keeps the instance's writes, as `/dev/vdb`. Without one the writes
    /// go to the guest's memory.
    pub writable: Option<String>,
    /// Mounts the root file system read-only.
    pub read_only_rootfs: bool,
    /// Mounts beyond the default ones, made in the order of how far they are from the root, and else in this one.
    pub mounts: Vec<Mount>,
    /// What the host shares, each mounted at its place.
    pub shares: Vec<SharedMount>,
    /// Network interfaces.
    pub networks: Vec<Interface>,
    /// Files that lie over the image's, as docker's /etc/hostname and /etc/hosts do; never part of the writable layer.
    pub files: Vec<File>,
    /// The size of /dev/shm in bytes.
    pub shm_bytes: u64,
    /// What to run.
    pub process: Process,
    /// The host's CLOCK_REALTIME when this was sent, nanoseconds since 1970; 0 leaves the guest's clock alone.
    pub realtime_ns: u64,
    /// Random bytes for the guest's generator, which counts each of their bits as entropy and begins anew with them.
    pub entropy: Vec<u8>,
    /// Devices that were not there when the guest's kernel booted: the kernel's names of the places (on its platform bus) in which
    /// it has to look once more, in that order. For a machine that goes on from a template.
    pub late_devices: Vec<String>,
}

/// The block device that holds the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageDisk {
    /// The device, as `/dev/vda`.
    pub device: String,
    /// The EROFS file systems on it, topmost layer first. A single one is the device itself, from its first byte.
    pub layers: Vec<Extent>,
}

/// A part of a block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extent {
    /// Bytes from the device's start, a multiple of 512.
    pub offset: u64,
    /// Bytes, a multiple of 512.
    pub length: u64,
}

/// One more mount in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// mount(2)'s source.
    pub source: String,
    /// An absolute path below the guest's root; made when it is missing.
    pub target: String,
    /// The file system's type, as `tmpfs`.
    pub filesystem: String,
    /// mount(2)'s MS_ flags.
    pub flags: u64,
    /// mount(2)'s data: the options that are the file system's own, joined by commas.
    pub data: String,
}

/// The tag of the virtio file system device that has all shares.
pub const SHARES_TAG: &str = "plimsoll";

/// A directory or a file of the host that is mounted in the guest.
///
/// These and [`GuestConfig::mounts`] are mounted together, those nearer to the root first, so that none hides another. A
/// share in the place of one of [`GuestConfig::files`] takes that place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedMount {
    /// The entry in the root directory of the device's file system: 1 to 16 lower-case letters and digits.
    pub name: String,
    /// An absolute path below the guest's root; made when it is missing.
    pub target: String,
    /// Mounts it read-only.
    pub read_only: bool,
}

/// A file that the agent lays over the image's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// An absolute path below the guest's root; made when it is missing.
    pub path: String,
    /// What the file holds.
    pub contents: String,
    /// Permission bits.
    pub mode: u32,
}

/// A network interface, which the guest knows by its hardware address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// The hardware address.
    pub mac: [u8; 6],
    /// What it is called, as `eth0`: at most 15 bytes.
    pub name: String,
    /// Its IPv4 address.
    pub address: [u8; 4],
    /// The subnet's prefix length.
    pub prefix: u8,
    /// Where the default route leads.
    pub gateway: Option<[u8; 4]>,
    /// The largest packet, bytes.
    pub mtu: u16,
}

/// The process the instance is for. It is PID 1 of a PID namespace of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// The program, by path or by name (looked up in the environment's PATH inside the image), and its arguments.
    pub args: Vec<String>,
    /// The whole environment, as `NAME=value`.
    pub env: Vec<String>,
    /// The working directory, absolute; made when it is missing.
    pub cwd: String,
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// Supplementary group IDs.
    pub additional_gids: Vec<u32>,
    /// The file mode creation mask.
    pub umask: u32,
    /// Gives the process a pseudo-terminal of this size as its stdin, stdout and stderr.
    pub terminal: Option<WindowSize>,
    /// Whether the host will send stdin; without it the process reads from /dev/null.
    pub stdin: bool,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// Sets no_new_privs.
    pub no_new_privileges: bool,
    /// The capability sets. `None` leaves root everything: the guest's kernel is the instance's own.
    pub capabilities: Option<Capabilities>,
}

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// A resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rlimit {
    /// Which: Linux's RLIMIT_ number on x86-64.
    pub resource: u32,
    /// The limit in force; `u64::MAX` for none.
    pub soft: u64,
    /// What the process may raise it to.
    pub hard: u64,
}

/// Capability sets, as bit masks: bit n is the capability that linux/capability.h numbers n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// What exec can ever give.
    pub bounding: u64,
    /// What is in force.
    pub effective: u64,
    /// What can be put in force.
    pub permitted: u64,
    /// What exec of a file with inheritable capabilities keeps.
    pub inheritable: u64,
    /// What exec keeps for a user other than root.
    pub ambient: u64,
}
