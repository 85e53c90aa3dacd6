//! The table by which a kernel without ACPI finds processors and interrupt controllers: Intel's MultiProcessor
//! Specification 1.4, to which the section numbers here refer.

use super::{INTERRUPT_LINES, IO_APIC, LOCAL_APIC};

/// Where the pointer to the table is searched: the last kibibyte of base memory (section 4.1).
pub(crate) const POINTER: u64 = 0x9_fc00;

/// Where the table itself is: a 4 KiB of base memory that the memory map does not give to the kernel.
pub(crate) const TABLE: u64 = 0x9_f000;

/// The version of the interrupt controllers: integrated ones are 0x10 and up (section 4.3.1).
const APIC_VERSION: u8 = 0x14;

/// Interrupts of every kind go to this destination when they go to all processors (section 4.3.3).
const ALL_APICS: u8 = 0xff;

/// The only bus there is, by its number in the table.
const ISA: u8 = 0;

/// The pointer and the table for this many processors. Their APIC ids are 0, 1, 2 …; the I/O APIC has the next.
pub(super) fn build(cpus: u8) -> ([u8; 16], Vec<u8>) {
    let mut pointer = [0; 16];
    pointer[..4].copy_from_slice(b"_MP_");
    pointer[4..8].copy_from_slice(&(TABLE as u32).to_le_bytes());
    pointer[8] = 1; // in units of 16 bytes
    pointer[9] = 4; // version 1.4
    pointer[10] = checksum(&pointer);

    let mut entries = Vec::new();
    let mut count = 0u16;
    let mut add = |entry: &[u8]| {
        entries.extend_from_slice(entry);
        count += 1;
    };
    for id in 0..cpus {
        let flags = 1 | u8::from(id == 0) << 1; // usable; the first starts the others
        let mut entry = [0; 20];
        entry[..4].copy_from_slice(&[0, id, APIC_VERSION, flags]);
        // Family 6 with an APIC on the chip: nobody reads more of it than that, CPUID says the rest.
        entry[4..8].copy_from_slice(&0x600u32.to_le_bytes());
        entry[8..12].copy_from_slice(&0x201u32.to_le_bytes());
        add(&entry);
    }
    let io_apic = cpus;
    add(&[1, ISA, b'I', b'S', b'A', b' ', b' ', b' ']);
    let [a, b, c, d] = IO_APIC.to_le_bytes();
    add(&[2, io_apic, APIC_VERSION, 1, a, b, c, d]);
    for line in 0..INTERRUPT_LINES as u8 {
        // Vectored interrupts with the polarity and trigger of the bus. The timer's line 0 arrives at pin 2, as KVM
        // wires it; the line that joins the two old controllers, 2, leads nowhere.
        match line {
            0 => add(&[3, 0, 0, 0, ISA, 0, io_apic, 2]),
            2 => {}
            _ => add(&[3, 0, 0, 0, ISA, line, io_apic, line]),
        }
    }
    add(&[4, 3, 0, 0, ISA, 0, ALL_APICS, 0]); // the old controllers' output, at LINT0
    add(&[4, 1, 0, 0, ISA, 0, ALL_APICS, 1]); // NMI, at LINT1

    let mut table = vec![0; 44];
    table[..4].copy_from_slice(b"PCMP");
    table[4..6].copy_from_slice(&(44 + entries.len() as u16).to_le_bytes());
    table[6] = 4;
    table[8..16].copy_from_slice(b"PLIMSOLL");
    table[16..28].copy_from_slice(b"microvm     ");
    table[34..36].copy_from_slice(&count.to_le_bytes());
    table[36..40].copy_from_slice(&LOCAL_APIC.to_le_bytes());
    table.extend(entries);
    table[7] = checksum(&table);
    (pointer, table)
}

/// What makes the bytes, with this in the place of a zero among them, add up to zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::VCPUS;

    #[test]
    fn table_and_pointer_add_up_and_fit_their_place() {
        for cpus in [1, 2, *VCPUS.end()] {
            let (pointer, table) = build(cpus);
            let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!((sum(&pointer), sum(&table)), (0, 0));
            assert_eq!(
                u16::from_le_bytes([table[4], table[5]]) as usize,
                table.len()
            );
            assert!(TABLE + table.len() as u64 <= POINTER);
        }
    }

    #[test]
    fn the_entries_are_as_many_as_the_header_says() {
        let (_, table) = build(3);
        let (mut at, mut kinds) = (44, [0u16; 5]);
        while at < table.len() {
            kinds[table[at] as usize] += 1;
            at += if table[at] == 0 { 20 } else { 8 };
        }
        assert_eq!(at, table.len());
        assert_eq!(kinds, [3, 1, 1, 23, 2]);
        assert_eq!(
            u16::from_le_bytes([table[34], table[35]]),
            kinds.iter().sum::<u16>()
        );
    }
}
