//! Writes an instance's log.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::{LogOptions, Stream, aside, json, time};

/// A line longer than this is kept in pieces (docker's own bound), so that a program that never ends its line fills no memory.
const PIECE: usize = 16 << 10;

/// Bytes gathered before they are written to the file.
const GATHERED: usize = 256 << 10;

/// The log of a running instance. A file that cannot be written loses records, never the instance.
#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    options: LogOptions,
    file: Option<File>,
    /// Length of the file, up to the last whole record.
    length: u64,
    /// Records not yet written.
    out: Vec<u8>,
    /// What has come of each stream since its last newline.
    pending: [Vec<u8>; 2],
    /// The second that the text beside it is of.
    second: (u64, String),
    /// Why records were lost since the last time somebody asked.
    trouble: Option<io::Error>,
}

impl Writer {
    /// A log in that file, continued if it is there. Nothing is opened before there is something to write.
    pub(crate) fn new(path: PathBuf, options: LogOptions) -> Self {
        Self {
            path,
            options,
            file: None,
            length: 0,
            out: Vec::new(),
            pending: [Vec::new(), Vec::new()],
            second: (u64::MAX, String::new()),
            trouble: None,
        }
    }

    /// Takes what a stream brought at a moment (nanoseconds since 1970).
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8], now: u64) {
        if !self.options.kept {
            return;
        }
        let stamp = self.stamp(now);
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, after) = rest.split_at(end + 1);
            self.line(stream, line, &stamp);
            rest = after;
        }
        self.keep(stream, rest, &stamp);
        self.flush();
    }

    /// The streams are over: what has no newline is a record all the same.
    pub(crate) fn end(&mut self, now: u64) {
        let stamp = self.stamp(now);
        for stream in [Stream::Stdout, Stream::Stderr] {
            let left = std::mem::take(&mut self.pending[stream as usize]);
            if !left.is_empty() {
                self.record(stream, &left, &stamp);
            }
        }
        self.flush();
    }

    /// Why records were lost since this was last asked.
    pub(crate) fn take_trouble(&mut self) -> Option<io::Error> {
        self.trouble.take()
    }

    fn stamp(&mut self, now: u64) -> String {
        const SECOND: u64 = 1_000_000_000;
        if self.second.0 != now / SECOND {
            self.second = (now / SECOND, time::seconds(now / SECOND));
        }
        format!("{}.{:09}Z", self.second.1, now % SECOND)
    }

    fn line(&mut self, stream: Stream, line: &[u8], stamp: &str) {
        let pending = &mut self.pending[stream as usize];
        if pending.is_empty() && line.len() <= PIECE {
            self.record(stream, line, stamp);
            return;
        }
        let mut whole = std::mem::take(pending);
        whole.extend_from_slice(line);
        self.pieces(stream, &whole, stamp, true);
        whole.clear();
        self.pending[stream as usize] = whole;
    }

    /// Keeps what has no newline yet, and makes records of what is too long to be kept.
    fn keep(&mut self, stream: Stream, bytes: &[u8], stamp: &str) {
        self.pending[stream as usize].extend_from_slice(bytes);
        if self.pending[stream as usize].len() >= PIECE {
            let whole = std::mem::take(&mut self.pending[stream as usize]);
            let used = self.pieces(stream, &whole, stamp, false);
            self.pending[stream as usize] = whole.get(used..).unwrap_or_default().to_vec();
        }
    }

    /// Makes records of at most [`PIECE`] bytes; of the last, shorter piece too if it is the `last` of its line. How much
    /// was used.
    fn pieces(&mut self, stream: Stream, whole: &[u8], stamp: &str, last: bool) -> usize {
        let mut used = 0;
        while whole.len() - used > PIECE || (whole.len() - used == PIECE && !last) {
            let end = used + boundary(whole.get(used..used + PIECE).unwrap_or_default());
            self.record(stream, whole.get(used..end).unwrap_or_default(), stamp);
            used = end;
        }
        if last {
            self.record(stream, whole.get(used..).unwrap_or_default(), stamp);
            used = whole.len();
        }
        used
    }

    fn record(&mut self, stream: Stream, text: &[u8], stamp: &str) {
        json::encode(&mut self.out, text, stream, stamp);
        let full = self
            .options
            .max_size
            .is_some_and(|most| self.length + self.out.len() as u64 >= most);
        if self.out.len() >= GATHERED || full {
            self.flush();
        }
        if full {
            self.rotate();
        }
    }

    fn flush(&mut self) {
        if self.out.is_empty() {
            return;
        }
        if let Err(error) = self.try_flush() {
            // A half-written record would spoil the next one too.
            if let Some(file) = &self.file {
                let _ = file.set_len(self.length);
            }
            self.trouble = Some(error);
        }
        self.out.clear();
    }

    fn try_flush(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            let file = File::options()
                .append(true)
                .create(true)
                .mode(0o640)
                .open(&self.path)?;
            self.length = file.metadata()?.len();
            self.file = Some(file);
        }
        if let Some(file) = &mut self.file {
            file.write_all(&self.out)?;
            self.length += self.out.len() as u64;
        }
        Ok(())
    }

    /// Puts the file aside, and drops the oldest.
    fn rotate(&mut self) {
        self.file = None;
        self.length = 0;
        let most = self.options.max_file.max(1);
        let moved = if most == 1 {
            fs::remove_file(&self.path)
        } else {
            for number in (1..most - 1).rev() {
                // Those that are not there yet are no failure.
                let _ = fs::rename(aside(&self.path, number), aside(&self.path, number + 1));
            }
            fs::rename(&self.path, aside(&self.path, 1))
        };
        if let Err(error) = moved
            && error.kind() != io::ErrorKind::NotFound
        {
            self.trouble = Some(error);
        }
    }
}

/// Where to cut a piece so that no character is cut in two: at most three bytes before its end.
fn boundary(piece: &[u8]) -> usize {
    let end = piece.len();
    for back in 1..=3.min(end) {
        let byte = piece[end - back];
        if byte & 0xc0 == 0x80 {
            continue;
        }
        let length = match byte {
            0xf0..=0xf7 => 4,
            0xe0..=0xef => 3,
            0xc0..=0xdf => 2,
            _ => 1,
        };
        return if length > back && end > back {
            end - back
        } else {
            end
        };
    }
    end
}

#[cfg(test)]
mod tests {
    use super::super::{Query, read};
    use super::*;

    fn lines(folder: &std::path::Path) -> Vec<String> {
        let mut seen = Vec::new();
        read(
            &super::super::path(folder, "x"),
            &Query::default(),
            None,
            &mut |entry| {
                seen.push(entry.text.to_owned());
                Ok(())
            },
        )
        .unwrap();
        seen
    }

    fn writer(folder: &std::path::Path, options: LogOptions) -> Writer {
        Writer::new(super::super::path(folder, "x"), options)
    }

    #[test]
    fn a_line_that_comes_in_parts_is_one_record() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = writer(folder.path(), LogOptions::default());
        log.write(Stream::Stdout, b"a", 1);
        log.write(Stream::Stderr, b"x\n", 2);
        log.write(Stream::Stdout, b"b\nc", 3);
        log.end(4);
        assert_eq!(lines(folder.path()), ["x\n", "ab\n", "c"]);
    }

    #[test]
    fn a_very_long_line_is_kept_in_pieces_that_give_it_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = writer(folder.path(), LogOptions::default());
        let long: String = "aé€😀".chars().cycle().take(40_000).collect();
        for part in long.as_bytes().chunks(1000) {
            log.write(Stream::Stdout, part, 1);
        }
        log.write(Stream::Stdout, b"\nnext\n", 2);
        let seen = lines(folder.path());
        assert!(seen.iter().all(|piece| piece.len() <= PIECE));
        assert_eq!(seen.concat(), format!("{long}\nnext\n"));
        assert!(seen.len() > 3);
    }

    #[test]
    fn files_are_put_aside_when_they_are_full_and_the_oldest_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let options = LogOptions {
            max_size: Some(1000),
            max_file: 3,
            ..LogOptions::default()
        };
        let mut log = writer(folder.path(), options);
        for number in 0..100 {
            log.write(Stream::Stdout, format!("line {number}\n").as_bytes(), 1);
        }
        let names = fs::read_dir(folder.path()).unwrap().count();
        assert!(names == 3 || names == 2, "{names}");
        let seen = lines(folder.path());
        assert_eq!(seen.last().unwrap(), "line 99\n");
        assert!(seen.len() > 10 && seen.len() < 60, "{}", seen.len());
    }

    #[test]
    fn a_log_that_is_continued_keeps_what_it_had() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["one\n", "two\n"] {
            writer(folder.path(), LogOptions::default()).write(Stream::Stdout, text.as_bytes(), 1);
        }
        assert_eq!(lines(folder.path()), ["one\n", "two\n"]);
    }

    #[test]
    fn a_log_that_cannot_be_written_loses_records_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = writer(&folder.path().join("missing"), LogOptions::default());
        log.write(Stream::Stdout, b"lost\n", 1);
        assert!(log.take_trouble().is_some());
        assert!(log.take_trouble().is_none());
    }
}
