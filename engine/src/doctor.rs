//! What this host has of everything that Plimsoll uses, and how to mend what it lacks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use container_core::cgroup::{Hierarchies, Mode};
use microvm_core::Substrate;
use nix::sys::utsname::uname;
use nix::unistd::geteuid;
use serde::Serialize;

use crate::home::DEFAULT_KERNEL;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// There, and in order.
    Ok,
    /// Something works less well, or not on one of the backends.
    Warning,
    /// Nothing works before this is mended.
    Failure,
}

/// One facility.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// The facility.
    pub name: &'static str,
    /// How it came out.
    pub state: State,
    /// What was found.
    pub found: String,
    /// How to mend it, where it needs mending.
    pub mend: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Ok,
            found: found.into(),
            mend: None,
        }
    }

    fn warning(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Warning,
            found: found.into(),
            mend: Some(mend.into()),
        }
    }

    fn failure(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Failure,
            found: found.into(),
            mend: Some(mend.into()),
        }
    }
}

/// The oldest kernel that docker ever ran on (row N7).
const KERNEL_NOTES: (u32, u32) = (3, 10);

/// The oldest kernel with all that the container backend calls: mount_setattr(2) came last, in 5.12.
const KERNEL_NEEDED: (u32, u32) = (5, 12);

/// Looks at everything.
pub fn check(root: &Path) -> Vec<Check> {
    let release = uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let machine = uname()
        .map(|name| name.machine().to_string_lossy().into_owned())
        .unwrap_or_default();
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    vec![
        kernel(&release),
        architecture(&machine),
        user(geteuid().as_raw()),
        capabilities(&fs::read_to_string("/proc/self/status").unwrap_or_default()),
        cgroups(),
        filesystem("overlay", &filesystems),
        namespaces(),
        seccomp(),
        state_directory(root),
        kvm(&microvm_core::substrate()),
        qemu(),
        guest_kernel(&kernel_path()),
        program(
            "mkfs.erofs",
            "erofs-utils",
            "a VM's image disks are made with it",
        ),
        program(
            "mkfs.ext4",
            "e2fsprogs",
            "a VM's writable disk is made with it",
        ),
        tun(),
        nftables(),
    ]
}

/// Major and minor number at the front of a kernel release.
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn kernel(release: &str) -> Check {
    let (major, minor) = KERNEL_NEEDED;
    match parse_release(release) {
        Some(version) if version >= KERNEL_NEEDED => Check::ok("kernel", release),
        Some(version) if version >= KERNEL_NOTES => Check::failure(
            "kernel",
            release,
            format!(
                "docker's minimum is met, but Plimsoll calls mount_setattr(2): install Linux {major}.{minor} or newer"
            ),
        ),
        _ => Check::failure(
            "kernel",
            release,
            format!("install Linux {major}.{minor} or newer"),
        ),
    }
}

fn architecture(machine: &str) -> Check {
    if machine == "x86_64" {
        Check::ok("64 bit", machine)
    } else {
        Check::failure(
            "64 bit",
            machine,
            "run Plimsoll on 64-bit x86 (x86_64) Linux",
        )
    }
}

fn user(uid: u32) -> Check {
    if uid == 0 {
        Check::ok("root", "user id 0")
    } else {
        Check::failure(
            "root",
            format!("user id {uid}"),
            "run as root: sudo plimsoll …",
        )
    }
}

/// linux/capability.h.
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_RESOURCE: u32 = 24;

fn capabilities(status: &str) -> Check {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let has = |capability: u32| effective & (1 << capability) != 0;
    if !has(CAP_SYS_ADMIN) {
        Check::failure(
            "capabilities",
            format!("{effective:#x}"),
            "CAP_SYS_ADMIN is missing: leave the container or sandbox this runs in, or give it that",
        )
    } else if !has(CAP_SYS_RESOURCE) {
        Check::warning(
            "capabilities",
            "all that is needed but CAP_SYS_RESOURCE",
            "resource limits can be lowered and not raised above this shell's; nothing else suffers",
        )
    } else {
        Check::ok("capabilities", "all that is needed")
    }
}

fn cgroups() -> Check {
    match container_core::cgroup::detect() {
        Ok(hierarchies) => Check::ok("cgroups", cgroup_mode(hierarchies)),
        Err(error) => Check::failure(
            "cgroups",
            error.to_string(),
            "mount cgroup2: mount -t cgroup2 none /sys/fs/cgroup",
        ),
    }
}

fn cgroup_mode(hierarchies: &Hierarchies) -> String {
    match hierarchies.mode() {
        Mode::V1 => "v1",
        Mode::V2 => "v2",
        Mode::Hybrid => "hybrid (controllers on v1, v2 beside them)",
    }
    .to_owned()
}

fn filesystem(name: &'static str, filesystems: &str) -> Check {
    if filesystems
        .lines()
        .any(|line| line.split_whitespace().last() == Some(name))
    {
        Check::ok(name, "supported")
    } else {
        Check::failure(name, "not in /proc/filesystems", format!("modprobe {name}"))
    }
}

fn namespaces() -> Check {
    const NEEDED: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
    let missing: Vec<&str> = NEEDED
        .into_iter()
        .filter(|kind| !Path::new("/proc/self/ns").join(kind).exists())
        .collect();
    if missing.is_empty() {
        Check::ok("namespaces", NEEDED.join(", "))
    } else {
        Check::failure(
            "namespaces",
            format!("missing: {}", missing.join(", ")),
            "use a kernel with CONFIG_NAMESPACES and all its kinds",
        )
    }
}

fn seccomp() -> Check {
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    if actions.split_whitespace().any(|action| action == "errno") {
        Check::ok("seccomp", "filters supported")
    } else {
        Check::failure(
            "seccomp",
            "no filter support",
            "use a kernel with CONFIG_SECCOMP_FILTER",
        )
    }
}

fn state_directory(root: &Path) -> Check {
    let existing = root
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let Ok(space) = nix::sys::statvfs::statvfs(existing) else {
        return Check::failure(
            "state directory",
            root.display().to_string(),
            "choose another one with --root",
        );
    };
    let free = space.fragment_size() * space.blocks_available();
    // Debian's minimal root file system takes 300 MB, as a layer and as a disk.
    const WANTED: u64 = 1 << 30;
    let found = format!("{}, {} MiB free", root.display(), free >> 20);
    let on_overlay = nix::sys::statfs::statfs(existing)
        .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::OVERLAYFS_SUPER_MAGIC);
    if on_overlay {
        Check::failure(
            "state directory",
            format!("{found}, on overlay"),
            "overlay cannot hold the upper layer of another overlay: put --root on ext4, xfs, btrfs or tmpfs",
        )
    } else if free < WANTED {
        Check::warning(
            "state directory",
            found,
            "free at least 1 GiB, or choose another one with --root",
        )
    } else {
        Check::ok("state directory", found)
    }
}

fn kvm(substrate: &Substrate) -> Check {
    match substrate {
        Substrate::Vmx | Substrate::Svm => {
            Check::ok("kvm", format!("hardware virtualization ({substrate})"))
        }
        Substrate::Pvm => Check::warning(
            "kvm",
            "kvm_pvm: no hardware virtualization, the guest's kernel is emulated",
            "VMs work, boot slowly and give no general figures; use a host with vmx or svm (nested virtualization on) for those",
        ),
        Substrate::None { reason } => Check::warning("kvm", "none", reason.clone()),
    }
}

fn qemu() -> Check {
    match qemu_version() {
        Some(version) => Check::ok("qemu", version),
        None => Check::warning(
            "qemu",
            "not installed",
            "apt-get install qemu-system-x86 (for --accel tcg)",
        ),
    }
}

fn qemu_version() -> Option<String> {
    let output = Command::new(microvm_core::qemu_binary()?)
        .arg("--version")
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Some(text.lines().next()?.trim().to_owned())
}

/// The guest kernel used unless `--kernel` names one: one that guest/kernel/build.sh has built, so that nothing of it is examined.
pub fn kernel_path() -> PathBuf {
    std::env::var_os("PLIMSOLL_KERNEL").map_or_else(|| PathBuf::from(DEFAULT_KERNEL), PathBuf::from)
}

fn guest_kernel(path: &Path) -> Check {
    if path.is_file() {
        Check::ok("guest kernel", guest_kernel_name(path))
    } else {
        Check::warning(
            "guest kernel",
            format!("none at {}", path.display()),
            "make kernel (in Plimsoll's source tree), or give VMs one with --kernel",
        )
    }
}

/// The kernel's path with symbolic links resolved: the folder is named for the digest of what it was built from.
fn guest_kernel_name(path: &Path) -> String {
    fs::canonicalize(path)
        .unwrap_or_else(|_| path.to_owned())
        .display()
        .to_string()
}

fn program(name: &'static str, package: &str, purpose: &str) -> Check {
    match find_program(name) {
        Some(path) => Check::ok(name, path.display().to_string()),
        None => Check::warning(
            name,
            "not installed",
            format!("apt-get install {package}: {purpose}"),
        ),
    }
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

fn tun() -> Check {
    if Path::new("/dev/net/tun").exists() {
        Check::ok("tun", "/dev/net/tun")
    } else {
        Check::warning(
            "tun",
            "no /dev/net/tun",
            "modprobe tun (for the network of VMs)",
        )
    }
}

fn nftables() -> Check {
    match find_program("nft") {
        Some(path) => Check::ok("nftables", path.display().to_string()),
        None => Check::warning(
            "nftables",
            "nft is not installed",
            "apt-get install nftables (for published ports)",
        ),
    }
}

/// What `plimsoll version` tells.
#[derive(Debug, Clone, Serialize)]
pub struct Versions {
    /// `uname -r` of the host.
    pub host_kernel: String,
    /// The guest kernel's file, or that there is none.
    pub guest_kernel: String,
    /// What /dev/kvm is.
    pub kvm: String,
    /// QEMU's version, or that it is not installed.
    pub qemu: String,
    /// How cgroups are mounted.
    pub cgroups: String,
}

/// Collects [`Versions`].
pub fn versions() -> Versions {
    let path = kernel_path();
    Versions {
        host_kernel: uname()
            .map(|name| name.release().to_string_lossy().into_owned())
            .unwrap_or_default(),
        guest_kernel: if path.is_file() {
            guest_kernel_name(&path)
        } else {
            "none".into()
        },
        kvm: microvm_core::substrate().to_string(),
        qemu: qemu_version().unwrap_or_else(|| "not installed".into()),
        cgroups: container_core::cgroup::detect()
            .map_or_else(|error| error.to_string(), cgroup_mode),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_judged_by_their_number() {
        assert_eq!(kernel("6.18.44-fc-v669").state, State::Ok);
        assert_eq!(kernel("5.12.0").state, State::Ok);
        let old = kernel("4.19.0-27-amd64");
        assert_eq!(old.state, State::Failure);
        assert!(old.mend.unwrap().contains("docker's minimum is met"));
        assert_eq!(kernel("2.6.32").state, State::Failure);
        assert_eq!(kernel("nonsense").state, State::Failure);
    }

    #[test]
    fn whatever_is_wrong_comes_with_what_mends_it() {
        for check in [
            architecture("i686"),
            user(1000),
            capabilities("CapEff:\t0000000000000000\n"),
            capabilities("CapEff:\t000001fffeffffff\n"),
            filesystem("overlay", "nodev\tproc\n\text4\n"),
            kvm(&Substrate::Pvm),
            kvm(&Substrate::None {
                reason: "modprobe kvm".into(),
            }),
            guest_kernel(Path::new("/nowhere/vmlinux")),
            program("surely-not-a-program", "package", "purpose"),
        ] {
            assert_ne!(check.state, State::Ok, "{check:?}");
            assert!(
                check.mend.as_ref().is_some_and(|mend| !mend.is_empty()),
                "{check:?}"
            );
        }
    }

    #[test]
    fn a_host_with_everything_passes() {
        assert_eq!(capabilities("CapEff:\t000001ffffffffff\n").state, State::Ok);
        assert_eq!(filesystem("overlay", "nodev\toverlay\n").state, State::Ok);
        assert_eq!(kvm(&Substrate::Svm).found, "hardware virtualization (svm)");
        assert_eq!(architecture("x86_64").state, State::Ok);
    }
}
