//! Headers of tar archives: POSIX's ustar with pax extensions is written; GNU's and the old ones are read too.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Everything in an archive is in blocks of so many bytes.
pub(crate) const BLOCK: usize = 512;

/// The attribute that holds a file's capabilities, the one that docker keeps in an archive.
pub(crate) const CAPABILITY: &str = "security.capability";

/// What pax calls attributes: this and their name.
pub(crate) const XATTR: &str = "SCHILY.xattr.";

/// Types of entries.
pub(crate) mod kind {
    pub(crate) const FILE: u8 = b'0';
    pub(crate) const OLD_FILE: u8 = 0;
    pub(crate) const HARD_LINK: u8 = b'1';
    pub(crate) const SYMLINK: u8 = b'2';
    pub(crate) const CHARACTER: u8 = b'3';
    pub(crate) const BLOCK: u8 = b'4';
    pub(crate) const DIRECTORY: u8 = b'5';
    pub(crate) const FIFO: u8 = b'6';
    pub(crate) const CONTIGUOUS: u8 = b'7';
    pub(crate) const PAX: u8 = b'x';
    pub(crate) const PAX_GLOBAL: u8 = b'g';
    pub(crate) const GNU_NAME: u8 = b'L';
    pub(crate) const GNU_LINK: u8 = b'K';
}

/// Places in a header: offset and length (POSIX.1-2017, pax, "ustar Interchange Format").
const NAME: (usize, usize) = (0, 100);
const MODE: (usize, usize) = (100, 8);
const UID: (usize, usize) = (108, 8);
const GID: (usize, usize) = (116, 8);
const SIZE: (usize, usize) = (124, 12);
const MTIME: (usize, usize) = (136, 12);
const CHECKSUM: (usize, usize) = (148, 8);
const KIND: usize = 156;
const LINK: (usize, usize) = (157, 100);
const MAGIC: (usize, usize) = (257, 8);
const MAJOR: (usize, usize) = (329, 8);
const MINOR: (usize, usize) = (337, 8);
const PREFIX: (usize, usize) = (345, 155);

/// One entry, without what it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) size: u64,
    /// Seconds since 1970.
    pub(crate) mtime: i64,
    pub(crate) mtime_ns: u32,
    pub(crate) link: Vec<u8>,
    pub(crate) device: (u32, u32),
    /// Extended attributes.
    pub(crate) attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// Appends the entry's headers.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut records = Vec::new();
        if self.name.len() > NAME.1 {
            record(&mut records, "path", &self.name);
        }
        if self.link.len() > LINK.1 {
            record(&mut records, "linkpath", &self.link);
        }
        for (word, value, place) in [
            ("uid", self.uid, UID),
            ("gid", self.gid, GID),
            ("size", self.size, SIZE),
        ] {
            if !fits(value, place) {
                record(&mut records, word, format!("{value}").as_bytes());
            }
        }
        if u64::try_from(self.mtime).is_ok_and(|mtime| !fits(mtime, MTIME)) || self.mtime < 0 {
            record(&mut records, "mtime", format!("{}", self.mtime).as_bytes());
        }
        for (name, value) in &self.attributes {
            let word = format!("{XATTR}{}", String::from_utf8_lossy(name));
            record(&mut records, &word, value);
        }
        if !records.is_empty() {
            let about = Self {
                name: b"pax".to_vec(),
                kind: kind::PAX,
                mode: 0o644,
                size: records.len() as u64,
                ..Self::default()
            };
            about.encode_block(out);
            out.extend_from_slice(&records);
            out.resize(out.len() + padding(records.len() as u64), 0);
        }
        self.encode_block(out);
    }

    fn encode_block(&self, out: &mut Vec<u8>) {
        let mut block = [0u8; BLOCK];
        let mut put = |(at, length): (usize, usize), bytes: &[u8]| {
            let field = block.get_mut(at..at + length).unwrap_or_default();
            for (to, from) in field.iter_mut().zip(bytes) {
                *to = *from;
            }
        };
        let octal = |value: u64, (_, length): (usize, usize)| {
            let value = if fits(value, (0, length)) { value } else { 0 };
            format!("{value:0width$o}", width = length - 1)
        };
        put(NAME, &self.name);
        put(LINK, &self.link);
        put(MAGIC, b"ustar\x0000");
        let mtime = u64::try_from(self.mtime).unwrap_or(0);
        for (place, value) in [
            (MODE, self.mode.into()),
            (UID, self.uid),
            (GID, self.gid),
            (SIZE, self.size),
            (MTIME, mtime),
            (MAJOR, self.device.0.into()),
            (MINOR, self.device.1.into()),
        ] {
            put(place, octal(value, place).as_bytes());
        }
        put((KIND, 1), &[self.kind]);
        // The sum is made with spaces in its own place.
        put(CHECKSUM, b"        ");
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        for (to, from) in block
            .iter_mut()
            .skip(CHECKSUM.0)
            .zip(format!("{sum:06o}\0 ").bytes())
        {
            *to = from;
        }
        out.extend_from_slice(&block);
    }

    /// Reads a header's block; `None` when its sum is wrong.
    pub(crate) fn decode(block: &[u8; BLOCK]) -> Option<Self> {
        let get = |(at, length): (usize, usize)| block.get(at..at + length).unwrap_or_default();
        let sum: u64 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| {
                let own = (CHECKSUM.0..CHECKSUM.0 + CHECKSUM.1).contains(&at);
                u64::from(if own { b' ' } else { *byte })
            })
            .sum();
        if number(get(CHECKSUM))? != sum {
            return None;
        }
        let magic = get(MAGIC);
        let mut name = Vec::new();
        // GNU's archives have other things in the prefix's place.
        if magic.starts_with(b"ustar\0") {
            name.extend_from_slice(text(get(PREFIX)));
            if !name.is_empty() {
                name.push(b'/');
            }
        }
        name.extend_from_slice(text(get(NAME)));
        let device = |place| u32::try_from(number(get(place)).unwrap_or(0)).unwrap_or(0);
        Some(Self {
            name,
            kind: block.get(KIND).copied().unwrap_or_default(),
            mode: (number(get(MODE))? & 0o7777) as u32,
            uid: number(get(UID))?,
            gid: number(get(GID))?,
            size: number(get(SIZE))?,
            mtime: i64::try_from(number(get(MTIME))?).unwrap_or(0),
            mtime_ns: 0,
            link: text(get(LINK)).to_vec(),
            device: (device(MAJOR), device(MINOR)),
            attributes: Vec::new(),
        })
    }

    /// Takes what pax's records say over what the header said; `None` when they are none.
    pub(crate) fn extend(&mut self, mut records: &[u8]) -> Option<()> {
        while !records.is_empty() {
            let space = records.iter().position(|byte| *byte == b' ')?;
            let length = usize::try_from(crate::parse(records.get(..space)?)?).ok()?;
            let record = records.get(space + 1..length)?.strip_suffix(b"\n")?;
            records = records.get(length..)?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            let (word, value) = (record.get(..equals)?, record.get(equals + 1..)?);
            match word {
                b"path" => self.name = value.to_vec(),
                b"linkpath" => self.link = value.to_vec(),
                b"size" => self.size = crate::parse(value)?,
                b"uid" => self.uid = crate::parse(value)?,
                b"gid" => self.gid = crate::parse(value)?,
                b"mtime" => (self.mtime, self.mtime_ns) = time(value)?,
                _ => {
                    if let Some(name) = word.strip_prefix(XATTR.as_bytes()) {
                        self.attributes.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Some(())
    }
}

/// How many bytes of nothing follow so many bytes of something.
pub(crate) fn padding(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

/// Whether a number fits a field of octal digits.
fn fits(value: u64, (_, length): (usize, usize)) -> bool {
    value >> (3 * (length - 1)) == 0
}

/// Appends a record of pax's, which begins with its own length.
fn record(records: &mut Vec<u8>, word: &str, value: &[u8]) {
    // A space, an equals sign and a line break.
    let rest = word.len() + value.len() + 3;
    let mut length = rest + 1;
    while format!("{length}").len() + rest != length {
        length = format!("{length}").len() + rest;
    }
    records.extend_from_slice(format!("{length} {word}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// A field's text, which ends at a zero byte.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A field's number: octal digits, or GNU's binary.
fn number(field: &[u8]) -> Option<u64> {
    if let Some((first, rest)) = field.split_first()
        && first & 0x80 != 0
    {
        // Negative ones have the next bit too.
        return rest
            .iter()
            .try_fold(u64::from(first & 0x7f), |value, byte| {
                value.checked_mul(256)?.checked_add(u64::from(*byte))
            });
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0u64, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
        value.checked_mul(8)?.checked_add(u64::from(digit))
    })
}

/// Seconds with a fraction.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let mut parts = core::str::from_utf8(value).ok()?.splitn(2, '.');
    let seconds: i64 = parts.next()?.parse().ok()?;
    let fraction = parts.next().unwrap_or_default();
    let digits = fraction.bytes().chain(core::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0u32, |value, digit| {
        value * 10 + u32::from(digit.wrapping_sub(b'0') % 10)
    });
    Some((seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(entry: &Entry) -> Entry {
        let mut out = Vec::new();
        entry.encode(&mut out);
        let block = |at: usize| -> [u8; BLOCK] { out[at..at + BLOCK].try_into().unwrap() };
        let first = Entry::decode(&block(0)).unwrap();
        if first.kind != kind::PAX {
            return first;
        }
        let size = first.size as usize;
        let mut second = Entry::decode(&block(BLOCK + size + padding(first.size))).unwrap();
        second.extend(&out[BLOCK..BLOCK + size]).unwrap();
        second
    }

    #[test]
    fn an_entry_comes_out_as_it_went_in_however_large_its_parts_are() {
        let small = Entry {
            name: b"a/b".to_vec(),
            kind: kind::FILE,
            mode: 0o4755,
            uid: 1000,
            gid: 5,
            size: 77,
            mtime: 1_700_000_000,
            link: b"c".to_vec(),
            device: (8, 1),
            ..Entry::default()
        };
        assert_eq!(through(&small), small);
        let large = Entry {
            name: [b'n'; 3000].to_vec(),
            link: [b'l'; 101].to_vec(),
            uid: 4_000_000_000,
            gid: 4_000_000_001,
            size: 1 << 40,
            mtime: -5,
            attributes: alloc::vec![(b"security.capability".to_vec(), b"\0=\n\xff".to_vec())],
            ..small
        };
        assert_eq!(through(&large), large);
        for length in 85..105 {
            let mut records = Vec::new();
            record(&mut records, "path", &alloc::vec![b'x'; length]);
            let said: Vec<u8> = records.iter().copied().take_while(|b| *b != b' ').collect();
            assert_eq!(crate::parse(&said), Some(records.len() as u64));
        }
    }

    #[test]
    fn garbage_is_no_entry() {
        assert!(Entry::decode(&[0xff; BLOCK]).is_none());
        assert!(Entry::decode(&[b'7'; BLOCK]).is_none());
        let mut entry = Entry::default();
        for records in [
            &b"x"[..],
            b"9 a=b\n",
            b"5 ab\n",
            b"3 \n",
            b"99999999999999999999 a=b\n",
        ] {
            assert!(entry.extend(records).is_none(), "{records:?}");
        }
    }

    #[test]
    fn numbers_are_octal_or_binary() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\x80\0\0\0\0\0\x01\0\0\0\0\0"), Some(1 << 40));
        assert_eq!(number(b"9"), None);
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"12"), Some((12, 0)));
    }
}
