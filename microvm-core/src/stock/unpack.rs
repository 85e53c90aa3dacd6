//! Unpacks what distributions pack kernels and modules with, within a bound: the bytes may come from anywhere.

use std::io::{self, Read};

/// How much memory an xz stream may ask for its dictionary: `xz -9` and the kernel's own script take 64 to 128 MiB.
const XZ_MEMORY: u64 = 256 << 20;

/// The window of a zstd frame, as a power of two: what `zstd --ultra -22` takes (128 MiB).
const ZSTD_WINDOW: u32 = 27;

/// What a block of lz4's old format holds at most, bytes (`LZ4_DEFAULT_UNCOMPRESSED_CHUNK_SIZE` in Linux's
/// lib/decompress_unlz4.c).
const LZ4_BLOCK: usize = 8 << 20;

/// The first bytes of each format.
const GZIP: &[u8] = b"\x1f\x8b";
const LZ4: &[u8] = b"\x02\x21\x4c\x18";
const XZ: &[u8] = b"\xfd7zXZ\0";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";

/// A format that can be unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Gzip,
    /// lz4's old format, which the kernel's build writes.
    Lz4,
    Xz,
    Zstd,
}

impl Format {
    /// The format of what begins so, or in a word what it is instead.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, &'static str> {
        let known = [
            (GZIP, Self::Gzip),
            (LZ4, Self::Lz4),
            (XZ, Self::Xz),
            (ZSTD, Self::Zstd),
        ];
        if let Some((_, format)) = known.iter().find(|(magic, _)| bytes.starts_with(magic)) {
            return Ok(*format);
        }
        Err(match bytes {
            [b'B', b'Z', b'h', ..] => "bzip2",
            [0x5d, 0, 0, ..] => "lzma",
            [0x89, b'L', b'Z', b'O', ..] => "lzo",
            [0x04, 0x22, 0x4d, 0x18, ..] => "lz4's frames",
            _ => "something unknown",
        })
    }

    /// As the option of the kernel's configuration has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Lz4 => "lz4",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }

    /// Unpacks everything; more than `limit` bytes are an error. What follows the packed data is left alone.
    pub(super) fn unpack(self, bytes: &[u8], limit: u64) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip => bounded(flate2::bufread::GzDecoder::new(bytes), limit),
            Self::Lz4 => lz4(bytes, limit),
            Self::Xz => {
                let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, 0)?;
                bounded(
                    liblzma::bufread::XzDecoder::new_stream(bytes, stream),
                    limit,
                )
            }
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(bytes)?.single_frame();
                decoder.window_log_max(ZSTD_WINDOW)?;
                bounded(decoder, limit)
            }
        }
    }
}

fn bounded(from: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    from.take(limit.saturating_add(1)).read_to_end(&mut all)?;
    match all.len() as u64 > limit {
        true => Err(too_much(limit)),
        false => Ok(all),
    }
}

fn too_much(limit: u64) -> io::Error {
    io::Error::other(format!("it unpacks to more than {limit} bytes"))
}

/// lz4's old format: a magic number, then blocks, each behind its packed size in four bytes. It has no end mark, so the caller
/// gives just what belongs to it; as the kernel does, a rest too short for a size is left alone.
fn lz4(bytes: &[u8], limit: u64) -> io::Result<Vec<u8>> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut rest = bytes.strip_prefix(LZ4).unwrap_or(bytes);
    let mut all = Vec::new();
    let mut block = vec![0; LZ4_BLOCK];
    while let Some((size, behind)) = rest.split_first_chunk::<4>() {
        if size == LZ4 {
            // Archives may follow one another.
            rest = behind;
            continue;
        }
        let size = u32::from_le_bytes(*size) as usize;
        if size == 0 {
            break;
        }
        let Some((packed, behind)) = behind.split_at_checked(size) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let count = lz4_flex::block::decompress_into(packed, &mut block)
            .map_err(|error| invalid(error.to_string()))?;
        if all.len() as u64 + count as u64 > limit {
            return Err(too_much(limit));
        }
        all.extend_from_slice(&block[..count]);
        rest = behind;
    }
    Ok(all)
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    /// Something to pack: repetitive, and longer than one block of lz4.
    fn contents() -> Vec<u8> {
        (0..9u32 << 20).map(|at| (at / 64 % 251) as u8).collect()
    }

    /// Packs as the kernel's build does.
    pub(in crate::stock) fn pack(format: Format, bytes: &[u8]) -> Vec<u8> {
        match format {
            Format::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Format::Lz4 => {
                let mut packed = LZ4.to_vec();
                for block in bytes.chunks(LZ4_BLOCK) {
                    let block = lz4_flex::block::compress(block);
                    packed.extend((block.len() as u32).to_le_bytes());
                    packed.extend(block);
                }
                packed
            }
            Format::Xz => {
                // The kernel's script for x86: its branch filter, then LZMA2.
                let options = liblzma::stream::LzmaOptions::new_preset(0).unwrap();
                let mut filters = liblzma::stream::Filters::new();
                filters.x86().lzma2(&options);
                let check = liblzma::stream::Check::Crc32;
                let stream = liblzma::stream::Stream::new_stream_encoder(&filters, check).unwrap();
                let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Format::Zstd => zstd::stream::encode_all(bytes, 1).unwrap(),
        }
    }

    pub(in crate::stock) const ALL: [Format; 4] =
        [Format::Gzip, Format::Lz4, Format::Xz, Format::Zstd];

    #[test]
    fn every_format_gives_back_what_was_packed_and_no_more_than_is_allowed() {
        let whole = contents();
        for format in ALL {
            let mut packed = pack(format, &whole);
            assert_eq!(Format::of(&packed), Ok(format));
            if format != Format::Lz4 {
                packed.extend(b"and more");
            }
            let bytes = whole.len() as u64;
            assert!(
                format.unpack(&packed, bytes).unwrap() == whole,
                "{format:?}"
            );
            let refused = format.unpack(&packed, bytes - 1).unwrap_err();
            assert!(refused.to_string().contains("more than"), "{refused}");
        }
    }

    #[test]
    fn what_is_cut_short_does_not_unpack() {
        for format in ALL {
            let packed = pack(format, &contents());
            let cut = &packed[..packed.len() / 2];
            assert!(format.unpack(cut, 64 << 20).is_err(), "{format:?}");
        }
    }

    #[test]
    fn what_cannot_be_unpacked_is_named() {
        assert_eq!(Format::of(b"BZh9"), Err("bzip2"));
        assert_eq!(Format::of(b"\x5d\0\0\x80"), Err("lzma"));
        assert_eq!(Format::of(b""), Err("something unknown"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_exceed_its_bound(
            which in 0usize..4,
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        ) {
            let format = ALL[which];
            let mut packed = pack(format, &contents()[..100_000]);
            for (at, value) in flips {
                let at = at.index(packed.len());
                packed[at] = value;
            }
            if let Ok(unpacked) = format.unpack(&packed, 200_000) {
                prop_assert!(unpacked.len() <= 200_000);
            }
        }
    }
}
