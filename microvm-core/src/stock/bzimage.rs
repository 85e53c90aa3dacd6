//! A compressed kernel: the header that its boot protocol puts in front, and the kernel inside. Offsets, versions and flags
//! are those of Linux's Documentation/arch/x86/boot.rst.

use super::unpack::Format;

/// Where the header's fields are.
const SETUP_SECTORS: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const KERNEL_VERSION: usize = 0x20e;
const LOAD_FLAGS: usize = 0x211;
const EXTENDED_LOAD_FLAGS: usize = 0x236;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// The first version of the protocol that says whether a kernel has 64 bits (Linux 3.8).
const LEAST_VERSION: u16 = 0x20c;

/// LOADED_HIGH: the kernel proper is loaded at 1 MiB, as every bzImage's.
const LOADED_HIGH: u8 = 1;

/// XLF_KERNEL_64: it is a kernel for x86-64.
const KERNEL_64: u16 = 1;

/// More than any kernel takes when it is unpacked, bytes. Debian's take 60 MB.
const MOST: u32 = 512 << 20;

/// A compressed kernel that was checked from its header to the end of its payload.
#[derive(Debug)]
pub(super) struct BzImage<'a> {
    /// `uname -r` of the kernel, when the header says so.
    pub(super) release: Option<String>,
    payload: &'a [u8],
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*bytes))
}

/// Whether a file that begins so claims to be a kernel with a boot protocol, compressed as a rule.
pub(super) fn claims(start: &[u8]) -> bool {
    start.get(MAGIC..MAGIC + 4) == Some(b"HdrS")
}

/// What a file is that is neither ELF nor has the boot protocol's header, as a reason to refuse it.
pub(super) fn name_other(start: &[u8]) -> String {
    // The header of images for Arm (Documentation/arch/arm64/booting.rst) and RISC-V has its magic number here.
    let machine = match start.get(0x38..0x3c) {
        Some(b"ARM\x64") => Some("AArch64"),
        Some(b"RSC\x05") => Some("RISC-V"),
        _ => None,
    };
    if let Some(machine) = machine {
        return format!("is a kernel for {machine}, not for x86-64");
    }
    if start.starts_with(b"MZ") && start.get(4..8) == Some(b"zimg") {
        return "is a compressed EFI kernel of another architecture, not for x86-64".to_owned();
    }
    if let Ok(format) = Format::of(start) {
        return format!("is compressed with {}: unpack it first", format.name());
    }
    match start {
        [] => "is empty, so it is no kernel".to_owned(),
        [b'M', b'Z', ..] => {
            "is an EFI program without the header of a Linux kernel: give the kernel that it was made of"
                .to_owned()
        }
        _ => "is no kernel: it is neither an ELF file (vmlinux) nor has it the boot protocol's header (bzImage)"
            .to_owned(),
    }
}

impl<'a> BzImage<'a> {
    /// Checks the header and finds the payload, or says why that is none.
    pub(super) fn parse(file: &'a [u8]) -> Result<Self, String> {
        let short = || {
            format!(
                "is cut short: it has {} bytes, and its header says more",
                file.len()
            )
        };
        if u16_at(file, BOOT_FLAG).ok_or_else(short)? != 0xaa55 || !claims(file) {
            return Err("has no header of the Linux boot protocol".to_owned());
        }
        let version = u16_at(file, VERSION).ok_or_else(short)?;
        if version < LEAST_VERSION {
            return Err(format!(
                "speaks version {}.{:02} of the boot protocol, and 2.12 is needed (Linux 3.8)",
                version >> 8,
                version & 0xff
            ));
        }
        if file.get(LOAD_FLAGS).ok_or_else(short)? & LOADED_HIGH == 0 {
            return Err("is a zImage, which no 64-bit kernel is".to_owned());
        }
        if u16_at(file, EXTENDED_LOAD_FLAGS).ok_or_else(short)? & KERNEL_64 == 0 {
            return Err("is a kernel for 32-bit x86, not for x86-64".to_owned());
        }
        let sectors = match *file.get(SETUP_SECTORS).ok_or_else(short)? {
            0 => 4, // as the protocol says, for very old boot loaders
            sectors => usize::from(sectors),
        };
        let kernel = (sectors + 1) * 512;
        let offset = u32_at(file, PAYLOAD_OFFSET).ok_or_else(short)? as usize;
        let length = u32_at(file, PAYLOAD_LENGTH).ok_or_else(short)? as usize;
        if length == 0 {
            return Err("has no payload, so there is no kernel in it".to_owned());
        }
        let start = kernel.checked_add(offset).ok_or_else(short)?;
        let end = start.checked_add(length).ok_or_else(short)?;
        let payload = file.get(start..end).ok_or_else(|| {
            format!(
                "is cut short: it has {} bytes, and its payload of {length} bytes starts at {start}",
                file.len()
            )
        })?;
        Ok(Self {
            release: release(file, sectors * 512),
            payload,
        })
    }

    /// Unpacks the kernel: an ELF file.
    pub(super) fn unpack(&self) -> Result<Vec<u8>, String> {
        if self.payload.starts_with(b"\x7fELF") {
            return Ok(self.payload.to_vec());
        }
        let format = Format::of(self.payload).map_err(|what| {
            format!("is compressed with {what}, which is not supported: gzip, lz4, xz and zstd are")
        })?;
        // The last four bytes are the size that it has unpacked. gzip has them by itself, with the others the kernel's build
        // appends them.
        let (packed, size) = self
            .payload
            .split_last_chunk::<4>()
            .ok_or("has a payload of a few bytes, which is no kernel")?;
        let size = u32::from_le_bytes(*size);
        if size > MOST {
            return Err(format!(
                "says that it unpacks to {size} bytes, and no kernel has more than {MOST}"
            ));
        }
        let packed = match format {
            Format::Gzip => self.payload,
            _ => packed,
        };
        let failed = |why: String| {
            format!(
                "has a payload of {} that does not unpack: {why}",
                format.name()
            )
        };
        let kernel = format
            .unpack(packed, size.into())
            .map_err(|error| failed(error.to_string()))?;
        match kernel.len() == size as usize {
            true => Ok(kernel),
            false => Err(failed(format!(
                "it ends after {} of {size} bytes",
                kernel.len()
            ))),
        }
    }
}

/// The first word of the version that the header points to, which is in the setup's sectors.
fn release(file: &[u8], setup: usize) -> Option<String> {
    let at = match u16_at(file, KERNEL_VERSION)? {
        0 => return None,
        at => usize::from(at) + 0x200,
    };
    let text = file.get(at..setup.min(file.len()))?;
    super::facts::word(text)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::unpack::tests::{ALL, pack};
    use super::*;

    /// A compressed kernel with this one inside.
    pub(in crate::stock) fn image(format: Option<Format>, kernel: &[u8]) -> Vec<u8> {
        const SECTORS: usize = 3;
        let mut payload = match format {
            Some(format) => pack(format, kernel),
            None => kernel.to_vec(),
        };
        if !matches!(format, None | Some(Format::Gzip)) {
            payload.extend((kernel.len() as u32).to_le_bytes());
        }
        let mut file = vec![0; (SECTORS + 1) * 512];
        file[..2].copy_from_slice(b"MZ");
        file[SETUP_SECTORS] = SECTORS as u8;
        file[BOOT_FLAG..BOOT_FLAG + 2].copy_from_slice(&0xaa55u16.to_le_bytes());
        file[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        file[VERSION..VERSION + 2].copy_from_slice(&0x20fu16.to_le_bytes());
        file[KERNEL_VERSION..KERNEL_VERSION + 2].copy_from_slice(&0x300u16.to_le_bytes());
        file[0x500..0x514].copy_from_slice(b"6.1.0-test (b@h) #1\0");
        file[LOAD_FLAGS] = LOADED_HIGH;
        file[EXTENDED_LOAD_FLAGS] = KERNEL_64 as u8;
        file[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16u32.to_le_bytes());
        let length = payload.len() as u32;
        file[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        file.extend([0xcc; 16]);
        file.extend(payload);
        file.extend([0xcc; 100]);
        file
    }

    fn refusal(file: &[u8]) -> String {
        match BzImage::parse(file) {
            Err(why) => why,
            Ok(image) => image.unpack().unwrap_err(),
        }
    }

    #[test]
    fn the_kernel_inside_and_its_release_are_found_however_it_is_packed() {
        let kernel = b"\x7fELF and so on".repeat(1000);
        for format in ALL.map(Some).into_iter().chain([None]) {
            let file = image(format, &kernel);
            let found = BzImage::parse(&file).unwrap();
            assert_eq!(found.release.as_deref(), Some("6.1.0-test"));
            assert!(found.unpack().unwrap() == kernel, "{format:?}");
        }
    }

    #[test]
    fn a_kernel_that_cannot_be_taken_is_refused_by_what_it_is() {
        let whole = image(Some(Format::Zstd), &[7; 5000]);
        let with = |at: usize, bytes: &[u8]| {
            let mut file = whole.clone();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            refusal(&file)
        };
        assert!(with(EXTENDED_LOAD_FLAGS, &[0]).contains("32-bit x86"));
        assert!(with(LOAD_FLAGS, &[0]).contains("zImage"));
        assert!(with(VERSION, &[0x0a, 2]).contains("version 2.10"));
        assert!(with(PAYLOAD_LENGTH, &[0; 4]).contains("no payload"));
        assert!(with(PAYLOAD_LENGTH, &[0xff; 4]).contains("cut short"));
        assert!(with(PAYLOAD_OFFSET, &[0xff; 4]).contains("cut short"));
        let payload = 4 * 512 + 16;
        assert!(with(payload, b"BZh9").contains("bzip2"));
        assert!(with(payload, b"what").contains("something unknown"));
        assert!(with(payload + 8, &[0xff; 8]).contains("does not unpack"));
        assert!(name_other(&[0; 64]).contains("no kernel"));
        let mut arm = [0; 64];
        arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
        assert!(name_other(&arm).contains("AArch64"));
        assert!(name_other(b"MZ\0\0zimg").contains("another architecture"));
    }

    #[test]
    fn a_kernel_cut_anywhere_is_refused() {
        for format in ALL {
            let kernel: Vec<u8> = (0..20_000u32).map(|at| (at * at % 251) as u8).collect();
            let whole = image(Some(format), &kernel);
            for bytes in [0, 0x1ff, 0x204, 0x24f, 2100, whole.len() - 101] {
                let why = refusal(&whole[..bytes]);
                assert!(
                    why.contains("cut short") || why.contains("no header"),
                    "{why}"
                );
            }
        }
    }

    #[test]
    fn a_size_that_is_not_what_comes_out_is_refused() {
        for format in ALL {
            for wrong in [0u32, 4999, 5001, u32::MAX] {
                let mut file = image(Some(format), &[7; 5000]);
                let at = file.len() - 104;
                file[at..at + 4].copy_from_slice(&wrong.to_le_bytes());
                assert!(!refusal(&file).is_empty(), "{format:?} {wrong}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(
            flips in prop::collection::vec((0x1f0usize..0x260, any::<u8>()), 1..12),
        ) {
            let mut file = image(Some(Format::Lz4), &[7; 5000]);
            for (at, value) in flips {
                file[at] = value;
            }
            if let Ok(image) = BzImage::parse(&file) {
                let _ = image.unpack();
            }
        }
    }
}
