//! Writing a tar archive: GNU's long names and numbers, extended attributes in PAX headers.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

/// Bytes of a tar block.
const BLOCK: usize = 512;

/// Bytes of a name that fits into a header.
const NAME: usize = 100;

/// Bytes read at once: large enough that system calls do not count.
const CHUNK: usize = 128 << 10;

/// A tar archive being written.
pub(crate) struct TarWriter<'w> {
    output: &'w mut dyn Write,
}

impl<'w> TarWriter<'w> {
    pub(crate) fn new(output: &'w mut dyn Write) -> Self {
        Self { output }
    }

    /// Writes an entry's headers: its type, owner, mode, size and time are in `header`.
    pub(crate) fn header(
        &mut self,
        mut header: Header,
        path: &[u8],
        link: &[u8],
        xattrs: &[(Vec<u8>, Vec<u8>)],
    ) -> io::Result<()> {
        if !xattrs.is_empty() {
            let records: Vec<u8> = xattrs
                .iter()
                .flat_map(|(name, value)| record(name, value))
                .collect();
            self.special(EntryType::XHeader, b"PaxHeaders/attributes", &records)?;
        }
        if link.len() > NAME {
            self.long(EntryType::GNULongLink, link)?;
        }
        if path.len() > NAME {
            self.long(EntryType::GNULongName, path)?;
        }
        let old = header.as_old_mut();
        put(&mut old.name, path);
        put(&mut old.linkname, link);
        header.set_cksum();
        self.output.write_all(header.as_bytes())
    }

    /// Writes a file's content: `size` bytes, whatever the file has by now. A file that has become shorter ends in zeros, so that
    /// what comes after it stays where the headers say.
    pub(crate) fn content(&mut self, file: &mut dyn Read, size: u64) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        let mut left = size;
        while left > 0 {
            let want = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
            let part = buffer.get_mut(..want).unwrap_or_default();
            let read = match file.read(part) {
                Ok(0) => break,
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            self.output
                .write_all(part.get(..read).unwrap_or_default())?;
            left -= read as u64;
        }
        io::copy(&mut io::repeat(0).take(left), self.output)?;
        self.pad(size)
    }

    /// Writes the end marker.
    pub(crate) fn finish(self) -> io::Result<()> {
        self.output.write_all(&[0; 2 * BLOCK])?;
        self.output.flush()
    }

    /// A name that is too long for a header stands in an entry before it, with a NUL at its end.
    fn long(&mut self, kind: EntryType, name: &[u8]) -> io::Result<()> {
        self.special(kind, b"././@LongLink", &[name, &[0]].concat())
    }

    fn special(&mut self, kind: EntryType, name: &[u8], content: &[u8]) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        put(&mut header.as_old_mut().name, name);
        header.set_cksum();
        self.output.write_all(header.as_bytes())?;
        self.output.write_all(content)?;
        self.pad(content.len() as u64)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let rest = size.next_multiple_of(BLOCK as u64) - size;
        io::copy(&mut io::repeat(0).take(rest), self.output).map(drop)
    }
}

/// Copies as much of a name as the field takes.
fn put(field: &mut [u8; NAME], name: &[u8]) {
    for (to, from) in field.iter_mut().zip(name) {
        *to = *from;
    }
}

/// A PAX record, whose length counts its own digits: `LENGTH SCHILY.xattr.NAME=VALUE\n`.
fn record(name: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = [b" SCHILY.xattr.", name, b"=", value, b"\n"].concat();
    let mut length = rest.len() + 1;
    while rest.len() + length.to_string().len() != length {
        length += 1;
    }
    [length.to_string().as_bytes(), &rest].concat()
}
