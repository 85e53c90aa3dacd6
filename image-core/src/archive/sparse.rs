//! The maps of sparse files: GNU tar's old format, and its three formats inside PAX headers.

use std::io::{self, Read};

use super::header::{BLOCK, number};
use super::pax::decimal;

/// A run of data in a sparse file; everything between the runs is a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where in the file it begins, bytes.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
}

/// Runs one file may have. A map costs memory before any data has been read: this holds it to 4 MiB.
pub(crate) const MOST_EXTENTS: usize = 1 << 18;

/// Checks that the runs follow one another inside a file of `real_size` bytes and together are the `stored` bytes.
pub(crate) fn check(extents: &[Extent], real_size: u64, stored: u64) -> Result<(), &'static str> {
    let mut end = 0u64;
    let mut total = 0u64;
    for extent in extents {
        if extent.offset < end {
            return Err("the runs of its sparse map overlap");
        }
        end = extent
            .offset
            .checked_add(extent.length)
            .ok_or("its sparse map overflows")?;
        total += extent.length;
    }
    if end > real_size {
        return Err("its sparse map reaches behind the end of the file");
    }
    if total != stored {
        return Err("its sparse map does not fit the data that are stored");
    }
    Ok(())
}

/// Offsets and lengths in turn, as the PAX formats hold them.
pub(crate) fn pairs(numbers: &[u64]) -> Result<Vec<Extent>, &'static str> {
    if !numbers.len().is_multiple_of(2) {
        return Err("its sparse map lacks a length");
    }
    if numbers.len() / 2 > MOST_EXTENTS {
        return Err("its sparse map has too many runs");
    }
    Ok(numbers
        .chunks_exact(2)
        .map(|pair| Extent {
            offset: pair[0],
            length: pair[1],
        })
        .collect())
}

/// The old GNU format: four runs in the header block, more in extension blocks that follow it. Gives the runs, the file's
/// real size, and how many bytes of extension blocks were read.
pub(crate) fn old_gnu(
    header: &[u8; BLOCK],
    source: &mut impl Read,
) -> io::Result<(Vec<Extent>, u64, u64)> {
    let invalid = |reason| io::Error::new(io::ErrorKind::InvalidData, reason);
    // GNU tar's tar.h: struct oldgnu_header and struct sparse_header.
    let real_size = number(&header[483..495]).and_then(|size| u64::try_from(size).ok());
    let real_size = real_size.ok_or_else(|| invalid("a sparse file's size is malformed"))?;
    let mut extents = Vec::new();
    take_runs(&header[386..482], &mut extents)?;
    let mut more = header[482] != 0;
    let mut read = 0;
    while more {
        let mut block = [0; BLOCK];
        source.read_exact(&mut block)?;
        read += BLOCK as u64;
        take_runs(&block[..504], &mut extents)?;
        more = block[504] != 0;
        if extents.len() > MOST_EXTENTS || read > (MOST_EXTENTS as u64) * 24 {
            return Err(invalid("a sparse map has too many runs"));
        }
    }
    Ok((extents, real_size, read))
}

fn take_runs(table: &[u8], extents: &mut Vec<Extent>) -> io::Result<()> {
    for run in table.chunks_exact(24) {
        // An unused slot is all zeros.
        if run[0] == 0 {
            break;
        }
        let value = |field: &[u8]| number(field).and_then(|value| u64::try_from(value).ok());
        match (value(&run[..12]), value(&run[12..])) {
            (Some(offset), Some(length)) => extents.push(Extent { offset, length }),
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a sparse map is malformed",
                ));
            }
        }
    }
    Ok(())
}

/// Format 1.0: the map stands before the data, in decimal lines, padded to a block. `stored` is the size of both together.
/// Gives the runs and how many bytes the map took.
pub(crate) fn in_data(source: &mut impl Read, stored: u64) -> io::Result<(Vec<Extent>, u64)> {
    let invalid = |reason| io::Error::new(io::ErrorKind::InvalidData, reason);
    let mut lines = Lines {
        source,
        block: [0; BLOCK],
        position: BLOCK,
        read: 0,
        stored,
    };
    let count = lines.next_number()?;
    let count = usize::try_from(count)
        .ok()
        .filter(|count| *count <= MOST_EXTENTS);
    let count = count.ok_or_else(|| invalid("a sparse map has too many runs"))?;
    let mut extents = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        extents.push(Extent {
            offset: lines.next_number()?,
            length: lines.next_number()?,
        });
    }
    Ok((extents, lines.read))
}

struct Lines<'s, R> {
    source: &'s mut R,
    block: [u8; BLOCK],
    position: usize,
    read: u64,
    stored: u64,
}

impl<R: Read> Lines<'_, R> {
    fn next_number(&mut self) -> io::Result<u64> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "a sparse map is malformed");
        let mut digits = Vec::new();
        loop {
            if self.position == BLOCK {
                if self.read + BLOCK as u64 > self.stored {
                    return Err(invalid());
                }
                self.source.read_exact(&mut self.block)?;
                self.read += BLOCK as u64;
                self.position = 0;
            }
            let byte = self.block[self.position];
            self.position += 1;
            if byte == b'\n' {
                return decimal(&digits).ok_or_else(invalid);
            }
            // A 64-bit number has at most 20 digits.
            if digits.len() == 20 {
                return Err(invalid());
            }
            digits.push(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_must_follow_one_another_inside_the_file() {
        let run = |offset, length| Extent { offset, length };
        assert!(check(&[run(0, 5), run(10, 5), run(20, 0)], 20, 10).is_ok());
        assert!(check(&[run(0, 5), run(4, 5)], 20, 10).is_err());
        assert!(check(&[run(0, 5), run(16, 5)], 20, 10).is_err());
        assert!(check(&[run(0, 5)], 20, 10).is_err());
        assert!(check(&[run(u64::MAX, 2)], u64::MAX, 2).is_err());
    }

    #[test]
    fn the_map_before_the_data_is_read_to_its_last_line() {
        let mut bytes = b"2\n0\n512\n4096\n100\n".to_vec();
        bytes.resize(512, 0);
        let (extents, read) = in_data(&mut bytes.as_slice(), 2048).unwrap();
        assert_eq!(
            extents,
            [
                Extent {
                    offset: 0,
                    length: 512
                },
                Extent {
                    offset: 4096,
                    length: 100
                }
            ]
        );
        assert_eq!(read, 512);
        for bad in ["x\n", "999999999999\n", "1\n0\n", "111111111111111111111\n"] {
            let mut bytes = bad.as_bytes().to_vec();
            bytes.resize(512, b'1');
            assert!(in_data(&mut bytes.as_slice(), 512).is_err(), "{bad}");
        }
    }
}
