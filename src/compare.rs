//! `plimsoll compare`: the same command natively, in a container and in a VM, side by side.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use engine::{Choice, Home, TIMELINE_VARIABLE, VM_MEMORY};
use serde::Deserialize;
use serde_json::json;

use crate::cli::{CompareArguments, Format};
use crate::output;

/// The ways, in the order of the table.
const WAYS: [&str; 3] = ["native", "container", "vm"];

/// CPUs of every way: what a VM has unless told otherwise, so that all have the same.
const CPUS: &str = "1";

/// What one run took.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// From before the launcher was spawned to the command's exec.
    start: Duration,
    /// From the command's exec to the launcher's end.
    run: Duration,
    /// From before the launcher was spawned to its end.
    total: Duration,
    /// The most memory charged to the instance's cgroup, bytes.
    memory: Option<u64>,
    code: Option<i32>,
}

#[derive(Deserialize)]
struct Timeline {
    stages: Vec<Stage>,
    peak_memory: Option<u64>,
}

#[derive(Deserialize)]
struct Stage {
    name: String,
    at_ns: u64,
}

pub(crate) fn compare(root: &Path, arguments: &CompareArguments) -> anyhow::Result<u8> {
    // The image is checked first, so that a slip in its name is told once and not three times.
    let store = Home::open(root)?.images()?;
    if engine::base::is_base(&arguments.image) {
        engine::base::ensure(&store)?;
    } else {
        store.resolve(&arguments.image)?;
    }
    let choice = engine::choose_accelerator(arguments.accel.into())?;
    let scratch = Scratch::new()?;
    let mut runs: [Vec<Run>; WAYS.len()] = Default::default();
    for round in 0..arguments.rounds {
        // A B C, C B A, …: a machine that drifts drifts for all.
        let mut order: Vec<usize> = (0..WAYS.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for way in order {
            let run =
                run_once(root, arguments, WAYS[way], &choice, &scratch).with_context(|| {
                    format!("{} run {} of {}", WAYS[way], round + 1, arguments.rounds)
                })?;
            runs[way].push(run);
        }
    }
    print(arguments, &choice, &runs)?;
    agreed_exit_code(&runs)
}

/// A directory of our own for the timelines, removed when this goes.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("plimsoll-compare-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A leftover in the temporary directory is all that can happen.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run_once(
    root: &Path,
    arguments: &CompareArguments,
    way: &str,
    choice: &Choice,
    scratch: &Scratch,
) -> anyhow::Result<Run> {
    let timeline = scratch.0.join("timeline.json");
    let memory = arguments
        .memory
        .map_or(VM_MEMORY, |size| size.0)
        .to_string();
    let mut command = Command::new("/proc/self/exe");
    command.arg("--root").arg(root).args([
        "run",
        "--rm",
        "--backend",
        way,
        "--cpus",
        CPUS,
        "--memory",
        &memory,
        // The same for all: what isolation costs, without what a bridge does.
        "--network",
        if way == "native" { "host" } else { "none" },
    ]);
    if way == "vm" {
        command.args(["--accel", choice.accelerator]);
        if let Some(kernel) = &arguments.kernel {
            command.arg("--kernel").arg(kernel);
        }
    }
    command.arg(&arguments.image).args(&arguments.command);
    command
        .env(TIMELINE_VARIABLE, &timeline)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // A timeline of an earlier run must not be taken for this one's.
    let _ = fs::remove_file(&timeline);
    let spawned = monotonic_now();
    let begin = Instant::now();
    let mut child = command.spawn().context("cannot start plimsoll again")?;
    let errors = drain(&mut child)?;
    let status = child.wait()?;
    let total = begin.elapsed();
    let Ok(json) = fs::read(&timeline) else {
        bail!("{}", errors.trim().trim_start_matches("plimsoll: "));
    };
    let timeline: Timeline =
        serde_json::from_slice(&json).context("the run wrote no readable timeline")?;
    let exec = timeline
        .stages
        .iter()
        .find(|stage| stage.name == "exec")
        .context("the run tells no exec stage")?;
    let start = Duration::from_nanos(exec.at_ns.saturating_sub(spawned));
    Ok(Run {
        start,
        run: total.saturating_sub(start),
        total,
        memory: timeline.peak_memory,
        code: status.code(),
    })
}

/// Reads both streams to their end; what the command prints is not shown, what plimsoll says of a failure is returned.
fn drain(child: &mut Child) -> anyhow::Result<String> {
    let mut stdout = child
        .stdout
        .take()
        .context("the run has no standard output")?;
    let mut stderr = child
        .stderr
        .take()
        .context("the run has no standard error")?;
    let reader = std::thread::spawn(move || io::copy(&mut stdout, &mut io::sink()));
    let mut errors = String::new();
    // The command's own words may be binary: what is not text is replaced.
    let mut bytes = Vec::new();
    stderr.by_ref().take(1 << 20).read_to_end(&mut bytes)?;
    io::copy(&mut stderr, &mut io::sink())?;
    errors.push_str(&String::from_utf8_lossy(&bytes));
    let _ = reader.join();
    Ok(errors)
}

/// Nanoseconds of CLOCK_MONOTONIC, the clock of the timeline.
fn monotonic_now() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
        now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
    })
}

fn median<T: Copy + Ord>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

/// A time with three digits, in the unit that suits it.
struct Time(Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = self.0.as_secs_f64() * 1e3;
        let text = match milliseconds {
            ms if ms < 10.0 => format!("{ms:.2} ms"),
            ms if ms < 100.0 => format!("{ms:.1} ms"),
            ms if ms < 1000.0 => format!("{ms:.0} ms"),
            ms => format!("{:.2} s", ms / 1e3),
        };
        f.pad(&text)
    }
}

fn print(
    arguments: &CompareArguments,
    choice: &Choice,
    runs: &[Vec<Run>; WAYS.len()],
) -> anyhow::Result<()> {
    let time = |way: usize, pick: fn(&Run) -> Duration| {
        median(runs[way].iter().map(pick)).unwrap_or_default()
    };
    let memory = |way: usize| median(runs[way].iter().filter_map(|run| run.memory));
    if arguments.format == Format::Json {
        output::json_lines(WAYS.iter().enumerate().map(|(way, name)| {
            json!({
                "way": name,
                "accelerator": (*name == "vm").then_some(choice.accelerator),
                "substrate": (*name == "vm").then_some(&choice.substrate),
                "rounds": runs[way].len(),
                "start_ns": time(way, |run| run.start).as_nanos() as u64,
                "run_ns": time(way, |run| run.run).as_nanos() as u64,
                "total_ns": time(way, |run| run.total).as_nanos() as u64,
                "peak_memory_bytes": memory(way),
                "exit_code": runs[way].first().and_then(|run| run.code),
            })
        }))?;
        return Ok(());
    }
    let native = time(0, |run| run.total).as_secs_f64();
    let rows: Vec<Vec<String>> = WAYS
        .iter()
        .enumerate()
        .map(|(way, name)| {
            let total = time(way, |run| run.total);
            vec![
                (*name).to_owned(),
                Time(time(way, |run| run.start)).to_string(),
                Time(time(way, |run| run.run)).to_string(),
                Time(total).to_string(),
                format!("{:.2}", total.as_secs_f64() / native),
                memory(way).map_or_else(|| "-".to_owned(), output::size),
            ]
        })
        .collect();
    output::table(
        &["WAY", "START", "RUN", "TOTAL", "× NATIVE", "PEAK MEMORY"],
        &rows,
    )?;
    let memory = output::size(arguments.memory.map_or(VM_MEMORY, |size| size.0));
    println!();
    println!(
        "medians of {} rounds, taking turns; every way has {CPUS} CPU and at most {memory}. start: to the command's exec; \
         run: from there to the end",
        arguments.rounds
    );
    println!("vm by {}", choice.why);
    if !choice.hardware {
        println!(
            "the VM ran on software emulation, not on hardware virtualization: its figures say nothing of VMs in general"
        );
    }
    Ok(())
}

/// The exit code that all runs ended with.
fn agreed_exit_code(runs: &[Vec<Run>; WAYS.len()]) -> anyhow::Result<u8> {
    let codes: Vec<Option<i32>> = runs.iter().flatten().map(|run| run.code).collect();
    let first = codes
        .first()
        .copied()
        .flatten()
        .context("the first run was killed")?;
    ensure!(
        codes.iter().all(|code| *code == Some(first)),
        "the command's exit code differs between runs, so the figures are not of the same work: {codes:?}"
    );
    Ok(u8::try_from(first).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: i32) -> Run {
        Run {
            start: Duration::ZERO,
            run: Duration::ZERO,
            total: Duration::ZERO,
            memory: None,
            code: Some(code),
        }
    }

    #[test]
    fn the_median_is_the_middle_value() {
        assert_eq!(median([3, 1, 2].into_iter()), Some(2));
        assert_eq!(median([1].into_iter()), Some(1));
        assert_eq!(median(std::iter::empty::<u8>()), None);
    }

    #[test]
    fn runs_that_end_differently_are_not_compared() {
        assert_eq!(
            agreed_exit_code(&[vec![ended(3)], vec![ended(3)], vec![ended(3)]]).unwrap(),
            3
        );
        assert!(agreed_exit_code(&[vec![ended(0)], vec![ended(1)], vec![ended(0)]]).is_err());
    }

    #[test]
    fn times_are_printed_in_the_unit_that_suits_them() {
        for (nanoseconds, text) in [
            (2_345_678, "2.35 ms"),
            (23_456_789, "23.5 ms"),
            (234_567_890, "235 ms"),
            (2_345_678_901, "2.35 s"),
        ] {
            assert_eq!(Time(Duration::from_nanos(nanoseconds)).to_string(), text);
        }
    }
}
