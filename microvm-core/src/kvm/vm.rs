//! The virtual machine as KVM has it: memory, interrupt controllers, timer, clock, and what leads to the devices.

use std::io;
use std::sync::Arc;

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region};
use kvm_ioctls::{IoEventAddress, Kvm, VcpuFd, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use super::saved::SystemState;
use crate::arch::cpuid::Features;
use crate::arch::{IDENTITY_MAP, TASK_STATE};
use crate::devices::virtio::mmio::register;
use crate::devices::virtio::slot::Slot;
use crate::memory::Memory;
use crate::{Error, Result};

/// The machine, without virtual CPUs.
pub(super) struct Vm {
    fd: VmFd,
    /// KVM uses it as long as the machine lives.
    memory: Arc<Memory>,
}

fn failed(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Error {
    move |error| Error::Kvm {
        what,
        source: io::Error::from(error),
    }
}

impl Vm {
    /// A machine with this memory.
    pub(super) fn new(kvm: &Kvm, memory: Arc<Memory>) -> Result<Self> {
        let fd = kvm.create_vm().map_err(failed("make a virtual machine"))?;
        fd.set_identity_map_address(IDENTITY_MAP)
            .map_err(failed("place the identity map"))?;
        fd.set_tss_address(TASK_STATE)
            .map_err(failed("place the task-state segment"))?;
        for (slot, region) in (0..).zip(memory.iter()) {
            let host = memory
                .get_host_address(region.start_addr())
                .map_err(|error| Error::System {
                    what: "find the guest's memory",
                    source: io::Error::other(error.to_string()),
                })?;
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: host as u64,
            };
            // SAFETY: the range is one whole mapping, which `memory` keeps as long as the machine lives; the regions do
            // not overlap.
            unsafe { fd.set_user_memory_region(region) }
                .map_err(failed("take the guest's memory"))?;
        }
        fd.create_irq_chip()
            .map_err(failed("make the interrupt controllers"))?;
        // The guest may ask the speaker's port for the timer's state; a dummy answers.
        let pit = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        fd.create_pit2(pit)
            .map_err(failed("make the interval timer"))?;
        Ok(Self { fd, memory })
    }

    /// Its memory.
    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Interrupts the guest on this line whenever the descriptor is written.
    pub(super) fn interrupt_on(&self, interrupt: &EventFd, line: u32) -> Result<()> {
        self.fd
            .register_irqfd(interrupt, line)
            .map_err(failed("connect an interrupt"))
    }

    /// Lets a driver's notifications and a device's interrupts pass without this process's virtual CPU threads.
    pub(super) fn connect(&self, slot: &Slot) -> Result<()> {
        self.interrupt_on(&slot.interrupt, slot.line)?;
        let address = IoEventAddress::Mmio(slot.address + register::QUEUE_NOTIFY);
        for (queue, kick) in (0u32..).zip(&slot.kicks) {
            self.fd
                .register_ioevent(kick, &address, queue)
                .map_err(failed("connect a queue's notification"))?;
        }
        Ok(())
    }

    /// Makes virtual CPU number `number` of `count`, with its features, and everything else as after a reset.
    pub(super) fn vcpu(&self, number: u8, count: u8, features: &Features) -> Result<VcpuFd> {
        let vcpu = self
            .fd
            .create_vcpu(number.into())
            .map_err(failed("make a virtual CPU"))?;
        // Model-specific registers depend on the features: CPUID comes first.
        vcpu.set_cpuid2(&features.of(number, count)?)
            .map_err(failed("set a virtual CPU's features"))?;
        Ok(vcpu)
    }

    /// What belongs to the machine as a whole, while no virtual CPU runs.
    pub(super) fn save(&self) -> Result<SystemState> {
        SystemState::of(&self.fd)
    }

    /// Makes the machine what it was, but for the clock; its virtual CPUs have been made and come next.
    pub(super) fn resume(&self, state: &SystemState) -> Result<()> {
        state.put(&self.fd)
    }

    /// The guest's clock goes on.
    pub(super) fn resume_clock(&self, state: &SystemState) -> Result<()> {
        state.put_clock(&self.fd)
    }
}
