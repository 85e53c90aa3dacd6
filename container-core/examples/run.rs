//! Runs a command in a container with docker's defaults: `run DIRECTORY COMMAND…`.
//!
//! `PLIMSOLL_REPEAT=N` does so N times, with a pause of `PLIMSOLL_PAUSE` milliseconds (20) between, and prints for each
//! step the median of the times from the beginning; `PLIMSOLL_TIMES` prints them for a single run too. `NO_SECCOMP` and
//! `VOLATILE` leave the filter and the flush out.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use container_core::{Launch, Rootfs, Stdio, Teardown, default_spec, start};

/// Names of steps with the milliseconds at which they had ended.
type Times = Vec<(&'static str, f64)>;

fn main() {
    let mut args = std::env::args().skip(1);
    let Some(root) = args.next().map(PathBuf::from) else {
        eprintln!("usage: run DIRECTORY COMMAND…");
        std::process::exit(125);
    };
    let args: Vec<String> = args.collect();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let repeat = number("PLIMSOLL_REPEAT").unwrap_or(1);
    let pause = Duration::from_millis(number("PLIMSOLL_PAUSE").unwrap_or(20));
    let mut table: Vec<(&'static str, Vec<f64>)> = Vec::new();
    let mut code = 0;
    for round in 0..repeat {
        if round > 0 {
            std::thread::sleep(pause);
        }
        let (times, exit) = match once(&root, &args) {
            Ok(done) => done,
            Err(error) => {
                eprintln!("run: {error}");
                std::process::exit(125);
            }
        };
        code = exit;
        for (name, time) in times {
            match table.iter_mut().find(|(known, _)| *known == name) {
                Some((_, list)) => list.push(time),
                None => table.push((name, vec![time])),
            }
        }
    }
    if repeat > 1 || std::env::var_os("PLIMSOLL_TIMES").is_some() {
        for (name, mut list) in table {
            list.sort_by(f64::total_cmp);
            let at = |percent: usize| list[list.len() * percent / 100];
            println!(
                "{name:10} p10 {:7.3} ms  p50 {:7.3} ms  p90 {:7.3} ms",
                at(10),
                at(50),
                at(90)
            );
        }
    }
    std::process::exit(code);
}

fn monotonic() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure is ours to write.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn once(root: &Path, args: &[String]) -> Result<(Times, i32), Box<dyn Error>> {
    let scratch = Path::new("/tmp").join(format!("container-core-run-{}", std::process::id()));
    let (upper, work) = (scratch.join("upper"), scratch.join("work"));
    std::fs::create_dir_all(&upper)?;
    std::fs::create_dir_all(&work)?;
    let result = timed(root, args, &upper, &work);
    if result.is_err() {
        std::fs::remove_dir_all(&scratch)?;
    }
    result
}

fn timed(
    root: &Path,
    args: &[String],
    upper: &Path,
    work: &Path,
) -> Result<(Times, i32), Box<dyn Error>> {
    let (started, zero) = (Instant::now(), monotonic());
    let elapsed = || started.elapsed().as_secs_f64() * 1e3;
    let mut spec = default_spec(args.to_vec());
    if std::env::var_os("NO_SECCOMP").is_some()
        && let Some(linux) = spec.linux_mut()
    {
        linux.set_seccomp(None);
    }
    let mut times = vec![("spec", elapsed())];
    let lower = [root.to_owned()];
    let volatile = std::env::var_os("VOLATILE").is_some();
    let mut container = start(Launch::new(
        &format!("example-{}", std::process::id()),
        &spec,
        Rootfs::Overlay {
            lower: &lower,
            upper,
            work,
            volatile,
        },
        Stdio::Inherit { stdin: false },
    ))?;
    let started = elapsed();
    let exit = container.wait()?;
    let waited = elapsed();
    times.extend(
        container
            .stages()
            .iter()
            .map(|stage| (stage.name, stage.at.saturating_sub(zero) as f64 / 1e6)),
    );
    times.extend([("start", started), ("wait", waited)]);
    // Before the overlay is taken down, which would write it back first.
    for directory in [upper, work] {
        std::fs::remove_dir_all(directory)?;
    }
    if let Some(scratch) = upper.parent() {
        std::fs::remove_dir(scratch)?;
    }
    times.push(("remove", elapsed()));
    container.release(Teardown::Leave)?;
    times.push(("release", elapsed()));
    Ok((times, exit.status.code()))
}
