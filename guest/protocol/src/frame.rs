//! Frames on a byte stream: how they are written, and an incremental decoder that trusts nothing.

use alloc::vec::Vec;
use core::fmt;

/// Bytes before a frame's payload: the length, the kind and the channel.
pub const HEADER: usize = LENGTH + BODY;

/// Bytes of the length field, which it does not count itself.
const LENGTH: usize = 4;

/// What a frame has at least after its length field: the kind and the channel.
const BODY: usize = 5;

/// The least room that [`Decoder::space`] offers: one page, the size of the buffers in which Linux's virtio-console driver
/// receives.
const LEAST_SPACE: usize = 4096;

/// One frame as it was received; the payload stands in the decoder's buffer.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the payload is; see [`crate::ToHost`] and [`crate::ToGuest`].
    pub kind: u8,
    /// Which process it is about; see [`crate::Channel`].
    pub channel: u32,
    /// The frame's bytes after the channel.
    pub payload: &'a [u8],
}

/// Why a byte stream is not one of frames. The stream cannot be read on after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// The length field leaves no room for kind and channel.
    TooShort {
        /// What the length field says.
        length: usize,
    },
    /// The length field is beyond what this side accepts.
    TooLong {
        /// What the length field says.
        length: usize,
        /// What is accepted.
        limit: usize,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { length } => write!(f, "a frame of {length} bytes, too short for one"),
            Self::TooLong { length, limit } => {
                write!(
                    f,
                    "a frame of {length} bytes, more than the {limit} allowed"
                )
            }
        }
    }
}

impl core::error::Error for FrameError {}

/// The header of a frame whose payload has `payload` bytes. A payload is below 4 GiB by the limits of [`crate`].
pub fn header(kind: u8, channel: u32, payload: usize) -> [u8; HEADER] {
    let [l0, l1, l2, l3] = (payload as u32).wrapping_add(BODY as u32).to_le_bytes();
    let [c0, c1, c2, c3] = channel.to_le_bytes();
    [l0, l1, l2, l3, kind, c0, c1, c2, c3]
}

/// Appends a frame to `out`.
pub fn encode(kind: u8, channel: u32, payload: &[u8], out: &mut Vec<u8>) {
    out.reserve(HEADER + payload.len());
    out.extend_from_slice(&header(kind, channel, payload.len()));
    out.extend_from_slice(payload);
}

/// Takes bytes as they come and gives out whole frames.
///
/// Read into [`Decoder::space`], say how much arrived with [`Decoder::received`], then take frames with [`Decoder::next`]
/// until there is none. The buffer grows only when it is full of received bytes, so what it holds is bounded by what the
/// other side has really sent, whatever its length fields claim.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    begin: usize,
    end: usize,
    limit: usize,
}

impl Decoder {
    /// A decoder that accepts frames of up to `limit` bytes after the length field.
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: Vec::new(),
            begin: 0,
            end: 0,
            limit,
        }
    }

    /// Room to read into, never empty.
    pub fn space(&mut self) -> &mut [u8] {
        if self.begin == self.end {
            self.begin = 0;
            self.end = 0;
        }
        if self.buffer.len() - self.end < LEAST_SPACE && self.begin > 0 {
            self.buffer.copy_within(self.begin..self.end, 0);
            self.end -= self.begin;
            self.begin = 0;
        }
        if self.buffer.len() - self.end < LEAST_SPACE {
            let larger = (self.buffer.len() * 2).max(2 * LEAST_SPACE);
            self.buffer.resize(larger, 0);
        }
        &mut self.buffer[self.end..]
    }

    /// Says that the first `bytes` of [`Decoder::space`] have been filled.
    ///
    /// # Panics
    /// When `bytes` is more than there was room for, which is an error of the caller's.
    pub fn received(&mut self, bytes: usize) {
        assert!(bytes <= self.buffer.len() - self.end);
        self.end += bytes;
    }

    /// Copies `bytes` in, as if they had been read into [`Decoder::space`].
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = self.space();
            let count = space.len().min(bytes.len());
            space[..count].copy_from_slice(&bytes[..count]);
            self.received(count);
            bytes = &bytes[count..];
        }
    }

    /// The next whole frame, or `None` until more bytes come.
    ///
    /// # Errors
    /// [`FrameError`] when the length field is out of bounds; every later call gives the same error.
    #[allow(clippy::should_implement_trait)] // An iterator cannot lend its buffer.
    pub fn next(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        let Some(length) = self.whole()?.map(<[u8]>::len) else {
            return Ok(None);
        };
        let start = self.begin + LENGTH;
        self.begin = start + length;
        let Some(([kind, c0, c1, c2, c3], payload)) =
            self.buffer[start..self.begin].split_first_chunk::<BODY>()
        else {
            return Err(FrameError::TooShort { length });
        };
        Ok(Some(Frame {
            kind: *kind,
            channel: u32::from_le_bytes([*c0, *c1, *c2, *c3]),
            payload,
        }))
    }

    /// Whether [`Decoder::next`] has a frame to give.
    ///
    /// # Errors
    /// As [`Decoder::next`].
    pub fn ready(&self) -> Result<bool, FrameError> {
        self.whole().map(|body| body.is_some())
    }

    /// The kind, channel and payload of the frame that has been received whole, if one has.
    fn whole(&self) -> Result<Option<&[u8]>, FrameError> {
        let held = &self.buffer[self.begin..self.end];
        let Some((length, rest)) = held.split_first_chunk::<LENGTH>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length < BODY {
            return Err(FrameError::TooShort { length });
        }
        if length > self.limit {
            return Err(FrameError::TooLong {
                length,
                limit: self.limit,
            });
        }
        Ok(rest.get(..length))
    }

    /// How many bytes have been received and not yet given out.
    pub fn held(&self) -> usize {
        self.end - self.begin
    }

    /// How many bytes of memory the buffer takes.
    pub fn capacity(&self) -> usize {
        self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    #[test]
    fn a_frame_is_length_kind_channel_and_payload() {
        let mut out = Vec::new();
        encode(9, 0x102, b"hi", &mut out);
        assert_eq!(out, [7, 0, 0, 0, 9, 2, 1, 0, 0, b'h', b'i']);
    }

    #[test]
    fn a_frame_too_short_for_its_channel_is_refused() {
        for length in 0..BODY {
            let mut decoder = Decoder::new(64);
            decoder.push(&[length as u8, 0, 0, 0, 1]);
            assert_eq!(decoder.next(), Err(FrameError::TooShort { length }));
            assert_eq!(decoder.next(), Err(FrameError::TooShort { length }));
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_its_bytes_come() {
        let mut decoder = Decoder::new(64);
        decoder.push(&65u32.to_le_bytes());
        let refused = FrameError::TooLong {
            length: 65,
            limit: 64,
        };
        assert_eq!(decoder.next(), Err(refused));
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        let mut decoder = Decoder::new(crate::MAX_TO_GUEST);
        decoder.push(&(crate::MAX_TO_GUEST as u32).to_le_bytes());
        assert_eq!(decoder.next(), Ok(None));
        decoder.space();
        assert!(decoder.capacity() <= 4 * LEAST_SPACE);
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            frames in prop::collection::vec((any::<u8>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..9000)), 0..8),
            cuts in prop::collection::vec(1usize..5000, 1..40),
        ) {
            let mut stream = Vec::new();
            for (kind, channel, payload) in &frames {
                encode(*kind, *channel, payload, &mut stream);
            }
            let mut decoder = Decoder::new(crate::MAX_TO_HOST);
            let mut seen = vec![];
            let mut cuts = cuts.iter().cycle();
            let mut rest = &stream[..];
            while !rest.is_empty() {
                let count = (*cuts.next().unwrap()).min(rest.len());
                decoder.push(&rest[..count]);
                rest = &rest[count..];
                while let Some(frame) = decoder.next().unwrap() {
                    seen.push((frame.kind, frame.channel, frame.payload.to_vec()));
                }
            }
            prop_assert_eq!(seen, frames);
            prop_assert_eq!(decoder.held(), 0);
        }

        #[test]
        fn garbage_never_makes_the_buffer_larger_than_it_is_itself(
            garbage in prop::collection::vec(any::<u8>(), 0..20000),
            cut in 1usize..3000,
        ) {
            let mut decoder = Decoder::new(crate::MAX_TO_HOST);
            for piece in garbage.chunks(cut) {
                decoder.push(piece);
                loop {
                    match decoder.next() {
                        Ok(Some(frame)) => prop_assert!(frame.payload.len() < crate::MAX_TO_HOST),
                        Ok(None) => break,
                        Err(_) => return Ok(()),
                    }
                }
                prop_assert!(decoder.capacity() <= 2 * (garbage.len() + 2 * LEAST_SPACE));
            }
        }
    }
}
