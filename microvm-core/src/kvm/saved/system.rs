//! What belongs to the machine as a whole: interrupt controllers, interval timer, clock.

use std::io;

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data, kvm_irqchip,
    kvm_pit_state2,
};
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The state of interrupt controllers, timer and clock.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SystemState {
    /// The two 8259A and the I/O APIC.
    chips: [kvm_irqchip; 3],
    pit: kvm_pit_state2,
    /// Nanoseconds that kvm-clock shows.
    clock: u64,
}

fn failed(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Error {
    move |error| Error::Kvm {
        what,
        source: io::Error::from(error),
    }
}

impl SystemState {
    pub(crate) fn of(vm: &VmFd) -> Result<Self> {
        let chip = |chip_id| {
            let mut chip = kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            vm.get_irqchip(&mut chip)
                .map_err(failed("read an interrupt controller"))?;
            Ok::<_, Error>(chip)
        };
        Ok(Self {
            clock: vm.get_clock().map_err(failed("read the clock"))?.clock,
            chips: [
                chip(KVM_IRQCHIP_PIC_MASTER)?,
                chip(KVM_IRQCHIP_PIC_SLAVE)?,
                chip(KVM_IRQCHIP_IOAPIC)?,
            ],
            pit: vm.get_pit2().map_err(failed("read the interval timer"))?,
        })
    }

    /// Everything but the clock, before the virtual CPUs are made what they were.
    pub(crate) fn put(&self, vm: &VmFd) -> Result<()> {
        for (chip, id) in (self.chips.iter()).zip([
            KVM_IRQCHIP_PIC_MASTER,
            KVM_IRQCHIP_PIC_SLAVE,
            KVM_IRQCHIP_IOAPIC,
        ]) {
            let chip = kvm_irqchip {
                chip_id: id,
                ..*chip
            };
            vm.set_irqchip(&chip)
                .map_err(failed("set an interrupt controller"))?;
        }
        vm.set_pit2(&self.pit)
            .map_err(failed("set the interval timer"))
    }

    /// The guest's clock goes on from where it stood.
    pub(crate) fn put_clock(&self, vm: &VmFd) -> Result<()> {
        let clock = kvm_clock_data {
            clock: self.clock,
            ..Default::default()
        };
        vm.set_clock(&clock).map_err(failed("set the clock"))
    }
}
