//! What can run a virtual machine on this host, and which of it is taken.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::{Error, Result};

/// What runs the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Accelerator {
    /// Our own monitor, on KVM.
    Kvm,
    /// QEMU's `microvm` machine, software emulation.
    Tcg,
    /// QEMU's `microvm` machine on KVM.
    QemuKvm,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
            Self::QemuKvm => "qemu-kvm",
        })
    }
}

/// What a user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Request {
    /// The best that this host has.
    #[default]
    Auto,
    /// Just this one, or an error that says why not.
    Only(Accelerator),
}

impl FromStr for Request {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Only(Accelerator::Kvm)),
            "tcg" => Ok(Self::Only(Accelerator::Tcg)),
            "qemu-kvm" => Ok(Self::Only(Accelerator::QemuKvm)),
            _ => Err(Error::UnknownAccelerator(text.to_owned())),
        }
    }
}

/// What /dev/kvm is on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Substrate {
    /// Intel's hardware virtualization.
    Vmx,
    /// AMD's hardware virtualization.
    Svm,
    /// KVM by page tables, without hardware: ring 0 of the guest is emulated.
    Pvm,
    /// There is no KVM that this process can use.
    None {
        /// Why, and what mends it.
        reason: String,
    },
}

impl Substrate {
    /// Whether guests run on hardware virtualization, so that figures are worth something in general.
    pub fn is_hardware(&self) -> bool {
        matches!(self, Self::Vmx | Self::Svm)
    }
}

impl fmt::Display for Substrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vmx => "vmx",
            Self::Svm => "svm",
            Self::Pvm => "kvm_pvm",
            Self::None { .. } => "none",
        })
    }
}

/// Finds out what /dev/kvm is: opens the device and reads which module stands behind it.
pub fn substrate() -> Substrate {
    match crate::kvm::probe() {
        Ok(_) => behind_open_kvm(),
        Err(error) => Substrate::None {
            reason: error.to_string(),
        },
    }
}

/// The same, where the device is open already.
pub(crate) fn behind_open_kvm() -> Substrate {
    behind_kvm(Path::new("/sys/module"), || {
        fs::read_to_string("/proc/cpuinfo").unwrap_or_default()
    })
}

/// Which vendor module serves KVM, from the loaded (or built-in) modules and, where those say nothing, the CPU's flags.
fn behind_kvm(modules: &Path, cpuinfo: impl FnOnce() -> String) -> Substrate {
    for (module, found) in [
        ("kvm_pvm", Substrate::Pvm),
        ("kvm_intel", Substrate::Vmx),
        ("kvm_amd", Substrate::Svm),
    ] {
        if modules.join(module).exists() {
            return found;
        }
    }
    // Read only now: on a host with many processors the file is long.
    let cpuinfo = cpuinfo();
    let mut flags = cpuinfo
        .lines()
        .find(|line| line.starts_with("flags"))
        .and_then(|line| line.split_once(':'))
        .map(|(_, flags)| flags)
        .unwrap_or_default()
        .split_whitespace();
    match flags.find(|flag| matches!(*flag, "vmx" | "svm")) {
        Some("vmx") => Substrate::Vmx,
        Some(_) => Substrate::Svm,
        None => Substrate::None {
            reason:
                "/dev/kvm is there, but neither kvm_intel, kvm_amd nor kvm_pvm stands behind it"
                    .to_owned(),
        },
    }
}

/// Where QEMU's system emulator for x86-64 is, if it is installed.
pub fn qemu_binary() -> Option<PathBuf> {
    const NAME: &str = "qemu-system-x86_64";
    // The usual places stand in for a PATH that is missing or was emptied (cron, sudo).
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/bin", "/usr/bin"].map(PathBuf::from))
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(NAME))
        .find(|file| file.is_file())
}

/// Decides what runs the machine, and says in one line which and why.
///
/// `auto` takes our monitor on hardware KVM, else QEMU's software emulation when QEMU is installed, else our monitor
/// on kvm_pvm.
///
/// # Errors
/// When what was asked for cannot run here, or, for `auto`, when nothing can.
pub fn choose(request: Request) -> Result<(Accelerator, String)> {
    decide(request, &substrate(), qemu_binary().is_some())
}

fn decide(request: Request, substrate: &Substrate, qemu: bool) -> Result<(Accelerator, String)> {
    let asked = |accelerator| format!("{accelerator}: asked for, on {substrate}");
    match (request, substrate) {
        (Request::Only(Accelerator::Kvm | Accelerator::QemuKvm), Substrate::None { reason }) => {
            Err(Error::NoKvm { reason: reason.clone() })
        }
        (Request::Only(Accelerator::Tcg | Accelerator::QemuKvm), _) if !qemu => Err(Error::NoQemu),
        (Request::Only(Accelerator::Tcg), _) => Ok((Accelerator::Tcg, "tcg: asked for, software emulation".to_owned())),
        (Request::Only(accelerator), _) => Ok((accelerator, asked(accelerator))),
        (Request::Auto, Substrate::Vmx | Substrate::Svm) => {
            Ok((Accelerator::Kvm, format!("kvm: /dev/kvm is hardware virtualization ({substrate})")))
        }
        (Request::Auto, Substrate::Pvm) if qemu => Ok((
            Accelerator::Tcg,
            "tcg: /dev/kvm is kvm_pvm, which emulates the guest's kernel and boots slower than QEMU's emulation"
                .to_owned(),
        )),
        (Request::Auto, Substrate::Pvm) => Ok((
            Accelerator::Kvm,
            "kvm: /dev/kvm is kvm_pvm, slow to boot, and there is no qemu-system-x86_64 to take instead".to_owned(),
        )),
        (Request::Auto, Substrate::None { reason }) if qemu => {
            Ok((Accelerator::Tcg, format!("tcg: no usable KVM ({reason})")))
        }
        (Request::Auto, Substrate::None { reason }) => Err(Error::NothingRuns { reason: reason.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> Substrate {
        Substrate::None {
            reason: "no device".to_owned(),
        }
    }

    #[test]
    fn auto_takes_hardware_then_tcg_then_kvm_pvm() {
        let auto = |substrate: &Substrate, qemu| decide(Request::Auto, substrate, qemu).unwrap().0;
        assert_eq!(auto(&Substrate::Vmx, true), Accelerator::Kvm);
        assert_eq!(auto(&Substrate::Svm, false), Accelerator::Kvm);
        assert_eq!(auto(&Substrate::Pvm, true), Accelerator::Tcg);
        assert_eq!(auto(&Substrate::Pvm, false), Accelerator::Kvm);
        assert_eq!(auto(&none(), true), Accelerator::Tcg);
    }

    #[test]
    fn what_cannot_run_is_refused_with_what_mends_it() {
        let refused = |request, substrate: &Substrate, qemu| {
            decide(request, substrate, qemu).unwrap_err().to_string()
        };
        assert!(refused(Request::Only(Accelerator::Kvm), &none(), true).contains("no device"));
        assert!(
            refused(Request::Only(Accelerator::Tcg), &Substrate::Svm, false)
                .contains("qemu-system-x86")
        );
        assert!(refused(Request::Auto, &none(), false).contains("no device"));
    }

    #[test]
    fn the_reason_is_one_line_that_names_the_accelerator() {
        for (request, substrate) in [
            (Request::Auto, Substrate::Vmx),
            (Request::Auto, Substrate::Pvm),
            (Request::Only(Accelerator::Kvm), Substrate::Pvm),
            (Request::Only(Accelerator::QemuKvm), Substrate::Svm),
            (Request::Only(Accelerator::Tcg), none()),
        ] {
            let (accelerator, why) = decide(request, &substrate, true).unwrap();
            assert!(why.starts_with(&format!("{accelerator}: ")), "{why}");
            assert!(!why.contains('\n'));
        }
    }

    #[test]
    fn the_substrate_is_read_from_the_module_first_and_the_cpu_flags_second() {
        let modules = tempfile::tempdir().unwrap();
        let cpu =
            |flags: &'static str| move || format!("processor\t: 0\nflags\t\t: fpu {flags} lm\n");
        assert_eq!(behind_kvm(modules.path(), cpu("vmx")), Substrate::Vmx);
        assert_eq!(behind_kvm(modules.path(), cpu("svm")), Substrate::Svm);
        assert!(matches!(
            behind_kvm(modules.path(), cpu("sse")),
            Substrate::None { .. }
        ));
        fs::create_dir(modules.path().join("kvm_pvm")).unwrap();
        assert_eq!(behind_kvm(modules.path(), cpu("sse")), Substrate::Pvm);
    }

    #[test]
    fn accelerators_parse_from_what_they_print() {
        for accelerator in [Accelerator::Kvm, Accelerator::Tcg, Accelerator::QemuKvm] {
            assert_eq!(
                accelerator.to_string().parse::<Request>().unwrap(),
                Request::Only(accelerator)
            );
        }
        assert!(
            "xen"
                .parse::<Request>()
                .unwrap_err()
                .to_string()
                .contains("xen")
        );
    }
}
