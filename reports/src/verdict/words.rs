//! The sentences of a verdict.

use super::{Answer, Evidence, Figure, Outcome};
use crate::format;
use crate::results::{Arm, Group, Metric};
use crate::rules::{Claim, Combine, Criterion, MARGIN, Quantity, Select, Subject, Test, Weight};
use crate::stats::Interval;

/// How many metrics or reasons a sentence names before it counts the rest.
const NAMED: usize = 5;

pub(super) fn subject(subject: Subject) -> &'static str {
    match subject {
        Subject::Native => "native",
        Subject::Container => "container",
        Subject::Vm => "virtual machine",
        Subject::Toolbox => "toolbox",
    }
}

/// What a selection is called, with the verb that agrees with it.
pub(super) fn selection(select: Select) -> String {
    match select {
        Select::Group(group) => format!("{} was", group_name(group)),
        Select::Id(id) => format!("{id} was"),
    }
}

fn group_name(group: Group) -> &'static str {
    match group {
        Group::Start => "start",
        Group::Footprint => "memory per instance",
        Group::Cpu => "CPU work",
        Group::Memory => "memory work",
        Group::Kernel => "kernel entry",
        Group::File => "file work",
        Group::Network => "network work",
        Group::Application => "application work",
        Group::Image => "image size",
        Group::Scale => "scale",
    }
}

/// Why an interval says neither.
pub(super) fn straddle(test: &Test, metric: &Metric, interval: Interval) -> String {
    match test.criterion {
        Criterion::NoLoss | Criterion::Loss if interval.high < 1.0 - MARGIN => format!(
            "it costs less than natively ({}), which equal work cannot: something else differs",
            format::ratio_interval(interval)
        ),
        Criterion::NoLoss | Criterion::Loss => format!(
            "the interval {} is not wholly on one side of the margin",
            format::ratio_interval(interval)
        ),
        Criterion::Below(bound) | Criterion::Above(bound) => match test.quantity {
            Quantity::Value { .. } => format!(
                "the interval {} is not wholly on one side of {}",
                format::value_interval(interval, metric.unit),
                format::value(bound, metric.unit)
            ),
            _ => format!(
                "the interval {} is not wholly on one side of {}",
                format::ratio_interval(interval),
                format::ratio(bound)
            ),
        },
    }
}

/// The figure that stands beside the answer: the one that lies furthest from equal for ratios, the first for
/// values; of those that speak for the answer where there are any.
pub(super) fn figure(
    claim: &Claim,
    answer: Answer,
    here: Option<&Arm>,
    evidence: &[Evidence<'_>],
) -> Option<Figure> {
    let telling = match (answer, claim.combine) {
        (Answer::Yes, _) => Some(Outcome::Supports),
        (Answer::No, _) => Some(Outcome::Contradicts),
        (Answer::NotDecided, _) => None,
    };
    let measured = || {
        evidence
            .iter()
            .filter(|e| e.decides() && e.estimate.is_some())
    };
    let chosen = if is_of_values(claim) {
        // On this host only: the machine's own figure says more than the container's.
        measured()
            .find(|e| here.is_some_and(|m| e.of.is_some_and(|of| of.id == m.id)))
            .or_else(|| measured().find(|e| telling.as_ref().is_none_or(|t| e.outcome == *t)))
    } else {
        let distance = |e: &&Evidence<'_>| e.estimate.as_ref().map_or(0.0, |s| s.value.ln().abs());
        measured()
            .filter(|e| telling.as_ref().is_none_or(|t| e.outcome == *t))
            .max_by(|a, b| distance(a).total_cmp(&distance(b)))
    }?;
    let count = measured().count();
    let label = chosen.of.map_or("", |arm| arm.label.as_str());
    let title = chosen.metric.map_or("", |metric| metric.title.as_str());
    let of = match chosen.test.quantity {
        Quantity::Value { .. } => format!("{label}: {title}"),
        Quantity::Cost { to, .. } if count > 1 => format!(
            "{label} ÷ {}: {title}, the furthest from equal of {count} metrics",
            subject(to)
        ),
        Quantity::Cost { to, .. } => format!("{label} ÷ {}: {title}", subject(to)),
        Quantity::Against { metric, .. } => format!("{label}: {title} ÷ {metric}"),
    };
    Some(Figure {
        text: chosen.figure_text()?,
        interval: chosen.interval_text(),
        of,
    })
}

/// Whether a claim's headline is a value with a unit and not a ratio.
fn is_of_values(claim: &Claim) -> bool {
    claim
        .tests
        .first()
        .is_some_and(|test| matches!(test.quantity, Quantity::Value { .. }))
}

pub(super) fn sentence(
    claim: &Claim,
    answer: Answer,
    evidence: &[Evidence<'_>],
    objection: Option<&str>,
) -> String {
    let with = |outcome: Outcome| -> Vec<&Evidence<'_>> {
        evidence
            .iter()
            .filter(|e| e.decides() && e.outcome == outcome)
            .collect()
    };
    let (supporting, contradicting) = (with(Outcome::Supports), with(Outcome::Contradicts));
    let mut text = match (answer, claim.combine) {
        (Answer::Yes, Combine::All) if is_of_values(claim) => {
            format!("{}. {}.", claim.yes, name(&supporting))
        }
        (Answer::Yes, Combine::All) => format!("{}, {}.", claim.yes, in_all(supporting.len())),
        (Answer::No, Combine::Any) => format!("{}, {}.", claim.no, in_all(contradicting.len())),
        (Answer::Yes, Combine::Any) => {
            let mut text = format!("{}: {}.", claim.yes, name(&supporting));
            if !contradicting.is_empty() {
                text += &format!(" Not so for {}.", name(&contradicting));
            }
            text
        }
        (Answer::No, Combine::All) => format!("{}: {}.", claim.no, name(&contradicting)),
        (Answer::NotDecided, combine) => not_decided(evidence, objection, combine),
    };
    let unmeasured: Vec<String> = evidence
        .iter()
        .filter(|e| e.test.weight == Weight::WhereMeasured && e.is_absent())
        .map(|e| match e.test.metrics {
            Select::Group(group) => group_name(group).to_owned(),
            Select::Id(id) => id.to_owned(),
        })
        .fold(Vec::new(), |mut names, name| {
            if !names.contains(&name) {
                names.push(name);
            }
            names
        });
    if answer != Answer::NotDecided && !unmeasured.is_empty() {
        text += &format!(" Not part of this run: {}.", format::list(&unmeasured));
    }
    text
}

fn in_all(count: usize) -> String {
    match count {
        1 => "in the one comparison".to_owned(),
        _ => format!("in all {count} comparisons"),
    }
}

/// Metrics with their figures: ratios with the most telling first, values in the order of the rules.
fn name(evidence: &[&Evidence<'_>]) -> String {
    let mut sorted = evidence.to_vec();
    let distance = |e: &Evidence<'_>| match (e.test.quantity, &e.estimate) {
        (Quantity::Value { .. }, _) | (_, None) => 0.0,
        (_, Some(estimate)) => estimate.value.ln().abs(),
    };
    sorted.sort_by(|a, b| distance(b).total_cmp(&distance(a)));
    let mut named: Vec<String> = sorted
        .iter()
        .take(NAMED)
        .map(|e| {
            let title = e.metric.map_or("", |metric| metric.title.as_str());
            let figure = e.figure_text().unwrap_or_default();
            match (e.test.quantity, e.of) {
                (Quantity::Value { .. }, Some(arm)) => format!("{title}: {} {figure}", arm.label),
                _ => format!("{title} ({figure})"),
            }
        })
        .collect();
    if sorted.len() > NAMED {
        named.push(format!("{} more", sorted.len() - NAMED));
    }
    // Titles have commas of their own.
    named.join("; ")
}

fn not_decided(evidence: &[Evidence<'_>], objection: Option<&str>, combine: Combine) -> String {
    let deciding: Vec<&Evidence<'_>> = evidence
        .iter()
        .filter(|e| e.test.weight == Weight::Required || (e.decides() && !e.is_absent()))
        .collect();
    if deciding.iter().all(|e| e.is_absent()) {
        return "Not decided: not measured in this run.".to_owned();
    }
    let mut text = match objection {
        Some(objection) => format!("Not decided in general: {objection}."),
        None => {
            // Metrics that are undecided for the same reason are named together.
            let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
            for e in &deciding {
                if let Outcome::Undecided(reason) = &e.outcome {
                    let title = e.metric.map(|metric| metric.title.clone());
                    match reasons.iter_mut().find(|(known, _)| known == reason) {
                        Some((_, titles)) => titles.extend(title),
                        None => reasons.push((reason, title.into_iter().collect())),
                    }
                }
            }
            let mut named: Vec<String> = reasons
                .iter()
                .take(NAMED)
                .map(|(reason, titles)| match titles.as_slice() {
                    [] => (*reason).to_owned(),
                    titles if titles.len() <= NAMED => {
                        format!("{}: {reason}", format::list(titles))
                    }
                    titles => format!("{} metrics: {reason}", titles.len()),
                })
                .collect();
            if reasons.len() > NAMED {
                named.push(format!("and {} more", reasons.len() - NAMED));
            }
            format!("Not decided. {}.", capitalised(&named.join("; ")))
        }
    };
    let settled: Vec<&Evidence<'_>> = deciding
        .iter()
        .copied()
        .filter(|e| match combine {
            Combine::All => e.outcome == Outcome::Supports,
            Combine::Any => e.outcome == Outcome::Contradicts,
        })
        .collect();
    if !settled.is_empty() {
        let says = match combine {
            Combine::All => "for it",
            Combine::Any => "against it",
        };
        text += &format!(
            " {} of {} comparisons speak {says}: {}.",
            settled.len(),
            deciding.len(),
            name(&settled)
        );
    }
    text
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}
