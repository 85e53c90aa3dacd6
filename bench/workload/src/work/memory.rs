//! Work for the memory: bandwidth, latency, and the first touch of a page.

use std::hint::black_box;

use super::{State, last_error, mix};
use crate::args::Args;
use crate::clock::Stopwatch;

/// Prepared arrays, kept between requests. There is one at a time: the workload must fit a VM of 256 MiB.
pub(crate) enum Prepared {
    Triad {
        a: Vec<f64>,
        b: Vec<f64>,
        c: Vec<f64>,
    },
    Chase {
        lines: Vec<Line>,
        at: u32,
    },
}

/// One cache line: the number of the next one, and its own place on the way, from 0.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Line {
    next: u32,
    place: u32,
}

/// Bytes of one triad array unless told: three of them fit a VM of 256 MiB. STREAM asks for four times the last-level
/// cache, so the harness gives a size where the memory limit leaves room.
const TRIAD_SIZE: u64 = 32 << 20;
const CHASE_SIZE: u64 = 64 << 20;
/// No request may ask for more bytes than this.
const LARGEST: u64 = 64 << 30;
/// STREAM's scalar.
const SCALAR: f64 = 3.0;

/// McCalpin's STREAM triad, a = b + s·c; `size=BYTES` of each array; one step is one pass.
pub(crate) fn triad(
    iterations: u64,
    args: &mut Args<'_>,
    state: &mut State,
    watch: &mut Stopwatch,
) -> Result<u64, String> {
    let size = args.number("size", TRIAD_SIZE, 4096, LARGEST)?;
    args.finish()?;
    let n = size as usize / size_of::<f64>();
    if !matches!(&state.prepared, Some(Prepared::Triad { a, .. }) if a.len() == n) {
        // The old arrays go before the new ones come.
        state.prepared = None;
        state.prepared = Some(Prepared::Triad {
            a: array(n, |_| 0.0)?,
            b: array(n, |i| (mix(i as u64) >> 40) as f64)?,
            c: array(n, |i| (mix(!(i as u64)) >> 40) as f64)?,
        });
    }
    let Some(Prepared::Triad { a, b, c }) = &mut state.prepared else {
        return Err("the arrays are gone".to_owned());
    };
    watch.time(|| {
        for _ in 0..iterations {
            let (b, c) = (black_box(&*b), black_box(&*c));
            for ((a, &b), &c) in a.iter_mut().zip(b).zip(c) {
                *a = b + SCALAR * c;
            }
            black_box(&mut *a);
        }
    });
    if iterations == 0 {
        return Ok(0);
    }
    Ok(a.iter()
        .fold(0u64, |sum, value| sum.rotate_left(7) ^ value.to_bits()))
}

fn array<T>(n: usize, value: impl Fn(usize) -> T) -> Result<Vec<T>, String> {
    let mut array = Vec::new();
    array.try_reserve_exact(n).map_err(|error| {
        format!(
            "no memory for an array of {} bytes: {error}",
            n * size_of::<T>()
        )
    })?;
    array.extend((0..n).map(value));
    Ok(array)
}

/// Loads that each depend on the last: one cycle through `size=BYTES` in random order, a line each. One step is
/// [`HOPS`] of them and goes on where the last one ended, also that of an earlier request, so that no cache learns the
/// way.
pub(crate) fn chase(
    iterations: u64,
    args: &mut Args<'_>,
    state: &mut State,
    watch: &mut Stopwatch,
) -> Result<u64, String> {
    let size = args.number(
        "size",
        CHASE_SIZE,
        4096,
        LARGEST.min((u32::MAX as u64) << 6),
    )?;
    args.finish()?;
    let n = size as usize / size_of::<Line>();
    if !matches!(&state.prepared, Some(Prepared::Chase { lines, .. }) if lines.len() == n) {
        state.prepared = None;
        // The order of the way (Fisher and Yates's shuffle), then the way itself.
        let mut order: Vec<u32> = array(n, |i| i as u32)?;
        for i in (1..n).rev() {
            order.swap(i, (mix(i as u64) % (i as u64 + 1)) as usize);
        }
        let mut lines = array(n, |_| Line { next: 0, place: 0 })?;
        for (place, &line) in order.iter().enumerate() {
            let next = order[(place + 1) % n];
            lines[line as usize] = Line {
                next,
                place: place as u32,
            };
        }
        state.prepared = Some(Prepared::Chase {
            lines,
            at: order[0],
        });
    }
    let Some(Prepared::Chase { lines, at }) = &mut state.prepared else {
        return Err("the lines are gone".to_owned());
    };
    let begun = u64::from(lines[*at as usize].place);
    watch.time(|| {
        let lines = black_box(&*lines);
        let mut here = *at;
        for _ in 0..iterations {
            for _ in 0..HOPS {
                here = lines[here as usize].next;
            }
        }
        *at = here;
    });
    let expected = (begun + iterations % n as u64 * HOPS) % n as u64;
    if u64::from(lines[*at as usize].place) != expected {
        return Err("the way through the memory led somewhere else".to_owned());
    }
    Ok(if iterations == 0 { 0 } else { mix(n as u64) })
}

/// Dependent loads in one step of [`chase`].
const HOPS: u64 = 1024;

/// Pages of one mapping that [`faults`] touches.
const PAGES: u64 = 256;
const PAGE: usize = 4096;

/// The first touch of an anonymous page of 4 KiB; one step is one page. Mapping and unmapping are not timed.
pub(crate) fn faults(
    iterations: u64,
    args: &mut Args<'_>,
    watch: &mut Stopwatch,
) -> Result<u64, String> {
    args.finish()?;
    let mut left = iterations;
    while left > 0 {
        let pages = left.min(PAGES);
        let bytes = pages as usize * PAGE;
        // SAFETY: a fresh private mapping, at an address the kernel chooses.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(last_error("mmap"));
        }
        // SAFETY: the range is the mapping's. A kernel without huge pages refuses, which changes nothing.
        unsafe { libc::madvise(start, bytes, libc::MADV_NOHUGEPAGE) };
        watch.time(|| {
            for page in 0..pages as usize {
                // SAFETY: within the mapping, which is writable.
                unsafe { start.cast::<u8>().add(page * PAGE).write_volatile(1) };
            }
        });
        // A page that was new holds zeros but for what was written.
        // SAFETY: the mapping has at least one page, written above.
        let fresh = unsafe { start.cast::<u16>().read_volatile() } == 1;
        // SAFETY: the mapping made above, which nothing refers to any more.
        unsafe { libc::munmap(start, bytes) };
        if !fresh {
            return Err("a fresh page was not empty".to_owned());
        }
        left -= pages;
    }
    Ok(0)
}
