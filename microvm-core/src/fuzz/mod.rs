//! Fuzzing on a stable compiler: inputs from the repository (`fuzz/<target>/`) are mutated, and whatever comes of them must
//! be no panic, no hang, and nothing that a debug build's checks catch.
//!
//! There is no instrumentation. In its place each target tells in a few words what an input came to; one that came to
//! something new is mutated further. `make fuzz` runs each target for a while (`PLIMSOLL_FUZZ_SECONDS`); as a test each is
//! run for a few hundred inputs, always the same ones.

mod corpus;
mod devices;
mod formats;
mod mutate;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use self::mutate::Random;

/// How many mutated inputs a target is given as a test.
const INPUTS: usize = 400;

/// How many inputs are mutated further at most.
const POOL: usize = 2000;

/// How long one input may take: far longer than any does on a busy machine.
const HANG: Duration = Duration::from_secs(60);

/// Fuzzes a target, which says what an input came to.
fn fuzz(target: &str, run: impl Fn(&[u8]) -> String) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz")
        .join(target);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut pool: Vec<Vec<u8>> = files
        .iter()
        .map(|file| std::fs::read(file).unwrap())
        .collect();
    assert!(!pool.is_empty(), "{} is empty", folder.display());
    let seconds = std::env::var("PLIMSOLL_FUZZ_SECONDS").ok();
    let limit = seconds.map(|text| Duration::from_secs(text.parse().expect("a number of seconds")));
    // A short run is the same each time; a long one goes where none has been.
    let mut random = Random::new(match limit {
        None => 1,
        Some(_) => crate::monotonic_now(),
    });
    let current = Arc::new(Mutex::new((Instant::now(), Vec::new())));
    let watchdog = watch(target, Arc::clone(&current));
    let begun = Instant::now();
    let (mut seen, mut inputs) = (HashSet::new(), 0);
    let seeds = pool.clone();
    let mut waiting = seeds.into_iter();
    loop {
        let input = match waiting.next() {
            Some(seed) => seed,
            None if limit.map_or(inputs >= INPUTS, |limit| begun.elapsed() >= limit) => break,
            None => {
                inputs += 1;
                random.mutated(&pool)
            }
        };
        *current.lock().unwrap() = (Instant::now(), input.clone());
        match catch_unwind(AssertUnwindSafe(|| run(&input))) {
            Ok(outcome) => {
                if seen.insert(outcome) && inputs > 0 && pool.len() < POOL {
                    pool.push(input);
                }
            }
            Err(_) => panic!(
                "{target}: an input panics: {}",
                keep(target, &input).display()
            ),
        }
    }
    drop(current);
    watchdog.join().unwrap();
    eprintln!("{target}: {inputs} inputs, {} outcomes", seen.len());
}

/// Aborts, with the input kept, when one takes too long.
fn watch(target: &str, current: Arc<Mutex<(Instant, Vec<u8>)>>) -> std::thread::JoinHandle<()> {
    let target = target.to_owned();
    std::thread::spawn(move || {
        // The last one but this.
        while Arc::strong_count(&current) > 1 {
            std::thread::sleep(Duration::from_millis(20));
            let current = current.lock().unwrap();
            if current.0.elapsed() > HANG {
                let kept = keep(&target, &current.1);
                eprintln!("{target}: an input hangs: {}", kept.display());
                std::process::abort();
            }
        }
    })
}

/// Keeps an input that something is wrong with, to be run again by putting it into the corpus.
fn keep(target: &str, input: &[u8]) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let path =
        std::env::temp_dir().join(format!("plimsoll-fuzz-{target}-{:016x}", hasher.finish()));
    std::fs::write(&path, input).unwrap();
    path
}
