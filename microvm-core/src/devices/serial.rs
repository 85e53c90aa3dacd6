//! The serial console (a 16550A) and where its output goes: bounded, whatever the guest writes.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

/// The ports of the first serial line on a PC, and its interrupt line.
pub(crate) const PORT: u16 = 0x3f8;
pub(crate) const LAST: u16 = PORT + 7;
pub(crate) const LINE: u32 = 4;

/// How long a console file may become before it is started anew with the last of its output.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// How much of the last output a file is started anew with.
const KEPT_BYTES: usize = 64 << 10;
/// How much of a line is kept before it is written without its end. A pipe takes this much or nothing (PIPE_BUF is 4096).
const LINE_BYTES: usize = 256;

/// The serial console.
pub(crate) type Console = Serial<Interrupt, NoEvents, Output>;

/// The interrupt line of the serial console.
pub(crate) struct Interrupt(pub(crate) EventFd);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Where the output goes: line by line, and never so much that it fills the host's disk or so slowly that it stalls the
/// virtual CPU which writes it.
pub(crate) struct Output {
    file: File,
    kind: Kind,
    line: Vec<u8>,
}

enum Kind {
    /// A regular file, its length, and the last of what was written to it.
    File { bytes: u64, last: Vec<u8> },
    /// A pipe, a terminal, a socket: written while there is room, or not at all.
    Stream,
    /// A sink such as /dev/null.
    Device,
}

impl Output {
    /// Output to this file, after what it holds already.
    pub(crate) fn new(mut file: File) -> io::Result<Self> {
        let about = file.metadata()?;
        let kind = if about.is_file() {
            Kind::File {
                bytes: file.seek(SeekFrom::End(0))?,
                last: Vec::new(),
            }
        } else if about.file_type().is_fifo() || about.file_type().is_socket() || is_terminal(&file)
        {
            Kind::Stream
        } else {
            Kind::Device
        };
        Ok(Self {
            file,
            kind,
            line: Vec::with_capacity(LINE_BYTES),
        })
    }

    /// Writes what is left of an unfinished line.
    pub(crate) fn finish(&mut self) {
        let line = std::mem::take(&mut self.line);
        // The guest cannot be told, and the console is no reason to end a machine.
        let _ = self.put(&line);
        self.line = line;
        self.line.clear();
    }

    fn put(&mut self, line: &[u8]) -> io::Result<()> {
        if line.is_empty() {
            return Ok(());
        }
        match &mut self.kind {
            Kind::Device => self.file.write_all(line),
            Kind::Stream if !has_room(&self.file) => Ok(()),
            Kind::Stream => self.file.write_all(line),
            Kind::File { bytes, last } => {
                if last.len() + line.len() > 2 * KEPT_BYTES {
                    last.drain(..last.len() - KEPT_BYTES);
                }
                last.extend_from_slice(line);
                if *bytes + line.len() as u64 <= MAX_FILE_BYTES {
                    *bytes += line.len() as u64;
                    return self.file.write_all(line);
                }
                let kept = last.len().min(KEPT_BYTES);
                let last = &last[last.len() - kept..];
                self.file.set_len(0)?;
                self.file.seek(SeekFrom::Start(0))?;
                *bytes = kept as u64;
                self.file.write_all(last)
            }
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            self.line.push(*byte);
            if *byte == b'\n' || self.line.len() == LINE_BYTES {
                self.finish();
            }
        }
        Ok(bytes.len())
    }

    /// Called by the device after each byte: lines are written when they end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_terminal(file: &File) -> bool {
    use std::io::IsTerminal;
    file.is_terminal()
}

fn has_room(file: &File) -> bool {
    let mut poll = libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one valid pollfd, and the count says one; no waiting.
    let ready = unsafe { libc::poll(&mut poll, 1, 0) };
    ready == 1 && poll.revents & libc::POLLOUT != 0
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use super::*;

    fn console(file: File) -> Console {
        let interrupt = Interrupt(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).unwrap());
        Serial::new(interrupt, Output::new(file).unwrap())
    }

    #[test]
    fn the_line_is_always_free_to_send() {
        let mut console = console(tempfile::tempfile().unwrap());
        assert_eq!(console.read(5), 0x60);
        console.write(0, b'x').unwrap();
        assert_eq!(console.read(5), 0x60);
    }

    #[test]
    fn lines_are_written_when_they_end_and_the_last_at_the_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut console = console(file.reopen().unwrap());
        b"one\ntwo"
            .iter()
            .for_each(|byte| console.write(0, *byte).unwrap());
        assert_eq!(std::fs::read(file.path()).unwrap(), b"one\n");
        console.writer_mut().finish();
        assert_eq!(std::fs::read(file.path()).unwrap(), b"one\ntwo");
    }

    #[test]
    fn a_file_stays_below_its_bound_and_keeps_the_last_output() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut output = Output::new(file.reopen().unwrap()).unwrap();
        for number in 0..40_000 {
            writeln!(
                output,
                "line {number:06} of a guest that never stops talking about it"
            )
            .unwrap();
            if number % 1000 == 0 {
                assert!(file.as_file().metadata().unwrap().len() <= MAX_FILE_BYTES);
            }
        }
        let contents = std::fs::read_to_string(file.path()).unwrap();
        assert!(contents.len() as u64 <= MAX_FILE_BYTES && contents.len() >= KEPT_BYTES);
        assert!(contents.ends_with("line 039999 of a guest that never stops talking about it\n"));
    }

    #[test]
    fn a_pipe_that_nobody_reads_loses_output_and_stalls_nobody() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut output = Output::new(File::from(OwnedFd::from(writer))).unwrap();
        for _ in 0..10_000 {
            output
                .write_all(b"sixteen bytes.. and more of them in a line\n")
                .unwrap();
        }
        drop(output);
        let mut seen = Vec::new();
        reader.read_to_end(&mut seen).unwrap();
        assert!(seen.starts_with(b"sixteen bytes") && seen.len() < 200_000);
    }
}
