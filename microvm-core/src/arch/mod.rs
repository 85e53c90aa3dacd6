//! What is x86-64's own: how a kernel is entered, what the processor says of itself, how processors find each other.

pub(crate) mod acpi;
pub(crate) mod boot;
pub(crate) mod cpuid;
mod mptable;
mod pvm;
pub(crate) mod registers;

/// The address of the I/O interrupt controller on every PC (KVM's irqchip has it there).
pub(crate) const IO_APIC: u32 = 0xfec0_0000;

/// The address of the local interrupt controllers on every PC.
pub(crate) const LOCAL_APIC: u32 = 0xfee0_0000;

/// Interrupt lines of the I/O interrupt controller (KVM_IOAPIC_NUM_PINS).
pub(crate) const INTERRUPT_LINES: u32 = 24;

/// One page that Intel's virtualization needs to run real mode in (KVM_SET_IDENTITY_MAP_ADDR), below the firmware's
/// place at the end of 4 GiB and outside guest memory.
pub(crate) const IDENTITY_MAP: u64 = 0xfffb_c000;

/// The three pages behind it, for the same purpose (KVM_SET_TSS_ADDR).
pub(crate) const TASK_STATE: usize = 0xfffb_d000;
