//! Netlink messages: written with nested attributes, sent, and their answers read.
//!
//! Layout after netlink(7): a header of 16 bytes (length, type, flags, sequence number, port), a fixed part that belongs to the
//! type, attributes; everything aligned to 4 bytes, numbers in the host's order unless a type says otherwise.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::error::{Error, Result};

pub(crate) const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
pub(crate) const ACK: u16 = libc::NLM_F_ACK as u16;
pub(crate) const DUMP: u16 = libc::NLM_F_DUMP as u16;
pub(crate) const CREATE: u16 = libc::NLM_F_CREATE as u16;
pub(crate) const EXCL: u16 = libc::NLM_F_EXCL as u16;
pub(crate) const APPEND: u16 = libc::NLM_F_APPEND as u16;
pub(crate) const REPLACE: u16 = libc::NLM_F_REPLACE as u16;

/// The size of a message's header (struct nlmsghdr).
const HEADER: usize = 16;

/// The largest answer that is read at once; the kernel fills at most 32 KiB of a dump at a time.
const ANSWER: usize = 64 << 10;

/// The mark of an attribute that holds attributes (NLA_F_NESTED).
const NESTED: u16 = 1 << 15;

/// Messages to the kernel, one after another.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    bytes: Vec<u8>,
    begun: usize,
    count: u32,
}

impl Messages {
    /// Begins a message with the fixed part of its type.
    pub(crate) fn begin(&mut self, kind: u16, flags: u16, fixed: &[u8]) -> &mut Self {
        self.count += 1;
        self.begun = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.count.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(fixed);
        self.pad();
        self.close();
        self
    }

    /// The bytes, with sequence numbers that go on from `before`.
    fn numbered_after(&self, before: u32) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let mut at = 0;
        for number in 1..=self.count {
            let number = before.wrapping_add(number);
            if let Some(place) = bytes.get_mut(at + 8..at + 12) {
                place.copy_from_slice(&number.to_ne_bytes());
            }
            let length = u32::from_ne_bytes(four(bytes.get(at..).unwrap_or_default()));
            at += (length as usize).next_multiple_of(4);
        }
        bytes
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    /// Brings the message's length up to date.
    fn close(&mut self) {
        let length = (self.bytes.len() - self.begun) as u32;
        if let Some(place) = self.bytes.get_mut(self.begun..self.begun + 4) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
    }

    /// Adds an attribute.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = (4 + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self.close();
        self
    }

    /// Adds a text with the zero that ends it.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Adds an attribute that holds others; `fixed` comes before them.
    pub(crate) fn nest(
        &mut self,
        kind: u16,
        fixed: &[u8],
        inside: impl FnOnce(&mut Self),
    ) -> &mut Self {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        self.bytes.extend_from_slice(fixed);
        self.pad();
        inside(self);
        let length = (self.bytes.len() - at) as u16;
        if let Some(place) = self.bytes.get_mut(at..at + 2) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        self.close();
        self
    }
}

/// A message from the kernel.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    /// What follows the header.
    pub(crate) payload: &'a [u8],
}

/// Attributes, in order; damage ends them.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The attribute of that kind.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// A text up to its zero.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

/// Four bytes as they are, or zeros.
pub(crate) fn four(bytes: &[u8]) -> [u8; 4] {
    bytes
        .get(..4)
        .and_then(|four| four.try_into().ok())
        .unwrap_or_default()
}

/// A connection to one of the kernel's subsystems, in the calling thread's network namespace.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    /// How many messages have been sent.
    sent: Cell<u32>,
}

impl Socket {
    /// Connects to a subsystem (`NETLINK_ROUTE`, `NETLINK_NETFILTER`).
    pub(crate) fn open(protocol: i32) -> Result<Self> {
        // SAFETY: socket(2) takes numbers.
        let fd = unsafe {
            libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                protocol,
            )
        };
        if fd < 0 {
            return Err(Error::kernel(
                "open a netlink socket",
                io::Error::last_os_error(),
            ));
        }
        // SAFETY: the kernel has just made it, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            fd,
            sent: Cell::new(0),
        })
    }

    /// Sends messages, and says how the sequence numbers of what the kernel answers differ from theirs.
    fn send(&self, messages: &Messages) -> io::Result<u32> {
        let before = self.sent.get();
        self.sent.set(before.wrapping_add(messages.count));
        let bytes = messages.numbered_after(before);
        // SAFETY: the buffer is as long as we say, and is only read. The kernel is the destination of a socket without one.
        let sent =
            unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        match sent {
            0.. => Ok(before),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        loop {
            // SAFETY: the buffer is as long as we say.
            let got = unsafe {
                libc::recv(
                    self.fd.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    0,
                )
            };
            if got >= 0 {
                return Ok(buffer.get(..got as usize).unwrap_or_default());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Sends messages that ask for an acknowledgement, and waits for `wanted` of them; the first refusal is the error.
    /// What the kernel says besides goes to `each`.
    fn converse(
        &self,
        action: &dyn Fn() -> String,
        messages: &Messages,
        wanted: usize,
        each: &mut dyn FnMut(Answer<'_>),
    ) -> Result<()> {
        let failed = |error| Error::kernel(action(), error);
        let before = self.send(messages).map_err(failed)?;
        let mut buffer = vec![0; ANSWER];
        let mut seen = 0;
        let mut refused = None;
        while seen < wanted {
            let mut rest = self.receive(&mut buffer).map_err(failed)?;
            if rest.is_empty() {
                return Err(Error::Malformed { action: action() });
            }
            while rest.len() >= HEADER {
                let length = u32::from_ne_bytes(four(rest)) as usize;
                let kind = u16::from_ne_bytes([rest[4], rest[5]]);
                let number = rest
                    .get(8..)
                    .map_or(0, |from| u32::from_ne_bytes(four(from)));
                let Some(message) = rest.get(HEADER..length) else {
                    return Err(Error::Malformed { action: action() });
                };
                let is_ours = (1..=messages.count).contains(&number.wrapping_sub(before));
                match i32::from(kind) {
                    // What is left of a batch that was refused.
                    _ if !is_ours => {}
                    libc::NLMSG_ERROR => {
                        seen += 1;
                        let code = i32::from_ne_bytes(four(message));
                        if code != 0 && refused.is_none() {
                            refused = Some(io::Error::from_raw_os_error(-code));
                        }
                    }
                    libc::NLMSG_DONE => seen += 1,
                    _ => each(Answer { payload: message }),
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
            // Nothing more comes for the rest of a batch that was refused as a whole.
            if refused.is_some() && wanted > 1 {
                break;
            }
        }
        match refused {
            Some(error) => Err(failed(error)),
            None => Ok(()),
        }
    }

    /// Sends messages of which each asks for an acknowledgement.
    pub(crate) fn request(&self, action: &dyn Fn() -> String, messages: &Messages) -> Result<()> {
        self.converse(action, messages, messages.count as usize, &mut |_| {})
    }

    /// Sends messages of which only so many ask for an acknowledgement.
    pub(crate) fn batch(
        &self,
        action: &dyn Fn() -> String,
        messages: &Messages,
        acknowledged: usize,
    ) -> Result<()> {
        self.converse(action, messages, acknowledged, &mut |_| {})
    }

    /// Asks for a list, or for one thing with an acknowledgement behind it.
    pub(crate) fn ask(
        &self,
        action: &dyn Fn() -> String,
        messages: &Messages,
        each: &mut dyn FnMut(Answer<'_>),
    ) -> Result<()> {
        self.converse(action, messages, 1, each)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nested_attributes_are_read_as_they_were_written() {
        let mut messages = Messages::default();
        messages.begin(16, REQUEST, &[1, 2, 3]).nest(5, &[], |m| {
            m.text(1, "eth0").attribute(2, &[9]);
        });
        let bytes = messages.bytes.get(HEADER + 4..).unwrap();
        let inside = attribute(bytes, 5).unwrap();
        assert_eq!(text(attribute(inside, 1).unwrap()), "eth0");
        assert_eq!(attribute(inside, 2).unwrap(), [9]);
        assert_eq!(attribute(inside, 3), None);
        let length = u32::from_ne_bytes(four(&messages.bytes)) as usize;
        assert_eq!(length, messages.bytes.len());
    }

    proptest! {
        #[test]
        fn whatever_bytes_come_attributes_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(attributes(&bytes).count() <= bytes.len());
        }
    }
}
