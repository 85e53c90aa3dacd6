//! The tables by which a distribution's kernel finds processors, interrupt controllers and devices: the ACPI specification 6.5,
//! to which the section numbers here refer.
//!
//! The machine is a "hardware-reduced" one (section 4.1): it has none of the PC's old power management, no interval timer and no
//! old interrupt controllers that the kernel would have to know. What it needs of that is in the tables: a register to be
//! reset by, and one to be switched off by.

mod aml;

use vm_memory::{Bytes, GuestAddress};

use super::{INTERRUPT_LINES, IO_APIC, LOCAL_APIC};
use crate::memory::Memory;
use crate::{Error, Result};

/// Where the root pointer is, with the tables behind it: in what the memory map keeps as the firmware's.
pub(crate) const ROOT: u64 = 0xe_0000;

/// Where they end at the latest.
const END: u64 = 0x10_0000;

/// The port by which a guest switches the machine off, and the one behind it, which says what woke it: nothing ever did
/// (section 4.8.3.7).
pub(crate) const SLEEP_CONTROL: u16 = 0x600;
pub(crate) const SLEEP_STATUS: u16 = SLEEP_CONTROL + 1;

/// The bit of the control register that lets the machine sleep; which sleep is in other bits, and there is only one.
pub(crate) const SLEEP_ENABLE: u8 = 1 << 5;

/// How the sleep from which nothing wakes is called in that register (section 7.4.2.6 leaves it to the machine).
const OFF: u32 = 5;

/// A device with a page of registers and an interrupt line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Where the registers are, below 4 GiB.
    pub(crate) address: u64,
    /// How many bytes they take.
    pub(crate) bytes: u64,
    /// The line.
    pub(crate) line: u32,
}

/// What the tables tell of.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    /// Processors; their APIC ids are 0, 1, 2 …
    pub(crate) cpus: u8,
    /// The serial port's first port and its line.
    pub(crate) serial: (u16, u32),
    /// The port and the value that reset the machine.
    pub(crate) reset: (u16, u8),
    /// The virtio devices.
    pub(crate) virtio: &'a [Place],
}

/// Writes the tables, and gives the address of their root.
pub(crate) fn write(memory: &Memory, machine: &Machine<'_>) -> Result<u64> {
    let bytes = build(machine);
    let room = END - ROOT;
    if bytes.len() as u64 > room {
        return Err(Error::NoRoom {
            what: "the table of devices",
            needed: bytes.len() as u64,
            room,
            hint: "",
        });
    }
    memory
        .write_slice(&bytes, GuestAddress(ROOT))
        .map_err(|error| Error::System {
            what: "write the tables of processors and devices",
            source: std::io::Error::other(error.to_string()),
        })?;
    Ok(ROOT)
}

/// All tables, as they lie in memory from [`ROOT`] on.
fn build(machine: &Machine<'_>) -> Vec<u8> {
    let mut all = vec![0; ROOT_BYTES];
    // Tables begin at multiples of 16, as firmware places them.
    let mut add = |table: Vec<u8>| {
        all.resize(all.len().next_multiple_of(16), 0);
        let at = ROOT + all.len() as u64;
        all.extend(table);
        at
    };
    let devices = add(table(b"DSDT", 2, &devices(machine)));
    let fixed = add(fixed(machine, devices));
    let processors = add(processors(machine.cpus));
    let list = [fixed.to_le_bytes(), processors.to_le_bytes()].concat();
    let list = add(table(b"XSDT", 1, &list));
    all[..ROOT_BYTES].copy_from_slice(&root(list));
    all
}

/// The size of the root pointer (section 5.2.5.3).
const ROOT_BYTES: usize = 36;

/// The root pointer: it leads to the list of tables.
fn root(list: u64) -> [u8; ROOT_BYTES] {
    let mut root = [0; ROOT_BYTES];
    root[..8].copy_from_slice(b"RSD PTR ");
    root[9..15].copy_from_slice(MAKER);
    root[15] = 2; // revision
    root[20..24].copy_from_slice(&(ROOT_BYTES as u32).to_le_bytes());
    root[24..32].copy_from_slice(&list.to_le_bytes());
    // The first checksum is over what revision 0 had, the second over everything.
    root[8] = checksum(&root[..20]);
    root[32] = checksum(&root);
    root
}

/// Who made the tables.
const MAKER: &[u8; 6] = b"PLIMSL";

/// A table with its header (section 5.2.6).
fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    const HEADER: usize = 36;
    let mut table = Vec::with_capacity(HEADER + body.len());
    table.extend(signature);
    table.extend(((HEADER + body.len()) as u32).to_le_bytes());
    table.extend([revision, 0]);
    table.extend(MAKER);
    table.extend(b"MICROVM ");
    table.extend(1u32.to_le_bytes());
    table.extend(b"PLIM");
    table.extend(1u32.to_le_bytes());
    table.extend(body);
    table[9] = checksum(&table);
    table
}

/// What makes the bytes, with this in the place of a zero among them, add up to zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg()
}

/// What the machine has, and has not, at fixed places (section 5.2.9).
fn fixed(machine: &Machine<'_>, devices: u64) -> Vec<u8> {
    // Where fields are in the table, whose header is not part of the body here.
    const BODY: usize = 276 - 36;
    const BOOT_FLAGS: usize = 109 - 36;
    const FLAGS: usize = 112 - 36;
    const RESET_REGISTER: usize = 116 - 36;
    const RESET_VALUE: usize = 128 - 36;
    const MINOR_REVISION: usize = 131 - 36;
    const DEVICES: usize = 140 - 36;
    const CONTROL: usize = 244 - 36;
    const STATUS: usize = 256 - 36;
    // Table 5.11: there is no VGA, and no real-time clock in the old place.
    const NO_VGA: u16 = 1 << 2;
    const NO_CLOCK: u16 = 1 << 5;
    // Table 5.10: caches are flushed by an instruction, power and sleep buttons are not at fixed places, there is a reset
    // register, and hardware is reduced.
    const FLUSH: u32 = 1;
    const NO_BUTTONS: u32 = 0b11 << 4;
    const RESET: u32 = 1 << 10;
    const REDUCED: u32 = 1 << 20;

    let mut body = [0; BODY];
    let mut put = |at: usize, bytes: &[u8]| body[at..at + bytes.len()].copy_from_slice(bytes);
    put(BOOT_FLAGS, &(NO_VGA | NO_CLOCK).to_le_bytes());
    put(FLAGS, &(FLUSH | NO_BUTTONS | RESET | REDUCED).to_le_bytes());
    put(RESET_REGISTER, &port(machine.reset.0));
    put(RESET_VALUE, &[machine.reset.1]);
    put(MINOR_REVISION, &[5]);
    put(DEVICES, &devices.to_le_bytes());
    put(CONTROL, &port(SLEEP_CONTROL));
    put(STATUS, &port(SLEEP_STATUS));
    table(b"FACP", 6, &body)
}

/// A register of one byte that is a port (section 5.2.3.2).
fn port(number: u16) -> [u8; 12] {
    const SYSTEM_IO: u8 = 1;
    let mut address = [0; 12];
    address[..4].copy_from_slice(&[SYSTEM_IO, 8, 0, 1]);
    address[4..6].copy_from_slice(&number.to_le_bytes());
    address
}

/// Processors and interrupt controllers (section 5.2.12).
fn processors(cpus: u8) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(LOCAL_APIC.to_le_bytes());
    body.extend(0u32.to_le_bytes()); // no old interrupt controllers beside these
    for id in 0..cpus {
        body.extend([0, 8, id, id]);
        body.extend(1u32.to_le_bytes()); // usable
    }
    body.extend([1, 12, cpus, 0]);
    body.extend(IO_APIC.to_le_bytes());
    body.extend(0u32.to_le_bytes()); // its first line is line 0
    body.extend([4, 6, 0xff, 0, 0, 1]); // NMI at every processor's LINT1
    table(b"APIC", 5, &body)
}

/// The devices, in ACPI's machine language.
fn devices(machine: &Machine<'_>) -> Vec<u8> {
    let off = [OFF, 0, 0, 0].map(aml::integer);
    let mut terms = vec![serial(machine.serial)];
    terms.extend((0..).zip(machine.virtio).map(virtio));
    [
        aml::name("_S5_", &aml::package(&off)),
        aml::scope("_SB_", &terms),
    ]
    .concat()
}

fn serial((first, line): (u16, u32)) -> aml::Term {
    let resources = aml::resources(&[aml::ports(first, 8), aml::interrupt(line)]);
    aml::device(
        "COM1",
        &[
            aml::name("_HID", &aml::eisa_id(*b"PNP", 0x0501)),
            aml::name("_UID", &aml::integer(0)),
            aml::name("_CRS", &resources),
        ],
    )
}

/// A virtio device, under the name that Linux's drivers/virtio/virtio_mmio.c knows.
fn virtio((number, place): (u32, &Place)) -> aml::Term {
    debug_assert!(place.line < INTERRUPT_LINES);
    // Devices lie below 4 GiB.
    let memory = aml::memory(place.address as u32, place.bytes as u32);
    let resources = aml::resources(&[memory, aml::interrupt(place.line)]);
    aml::device(
        &format!("V{number:03}"),
        &[
            aml::name("_HID", &aml::string("LNRO0005")),
            aml::name("_UID", &aml::integer(number)),
            aml::name("_CRS", &resources),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::VCPUS;
    use crate::memory::allocate;

    const VIRTIO: [Place; 19] = [Place {
        address: 0xd000_0000,
        bytes: 4096,
        line: 5,
    }; 19];

    fn machine(cpus: u8) -> Machine<'static> {
        Machine {
            cpus,
            serial: (0x3f8, 4),
            reset: (0x64, 0xfe),
            virtio: &VIRTIO,
        }
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte))
    }

    fn long(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    /// The table at this address, as far as its length says.
    fn table_at(all: &[u8], address: u64) -> &[u8] {
        let at = (address - ROOT) as usize;
        let length = u32::from_le_bytes(all[at + 4..at + 8].try_into().unwrap());
        &all[at..at + length as usize]
    }

    #[test]
    fn every_table_is_found_from_the_root_and_adds_up() {
        for cpus in [1, 2, *VCPUS.end()] {
            let all = build(&machine(cpus));
            assert!(all.len() as u64 <= END - ROOT);
            assert_eq!(&all[..8], b"RSD PTR ");
            assert_eq!((sum(&all[..20]), sum(&all[..36])), (0, 0));
            let list = table_at(&all, long(&all, 24));
            assert_eq!((&list[..4], list.len(), sum(list)), (&b"XSDT"[..], 52, 0));
            let fixed = table_at(&all, long(list, 36));
            assert_eq!(
                (&fixed[..4], fixed.len(), sum(fixed)),
                (&b"FACP"[..], 276, 0)
            );
            let devices = table_at(&all, long(fixed, 140));
            assert_eq!((&devices[..4], sum(devices)), (&b"DSDT"[..], 0));
            let processors = table_at(&all, long(list, 44));
            assert_eq!((&processors[..4], sum(processors)), (&b"APIC"[..], 0));
            assert_eq!(processors.len(), 44 + 8 * usize::from(cpus) + 12 + 6);
        }
    }

    #[test]
    fn every_virtio_device_is_named_once() {
        let all = build(&machine(1));
        let count = |text: &[u8]| {
            all.windows(text.len())
                .filter(|window| *window == text)
                .count()
        };
        assert_eq!(count(b"LNRO0005\0"), VIRTIO.len());
        assert_eq!(count(b"V018"), 1);
        // PNP0501, the serial port.
        assert_eq!(count(b"\x41\xd0\x05\x01"), 1);
    }

    #[test]
    fn the_tables_lie_where_the_root_says() {
        let memory = allocate(64).unwrap();
        let root = write(&memory, &machine(2)).unwrap();
        let signature: [u8; 8] = memory.read_obj(GuestAddress(root)).unwrap();
        assert_eq!(&signature, b"RSD PTR ");
    }
}
