//! Which machines a template fits: those that would be just what it was when it was saved.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kvm_ioctls::Kvm;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::arch::cpuid::Features;
use crate::{Error, MEMORY_MIB, Result, Substrate, VCPUS, VmConfig};

/// What must be the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fit {
    /// The version of this crate.
    pub(crate) monitor: String,
    /// The host's kernel, whose KVM's state it is; on kvm_pvm the running one alone. There guests read the host's own time-stamp
    /// counter, which begins anew with the host, and a guest's clock stands still until that is where it was.
    pub(crate) host: String,
    /// What /dev/kvm is.
    pub(crate) substrate: String,
    /// The digest of all that the virtual CPUs say of themselves.
    pub(crate) processor: String,
    pub(crate) kernel: Origin,
    pub(crate) initramfs: Origin,
    pub(crate) command_line: String,
    pub(crate) memory_mib: u32,
    pub(crate) vcpus: u8,
    /// How many places for devices there are.
    pub(crate) places: usize,
}

/// Which file something came from, as make(1) would know it: to digest a kernel takes longer than to restore a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Origin {
    device: u64,
    inode: u64,
    bytes: u64,
    /// When it was last written, nanoseconds since 1970.
    written: i128,
}

impl Origin {
    fn of(path: &Path, what: &'static str) -> Result<Self> {
        let about = fs::metadata(path).map_err(|source| Error::File {
            path: path.to_owned(),
            what,
            source,
        })?;
        Ok(Self {
            device: about.dev(),
            inode: about.ino(),
            bytes: about.len(),
            written: i128::from(about.mtime()) * 1_000_000_000 + i128::from(about.mtime_nsec()),
        })
    }
}

/// A name for machines of this kernel, initial RAM disk and size.
pub(crate) fn name(config: &VmConfig) -> Result<String> {
    let mut hasher = Sha256::new();
    for origin in [
        Origin::of(&config.kernel, "cannot open the guest kernel")?,
        Origin::of(&config.initramfs, "cannot open the initial RAM disk")?,
    ] {
        hasher.update(origin.device.to_le_bytes());
        hasher.update(origin.inode.to_le_bytes());
        hasher.update(origin.bytes.to_le_bytes());
        hasher.update(origin.written.to_le_bytes());
    }
    let mut name = hex(&hasher.finalize());
    name.truncate(12);
    Ok(format!("{}m-{}cpu-{name}", config.memory_mib, config.vcpus))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Fit {
    /// What a machine of this configuration is.
    pub(crate) fn of(
        config: &VmConfig,
        command_line: &str,
        (kvm, substrate): (&Kvm, &Substrate),
        places: usize,
    ) -> Result<Self> {
        let features = Features::supported(kvm, substrate)?;
        let mut hasher = Sha256::new();
        for entry in features.of(0, config.vcpus)?.as_slice() {
            let words = [
                entry.function,
                entry.index,
                entry.flags,
                entry.eax,
                entry.ebx,
                entry.ecx,
                entry.edx,
            ];
            words
                .iter()
                .for_each(|word| hasher.update(word.to_le_bytes()));
        }
        let read = |path: &str| {
            let text = fs::read_to_string(path)
                .map_err(Error::system("read the host's kernel version"))?;
            Ok::<_, Error>(text.trim().to_owned())
        };
        let mut host = read("/proc/sys/kernel/osrelease")?;
        if *substrate == Substrate::Pvm {
            host = format!(
                "{host} booted as {}",
                read("/proc/sys/kernel/random/boot_id")?
            );
        }
        Ok(Self {
            monitor: env!("CARGO_PKG_VERSION").to_owned(),
            host,
            substrate: substrate.to_string(),
            processor: hex(&hasher.finalize()),
            kernel: Origin::of(&config.kernel, "cannot open the guest kernel")?,
            initramfs: Origin::of(&config.initramfs, "cannot open the initial RAM disk")?,
            command_line: command_line.to_owned(),
            memory_mib: config.memory_mib,
            vcpus: config.vcpus,
            places,
        })
    }

    /// Why a template that fits this does not fit `wanted`; the end of a sentence about the template.
    pub(crate) fn differs_from(&self, wanted: &Self) -> Option<String> {
        let different = |what: &str, own: &dyn std::fmt::Display, other: &dyn std::fmt::Display| {
            Some(format!(
                "it was made with {what} {own}, and this is {other}"
            ))
        };
        if self.monitor != wanted.monitor {
            return different("version", &self.monitor, &wanted.monitor);
        }
        if self.host != wanted.host {
            return different("the host's kernel", &self.host, &wanted.host);
        }
        if self.substrate != wanted.substrate {
            return different("KVM on", &self.substrate, &wanted.substrate);
        }
        if self.memory_mib != wanted.memory_mib {
            return different("a size in MiB of", &self.memory_mib, &wanted.memory_mib);
        }
        if self.vcpus != wanted.vcpus {
            return different("a number of CPUs of", &self.vcpus, &wanted.vcpus);
        }
        let other = |same: bool, what: &str| (!same).then(|| format!("it was made with {what}"));
        other(self.processor == wanted.processor, "another processor")
            .or_else(|| other(self.kernel == wanted.kernel, "another guest kernel"))
            .or_else(|| other(self.initramfs == wanted.initramfs, "another guest agent"))
            .or_else(|| {
                other(
                    self.command_line == wanted.command_line,
                    "another kernel command line",
                )
            })
            .or_else(|| other(self == wanted, "another number of places for devices"))
    }

    /// Whether there can be such a machine.
    pub(crate) fn is_possible(&self) -> bool {
        VCPUS.contains(&self.vcpus) && MEMORY_MIB.contains(&self.memory_mib) && self.places < 64
    }
}

#[cfg(test)]
impl Fit {
    /// A machine of 64 MiB.
    pub(crate) fn example() -> Self {
        let origin = Origin {
            device: 1,
            inode: 2,
            bytes: 3,
            written: 4,
        };
        Self {
            monitor: "1.0".into(),
            host: "6.12".into(),
            substrate: "svm".into(),
            processor: "abc".into(),
            kernel: origin.clone(),
            initramfs: origin,
            command_line: "quiet".into(),
            memory_mib: 64,
            vcpus: 1,
            places: 10,
        }
    }
}
