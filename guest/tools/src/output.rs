//! What is written, a large piece at a time.

use alloc::vec::Vec;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::sendfile;
use rustix::io::{Errno, read, write};

use crate::failure::Failure;

/// How much is gathered before it is written, and read at a time, in bytes: what a pipe holds.
pub(crate) const PIECE: usize = 64 << 10;

pub(crate) struct Output<'a> {
    to: BorrowedFd<'a>,
    gathered: Vec<u8>,
}

impl<'a> Output<'a> {
    pub(crate) fn new(to: BorrowedFd<'a>) -> Self {
        Self {
            to,
            gathered: Vec::with_capacity(PIECE),
        }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        for piece in bytes.chunks(PIECE) {
            if self.gathered.len() + piece.len() > PIECE {
                self.flush()?;
            }
            self.gathered.extend_from_slice(piece);
        }
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        let mut rest = self.gathered.as_slice();
        while !rest.is_empty() {
            match write(self.to, rest) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(Failure::at("write to", b"stdout", error)),
            }
        }
        self.gathered.clear();
        Ok(())
    }

    /// Passes `size` bytes of a file on: all of them come, as zeros where the file has become shorter meanwhile.
    pub(crate) fn file(&mut self, file: impl AsFd, size: u64, name: &[u8]) -> Result<(), Failure> {
        let mut left = size;
        if left > PIECE as u64 / 4 {
            self.flush()?;
            left -= self.send(file.as_fd(), left);
        }
        let mut ended = false;
        while left > 0 {
            if self.gathered.len() >= PIECE {
                self.flush()?;
            }
            let start = self.gathered.len();
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE - start);
            self.gathered.resize(start + most, 0);
            let mut got = most;
            if !ended {
                let space = self.gathered.get_mut(start..).unwrap_or_default();
                got = match read(&file, space) {
                    Ok(0) => {
                        ended = true;
                        most
                    }
                    Ok(count) => count,
                    Err(Errno::INTR) => 0,
                    Err(error) => return Err(Failure::at("read", name, error)),
                };
            }
            self.gathered.truncate(start + got);
            left -= got as u64;
        }
        Ok(())
    }

    /// Passes bytes on without taking them into this process's memory, where the kernel can; gives how many.
    fn send(&self, file: BorrowedFd<'_>, size: u64) -> u64 {
        /// Any number of bytes that fits a call.
        const MOST: u64 = 1 << 30;
        let mut sent = 0;
        while sent < size {
            match sendfile(self.to, file, None, (size - sent).min(MOST) as usize) {
                Ok(count) if count > 0 => sent += count as u64,
                Err(Errno::INTR) => {}
                // At the file's end, or where this cannot be: reading and writing finds out which.
                _ => break,
            }
        }
        sent
    }
}
