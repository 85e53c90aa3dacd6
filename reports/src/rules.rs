//! The decision rules, as data: what answers each claim, fixed before anything is measured.
//!
//! This file is the whole of them; [`crate::verdict`] applies them and adds none of its own. A change here is a
//! change of what the report may say, and belongs in a commit of its own.
//!
//! **How intervals combine.** A claim that must hold everywhere ([`Combine::All`]) is answered yes when every
//! comparison supports it by its own 95 % interval; no correction is needed, because a false yes needs all of
//! them to err (an intersection–union test; Berger, Technometrics 24, 1982). It is answered no as soon as one
//! comparison contradicts it, and there the chance of error does add up, so that one must do so at the
//! confidence 1 − 0.05/k, k being the number of comparisons (Bonferroni). For a claim that one comparison can
//! establish ([`Combine::Any`]) the two sides change places. Everything else is not decided.

use crate::results::{Group, MetricId, metric_id};

/// "No loss" means a cost within 5 % of native's, on either side.
pub const MARGIN: f64 = 0.05;

/// With fewer rounds the answer is "not decided".
pub const MIN_ROUNDS: usize = 10;

/// The longest delay that people take for none, nanoseconds: 0.1 s (Miller, "Response time in man-computer
/// conversational transactions", 1968; Nielsen, "Usability Engineering", 1993). "At once" means below it.
pub const AT_ONCE_NS: f64 = 100e6;

/// Whose figure is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The bare process.
    Native,
    /// Plimsoll's container as users get it, with the seccomp filter.
    Container,
    /// Plimsoll's virtual machine. Each accelerator is judged by itself.
    Vm,
    /// The container engine inside the virtual machine.
    Toolbox,
}

/// Which metrics a test is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Select {
    /// Every metric of a group.
    Group(Group),
    /// One metric.
    Id(&'static str),
}

impl Select {
    /// Whether this metric is meant.
    pub fn takes(&self, id: &MetricId, group: Group) -> bool {
        match self {
            Self::Group(wanted) => group == *wanted,
            Self::Id(wanted) => id == wanted,
        }
    }
}

/// What is held against the criterion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// What `of` costs in units of what `to` costs, paired by round: 1 is equal, above 1 is worse. For a
    /// metric where more is better it is the ratio turned over.
    Cost {
        /// The arm in question.
        of: Subject,
        /// The arm it is held against.
        to: Subject,
    },
    /// The median itself.
    Value {
        /// The arm in question.
        of: Subject,
    },
    /// The metric over another metric of the same arm, paired by round.
    Against {
        /// The arm in question.
        of: Subject,
        /// The other metric.
        metric: &'static str,
    },
}

impl Quantity {
    /// The arm in question.
    pub fn of(&self) -> Subject {
        match self {
            Self::Cost { of, .. } | Self::Value { of } | Self::Against { of, .. } => *of,
        }
    }
}

/// What supports a claim and what contradicts it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Criterion {
    /// Supports: the whole interval within [`MARGIN`] of 1. Contradicts: the whole interval above it. A gain
    /// beyond the margin is neither: equal work cannot be done faster inside, so something else differs.
    NoLoss,
    /// [`Criterion::NoLoss`] turned round.
    Loss,
    /// Supports: the whole interval below the bound. Contradicts: the whole interval above it.
    Below(f64),
    /// [`Criterion::Below`] turned round.
    Above(f64),
}

/// How much a test counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Decides, and without it there is no yes.
    Required,
    /// Decides where it was measured; the answer says so where it was not.
    WhereMeasured,
    /// Shown beside the answer and never part of it.
    Reported,
}

/// One comparison, over every metric it selects.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Test {
    /// The metrics.
    pub metrics: Select,
    /// What is compared.
    pub quantity: Quantity,
    /// What it is held against.
    pub criterion: Criterion,
    /// How much it counts.
    pub weight: Weight,
    /// A count that does not vary (bytes of an image): needs neither rounds nor a control.
    pub exact: bool,
}

/// How the tests of a claim combine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combine {
    /// Yes when all support; no when one contradicts.
    All,
    /// Yes when one supports; no when all contradict.
    Any,
}

/// One claim of mission.md with all that decides it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Claim {
    /// C1 to C7.
    pub id: &'static str,
    /// The claim in the words of the notes.
    pub statement: &'static str,
    /// How the tests combine.
    pub combine: Combine,
    /// The tests. The headline's figure is taken from the first one's metrics.
    pub tests: &'static [Test],
    /// Whether what it says of virtual machines holds in general only on virtualization in hardware.
    pub needs_hardware: bool,
    /// What yes means, as the beginning of a sentence.
    pub yes: &'static str,
    /// What no means, as the beginning of a sentence.
    pub no: &'static str,
    /// The rule in plain words, for the method section.
    pub rule: &'static str,
}

const fn cost(group: Group, of: Subject, criterion: Criterion, weight: Weight) -> Test {
    Test {
        metrics: Select::Group(group),
        quantity: Quantity::Cost {
            of,
            to: Subject::Native,
        },
        criterion,
        weight,
        exact: false,
    }
}

const fn one(
    metric: &'static str,
    quantity: Quantity,
    criterion: Criterion,
    weight: Weight,
) -> Test {
    Test {
        metrics: Select::Id(metric),
        quantity,
        criterion,
        weight,
        exact: false,
    }
}

const fn exact(test: Test) -> Test {
    Test {
        exact: true,
        ..test
    }
}

use Criterion::{Above, Below, Loss, NoLoss};
use Subject::{Container, Native, Toolbox, Vm};
use Weight::{Reported, Required, WhereMeasured};

const CONTAINER_VALUE: Quantity = Quantity::Value { of: Container };
const VM_VALUE: Quantity = Quantity::Value { of: Vm };

/// Every claim, in the order the report answers them.
pub const CLAIMS: [Claim; 7] = [
    Claim {
        id: "C1",
        statement: "Containers lose almost no performance",
        combine: Combine::All,
        tests: &[
            cost(Group::Cpu, Container, NoLoss, Required),
            cost(Group::Memory, Container, NoLoss, Required),
            cost(Group::File, Container, NoLoss, Required),
            cost(Group::Network, Container, NoLoss, WhereMeasured),
            cost(Group::Application, Container, NoLoss, WhereMeasured),
            cost(Group::Kernel, Container, NoLoss, Reported),
        ],
        needs_hardware: false,
        yes: "Work in a container costs what it costs natively, within 5 %",
        no: "Work in a container costs more than natively, by more than 5 %",
        rule: "Yes when the 95 % interval of container ÷ native lies wholly within ±5 % for every metric of CPU, \
               memory and file work, and of network and application work where measured. No when one of them lies \
               wholly above +5 %, at the confidence that the number of metrics asks for. Kernel entry is reported and \
               not held to the margin.",
    },
    Claim {
        id: "C2",
        statement: "Virtual machines lose performance",
        combine: Combine::Any,
        tests: &[
            cost(Group::Cpu, Vm, Loss, Required),
            cost(Group::Memory, Vm, Loss, Required),
            cost(Group::File, Vm, Loss, Required),
            cost(Group::Network, Vm, Loss, WhereMeasured),
            cost(Group::Application, Vm, Loss, WhereMeasured),
            cost(Group::Kernel, Vm, Loss, Reported),
        ],
        needs_hardware: true,
        yes: "Work in a virtual machine costs more than natively, by more than 5 %",
        no: "Work in a virtual machine costs what it costs natively, within 5 %",
        rule: "Yes when the interval of vm ÷ native lies wholly above +5 % for one metric of CPU, memory, file, network \
               or application work at the confidence that the number of metrics asks for. No when all of them lie \
               wholly within ±5 %. Kernel entry is reported. In general only on virtualization in hardware.",
    },
    Claim {
        id: "C3",
        statement: "Containers start at once, virtual machines do not",
        combine: Combine::All,
        tests: &[
            one(
                metric_id::START_WARM_FIRST_BYTE,
                CONTAINER_VALUE,
                Below(AT_ONCE_NS),
                Required,
            ),
            one(
                metric_id::START_WARM_EXIT,
                CONTAINER_VALUE,
                Below(AT_ONCE_NS),
                Required,
            ),
            one(
                metric_id::START_COLD_FIRST_BYTE,
                CONTAINER_VALUE,
                Below(AT_ONCE_NS),
                WhereMeasured,
            ),
            one(
                metric_id::START_WARM_FIRST_BYTE,
                VM_VALUE,
                Above(AT_ONCE_NS),
                Required,
            ),
            one(
                metric_id::START_COLD_FIRST_BYTE,
                VM_VALUE,
                Above(AT_ONCE_NS),
                WhereMeasured,
            ),
            one(
                metric_id::START_RESTORED_FIRST_BYTE,
                VM_VALUE,
                Above(AT_ONCE_NS),
                Reported,
            ),
            one(
                metric_id::START_PARALLEL_FIRST_BYTE,
                CONTAINER_VALUE,
                Below(AT_ONCE_NS),
                Reported,
            ),
            one(
                metric_id::START_PARALLEL_FIRST_BYTE,
                VM_VALUE,
                Above(AT_ONCE_NS),
                Reported,
            ),
        ],
        needs_hardware: true,
        yes: "A container starts within 0.1 s, which people take for at once, and a virtual machine does not",
        no: "It is not so that a container starts within 0.1 s and a virtual machine does not",
        rule: "Yes when the interval of the container's median time to the first byte and to exit lies wholly below \
               100 ms (the longest delay that people take for none), and that of the virtual machine's first byte wholly \
               above it, warm, and cold where measured. No when one of them lies wholly on the other side. Restored and \
               parallel starts are reported. For virtual machines in general only on virtualization in hardware.",
    },
    Claim {
        id: "C4",
        statement: "No kernel inside makes images small",
        combine: Combine::All,
        tests: &[
            exact(one(
                metric_id::SHIPPED,
                Quantity::Cost {
                    of: Vm,
                    to: Container,
                },
                Above(1.0 + MARGIN),
                Required,
            )),
            exact(one(
                metric_id::ON_DISK,
                Quantity::Cost {
                    of: Vm,
                    to: Container,
                },
                Above(1.0 + MARGIN),
                Required,
            )),
        ],
        needs_hardware: false,
        yes: "The same application takes more bytes with a kernel than without",
        no: "The same application takes no more bytes with a kernel than without",
        rule: "Yes when the bytes to ship and the bytes on disk for the same application are both more than 5 % larger \
               for the virtual machine. No when one of them is not.",
    },
    Claim {
        id: "C5",
        statement: "Shared layers make deploying fast",
        combine: Combine::All,
        tests: &[
            exact(one(
                metric_id::SECOND_MOVED,
                Quantity::Against {
                    of: Container,
                    metric: metric_id::FIRST_MOVED,
                },
                Below(0.5),
                Required,
            )),
            one(
                metric_id::SECOND_DEPLOY,
                Quantity::Against {
                    of: Container,
                    metric: metric_id::FIRST_DEPLOY,
                },
                Below(0.5),
                Required,
            ),
        ],
        needs_hardware: false,
        yes: "A second image on a base that is there moves less than half the bytes and takes less than half the time",
        no: "A second image on a base that is there does not save half the bytes and half the time",
        rule: "Yes when a second image on a base that is already there moves less than half the bytes of the first and \
               takes less than half its time (whole interval). No when one of them is above half.",
    },
    Claim {
        id: "C6",
        statement: "Microservices cost little when each is a container",
        combine: Combine::All,
        tests: &[
            one(
                "scale.replica-memory",
                Quantity::Against {
                    of: Container,
                    metric: "scale.monolith-memory",
                },
                Below(0.1),
                Required,
            ),
            one(
                "scale.replica-first-byte",
                CONTAINER_VALUE,
                Below(AT_ONCE_NS),
                Required,
            ),
            one(
                "scale.services-latency",
                Quantity::Against {
                    of: Container,
                    metric: "scale.monolith-latency",
                },
                Below(2.0),
                Required,
            ),
            one("scale.replica-memory", VM_VALUE, Above(0.0), Reported),
            one(
                "scale.replica-first-byte",
                VM_VALUE,
                Above(AT_ONCE_NS),
                Reported,
            ),
        ],
        needs_hardware: true,
        yes: "One more replica as a container costs less than a tenth of the monolith's memory, starts within 0.1 s, and \
              the services answer in less than twice the monolith's time",
        no: "A replica's memory, its start or the services' latency is more than little",
        rule: "Yes when one more replica takes less than a tenth of the monolith's memory and starts within 100 ms, and \
               the services' request latency is less than twice the monolith's (whole intervals). No when one of them \
               lies wholly above. Figures for virtual machines are reported; in general only on virtualization in \
               hardware.",
    },
    Claim {
        id: "C7",
        statement: "Toolbox's double forwarding costs more than one hop",
        combine: Combine::Any,
        tests: &[
            one(
                "network.published.latency",
                Quantity::Cost {
                    of: Toolbox,
                    to: Vm,
                },
                Loss,
                Required,
            ),
            one(
                "network.published.throughput",
                Quantity::Cost {
                    of: Toolbox,
                    to: Vm,
                },
                Loss,
                Required,
            ),
            one(
                "network.published.latency",
                Quantity::Cost {
                    of: Container,
                    to: Native,
                },
                Loss,
                Reported,
            ),
        ],
        needs_hardware: true,
        yes: "Two hops cost more than one, by more than 5 %",
        no: "Two hops cost what one costs, within 5 %",
        rule: "Yes when latency or throughput through two hops (a container inside the virtual machine) costs more than \
               through one (the virtual machine) by more than 5 % (whole interval). No when both lie within ±5 %. In \
               general only on virtualization in hardware.",
    },
];
