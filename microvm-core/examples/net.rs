//! Measures the network between the host and a guest: our monitor against QEMU with KVM, each on a tap made the same way.
//!
//! ```text
//! net [--arms kvm,qemu-kvm] [--rounds N] [--samples N] [--bytes N] [--requests N]
//! ```
//!
//! Each round boots a machine of every arm, in an order that turns, and takes samples of three things in it: bytes from the
//! host to the guest over one TCP connection, bytes from the guest to the host, and requests of one byte with answers of one
//! byte. Printed are the medians over all samples, and their ratios to the last arm's.

#[path = "../tests/vm/mod.rs"]
mod vm;

use std::error::Error;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Instant;

use guest_protocol::Interface;
use microvm_core::cmdline::PVM_GLIBC_TUNABLES;
use microvm_core::{Accelerator, Nic, Request, choose, substrate};

use vm::tap::{call, in_a_network, tap};
use vm::{machine, read_until, sh};

const HOST: [u8; 4] = [10, 99, 0, 1];
const GUEST: [u8; 4] = [10, 99, 0, 2];
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];
const MTU: u16 = 1500;

/// Ports of the guest's, and what answers there: a sink, a source, an echo. A program has the connection as its stdio.
const SINK: u16 = 7001;
const SOURCE: u16 = 7002;
const ECHO: u16 = 7003;
const SCRIPT: &str = "busybox nc -ll -p 7001 -e sh -c 'cat > /dev/null' & \
    busybox nc -ll -p 7002 -e head -c $BYTES /dev/zero & busybox nc -ll -p 7003 -e cat & \
    trap 'exit 0' TERM; echo ready; while :; do sleep 1; done";

struct Plan {
    arms: Vec<Request>,
    rounds: usize,
    samples: usize,
    bytes: usize,
    requests: usize,
}

/// What was measured in one arm: MB/s to the guest, MB/s from it, requests a second.
#[derive(Default)]
struct Samples([Vec<f64>; 3]);

const WHAT: [&str; 3] = ["to the guest, MB/s", "to the host, MB/s", "requests/s"];

fn main() -> Result<(), Box<dyn Error>> {
    let plan = parse()?;
    eprintln!("net: KVM here is {}", substrate());
    let arms = plan
        .arms
        .iter()
        .map(|arm| choose(*arm).map(|(accelerator, _)| accelerator))
        .collect::<Result<Vec<_>, _>>()?;
    in_a_network(move || measure(&plan, &arms));
    Ok(())
}

fn parse() -> Result<Plan, Box<dyn Error>> {
    let slow = !substrate().is_hardware();
    let mut plan = Plan {
        arms: vec!["kvm".parse()?, "qemu-kvm".parse()?],
        rounds: 3,
        samples: 5,
        // Where the guest's kernel is emulated it copies a few megabytes a second.
        bytes: if slow { 1 << 20 } else { 1 << 30 },
        requests: if slow { 20 } else { 10_000 },
    };
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let value = words.next().ok_or(format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--arms" => plan.arms = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "--rounds" => plan.rounds = value.parse()?,
            "--samples" => plan.samples = value.parse()?,
            "--bytes" => plan.bytes = value.parse()?,
            "--requests" => plan.requests = value.parse()?,
            _ => return Err(format!("unknown flag {flag}").into()),
        }
    }
    if plan.rounds.min(plan.samples).min(plan.bytes) == 0 {
        return Err("--rounds, --samples and --bytes must be at least 1".into());
    }
    Ok(plan)
}

fn measure(plan: &Plan, arms: &[Accelerator]) {
    let mut all: Vec<Samples> = arms.iter().map(|_| Samples::default()).collect();
    for round in 0..plan.rounds {
        for turn in 0..arms.len() {
            let arm = (round + turn) % arms.len();
            boot(plan, arms[arm], &mut all[arm]);
        }
    }
    let medians: Vec<[f64; 3]> = all
        .into_iter()
        .map(|samples| samples.0.map(median))
        .collect();
    for (what, label) in WHAT.iter().enumerate() {
        for (arm, medians_of) in arms.iter().zip(&medians) {
            let last = medians.last().map_or(f64::NAN, |last| last[what]);
            let median = medians_of[what];
            println!(
                "{label:20} {:10} {median:12.4}  ratio {:.2}",
                arm.to_string(),
                median / last
            );
        }
    }
}

/// Boots a machine, and takes samples in it.
fn boot(plan: &Plan, accelerator: Accelerator, samples: &mut Samples) {
    let mut machine = machine(accelerator).expect("there is a kernel and mkfs.erofs");
    let nic = Nic {
        tap: tap("tap0", HOST, MTU),
        mac: MAC,
        mtu: MTU,
    };
    let interface = Interface {
        mac: MAC,
        name: "eth0".into(),
        address: GUEST,
        prefix: 24,
        gateway: Some(HOST),
        mtu: MTU,
    };
    machine.networks = vec![(nic, interface)];
    machine.process.env.push(format!("BYTES={}", plan.bytes));
    machine.process.env.push(PVM_GLIBC_TUNABLES.into());
    machine.process.args = sh(SCRIPT);
    let begun = Instant::now();
    let mut live = match machine.start() {
        Ok(live) => live,
        // The other machines' figures are worth having.
        Err(error) => return eprintln!("net: {accelerator} did not start: {error}"),
    };
    read_until(&mut live.stdout, "ready");
    eprintln!(
        "net: {accelerator} is ready after {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    let sent = vec![0; 64 << 10];
    for _ in 0..plan.samples {
        samples.0[0].push(to_guest(plan.bytes, &sent));
        samples.0[1].push(to_host(plan.bytes));
        samples.0[2].push(requests(plan.requests));
    }
    live.main.signal(15);
    let _ = live.main.wait();
}

fn megabytes(bytes: usize, since: Instant) -> f64 {
    bytes as f64 / 1e6 / since.elapsed().as_secs_f64()
}

fn to_guest(bytes: usize, piece: &[u8]) -> f64 {
    let mut stream = call(GUEST, SINK);
    let begun = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let count = left.min(piece.len());
        stream.write_all(&piece[..count]).unwrap();
        left -= count;
    }
    stream.shutdown(Shutdown::Write).unwrap();
    // The sink ends when it has read everything.
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    megabytes(bytes, begun)
}

fn to_host(bytes: usize) -> f64 {
    let mut stream = call(GUEST, SOURCE);
    let mut piece = vec![0; 256 << 10];
    // From the first bytes on: before them a program is executed.
    let mut got = stream.read(&mut piece).unwrap();
    let (first, begun) = (got, Instant::now());
    while got < bytes {
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "it ended after {got} bytes");
        got += count;
    }
    megabytes(got - first, begun)
}

fn requests(count: usize) -> f64 {
    let mut stream = call(GUEST, ECHO);
    stream.set_nodelay(true).unwrap();
    let mut ask = || {
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    };
    // The first answer comes when the echo runs.
    ask();
    let begun = Instant::now();
    (0..count).for_each(|_| ask());
    count as f64 / begun.elapsed().as_secs_f64()
}

fn median(mut samples: Vec<f64>) -> f64 {
    if samples.is_empty() {
        return f64::NAN;
    }
    samples.sort_by(f64::total_cmp);
    let (low, high) = ((samples.len() - 1) / 2, samples.len() / 2);
    (samples[low] + samples[high]) / 2.0
}
