//! A virtual CPU and the thread that runs it.

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kvm_bindings::KVM_INTERNAL_ERROR_EMULATION;
use kvm_ioctls::{VcpuExit, VcpuFd};
use vm_memory::{Bytes, GuestAddress};

use super::bus::{Asked, Bus};
use super::kick;
use super::saved::CpuState;
use crate::memory::Memory;
use crate::{End, Error, Result};

/// The longest instruction of the architecture, in bytes.
const INSTRUCTION_BYTES: usize = 15;

/// KVM says in this flag that the instruction's bytes come with the report of a failure
/// (KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES).
const HAS_BYTES: u64 = 1;

/// A virtual CPU.
pub(super) struct Vcpu {
    fd: VcpuFd,
    number: u8,
    bus: Arc<Bus>,
    memory: Arc<Memory>,
    /// KVM's emulator runs the guest's kernel, and lacks instructions: see [`Self::fill_gap`].
    emulated: bool,
}

impl Vcpu {
    pub(super) fn new(
        fd: VcpuFd,
        number: u8,
        bus: Arc<Bus>,
        memory: Arc<Memory>,
        emulated: bool,
    ) -> Self {
        Self {
            fd,
            number,
            bus,
            memory,
            emulated,
        }
    }

    /// Runs the virtual CPU until the machine ends because of it, or `stop` is set and the thread kicked: then there is
    /// nothing to tell.
    pub(super) fn run(&mut self, stop: &AtomicBool) -> Option<End> {
        let immediate_exit = ptr::from_mut(&mut self.fd.get_kvm_run().immediate_exit);
        // SAFETY: the byte belongs to the mapping of this virtual CPU, which `self` keeps until after the guard is gone,
        // and only this thread runs it.
        let _guard = unsafe { kick::Guard::new(immediate_exit) };
        while !stop.load(Ordering::SeqCst) {
            if let Some(end) = self.once() {
                return Some(end);
            }
        }
        None
    }

    /// Enters the guest once and serves what it comes out with.
    fn once(&mut self) -> Option<End> {
        let vcpu = self.number;
        match self.fd.run() {
            Ok(VcpuExit::IoIn(port, data)) => self.bus.read_port(port, data),
            Ok(VcpuExit::IoOut(port, data)) => {
                if self.bus.write_port(port, data) == Asked::Reset {
                    return Some(End::GuestReset);
                }
            }
            Ok(VcpuExit::MmioRead(address, data)) => self.bus.read_memory(address, data),
            Ok(VcpuExit::MmioWrite(address, data)) => self.bus.write_memory(address, data),
            Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::SetTpr) => {}
            Ok(VcpuExit::Shutdown) => {
                return Some(End::TripleFault {
                    vcpu,
                    rip: self.instruction_pointer(),
                });
            }
            Ok(VcpuExit::FailEntry(reason, _)) => return Some(End::EntryFailed { vcpu, reason }),
            Ok(VcpuExit::InternalError) => return self.internal_error(),
            Ok(VcpuExit::SystemEvent(kind, _)) => {
                return Some(match kind {
                    kvm_bindings::KVM_SYSTEM_EVENT_SHUTDOWN
                    | kvm_bindings::KVM_SYSTEM_EVENT_RESET => End::GuestReset,
                    kind => End::KvmError {
                        vcpu,
                        what: format!("system event {kind}"),
                    },
                });
            }
            Ok(VcpuExit::MemoryFault { gpa, size, .. }) => {
                let what = format!(
                    "guest memory at {gpa:#x} ({size} bytes) cannot be had: is the host out of memory, or was the kernel's file cut?"
                );
                return Some(End::KvmError { vcpu, what });
            }
            Ok(other) => {
                let what = format!("unexpected exit {other:?}");
                return Some(End::KvmError { vcpu, what });
            }
            Err(error) => match error.errno() {
                // A kick, or a virtual CPU that waits to be started.
                libc::EINTR | libc::EAGAIN => {}
                libc::EFAULT => {
                    let what = format!(
                        "guest memory cannot be had at instruction {:#x}: is the host out of memory, or was the kernel's file cut?",
                        self.instruction_pointer()
                    );
                    return Some(End::KvmError { vcpu, what });
                }
                _ => {
                    return Some(End::KvmError {
                        vcpu,
                        what: format!("KVM_RUN: {error}"),
                    });
                }
            },
        }
        None
    }

    /// Brings the virtual CPU, which is out of the guest for good, between two instructions: what it came out for last is done.
    pub(super) fn rest(&mut self) -> Result<()> {
        const TRIES: usize = 16;
        for _ in 0..TRIES {
            self.fd.set_kvm_immediate_exit(1);
            match self.fd.run() {
                Err(error) if error.errno() == libc::EINTR => return Ok(()),
                Err(error) if error.errno() == libc::EAGAIN => return Ok(()),
                Err(error) => {
                    return Err(Error::Kvm {
                        what: "finish an instruction",
                        source: error.into(),
                    });
                }
                Ok(VcpuExit::IoIn(port, data)) => self.bus.read_port(port, data),
                Ok(VcpuExit::IoOut(port, data)) => drop(self.bus.write_port(port, data)),
                Ok(VcpuExit::MmioRead(address, data)) => self.bus.read_memory(address, data),
                Ok(VcpuExit::MmioWrite(address, data)) => self.bus.write_memory(address, data),
                Ok(_) => {}
            }
        }
        Err(Error::Start("a virtual CPU does not come to rest".into()))
    }

    /// What the virtual CPU holds, which rests.
    pub(super) fn save(&self, indices: &[u32]) -> Result<CpuState> {
        CpuState::of(&self.fd, indices)
    }

    fn instruction_pointer(&self) -> u64 {
        self.fd.get_regs().map_or(0, |regs| regs.rip)
    }

    /// KVM cannot go on: the end, unless the monitor can do what KVM cannot.
    fn internal_error(&mut self) -> Option<End> {
        let rip = self.instruction_pointer();
        let run = self.fd.get_kvm_run();
        // SAFETY: the exit reason says that this member of the union is the one that KVM has filled.
        let failure = unsafe { run.__bindgen_anon_1.emulation_failure };
        let suberror = failure.suberror;
        let mut bytes = Vec::new();
        if suberror == KVM_INTERNAL_ERROR_EMULATION
            && failure.ndata >= 1
            && failure.flags & HAS_BYTES != 0
        {
            // SAFETY: the flag says that the instruction's size and bytes are filled too.
            let instruction = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
            let known = usize::from(instruction.insn_size).min(instruction.insn_bytes.len());
            bytes.extend_from_slice(&instruction.insn_bytes[..known]);
        }
        if bytes.is_empty() {
            bytes = self.bytes_at(rip);
        }
        let unknown = suberror == KVM_INTERNAL_ERROR_EMULATION;
        if self.emulated && unknown && self.fill_gap(rip, &bytes).is_some() {
            return None;
        }
        Some(End::EmulationFailure {
            vcpu: self.number,
            suberror,
            rip,
            bytes,
        })
    }

    /// Does what kvm_pvm's emulator cannot, where it is simple enough: a breakpoint, by which the kernel changes its own
    /// code while other processors run it, and the wait for a floating-point unit that is never behind.
    fn fill_gap(&mut self, rip: u64, bytes: &[u8]) -> Option<()> {
        const BREAKPOINT_TRAP: u8 = 3;
        const INT3: u8 = 0xcc;
        const FWAIT: u8 = 0x9b;
        let instruction = *bytes.first()?;
        if !matches!(instruction, INT3 | FWAIT) {
            return None;
        }
        let mut regs = self.fd.get_regs().ok()?;
        regs.rip = rip.wrapping_add(1);
        self.fd.set_regs(&regs).ok()?;
        if instruction == INT3 {
            let mut events = self.fd.get_vcpu_events().ok()?;
            events.exception.injected = 1;
            events.exception.nr = BREAKPOINT_TRAP;
            events.exception.has_error_code = 0;
            self.fd.set_vcpu_events(&events).ok()?;
        }
        Some(())
    }

    /// The bytes at an instruction, as far as they are in memory and on one page.
    fn bytes_at(&self, rip: u64) -> Vec<u8> {
        let base = self
            .fd
            .get_sregs()
            .map_or(0, |sregs| if sregs.cs.l == 1 { 0 } else { sregs.cs.base });
        let linear = base.wrapping_add(rip);
        let Ok(translation) = self.fd.translate_gva(linear) else {
            return Vec::new();
        };
        let on_page = 4096 - (linear % 4096) as usize;
        let mut bytes = vec![0; INSTRUCTION_BYTES.min(on_page)];
        match translation.valid != 0
            && self
                .memory
                .read_slice(&mut bytes, GuestAddress(translation.physical_address))
                .is_ok()
        {
            true => bytes,
            false => Vec::new(),
        }
    }
}
