//! Every piece of work, by its name in a request.
//!
//! Each work has the same shape: set up what it needs (not timed, kept in [`State`] between requests), then do
//! `iterations` equal steps inside [`Stopwatch::time`], then prove the result. A step's result is always the same, so
//! it is compared in every step and handed out as the checksum.

pub(crate) mod file;

mod compress;
mod cpu;
mod kernel;
mod memory;
pub(crate) mod net;
mod process;

use crate::args::Args;
use crate::clock::Stopwatch;

/// What outlives a request: prepared memory, so that its set-up is paid once per instance.
#[derive(Default)]
pub(crate) struct State {
    prepared: Option<memory::Prepared>,
}

/// The names of all work.
pub(crate) const NAMES: &[&str] = &[
    "ping", "sha256", "matrix", "compress", "triad", "chase", "faults", "getpid", "pipe",
    "forkexec", "mmap", "create", "read", "write", "fsync", "rr", "stream", "threads",
];

/// Does `iterations` steps of the work called `name` and returns its checksum. With 0 iterations it only sets up.
pub(crate) fn run(
    name: &str,
    iterations: u64,
    args: &mut Args<'_>,
    state: &mut State,
    watch: &mut Stopwatch,
) -> Result<u64, String> {
    match name {
        // Nothing at all: what remains is the transport.
        "ping" => args.finish().map(|()| 0),
        "sha256" => cpu::run(cpu::sha256, iterations, args, watch),
        "matrix" => cpu::run(cpu::matrix, iterations, args, watch),
        "compress" => cpu::run(compress::compress, iterations, args, watch),
        "triad" => memory::triad(iterations, args, state, watch),
        "chase" => memory::chase(iterations, args, state, watch),
        "faults" => memory::faults(iterations, args, watch),
        "getpid" => kernel::getpid(iterations, args, watch),
        "mmap" => kernel::mmap(iterations, args, watch),
        "create" => kernel::create(iterations, args, watch),
        "pipe" => process::pipe(iterations, args, watch),
        "forkexec" => process::forkexec(iterations, args, watch),
        "read" => file::read(iterations, args, watch),
        "write" => file::write(iterations, args, watch),
        "fsync" => file::fsync(iterations, args, watch),
        "rr" => net::rr(iterations, args, watch),
        "stream" => net::stream(iterations, args, watch),
        // How many CPUs this process may use: the harness checks that all arms have the same.
        "threads" => args.finish().map(|()| cpu::available() as u64),
        _ => Err(format!("unknown work {name:?}")),
    }
}

/// The outcome of steps that must all have given the same result.
pub(crate) fn agree(results: impl IntoIterator<Item = Option<u64>>) -> Result<u64, String> {
    let mut agreed = None;
    for result in results {
        let result = result.ok_or("two steps of the same work gave different results")?;
        match agreed {
            None => agreed = Some(result),
            Some(other) if other == result => {}
            Some(_) => return Err("two threads of the same work gave different results".to_owned()),
        }
    }
    Ok(agreed.unwrap_or(0))
}

/// Repeats a step and returns what it always gave: `None` if it ever differed, 0 for no steps.
pub(crate) fn repeat(iterations: u64, mut step: impl FnMut() -> u64) -> Option<u64> {
    let mut first = None;
    for _ in 0..iterations {
        let result = step();
        if *first.get_or_insert(result) != result {
            return None;
        }
    }
    Some(first.unwrap_or(0))
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): the n-th number of a fixed sequence.
pub(crate) fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The error of the last system call, with what was tried.
pub(crate) fn last_error(what: &str) -> String {
    format!("{what}: {}", std::io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn once(request: &str) -> Result<u64, String> {
        let mut words = request.split(' ');
        let (name, iterations) = (
            words.next().unwrap(),
            words.next().unwrap().parse().unwrap(),
        );
        let mut args = Args::parse(words).unwrap();
        run(
            name,
            iterations,
            &mut args,
            &mut State::default(),
            &mut Stopwatch::default(),
        )
    }

    #[test]
    fn checksums_are_the_known_ones_and_do_not_depend_on_iterations() {
        for (request, expected) in [
            ("sha256 {}", SHA256),
            ("matrix {}", MATRIX),
            ("compress {}", COMPRESS),
            ("triad {} size=65536", TRIAD),
            ("chase {} size=65536", CHASE),
            ("faults {}", 0),
            ("getpid {}", 0),
            ("pipe {}", 0),
            ("mmap {}", 0),
        ] {
            for iterations in ["1", "3"] {
                let request = request.replace("{}", iterations);
                let checksum = once(&request).unwrap();
                assert_eq!(checksum, expected, "{request}: {checksum:#018x}");
            }
        }
    }

    // Worked out by an independent Python program: hashlib over mix(0), mix(1), … (little-endian) for SHA256, plain
    // loops with Python's IEEE doubles for MATRIX and TRIAD, the compressor written a second time for COMPRESS.
    const SHA256: u64 = 0x6123_2a41_c8f3_858a;
    const MATRIX: u64 = 0x6890_9efc_ad5b_0e46;
    const COMPRESS: u64 = 0x928f_cd89_7fce_bcb2;
    const TRIAD: u64 = 0xc497_8a1a_431f_410b;
    const CHASE: u64 = 0x6d64_09c7_4776_d986;

    #[test]
    fn threads_agree_with_one_thread() {
        assert_eq!(once("sha256 2 threads=3"), once("sha256 2"));
        assert_eq!(once("compress 2 threads=all"), once("compress 2"));
    }

    #[test]
    fn no_iterations_only_set_up() {
        for name in NAMES.iter().filter(|name| {
            ![
                "read", "write", "fsync", "create", "rr", "stream", "threads",
            ]
            .contains(name)
        }) {
            assert_eq!(once(&format!("{name} 0")), Ok(0), "{name}");
        }
    }

    #[test]
    fn a_step_that_differs_is_found() {
        let mut n = 0;
        assert_eq!(
            repeat(3, || {
                n += 1;
                n / 3
            }),
            None
        );
        assert!(agree([Some(1), Some(2)]).is_err());
        assert!(agree([Some(1), None]).is_err());
    }
}
