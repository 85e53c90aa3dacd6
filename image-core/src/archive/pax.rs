//! PAX extended headers: records of the form `length key=value\n` (POSIX.1-2024, pax(1)).

use super::reader::Timestamp;

/// What the records of one extended header say about the next entry.
#[derive(Debug, Default)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<i64>,
    pub(crate) gid: Option<i64>,
    pub(crate) mtime: Option<Timestamp>,
    /// Names and values of extended attributes.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: SparseRecords,
}

/// The `GNU.sparse.` records of GNU tar's three sparse formats.
#[derive(Debug, Default)]
pub(crate) struct SparseRecords {
    pub(crate) major: Option<u64>,
    pub(crate) minor: Option<u64>,
    pub(crate) name: Option<Vec<u8>>,
    /// `GNU.sparse.size` (0.0, 0.1) or `GNU.sparse.realsize` (1.0).
    pub(crate) real_size: Option<u64>,
    /// Offsets and lengths in turn: from one record in 0.1, from repeated ones in 0.0.
    pub(crate) map: Vec<u64>,
    pub(crate) has_map: bool,
}

impl Pax {
    /// Reads all records. Keys without a meaning here are passed over.
    pub(crate) fn parse(mut records: &[u8]) -> Result<Self, String> {
        let mut pax = Self::default();
        while !records.is_empty() {
            // GNU tar takes NUL padding after the last record.
            if records.iter().all(|byte| *byte == 0) {
                break;
            }
            let (key, value, rest) = record(records).ok_or("a PAX record is malformed")?;
            pax.set(key, value).ok_or_else(|| {
                format!(
                    "the PAX record {} has a bad value",
                    String::from_utf8_lossy(key).escape_debug()
                )
            })?;
            records = rest;
        }
        Ok(pax)
    }

    /// None when the value cannot be what the key says.
    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        const XATTR: &[u8] = b"SCHILY.xattr.";
        // An empty value takes a record back, except for an attribute, which may be empty.
        let text = || (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = checked_path(text())?,
            b"linkpath" => self.link = checked_path(text())?,
            b"size" => self.size = optional(value, decimal)?,
            b"uid" => self.uid = optional(value, |v| i64::try_from(decimal(v)?).ok())?,
            b"gid" => self.gid = optional(value, |v| i64::try_from(decimal(v)?).ok())?,
            b"mtime" => self.mtime = optional(value, time)?,
            b"GNU.sparse.major" => self.sparse.major = Some(decimal(value)?),
            b"GNU.sparse.minor" => self.sparse.minor = Some(decimal(value)?),
            b"GNU.sparse.name" => self.sparse.name = checked_path(text())?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse.real_size = Some(decimal(value)?);
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                self.sparse.has_map = true;
                // Offset and length take turns.
                if (key == b"GNU.sparse.offset") != self.sparse.map.len().is_multiple_of(2) {
                    return None;
                }
                self.sparse.map.push(decimal(value)?);
            }
            b"GNU.sparse.map" => {
                self.sparse.has_map = true;
                self.sparse.map = if value.is_empty() {
                    Vec::new()
                } else {
                    value
                        .split(|c| *c == b',')
                        .map(decimal)
                        .collect::<Option<_>>()?
                };
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    if name.is_empty() || name.contains(&0) {
                        return None;
                    }
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Some(())
    }
}

/// The first record and what follows it.
fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = records.iter().take(20).position(|c| *c == b' ')?;
    let length = usize::try_from(decimal(&records[..blank])?).ok()?;
    if length > records.len() || length <= blank + 1 {
        return None;
    }
    let (whole, rest) = records.split_at(length);
    let body = whole[blank + 1..].strip_suffix(b"\n")?;
    let equals = body.iter().position(|c| *c == b'=')?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    (!key.is_empty()).then_some((key, value, rest))
}

/// `Some(None)` for an empty value, which means "not given".
#[allow(clippy::option_option, reason = "the outer one is the error")]
fn optional<T>(value: &[u8], parse: impl Fn(&[u8]) -> Option<T>) -> Option<Option<T>> {
    if value.is_empty() {
        return Some(None);
    }
    parse(value).map(Some)
}

/// A path must not hold a NUL: what comes after it would be seen by some readers and not by others.
#[allow(clippy::option_option, reason = "the outer one is the error")]
fn checked_path(path: Option<Vec<u8>>) -> Option<Option<Vec<u8>>> {
    match path {
        Some(path) if path.contains(&0) => None,
        other => Some(other),
    }
}

pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Seconds since 1970 with an optional sign and decimals; more than nine decimals are cut off.
fn time(text: &[u8]) -> Option<Timestamp> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let point = digits.iter().position(|c| *c == b'.');
    let (whole, fraction) = match point {
        Some(at) => (&digits[..at], &digits[at + 1..]),
        None => (digits, &b""[..]),
    };
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanoseconds = (0..9).fold(0u32, |value, place| {
        value * 10 + fraction.get(place).map_or(0, |c| u32::from(c - b'0'))
    });
    Some(match (negative, nanoseconds) {
        (false, nanoseconds) => Timestamp {
            seconds,
            nanoseconds,
        },
        (true, 0) => Timestamp {
            seconds: -seconds,
            nanoseconds: 0,
        },
        (true, some) => Timestamp {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - some,
        },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn records(pairs: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (key, value) in pairs {
            let body = key.len() + value.len() + 3;
            let mut length = body + body.to_string().len();
            length = body + length.to_string().len();
            bytes.extend(format!("{length} {key}=").bytes());
            bytes.extend(*value);
            bytes.push(b'\n');
        }
        bytes
    }

    #[test]
    fn records_set_what_they_name() {
        let pax = Pax::parse(&records(&[
            ("path", b"a/b\nc"),
            ("size", b"12"),
            ("mtime", b"-1.25"),
            ("uid", b"4294967294"),
            ("SCHILY.xattr.user.x", b"v=\n\0"),
            ("SCHILY.xattr.user.x", b"again"),
            ("comment", b"passed over"),
        ]))
        .unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a/b\nc"[..]));
        assert_eq!(pax.size, Some(12));
        assert_eq!(
            pax.mtime,
            Some(Timestamp {
                seconds: -2,
                nanoseconds: 750_000_000
            })
        );
        assert_eq!(pax.uid, Some(4_294_967_294));
        assert_eq!(pax.xattrs, [(b"user.x".to_vec(), b"again".to_vec())]);
    }

    #[test]
    fn an_empty_value_takes_a_record_back() {
        let pax = Pax::parse(&records(&[("path", b"a"), ("path", b""), ("size", b"")])).unwrap();
        assert_eq!((pax.path, pax.size), (None, None));
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"5 a=b"[..],
            b"x a=b\n",
            b"6 a=b",
            b"99 a=b\n",
            b"3 =\n",
            b"0 a=b\n",
            b"6 ab=\n",
            b"6a=bc\n",
        ] {
            assert!(Pax::parse(bad).is_err() || bad == b"6 ab=\n", "{bad:?}");
        }
        for (key, value) in [
            ("path", &b"a\0b"[..]),
            ("size", b"-1"),
            ("size", b"1x"),
            ("uid", b"99999999999999999999"),
            ("mtime", b"1.x"),
            ("mtime", b"."),
            ("GNU.sparse.map", b"1,"),
            ("GNU.sparse.numbytes", b"1"),
            ("SCHILY.xattr.", b""),
        ] {
            assert!(Pax::parse(&records(&[(key, value)])).is_err(), "{key}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Pax::parse(&bytes);
        }

        #[test]
        fn no_value_makes_it_panic(key in "(path|size|uid|mtime|GNU.sparse.map|GNU.sparse.offset|SCHILY.xattr.user.a)", value in "[-0-9.,=\\PC]{0,24}") {
            let _ = Pax::parse(&records(&[(&key, value.as_bytes())]));
        }
    }
}
