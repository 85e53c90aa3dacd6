//! What a kernel finds in memory when it is entered by PVH: start information, memory map, command line, processors.

use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::mptable;
use crate::memory::{GAP_START, Memory};
use crate::{Error, Result, cmdline};

/// Where the segment descriptors are.
pub(crate) const GDT: u64 = 0x500;

const START_INFO: GuestAddress = GuestAddress(0x6000);
const MODULES: GuestAddress = GuestAddress(0x6040);
const MEMORY_MAP: GuestAddress = GuestAddress(0x7000);
const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);

/// Where base memory that the kernel may use ends: the MP table and its pointer follow.
const BASE_END: u64 = mptable::TABLE;

/// Where memory goes on behind the hole for video memory and firmware.
const HIGH_START: u64 = 0x10_0000;

/// The magic number of PVH's start information (Xen's public/arch-x86/hvm/start_info.h), as are the kinds of memory.
const START_MAGIC: u32 = 0x336e_c578;
const RAM: u32 = 1;
const RESERVED: u32 = 2;

/// Where a kernel is entered, and with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The first instruction.
    pub(crate) instruction: u64,
    /// The start information, for the register that PVH says.
    pub(crate) start_info: u64,
}

/// Where in memory an initial RAM disk of this size goes: at the top of what lies below 4 GiB, out of the kernel's way.
pub(crate) fn initramfs_address(bytes: u64, memory_bytes: u64, kernel_end: u64) -> Result<u64> {
    let top = memory_bytes.min(GAP_START);
    let room = top.saturating_sub(kernel_end.next_multiple_of(4096));
    if bytes > room {
        return Err(Error::NoRoom {
            what: "the initial RAM disk",
            needed: bytes,
            room,
            hint: ": give the machine more memory",
        });
    }
    Ok((top - bytes) / 4096 * 4096)
}

/// Writes everything that a kernel entered by PVH looks for.
///
/// `initramfs` is where it lies and how many bytes it has, `acpi` where the root of ACPI's tables is, if there are any.
pub(crate) fn write(
    memory: &Memory,
    instruction: u64,
    command_line: &str,
    initramfs: (u64, u64),
    cpus: u8,
    acpi: Option<u64>,
) -> Result<Entry> {
    cmdline::check(command_line)?;
    let failed = |what| {
        move |error: vm_memory::GuestMemoryError| Error::System {
            what,
            source: std::io::Error::other(error.to_string()),
        }
    };
    let mut line = command_line.as_bytes().to_vec();
    line.push(0);
    memory
        .write_slice(&line, COMMAND_LINE)
        .map_err(failed("write the command line"))?;

    let (pointer, table) = mptable::build(cpus);
    let processors = "write the table of processors";
    memory
        .write_slice(&pointer, GuestAddress(mptable::POINTER))
        .map_err(failed(processors))?;
    memory
        .write_slice(&table, GuestAddress(mptable::TABLE))
        .map_err(failed(processors))?;

    let map = memory_map(memory);
    let module = hvm_modlist_entry {
        paddr: initramfs.0,
        size: initramfs.1,
        ..Default::default()
    };
    let start = hvm_start_info {
        magic: START_MAGIC,
        version: 1,
        nr_modules: u32::from(initramfs.1 > 0),
        modlist_paddr: MODULES.raw_value(),
        cmdline_paddr: COMMAND_LINE.raw_value(),
        rsdp_paddr: acpi.unwrap_or(0),
        memmap_paddr: MEMORY_MAP.raw_value(),
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    let mut parameters = BootParams::new::<hvm_start_info>(&start, START_INFO);
    parameters.set_sections::<hvm_memmap_table_entry>(&map, MEMORY_MAP);
    parameters.set_modules::<hvm_modlist_entry>(&[module], MODULES);
    PvhBootConfigurator::write_bootparams(&parameters, memory).map_err(|error| Error::System {
        what: "write the kernel's start information",
        source: std::io::Error::other(error.to_string()),
    })?;
    Ok(Entry {
        instruction,
        start_info: START_INFO.raw_value(),
    })
}

fn memory_map(memory: &Memory) -> Vec<hvm_memmap_table_entry> {
    let entry = |from: u64, to: u64, type_| hvm_memmap_table_entry {
        addr: from,
        size: to - from,
        type_,
        reserved: 0,
    };
    let mut map = vec![
        entry(0, BASE_END, RAM),
        entry(BASE_END, HIGH_START, RESERVED),
    ];
    for region in memory.iter() {
        let from = region.start_addr().raw_value();
        map.push(entry(from.max(HIGH_START), from + region.len(), RAM));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::allocate;

    #[test]
    fn the_kernel_finds_its_command_line_memory_and_initramfs() {
        let memory = allocate(128).unwrap();
        let initramfs = (0x700_0000, 77);
        let line = "console=ttyS0";
        let entry = write(&memory, 0x100_0000, line, initramfs, 2, Some(0xe_0000)).unwrap();
        assert_eq!(
            entry,
            Entry {
                instruction: 0x100_0000,
                start_info: 0x6000
            }
        );
        let start: hvm_start_info = memory.read_obj(GuestAddress(entry.start_info)).unwrap();
        assert_eq!(
            (start.magic, start.nr_modules, start.memmap_entries),
            (START_MAGIC, 1, 3)
        );
        assert_eq!(start.rsdp_paddr, 0xe_0000);
        let module: hvm_modlist_entry = memory.read_obj(GuestAddress(start.modlist_paddr)).unwrap();
        assert_eq!((module.paddr, module.size), (0x700_0000, 77));
        let mut line = [0; 14];
        memory
            .read_slice(&mut line, GuestAddress(start.cmdline_paddr))
            .unwrap();
        assert_eq!(&line, b"console=ttyS0\0");
        assert_eq!(
            memory
                .read_obj::<[u8; 4]>(GuestAddress(mptable::POINTER))
                .unwrap(),
            *b"_MP_"
        );
    }

    #[test]
    fn the_memory_map_covers_all_memory_but_the_firmware_hole() {
        let four_gib = allocate(4096).unwrap();
        let ram: Vec<_> = memory_map(&four_gib)
            .iter()
            .filter(|entry| entry.type_ == RAM)
            .map(|entry| (entry.addr, entry.addr + entry.size))
            .collect();
        assert_eq!(
            ram,
            [
                (0, BASE_END),
                (HIGH_START, GAP_START),
                (1 << 32, (1 << 32) + (1 << 30))
            ]
        );
    }

    #[test]
    fn an_initramfs_goes_to_the_top_or_is_refused() {
        assert_eq!(
            initramfs_address(5000, 64 << 20, 0x200_0000).unwrap(),
            (64 << 20) - 8192
        );
        assert_eq!(
            initramfs_address(4096, 8 << 30, 0x200_0000).unwrap(),
            GAP_START - 4096
        );
        let refused = initramfs_address(40 << 20, 64 << 20, 0x200_0000).unwrap_err();
        assert!(
            refused.to_string().contains("initial RAM disk"),
            "{refused}"
        );
    }
}
