//! Applies the decision rules to a run: yes, no, or not decided, with the evidence for it.

use std::fmt;

use crate::analysis::{Analysis, Estimate, Missing};
use crate::format;
use crate::results::{Arm, ArmKind, ArmStatus, Group, Metric, Results, Unit};
use crate::rules::{
    CLAIMS, Claim, Combine, Criterion, MARGIN, MIN_ROUNDS, Quantity, Subject, Test, Weight,
};
use crate::stats::{Interval, LEVEL};

mod words;

/// What a claim is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The claim holds.
    Yes,
    /// It does not.
    No,
    /// This run cannot tell.
    NotDecided,
}

impl Answer {
    /// The answer as the report words it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::NotDecided => "not decided",
        }
    }
}

/// The answer to one claim.
#[derive(Debug, Clone)]
pub struct Verdict<'a> {
    /// The claim.
    pub claim: &'static Claim,
    /// The answer; for a claim about virtual machines, what holds in general.
    pub finding: Finding<'a>,
    /// For a claim about virtual machines: what holds on this host only, one finding for each arm whose
    /// substrate is not hardware. Never a statement about virtual machines elsewhere.
    pub here: Vec<Here<'a>>,
}

/// What holds for one virtual machine on this host only.
#[derive(Debug, Clone)]
pub struct Here<'a> {
    /// The arm.
    pub arm: &'a Arm,
    /// What its figures say.
    pub finding: Finding<'a>,
}

/// The answer in lines for a terminal: the claim with its answer, the figure, the sentence, and what holds on
/// this host only.
impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Claim { id, statement, .. } = self.claim;
        write!(f, "{id} {statement}: {}", self.finding)?;
        for here in &self.here {
            let substrate = here.arm.substrate.as_ref().map_or("", |s| s.name.as_str());
            write!(
                f,
                "\n   on this host only, {} (not hardware: {substrate}): {}",
                here.arm.label, here.finding
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Finding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.answer.word())?;
        if let Some(figure) = &self.figure {
            write!(f, "; {} {}", figure.of, figure.text)?;
            if let Some(interval) = &figure.interval {
                write!(f, " (95 % interval {interval})")?;
            }
        }
        write!(f, ". {}", self.sentence)
    }
}

/// An answer with what it rests on.
#[derive(Debug, Clone)]
pub struct Finding<'a> {
    /// The answer.
    pub answer: Answer,
    /// The figure that speaks for it, where one was measured.
    pub figure: Option<Figure>,
    /// One plain sentence, or a few.
    pub sentence: String,
    /// Every comparison, in the order of the rules.
    pub evidence: Vec<Evidence<'a>>,
}

/// The figure beside an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// The figure, such as `1.003×` or `5.12 ms`.
    pub text: String,
    /// Its 95 % interval.
    pub interval: Option<String>,
    /// What it is the figure of.
    pub of: String,
}

/// One comparison.
#[derive(Debug, Clone)]
pub struct Evidence<'a> {
    /// The rule's test.
    pub test: &'static Test,
    /// The metric; absent when none of the sort was measured.
    pub metric: Option<&'a Metric>,
    /// The arm in question, where there is one.
    pub of: Option<&'a Arm>,
    /// The figure, where there is one.
    pub estimate: Option<Estimate>,
    /// What it says.
    pub outcome: Outcome,
}

/// What one comparison says of its claim.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It speaks for the claim.
    Supports,
    /// It speaks against it.
    Contradicts,
    /// It says neither, for this reason.
    Undecided(String),
}

impl Evidence<'_> {
    /// Whether it is part of the answer.
    pub fn decides(&self) -> bool {
        self.test.weight != Weight::Reported
    }

    /// Whether nothing of the sort was measured.
    fn is_absent(&self) -> bool {
        self.metric.is_none()
    }

    /// The figure as text: a ratio or a value in the metric's unit.
    pub fn figure_text(&self) -> Option<String> {
        let (estimate, metric) = (self.estimate.as_ref()?, self.metric?);
        Some(match self.test.quantity {
            Quantity::Value { .. } => format::value(estimate.value, metric.unit),
            _ => format::ratio(estimate.value),
        })
    }

    /// Its interval as text.
    pub fn interval_text(&self) -> Option<String> {
        let interval = self.estimate.as_ref()?.interval()?;
        Some(match self.test.quantity {
            Quantity::Value { .. } => format::value_interval(interval, self.metric?.unit),
            _ => format::ratio_interval(interval),
        })
    }
}

/// Answers every claim.
pub fn verdicts(results: &Results) -> Vec<Verdict<'_>> {
    let analysis = Analysis::new(results);
    CLAIMS
        .iter()
        .map(|claim| verdict(&analysis, claim))
        .collect()
}

/// Answers one claim.
pub fn verdict<'a>(analysis: &Analysis<'a>, claim: &'static Claim) -> Verdict<'a> {
    let machine_kind = machine_subject(claim);
    let machines: Vec<&'a Arm> = machine_kind
        .map(|subject| analysis.subjects(subject).collect())
        .unwrap_or_default();
    let fit = |arm: &&Arm| arm.ran() && (!claim.needs_hardware || !arm.is_emulated());
    // One that ran other work only says nothing of this claim.
    let fitting = || machines.iter().copied().filter(fit);
    let general = fitting()
        .find(|arm| is_measured(analysis, claim, arm))
        .or_else(|| fitting().next());
    let objection = match (claim.needs_hardware, machine_kind, general) {
        (true, Some(subject), None) => Some(no_hardware(subject, &machines)),
        _ => None,
    };
    let finding = find(analysis, claim, general, objection.as_deref(), None);
    let here = if claim.needs_hardware && measured_at_all(&finding) {
        machines
            .iter()
            .filter(|arm| arm.is_emulated() && arm.ran())
            .map(|&arm| Here {
                arm,
                finding: find(analysis, claim, Some(arm), None, Some(arm)),
            })
            .collect()
    } else {
        Vec::new()
    };
    Verdict {
        claim,
        finding,
        here,
    }
}

/// Whether any of a claim's metrics was measured on an arm.
fn is_measured(analysis: &Analysis<'_>, claim: &Claim, arm: &Arm) -> bool {
    let metrics = analysis.results.metrics.iter();
    let mut asked = metrics.filter(|metric| {
        let mut tests = claim.tests.iter();
        tests.any(|test| test.metrics.takes(&metric.id, metric.group))
    });
    asked.any(|metric| analysis.samples(&metric.id, &arm.id).next().is_some())
}

/// Which sort of virtual machine decides a claim, if one does.
fn machine_subject(claim: &Claim) -> Option<Subject> {
    claim
        .tests
        .iter()
        .map(|test| test.quantity.of())
        .find(|of| matches!(of, Subject::Vm | Subject::Toolbox))
}

/// Whether a test's figure involves a virtual machine.
fn is_of_machine(test: &Test) -> bool {
    let machine = |subject| matches!(subject, Subject::Vm | Subject::Toolbox);
    match test.quantity {
        Quantity::Cost { of, to } => machine(of) || machine(to),
        Quantity::Value { of } | Quantity::Against { of, .. } => machine(of),
    }
}

/// Why nothing can be said of virtual machines in general.
fn no_hardware(subject: Subject, machines: &[&Arm]) -> String {
    let ran: Vec<String> = machines
        .iter()
        .filter(|arm| arm.ran())
        .filter_map(|arm| arm.substrate.as_ref().map(|s| s.name.clone()))
        .collect();
    if !ran.is_empty() {
        return format!(
            "virtualization on this host is not in hardware ({}), so nothing measured here speaks for virtual machines \
             in general",
            format::list(&ran)
        );
    }
    let not_run = machines.iter().find_map(|arm| match &arm.status {
        ArmStatus::NotRun { reason } => Some(Missing::NotRun {
            arm: arm.label.clone(),
            reason: reason.clone(),
        }),
        ArmStatus::Ran => None,
    });
    not_run
        .unwrap_or(Missing::NoArm(words::subject(subject)))
        .to_string()
}

fn measured_at_all(finding: &Finding<'_>) -> bool {
    finding.evidence.iter().any(|e| !e.is_absent())
}

/// Weighs every test of a claim, with `machine` as the virtual machine. With an `objection`, tests that involve
/// a virtual machine are undecided for that reason. `here` is the machine when the finding is about it on this
/// host only.
fn find<'a>(
    analysis: &Analysis<'a>,
    claim: &'static Claim,
    machine: Option<&'a Arm>,
    objection: Option<&str>,
    here: Option<&Arm>,
) -> Finding<'a> {
    let mut rows: Vec<(&'static Test, Option<&'a Metric>)> = Vec::new();
    for test in claim.tests {
        let before = rows.len();
        rows.extend(
            analysis
                .results
                .metrics
                .iter()
                .filter(|metric| test.metrics.takes(&metric.id, metric.group))
                .map(|metric| (test, Some(metric))),
        );
        if rows.len() == before {
            rows.push((test, None));
        }
    }
    let comparisons = rows
        .iter()
        .filter(|(test, metric)| test.weight != Weight::Reported && metric.is_some())
        .count()
        .max(1);
    let evidence: Vec<Evidence<'a>> = rows
        .into_iter()
        .map(|(test, metric)| {
            let weigher = Weigher {
                analysis,
                claim,
                machine,
                family_level: 1.0 - (1.0 - LEVEL) / comparisons as f64,
            };
            weigher.weigh(test, metric, objection.filter(|_| is_of_machine(test)))
        })
        .collect();
    let answer = combine(claim.combine, &evidence);
    Finding {
        answer,
        figure: words::figure(claim, answer, here, &evidence),
        sentence: words::sentence(claim, answer, &evidence, objection),
        evidence,
    }
}

/// The answer that the evidence gives. What was not measured blocks an answer only where it is required.
fn combine(rule: Combine, evidence: &[Evidence<'_>]) -> Answer {
    let deciding = || {
        evidence
            .iter()
            .filter(|e| e.test.weight == Weight::Required || (e.decides() && !e.is_absent()))
    };
    let one = |outcome: &Outcome| deciding().any(|e| e.outcome == *outcome);
    let all = |outcome: &Outcome| {
        deciding().next().is_some() && deciding().all(|e| e.outcome == *outcome)
    };
    match rule {
        Combine::All if all(&Outcome::Supports) => Answer::Yes,
        Combine::All if one(&Outcome::Contradicts) => Answer::No,
        Combine::Any if one(&Outcome::Supports) => Answer::Yes,
        Combine::Any if all(&Outcome::Contradicts) => Answer::No,
        _ => Answer::NotDecided,
    }
}

struct Weigher<'a, 'b> {
    analysis: &'b Analysis<'a>,
    claim: &'static Claim,
    machine: Option<&'a Arm>,
    /// The confidence at which one comparison among all may settle the claim.
    family_level: f64,
}

impl<'a> Weigher<'a, '_> {
    fn weigh(
        &self,
        test: &'static Test,
        metric: Option<&'a Metric>,
        objection: Option<&str>,
    ) -> Evidence<'a> {
        let of = self.arm(test.quantity.of());
        let mut evidence = Evidence {
            test,
            metric,
            of,
            estimate: None,
            outcome: Outcome::Undecided(String::new()),
        };
        let Some(metric) = metric else {
            evidence.outcome = Outcome::Undecided(format!(
                "{} not measured in this run",
                words::selection(test.metrics)
            ));
            return evidence;
        };
        if let Some(objection) = objection {
            evidence.outcome = Outcome::Undecided(objection.to_owned());
            return evidence;
        }
        match self.estimate(test, metric) {
            Err(missing) => evidence.outcome = Outcome::Undecided(missing.to_string()),
            Ok(estimate) => {
                evidence.outcome = self.judge(test, metric, &estimate);
                evidence.estimate = Some(estimate);
            }
        }
        evidence
    }

    fn arm(&self, subject: Subject) -> Option<&'a Arm> {
        match subject {
            Subject::Vm | Subject::Toolbox if machine_subject(self.claim) == Some(subject) => {
                self.machine
            }
            // Two hops are held against one hop of the same kind of machine.
            _ if subject == Subject::Vm
                && self.machine.is_some_and(|arm| arm.kind == ArmKind::Toolbox) =>
            {
                let substrate = self.machine.and_then(|arm| arm.substrate.as_ref());
                let mut arms = self.analysis.subjects(subject);
                arms.find(|arm| arm.ran() && arm.substrate.as_ref() == substrate)
            }
            _ => {
                let mut arms = self.analysis.subjects(subject);
                let first = arms.next();
                first
                    .filter(|arm| arm.ran())
                    .or_else(|| arms.find(|arm| arm.ran()))
                    .or(first)
            }
        }
    }

    fn estimate(&self, test: &Test, metric: &'a Metric) -> Result<Estimate, Missing> {
        let arm = |subject| {
            self.arm(subject)
                .ok_or(Missing::NoArm(words::subject(subject)))
        };
        match test.quantity {
            Quantity::Cost { of, to } => self.analysis.cost(metric, arm(of)?, arm(to)?),
            Quantity::Value { of } => Ok(self.analysis.summary(metric, arm(of)?)?.median),
            Quantity::Against { of, metric: other } => {
                let of = arm(of)?;
                let other =
                    self.analysis
                        .results
                        .metric(other)
                        .ok_or_else(|| Missing::NotMeasured {
                            arm: format!("{other} of {}", of.label),
                        })?;
                self.analysis.against(metric, other, of)
            }
        }
    }

    fn judge(&self, test: &Test, metric: &Metric, estimate: &Estimate) -> Outcome {
        if let (Quantity::Value { .. }, Group::Start, unit) =
            (test.quantity, metric.group, metric.unit)
            && unit != Unit::Nanoseconds
        {
            return Outcome::Undecided("its unit is not nanoseconds".to_owned());
        }
        let (own, family) = if test.exact {
            let exactly = Interval {
                low: estimate.value,
                high: estimate.value,
            };
            (exactly, exactly)
        } else {
            if estimate.too_few() {
                return Outcome::Undecided(format!(
                    "{} rounds, and {MIN_ROUNDS} are needed",
                    estimate.rounds
                ));
            }
            if let Some(objection) = self.analysis.control(metric).objection() {
                return Outcome::Undecided(objection);
            }
            match (estimate.interval(), estimate.at(self.family_level)) {
                (Some(own), Some(family)) => (own, family),
                _ => return Outcome::Undecided("there is no interval".to_owned()),
            }
        };
        // The side on which a single comparison settles the claim is held to the family's confidence.
        let (supporting, contradicting) = match self.claim.combine {
            Combine::All => (own, family),
            Combine::Any => (family, own),
        };
        let equal = |i: Interval| i.within(1.0 - MARGIN, 1.0 + MARGIN);
        let lost = |i: Interval| i.low > 1.0 + MARGIN;
        let (supports, contradicts) = match test.criterion {
            Criterion::NoLoss => (equal(supporting), lost(contradicting)),
            Criterion::Loss => (lost(supporting), equal(contradicting)),
            Criterion::Below(bound) => (supporting.high < bound, contradicting.low > bound),
            Criterion::Above(bound) => (supporting.low > bound, contradicting.high < bound),
        };
        match (supports, contradicts) {
            (true, _) => Outcome::Supports,
            (_, true) => Outcome::Contradicts,
            _ => Outcome::Undecided(words::straddle(test, metric, own)),
        }
    }
}
