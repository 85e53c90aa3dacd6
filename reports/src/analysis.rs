//! From raw rounds to estimates: what each arm took on each metric, and what it cost against another arm.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::format;
use crate::results::{Arm, ArmKind, ArmStatus, CutOff, Direction, Metric, Results, Sample};
use crate::rules::{MARGIN, MIN_ROUNDS, Subject};
use crate::stats::{Bootstrap, Interval, LEVEL, Rng, geometric_mean, mad, median, quantile};

/// A median over rounds with what is needed to say how sure it is.
#[derive(Debug, Clone)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// Rounds it rests on.
    pub rounds: usize,
    bootstrap: Bootstrap,
}

impl Estimate {
    /// The 95 % interval; `None` with a single round.
    pub fn interval(&self) -> Option<Interval> {
        self.at(LEVEL)
    }

    /// The interval at another confidence.
    pub fn at(&self, level: f64) -> Option<Interval> {
        self.bootstrap.interval(level)
    }

    /// Whether there are too few rounds to decide anything.
    pub fn too_few(&self) -> bool {
        self.rounds < MIN_ROUNDS
    }
}

/// What one arm took on one metric, over its valid samples.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The median of all valid samples, with its interval over rounds.
    pub median: Estimate,
    /// Valid samples.
    pub samples: usize,
    /// Fresh instances they came from.
    pub instances: usize,
    /// The median of the distances from the median.
    pub mad: f64,
    /// Lower quartile.
    pub q1: f64,
    /// Upper quartile.
    pub q3: f64,
    /// The smallest sample.
    pub min: f64,
    /// The largest sample. Outliers are shown and never dropped.
    pub max: f64,
}

/// Why there is no figure where one was looked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Missing {
    /// No arm of that sort is in the run.
    NoArm(&'static str),
    /// The arm did not run.
    NotRun {
        /// The arm's label.
        arm: String,
        /// Why it did not run.
        reason: String,
    },
    /// The arm was not measured on this metric.
    NotMeasured {
        /// The arm's label.
        arm: String,
    },
    /// The arm was cut off.
    CutOff {
        /// The arm's label.
        arm: String,
        /// What ended it.
        why: String,
    },
    /// Every sample of the arm is void.
    AllVoid {
        /// The arm's label.
        arm: String,
    },
    /// There are samples, and no round in which a ratio can be taken.
    NoPairs,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoArm(what) => write!(f, "there is no {what} arm in this run"),
            Self::NotRun { arm, reason } => write!(f, "{arm} did not run: {reason}"),
            Self::NotMeasured { arm } => write!(f, "{arm} was not measured in this run"),
            Self::CutOff { arm, why } => write!(f, "{arm} was cut off: {why}"),
            Self::AllVoid { arm } => write!(f, "every sample of {arm} is void"),
            Self::NoPairs => write!(f, "no round has a positive value of both sides"),
        }
    }
}

/// What the A/A control says of a metric.
#[derive(Debug, Clone)]
pub enum Control {
    /// Native against native came out equal.
    Fine(Estimate),
    /// Native against native came out further apart than the margin.
    Off(Estimate),
    /// Too few rounds of the control to say.
    TooFew(Estimate),
    /// There is no figure for the control.
    Absent(String),
}

impl Control {
    /// The control's estimate, where there is one.
    pub fn estimate(&self) -> Option<&Estimate> {
        match self {
            Self::Fine(estimate) | Self::Off(estimate) | Self::TooFew(estimate) => Some(estimate),
            Self::Absent(_) => None,
        }
    }

    /// Why the metric cannot be decided in this run; `None` when the control is fine.
    pub fn objection(&self) -> Option<String> {
        match self {
            Self::Fine(_) => None,
            Self::Off(estimate) => Some(format!(
                "the A/A control, native against native, is off by more than the margin ({})",
                format::ratio_with_interval(estimate)
            )),
            Self::TooFew(estimate) => Some(format!(
                "the A/A control has {} rounds, and {MIN_ROUNDS} are needed",
                estimate.rounds
            )),
            Self::Absent(why) => Some(format!("there is no A/A control ({why})")),
        }
    }
}

/// Results with the arms' parts in the comparison found.
#[derive(Debug, Clone, Copy)]
pub struct Analysis<'a> {
    /// The results.
    pub results: &'a Results,
    seed: u64,
}

impl<'a> Analysis<'a> {
    /// Looks at `results`. Resampling is seeded by their `bootstrap` seed.
    pub fn new(results: &'a Results) -> Self {
        Self {
            results,
            seed: results.seeds.get("bootstrap").copied().unwrap_or(1),
        }
    }

    /// The bare process, the arm that ratios are taken to.
    pub fn native(&self) -> Option<&'a Arm> {
        self.subjects(Subject::Native).next()
    }

    /// The A/A control of the native arm.
    pub fn control_arm(&self) -> Option<&'a Arm> {
        let native = &self.native()?.id;
        self.results
            .arms
            .iter()
            .find(|arm| arm.control_of.as_ref() == Some(native))
    }

    /// The arms that a rule means by `subject`: neither controls nor twins, in the file's order.
    pub fn subjects(&self, subject: Subject) -> impl Iterator<Item = &'a Arm> + use<'a> {
        let kind = match subject {
            Subject::Native => ArmKind::Native,
            Subject::Container => ArmKind::Container,
            Subject::Vm => ArmKind::Vm,
            Subject::Toolbox => ArmKind::Toolbox,
        };
        self.results.arms.iter().filter(move |arm| {
            arm.kind == kind && arm.control_of.is_none() && arm.twin_of.is_none()
        })
    }

    /// The samples of an arm on a metric, each with its round's number.
    pub fn samples(&self, metric: &str, arm: &str) -> impl Iterator<Item = (u32, &'a Sample)> {
        self.results
            .rounds(metric)
            .iter()
            .flat_map(|round| round.samples.iter().map(|sample| (round.number, sample)))
            .filter(move |(_, sample)| sample.arm == arm)
    }

    /// The values that count, by round. An arm that was cut off has none: a cut-off is never a figure.
    fn rounds(&self, metric: &str, arm: &Arm) -> Result<BTreeMap<u32, Vec<f64>>, Missing> {
        let label = || arm.label.clone();
        if let ArmStatus::NotRun { reason } = &arm.status {
            return Err(Missing::NotRun {
                arm: label(),
                reason: reason.clone(),
            });
        }
        if let Some(cut) = self.results.cut_off(metric, &arm.id) {
            return Err(Missing::CutOff {
                arm: label(),
                why: describe_cut_off(cut),
            });
        }
        let mut rounds: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
        let mut any = false;
        for (round, sample) in self.samples(metric, &arm.id) {
            any = true;
            if let (Some(value), None) = (sample.value, &sample.void) {
                rounds.entry(round).or_default().push(value);
            }
        }
        match (any, rounds.is_empty()) {
            (false, _) => Err(Missing::NotMeasured { arm: label() }),
            (true, true) => Err(Missing::AllVoid { arm: label() }),
            (true, false) => Ok(rounds),
        }
    }

    /// How many samples of an arm on a metric are void.
    pub fn voids(&self, metric: &str, arm: &str) -> usize {
        self.samples(metric, arm)
            .filter(|(_, sample)| sample.void.is_some())
            .count()
    }

    /// What an arm took on a metric.
    pub fn summary(&self, metric: &Metric, arm: &Arm) -> Result<Summary, Missing> {
        let rounds: Vec<Vec<f64>> = self.rounds(&metric.id, arm)?.into_values().collect();
        let values: Vec<f64> = rounds.iter().flatten().copied().collect();
        let seed = Rng::derive(self.seed, &[&metric.id, &arm.id, "median"]);
        let missing = || Missing::NotMeasured {
            arm: arm.label.clone(),
        };
        let at = |q| quantile(&values, q).ok_or_else(missing);
        let instances: BTreeSet<u32> = self
            .samples(&metric.id, &arm.id)
            .filter(|(_, sample)| sample.void.is_none())
            .map(|(_, sample)| sample.instance)
            .collect();
        Ok(Summary {
            median: Estimate {
                value: at(0.5)?,
                rounds: rounds.len(),
                bootstrap: Bootstrap::of_rounds(&rounds, seed).ok_or_else(missing)?,
            },
            samples: values.len(),
            instances: instances.len(),
            mad: mad(&values).ok_or_else(missing)?,
            q1: at(0.25)?,
            q3: at(0.75)?,
            min: at(0.0)?,
            max: at(1.0)?,
        })
    }

    /// What `of` costs in units of what `to` costs: above 1 is worse, whichever way the metric goes.
    pub fn cost(&self, metric: &Metric, of: &Arm, to: &Arm) -> Result<Estimate, Missing> {
        let (of_rounds, to_rounds) = (self.rounds(&metric.id, of)?, self.rounds(&metric.id, to)?);
        let sign = match metric.direction {
            Direction::LowerIsBetter => 1.0,
            Direction::HigherIsBetter => -1.0,
        };
        let seed = Rng::derive(self.seed, &[&metric.id, &of.id, &to.id, "cost"]);
        paired(&of_rounds, &to_rounds, sign, seed)
    }

    /// One metric of an arm over another metric of the same arm.
    pub fn against(&self, metric: &Metric, other: &Metric, of: &Arm) -> Result<Estimate, Missing> {
        let seed = Rng::derive(self.seed, &[&metric.id, &other.id, &of.id, "against"]);
        paired(
            &self.rounds(&metric.id, of)?,
            &self.rounds(&other.id, of)?,
            1.0,
            seed,
        )
    }

    /// What the A/A control says of a metric.
    pub fn control(&self, metric: &Metric) -> Control {
        let (Some(native), Some(control)) = (self.native(), self.control_arm()) else {
            return Control::Absent("the run has no control arm".to_owned());
        };
        match self.cost(metric, control, native) {
            Err(missing) => Control::Absent(missing.to_string()),
            Ok(estimate) if estimate.too_few() => Control::TooFew(estimate),
            Ok(estimate) if (estimate.value - 1.0).abs() > MARGIN => Control::Off(estimate),
            Ok(estimate) => Control::Fine(estimate),
        }
    }
}

/// The median over rounds of one side over the other, in rounds where both sides have positive values.
fn paired(
    over: &BTreeMap<u32, Vec<f64>>,
    under: &BTreeMap<u32, Vec<f64>>,
    sign: f64,
    seed: u64,
) -> Result<Estimate, Missing> {
    let ratios: Vec<f64> = over
        .iter()
        .filter_map(|(round, over)| {
            let over = geometric_mean(over)?;
            let under = geometric_mean(under.get(round)?)?;
            let ratio = (over / under).powf(sign);
            (ratio.is_finite() && ratio > 0.0).then_some(ratio)
        })
        .collect();
    match (median(&ratios), Bootstrap::of_values(&ratios, seed)) {
        (Some(value), Some(bootstrap)) => Ok(Estimate {
            value,
            rounds: ratios.len(),
            bootstrap,
        }),
        _ => Err(Missing::NoPairs),
    }
}

/// A cut-off in a few words, with its budget.
pub(crate) fn describe_cut_off(cut: &CutOff) -> String {
    match cut.budget_ns {
        Some(budget) => format!(
            "{} (budget {})",
            cut.reason,
            format::duration(budget as f64)
        ),
        None => cut.reason.clone(),
    }
}
