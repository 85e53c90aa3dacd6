//! What was measured, and what it gave: metrics, raw rounds, cut-offs, stage timelines, memory.

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use super::Results;
use super::{ArmId, MetricId};

/// One thing that was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metric {
    /// Its identity.
    pub id: MetricId,
    /// The section it belongs to.
    pub group: Group,
    /// What its values are in.
    pub unit: Unit,
    /// Which way is better.
    pub direction: Direction,
    /// A few words: what the report calls it.
    pub title: String,
    /// A sentence or two: what is done and what is timed.
    pub description: String,
}

/// The sections of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// Time to the first byte and to exit.
    Start,
    /// Memory that an instance occupies (the VMM's own overhead; the slope is in [`Results::memory`]).
    Footprint,
    /// Computation.
    Cpu,
    /// Work on memory: triad, pointer chase, page faults.
    Memory,
    /// Kernel entry: system calls, pipes, processes.
    Kernel,
    /// File and block I/O.
    File,
    /// Network.
    Network,
    /// Real programs.
    Application,
    /// Sizes and deployment of images.
    Image,
    /// Many instances together.
    Scale,
}

/// What a value is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Nanoseconds.
    Nanoseconds,
    /// Nanoseconds for one operation.
    NanosecondsPerOperation,
    /// Operations a second.
    OperationsPerSecond,
    /// Bytes a second.
    BytesPerSecond,
    /// Bytes.
    Bytes,
    /// Floating-point operations a second.
    FlopsPerSecond,
    /// A bare number.
    Count,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Less is better: times, bytes.
    LowerIsBetter,
    /// More is better: rates.
    HigherIsBetter,
}

/// The raw rounds of one metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// The metric.
    pub metric: MetricId,
    /// The rounds, in the order they were run.
    pub rounds: Vec<Round>,
}

/// One whole round: every arm's samples, interleaved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Its number, from 0. Numbers are unique within a series; gaps are allowed.
    pub number: u32,
    /// The samples, in the order they were taken.
    pub samples: Vec<Sample>,
}

/// One sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The arm.
    pub arm: ArmId,
    /// The fresh instance it was taken in, from 0 and counted for each arm by itself.
    pub instance: u32,
    /// The value in the metric's unit, finite and not negative. Absent only in a void sample that gave none.
    pub value: Option<f64>,
    /// Iterations that the workload was asked for, when it was asked for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iterations: Option<u64>,
    /// Elapsed time by the instance's own clock, nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elapsed_ns: Option<u64>,
    /// The same span bracketed by the host's clock, nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ns: Option<u64>,
    /// Why the sample does not count, if it does not: clocks that disagree, a wrong checksum, a workload
    /// that died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub void: Option<String>,
}

/// A measurement that was given up. The report shows it as such and gives no figure for it, whatever samples
/// there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutOff {
    /// The metric; for the memory series, [`MEMORY_PER_INSTANCE`].
    pub metric: MetricId,
    /// The arm.
    pub arm: ArmId,
    /// The budget that ran out, nanoseconds; absent where something else ended it.
    #[serde(default)]
    pub budget_ns: Option<u64>,
    /// What happened, in a few words.
    pub reason: String,
}

/// The name under which a [`CutOff`] speaks of [`Results::memory`].
pub const MEMORY_PER_INSTANCE: &str = "footprint.idle-instance";

/// The stages of one start, by timestamps that the stages took themselves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// The arm.
    pub arm: ArmId,
    /// The instance, counted for each arm by itself.
    pub instance: u32,
    /// `warm`, `cold`, `restored`.
    pub condition: String,
    /// The stages in order of time.
    pub stages: Vec<Stage>,
    /// The workload's first byte reached the harness, nanoseconds after t0.
    #[serde(default)]
    pub first_byte_ns: Option<u64>,
    /// The launcher had exited, nanoseconds after t0.
    #[serde(default)]
    pub exit_ns: Option<u64>,
}

/// One stage of a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Its name: image, rootfs, cgroup, network, clone, exec; vmm-ready, first-instruction, kernel, init,
    /// agent, exec.
    pub name: String,
    /// When it ended, nanoseconds after t0 (just before the launcher was spawned).
    pub end_ns: u64,
}

/// Memory of several idle instances of one arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemorySeries {
    /// The arm.
    pub arm: ArmId,
    /// The points, several for each number of instances where it was repeated.
    pub points: Vec<MemoryPoint>,
}

/// What a number of idle instances occupied together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPoint {
    /// How many instances were up.
    pub instances: u32,
    /// Sum of the PSS of every host process that exists because of them, bytes.
    pub pss_bytes: u64,
    /// Kernel memory charged to their cgroups, bytes.
    pub kernel_bytes: u64,
}

impl MemoryPoint {
    /// Both parts together, bytes.
    pub fn bytes(&self) -> u64 {
        self.pss_bytes.saturating_add(self.kernel_bytes)
    }
}
