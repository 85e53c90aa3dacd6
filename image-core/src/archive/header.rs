//! The 512-byte tar header: its fields and checksum (POSIX.1-2024 pax(1), and GNU tar's tar.h).

/// A tar archive consists of blocks of this size.
pub(crate) const BLOCK: usize = 512;

/// Where the fields are: offset and length.
const NAME: (usize, usize) = (0, 100);
const MODE: (usize, usize) = (100, 8);
const UID: (usize, usize) = (108, 8);
const GID: (usize, usize) = (116, 8);
const SIZE: (usize, usize) = (124, 12);
const MTIME: (usize, usize) = (136, 12);
const CHECKSUM: (usize, usize) = (148, 8);
const TYPE: usize = 156;
const LINK: (usize, usize) = (157, 100);
const MAGIC: (usize, usize) = (257, 8);
const MAJOR: (usize, usize) = (329, 8);
const MINOR: (usize, usize) = (337, 8);
const PREFIX: (usize, usize) = (345, 155);

/// A header block whose checksum holds.
pub(crate) struct Header<'b>(&'b [u8; BLOCK]);

impl<'b> Header<'b> {
    /// None when the checksum is wrong: then this is no header.
    pub(crate) fn new(block: &'b [u8; BLOCK]) -> Option<Self> {
        let (at, length) = CHECKSUM;
        let stated = number(&block[at..at + length])?;
        let in_checksum = |index: usize| (at..at + length).contains(&index);
        let mut unsigned: i64 = 0;
        let mut signed: i64 = 0;
        for (index, byte) in block.iter().enumerate() {
            let byte = if in_checksum(index) { b' ' } else { *byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        // Some historic tars summed signed bytes.
        (stated == unsigned || stated == signed).then_some(Self(block))
    }

    fn field(&self, (at, length): (usize, usize)) -> &'b [u8] {
        &self.0[at..at + length]
    }

    /// The name, with the prefix that POSIX headers have for long ones.
    pub(crate) fn name(&self) -> Vec<u8> {
        let name = text(self.field(NAME));
        // GNU's magic is "ustar  \0"; its headers have times where the prefix would be.
        let is_posix = self.field(MAGIC).starts_with(b"ustar\0");
        let prefix = if is_posix {
            text(self.field(PREFIX))
        } else {
            b""
        };
        if prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    pub(crate) fn link(&self) -> Vec<u8> {
        text(self.field(LINK)).to_vec()
    }

    pub(crate) fn kind(&self) -> u8 {
        self.0[TYPE]
    }

    pub(crate) fn mode(&self) -> Option<i64> {
        number(self.field(MODE))
    }

    pub(crate) fn uid(&self) -> Option<i64> {
        number(self.field(UID))
    }

    pub(crate) fn gid(&self) -> Option<i64> {
        number(self.field(GID))
    }

    pub(crate) fn size(&self) -> Option<i64> {
        number(self.field(SIZE))
    }

    pub(crate) fn mtime(&self) -> Option<i64> {
        number(self.field(MTIME))
    }

    pub(crate) fn device(&self) -> Option<(i64, i64)> {
        Some((number(self.field(MAJOR))?, number(self.field(MINOR))?))
    }
}

/// Whether an archive that begins with `start` is a tar: a header with a good checksum, or an empty archive's zeros.
pub(crate) fn is_tar(start: &[u8]) -> bool {
    match start.first_chunk::<BLOCK>() {
        Some(block) => is_zero(block) || Header::new(block).is_some(),
        None => false,
    }
}

pub(crate) fn is_zero(block: &[u8; BLOCK]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

/// A text field: up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0);
    &field[..end.unwrap_or(field.len())]
}

/// A number: octal digits between blanks and NULs, or, when the first bit is set, GNU's big-endian two's complement. An
/// empty field is 0. None when it is neither, or needs more than 63 bits.
pub(crate) fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // The top bit marks the encoding, the next one is the sign.
        let negative = first & 0x40 != 0;
        let start = i128::from(if negative {
            i64::from(*first) - 0x100
        } else {
            i64::from(first & 0x3f)
        });
        let mut value = start;
        for byte in rest {
            value = value.checked_mul(256)?.checked_add(i128::from(*byte))?;
        }
        return i64::try_from(value).ok();
    }
    let blank = |byte: &u8| *byte == b' ' || *byte == 0;
    let start = field
        .iter()
        .position(|byte| !blank(byte))
        .unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    let (digits, after) = digits.split_at(end);
    // After a NUL anything may stand; after a blank, only padding.
    let padded = after
        .iter()
        .take_while(|byte| **byte != 0)
        .all(|byte| *byte == b' ');
    if !padded {
        return None;
    }
    digits.iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn octal_numbers_are_read_with_their_padding() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"77777777777\0"), Some(0o77_777_777_777));
        assert_eq!(number(b"12 34   "), None);
        assert_eq!(number(b"0000648\0"), None);
        assert_eq!(number(b"-000001\0"), None);
    }

    #[test]
    fn binary_numbers_are_read_with_their_sign() {
        let mut field = [0; 12];
        field[0] = 0x80;
        field[4..].copy_from_slice(&(1u64 << 40).to_be_bytes());
        assert_eq!(number(&field), Some(1 << 40));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        let mut field = [0xff; 12];
        field[11] = 0xfe;
        assert_eq!(number(&field), Some(-2));
        field[0] = 0xbf;
        assert_eq!(number(&field), None);
    }

    proptest! {
        #[test]
        fn numbers_agree_with_the_tar_crate(value in 0u64..1 << 40) {
            let mut header = tar::Header::new_gnu();
            header.set_size(value);
            prop_assert_eq!(number(&header.as_bytes()[124..136]), i64::try_from(value).ok());
        }

        #[test]
        fn no_field_makes_it_panic(field in proptest::collection::vec(any::<u8>(), 0..16)) {
            let _ = number(&field);
        }

        #[test]
        fn no_block_makes_it_panic(block in proptest::collection::vec(any::<u8>(), 512)) {
            let _ = is_tar(&block);
        }
    }
}
