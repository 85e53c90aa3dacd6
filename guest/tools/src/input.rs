//! An archive as it comes on stdin.

use alloc::vec::Vec;

use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::{Errno, read, write};

use crate::failure::Failure;
use crate::output::PIECE;
use crate::tar::padding;

/// The archive, read a large piece at a time.
pub(crate) struct Input<'a> {
    from: BorrowedFd<'a>,
    buffer: Vec<u8>,
    begin: usize,
    end: usize,
}

impl<'a> Input<'a> {
    pub(crate) fn new(from: BorrowedFd<'a>) -> Self {
        Self {
            from,
            buffer: alloc::vec![0; PIECE],
            begin: 0,
            end: 0,
        }
    }

    /// What has been read and not used, at most `most` bytes, read now if there is none; empty at the end.
    fn some(&mut self, most: u64) -> Result<&[u8], Failure> {
        while self.begin == self.end {
            match read(self.from, self.buffer.as_mut_slice()) {
                Ok(0) => return Ok(&[]),
                Ok(count) => (self.begin, self.end) = (0, count),
                Err(Errno::INTR) => {}
                Err(error) => return Err(Failure::at("read", b"stdin", error)),
            }
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let begin = self.begin;
        self.begin = self.end.min(begin.saturating_add(most));
        Ok(self.buffer.get(begin..self.begin).unwrap_or_default())
    }

    /// Fills the buffer; false when the archive is at its end before the first byte.
    pub(crate) fn fill(&mut self, into: &mut [u8]) -> Result<bool, Failure> {
        let mut filled = 0;
        while filled < into.len() {
            let piece = self.some((into.len() - filled) as u64)?;
            if piece.is_empty() {
                return if filled == 0 { Ok(false) } else { Err(cut()) };
            }
            for (to, from) in into.iter_mut().skip(filled).zip(piece) {
                *to = *from;
            }
            filled += piece.len();
        }
        Ok(true)
    }

    pub(crate) fn fill_all(&mut self, into: &mut [u8]) -> Result<(), Failure> {
        if into.is_empty() || self.fill(into)? {
            Ok(())
        } else {
            Err(cut())
        }
    }

    pub(crate) fn skip(&mut self, mut size: u64) -> Result<(), Failure> {
        while size > 0 {
            let piece = self.some(size)?;
            if piece.is_empty() {
                return Err(cut());
            }
            size -= piece.len() as u64;
        }
        Ok(())
    }

    /// Passes over what an entry holds.
    pub(crate) fn skip_entry(&mut self, size: u64) -> Result<(), Failure> {
        self.skip(size)?;
        self.skip(padding(size) as u64)
    }

    /// Writes so many bytes to a file.
    pub(crate) fn copy(&mut self, to: &OwnedFd, mut size: u64, name: &[u8]) -> Result<(), Failure> {
        while size > 0 {
            let mut piece = self.some(size)?;
            if piece.is_empty() {
                return Err(cut());
            }
            size -= piece.len() as u64;
            while !piece.is_empty() {
                match write(to, piece) {
                    Ok(count) => piece = piece.get(count..).unwrap_or_default(),
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(Failure::at("write", name, error)),
                }
            }
        }
        Ok(())
    }

    pub(crate) fn drop_rest(&mut self) -> Result<(), Failure> {
        while !self.some(u64::MAX)?.is_empty() {}
        Ok(())
    }
}

fn cut() -> Failure {
    Failure::new("the archive on stdin ends too early")
}
