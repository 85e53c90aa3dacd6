//! What the ways to a server cost: the loopback interface, a container's published port (one forwarding), and a toolbox's (two),
//! each asked by the same program on the host, turn by turn in one run. Also what a start with a published port takes.
//!
//! `cargo run --release -p bench --example network [-- ROUNDS [ACCELERATOR]]` as root, after `cargo build --release`. It works in
//! a network namespace and a state directory of its own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The servers' port inside.
const PORT: u16 = 7000;

/// Requests of one sample, and blocks of 128 KiB.
const REQUESTS: u64 = 500;
const BLOCKS: u64 = 800;

/// How long a server may take to answer for the first time: a machine boots before.
const ANSWERS_WITHIN: Duration = Duration::from_secs(120);

struct Bench {
    plimsoll: PathBuf,
    workload: PathBuf,
    folder: PathBuf,
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Ok(output) = self.command(&["ps", "-aq"]).output() {
            let ids = String::from_utf8_lossy(&output.stdout).into_owned();
            if !ids.trim().is_empty() {
                let mut command = self.command(&["rm", "-f"]);
                let _ = command.args(ids.lines()).stdout(Stdio::null()).status();
            }
        }
        let _ = std::fs::remove_dir_all(&self.folder);
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

    fn run(&self, arguments: &[&str]) -> Outcome<()> {
        let output = self.command(arguments).output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        Ok(())
    }

    /// Nanoseconds that the workload took for so many steps, as it says itself.
    fn ask(&self, work: &str, steps: u64, port: u16) -> Outcome<u64> {
        let output = Command::new(&self.workload)
            .args(["once", work, &steps.to_string()])
            .arg(format!("peer=127.0.0.1:{port}"))
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let elapsed = said
            .strip_prefix("ok ")
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|word| word.parse().ok());
        elapsed.ok_or_else(|| format!("the workload said {said:?}").into())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> Outcome<()> {
    let mut words = std::env::args().skip(1);
    let rounds: usize = words.next().map_or(Ok(10), |text| text.parse())?;
    let accel = words.next().unwrap_or_else(|| "tcg".to_owned());
    // SAFETY: unshare(2) takes a number; this process has one thread.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()?;
    let bin = std::env::current_exe()?;
    let release = bin
        .parent()
        .and_then(|examples| examples.parent())
        .ok_or("this program lies nowhere")?;
    let bench = Bench {
        plimsoll: release.join("plimsoll"),
        workload: std::env::temp_dir()
            .join(format!("plimsoll-net-{}/workload", std::process::id())),
        folder: std::env::temp_dir().join(format!("plimsoll-net-{}", std::process::id())),
    };
    std::fs::create_dir_all(&bench.folder)?;
    bench.run(&[
        "run",
        "--name",
        "copy",
        "--network",
        "none",
        "plimsoll/base",
        "true",
    ])?;
    let to = bench.workload.to_str().ok_or("the path is no text")?;
    bench.run(&["cp", "copy:/bin/workload", to])?;
    bench.run(&["rm", "copy"])?;

    let mut native: Child = Command::new(&bench.workload)
        .args(["echo", "7001"])
        .stdout(Stdio::null())
        .spawn()?;
    let measured = measure(&bench, rounds, &accel);
    native.kill()?;
    native.wait()?;
    measured
}

fn measure(bench: &Bench, rounds: usize, accel: &str) -> Outcome<()> {
    let port = PORT.to_string();
    let serve = ["plimsoll/base", "/bin/workload", "echo", &port];
    bench.run(&[&["run", "-d", "-p", "7002:7000"][..], &serve].concat())?;
    let toolbox = [
        "run",
        "-d",
        "-p",
        "7003:7000",
        "--backend",
        "toolbox",
        "--accel",
        accel,
        "-m",
        "512m",
    ];
    bench.run(&[&toolbox[..], &serve].concat())?;
    let vm = [
        "run",
        "-d",
        "-p",
        "7004:7000",
        "--backend",
        "vm",
        "--accel",
        accel,
    ];
    bench.run(&[&vm[..], &serve].concat())?;
    let ways = [
        ("loopback", 7001),
        ("container, one forwarding", 7002),
        ("vm, one forwarding", 7004),
        ("toolbox, two forwardings", 7003),
    ];
    for (_, port) in ways {
        let deadline = Instant::now() + ANSWERS_WITHIN;
        while bench.ask("rr", 1, port).is_err() {
            if Instant::now() > deadline {
                return Err(format!("port {port} does not answer").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let mut latency = vec![Vec::new(); ways.len()];
    let mut rate = vec![Vec::new(); ways.len()];
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..ways.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for way in order {
            let port = ways[way].1;
            latency[way].push(bench.ask("rr", REQUESTS, port)? as f64 / REQUESTS as f64 / 1e3);
            let elapsed = bench.ask("stream", BLOCKS, port)? as f64;
            rate[way].push((BLOCKS << 17) as f64 / 1048576.0 / (elapsed / 1e9));
        }
    }
    println!(
        "{:<28}{:>14}{:>14}   ({rounds} rounds, VMs by {accel})",
        "", "µs a request", "MiB/s"
    );
    for (way, (name, _)) in ways.iter().enumerate() {
        println!(
            "{name:<28}{:>14.1}{:>14.0}",
            median(latency[way].clone()),
            median(rate[way].clone())
        );
    }
    let starts = |flags: &[&str]| -> Outcome<f64> {
        let mut times = Vec::new();
        for _ in 0..40 {
            let begun = Instant::now();
            bench.run(&[&["run", "--rm"], flags, &["plimsoll/base", "true"]].concat())?;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        Ok(median(times))
    };
    println!(
        "run --rm --network none      {:.2} ms",
        starts(&["--network", "none"])?
    );
    println!("run --rm                     {:.2} ms", starts(&[])?);
    println!(
        "run --rm -p 8080:80          {:.2} ms",
        starts(&["-p", "8080:80"])?
    );
    Ok(())
}
