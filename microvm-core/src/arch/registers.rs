//! The registers with which a virtual CPU enters the kernel: 32-bit protected mode, flat segments, no paging, as PVH
//! wants it (Xen's docs/misc/pvh.pandoc).

use kvm_bindings::{
    Msrs, kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs,
};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use super::boot::{Entry, GDT};
use crate::memory::Memory;
use crate::{Error, Result};

/// CR0: protection enabled, and the bit that says there is a floating-point unit.
const PROTECTED_MODE: u64 = 0x11;

/// The one bit of the flags register that is always set.
const FLAGS: u64 = 0x2;

/// IA32_MISC_ENABLE, and its bit that lets string instructions be quick.
const MISC_ENABLE: u32 = 0x1a0;
const FAST_STRING: u64 = 1;

/// IA32_MTRR_DEF_TYPE: memory type ranges are on, and memory is write-back where none says otherwise.
const MTRR_DEFAULT: u32 = 0x2ff;
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

/// The local interrupt controller's two input registers and their delivery modes (Intel's manual, volume 3, chapter
/// "Advanced Programmable Interrupt Controller").
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const MODE_MASK: u32 = 0x700;
const MODE_NMI: u32 = 0x400;
const MODE_EXTINT: u32 = 0x700;

/// Writes the segment descriptors that the first virtual CPU starts with.
pub(crate) fn write_descriptors(memory: &Memory) -> Result<()> {
    for (index, segment) in [None, Some(code()), Some(data()), Some(task())]
        .iter()
        .enumerate()
    {
        let descriptor = segment.as_ref().map_or(0, descriptor);
        memory
            .write_obj(descriptor, GuestAddress(GDT + 8 * index as u64))
            .map_err(|error| Error::System {
                what: "write the segment descriptors",
                source: std::io::Error::other(error.to_string()),
            })?;
    }
    Ok(())
}

/// Sets what every virtual CPU needs, after its CPUID: model-specific registers, floating point, interrupt inputs.
pub(crate) fn set_common(vcpu: &VcpuFd) -> Result<()> {
    let failed = |what| {
        move |error: kvm_ioctls::Error| Error::Kvm {
            what,
            source: error.into(),
        }
    };
    let entries =
        [(MISC_ENABLE, FAST_STRING), (MTRR_DEFAULT, MTRR_WRITE_BACK)].map(|(index, data)| {
            kvm_msr_entry {
                index,
                data,
                ..Default::default()
            }
        });
    let msrs = Msrs::from_entries(&entries)
        .map_err(|_| Error::KvmLacks("room for two model-specific registers"))?;
    let set = vcpu
        .set_msrs(&msrs)
        .map_err(failed("set the model-specific registers"))?;
    if set != entries.len() {
        return Err(Error::KvmLacks(
            "model-specific registers that every processor has (0x1a0, 0x2ff)",
        ));
    }
    // What FNINIT and the processor's reset leave: all exceptions masked.
    let fpu = kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..Default::default()
    };
    vcpu.set_fpu(&fpu)
        .map_err(failed("set the floating-point registers"))?;

    let mut apic = vcpu
        .get_lapic()
        .map_err(failed("read the local interrupt controller"))?;
    set_delivery(&mut apic, LVT_LINT0, MODE_EXTINT);
    set_delivery(&mut apic, LVT_LINT1, MODE_NMI);
    vcpu.set_lapic(&apic)
        .map_err(failed("set the local interrupt controller"))
}

/// Sets the registers with which the first virtual CPU enters the kernel. The others wait to be started by it.
pub(crate) fn set_entry(vcpu: &VcpuFd, entry: Entry) -> Result<()> {
    let failed = |what| {
        move |error: kvm_ioctls::Error| Error::Kvm {
            what,
            source: error.into(),
        }
    };
    let regs = kvm_regs {
        rip: entry.instruction,
        rbx: entry.start_info,
        rflags: FLAGS,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(failed("set the registers"))?;
    let mut sregs = vcpu
        .get_sregs()
        .map_err(failed("read the segment registers"))?;
    enter_protected_mode(&mut sregs);
    vcpu.set_sregs(&sregs)
        .map_err(failed("set the segment registers"))
}

fn enter_protected_mode(sregs: &mut kvm_sregs) {
    sregs.cs = code();
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data(), data(), data(), data(), data());
    sregs.tr = task();
    sregs.gdt.base = GDT;
    sregs.gdt.limit = 4 * 8 - 1;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr0 = PROTECTED_MODE;
    sregs.cr4 = 0;
    sregs.efer = 0;
}

/// A segment over all of the first 4 GiB.
fn flat(index: u16, type_: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: index * 8,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}

fn code() -> kvm_segment {
    flat(1, 0b1011) // execute, read, accessed
}

fn data() -> kvm_segment {
    flat(2, 0b0011) // read, write, accessed
}

fn task() -> kvm_segment {
    // A busy 32-bit task of the least size.
    kvm_segment {
        limit: 0x67,
        selector: 3 * 8,
        type_: 0b1011,
        present: 1,
        ..Default::default()
    }
}

/// A segment in the form that the processor reads from memory.
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 {
        segment.limit >> 12
    } else {
        segment.limit
    });
    let base = segment.base;
    let access =
        u64::from(segment.type_ | segment.s << 4 | segment.dpl << 5 | segment.present << 7);
    let flags = u64::from(segment.avl | segment.l << 1 | segment.db << 2 | segment.g << 3);
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (base >> 24 & 0xff) << 56
}

fn set_delivery(apic: &mut kvm_lapic_state, register: usize, mode: u32) {
    let bytes = &mut apic.regs[register..register + 4];
    let old = u32::from_le_bytes([
        bytes[0] as u8,
        bytes[1] as u8,
        bytes[2] as u8,
        bytes[3] as u8,
    ]);
    for (byte, new) in bytes
        .iter_mut()
        .zip(((old & !MODE_MASK) | mode).to_le_bytes())
    {
        *byte = new as _;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::allocate;

    #[test]
    fn descriptors_have_the_form_the_processor_reads() {
        // Flat 32-bit segments, as every boot loader writes them.
        assert_eq!(descriptor(&code()), 0x00cf_9b00_0000_ffff);
        assert_eq!(descriptor(&data()), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(&task()), 0x0000_8b00_0000_0067);
        let memory = allocate(64).unwrap();
        write_descriptors(&memory).unwrap();
        assert_eq!(
            memory.read_obj::<[u64; 2]>(GuestAddress(GDT)).unwrap(),
            [0, 0x00cf_9b00_0000_ffff]
        );
    }

    #[test]
    fn only_the_delivery_mode_of_an_input_changes() {
        let mut apic = kvm_lapic_state::default();
        apic.regs[LVT_LINT0 + 2] = 1; // masked
        set_delivery(&mut apic, LVT_LINT0, MODE_EXTINT);
        assert_eq!(apic.regs[LVT_LINT0..LVT_LINT0 + 4], [0, 7, 1, 0]);
    }
}
