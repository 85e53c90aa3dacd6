//! As much of ACPI's machine language as names devices: sections 20.2 (its grammar) and 6.4 (resources) of the ACPI
//! specification 6.5, to which the numbers here refer.

/// A term, encoded.
pub(super) type Term = Vec<u8>;

const NAME: u8 = 0x08;
const SCOPE: u8 = 0x10;
const BUFFER: u8 = 0x11;
const PACKAGE: u8 = 0x12;
const DEVICE: [u8; 2] = [0x5b, 0x82];

/// An integer (20.2.3).
pub(super) fn integer(value: u32) -> Term {
    match value {
        0 => vec![0x00],
        1 => vec![0x01],
        2..=0xff => vec![0x0a, value as u8],
        _ => [&[0x0c], value.to_le_bytes().as_slice()].concat(),
    }
}

/// A string of printable ASCII (20.2.3).
pub(super) fn string(text: &str) -> Term {
    [&[0x0d], text.as_bytes(), &[0]].concat()
}

/// A device's number in the form of Plug and Play: three letters and four hexadecimal digits, in 32 bits (19.3.4).
pub(super) fn eisa_id(letters: [u8; 3], number: u16) -> Term {
    let letters = letters
        .iter()
        .fold(0u16, |all, letter| all << 5 | u16::from(letter - b'@'));
    let [a, b] = letters.to_be_bytes();
    let [c, d] = number.to_be_bytes();
    integer(u32::from_le_bytes([a, b, c, d]))
}

/// A name in its scope for a term (20.2.5.1).
pub(super) fn name(path: &str, value: &[u8]) -> Term {
    [&[NAME], path.as_bytes(), value].concat()
}

/// What is in another scope (20.2.5.1).
pub(super) fn scope(path: &str, terms: &[Term]) -> Term {
    let body = [path.as_bytes(), &terms.concat()].concat();
    [&[SCOPE], sized(&body).as_slice()].concat()
}

/// A device with what belongs to it (20.2.5.2). Its name has four characters.
pub(super) fn device(name: &str, terms: &[Term]) -> Term {
    let body = [name.as_bytes(), &terms.concat()].concat();
    [&DEVICE, sized(&body).as_slice()].concat()
}

/// A list of values (20.2.5.4).
pub(super) fn package(values: &[Term]) -> Term {
    let body = [&[values.len() as u8], values.concat().as_slice()].concat();
    [&[PACKAGE], sized(&body).as_slice()].concat()
}

/// The resources that a device takes, as a buffer that ends with their end tag (6.4.2.9, without a checksum).
pub(super) fn resources(list: &[Vec<u8>]) -> Term {
    let bytes = [list.concat().as_slice(), &[0x79, 0]].concat();
    let body = [integer(bytes.len() as u32), bytes].concat();
    [&[BUFFER], sized(&body).as_slice()].concat()
}

/// A range of memory at a fixed place, for reading and writing (6.4.3.4).
pub(super) fn memory(start: u32, bytes: u32) -> Vec<u8> {
    let head = [0x86, 9, 0, 1];
    [&head[..], &start.to_le_bytes(), &bytes.to_le_bytes()].concat()
}

/// A range of ports at a fixed place (6.4.2.5).
pub(super) fn ports(start: u16, count: u8) -> Vec<u8> {
    let [low, high] = start.to_le_bytes();
    vec![0x47, 1, low, high, low, high, 1, count]
}

/// An interrupt line of the device's own, which it raises by an edge upwards (6.4.3.6).
pub(super) fn interrupt(line: u32) -> Vec<u8> {
    const CONSUMER: u8 = 1;
    const EDGE: u8 = 2;
    let head = [0x89, 6, 0, CONSUMER | EDGE, 1];
    [&head[..], &line.to_le_bytes()].concat()
}

/// The length of a package in front of it, itself included, in one to three bytes, so below 1 MiB (20.2.4).
fn sized(body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = match length {
        0..=0x3e => vec![(length + 1) as u8],
        0x3f..=0xffd => {
            let length = length + 2;
            vec![0x40 | (length & 0xf) as u8, (length >> 4) as u8]
        }
        _ => {
            let length = length + 3;
            let [_, a, b, _] = ((length >> 4) as u32 * 0x100).to_le_bytes();
            vec![0x80 | (length & 0xf) as u8, a, b]
        }
    };
    [head.as_slice(), body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_have_the_bytes_that_a_compiler_gives() {
        assert_eq!(eisa_id(*b"PNP", 0x0501), b"\x0c\x41\xd0\x05\x01");
        assert_eq!(name("_UID", &integer(7)), b"\x08_UID\x0a\x07");
        assert_eq!(string("LNRO0005"), b"\x0dLNRO0005\0");
        assert_eq!(
            package(&[integer(5), integer(0)]),
            b"\x12\x05\x02\x0a\x05\x00"
        );
        assert_eq!(scope("_SB_", &[vec![0xa3]]), b"\x10\x06_SB_\xa3");
        assert_eq!(device("COM1", &[]), b"\x5b\x82\x05COM1");
        assert_eq!(
            resources(&[memory(0xd000_0000, 0x1000), interrupt(5)]),
            b"\x11\x1a\x0a\x17\x86\x09\0\x01\0\0\0\xd0\0\x10\0\0\x89\x06\0\x03\x01\x05\0\0\0\x79\0"
        );
        assert_eq!(ports(0x3f8, 8), b"\x47\x01\xf8\x03\xf8\x03\x01\x08");
    }

    #[test]
    fn a_length_counts_itself_in_as_many_bytes_as_it_takes() {
        for length in [0, 1, 0x3e, 0x3f, 0x40, 0xffd, 0xffe, 0x1234] {
            let bytes = sized(&vec![0xaa; length]);
            let more = usize::from(bytes[0] >> 6);
            let mut value = match more {
                0 => usize::from(bytes[0]),
                _ => usize::from(bytes[0] & 0xf),
            };
            for (index, byte) in bytes[1..=more].iter().enumerate() {
                value |= usize::from(*byte) << (4 + 8 * index);
            }
            assert_eq!(value, bytes.len(), "{length:#x}");
        }
    }
}
