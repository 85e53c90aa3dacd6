//! A command that ends by itself: how long its start took and how long it ran.

use std::time::{Duration, Instant};

use anyhow::bail;

use super::launcher::{Instance, Launcher, sentence, to_the_end};
use super::{Run, Way, monotonic_now};

/// What is measured of a command, in the order of its figures.
pub(super) const TOTAL: &str = "compare.command.total";
pub(super) const START: &str = "compare.command.start";
pub(super) const RUN: &str = "compare.command.run";
pub(super) const MEMORY: &str = "compare.memory.peak";

/// Runs it once. The figures: total, start, run (nanoseconds), peak memory (bytes).
pub(super) fn measure(launcher: &Launcher<'_>, way: Way, round: u32) -> anyhow::Result<Run> {
    // The same for all: what isolation costs, without what a bridge does.
    let network = if way.backend == "native" {
        "host"
    } else {
        "none"
    };
    let instance = Instance::new(launcher, way, round);
    let flags = ["--rm", "--network", network, "--name", &instance.name];
    let mut command = launcher.run(way, &flags);
    let spawned = monotonic_now();
    let begin = Instant::now();
    let (status, _, complaint) = to_the_end(&mut command, 0)?;
    let total = begin.elapsed();
    // It is gone by itself: there is nothing to remove.
    std::mem::forget(instance);
    let Some(timeline) = launcher.timeline()? else {
        bail!("{}", sentence(&complaint));
    };
    let start = Duration::from_nanos(timeline.exec()?.saturating_sub(spawned));
    let nanoseconds = |time: Duration| Some(time.as_nanos() as f64);
    Ok(Run {
        figures: vec![
            nanoseconds(total),
            nanoseconds(start),
            nanoseconds(total.saturating_sub(start)),
            timeline.peak_memory.map(|bytes| bytes as f64),
        ],
        code: status.code(),
    })
}
