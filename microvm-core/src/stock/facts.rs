//! What a kernel says of itself, found in its text: there is no other place in a vmlinux that every kernel has.

use std::io::{self, Read};

use memchr::memmem::Finder;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::unpack::Format;

/// What is looked at at once, bytes.
const PIECE: usize = 4 << 20;

/// As much of what went before is looked at again, so that nothing is missed at a seam, bytes.
const SEAM: usize = 512;

/// The most that a configuration takes, packed or not, bytes. Debian's has 130 kB.
const MOST_CONFIG: usize = 2 << 20;

/// What a kernel says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Facts {
    /// `uname -r`, when there is a banner.
    pub(super) release: Option<String>,
    /// It finds virtio devices that its command line names: `virtio_mmio.device` is a parameter of it.
    pub(super) named_devices: bool,
    /// It reads ACPI's tables.
    pub(super) acpi: bool,
    /// It is patched for kvm_pvm (guest/kernel/kvm_pvm.patch).
    pub(super) pvm: bool,
    /// Its configuration, when it holds that (CONFIG_IKCONFIG).
    pub(super) config: Option<String>,
}

/// A kernel's facts and the SHA-256 of its file, in hexadecimal.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) facts: Facts,
    pub(super) digest: String,
}

/// The first word of a text that ends with a space or a zero byte, if it can be a release: it becomes part of paths.
pub(super) fn word(text: &[u8]) -> Option<String> {
    /// What `uname -r` has room for (`__NEW_UTS_LEN`).
    const MOST: usize = 64;
    let end = text
        .iter()
        .take(MOST + 1)
        .position(|byte| matches!(byte, b' ' | 0 | b'\n'))?;
    let word = text.get(..end)?;
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b".+-_~".contains(byte);
    if !word.first().is_some_and(u8::is_ascii_digit) || !word.iter().all(plain) {
        return None;
    }
    String::from_utf8(word.to_vec()).ok()
}

/// Reads a kernel from its first byte to its last.
pub(super) fn read(mut kernel: impl Read) -> io::Result<Found> {
    let banner = Finder::new("Linux version ");
    // Parameters of the kernel's command line, by which a part of it is known to be built in.
    let named_devices = Finder::new("virtio_mmio.device\0");
    let acpi = Finder::new("acpi_sci\0");
    let pvm = Finder::new("plimsoll_pvm\0");
    // In front of and behind the configuration (kernel/configs.c).
    let config_start = Finder::new(b"IKCFG_ST\x1f\x8b");

    let mut facts = Facts::default();
    let mut config: Option<Vec<u8>> = None;
    let mut hash = Sha256::new();
    let mut window = Vec::with_capacity(PIECE + SEAM);
    loop {
        let seam = window.len().saturating_sub(SEAM);
        window.drain(..seam);
        let known = window.len();
        let count = kernel
            .by_ref()
            .take(PIECE as u64)
            .read_to_end(&mut window)?;
        let Some(fresh) = window.get(known..).filter(|fresh| !fresh.is_empty()) else {
            break;
        };
        hash.update(fresh);
        let has = |needle: &Finder<'_>| needle.find(&window).is_some();
        facts.named_devices |= has(&named_devices);
        facts.acpi |= has(&acpi);
        facts.pvm |= has(&pvm);
        if facts.release.is_none() {
            facts.release = banner
                .find_iter(&window)
                .find_map(|at| word(&window[at + banner.needle().len()..]));
        }
        match &mut config {
            Some(held) if held.len() < MOST_CONFIG => held.extend_from_slice(fresh),
            Some(_) => {}
            None => {
                config = config_start
                    .find(&window)
                    .map(|at| window[at + b"IKCFG_ST".len()..].to_vec());
            }
        }
        if count < PIECE {
            break;
        }
    }
    facts.config = config.and_then(|packed| unpack_config(&packed));
    let digest = hex(&hash.finalize());
    Ok(Found { facts, digest })
}

/// A configuration that cannot be read is as good as none.
fn unpack_config(packed: &[u8]) -> Option<String> {
    let text = Format::Gzip.unpack(packed, MOST_CONFIG as u64).ok()?;
    String::from_utf8(text).ok()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::super::unpack::tests::pack;
    use super::*;

    #[test]
    fn release_parameters_and_configuration_are_found_wherever_they_lie() {
        let config = format!("{}\nCONFIG_X=y\n", "# a comment\n".repeat(2000));
        let mut packed = b"IKCFG_ST".to_vec();
        packed.extend(pack(Format::Gzip, config.as_bytes()));
        packed.extend(b"IKCFG_ED");
        // Across every seam: the pieces are whole numbers of PIECE.
        for shift in [0, 1, 9, 14, 20, 300] {
            let mut kernel = vec![0u8; PIECE - shift];
            kernel.extend(b"Linux version 6.1.0-56-cloud-amd64 (debian) #1 SMP\n\0");
            kernel.resize(2 * PIECE - shift, 1);
            kernel.extend(b"virtio_mmio.device\0");
            kernel.resize(3 * PIECE - shift, 2);
            kernel.extend(&packed);
            let found = read(kernel.as_slice()).unwrap();
            let facts = found.facts;
            assert_eq!(facts.release.as_deref(), Some("6.1.0-56-cloud-amd64"));
            assert!(facts.named_devices && !facts.acpi && !facts.pvm);
            assert_eq!(facts.config.as_deref(), Some(config.as_str()), "{shift}");
            assert_eq!(found.digest, hex(&Sha256::digest(&kernel)));
        }
    }

    #[test]
    fn only_what_can_be_a_release_is_one() {
        assert_eq!(word(b"6.12.117+deb12 x").as_deref(), Some("6.12.117+deb12"));
        for bad in [&b"../../etc "[..], b"6.1/../x ", b"%s ", b"6.1", b" ", b""] {
            assert_eq!(word(bad), None, "{bad:?}");
        }
        assert_eq!(word(&[b'6'; 100]), None);
    }

    #[test]
    fn a_file_that_says_nothing_has_no_facts() {
        let found = read(&b"nothing"[..]).unwrap();
        assert_eq!(found.facts, Facts::default());
    }
}
