//! A server under a load: started anew for each run, loaded from the host once it answers.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use engine::Image;

use super::figure::Figure;
use super::launcher::{Instance, Launcher, sentence, to_the_end};
use super::{Run, Way, interrupt, monotonic_now};

pub(super) const READY: &str = "compare.server.ready";
pub(super) const LOAD: &str = "compare.load.time";

/// How long a server may take to its first answer: a VM in software may take most of a minute to boot.
pub(super) const READY_WITHIN: Duration = Duration::from_secs(300);

/// Between two tries to reach it.
const TRY_EVERY: Duration = Duration::from_millis(2);

/// How much of what the load prints is looked at, bytes.
const PRINTED_MAX: u64 = 1 << 20;

/// Seconds that a server has to end by itself: nothing is measured any more.
const GRACE: &str = "0";

/// The port that is waited for: the one that is asked for, or the image's only one.
pub(super) fn port(asked: Option<u16>, image: &Image) -> anyhow::Result<u16> {
    if let Some(port) = asked {
        return Ok(port);
    }
    let exposed = image
        .config
        .config()
        .as_ref()
        .and_then(|config| config.exposed_ports().clone());
    let ports: Vec<u16> = exposed
        .unwrap_or_default()
        .iter()
        .filter_map(|text| text.strip_suffix("/tcp").unwrap_or(text).parse().ok())
        .collect();
    match ports[..] {
        [port] => Ok(port),
        [] => bail!("the image exposes no TCP port: say with --port where its server answers"),
        _ => bail!("the image exposes several ports: say with --port which one answers the load"),
    }
}

/// Starts the server, waits until it answers, and loads it. The figures: time until it answered, time of the load
/// (nanoseconds), peak memory (bytes), and what was read in what the load has printed.
pub(super) fn measure(
    launcher: &Launcher<'_>,
    way: Way,
    load: &str,
    port: u16,
    figures: &[Figure],
    round: u32,
) -> anyhow::Result<Run> {
    let native = way.backend == "native";
    let at = |address| SocketAddr::V4(SocketAddrV4::new(address, port));
    ensure!(
        !native || !answers(&at(Ipv4Addr::LOCALHOST)),
        "something on the host answers on port {port} already, where the server is to run natively: end it first"
    );
    let instance = Instance::new(launcher, way, round);
    let name = instance.name.as_str();
    let mut flags = vec!["-d", "--name", name];
    if native {
        flags.extend(["--network", "host"]);
    }
    let mut command = launcher.run(way, &flags);
    let begun = monotonic_now();
    let (status, _, complaint) = to_the_end(&mut command, 0)?;
    let server = Server { launcher, name };
    if !status.success() {
        bail!("{}", sentence(&complaint));
    }
    let address = match native {
        true => Ipv4Addr::LOCALHOST,
        false => {
            let field = "{{.NetworkSettings.IPAddress}}";
            let text = launcher.output(&["inspect", "--format", field, name])?;
            text.parse()
                .with_context(|| format!("the instance has no address: {text:?}"))?
        }
    };
    server.wait_for(&at(address))?;
    let ready = monotonic_now().saturating_sub(begun);
    let (took, printed) = run_load(load, address, port)?;
    let mut all = vec![Some(ready as f64), Some(took.as_nanos() as f64)];
    let read: Vec<f64> = figures
        .iter()
        .map(|figure| figure.read(&printed))
        .collect::<anyhow::Result<_>>()?;
    ensure!(
        server.runs()?,
        "the server did not live through the load: {}",
        server.last_words()
    );
    launcher.output(&["stop", "--time", GRACE, name])?;
    let timeline = launcher.timeline()?;
    all.push(
        timeline
            .and_then(|timeline| timeline.peak_memory)
            .map(|bytes| bytes as f64),
    );
    all.extend(read.into_iter().map(Some));
    Ok(Run {
        figures: all,
        code: Some(0),
    })
}

fn answers(address: &SocketAddr) -> bool {
    TcpStream::connect_timeout(address, Duration::from_secs(1)).is_ok()
}

fn run_load(load: &str, address: Ipv4Addr, port: u16) -> anyhow::Result<(Duration, String)> {
    let words = load
        .replace("{ip}", &address.to_string())
        .replace("{port}", &port.to_string());
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &words]).stdin(Stdio::null());
    let begin = Instant::now();
    let (status, printed, complaint) = to_the_end(&mut command, PRINTED_MAX)?;
    let took = begin.elapsed();
    if !status.success() {
        let said = match complaint.trim().lines().last() {
            Some(line) => format!(": {line}"),
            None => String::new(),
        };
        bail!("the load {words:?} failed ({status}){said}");
    }
    Ok((took, printed))
}

/// A server that runs.
struct Server<'a> {
    launcher: &'a Launcher<'a>,
    name: &'a str,
}

impl Server<'_> {
    fn runs(&self) -> anyhow::Result<bool> {
        let said =
            self.launcher
                .output(&["inspect", "--format", "{{.State.Running}}", self.name])?;
        Ok(said == "true")
    }

    /// What it logged last, for a reader who wonders why it has ended.
    fn last_words(&self) -> String {
        let mut command = self.launcher.command(&["logs", "--tail", "3", self.name]);
        match to_the_end(&mut command, PRINTED_MAX) {
            Ok((_, out, err)) => format!("{out}{err}").trim().replace('\n', "; "),
            Err(error) => error.to_string(),
        }
    }

    fn wait_for(&self, address: &SocketAddr) -> anyhow::Result<()> {
        let end = Instant::now() + READY_WITHIN;
        let mut tries = 0u32;
        while !answers(address) {
            interrupt::check()?;
            // Asking costs more than trying.
            if tries.is_multiple_of(64) {
                ensure!(
                    self.runs()?,
                    "the server ended before it answered: {}",
                    self.last_words()
                );
            }
            ensure!(
                Instant::now() < end,
                "the server does not answer on {address} within {} s",
                READY_WITHIN.as_secs()
            );
            tries += 1;
            std::thread::sleep(TRY_EVERY);
        }
        Ok(())
    }
}
