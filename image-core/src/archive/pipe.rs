//! A bounded pipe of large chunks between two threads, so that reading, inflating and writing happen at the same time.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// Bytes carried at once. Large enough that a thread switch per chunk costs nothing, small enough to stay in the L2 cache.
pub(crate) const CHUNK: usize = 256 << 10;

/// Chunks on their way at most: memory is bounded by this, whatever the archive's size.
const IN_FLIGHT: usize = 8;

/// Makes a pipe. An error sent into it comes out of the reader, after the chunks before it.
pub(crate) fn pipe() -> (ChunkSender, ChunkReader) {
    let (chunks, incoming) = sync_channel(IN_FLIGHT);
    let (returned, spare) = channel();
    let sender = ChunkSender { chunks, spare };
    let reader = ChunkReader {
        incoming,
        returned,
        current: Vec::new(),
        position: 0,
        failed: false,
    };
    (sender, reader)
}

/// The writing end.
pub(crate) struct ChunkSender {
    chunks: SyncSender<io::Result<Vec<u8>>>,
    spare: Receiver<Vec<u8>>,
}

impl ChunkSender {
    /// A buffer for [`fill`], used before or new; what it holds does not matter.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        self.spare.try_recv().unwrap_or_default()
    }

    /// Sends a chunk, waiting for room. False when nobody reads any more.
    pub(crate) fn send(&self, chunk: io::Result<Vec<u8>>) -> bool {
        self.chunks.send(chunk).is_ok()
    }
}

/// The reading end.
pub(crate) struct ChunkReader {
    incoming: Receiver<io::Result<Vec<u8>>>,
    returned: Sender<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
    failed: bool,
}

impl BufRead for ChunkReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.position == self.current.len() {
            if self.failed {
                return Err(io::Error::other("the archive could not be read on"));
            }
            match self.incoming.recv() {
                Ok(Ok(chunk)) => {
                    let used = std::mem::replace(&mut self.current, chunk);
                    self.position = 0;
                    // The sender may have ended already; then the buffer is simply freed.
                    let _ = self.returned.send(used);
                }
                Ok(Err(error)) => {
                    self.failed = true;
                    return Err(error);
                }
                // The sender is done: end of file.
                Err(_) => break,
            }
        }
        Ok(&self.current[self.position..])
    }

    fn consume(&mut self, amount: usize) {
        self.position = (self.position + amount).min(self.current.len());
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let amount = available.len().min(buffer.len());
        buffer[..amount].copy_from_slice(&available[..amount]);
        self.consume(amount);
        Ok(amount)
    }
}

/// Replaces what `buffer` holds by the next [`CHUNK`] bytes; by fewer only at the end of the source.
pub(crate) fn fill(source: &mut (impl Read + ?Sized), buffer: &mut Vec<u8>) -> io::Result<()> {
    // A buffer that comes back has this length already: nothing is zeroed twice.
    buffer.resize(CHUNK, 0);
    let mut filled = 0;
    while filled < CHUNK {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    buffer.truncate(filled);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_and_then_the_file_ends() {
        let (sender, mut reader) = pipe();
        let writer = std::thread::spawn(move || {
            for n in 0..100u8 {
                let mut chunk = sender.buffer();
                chunk.clear();
                chunk.extend(std::iter::repeat_n(n, 1000));
                assert!(sender.send(Ok(chunk)));
            }
        });
        let mut out = Vec::new();
        reader.read_to_end(&mut out).unwrap();
        writer.join().unwrap();
        assert_eq!(out.len(), 100_000);
        assert!(
            out.chunks(1000)
                .enumerate()
                .all(|(n, c)| c.iter().all(|b| usize::from(*b) == n))
        );
    }

    #[test]
    fn an_error_comes_out_after_the_bytes_before_it_and_is_never_an_end_of_file() {
        let (sender, mut reader) = pipe();
        sender.send(Ok(b"abc".to_vec()));
        sender.send(Err(io::ErrorKind::UnexpectedEof.into()));
        drop(sender);
        let mut out = Vec::new();
        let error = reader.read_to_end(&mut out).unwrap_err();
        assert_eq!(
            (out.as_slice(), error.kind()),
            (&b"abc"[..], io::ErrorKind::UnexpectedEof)
        );
        assert!(reader.read_to_end(&mut out).is_err());
    }

    #[test]
    fn a_sender_notices_that_nobody_reads() {
        let (sender, reader) = pipe();
        drop(reader);
        assert!(!sender.send(Ok(vec![1])));
    }
}
