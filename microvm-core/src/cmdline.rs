//! The guest kernel's command line: the one place that knows which words a guest needs on which processor.

use crate::{Accelerator, Discovery, Error, Result, Substrate};

/// How long a command line x86 kernels take, in bytes with the final zero (`COMMAND_LINE_SIZE`,
/// arch/x86/include/asm/setup.h).
pub const MAX_BYTES: usize = 2048;

/// What every guest is told.
///
/// `panic=-1` resets at once when the kernel panics, and `reboot=k` resets through the keyboard controller, which both
/// monitors have; so a reset is how every guest ends. `quiet` because each character on the serial line is an exit.
/// `random.trust_cpu=on` so that the first program that asks for random numbers does not wait for them.
/// `no_timer_check` because the timer of a virtual machine needs no broken-chipset test.
const EVERYWHERE: &[&str] = &[
    "console=ttyS0",
    "quiet",
    "panic=-1",
    "reboot=k",
    "random.trust_cpu=on",
    "no_timer_check",
];

/// What a guest on kvm_pvm is told besides (guest/kernel/README.md): its kernel's instructions are emulated, and the
/// emulator lacks some.
///
/// `plimsoll_pvm` turns on what our kernel has for this. The processor's features are hidden in CPUID too, but ring 3
/// sees the host's CPUID. The rest saves instructions: `lpj` the calibration of the delay loop, `rodata=off` changes of
/// page tables, `noreplace-smp` the removal of lock prefixes, `mitigations=off` what has no sense where nothing is
/// executed speculatively.
const ON_PVM: &[&str] = &[
    "plimsoll_pvm",
    "mitigations=off",
    "rodata=off",
    "noreplace-smp",
    "lpj=1000000",
    "clearcpuid=xsave,cx16,smap,smep,umip,fsgsbase,erms,fsrm,popcnt",
    // The kernel puts words it does not know into init's environment. A kernel without XSAVE does not keep the AVX
    // registers across a context switch, and ring 3 sees them offered: glibc must not take them.
    PVM_GLIBC_TUNABLES,
];

/// What a guest is told that finds its devices by ACPI: such a kernel looks for PCI too, which neither machine has, and says on
/// the console that it finds none.
const BY_ACPI: &[&str] = &["pci=off"];

/// The environment entry that keeps glibc from choosing code that the guest on kvm_pvm cannot keep the state of.
pub const PVM_GLIBC_TUNABLES: &str = "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW,\
-AVX512CD,-AVX512DQ,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM";

/// The command line of a guest that runs on this accelerator, where KVM on this host is `substrate`, and finds its devices so;
/// `extra` comes last, so that it has the last word.
///
/// # Errors
/// When `extra` holds something other than printable ASCII, or the whole is too long for the kernel.
pub fn for_guest(
    accelerator: Accelerator,
    substrate: &Substrate,
    discovery: Discovery,
    extra: &str,
) -> Result<String> {
    let pvm = accelerator != Accelerator::Tcg && *substrate == Substrate::Pvm;
    let mut words = EVERYWHERE.to_vec();
    if pvm {
        words.extend(ON_PVM);
    }
    if discovery == Discovery::Acpi {
        words.extend(BY_ACPI);
    }
    if !extra.trim().is_empty() {
        words.push(extra.trim());
    }
    let line = words.join(" ");
    check(&line)?;
    Ok(line)
}

/// Refuses a command line that a kernel cannot take as it stands.
///
/// # Errors
/// When it holds something other than printable ASCII, or is too long.
pub fn check(line: &str) -> Result<()> {
    if let Some(bad) = line
        .split(' ')
        .find(|word| !word.bytes().all(|byte| byte.is_ascii_graphic()))
    {
        return Err(Error::CommandLine(bad.to_owned()));
    }
    if line.len() >= MAX_BYTES {
        return Err(Error::NoRoom {
            what: "the kernel command line",
            needed: line.len() as u64 + 1,
            room: MAX_BYTES as u64,
            hint: "",
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_guest_on_kvm_pvm_is_told_of_its_gaps() {
        let line = |accelerator, substrate| {
            for_guest(accelerator, &substrate, Discovery::CommandLine, "").unwrap()
        };
        assert!(line(Accelerator::Kvm, Substrate::Pvm).contains("clearcpuid=xsave,"));
        assert!(line(Accelerator::QemuKvm, Substrate::Pvm).contains("GLIBC_TUNABLES="));
        for (accelerator, substrate) in [
            (Accelerator::Kvm, Substrate::Svm),
            (Accelerator::Tcg, Substrate::Pvm),
            (Accelerator::QemuKvm, Substrate::Vmx),
        ] {
            let line = line(accelerator, substrate);
            assert!(
                !line.contains("pvm") && !line.contains("mitigations"),
                "{line}"
            );
        }
    }

    #[test]
    fn what_the_caller_adds_comes_last() {
        let line = for_guest(
            Accelerator::Tcg,
            &Substrate::Pvm,
            Discovery::Acpi,
            " loglevel=7 debug ",
        )
        .unwrap();
        assert!(line.ends_with(" pci=off loglevel=7 debug"), "{line}");
        assert!(line.starts_with("console=ttyS0 "), "{line}");
    }

    #[test]
    fn a_line_the_kernel_cannot_take_is_refused() {
        for extra in ["a\nb", "naïve", "tab\tbed", "nul\0"] {
            let refused =
                for_guest(Accelerator::Tcg, &Substrate::Svm, Discovery::Acpi, extra).unwrap_err();
            assert!(matches!(refused, Error::CommandLine(_)), "{refused}");
        }
        let long = "x".repeat(MAX_BYTES);
        assert!(matches!(
            for_guest(Accelerator::Tcg, &Substrate::Svm, Discovery::Acpi, &long),
            Err(Error::NoRoom { .. })
        ));
    }
}
