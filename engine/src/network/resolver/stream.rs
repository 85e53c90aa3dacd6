//! Messages over TCP: each after its length, two bytes (RFC 1035, section 4.2.2). Nothing blocks.

use std::io::{self, Read, Write};
use std::net::TcpStream;

/// How much is read at once, bytes.
const CHUNK: usize = 2048;

/// A message that is coming in.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    bytes: Vec<u8>,
}

impl Incoming {
    /// Reads on; `None` until the message is whole. Memory is taken for what has come, not for what its length announces, and
    /// nothing is read of the message that follows.
    ///
    /// # Errors
    /// Those of reading, an end among them, and a message that is empty or longer than `most` bytes.
    pub(super) fn read(
        &mut self,
        stream: &mut TcpStream,
        most: usize,
    ) -> io::Result<Option<Vec<u8>>> {
        let mut chunk = [0; CHUNK];
        loop {
            let have = self.bytes.len();
            let want = match self.bytes.first_chunk() {
                Some(&length) => usize::from(u16::from_be_bytes(length)) + 2,
                None => 2,
            };
            if have >= 2 && !(1..=most).contains(&(want - 2)) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if have >= 2 && have == want {
                let mut message = std::mem::take(&mut self.bytes);
                message.drain(..2);
                return Ok(Some(message));
            }
            match stream.read(&mut chunk[..(want - have).min(CHUNK)]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.bytes.extend_from_slice(&chunk[..count]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// A message that is going out.
#[derive(Debug)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    /// `message` is at most 65535 bytes.
    pub(super) fn new(message: &[u8]) -> Self {
        let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
        let mut bytes = Vec::with_capacity(usize::from(length) + 2);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&message[..length.into()]);
        Self { bytes, sent: 0 }
    }

    /// Writes on, and says whether all of it is written.
    ///
    /// # Errors
    /// Those of writing; of a connection that was being made, why it was not.
    pub(super) fn write(&mut self, stream: &mut TcpStream) -> io::Result<bool> {
        while self.sent < self.bytes.len() {
            match stream.write(&self.bytes[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }
}
