//! QEMU's command line.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

use serde_json::{Value, json};

use crate::config::{Discovery, Nic, VmConfig};

/// The descriptors QEMU gets. Their numbers stay what they are.
#[derive(Default)]
pub(super) struct Passed {
    descriptors: Vec<OwnedFd>,
    /// Those of them that QEMU opens by name, as `/dev/fdset/N`.
    sets: Vec<i32>,
}

impl Passed {
    /// Passes a descriptor, and gives its number.
    pub(super) fn file(&mut self, file: impl Into<OwnedFd>) -> i32 {
        let descriptor = file.into();
        let number = descriptor.as_raw_fd();
        self.descriptors.push(descriptor);
        number
    }

    /// Passes a file for QEMU to open by name, and gives the name.
    pub(super) fn name_shared(&mut self, file: File) -> String {
        let number = self.file(file);
        self.sets.push(number);
        format!("/dev/fdset/{}", self.sets.len())
    }

    /// Passes a disk's file, and gives QEMU's description of it.
    pub(super) fn shared(&mut self, file: File, read_only: bool) -> Value {
        json!({"driver": "file", "filename": self.name_shared(file), "read-only": read_only})
    }

    pub(super) fn descriptors(&self) -> &[OwnedFd] {
        &self.descriptors
    }
}

/// What the command line is made of. Files and sockets are descriptors' numbers.
pub(super) struct Machine<'a> {
    pub(super) kvm: bool,
    pub(super) vcpus: u8,
    pub(super) memory_mib: u32,
    pub(super) discovery: Discovery,
    pub(super) kernel: i32,
    pub(super) initramfs: i32,
    pub(super) command_line: &'a str,
    pub(super) disks: &'a [Value],
    pub(super) control: i32,
    pub(super) qmp: i32,
    /// The connection to virtiofsd.
    pub(super) shares: Option<i32>,
    pub(super) networks: &'a [Network],
}

/// A network device, whose tap is passed.
pub(super) struct Network {
    tap: i32,
    mac: String,
    mtu: u16,
}

impl Network {
    pub(super) fn pass(nic: Nic, passed: &mut Passed) -> Self {
        Self {
            mac: nic.mac.map(|byte| format!("{byte:02x}")).join(":"),
            mtu: nic.mtu,
            tap: passed.file(nic.tap),
        }
    }
}

/// How many network devices the machine has places for, beside these disks and the shares, the control channel and the random
/// numbers. With ACPI it has a second interrupt controller, and so more places.
pub(super) fn network_slots(disks: usize, shares: bool, discovery: Discovery) -> usize {
    let slots = match discovery {
        Discovery::CommandLine => 8,
        Discovery::Acpi => 24,
    };
    slots - 2 - disks - usize::from(shares)
}

impl Machine<'_> {
    pub(super) fn arguments(&self, passed: &Passed) -> Vec<String> {
        let mut arguments = Arguments(Vec::new());
        // The real-time clock stays on: without one a guest that has no kvm-clock waits a second for it.
        arguments.pair(
            "-machine",
            format!(
                "microvm,acpi={},pit=on,pic=on,rtc=on,isa-serial=on,x-option-roms=off,mem-merge=off,dump-guest-core=off",
                match self.discovery {
                    Discovery::CommandLine => "off",
                    Discovery::Acpi => "on",
                }
            ),
        );
        // With ACPI the machine would take SeaBIOS, which starts slower and needs option ROMs to load a kernel.
        if self.discovery == Discovery::Acpi {
            arguments.pair("-bios", "qboot.rom");
        }
        if self.shares.is_some() {
            // virtiofsd reads and writes the guest's memory itself.
            let size = u64::from(self.memory_mib) << 20;
            let memory = json!({"qom-type": "memory-backend-memfd", "id": "memory", "size": size, "share": true});
            arguments.pair("-object", memory.to_string());
            arguments.pair("-machine", "memory-backend=memory");
        }
        if self.shares.is_some() || !self.networks.is_empty() {
            // The bus of this machine speaks virtio from before version 1 unless told otherwise. virtiofsd does not, and a
            // network device's header should be the same with both monitors.
            arguments.pair("-global", "virtio-mmio.force-legacy=false");
        }
        arguments.pair("-accel", if self.kvm { "kvm" } else { "tcg,thread=multi" });
        arguments.pair("-cpu", self.cpu());
        arguments.pair("-smp", self.vcpus.to_string());
        arguments.pair("-m", self.memory_mib.to_string());
        for switch in ["-nodefaults", "-no-user-config", "-no-reboot", "-S"] {
            arguments.0.push(switch.to_owned());
        }
        arguments.pair("-display", "none");
        arguments.pair(
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        );
        arguments.pair("-kernel", format!("/proc/self/fd/{}", self.kernel));
        arguments.pair("-initrd", format!("/proc/self/fd/{}", self.initramfs));
        arguments.pair("-append", self.command_line);
        for (set, number) in (1..).zip(&passed.sets) {
            arguments.pair("-add-fd", format!("fd={number},set={set}"));
        }
        // The serial console is QEMU's stdout.
        arguments.pair("-chardev", "stdio,id=console,signal=off");
        arguments.pair("-serial", "chardev:console");
        // How the guest resets: `reboot=k`. The machine has none unless it is added.
        arguments.device(&json!({"driver": "i8042"}));
        for (index, disk) in self.disks.iter().enumerate() {
            let name = format!("disk{index}");
            let mut disk = disk.clone();
            disk["node-name"] = json!(name);
            arguments.pair("-blockdev", disk.to_string());
            arguments.device(&json!({"driver": "virtio-blk-device", "drive": name}));
        }
        if let Some(number) = self.shares {
            arguments.pair("-chardev", format!("socket,id=shares,fd={number}"));
            arguments.device(&json!({
                "driver": "vhost-user-fs-device",
                "chardev": "shares",
                "tag": guest_protocol::SHARES_TAG,
                "queue-size": 1024,
            }));
        }
        for (index, network) in self.networks.iter().enumerate() {
            let name = format!("net{index}");
            let tap = network.tap;
            arguments.pair("-netdev", format!("tap,id={name},fd={tap},vhost=off"));
            arguments.device(&json!({
                "driver": "virtio-net-device",
                "netdev": name,
                "mac": network.mac,
                "host_mtu": network.mtu,
            }));
        }
        arguments.device(&json!({"driver": "virtio-serial-device", "max_ports": 2}));
        arguments.pair("-chardev", format!("socket,id=control,fd={}", self.control));
        arguments.device(&json!({
            "driver": "virtserialport",
            "chardev": "control",
            "name": guest_protocol::PORT_NAME,
        }));
        arguments.device(&json!({"driver": "virtio-rng-device"}));
        arguments.pair("-chardev", format!("socket,id=qmp,fd={}", self.qmp));
        arguments.pair("-mon", "chardev=qmp,mode=control");
        arguments.0
    }

    /// Everything that emulation has; on KVM what the host has. On kvm_pvm that is too much: the emulator of the guest's
    /// kernel lacks instructions that CPUID offers, and the guest is told to leave them alone (see [`crate::cmdline`]) after
    /// its first code has run, so they are hidden as well.
    fn cpu(&self) -> &'static str {
        match self.kvm {
            false => "max",
            true if crate::substrate().is_hardware() => "host",
            true => PVM_CPU,
        }
    }
}

/// The processor on kvm_pvm: the baseline, without what its emulator cannot execute (shared/kvm-substrates.md), and with
/// XSAVEERPTR, which spares an AMD kernel the `fnclex` that it cannot.
const PVM_CPU: &str =
    "qemu64,-cx16,-xsave,-smap,-smep,-umip,-fsgsbase,-erms,-popcnt,+xsaveerptr,+invtsc";

/// Words for the guest under software emulation that spare it calibrating its clocks, which takes half a second and is wrong
/// on a busy host: the rate of the time-stamp counter, in kHz; and for a single processor the interval timer in place of the
/// local APIC's, whose rate no interface tells.
pub(super) fn timing(config: &VmConfig, counter_khz: Option<u64>) -> String {
    let mut words = Vec::new();
    if let Some(khz) = counter_khz {
        words.push(format!("tsc_early_khz={khz} tsc=reliable"));
    }
    // With ACPI, Linux 6.1 was seen to wait for ever in its reset when it had only the interval timer.
    if config.vcpus == 1 && config.discovery == Discovery::CommandLine {
        words.push("noapictimer".to_owned());
    }
    words.join(" ")
}

struct Arguments(Vec<String>);

impl Arguments {
    fn pair(&mut self, name: &str, value: impl Into<String>) {
        self.0.push(name.to_owned());
        self.0.push(value.into());
    }

    fn device(&mut self, description: &Value) {
        self.pair("-device", description.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_become_devices_in_their_order_and_descriptors_are_passed_by_number() {
        let mut passed = Passed::default();
        let file = File::open("/dev/null").unwrap();
        let number = file.as_raw_fd();
        let tap = File::open("/dev/null").unwrap();
        let tap_number = tap.as_raw_fd();
        let nic = Nic {
            tap: tap.into(),
            mac: [2, 0x42, 172, 17, 0, 10],
            mtu: 1450,
        };
        let network = Network::pass(nic, &mut passed);
        let disks = [
            json!({"driver": "raw", "file": passed.shared(file, true)}),
            json!({"driver": "null-co"}),
        ];
        let machine = Machine {
            kvm: false,
            vcpus: 2,
            memory_mib: 128,
            discovery: Discovery::CommandLine,
            kernel: 40,
            initramfs: 41,
            command_line: "quiet a,b",
            disks: &disks,
            control: 42,
            qmp: 43,
            shares: Some(44),
            networks: &[network],
        };
        let line = machine.arguments(&passed).join("\n");
        assert!(line.contains("-append\nquiet a,b\n"));
        assert!(line.contains(&format!("-add-fd\nfd={number},set=1\n")));
        assert!(line.contains("\"filename\":\"/dev/fdset/1\""));
        let first = line.find("\"drive\":\"disk0\"").unwrap();
        assert!(first < line.find("\"drive\":\"disk1\"").unwrap());
        assert!(line.contains("socket,id=control,fd=42"));
        assert!(line.contains("socket,id=shares,fd=44"));
        assert!(line.contains("\"share\":true"));
        assert!(line.contains(&format!("-netdev\ntap,id=net0,fd={tap_number},vhost=off\n")));
        assert!(line.contains("\"mac\":\"02:42:ac:11:00:0a\""));
        assert!(line.contains("\"host_mtu\":1450"));
        let of = |number| {
            passed
                .descriptors()
                .iter()
                .any(|fd| fd.as_raw_fd() == number)
        };
        assert!(of(tap_number), "QEMU gets the tap");
    }

    #[test]
    fn a_machine_with_everything_has_places_for_three_network_devices() {
        assert_eq!(network_slots(2, true, Discovery::CommandLine), 3);
        assert_eq!(network_slots(1, false, Discovery::CommandLine), 5);
        assert_eq!(network_slots(2, true, Discovery::Acpi), 19);
    }
}
