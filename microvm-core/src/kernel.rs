//! The guest kernel's file: what is a kernel, what is not, and how it gets into the guest's memory.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use linux_loader::elf::{
    ELFCLASS64, ELFDATA2LSB, Elf64_Ehdr, Elf64_Nhdr, Elf64_Phdr, PT_LOAD, PT_NOTE,
};
use vm_memory::ByteValued;

use crate::memory::{GAP_START, Memory, place};
use crate::{Error, Result};

/// The type of the note that holds the PVH entry point (xen/include/public/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY).
const PHYS32_ENTRY: u32 = 18;

/// ELF's number for x86-64 (EM_X86_64).
const X86_64: u16 = 62;

/// Far more program headers than any kernel has (vmlinux has five).
const MAX_HEADERS: u16 = 64;

/// Far more notes than any kernel has: a page of them is usual.
const MAX_NOTE_BYTES: u64 = 1 << 20;

/// Everything below the first mebibyte belongs to boot structures and to the hole of the PC's firmware.
const LOWEST: u64 = 1 << 20;

/// A kernel that can be booted: an ELF file that was checked from its header to its last segment.
#[derive(Debug)]
pub(crate) struct Kernel {
    path: PathBuf,
    file: File,
    segments: Vec<Segment>,
    entry: u64,
}

#[derive(Debug)]
struct Segment {
    offset: u64,
    file_bytes: u64,
    at: u64,
    memory_bytes: u64,
}

impl Kernel {
    /// Opens a kernel and checks everything that can be checked before it runs.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let failed = |what| {
            move |source: io::Error| Error::File {
                path: path.to_owned(),
                what,
                source,
            }
        };
        let file = File::open(path).map_err(failed("cannot open the guest kernel"))?;
        let about = file
            .metadata()
            .map_err(failed("cannot read the guest kernel"))?;
        if !about.is_file() {
            return Err(refuse(path, "is no file, so it is no kernel"));
        }
        let bytes = about.len();
        match inspect(&file, bytes).map_err(failed("cannot read the guest kernel"))? {
            Ok((segments, entry)) => Ok(Self {
                path: path.to_owned(),
                file,
                segments,
                entry,
            }),
            Err(why) => Err(refuse(path, why)),
        }
    }

    /// The descriptor of its file.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Where the kernel wants to be entered, in 32-bit protected mode without paging.
    pub(crate) fn entry(&self) -> u64 {
        self.entry
    }

    /// The first address behind everything that the kernel occupies.
    pub(crate) fn end(&self) -> u64 {
        self.segments
            .iter()
            .map(|segment| segment.at + segment.memory_bytes)
            .max()
            .unwrap_or(LOWEST)
    }

    /// Puts the kernel where it wants to be. What it expects to be zero is zero in fresh memory.
    pub(crate) fn load(&self, memory: &Memory, memory_bytes: u64) -> Result<()> {
        let room = memory_bytes.min(GAP_START);
        if self.end() > room {
            return Err(Error::NoRoom {
                what: "the guest kernel",
                needed: self.end(),
                room,
                hint: ": give the machine more memory",
            });
        }
        for segment in &self.segments {
            place(
                memory,
                &self.file,
                segment.offset,
                segment.file_bytes,
                segment.at,
            )
            .map_err(|source| Error::File {
                path: self.path.clone(),
                what: "cannot load the guest kernel",
                source,
            })?;
        }
        Ok(())
    }
}

fn refuse(path: &Path, why: impl Into<String>) -> Error {
    Error::Kernel {
        path: path.to_owned(),
        why: why.into(),
    }
}

/// The segments and the entry point of a kernel file, or why it is none.
type Inspected = std::result::Result<(Vec<Segment>, u64), String>;

fn inspect(file: &File, bytes: u64) -> io::Result<Inspected> {
    let header: Elf64_Ehdr = match read(file, bytes, 0)? {
        Some(header) if header_magic(&header) => header,
        _ => return Ok(Err(name_what_it_is(file, bytes)?)),
    };
    if let Err(why) = check_header(&header) {
        return Ok(Err(why));
    }
    let mut segments = Vec::new();
    let mut entry = None;
    for index in 0..u64::from(header.e_phnum) {
        let at = header
            .e_phoff
            .checked_add(index * size_of::<Elf64_Phdr>() as u64);
        let Some(program) = at
            .map(|at| read::<Elf64_Phdr>(file, bytes, at))
            .transpose()?
            .flatten()
        else {
            return Ok(Err(format!(
                "is cut short: its program headers lie beyond its {bytes} bytes"
            )));
        };
        let end = program.p_offset.checked_add(program.p_filesz);
        if matches!(program.p_type, PT_LOAD | PT_NOTE) && end.is_none_or(|end| end > bytes) {
            return Ok(Err(format!(
                "is cut short: it has {bytes} bytes, and a segment of {} bytes starts at {}",
                program.p_filesz, program.p_offset
            )));
        }
        match program.p_type {
            PT_LOAD if program.p_memsz > 0 => match segment(&program) {
                Ok(segment) => segments.push(segment),
                Err(why) => return Ok(Err(why)),
            },
            PT_NOTE if entry.is_none() => entry = pvh_entry(file, &program)?,
            _ => {}
        }
    }
    let Some(entry) = entry else {
        return Ok(Err(
            "has no PVH entry point: it must be built with CONFIG_PVH=y".to_owned(),
        ));
    };
    if !segments
        .iter()
        .any(|segment| (segment.at..segment.at + segment.file_bytes).contains(&entry))
    {
        return Ok(Err(format!(
            "has its PVH entry point at {entry:#x}, where nothing is loaded"
        )));
    }
    Ok(Ok((segments, entry)))
}

fn header_magic(header: &Elf64_Ehdr) -> bool {
    header.e_ident.starts_with(b"\x7fELF")
}

fn check_header(header: &Elf64_Ehdr) -> std::result::Result<(), String> {
    let machine = match header.e_machine {
        X86_64 => None,
        3 => Some("32-bit x86"),
        40 => Some("32-bit ARM"),
        183 => Some("AArch64"),
        243 => Some("RISC-V"),
        _ => Some("another architecture"),
    };
    if let Some(machine) = machine {
        return Err(format!(
            "is an ELF file for {machine} (machine {}), not for x86-64",
            header.e_machine
        ));
    }
    if u32::from(header.e_ident[4]) != ELFCLASS64 as u32
        || u32::from(header.e_ident[5]) != ELFDATA2LSB as u32
    {
        return Err("is an ELF file, but not a 64-bit little-endian one".to_owned());
    }
    if usize::from(header.e_phentsize) != size_of::<Elf64_Phdr>()
        || header.e_phnum == 0
        || header.e_phnum > MAX_HEADERS
    {
        return Err(format!(
            "is an ELF file with {} program headers of {} bytes, which is no kernel",
            header.e_phnum, header.e_phentsize
        ));
    }
    Ok(())
}

fn segment(program: &Elf64_Phdr) -> std::result::Result<Segment, String> {
    let end = program.p_paddr.checked_add(program.p_memsz);
    if program.p_memsz < program.p_filesz
        || program.p_paddr < LOWEST
        || end.is_none_or(|end| end > GAP_START)
    {
        return Err(format!(
            "is an ELF file with a segment at {:#x} of {} bytes in memory and {} in the file, which is no kernel",
            program.p_paddr, program.p_memsz, program.p_filesz
        ));
    }
    Ok(Segment {
        offset: program.p_offset,
        file_bytes: program.p_filesz,
        at: program.p_paddr,
        memory_bytes: program.p_memsz,
    })
}

/// Looks for the PVH entry point among the notes of one segment.
fn pvh_entry(file: &File, program: &Elf64_Phdr) -> io::Result<Option<u64>> {
    let mut notes = vec![0; program.p_filesz.min(MAX_NOTE_BYTES) as usize];
    file.read_exact_at(&mut notes, program.p_offset)?;
    let mut rest = notes.as_slice();
    while let Some((head, body)) = rest.split_at_checked(size_of::<Elf64_Nhdr>()) {
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (name_bytes, value_bytes, kind) = (word(0) as usize, word(4) as usize, word(8));
        // Name and value are each padded to four bytes (include/linux/elfnote.h in Linux).
        let Some((name, body)) = body.split_at_checked(name_bytes.next_multiple_of(4)) else {
            break;
        };
        let Some((value, body)) = body.split_at_checked(value_bytes.next_multiple_of(4)) else {
            break;
        };
        if kind == PHYS32_ENTRY && name.starts_with(b"Xen\0") {
            // Linux writes the address in the size of a pointer.
            let mut entry = [0; 8];
            let known = value_bytes.min(8);
            entry[..known].copy_from_slice(&value[..known]);
            return Ok(Some(u64::from_le_bytes(entry)));
        }
        rest = body;
    }
    Ok(None)
}

/// What a file that is not ELF is, as a reason to refuse it.
fn name_what_it_is(file: &File, bytes: u64) -> io::Result<String> {
    let mut start = vec![0; bytes.min(1024) as usize];
    file.read_exact_at(&mut start, 0)?;
    // The boot protocol's magic (Documentation/arch/x86/boot.rst).
    if start.get(0x202..0x206) == Some(b"HdrS") {
        return Ok("is a compressed kernel (bzImage), and a vmlinux is needed here: name it with --kernel, which unpacks it"
            .to_owned());
    }
    let packed: &[(&[u8], &str)] = &[
        (b"\x1f\x8b", "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\xfd7zXZ", "xz"),
        (b"\x02\x21\x4c\x18", "lz4"),
        (b"BZh", "bzip2"),
    ];
    if let Some((_, name)) = packed.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Ok(format!(
            "is compressed with {name}: unpack it to a vmlinux first"
        ));
    }
    Ok(match bytes {
        0 => "is empty, so it is no kernel".to_owned(),
        _ => "is no kernel: it is no ELF file (an uncompressed vmlinux for x86-64 is needed)"
            .to_owned(),
    })
}

/// Reads one header, or nothing when the file ends before it does.
fn read<T: ByteValued + Default>(file: &File, bytes: u64, at: u64) -> io::Result<Option<T>> {
    let mut value = T::default();
    if at
        .checked_add(size_of::<T>() as u64)
        .is_none_or(|end| end > bytes)
    {
        return Ok(None);
    }
    file.read_exact_at(value.as_mut_slice(), at)?;
    Ok(Some(value))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use proptest::prelude::*;
    use tempfile::NamedTempFile;
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::memory::allocate;

    /// A kernel file for tests: this code, loaded and entered at `at`.
    pub(crate) fn image(code: &[u8], at: u64) -> Vec<u8> {
        const HEADERS: u64 = 64 + 2 * 56;
        let note_at = HEADERS;
        let code_at = 4096;
        let mut file = Vec::new();
        file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        file.extend([2u16, X86_64].map(u16::to_le_bytes).concat());
        file.extend(1u32.to_le_bytes());
        file.extend([at, 64, 0].map(u64::to_le_bytes).concat());
        file.extend(0u32.to_le_bytes());
        file.extend([64u16, 56, 2, 0, 0, 0].map(u16::to_le_bytes).concat());
        let mut program = |kind: u32, offset: u64, address: u64, bytes: u64, memory: u64| {
            file.extend([kind, 7].map(u32::to_le_bytes).concat());
            file.extend(
                [offset, address, address, bytes, memory, 4096]
                    .map(u64::to_le_bytes)
                    .concat(),
            );
        };
        program(
            PT_LOAD,
            code_at,
            at,
            code.len() as u64,
            code.len() as u64 + 8192,
        );
        program(PT_NOTE, note_at, 0, 24, 24);
        file.extend([4u32, 8, PHYS32_ENTRY].map(u32::to_le_bytes).concat());
        file.extend(b"Xen\0");
        file.extend(at.to_le_bytes());
        file.resize(code_at as usize, 0);
        file.extend(code);
        file
    }

    fn file(contents: &[u8]) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(contents).unwrap();
        file
    }

    fn refusal(contents: &[u8]) -> String {
        Kernel::open(file(contents).path()).unwrap_err().to_string()
    }

    #[test]
    fn a_kernel_is_loaded_where_it_wants_to_be() {
        let file = file(&image(b"\xf4\xeb\xfd", 0x100_0000));
        let kernel = Kernel::open(file.path()).unwrap();
        assert_eq!(
            (kernel.entry(), kernel.end()),
            (0x100_0000, 0x100_0003 + 8192)
        );
        let memory = allocate(64).unwrap();
        kernel.load(&memory, 64 << 20).unwrap();
        assert_eq!(
            memory
                .read_obj::<[u8; 4]>(GuestAddress(0x100_0000))
                .unwrap(),
            *b"\xf4\xeb\xfd\0"
        );
    }

    #[test]
    fn what_is_no_kernel_is_refused_by_what_it_is() {
        assert!(refusal(b"").contains("empty"));
        assert!(refusal(b"#!/bin/sh\n").contains("no ELF file"));
        assert!(refusal(&[0x5a; 100_000]).contains("no ELF file"));
        assert!(refusal(b"\x1f\x8b\x08 a gzip file").contains("gzip"));
        let mut compressed = vec![0; 4096];
        compressed[0x202..0x206].copy_from_slice(b"HdrS");
        assert!(refusal(&compressed).contains("bzImage"));
        let mut arm = image(b"\xf4", 0x100_0000);
        arm[18..20].copy_from_slice(&183u16.to_le_bytes());
        assert!(refusal(&arm).contains("AArch64"));
        assert!(
            Kernel::open(Path::new("/"))
                .unwrap_err()
                .to_string()
                .contains("no file")
        );
        assert!(
            Kernel::open(Path::new("/nowhere/vmlinux"))
                .unwrap_err()
                .to_string()
                .contains("/nowhere/vmlinux")
        );
    }

    #[test]
    fn an_elf_file_without_a_pvh_entry_is_refused() {
        let mut plain = image(b"\xf4", 0x100_0000);
        plain[64 + 56..64 + 60].copy_from_slice(&0u32.to_le_bytes());
        assert!(refusal(&plain).contains("CONFIG_PVH"));
        let mut astray = image(b"\xf4", 0x100_0000);
        let entry = 64 + 2 * 56 + 16;
        astray[entry..entry + 8].copy_from_slice(&0x500_0000u64.to_le_bytes());
        assert!(refusal(&astray).contains("nothing is loaded"));
    }

    #[test]
    fn a_kernel_cut_anywhere_is_refused() {
        let whole = image(&[0x90; 9000], 0x100_0000);
        for bytes in [1, 63, 64, 100, 176, 190, 4095, 4096, 8000, whole.len() - 1] {
            let why = refusal(&whole[..bytes]);
            assert!(
                why.contains("cut short") || why.contains("no ELF"),
                "{bytes}: {why}"
            );
        }
    }

    #[test]
    fn a_kernel_that_does_not_fit_asks_for_memory() {
        let file = file(&image(b"\xf4", 0x800_0000));
        let memory = allocate(64).unwrap();
        let error = Kernel::open(file.path())
            .unwrap()
            .load(&memory, 64 << 20)
            .unwrap_err()
            .to_string();
        assert!(error.contains("more memory"), "{error}");
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(
            flips in prop::collection::vec((0usize..200, any::<u8>()), 1..12),
        ) {
            let mut contents = image(b"\xf4\xeb\xfd", 0x100_0000);
            for (at, value) in flips {
                contents[at] = value;
            }
            let file = file(&contents);
            if let Ok(kernel) = Kernel::open(file.path()) {
                let memory = allocate(64).unwrap();
                let _ = kernel.load(&memory, 64 << 20);
            }
        }
    }
}
