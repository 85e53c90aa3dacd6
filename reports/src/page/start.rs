//! The sections about starting: how long it takes, and where the time goes.

use maud::{Markup, html};

use super::plot::distribution::Strip;
use super::plot::stages::{Bar, Segment};
use super::plot::{self, cumulative, figure, stages, strips};
use super::sections::twin_costs;
use super::table;
use super::theme::Ink;
use super::{View, badge};
use crate::Error;
use crate::format;
use crate::results::ArmStatus::NotRun;
use crate::results::{Arm, ArmKind, Group, Metric, Timeline};
use crate::stats::median;

/// Time to the first byte and to exit: plots, table, and what each arm does not do.
pub(crate) fn start(view: &View<'_>) -> Result<Markup, Error> {
    let metrics = view.metrics(Group::Start);
    if metrics.is_empty() {
        return Ok(html! {});
    }
    let mut figures = Vec::new();
    for (index, metric) in metrics.iter().enumerate() {
        let rows = strips_of(view, metric);
        if rows.is_empty() {
            continue;
        }
        let unit = metric.unit;
        let medians: Vec<String> = rows
            .iter()
            .map(|r| format!("{} {}", r.label, format::value(r.median, unit)))
            .collect();
        let alt = format!("{}, medians: {}.", metric.title, medians.join(", "));
        let caption = html! {
            strong { (metric.title) } ". Each dot is a start; the stroke is the median and the bar its 95 % interval. \
            Logarithmic axis."
        };
        let drawn = figure(&metric.title, &alt, caption, |f| strips(f, &rows, unit))?;
        let also = if index == 0 {
            let alt = format!("{}, cumulative: {}.", metric.title, medians.join(", "));
            let caption = html! {
                strong { (metric.title) } ": the share of starts that took at most so long. Steps far to the right are \
                the slow ones that a median hides."
            };
            figure(&metric.title, &alt, caption, |f| cumulative(f, &rows, unit))?
        } else {
            html! {}
        };
        // The first plot is in sight; the other conditions are one fold away.
        figures.push(if index < 2 {
            html! { (drawn) (also) }
        } else {
            html! { details { summary { "Plot: " (metric.title) } (drawn) } }
        });
    }
    let peers: Vec<&Arm> = view
        .results
        .arms
        .iter()
        .filter(|arm| !arm.omits.is_empty() || !arm.ran() || arm.kind == ArmKind::Peer)
        .collect();
    Ok(html! {
        section #start {
            h2 { "Start" }
            p { "From just before the launcher is spawned to the workload's first byte of output, and to the launcher's exit." }
            @for figure in figures { (figure) }
            (table::samples(view, &metrics, "start"))
            (twin_costs(view, &metrics))
            @if !peers.is_empty() {
                h3 { "What arms do not do" }
                div.scroll tabindex="0" role="region" aria-label="What arms do not do" {
                    table {
                        thead { tr { th scope="col" { "Arm" } th scope="col" { "Does not do" } th scope="col" { "Version" } } }
                        tbody { @for arm in peers { (omits_row(arm)) } }
                    }
                }
            }
        }
    })
}

fn omits_row(arm: &Arm) -> Markup {
    let versions: Vec<String> = arm.versions.values().cloned().collect();
    html! {
        tr data-arm=(arm.id) data-label=(arm.label) {
            th.arm scope="row" style={ "--ink:var(--" (Ink::of(arm).name()) ")" } { (arm.label) (badge(arm)) }
            @match &arm.status {
                NotRun { reason } => { td.none { "not run: " (reason) } }
                _ if arm.omits.is_empty() => { td.none { "nothing noted" } }
                _ => { td { (format::list(&arm.omits)) } }
            }
            td { (versions.join(", ")) }
        }
    }
}

fn strips_of(view: &View<'_>, metric: &Metric) -> Vec<Strip> {
    view.arms_on(metric)
        .into_iter()
        .filter(|arm| arm.control_of.is_none())
        .filter_map(|arm| {
            let summary = view.analysis.summary(metric, arm).ok()?;
            let values: Vec<f64> = view
                .analysis
                .samples(&metric.id, &arm.id)
                .filter(|(_, sample)| sample.void.is_none())
                .filter_map(|(_, sample)| sample.value)
                .filter(|value| *value > 0.0)
                .collect();
            (!values.is_empty()).then(|| Strip {
                label: arm.label.clone(),
                badge: arm.is_emulated().then(|| "not hw".to_owned()),
                ink: Ink::of(arm),
                values,
                median: summary.median.value,
                interval: summary.median.interval(),
            })
        })
        .collect()
}

/// Where the time of a start goes.
pub(crate) fn stages_section(view: &View<'_>) -> Result<Markup, Error> {
    let mut groups: Vec<(&Arm, &str, Vec<&Timeline>)> = Vec::new();
    for timeline in &view.results.timelines {
        let known = groups
            .iter_mut()
            .find(|(arm, condition, _)| arm.id == timeline.arm && *condition == timeline.condition);
        match (known, view.results.arm(&timeline.arm)) {
            (Some((_, _, runs)), _) => runs.push(timeline),
            (None, Some(arm)) => groups.push((arm, &timeline.condition, vec![timeline])),
            (None, None) => {}
        }
    }
    if groups.is_empty() {
        return Ok(html! {});
    }
    let rows: Vec<(&Arm, &str, usize, Bar)> = groups
        .into_iter()
        .map(|(arm, condition, runs)| {
            let count = runs.len();
            let emulated = if arm.is_emulated() { " [not hw]" } else { "" };
            let bar = Bar {
                label: format!("{}, {condition}{emulated}", plot::short(&arm.label, 25)),
                ink: Ink::of(arm),
                segments: segments(&runs),
            };
            (arm, condition, count, bar)
        })
        .collect();
    let bars: Vec<&Bar> = rows.iter().map(|(.., bar)| bar).collect();
    let alt = bars
        .iter()
        .map(|bar| {
            let parts: Vec<String> = bar
                .segments
                .iter()
                .map(|s| format!("{} {}", s.name, format::duration(s.ns)))
                .collect();
            format!("{}: {}", bar.label, parts.join(", "))
        })
        .collect::<Vec<_>>()
        .join(". ");
    let caption = html! {
        "Where the time goes between the launcher's spawn and its exit, by timestamps that the stages take themselves: \
         medians over single starts. Each bar has a scale of its own; its total stands at its end."
    };
    let drawn = figure("the stages of a start", &alt, caption, |f| stages(f, &bars))?;
    Ok(html! {
        section #stages {
            h2 { "Stages of a start" }
            (drawn)
            div.scroll tabindex="0" role="region" aria-label="Table: stages of a start" {
                table {
                    thead { tr {
                        th scope="col" { "Arm" } th scope="col" { "Condition" }
                        th scope="col" { "Stages (medians)" } th.n scope="col" { "Starts" }
                    } }
                    tbody {
                        @for (arm, condition, count, bar) in &rows {
                            tr data-stages-arm=(arm.id) {
                                th.arm scope="row" style={ "--ink:var(--" (bar.ink.name()) ")" } { (arm.label) (badge(arm)) }
                                td { (condition) }
                                td { ol.stages { @for segment in &bar.segments {
                                    li { (segment.name) " " b { (format::duration(segment.ns)) } }
                                } } }
                                td.n { (count) }
                            }
                        }
                    }
                }
            }
        }
    })
}

/// The median length of each stage over several starts, in the order of the first one.
fn segments(runs: &[&Timeline]) -> Vec<Segment> {
    let spans = |run: &Timeline| -> Vec<(String, f64)> {
        let mut before = 0;
        let ends = run.stages.iter().map(|s| (s.name.clone(), s.end_ns));
        let tail = [("first byte", run.first_byte_ns), ("exit", run.exit_ns)];
        ends.chain(
            tail.into_iter()
                .filter_map(|(n, at)| Some((n.to_owned(), at?))),
        )
        .map(|(name, end)| {
            let span = end.saturating_sub(before);
            before = before.max(end);
            (name, span as f64)
        })
        .collect()
    };
    let all: Vec<Vec<(String, f64)>> = runs.iter().map(|run| spans(run)).collect();
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in all.iter().flatten() {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
        .into_iter()
        .filter_map(|name| {
            let spans: Vec<f64> = all
                .iter()
                .flatten()
                .filter(|(n, _)| n == name)
                .map(|(_, ns)| *ns)
                .collect();
            Some(Segment {
                name: name.clone(),
                ns: median(&spans)?,
            })
        })
        .collect()
}
