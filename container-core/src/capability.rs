//! Capabilities by their numbers (uapi/linux/capability.h).

use oci_spec::runtime::{Capabilities, Capability};

/// CAP_SYS_RESOURCE.
pub(crate) const SYS_RESOURCE: u32 = 24;

/// Every capability, in the order of its number.
pub(crate) const ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// The names of all capabilities, in the order of their numbers.
pub fn capability_names() -> Vec<String> {
    ALL.iter()
        .map(|capability| format!("CAP_{capability}"))
        .collect()
}

/// The bit of a capability in a set.
pub(crate) const fn bit(number: u32) -> u64 {
    1 << number
}

/// The kernel's number of a capability.
pub(crate) const fn number(capability: Capability) -> u32 {
    match capability {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::DacReadSearch => 2,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::LinuxImmutable => 9,
        Capability::NetBindService => 10,
        Capability::NetBroadcast => 11,
        Capability::NetAdmin => 12,
        Capability::NetRaw => 13,
        Capability::IpcLock => 14,
        Capability::IpcOwner => 15,
        Capability::SysModule => 16,
        Capability::SysRawio => 17,
        Capability::SysChroot => 18,
        Capability::SysPtrace => 19,
        Capability::SysPacct => 20,
        Capability::SysAdmin => 21,
        Capability::SysBoot => 22,
        Capability::SysNice => 23,
        Capability::SysResource => SYS_RESOURCE,
        Capability::SysTime => 25,
        Capability::SysTtyConfig => 26,
        Capability::Mknod => 27,
        Capability::Lease => 28,
        Capability::AuditWrite => 29,
        Capability::AuditControl => 30,
        Capability::Setfcap => 31,
        Capability::MacOverride => 32,
        Capability::MacAdmin => 33,
        Capability::Syslog => 34,
        Capability::WakeAlarm => 35,
        Capability::BlockSuspend => 36,
        Capability::AuditRead => 37,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
        Capability::CheckpointRestore => 40,
    }
}

/// A set as bits.
pub(crate) fn bits(set: &Capabilities) -> u64 {
    set.iter()
        .fold(0, |bits, capability| bits | bit(number(*capability)))
}

/// A set as a bit mask: bit n is the capability that linux/capability.h numbers n.
pub fn capability_mask(set: &Capabilities) -> u64 {
    bits(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_in_the_order_of_the_numbers() {
        for (index, capability) in ALL.into_iter().enumerate() {
            assert_eq!(number(capability) as usize, index);
        }
    }

    #[test]
    fn names_are_those_of_the_kernel() {
        let names = capability_names();
        assert_eq!(names[0], "CAP_CHOWN");
        assert_eq!(names[40], "CAP_CHECKPOINT_RESTORE");
    }

    #[test]
    fn every_capability_has_a_number_of_its_own() {
        let all = [
            Capability::Chown,
            Capability::SysAdmin,
            Capability::CheckpointRestore,
            Capability::SysResource,
        ];
        assert_eq!(
            bits(&all.into_iter().collect()),
            1 | 1 << 21 | 1 << 24 | 1 << 40
        );
    }
}
