//! What the virtual CPUs say of themselves: everything that KVM can give the guest, the topology of this machine, and
//! on kvm_pvm less.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};

use super::pvm;
use crate::{Error, Result, Substrate};

/// Leaf 1, ECX: the processor is virtual.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, ECX: the local timer counts to a deadline in TSC ticks.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1, EDX: the count of logical processors in EBX holds.
const MANY_THREADS: u32 = 1 << 28;
/// Leaf 0x80000001, ECX: the same on AMD, for cores.
const MANY_CORES: u32 = 1 << 1;

/// What KVM can give to guests on this host.
#[derive(Debug)]
pub(crate) struct Features {
    supported: Vec<kvm_cpuid_entry2>,
    deadline: bool,
    masked: bool,
}

impl Features {
    /// Asks KVM.
    pub(crate) fn supported(kvm: &Kvm, substrate: &Substrate) -> Result<Self> {
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(|error| Error::Kvm {
                what: "list the processor's features",
                source: error.into(),
            })?;
        Ok(Self {
            supported: supported.as_slice().to_vec(),
            deadline: kvm.check_extension(Cap::TscDeadlineTimer),
            masked: *substrate == Substrate::Pvm,
        })
    }

    /// What virtual CPU number `cpu` of `cpus` says of itself.
    pub(crate) fn of(&self, cpu: u8, cpus: u8) -> Result<CpuId> {
        let mut entries = self.supported.clone();
        for entry in &mut entries {
            self.fix(entry, cpu, cpus);
        }
        if self.masked {
            pvm::mask(&mut entries);
        }
        CpuId::from_entries(&entries)
            .map_err(|_| Error::KvmLacks("room for the processor's features"))
    }

    fn fix(&self, entry: &mut kvm_cpuid_entry2, cpu: u8, cpus: u8) {
        let (id, count) = (u32::from(cpu), u32::from(cpus));
        let id_bits = id_bits(cpus);
        match entry.function {
            1 => {
                entry.ebx = entry.ebx & 0xffff | count << 16 | id << 24;
                entry.ecx |= HYPERVISOR;
                set(&mut entry.ecx, TSC_DEADLINE, self.deadline);
                set(&mut entry.edx, MANY_THREADS, cpus > 1);
            }
            // Intel's caches: how many processors share each, and how many cores there are.
            4 if entry.eax & 0x1f != 0 => {
                let level = entry.eax >> 5 & 7;
                let sharing = if level >= 3 { count - 1 } else { 0 };
                entry.eax = entry.eax & 0x3fff | sharing << 14 | (count - 1).min(0x3f) << 26;
            }
            // The topology by bits of the APIC id: one thread a core, all cores in one package.
            0xb | 0x1f => {
                let (bits, processors, kind) = match entry.index {
                    0 => (0, 1, 1),
                    1 => (id_bits, count, 2),
                    _ => (0, 0, 0),
                };
                (entry.eax, entry.ebx, entry.ecx, entry.edx) =
                    (bits, processors, entry.index | kind << 8, id);
            }
            0x8000_0001 => set(&mut entry.ecx, MANY_CORES, cpus > 1),
            0x8000_0008 => entry.ecx = entry.ecx & !0xf0ff | (count - 1) | id_bits << 12,
            // AMD's caches, as Intel's above.
            0x8000_001d if entry.eax & 0x1f != 0 => {
                let level = entry.eax >> 5 & 7;
                let sharing = if level >= 3 { count - 1 } else { 0 };
                entry.eax = entry.eax & 0x3fff | sharing << 14;
            }
            // AMD's topology: APIC id, core (one thread each), node.
            0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (id, id, 0),
            _ => {}
        }
    }
}

/// How many bits of an APIC id tell this many processors apart.
fn id_bits(cpus: u8) -> u32 {
    u32::from(cpus).next_power_of_two().trailing_zeros()
}

fn set(register: &mut u32, bit: u32, on: bool) {
    *register = if on {
        *register | bit
    } else {
        *register & !bit
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            ..Default::default()
        }
    }

    fn features(masked: bool) -> Features {
        let mut cache = entry(4, 3);
        cache.eax = 3 | 3 << 5 | 0x3ff << 14;
        let supported = vec![
            entry(1, 0),
            cache,
            entry(0xb, 0),
            entry(0xb, 1),
            entry(0x8000_0008, 0),
            entry(0x8000_001e, 0),
        ];
        Features {
            supported,
            deadline: true,
            masked,
        }
    }

    fn find(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *cpuid
            .as_slice()
            .iter()
            .find(|entry| (entry.function, entry.index) == (function, index))
            .unwrap()
    }

    #[test]
    fn each_processor_says_its_own_number_in_every_leaf() {
        let cpuid = features(false).of(2, 3).unwrap();
        assert_eq!(find(&cpuid, 1, 0).ebx, 3 << 16 | 2 << 24);
        assert_eq!(find(&cpuid, 0xb, 0).edx, 2);
        assert_eq!(find(&cpuid, 0x8000_001e, 0).eax, 2);
        assert_ne!(find(&cpuid, 1, 0).ecx & HYPERVISOR, 0);
        assert_ne!(find(&cpuid, 1, 0).ecx & TSC_DEADLINE, 0);
    }

    #[test]
    fn the_topology_is_one_package_of_single_threaded_cores() {
        let cpuid = features(false).of(0, 3).unwrap();
        let (threads, cores) = (find(&cpuid, 0xb, 0), find(&cpuid, 0xb, 1));
        assert_eq!((threads.eax, threads.ebx, threads.ecx), (0, 1, 1 << 8));
        assert_eq!((cores.eax, cores.ebx, cores.ecx), (2, 3, 1 | 2 << 8));
        assert_eq!(find(&cpuid, 4, 3).eax >> 14, 2 | 2 << 12);
        assert_eq!(find(&cpuid, 0x8000_0008, 0).ecx, 2 | 2 << 12);
    }

    #[test]
    fn one_processor_is_no_multiprocessor() {
        let cpuid = features(false).of(0, 1).unwrap();
        assert_eq!(find(&cpuid, 1, 0).edx & MANY_THREADS, 0);
        assert_eq!(find(&cpuid, 0xb, 1).eax, 0);
    }
}
