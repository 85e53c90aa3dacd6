//! Reads an instance's log, from its oldest file on, and follows it while the instance runs.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::{Stream, aside, json, time};

/// Which records are wanted.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Only so many of the last.
    pub tail: Option<u64>,
    /// Only from this moment on, nanoseconds since 1970.
    pub since: Option<u64>,
    /// Only up to this moment.
    pub until: Option<u64>,
}

/// Whether the instance has ended, for whoever waits for more of its log.
pub type Follow<'a> = &'a dyn Fn() -> bool;

/// A record.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Where it was written to.
    pub stream: Stream,
    /// When, as the log has it.
    pub time: &'a str,
    /// What; without a newline at its end when the line goes on, or was the last.
    pub text: &'a str,
}

/// How long to sleep before looking for more. What is followed is read by people.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How much is read at once when looking for the beginning of the last records.
const BLOCK: u64 = 64 << 10;

/// The longest record: a piece of a line with every byte escaped, and what surrounds it. A longer line is damage.
const RECORD_MAX: u64 = 256 << 10;

/// Reads the log whose current file is `path`. With `follow` it waits for more until that says that the instance has ended.
///
/// A missing log is an empty one. Damaged lines, which a power cut can leave, are passed over.
///
/// # Errors
/// Those of reading, and whatever `each` returns.
pub fn read(
    path: &Path,
    query: &Query,
    follow: Option<Follow<'_>>,
    each: &mut dyn FnMut(Entry<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut files = existing(path)?;
    let mut skip = 0;
    if let Some(tail) = query.tail {
        (files, skip) = last(files, tail)?;
    }
    let mut reader = Reader {
        query,
        each,
        line: Vec::new(),
        over: false,
    };
    let mut current: Option<BufReader<File>> = None;
    for (index, file) in files.into_iter().enumerate() {
        let mut file = BufReader::with_capacity(256 << 10, file);
        // Looking for the last records has moved them all.
        file.seek(SeekFrom::Start(if index == 0 { skip } else { 0 }))?;
        reader.drain(&mut file)?;
        if reader.over {
            return Ok(());
        }
        current = Some(file);
    }
    let Some(has_ended) = follow else {
        return Ok(());
    };
    loop {
        // Asked before reading, so that what was written before the end is read after it is known.
        let ended = has_ended();
        if let Some(file) = &mut current {
            reader.drain(file)?;
        }
        while let Some(next) = successor(path, current.as_ref().map(BufReader::get_ref))? {
            // It was put aside after its last record: whatever it still held has to come first.
            if let Some(file) = &mut current {
                reader.drain(file)?;
            }
            let mut file = BufReader::with_capacity(256 << 10, next);
            reader.drain(&mut file)?;
            current = Some(file);
        }
        if ended || reader.over {
            return Ok(());
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

struct Reader<'a> {
    query: &'a Query,
    each: &'a mut dyn FnMut(Entry<'_>) -> io::Result<()>,
    /// A line as far as it has been written.
    line: Vec<u8>,
    /// A record after `until` was seen.
    over: bool,
}

impl Reader<'_> {
    /// Reads whole lines to the end of the file; a beginning of a line is kept for the next time.
    fn drain(&mut self, file: &mut BufReader<File>) -> io::Result<()> {
        while !self.over {
            let room = RECORD_MAX.saturating_sub(self.line.len() as u64);
            let count = file.by_ref().take(room).read_until(b'\n', &mut self.line)?;
            if self.line.last() != Some(&b'\n') {
                if count == 0 && room > 0 {
                    return Ok(());
                }
                if self.line.len() as u64 >= RECORD_MAX {
                    self.line.clear();
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            self.take(&line)?;
            self.line = line;
            self.line.clear();
        }
        Ok(())
    }

    fn take(&mut self, line: &[u8]) -> io::Result<()> {
        let Some(record) = json::decode(line) else {
            return Ok(());
        };
        if self.query.since.is_some() || self.query.until.is_some() {
            let moment = time::parse(&record.time, 0).unwrap_or(0);
            if self.query.since.is_some_and(|since| moment < since) {
                return Ok(());
            }
            if self.query.until.is_some_and(|until| moment > until) {
                self.over = true;
                return Ok(());
            }
        }
        (self.each)(Entry {
            stream: if record.stream == "stderr" {
                Stream::Stderr
            } else {
                Stream::Stdout
            },
            time: &record.time,
            text: &record.log,
        })
    }
}

/// How many numbers in a row may have no file. While files are put aside, one number has none, and the next may have none
/// either by the time it is looked at.
const GAPS: u32 = 3;

/// The files of a log, oldest first.
///
/// Opened from the newest on: files only ever move to higher numbers, so one that is put aside meanwhile is met again, and
/// none is passed over.
fn existing(path: &Path) -> io::Result<Vec<File>> {
    let mut inodes = Vec::new();
    let mut files = Vec::new();
    let mut missing = 0;
    for number in 0.. {
        let name = match number {
            0 => path.to_owned(),
            number => aside(path, number),
        };
        match File::open(name) {
            Ok(file) => {
                missing = 0;
                let inode = file.metadata()?.ino();
                if !inodes.contains(&inode) {
                    inodes.push(inode);
                    files.push(file);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing += 1;
                if missing > GAPS {
                    break;
                }
            }
            Err(error) => return Err(error),
        }
    }
    files.reverse();
    Ok(files)
}

/// The file that follows one that may have been put aside; `None` while it is still the current one.
fn successor(path: &Path, current: Option<&File>) -> io::Result<Option<File>> {
    let Some(current) = current else {
        return Ok(existing(path)?.into_iter().next());
    };
    let own = current.metadata()?.ino();
    if std::fs::metadata(path).is_ok_and(|about| about.ino() == own) {
        return Ok(None);
    }
    let mut files = existing(path)?;
    let mut follows = 0;
    for (index, file) in files.iter().enumerate() {
        if file.metadata()?.ino() == own {
            follows = index + 1;
        }
    }
    // When it is gone altogether, the oldest there is follows.
    Ok((follows < files.len()).then(|| files.swap_remove(follows)))
}

/// The files that hold the last `count` records, and where the first of those is in the first of them.
fn last(files: Vec<File>, count: u64) -> io::Result<(Vec<File>, u64)> {
    let mut wanted = count;
    let mut kept = Vec::new();
    let mut offset = 0;
    for mut file in files.into_iter().rev() {
        let (found, start) = from_end(&mut file, wanted)?;
        wanted -= found;
        offset = start;
        kept.push(file);
        if wanted == 0 {
            break;
        }
    }
    kept.reverse();
    Ok((kept, offset))
}

/// How many of the last `count` lines a file has, and where the first of them begins.
fn from_end(file: &mut File, count: u64) -> io::Result<(u64, u64)> {
    let length = file.metadata()?.len();
    let mut found = 0;
    let mut position = length;
    let mut block = Vec::new();
    if count == 0 {
        return Ok((0, length));
    }
    while position > 0 {
        let size = BLOCK.min(position);
        position -= size;
        block.resize(size as usize, 0);
        file.seek(SeekFrom::Start(position))?;
        file.read_exact(&mut block)?;
        for at in memchr::memrchr_iter(b'\n', &block) {
            let after = position + at as u64 + 1;
            // The newline at the very end closes the last line, and opens none.
            if after == length {
                continue;
            }
            found += 1;
            if found == count {
                return Ok((found, after));
            }
        }
    }
    Ok((if length > 0 { found + 1 } else { 0 }, 0))
}

#[cfg(test)]
mod tests {
    use super::super::{LogOptions, Writer};
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    const SECOND: u64 = 1_000_000_000;

    fn collect(path: &Path, query: &Query) -> Vec<String> {
        let mut seen = Vec::new();
        read(path, query, None, &mut |entry| {
            seen.push(entry.text.to_owned());
            Ok(())
        })
        .unwrap();
        seen
    }

    fn tail(count: u64) -> Query {
        Query {
            tail: Some(count),
            ..Query::default()
        }
    }

    #[test]
    fn the_last_records_are_found_across_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let options = LogOptions {
            max_size: Some(400),
            max_file: 4,
            ..LogOptions::default()
        };
        let mut log = Writer::new(path.clone(), options);
        for number in 0..20 {
            log.write(Stream::Stdout, format!("{number}\n").as_bytes(), 1);
        }
        let all = collect(&path, &Query::default());
        for count in [0, 1, 2, 7, 10] {
            let seen = collect(&path, &tail(count));
            assert_eq!(seen, all[all.len() - count as usize..], "{count}");
        }
        assert_eq!(collect(&path, &tail(1000)), all);
        assert!(collect(&folder.path().join("none"), &tail(3)).is_empty());
    }

    #[test]
    fn records_are_chosen_by_their_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = Writer::new(path.clone(), LogOptions::default());
        for number in 1..=5 {
            log.write(
                Stream::Stdout,
                format!("{number}\n").as_bytes(),
                number * SECOND,
            );
        }
        let query = Query {
            since: Some(2 * SECOND),
            until: Some(4 * SECOND),
            tail: None,
        };
        assert_eq!(collect(&path, &query), ["2\n", "3\n", "4\n"]);
    }

    #[test]
    fn a_damaged_line_hides_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = Writer::new(path.clone(), LogOptions::default());
        log.write(Stream::Stdout, b"a\n", 1);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(b"{\"log\":\"cut\n");
        bytes.extend(std::iter::repeat_n(b'x', 600 << 10));
        bytes.push(b'\n');
        std::fs::write(&path, bytes).unwrap();
        Writer::new(path.clone(), LogOptions::default()).write(Stream::Stdout, b"b\n", 2);
        assert_eq!(collect(&path, &Query::default()), ["a\n", "b\n"]);
    }

    #[test]
    fn a_follower_misses_nothing_when_files_are_put_aside_and_ends_with_the_instance() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let ended = AtomicBool::new(false);
        let seen = std::thread::scope(|scope| {
            let follower = scope.spawn(|| {
                let mut seen = Vec::new();
                let has_ended = || ended.load(Ordering::SeqCst);
                read(&path, &Query::default(), Some(&has_ended), &mut |entry| {
                    seen.push(entry.text.trim().parse::<u32>().unwrap());
                    Ok(())
                })
                .unwrap();
                seen
            });
            let options = LogOptions {
                max_size: Some(2000),
                max_file: 50,
                ..LogOptions::default()
            };
            let mut log = Writer::new(path.clone(), options);
            for number in 0..300 {
                log.write(Stream::Stdout, format!("{number}\n").as_bytes(), 1);
                if number % 10 == 0 {
                    std::thread::sleep(Duration::from_millis(3));
                }
            }
            ended.store(true, Ordering::SeqCst);
            follower.join().unwrap()
        });
        assert_eq!(seen, (0..300).collect::<Vec<_>>());
    }
}
