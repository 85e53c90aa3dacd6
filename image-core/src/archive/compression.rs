//! Which compression an archive has, by its first bytes, and its decoder.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;

/// The compressions that archives and layers come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// By magic number. An error names a compression that is known but not supported.
    pub(crate) fn detect(start: &[u8]) -> Result<Self, &'static str> {
        match start {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            // A frame, or a skippable frame as pzstd and zstd:chunked write first (RFC 8878, 3.1).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [b'B', b'Z', b'h', ..] => Err("bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Err("xz"),
            [0x04, 0x22, 0x4d, 0x18, ..] => Err("lz4"),
            _ => Ok(Self::None),
        }
    }
}

/// The decompressed bytes of a reader.
pub(crate) enum Decoder<'r, R: BufRead> {
    Plain(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Zstd(Box<zstd::Decoder<'r, R>>),
}

impl<R: BufRead> Decoder<'_, R> {
    pub(crate) fn new(compression: Compression, source: R) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::Plain(source),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(source))),
            // The decoder refuses windows above 128 MiB by itself (ZSTD_WINDOWLOG_LIMIT_DEFAULT): memory stays bounded.
            Compression::Zstd => Self::Zstd(Box::new(zstd::Decoder::with_buffer(source)?)),
        })
    }
}

impl<R: BufRead> Read for Decoder<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(source) => source.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}
