//! Branchy work: a small LZ77 compressor of our own, greedy with a hash table, over a fixed text, and its inverse.

use std::hint::black_box;

use super::mix;

/// Bytes of text: with the table and the output it stays in the second level cache.
const TEXT: usize = 64 * 1024;
const HASH_BITS: u32 = 12;
const SHORTEST: usize = 4;
const LONGEST: usize = SHORTEST + 127;
const FARTHEST: usize = u16::MAX as usize;

/// A step compresses the text, expands it again, and compares.
pub(crate) fn compress() -> impl FnMut() -> u64 {
    let text = text();
    let mut packed = Vec::with_capacity(TEXT + TEXT / 64);
    let mut unpacked = Vec::with_capacity(TEXT);
    let mut table = vec![0u32; 1 << HASH_BITS];
    move || {
        let text = black_box(&text);
        pack(text, &mut table, &mut packed);
        unpack(&packed, &mut unpacked);
        if unpacked != *text {
            // The checksum of no text: the answer is seen to be wrong.
            return u64::MAX;
        }
        // FNV-1a, 64 bits.
        packed
            .iter()
            .fold(0xcbf2_9ce4_8422_2325, |sum: u64, &byte| {
                (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            })
    }
}

/// Words drawn unevenly from a small vocabulary: it compresses about as well as prose does.
fn text() -> Vec<u8> {
    let mut text = Vec::with_capacity(TEXT + 16);
    let mut n = 0;
    while text.len() < TEXT {
        // The smaller of two draws: low numbers are likelier.
        let word = (mix(n) % 600).min(mix(n + 1) % 600);
        n += 2;
        for letter in 0..2 + mix(word) % 9 {
            text.push(b'a' + (mix(word * 16 + letter) % 26) as u8);
        }
        text.push(if mix(n).is_multiple_of(12) {
            b'\n'
        } else {
            b' '
        });
    }
    text.truncate(TEXT);
    text
}

/// A control byte below 128 is followed by that many bytes plus one as they are; from 128 on it is a match of that
/// length less 128, plus [`SHORTEST`], followed by its distance in two bytes.
fn pack(text: &[u8], table: &mut [u32], packed: &mut Vec<u8>) {
    packed.clear();
    table.fill(u32::MAX);
    let (mut at, mut plain) = (0, 0);
    while at + SHORTEST <= text.len() {
        let word = u32::from_le_bytes([text[at], text[at + 1], text[at + 2], text[at + 3]]);
        let slot = (word.wrapping_mul(2_654_435_761) >> (32 - HASH_BITS)) as usize;
        let candidate = table[slot] as usize;
        table[slot] = at as u32;
        let mut length = 0;
        if candidate < at && at - candidate <= FARTHEST {
            let most = LONGEST.min(text.len() - at);
            while length < most && text[candidate + length] == text[at + length] {
                length += 1;
            }
        }
        if length < SHORTEST {
            at += 1;
            continue;
        }
        literals(&text[plain..at], packed);
        packed.push(128 + (length - SHORTEST) as u8);
        packed.extend_from_slice(&((at - candidate) as u16).to_le_bytes());
        at += length;
        plain = at;
    }
    literals(&text[plain..], packed);
}

fn literals(bytes: &[u8], packed: &mut Vec<u8>) {
    for run in bytes.chunks(128) {
        packed.push((run.len() - 1) as u8);
        packed.extend_from_slice(run);
    }
}

/// The inverse of [`pack`], for its output alone: what is cut short ends the text early.
fn unpack(packed: &[u8], text: &mut Vec<u8>) {
    text.clear();
    let mut rest = packed;
    while let Some((&control, tail)) = rest.split_first() {
        if control < 128 {
            let Some((run, tail)) = tail.split_at_checked(usize::from(control) + 1) else {
                return;
            };
            text.extend_from_slice(run);
            rest = tail;
        } else {
            let Some((&[low, high], tail)) = tail.split_first_chunk::<2>() else {
                return;
            };
            let Some(from) = text
                .len()
                .checked_sub(usize::from(u16::from_le_bytes([low, high])))
            else {
                return;
            };
            for n in 0..usize::from(control - 128) + SHORTEST {
                let byte = text[from + n];
                text.push(byte);
            }
            rest = tail;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_back_and_is_smaller() {
        let text = text();
        let (mut packed, mut unpacked) = (Vec::new(), Vec::new());
        pack(&text, &mut vec![0; 1 << HASH_BITS], &mut packed);
        unpack(&packed, &mut unpacked);
        assert_eq!(unpacked, text);
        assert!(
            packed.len() * 3 < text.len() * 2,
            "{} of {}",
            packed.len(),
            text.len()
        );
    }

    #[test]
    fn short_and_repetitive_texts_come_back() {
        for text in [
            &b""[..],
            b"a",
            b"abcd",
            b"aaaaaaaaaaaaaaaaaaaaaaaaa",
            &[7; 1000],
        ] {
            let (mut packed, mut unpacked) = (Vec::new(), Vec::new());
            pack(text, &mut vec![0; 1 << HASH_BITS], &mut packed);
            unpack(&packed, &mut unpacked);
            assert_eq!(unpacked, text);
        }
    }
}
