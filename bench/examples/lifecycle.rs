//! What handling instances costs: starts beside bubblewrap's, exec, many at once, lists of many, output through the log, and
//! the memory of an idle supervisor. Everything in one run, turn by turn, so that ratios mean something on a busy machine.
//!
//! `cargo run --release -p bench --example lifecycle [-- ROUNDS]` as root, after `cargo build --release`. It works in a
//! state directory of its own, which it removes.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Instances in the list that `ps -a` prints.
const LISTED: usize = 1000;

/// Instances that run while the next one is started.
const RUNNING: usize = 199;

/// Starts at once.
const AT_ONCE: usize = 50;

/// Lines of output, and their length in bytes: 1 GiB.
const LINES: usize = 1 << 18;
const LINE: usize = 4096;

/// Without a network, as the peers are: what one costs is bench/examples/network.rs's to say.
const RUN_TRUE: [&str; 6] = ["run", "--rm", "--network", "none", "plimsoll/base", "true"];
const SLEEP: [&str; 7] = [
    "run",
    "-d",
    "--network",
    "none",
    "plimsoll/base",
    "sleep",
    "100000",
];

struct Bench {
    plimsoll: PathBuf,
    folder: PathBuf,
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Ok(output) = self.command(&["ps", "-aq"]).output() {
            let ids = String::from_utf8_lossy(&output.stdout).into_owned();
            for some in ids.lines().collect::<Vec<_>>().chunks(100) {
                let mut command = self.command(&["rm", "-f"]);
                let _ = command.args(some).stdout(Stdio::null()).status();
            }
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Bench {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.plimsoll);
        command
            .args(arguments)
            .env("PLIMSOLL_ROOT", self.folder.join("state"))
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end, which must be a good one; how long that took.
    fn timed(&self, arguments: &[&str]) -> Outcome<Duration> {
        timed(self.command(arguments).stdout(Stdio::null()))
    }

    fn text(&self, arguments: &[&str]) -> Outcome<String> {
        let output = self.command(arguments).output()?;
        if !output.status.success() {
            return Err(
                format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into(),
            );
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}

fn timed(command: &mut Command) -> Outcome<Duration> {
    let begun = Instant::now();
    let status = command.status()?;
    let took = begun.elapsed();
    if status.success() {
        Ok(took)
    } else {
        Err(format!("{command:?} ended with {status}").into())
    }
}

/// The median, milliseconds.
fn median(mut samples: Vec<Duration>) -> f64 {
    samples.sort();
    samples
        .get(samples.len() / 2)
        .map_or(f64::NAN, |middle| middle.as_secs_f64() * 1e3)
}

fn main() -> Outcome<()> {
    let rounds: usize = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => 100,
    };
    let own = std::env::current_exe()?;
    let release = own
        .ancestors()
        .nth(2)
        .ok_or("where is the plimsoll command?")?;
    let bench = Bench {
        plimsoll: release.join("plimsoll"),
        folder: std::env::temp_dir().join(format!("plimsoll-lifecycle-{}", std::process::id())),
    };
    fs::create_dir_all(&bench.folder)?;
    bench.timed(&RUN_TRUE)?;
    starts(&bench, rounds)?;
    at_once(&bench)?;
    output(&bench)?;
    many(&bench, rounds)?;
    listing(&bench)
}

/// `run --rm`, `run -d`, `exec` and bubblewrap by turns.
fn starts(bench: &Bench, rounds: usize) -> Outcome<()> {
    let root = base(bench)?;
    let id = bench.text(&SLEEP)?;
    let [mut run, mut detached, mut exec, mut bwrap, mut floor] = [const { Vec::new() }; 5];
    for _ in 0..rounds {
        run.push(bench.timed(&RUN_TRUE)?);
        let mut command = Command::new("bwrap");
        command.args(["--unshare-all", "--ro-bind"]).arg(&root);
        command.args(["/", "--proc", "/proc", "--dev", "/dev", "--", "/bin/true"]);
        bwrap.push(timed(command.stdin(Stdio::null()))?);
        exec.push(bench.timed(&["exec", &id, "true"])?);
        detached.push(first_instruction(bench)?);
        floor.push(timed(Command::new("/bin/true").stdin(Stdio::null()))?);
    }
    let (run, bwrap) = (median(run), median(bwrap));
    println!("run --rm true               {run:8.2} ms");
    println!(
        "bwrap, all namespaces       {bwrap:8.2} ms   (run ÷ bwrap {:.2})",
        run / bwrap
    );
    println!("run -d to first instruction {:8.2} ms", median(detached));
    println!("exec true                   {:8.2} ms", median(exec));
    println!("/bin/true                   {:8.2} ms", median(floor));
    let state = bench.folder.join("state/instances").join(&id);
    let state: serde_json::Value = serde_json::from_slice(&fs::read(state.join("state.json"))?)?;
    std::thread::sleep(Duration::from_secs(1));
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", state["supervisor"]))?;
    for line in rollup.lines().filter(|line| line.starts_with("Pss:")) {
        println!("idle supervisor             {line}");
    }
    Ok(())
}

/// From the command to the moment in which the detached instance's program has been executed.
fn first_instruction(bench: &Bench) -> Outcome<Duration> {
    let stages = bench.folder.join("stages.json");
    let begun = now();
    let output = bench
        .command(&["run", "-d", "--network", "none", "plimsoll/base", "true"])
        .env("PLIMSOLL_TIMELINE", &stages)
        .output()?;
    let id = String::from_utf8(output.stdout)?.trim().to_owned();
    bench.text(&["wait", &id])?;
    bench.text(&["rm", "-f", &id])?;
    let stages: serde_json::Value = serde_json::from_slice(&fs::read(&stages)?)?;
    let exec = stages["stages"]
        .as_array()
        .and_then(|stages| stages.iter().find(|stage| stage["name"] == "exec"))
        .and_then(|stage| stage["at_ns"].as_u64())
        .ok_or("the timeline has no exec")?;
    Ok(Duration::from_nanos(exec.saturating_sub(begun)))
}

/// The host's CLOCK_MONOTONIC, which the stages are told in, nanoseconds.
fn now() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        time.tv_sec().cast_unsigned() * 1_000_000_000 + time.tv_nsec().cast_unsigned()
    })
}

/// The unpacked layer of the built-in image.
fn base(bench: &Bench) -> Outcome<PathBuf> {
    let layers = bench.folder.join("state/images/layers");
    for entry in fs::read_dir(&layers)? {
        let root = entry?.path().join("fs");
        if root.join("bin/busybox").exists() {
            return Ok(root);
        }
    }
    Err(format!("{} has no layer with busybox", layers.display()).into())
}

fn at_once(bench: &Bench) -> Outcome<()> {
    let mut rates = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        let children: Vec<_> = (0..AT_ONCE)
            .map(|_| bench.command(&RUN_TRUE).stdout(Stdio::null()).spawn())
            .collect::<Result<_, _>>()?;
        let mut failed = 0;
        for mut child in children {
            failed += usize::from(!child.wait()?.success());
        }
        if failed > 0 {
            println!("{failed} of {AT_ONCE} failed");
        }
        rates.push(begun.elapsed() / AT_ONCE as u32);
    }
    println!(
        "{AT_ONCE} at once                  {:8.0} a second",
        1e3 / median(rates)
    );
    Ok(())
}

/// Output through the supervisor into the log and a reader.
fn output(bench: &Bench) -> Outcome<()> {
    let folder = bench.folder.join("lines");
    fs::create_dir_all(&folder)?;
    let mut line = vec![b'x'; LINE - 1];
    line.push(b'\n');
    fs::write(folder.join("part"), line.repeat(LINES / 16))?;
    let bind = format!("{}:/lines:ro", folder.display());
    let mut arguments = vec!["run", "--rm", "--log-opt", "max-size=10m", "--log-opt"];
    arguments.extend(["max-file=2", "-v", &bind, "plimsoll/base", "cat"]);
    arguments.extend(["/lines/part"; 16]);
    let mut times = Vec::new();
    for _ in 0..3 {
        let begun = Instant::now();
        let mut child = bench.command(&arguments).stdout(Stdio::piped()).spawn()?;
        let mut stdout = child.stdout.take().ok_or("no output")?;
        let mut buffer = vec![0; 1 << 20];
        let mut bytes = 0;
        loop {
            match stdout.read(&mut buffer)? {
                0 => break,
                count => bytes += count,
            }
        }
        child.wait()?;
        if bytes != LINES * LINE {
            return Err(format!("{bytes} bytes came of {}", LINES * LINE).into());
        }
        times.push(begun.elapsed());
    }
    let seconds = median(times) / 1e3;
    let mebibytes = ((LINES * LINE) >> 20) as f64;
    println!(
        "output, log and reader      {:8.0} MiB/s",
        mebibytes / seconds
    );
    fs::remove_dir_all(&folder)?;
    Ok(())
}

/// Whether the 200th start costs more than the first.
fn many(bench: &Bench, rounds: usize) -> Outcome<()> {
    let once = || -> Outcome<f64> {
        (0..rounds)
            .map(|_| bench.timed(&RUN_TRUE))
            .collect::<Outcome<Vec<_>>>()
            .map(median)
    };
    let alone = once()?;
    for _ in 0..RUNNING {
        bench.timed(&SLEEP)?;
    }
    let beside = once()?;
    println!(
        "the {}th start            {beside:8.2} ms   (÷ the first {:.2})",
        RUNNING + 1,
        beside / alone
    );
    Ok(())
}

fn listing(bench: &Bench) -> Outcome<()> {
    let there = bench.text(&["ps", "-aq"])?.lines().count();
    for _ in there..LISTED {
        bench.timed(&["create", "plimsoll/base", "true"])?;
    }
    let samples: Outcome<Vec<_>> = (0..20).map(|_| bench.timed(&["ps", "-a"])).collect();
    println!(
        "ps -a of {LISTED}               {:8.2} ms",
        median(samples?)
    );
    Ok(())
}
