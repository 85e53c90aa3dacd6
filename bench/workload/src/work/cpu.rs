//! Work for the CPU alone: integers, floating point, and the threads that do them at once.

use std::hint::black_box;
use std::sync::Barrier;

use super::{agree, mix, repeat};
use crate::args::Args;
use crate::clock::{self, Stopwatch};
use crate::sha256;

/// Runs the step that `prepare` makes on `threads=N|all` threads, each `iterations` times. The time is from when the first
/// begins, once all are ready, until the last has ended.
pub(crate) fn run<Step: FnMut() -> u64>(
    prepare: fn() -> Step,
    iterations: u64,
    args: &mut Args<'_>,
    watch: &mut Stopwatch,
) -> Result<u64, String> {
    let threads = match args.text("threads") {
        None | Some("1") => 1,
        Some("all") => available(),
        Some(text) => match text.parse() {
            Ok(n @ 1..=1024) => n,
            _ => {
                return Err(format!(
                    "threads={text} is neither \"all\" nor a number from 1 to 1024"
                ));
            }
        },
    };
    args.finish()?;
    if threads == 1 {
        let step = warm(prepare, iterations);
        return agree([watch.time(|| repeat(iterations, step))]);
    }
    let barrier = Barrier::new(threads);
    let ends: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let step = warm(prepare, iterations);
                    barrier.wait();
                    let start = clock::now();
                    let result = repeat(iterations, step);
                    (result, start, clock::now())
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or((None, 0, 0)))
            .collect()
    });
    // Each thread takes its own times: one that watched them might be scheduled only when they have ended.
    let first = ends.iter().map(|(_, start, _)| *start).min().unwrap_or(0);
    let last = ends.iter().map(|(_, _, end)| *end).max().unwrap_or(0);
    watch.count(last - first);
    agree(ends.into_iter().map(|(result, ..)| result))
}

/// A step that has been done once: the first touch of its memory is not part of the work. (Where a page fault takes 2 ms it
/// would be most of it.)
fn warm<Step: FnMut() -> u64>(prepare: fn() -> Step, iterations: u64) -> Step {
    let mut step = prepare();
    if iterations > 0 {
        black_box(step());
    }
    step
}

/// How many CPUs the scheduler may put this process on. (std would also read the cgroup's quota: it must not differ
/// between arms that see their cgroup and arms that do not.)
pub(crate) fn available() -> usize {
    // SAFETY: cpu_set_t is a plain bit set, for which all zeros is valid.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the size is that of the set the pointer is to.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } != 0 {
        return 1;
    }
    // SAFETY: the set was filled in above.
    (unsafe { libc::CPU_COUNT(&set) }).max(1) as usize
}

/// Integer work: SHA-256 over 64 KiB that fit the first and second level caches.
pub(crate) fn sha256() -> impl FnMut() -> u64 {
    let message: Vec<u8> = (0..8192).flat_map(|n| mix(n).to_le_bytes()).collect();
    move || {
        let [a, b, c, d, e, f, g, h, ..] = sha256::digest(black_box(&message));
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

/// Rows and columns of the matrices: three of them take 216 KiB, within the second level cache.
const SIDE: usize = 96;

/// Floating point work: the product of two matrices of doubles, in the order that runs along rows.
pub(crate) fn matrix() -> impl FnMut() -> u64 {
    // Between 0 and 1, exact in a double: every arm must round in the same way.
    let entry = |n: u64| (mix(n) >> 11) as f64 / (1u64 << 53) as f64;
    let size = (SIDE * SIDE) as u64;
    let a: Vec<f64> = (0..size).map(entry).collect();
    let b: Vec<f64> = (size..2 * size).map(entry).collect();
    let mut product = vec![0.0; SIDE * SIDE];
    move || {
        let (a, b) = (black_box(&a), black_box(&b));
        product.fill(0.0);
        for (a_row, row) in a.chunks_exact(SIDE).zip(product.chunks_exact_mut(SIDE)) {
            for (&x, b_row) in a_row.iter().zip(b.chunks_exact(SIDE)) {
                for (sum, &y) in row.iter_mut().zip(b_row) {
                    *sum += x * y;
                }
            }
        }
        product
            .iter()
            .fold(0u64, |sum, value| sum.rotate_left(7) ^ value.to_bits())
    }
}
