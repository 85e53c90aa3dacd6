//! The result file: everything a run measured, as versioned JSON.
//!
//! The report is made from this file alone, so whatever the report must say has a place here. Samples are
//! raw: medians, ratios and verdicts are worked out when the report is made and are never stored.
//!
//! Times are nanoseconds unless a name says otherwise; bytes are bytes; a [`Sample`]'s value is in its
//! [`Metric`]'s [`Unit`]. Arms and metrics refer to each other by their `id`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

mod file;
mod measured;

pub(crate) use file::replace;
pub use file::{Error, MAX_FILE_BYTES};
pub use measured::{
    CutOff, Direction, Group, MEMORY_PER_INSTANCE, MemoryPoint, MemorySeries, Metric, Round,
    Sample, Series, Stage, Timeline, Unit,
};

/// What the `kind` field of every result file says.
pub const KIND: &str = "plimsoll-results";

/// The version of the schema that this crate writes, and the only one that it reads.
///
/// Raised by one whenever a reader of the old version would misread a new file. A new optional field does
/// not raise it.
pub const SCHEMA: u32 = 1;

/// The identity of an [`Arm`]: short, lower case, stable across runs. The usual ones are in [`arm_id`].
pub type ArmId = String;

/// The identity of a [`Metric`]: words joined by dots, the group first, such as `start.warm.first-byte`.
pub type MetricId = String;

/// The identities of the arms that the decision rules and the report know by name.
pub mod arm_id {
    /// The workload straight on the host: the arm that ratios are taken to.
    pub const NATIVE: &str = "native";
    /// The same again under a second label: the A/A control.
    pub const NATIVE_CONTROL: &str = "native-control";
    /// Plimsoll's container with docker's default seccomp filter.
    pub const CONTAINER: &str = "container";
    /// The container's twin without the filter.
    pub const CONTAINER_NO_SECCOMP: &str = "container-noseccomp";
    /// Plimsoll's own VMM on KVM.
    pub const VM: &str = "vm";
    /// QEMU's microvm machine under software emulation.
    pub const VM_TCG: &str = "vm-tcg";
    /// The container engine inside the VM.
    pub const TOOLBOX: &str = "toolbox";
}

/// The identities of the metrics that the decision rules know by name. Every other metric is known to them by
/// its [`Group`].
pub mod metric_id {
    /// Launcher spawned to the first byte of output, with the image in the page cache.
    pub const START_WARM_FIRST_BYTE: &str = "start.warm.first-byte";
    /// Launcher spawned to its exit, with the image in the page cache.
    pub const START_WARM_EXIT: &str = "start.warm.exit";
    /// Launcher spawned to the first byte of output, with nothing of the image in the page cache.
    pub const START_COLD_FIRST_BYTE: &str = "start.cold.first-byte";
    /// Launcher spawned to its exit, with nothing of the image in the page cache.
    pub const START_COLD_EXIT: &str = "start.cold.exit";
    /// The instance is restored from a snapshot; to the first byte of output.
    pub const START_RESTORED_FIRST_BYTE: &str = "start.restored.first-byte";
    /// Several at once; to the last one's first byte of output.
    pub const START_PARALLEL_FIRST_BYTE: &str = "start.parallel.first-byte";
    /// Bytes of an application on the way.
    pub const SHIPPED: &str = "image.shipped-bytes";
    /// Bytes of an application on the disk.
    pub const ON_DISK: &str = "image.disk-bytes";
    /// Bytes moved for an image where nothing is.
    pub const FIRST_MOVED: &str = "image.first.moved-bytes";
    /// Bytes moved for another image on the same base.
    pub const SECOND_MOVED: &str = "image.second.moved-bytes";
    /// Time until an image is where nothing was.
    pub const FIRST_DEPLOY: &str = "image.first.deploy";
    /// Time until another image is beside it.
    pub const SECOND_DEPLOY: &str = "image.second.deploy";
}

/// One run of the harness.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`KIND`].
    pub kind: String,
    /// [`SCHEMA`].
    pub schema: u32,
    /// The program that wrote the file, with its version.
    pub made_by: String,
    /// When the run began, milliseconds since 1970-01-01 UTC.
    pub started_unix_ms: u64,
    /// When the run ended or was broken off, milliseconds since 1970-01-01 UTC; absent while it runs.
    #[serde(default)]
    pub ended_unix_ms: Option<u64>,
    /// Whether everything that was planned was measured.
    pub completeness: Completeness,
    /// What was to be measured.
    pub plan: Plan,
    /// The seeds of everything that was drawn at random, by what they were for; `bootstrap` seeds the
    /// report's own resampling (1 when absent).
    #[serde(default)]
    pub seeds: BTreeMap<String, u64>,
    /// The image that every arm ran.
    #[serde(default)]
    pub image: Option<ImageUnderTest>,
    /// The host, and the versions of every part.
    pub fingerprint: Fingerprint,
    /// Every arm that was asked for, also those that could not run, in the order the report shows them.
    pub arms: Vec<Arm>,
    /// Every metric that was measured or begun, in the order the report shows them.
    pub metrics: Vec<Metric>,
    /// The raw rounds, at most one series a metric.
    #[serde(default)]
    pub series: Vec<Series>,
    /// Measurements that were given up, by arm and metric.
    #[serde(default)]
    pub cut_offs: Vec<CutOff>,
    /// Stage timelines of single starts.
    #[serde(default)]
    pub timelines: Vec<Timeline>,
    /// Memory of 1, 2, 4, … idle instances.
    #[serde(default)]
    pub memory: Vec<MemorySeries>,
    /// Things about the run that a reader of the report should know, one sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Whether a run came to its planned end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Completeness {
    /// Everything planned was measured, cut off or found not to run.
    Complete,
    /// The run was broken off.
    Partial {
        /// Why, such as "interrupted by ctrl-c".
        reason: String,
    },
}

/// What was to be measured, stated before the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// `quick`, `default` or `full`, or the name of another program's plan such as `compare`.
    pub name: String,
    /// Rounds planned for each metric.
    pub rounds: u32,
    /// Fresh instances planned for each resident arm.
    pub instances: u32,
    /// The time that one arm may take on one metric before it is cut off.
    pub arm_budget_ns: u64,
    /// How long the whole run was planned to take at most, when the plan says.
    #[serde(default)]
    pub run_budget_ns: Option<u64>,
    /// The filter of the command line (`cargo bench -- FILTER`): metrics outside it were not meant to run.
    #[serde(default)]
    pub filter: Option<String>,
}

/// The image that every arm ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageUnderTest {
    /// The name it was asked for by.
    pub name: String,
    /// Its digest, `sha256:…`.
    pub digest: String,
    /// CPUs that every arm was limited to, such as `1`, or `not limited`.
    #[serde(default)]
    pub cpus: Option<String>,
    /// Memory limit of every arm, bytes.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
}

/// The host that was measured: whatever could explain a figure.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fingerprint {
    /// The CPU's model name.
    pub cpu: String,
    /// Logical CPUs that the harness may use.
    pub cores: u32,
    /// Memory of the host, bytes.
    pub memory_bytes: u64,
    /// Kernel release and version of the host.
    pub kernel: String,
    /// The distribution, from os-release.
    pub distribution: String,
    /// What virtualization this host offers: `vmx`, `svm`, `kvm_pvm`, or `none: …` with the reason.
    pub virtualization: String,
    /// What the host itself runs under, such as `kvm guest`; empty when not known.
    pub host_runs_under: String,
    /// CPU vulnerabilities of the host and what is done about each.
    pub mitigations: BTreeMap<String, String>,
    /// The same read inside the guest, by arm.
    pub guest_mitigations: BTreeMap<ArmId, BTreeMap<String, String>>,
    /// The guest kernel's release and version, by arm.
    pub guest_kernels: BTreeMap<ArmId, String>,
    /// Transparent huge pages: `always`, `madvise`, `never`.
    pub transparent_huge_pages: String,
    /// The frequency governor, or that there is none to be seen.
    pub frequency_governor: String,
    /// `v1`, `v2` or `hybrid`.
    pub cgroup_mode: String,
    /// The file system under the store, with its device.
    pub store_filesystem: String,
    /// `/sys/kernel/rcu_expedited`.
    pub rcu_expedited: String,
    /// Swap of the host, bytes in total; 0 when there is none.
    pub swap_bytes: u64,
    /// Load averages over 1, 5 and 15 minutes when the run began.
    pub load_at_start: Option<[f64; 3]>,
    /// The same when it ended.
    pub load_at_end: Option<[f64; 3]>,
    /// The versions of every part: plimsoll, its commit, the guest kernel's digest, QEMU, peers, rustc.
    pub versions: BTreeMap<String, String>,
    /// Anything else worth keeping, by name.
    pub further: BTreeMap<String, String>,
}

/// One way of running the workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// Its identity.
    pub id: ArmId,
    /// What the report calls it.
    pub label: String,
    /// What sort of thing it is.
    pub kind: ArmKind,
    /// What its virtual machine stands on; required for [`ArmKind::Vm`] and [`ArmKind::Toolbox`], and for a
    /// peer that is a virtual machine.
    #[serde(default)]
    pub substrate: Option<Substrate>,
    /// Set on the A/A control: the arm that this one repeats under a second label.
    #[serde(default)]
    pub control_of: Option<ArmId>,
    /// Set on an arm that differs from another in one thing (the container without its seccomp filter).
    #[serde(default)]
    pub twin_of: Option<Twin>,
    /// The versions of what the arm is made of, by part.
    #[serde(default)]
    pub versions: BTreeMap<String, String>,
    /// What the arm does not do that the others do, one phrase each, such as "no seccomp filter".
    #[serde(default)]
    pub omits: Vec<String>,
    /// Whether it ran.
    pub status: ArmStatus,
}

/// What sort of thing an arm is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArmKind {
    /// Straight on the host.
    Native,
    /// Plimsoll's container.
    Container,
    /// Plimsoll's virtual machine, on either accelerator.
    Vm,
    /// Plimsoll's container engine inside its virtual machine.
    Toolbox,
    /// Another program, for comparison.
    Peer,
}

/// What a virtual machine stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Substrate {
    /// `vmx`, `svm`, `kvm_pvm` or `tcg`.
    pub name: String,
    /// Whether the CPU itself virtualizes. Where it does not, no claim about VMs is decided in general.
    pub hardware: bool,
}

/// How an arm differs from its twin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Twin {
    /// The other arm.
    pub arm: ArmId,
    /// The one thing that this arm lacks or does otherwise, such as "without the seccomp filter".
    pub difference: String,
}

/// Whether an arm ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum ArmStatus {
    /// It ran, on one metric at least.
    Ran,
    /// It did not run at all.
    NotRun {
        /// Why, such as "/usr/bin/podman is not installed".
        reason: String,
    },
}

impl Results {
    /// An empty run of `plan` by `made_by`, begun at `started_unix_ms` and marked partial until
    /// [`Completeness::Complete`] is put in.
    pub fn new(made_by: impl Into<String>, started_unix_ms: u64, plan: Plan) -> Self {
        Self {
            kind: KIND.to_owned(),
            schema: SCHEMA,
            made_by: made_by.into(),
            started_unix_ms,
            ended_unix_ms: None,
            completeness: Completeness::Partial {
                reason: "the run has not ended".to_owned(),
            },
            plan,
            seeds: BTreeMap::new(),
            image: None,
            fingerprint: Fingerprint::default(),
            arms: Vec::new(),
            metrics: Vec::new(),
            series: Vec::new(),
            cut_offs: Vec::new(),
            timelines: Vec::new(),
            memory: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// The arm of this identity.
    pub fn arm(&self, id: &str) -> Option<&Arm> {
        self.arms.iter().find(|arm| arm.id == id)
    }

    /// The metric of this identity.
    pub fn metric(&self, id: &str) -> Option<&Metric> {
        self.metrics.iter().find(|metric| metric.id == id)
    }

    /// The raw rounds of this metric.
    pub fn rounds(&self, metric: &str) -> &[Round] {
        self.series
            .iter()
            .find(|series| series.metric == metric)
            .map_or(&[], |series| &series.rounds)
    }

    /// The cut-off of this arm on this metric, if it was cut off.
    pub fn cut_off(&self, metric: &str, arm: &str) -> Option<&CutOff> {
        self.cut_offs
            .iter()
            .find(|cut| cut.metric == metric && cut.arm == arm)
    }

    /// Adds a sample to round `round` of `metric`, making the series and the round where they are missing.
    pub fn record(&mut self, metric: &str, round: u32, sample: Sample) {
        let at = match self.series.iter().position(|s| s.metric == metric) {
            Some(at) => at,
            None => {
                self.series.push(Series {
                    metric: metric.to_owned(),
                    rounds: Vec::new(),
                });
                self.series.len() - 1
            }
        };
        let rounds = &mut self.series[at].rounds;
        // The newest round is the one that is being filled, so look from the end.
        let at = match rounds.iter().rposition(|r| r.number == round) {
            Some(at) => at,
            None => {
                rounds.push(Round {
                    number: round,
                    samples: Vec::new(),
                });
                rounds.len() - 1
            }
        };
        rounds[at].samples.push(sample);
    }
}

impl Arm {
    /// Whether the arm is a virtual machine of whatever program whose substrate is not hardware. Such an
    /// arm's rows carry a badge.
    pub fn is_emulated(&self) -> bool {
        match (&self.substrate, self.kind) {
            (Some(substrate), _) => !substrate.hardware,
            (None, ArmKind::Vm | ArmKind::Toolbox) => true,
            (None, _) => false,
        }
    }

    /// Whether it ran.
    pub fn ran(&self) -> bool {
        self.status == ArmStatus::Ran
    }
}
