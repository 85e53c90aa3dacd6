//! Arms: the ways of running the same workload. One file for each family.

use std::path::PathBuf;
use std::time::Duration;

use reports::results::{self, ArmKind, ArmStatus};

use crate::launch::Launch;

pub(crate) mod bubblewrap;
pub(crate) mod engine_peer;
pub(crate) mod native;
pub(crate) mod network;
pub(crate) mod oci;
pub(crate) mod plimsoll;

/// What an instance is wanted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A single start, as a user types it: without limits, reading nothing.
    Start {
        /// Where the launcher is to leave its stage timeline, if it is to.
        timeline: Option<PathBuf>,
    },
    /// A resident workload under the limits that all arms have.
    Resident,
}

/// Where the file work finds its files, as the workload sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Places {
    /// A file of the image.
    pub(crate) image_file: String,
    /// A directory that is written to: the writable layer.
    pub(crate) scratch: String,
    /// Address and port of the server of network work; empty where there is none.
    pub(crate) peer: String,
}

/// How long an arm takes to start, as far as its nature goes: how often a fresh instance can be afforded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Milliseconds.
    Quick,
    /// About a second.
    Slow,
    /// Many seconds: its kernel is emulated.
    VerySlow,
}

impl Pace {
    /// The least that a start takes where the guest's kernel is emulated: 12 million instructions at about a million a
    /// second.
    pub(crate) const VERY_SLOW_START: Duration = Duration::from_secs(10);
}

/// One way of running the workload.
pub(crate) trait Arm {
    /// What the results say about it.
    fn about(&self) -> &results::Arm;

    /// The command that runs the workload program with these arguments.
    fn launch(&self, workload: &[&str], purpose: &Purpose) -> Result<Launch, String>;

    /// Files and directories of the image that a cold start must find out of the page cache.
    fn image_files(&self) -> Vec<PathBuf>;

    /// Where its files are; `None` for an arm that is measured for its start alone.
    fn places(&self) -> Option<Places> {
        None
    }

    /// Whether the resident workload is in the instance, and can tell what it sees there.
    fn asks_from_inside(&self) -> bool {
        true
    }

    /// How long it takes to start.
    fn pace(&self) -> Pace {
        Pace::Quick
    }
}

/// The results' entry for an arm, as far as all arms are alike. Its status becomes `Ran` with its first sample.
pub(crate) fn entry(id: &str, label: &str, kind: ArmKind) -> results::Arm {
    results::Arm {
        id: id.to_owned(),
        label: label.to_owned(),
        kind,
        substrate: None,
        control_of: None,
        twin_of: None,
        versions: Default::default(),
        omits: Vec::new(),
        status: ArmStatus::NotRun {
            reason: NOT_REACHED.to_owned(),
        },
    }
}

/// Why an arm did not run, until it does.
pub(crate) const NOT_REACHED: &str = "no metric of this run has come to it";

/// An arm, or why there is none.
pub(crate) enum Candidate {
    /// It can run as far as can be seen.
    Able(Box<dyn Arm>),
    /// It cannot; the entry's status says why.
    Unable(Box<results::Arm>),
}

impl Candidate {
    /// An arm that cannot run.
    pub(crate) fn unable(mut entry: results::Arm, reason: impl Into<String>) -> Self {
        entry.status = ArmStatus::NotRun {
            reason: reason.into(),
        };
        Self::Unable(Box::new(entry))
    }

    /// What the results say about it.
    pub(crate) fn about(&self) -> &results::Arm {
        match self {
            Self::Able(arm) => arm.about(),
            Self::Unable(entry) => entry,
        }
    }
}
