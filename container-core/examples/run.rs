//! Runs a command in a container with docker's defaults: `run DIRECTORY COMMAND…`.
//!
//! With `PLIMSOLL_REPEAT=N` it does so N times and prints, for each step, the median time since the start.

use std::path::{Path, PathBuf};
use std::time::Instant;

use container_core::{Launch, Rootfs, Stdio, Teardown, default_spec, start};

fn main() {
    let mut args = std::env::args().skip(1);
    let Some(root) = args.next().map(PathBuf::from) else {
        eprintln!("usage: run DIRECTORY COMMAND…");
        std::process::exit(125);
    };
    let args: Vec<String> = args.collect();
    let repeat = std::env::var("PLIMSOLL_REPEAT")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    let mut table: Vec<(&'static str, Vec<f64>)> = Vec::new();
    let mut code = 0;
    for _ in 0..repeat {
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
    if repeat > 1 {
        for (name, mut list) in table {
            list.sort_by(f64::total_cmp);
            println!(
                "{name:10} p10 {:7.3} ms  p50 {:7.3} ms",
                list[list.len() / 10],
                list[list.len() / 2]
            );
        }
    }
    std::process::exit(code);
}

fn once(
    root: &Path,
    args: &[String],
) -> Result<(Vec<(&'static str, f64)>, i32), Box<dyn std::error::Error>> {
    let scratch = Path::new("/tmp").join(format!("container-core-run-{}", std::process::id()));
    let (upper, work) = (scratch.join("upper"), scratch.join("work"));
    std::fs::create_dir_all(&upper)?;
    std::fs::create_dir_all(&work)?;
    let started = Instant::now();
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure is ours to write.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    let zero = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    let mut spec = default_spec(args.to_vec());
    if std::env::var_os("NO_SECCOMP").is_some()
        && let Some(linux) = spec.linux_mut()
    {
        linux.set_seccomp(None);
    }
    let lower = [root.to_owned()];
    let launch = Launch {
        id: &format!("example-{}", std::process::id()),
        spec: &spec,
        rootfs: Rootfs::Overlay {
            lower: &lower,
            upper: &upper,
            work: &work,
            volatile: std::env::var_os("VOLATILE").is_some(),
        },
        stdio: Stdio::Inherit { stdin: false },
    };
    let spec_at = started.elapsed().as_secs_f64() * 1e3;
    let result = start(launch);
    let mut container = match result {
        Ok(container) => container,
        Err(error) => {
            let _ = std::fs::remove_dir_all(&scratch);
            return Err(error.into());
        }
    };
    let start_at = started.elapsed().as_secs_f64() * 1e3;
    let exit = container.wait()?;
    let wait_at = started.elapsed().as_secs_f64() * 1e3;
    let mut times = vec![("spec", spec_at)];
    times.extend(
        container
            .stages()
            .iter()
            .map(|stage| (stage.name, (stage.at.saturating_sub(zero)) as f64 / 1e6)),
    );
    times.push(("start", start_at));
    times.push(("wait", wait_at));
    container.release(Teardown::Leave)?;
    times.push(("release", started.elapsed().as_secs_f64() * 1e3));
    std::fs::remove_dir_all(&scratch)?;
    Ok((times, exit.status.code()))
}
