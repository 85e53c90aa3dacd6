//! A streaming tar reader with bounded memory.
//!
//! The `tar` crate reads GNU long names and PAX headers into memory whatever their size, and does not know PAX sparse files; an
//! archive here is hostile until shown otherwise, so the framing is read here, every length checked before it is used.

use std::io::{self, BufRead, Read};

use super::header::{BLOCK, Header, is_zero};
use super::pax::Pax;
use super::sparse::{self, Extent};
use crate::error::printable;
use crate::{Error, Limits, Result};

/// Bytes of one extended header. Go's archive/tar, which docker and podman read with, has the same limit.
const SPECIAL_BYTES: u64 = 1 << 20;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file with content.
    Regular,
    /// Another name of an entry before it.
    Hardlink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// A time relative to 1970, its nanoseconds always counting forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamp {
    /// Whole seconds.
    pub seconds: i64,
    /// Nanoseconds after them, less than 10⁹.
    pub nanoseconds: u32,
}

/// One entry's metadata. The path is as written: nothing about it has been checked but the absence of NUL bytes.
#[derive(Debug)]
pub struct Entry {
    /// The name of the file, with everything on the way to it.
    pub path: Vec<u8>,
    /// The target of a symbolic or hard link.
    pub link: Vec<u8>,
    /// Its type.
    pub kind: Kind,
    /// Permission bits, set-id and sticky bits: at most 0o7777.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When it was changed last.
    pub mtime: Timestamp,
    /// Bytes of the file as it will be read, holes included.
    pub size: u64,
    /// Where the stored bytes belong, for a sparse file.
    pub extents: Option<Vec<Extent>>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes: names and values, neither of them checked.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads the entries of a tar archive one after another.
pub struct TarReader<'l, R> {
    source: R,
    /// What errors call this archive.
    name: String,
    limits: &'l Limits,
    /// Content bytes of the current entry that have not been read.
    left: u64,
    /// Bytes after the content, up to the next block.
    padding: u64,
    headers: u64,
    ended_properly: bool,
}

impl<'l, R: BufRead> TarReader<'l, R> {
    /// Begins to read; errors call the archive by `name`.
    pub fn new(source: R, name: impl Into<String>, limits: &'l Limits) -> Self {
        Self {
            source,
            name: name.into(),
            limits,
            left: 0,
            padding: 0,
            headers: 0,
            ended_properly: false,
        }
    }

    /// The next entry; what was not read of the one before is passed over. None at the end.
    ///
    /// # Errors
    /// When the archive is cut short, malformed, or passes a limit; or what the source answers.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        let mut pax = Pax::default();
        let mut long_path = None;
        let mut long_link = None;
        loop {
            self.skip_content()?;
            let mut block = [0; BLOCK];
            if !self.read_block(&mut block)? {
                return Ok(None);
            }
            if is_zero(&block) {
                self.ended_properly = true;
                return Ok(None);
            }
            let Some(header) = Header::new(&block) else {
                return Err(self.malformed("a header's checksum is wrong"));
            };
            self.headers += 1;
            // An entry has at most three headers before its own in practice.
            if self.headers > self.limits.entries.saturating_mul(4) {
                return Err(Error::LimitPassed {
                    what: "entries",
                    limit: self.limits.entries,
                });
            }
            match header.kind() {
                b'x' | b'X' => {
                    let records = self.read_special(&header)?;
                    pax = Pax::parse(&records).map_err(|reason| self.malformed(&reason))?;
                }
                // Global headers hold comments (git's commit id); docker passes over them too.
                b'g' => drop(self.read_special(&header)?),
                b'L' => long_path = Some(self.read_name(&header)?),
                b'K' => long_link = Some(self.read_name(&header)?),
                // A volume's label is not a file.
                b'V' => self.set_content(self.size(&header)?)?,
                _ => {
                    return self
                        .entry(&header, &block, pax, long_path, long_link)
                        .map(Some);
                }
            }
        }
    }

    /// The current entry's content.
    pub fn content(&mut self) -> Content<'_, 'l, R> {
        Content { reader: self }
    }

    /// Reads to the end of the source, which a digest over all its bytes needs. Says whether the archive had its end marker.
    ///
    /// # Errors
    /// What the source answers.
    pub fn drain(mut self) -> Result<bool> {
        loop {
            let available = self
                .source
                .fill_buf()
                .map_err(|e| Error::reading(&self.name, e))?
                .len();
            if available == 0 {
                return Ok(self.ended_properly);
            }
            self.source.consume(available);
        }
    }

    /// Reads on after the end of the archive, but not more than `bytes`: whoever writes it may not be done.
    ///
    /// # Errors
    /// What the source answers.
    pub fn drain_up_to(mut self, bytes: u64) -> Result<()> {
        let mut left = bytes;
        while left > 0 {
            let available = self
                .source
                .fill_buf()
                .map_err(|e| Error::reading(&self.name, e))?
                .len();
            if available == 0 {
                break;
            }
            let step = usize::try_from(left).map_or(available, |left| left.min(available));
            self.source.consume(step);
            left -= step as u64;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        header: &Header<'_>,
        block: &[u8; BLOCK],
        pax: Pax,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry> {
        let path = long_path
            .or(pax.sparse.name.clone())
            .or(pax.path.clone())
            .unwrap_or_else(|| header.name());
        let kind = match header.kind() {
            // Before POSIX a directory was a file whose name ends in a slash.
            b'0' | 0 | b'7' if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' | b'S' => Kind::Regular,
            b'1' => Kind::Hardlink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            // 'D' is GNU's directory with a listing of its names as content.
            b'5' | b'D' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                return Err(Error::refused(
                    &path,
                    format!("its type {:?} is not known", char::from(other)),
                ));
            }
        };
        let stored = match pax.size {
            Some(size) => size,
            None => self.size(header)?,
        };
        if kind == Kind::Directory && header.kind() != b'5' && header.kind() != b'D' && stored != 0
        {
            return Err(Error::refused(
                &path,
                "it is a file with the name of a directory",
            ));
        }
        // Only files have content; other kinds' sizes are ignored, as Go's and GNU's readers do, so that no two readers
        // see different archives. 'D' is the exception, by its definition.
        let stored = match (kind, header.kind()) {
            (Kind::Regular, _) | (_, b'D') => stored,
            _ => 0,
        };
        self.set_content(stored)?;
        let (size, extents) = if kind == Kind::Regular {
            self.file_size(header, block, &pax, stored, &path)?
        } else {
            (0, None)
        };
        let number = |value: Option<i64>, what: &str| {
            value.ok_or_else(|| Error::refused(&path, format!("its {what} is malformed")))
        };
        let id = |value: i64, what: &str| match u32::try_from(value) {
            // The highest number means "no change" to chown(2).
            Ok(id) if id != u32::MAX => Ok(id),
            _ => Err(Error::refused(
                &path,
                format!("its {what} {value} is out of range"),
            )),
        };
        let uid = match pax.uid {
            Some(uid) => uid,
            None => number(header.uid(), "owner")?,
        };
        let gid = match pax.gid {
            Some(gid) => gid,
            None => number(header.gid(), "group")?,
        };
        let mtime = match pax.mtime {
            Some(time) => time,
            None => Timestamp {
                seconds: number(header.mtime(), "time")?,
                nanoseconds: 0,
            },
        };
        let device = match kind {
            Kind::CharDevice | Kind::BlockDevice => {
                let device = header.device().and_then(|(major, minor)| {
                    // The kernel keeps 12 bits of major and 20 of minor number (kdev_t.h).
                    let major = u32::try_from(major).ok().filter(|m| *m < 1 << 12)?;
                    let minor = u32::try_from(minor).ok().filter(|m| *m < 1 << 20)?;
                    Some((major, minor))
                });
                device.ok_or_else(|| Error::refused(&path, "its device number is out of range"))?
            }
            _ => (0, 0),
        };
        let mode = u32::try_from(number(header.mode(), "mode")? & 0o7777).unwrap_or(0);
        let link = long_link.or(pax.link).unwrap_or_else(|| header.link());
        Ok(Entry {
            uid: id(uid, "owner")?,
            gid: id(gid, "group")?,
            path,
            link,
            kind,
            mode,
            mtime,
            size,
            extents,
            device,
            xattrs: pax.xattrs,
        })
    }

    /// A file's size as it will be read, and its runs if it is sparse. Reads a map that stands before the data.
    fn file_size(
        &mut self,
        header: &Header<'_>,
        block: &[u8; BLOCK],
        pax: &Pax,
        stored: u64,
        path: &[u8],
    ) -> Result<(u64, Option<Vec<Extent>>)> {
        let refused = |reason: &str| Error::refused(path, reason);
        let (extents, real_size) = if header.kind() == b'S' {
            // The map continues between header and content.
            let (extents, real_size, _) = sparse::old_gnu(block, &mut self.source)
                .map_err(|e| Error::reading(&self.name, e))?;
            (extents, real_size)
        } else if pax.sparse.major == Some(1) {
            if pax.sparse.minor.is_some_and(|minor| minor != 0) {
                return Err(refused("its sparse format is not known"));
            }
            let (extents, map_bytes) = sparse::in_data(&mut self.content(), stored)
                .map_err(|e| Error::reading(&self.name, e))?;
            let real_size = pax
                .sparse
                .real_size
                .ok_or_else(|| refused("a sparse file has no size"))?;
            let data = stored - map_bytes;
            sparse::check(&extents, real_size, data).map_err(refused)?;
            return Ok((real_size, Some(extents)));
        } else if pax.sparse.has_map {
            let extents = sparse::pairs(&pax.sparse.map).map_err(refused)?;
            let real_size = pax
                .sparse
                .real_size
                .ok_or_else(|| refused("a sparse file has no size"))?;
            (extents, real_size)
        } else {
            return Ok((stored, None));
        };
        sparse::check(&extents, real_size, stored).map_err(refused)?;
        Ok((real_size, Some(extents)))
    }

    fn size(&self, header: &Header<'_>) -> Result<u64> {
        header
            .size()
            .and_then(|size| u64::try_from(size).ok())
            .ok_or_else(|| {
                self.malformed(&format!(
                    "the size of {} is malformed",
                    printable(&header.name())
                ))
            })
    }

    fn set_content(&mut self, bytes: u64) -> Result<()> {
        // Two more blocks must be countable too.
        if bytes > u64::MAX / 2 {
            return Err(self.malformed("an entry's size is out of range"));
        }
        self.left = bytes;
        self.padding = bytes.next_multiple_of(BLOCK as u64) - bytes;
        Ok(())
    }

    fn read_special(&mut self, header: &Header<'_>) -> Result<Vec<u8>> {
        let size = self.size(header)?;
        if size > SPECIAL_BYTES {
            return Err(Error::LimitPassed {
                what: "bytes in an extended header",
                limit: SPECIAL_BYTES,
            });
        }
        self.set_content(size)?;
        let mut bytes = Vec::new();
        let read = self.content().read_to_end(&mut bytes);
        read.map_err(|e| Error::reading(&self.name, e))?;
        Ok(bytes)
    }

    /// A GNU long name, which ends at the first NUL.
    fn read_name(&mut self, header: &Header<'_>) -> Result<Vec<u8>> {
        let mut name = self.read_special(header)?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn skip_content(&mut self) -> Result<()> {
        let mut left = self.left + self.padding;
        while left > 0 {
            let available = self
                .source
                .fill_buf()
                .map_err(|e| Error::reading(&self.name, e))?
                .len();
            if available == 0 {
                return Err(self.truncated("it ends inside an entry"));
            }
            let step = usize::try_from(left).map_or(available, |left| left.min(available));
            self.source.consume(step);
            left -= step as u64;
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    /// False at the end of the source, if that is where a header could begin.
    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(self.truncated("it ends inside a header")),
                Ok(read) => filled += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::reading(&self.name, e)),
            }
        }
        Ok(true)
    }

    fn malformed(&self, reason: &str) -> Error {
        Error::Malformed {
            archive: self.name.clone(),
            reason: reason.to_owned(),
        }
    }

    fn truncated(&self, reason: &str) -> Error {
        Error::Truncated {
            archive: self.name.clone(),
            reason: reason.to_owned(),
        }
    }
}

/// The bytes of one entry, as stored: a sparse file's runs without its holes.
pub struct Content<'r, 'l, R> {
    reader: &'r mut TarReader<'l, R>,
}

impl<R: BufRead> BufRead for Content<'_, '_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let reader = &mut *self.reader;
        if reader.left == 0 {
            return Ok(&[]);
        }
        let available = match reader.source.fill_buf() {
            Ok([]) => {
                return Err(Error::Truncated {
                    archive: reader.name.clone(),
                    reason: "it ends inside an entry".to_owned(),
                }
                .into());
            }
            // The archive's name goes along: the reader of the content may be in the middle of another archive.
            Err(e) => return Err(Error::reading(&reader.name, e).into()),
            Ok(available) => available,
        };
        let end =
            usize::try_from(reader.left).map_or(available.len(), |left| left.min(available.len()));
        Ok(&available[..end])
    }

    fn consume(&mut self, amount: usize) {
        let amount = usize::try_from(self.reader.left).map_or(amount, |left| left.min(amount));
        self.reader.source.consume(amount);
        self.reader.left -= amount as u64;
    }
}

impl<R: BufRead> Read for Content<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let amount = available.len().min(buffer.len());
        buffer[..amount].copy_from_slice(&available[..amount]);
        self.consume(amount);
        Ok(amount)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    type Found = Vec<(Entry, Vec<u8>)>;

    /// All entries with their content, and whether the archive had its end marker.
    fn entries(bytes: &[u8], limits: &Limits) -> Result<(Found, bool)> {
        let mut reader = TarReader::new(Cursor::new(bytes), "the archive", limits);
        let mut found = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            let mut content = Vec::new();
            reader
                .content()
                .read_to_end(&mut content)
                .map_err(|e| Error::reading("the archive", e))?;
            found.push((entry, content));
        }
        let ended = reader.drain()?;
        Ok((found, ended))
    }

    fn sample() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o4755);
        header.set_uid(7);
        header.set_gid(3_000_000);
        header.set_mtime(1_700_000_000);
        builder
            .append_data(&mut header, "dir/".repeat(60) + "file", &b"hello"[..])
            .unwrap();
        header.set_size(0);
        header.set_entry_type(tar::EntryType::Symlink);
        builder
            .append_link(&mut header, "link", "t/".repeat(90))
            .unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn long_names_numbers_and_content_are_read() {
        let (found, ended) = entries(&sample(), &Limits::default()).unwrap();
        let (file, content) = &found[0];
        assert_eq!(file.path, ("dir/".repeat(60) + "file").into_bytes());
        assert_eq!(
            (file.mode, file.uid, file.gid, file.size),
            (0o4755, 7, 3_000_000, 5)
        );
        assert_eq!(content, b"hello");
        assert_eq!(found[1].0.kind, Kind::Symlink);
        assert_eq!(found[1].0.link, "t/".repeat(90).into_bytes());
        assert!(ended);
    }

    #[test]
    fn every_cut_is_noticed() {
        let whole = sample();
        let (all, _) = entries(&whole, &Limits::default()).unwrap();
        for end in 0..whole.len() - 1024 {
            match entries(&whole[..end], &Limits::default()) {
                Err(Error::Truncated { .. }) => {}
                // Between two entries only the missing end marker tells.
                Ok((found, ended)) => assert!(!ended && found.len() <= all.len(), "{end}"),
                Err(other) => panic!("{end}: {other}"),
            }
        }
    }

    #[test]
    fn an_extended_header_larger_than_its_limit_is_refused_before_it_is_read() {
        for kind in [b'x', b'g', b'L', b'K'] {
            let mut header = tar::Header::new_gnu();
            header.set_size(1 << 40);
            header.as_mut_bytes()[156] = kind;
            header.set_cksum();
            let error = entries(header.as_bytes(), &Limits::default()).unwrap_err();
            assert!(matches!(error, Error::LimitPassed { .. }), "{error}");
        }
    }

    #[test]
    fn headers_without_end_are_stopped_by_the_entry_limit() {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.as_mut_bytes()[156] = b'x';
        header.set_cksum();
        let bytes = header.as_bytes().repeat(100);
        let limits = Limits {
            entries: 10,
            ..Limits::default()
        };
        assert!(matches!(
            entries(&bytes, &limits),
            Err(Error::LimitPassed { .. })
        ));
    }

    #[test]
    fn the_size_of_a_link_is_not_content() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Link);
        header.set_size(0);
        builder.append_link(&mut header, "hard", "target").unwrap();
        let mut bytes = builder.into_inner().unwrap();
        // The size field of the hard link now claims what would swallow the end marker.
        let mut claimed = tar::Header::from_byte_slice(&bytes[..512]).clone();
        claimed.set_size(512);
        claimed.set_cksum();
        bytes[..512].copy_from_slice(claimed.as_bytes());
        let (found, ended) = entries(&bytes, &Limits::default()).unwrap();
        assert_eq!((found.len(), ended), (1, true));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn archives_of_the_tar_crate_are_read_as_they_were_written(
            files in proptest::collection::vec(("[a-z/]{1,200}[a-z]", proptest::collection::vec(any::<u8>(), 0..2000), 0u32..0o10000, any::<u16>()), 0..8)
        ) {
            let mut builder = tar::Builder::new(Vec::new());
            let mut expected = Vec::new();
            for (path, content, mode, uid) in &files {
                let path = path.trim_start_matches('/');
                let mut header = tar::Header::new_gnu();
                header.set_size(content.len() as u64);
                header.set_mode(*mode);
                header.set_uid(u64::from(*uid));
                if builder.append_data(&mut header, path, content.as_slice()).is_ok() {
                    expected.push((content.clone(), *mode, u32::from(*uid)));
                }
            }
            let bytes = builder.into_inner().unwrap();
            let (found, ended) = entries(&bytes, &Limits::default()).unwrap();
            prop_assert!(ended);
            let found: Vec<_> = found.into_iter().map(|(e, c)| (c, e.mode, e.uid)).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn a_damaged_archive_is_an_error_or_another_archive_but_never_a_panic(at in 0usize..3072, value: u8) {
            let mut bytes = sample();
            let length = bytes.len();
            bytes[at % length] = value;
            let _ = entries(&bytes, &Limits::default());
        }

        #[test]
        fn a_header_with_any_fields_never_panics(fields in proptest::collection::vec(any::<u8>(), 512), kind in "[0-7LKxgSDVM]") {
            let mut bytes = fields;
            bytes[156] = kind.as_bytes()[0];
            let mut header = tar::Header::from_byte_slice(&bytes).clone();
            header.set_cksum();
            let mut archive = header.as_bytes().to_vec();
            archive.resize(4096, b'1');
            let _ = entries(&archive, &Limits::default());
        }
    }
}
