//! /dev/kvm itself: whether it can be used, and whether it can do what the monitor needs.

use std::fs;
use std::io;
use std::path::Path;

use kvm_ioctls::{Cap, Kvm};

use crate::{Error, Result};

const DEVICE: &str = "/dev/kvm";

/// The only version of KVM's interface there has been since Linux 2.6.22 (Documentation/virt/kvm/api.rst,
/// KVM_GET_API_VERSION).
const API_VERSION: i32 = 12;

/// What the monitor cannot do without, and what a sentence calls it.
const NEEDED: &[(Cap, &str)] = &[
    (Cap::Irqchip, "the interrupt controllers (KVM_CAP_IRQCHIP)"),
    (Cap::Pit2, "the interval timer (KVM_CAP_PIT2)"),
    (Cap::Ioeventfd, "queue notifications (KVM_CAP_IOEVENTFD)"),
    (Cap::Irqfd, "interrupts by eventfd (KVM_CAP_IRQFD)"),
    (
        Cap::UserMemory,
        "guest memory in user space (KVM_CAP_USER_MEMORY)",
    ),
    (
        Cap::SetTssAddr,
        "the task-state segment (KVM_CAP_SET_TSS_ADDR)",
    ),
    (
        Cap::SetIdentityMapAddr,
        "the identity map (KVM_CAP_SET_IDENTITY_MAP_ADDR)",
    ),
    (
        Cap::ExtCpuid,
        "the processor's features (KVM_CAP_EXT_CPUID)",
    ),
    (
        Cap::MpState,
        "the states of virtual CPUs (KVM_CAP_MP_STATE)",
    ),
    (
        Cap::ImmediateExit,
        "leaving the guest at once (KVM_CAP_IMMEDIATE_EXIT)",
    ),
];

/// Opens /dev/kvm and checks its version and abilities.
///
/// # Errors
/// A sentence that names the module, package or group which mends it.
pub fn probe() -> Result<Kvm> {
    let kvm = Kvm::new().map_err(|error| no_device(io::Error::from(error)))?;
    match kvm.get_api_version() {
        API_VERSION => {}
        other => {
            let reason =
                format!("{DEVICE} speaks version {other} of KVM's interface, not {API_VERSION}");
            return Err(Error::NoKvm { reason });
        }
    }
    match NEEDED
        .iter()
        .find(|(capability, _)| !kvm.check_extension(*capability))
    {
        None => Ok(kvm),
        Some((_, name)) => Err(Error::KvmLacks(name)),
    }
}

/// Why the device could not be opened, and what mends it.
fn no_device(error: io::Error) -> Error {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let exists = Path::new(DEVICE).exists();
    Error::NoKvm {
        reason: explain(&error, exists, &cpuinfo),
    }
}

fn explain(error: &io::Error, exists: bool, cpuinfo: &str) -> String {
    let has = |flag: &str| cpuinfo.split_whitespace().any(|word| word == flag);
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            format!(
                "no permission to open {DEVICE}: become root, or join the group that owns it (usually kvm: usermod -aG kvm USER)"
            )
        }
        Some(libc::ENOENT) if !exists => {
            let module = match (has("vmx"), has("svm")) {
                (true, _) => "load the module kvm_intel (modprobe kvm_intel)",
                (_, true) => "load the module kvm_amd (modprobe kvm_amd)",
                _ => {
                    "this processor shows neither vmx nor svm: turn virtualization on in the firmware, or nested virtualization in the cloud; or use tcg (package qemu-system-x86)"
                }
            };
            format!("{DEVICE} does not exist: {module}")
        }
        Some(libc::ENODEV | libc::ENXIO) => {
            format!("{DEVICE} is there but nothing serves it: load the module kvm_intel or kvm_amd")
        }
        _ => format!("cannot open {DEVICE}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_forbidden_device_says_what_mends_it() {
        let os = io::Error::from_raw_os_error;
        assert!(explain(&os(libc::ENOENT), false, "flags : fpu svm").contains("kvm_amd"));
        assert!(explain(&os(libc::ENOENT), false, "flags : fpu vmx").contains("kvm_intel"));
        assert!(explain(&os(libc::ENOENT), false, "flags : fpu").contains("qemu-system-x86"));
        assert!(explain(&os(libc::EACCES), true, "").contains("group"));
        assert!(explain(&os(libc::ENODEV), true, "").contains("module"));
        assert!(explain(&os(libc::EMFILE), true, "").contains(DEVICE));
    }
}
