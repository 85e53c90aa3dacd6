//! A pipe in memory between two threads. Unlike the kernel's, one whose reader has gone answers with an error and no signal.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Bytes handed over at once.
const CHUNK: usize = 128 << 10;

/// Chunks that may wait: enough to keep both sides busy, 1 MiB in all.
const WAITING: usize = 8;

/// The two ends of a new pipe.
pub(crate) fn channel() -> (Sender, Reader) {
    let (chunks, arriving) = sync_channel(WAITING);
    let sender = Sender {
        chunks,
        waiting: Vec::with_capacity(CHUNK),
        bytes: 0,
    };
    let reader = Reader {
        arriving,
        chunk: Vec::new(),
        read: 0,
    };
    (sender, reader)
}

/// The end that is written to. The reader sees the end of the file when it is dropped; what has not been flushed then is lost.
pub(crate) struct Sender {
    chunks: SyncSender<Vec<u8>>,
    waiting: Vec<u8>,
    bytes: u64,
}

impl Sender {
    /// Bytes written so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let space = CHUNK.saturating_sub(self.waiting.len());
        let part = bytes.get(..space).unwrap_or(bytes);
        self.waiting.extend_from_slice(part);
        self.bytes += part.len() as u64;
        if self.waiting.len() >= CHUNK {
            self.flush()?;
        }
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.waiting, Vec::with_capacity(CHUNK));
        self.chunks
            .send(chunk)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The end that is read from.
pub(crate) struct Reader {
    arriving: Receiver<Vec<u8>>,
    chunk: Vec<u8>,
    read: usize,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.chunk.len() {
            match self.arriving.recv() {
                Ok(chunk) => (self.chunk, self.read) = (chunk, 0),
                Err(_) => return Ok(0),
            }
        }
        let left = self.chunk.get(self.read..).unwrap_or_default();
        let length = left.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..length), left.get(..length)) {
            to.copy_from_slice(from);
        }
        self.read += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_in_order_and_the_end_is_seen() {
        let (mut sender, mut reader) = channel();
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
        let expected = bytes.clone();
        let writing = std::thread::spawn(move || {
            sender.write_all(&bytes).unwrap();
            sender.flush().unwrap();
            sender.bytes()
        });
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert_eq!(writing.join().unwrap(), 3_000_000);
        assert!(read == expected);
    }

    #[test]
    fn a_reader_that_has_gone_is_an_error() {
        let (mut sender, reader) = channel();
        drop(reader);
        let told = sender.write_all(&vec![0; 1 << 20]).unwrap_err();
        assert_eq!(told.kind(), io::ErrorKind::BrokenPipe);
    }
}
