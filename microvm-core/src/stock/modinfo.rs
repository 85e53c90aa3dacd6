//! What a kernel module says of itself: the section `.modinfo` of an ELF object file, whose entries are `key=value`, each ended
//! by a zero byte (Linux's include/linux/moduleparam.h).

/// Places in ELF-64's headers, and their sizes (the ELF-64 object file format).
const HEADER_BYTES: usize = 64;
const SECTION_TABLE: usize = 0x28;
const SECTION_BYTES: usize = 0x3a;
const SECTION_COUNT: usize = 0x3c;
const NAMES_INDEX: usize = 0x3e;

fn number(bytes: &[u8], at: usize, width: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(width)?)?;
    let value = bytes
        .iter()
        .rev()
        .fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    usize::try_from(value).ok()
}

/// One section's header: the offset of its name, and its contents.
struct Section<'a> {
    name: usize,
    contents: &'a [u8],
}

fn section(file: &[u8], index: usize) -> Option<Section<'_>> {
    let size = number(file, SECTION_BYTES, 2)?;
    let at = number(file, SECTION_TABLE, 8)?.checked_add(index.checked_mul(size)?)?;
    let offset = number(file, at.checked_add(0x18)?, 8)?;
    let length = number(file, at.checked_add(0x20)?, 8)?;
    // A section without contents in the file (its kind is at 4: SHT_NOBITS is 8) has none to look at.
    let contents = match number(file, at.checked_add(4)?, 4)? {
        8 => &[],
        _ => file.get(offset..offset.checked_add(length)?)?,
    };
    Some(Section {
        name: number(file, at, 4)?,
        contents,
    })
}

/// The entries of a module's `.modinfo`, or nothing when it is no module.
pub(super) fn entries(file: &[u8]) -> Option<Vec<(&str, &str)>> {
    if file.len() < HEADER_BYTES || !file.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let count = number(file, SECTION_COUNT, 2)?;
    let names = section(file, number(file, NAMES_INDEX, 2)?)?.contents;
    let wanted = b".modinfo\0";
    let info = (0..count)
        .filter_map(|index| section(file, index))
        .find(|section| {
            names
                .get(section.name..)
                .is_some_and(|name| name.starts_with(wanted))
        })?;
    let entries = info.contents.split(|byte| *byte == 0);
    let pair = |entry| std::str::from_utf8(entry).ok()?.split_once('=');
    Some(entries.filter_map(pair).collect())
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A module that says this of itself, and does nothing.
    pub(in crate::stock) fn module(info: &str) -> Vec<u8> {
        let info = info.as_bytes();
        let names = b"\0.modinfo\0.names\0";
        let mut file = vec![0; HEADER_BYTES];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let table = HEADER_BYTES + info.len() + names.len();
        file[SECTION_TABLE..SECTION_TABLE + 8].copy_from_slice(&(table as u64).to_le_bytes());
        file[SECTION_BYTES] = 64;
        file[SECTION_COUNT] = 3;
        file[NAMES_INDEX] = 2;
        file.extend(info);
        file.extend(names);
        let mut section = |name: u32, offset: usize, length: usize| {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[4] = 1;
            header[0x18..0x20].copy_from_slice(&(offset as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(length as u64).to_le_bytes());
            file.extend(header);
        };
        section(0, 0, 0);
        section(1, HEADER_BYTES, info.len());
        section(10, HEADER_BYTES + info.len(), names.len());
        file
    }

    #[test]
    fn a_modules_entries_are_read() {
        let file = module("license=GPL\0depends=virtio,virtio_ring\0softdep=pre: crc32c\0odd\0");
        assert_eq!(
            entries(&file).unwrap(),
            [
                ("license", "GPL"),
                ("depends", "virtio,virtio_ring"),
                ("softdep", "pre: crc32c")
            ]
        );
        assert_eq!(entries(b"#!/bin/sh"), None);
        assert_eq!(entries(&file[..100]), None);
    }

    proptest! {
        #[test]
        fn no_object_file_makes_it_panic(
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        ) {
            let mut file = module("name=x\0depends=y\0");
            for (at, value) in flips {
                let at = at.index(file.len());
                file[at] = value;
            }
            let _ = entries(&file);
        }
    }
}
