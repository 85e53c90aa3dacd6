//! File work: sequential and random reads and writes, buffered or direct, and the latency of fsync.
//!
//! Files have a content that can be checked: every 4 KiB block starts with a number that its place determines. A block
//! that comes from the wrong place, or from nowhere, is an error and not a sample.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::mix;
use crate::args::Args;
use crate::clock::Stopwatch;

/// The grain of everything here: the largest sector size in use, and a page.
const GRAIN: usize = 4096;
/// Bytes of a file that is written for the work unless told.
const SIZE: u64 = 16 << 20;

/// What a request asks of a file.
struct Job<'a> {
    path: &'a str,
    block: usize,
    random: bool,
    direct: bool,
    size: u64,
}

impl<'a> Job<'a> {
    fn parse(args: &mut Args<'a>, block: u64) -> Result<Self, String> {
        let path = args.text("path").ok_or("path=FILE is missing")?;
        let block = args.number("block", block, GRAIN as u64, 64 << 20)? as usize;
        let random = match args.text("pattern") {
            None | Some("seq") => false,
            Some("random") => true,
            Some(other) => return Err(format!("pattern={other} is neither seq nor random")),
        };
        let direct = args.number("direct", 0, 0, 1)? == 1;
        let size = args.number("size", SIZE, GRAIN as u64, 1 << 40)?;
        args.finish()?;
        if !block.is_multiple_of(GRAIN) {
            return Err(format!("block={block} is not a multiple of {GRAIN}"));
        }
        Ok(Self {
            path,
            block,
            random,
            direct,
            size,
        })
    }

    fn open(&self, options: &mut OpenOptions) -> Result<File, String> {
        if self.direct {
            options.custom_flags(libc::O_DIRECT);
        }
        options
            .open(self.path)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::EINVAL) if self.direct => {
                    format!("{}: its file system has no O_DIRECT", self.path)
                }
                _ => format!("{}: {error}", self.path),
            })
    }

    /// Where the n-th step reads or writes.
    fn place(&self, n: u64, blocks: u64) -> u64 {
        (if self.random {
            mix(n) % blocks
        } else {
            n % blocks
        }) * self.block as u64
    }

    fn blocks(&self, bytes: u64) -> Result<u64, String> {
        match bytes / self.block as u64 {
            0 => Err(format!(
                "{}: its {bytes} bytes hold no block of {}",
                self.path, self.block
            )),
            blocks => Ok(blocks),
        }
    }

    fn failed(&self, error: std::io::Error) -> String {
        format!("{}: {error}", self.path)
    }
}

/// Reads blocks of `block=BYTES` of the file `path=`; `pattern=seq|random`, `direct=0|1`. One step is one block.
pub(crate) fn read(
    iterations: u64,
    args: &mut Args<'_>,
    watch: &mut Stopwatch,
) -> Result<u64, String> {
    let job = Job::parse(args, 1 << 20)?;
    let file = job.open(OpenOptions::new().read(true))?;
    let bytes = file.metadata().map_err(|error| job.failed(error))?.len();
    let blocks = job.blocks(bytes)?;
    let mut buffer = Buffer::new(job.block)?;
    watch.time(|| {
        for n in 0..iterations {
            let place = job.place(n, blocks);
            file.read_exact_at(buffer.bytes(), place)
                .map_err(|error| job.failed(error))?;
            if stamp_of(buffer.bytes()) != stamp(place) {
                return Err(format!(
                    "{}: the block at {place} holds something else",
                    job.path
                ));
            }
        }
        Ok(0)
    })
}

/// Writes blocks over a file of `size=BYTES` that is made first; arguments as [`read`]'s.
pub(crate) fn write(
    iterations: u64,
    args: &mut Args<'_>,
    watch: &mut Stopwatch,
) -> Result<u64, String> {
    let job = Job::parse(args, 1 << 20)?;
    overwrite(&job, iterations, watch, false)
}

/// Writes one block, 4 KiB unless told, and waits until the disk has it; one step is both.
pub(crate) fn fsync(
    iterations: u64,
    args: &mut Args<'_>,
    watch: &mut Stopwatch,
) -> Result<u64, String> {
    let job = Job::parse(args, GRAIN as u64)?;
    overwrite(&job, iterations, watch, true)
}

fn overwrite(
    job: &Job<'_>,
    iterations: u64,
    watch: &mut Stopwatch,
    sync: bool,
) -> Result<u64, String> {
    let blocks = job.blocks(job.size)?;
    if std::fs::metadata(job.path)
        .map(|data| data.len())
        .unwrap_or(0)
        != job.size
    {
        fill(Path::new(job.path), job.size)?;
    }
    let file = job.open(OpenOptions::new().read(true).write(true))?;
    let mut buffer = Buffer::new(job.block)?;
    let mut last = None;
    watch.time(|| {
        for n in 0..iterations {
            let place = job.place(n, blocks);
            write_stamps(buffer.bytes(), place);
            file.write_all_at(buffer.bytes(), place)
                .map_err(|error| job.failed(error))?;
            if sync {
                file.sync_all().map_err(|error| job.failed(error))?;
            }
            last = Some(place);
        }
        Ok::<(), String>(())
    })?;
    if let Some(place) = last {
        file.read_exact_at(buffer.bytes(), place)
            .map_err(|error| job.failed(error))?;
        if stamp_of(buffer.bytes()) != stamp(place) {
            return Err(format!(
                "{}: the block at {place} does not hold what was written",
                job.path
            ));
        }
    }
    Ok(0)
}

/// Writes a file of `bytes` bytes that [`read`] can check, and waits until the disk has it.
pub(crate) fn fill(path: &Path, bytes: u64) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    let mut file = File::create(path).map_err(failed)?;
    let mut chunk = vec![0u8; 1 << 20];
    // Not compressible, for stores that would.
    for (n, word) in chunk.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *word = mix(n as u64).to_le_bytes();
    }
    let mut at = 0;
    while at < bytes {
        let length = chunk.len().min((bytes - at) as usize);
        write_stamps(&mut chunk[..length], at);
        file.write_all(&chunk[..length]).map_err(failed)?;
        at += length as u64;
    }
    file.sync_all().map_err(failed)
}

fn stamp(place: u64) -> u64 {
    mix(place / GRAIN as u64)
}

fn stamp_of(block: &[u8]) -> u64 {
    block
        .first_chunk::<8>()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn write_stamps(bytes: &mut [u8], place: u64) {
    for (n, grain) in bytes.chunks_mut(GRAIN).enumerate() {
        if let Some(word) = grain.first_chunk_mut::<8>() {
            *word = stamp(place + (n * GRAIN) as u64).to_le_bytes();
        }
    }
}

/// A buffer that starts on a page, as O_DIRECT wants it.
struct Buffer {
    pages: Vec<Page>,
}

#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Page([u8; GRAIN]);

impl Buffer {
    fn new(bytes: usize) -> Result<Self, String> {
        let mut pages = Vec::new();
        pages
            .try_reserve_exact(bytes / GRAIN)
            .map_err(|error| format!("no memory for a block of {bytes} bytes: {error}"))?;
        pages.resize(bytes / GRAIN, Page([0x55; GRAIN]));
        Ok(Self { pages })
    }

    fn bytes(&mut self) -> &mut [u8] {
        let length = self.pages.len() * GRAIN;
        // SAFETY: a Page is exactly GRAIN bytes without padding, and the pages lie side by side.
        unsafe { std::slice::from_raw_parts_mut(self.pages.as_mut_ptr().cast(), length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            // Beside the program: /tmp may be a file system without O_DIRECT.
            let program = std::env::current_exe().unwrap();
            Self(program.with_file_name(format!("workload-{name}-{}", std::process::id())))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn ask(
        work: fn(u64, &mut Args<'_>, &mut Stopwatch) -> Result<u64, String>,
        request: &str,
        n: u64,
    ) -> Result<u64, String> {
        let mut args = Args::parse(request.split(' ')).unwrap();
        work(n, &mut args, &mut Stopwatch::default())
    }

    #[test]
    fn written_files_can_be_read_in_every_pattern() {
        let scratch = Scratch::new("patterns");
        let path = scratch.0.display();
        for pattern in ["seq", "random"] {
            for block in [4096, 1 << 20] {
                let request = format!("path={path} block={block} pattern={pattern}");
                assert_eq!(
                    ask(write, &format!("{request} size=4194304"), 40),
                    Ok(0),
                    "{request}"
                );
                assert_eq!(ask(read, &request, 40), Ok(0), "{request}");
                match ask(read, &format!("{request} direct=1"), 10) {
                    Err(error) if error.contains("O_DIRECT") => eprintln!("skipped: {error}"),
                    other => assert_eq!(other, Ok(0)),
                }
            }
        }
        assert_eq!(ask(fsync, &format!("path={path} size=4194304"), 2), Ok(0));
    }

    #[test]
    fn a_block_from_the_wrong_place_is_an_error() {
        let scratch = Scratch::new("wrong");
        let path = scratch.0.display();
        fill(&scratch.0, 1 << 20).unwrap();
        let file = OpenOptions::new().write(true).open(&scratch.0).unwrap();
        file.write_all_at(&[0; 8], 3 * 4096).unwrap();
        let error = ask(read, &format!("path={path} block=4096"), 256).unwrap_err();
        assert!(error.contains("12288"), "{error}");
    }

    #[test]
    fn missing_and_short_files_are_named() {
        assert!(
            ask(read, "path=/nowhere/at-all", 1)
                .unwrap_err()
                .contains("/nowhere/at-all")
        );
        let scratch = Scratch::new("short");
        fill(&scratch.0, 4096).unwrap();
        let request = format!("path={} block=1048576", scratch.0.display());
        assert!(ask(read, &request, 1).unwrap_err().contains("no block"));
    }
}
