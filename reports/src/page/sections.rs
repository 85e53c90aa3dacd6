//! A section for each sort of metric: its plot, what it means, its table.

use maud::{Markup, html};

use super::plot::distribution::Strip;
use super::plot::forest::{Block, Mark};
use super::plot::memory::Slope;
use super::plot::stages::{Bar, Segment};
use super::plot::{cumulative, figure, forest, memory, stages, strips};
use super::table;
use super::theme::Ink;
use super::{View, badge};
use crate::Error;
use crate::analysis::describe_cut_off;
use crate::format;
use crate::results::{Arm, ArmKind, Group, MEMORY_PER_INSTANCE, Metric, Timeline, Unit};
use crate::stats::{least_squares, median};

/// Anchors and titles of what this run has.
pub(crate) fn contents(view: &View<'_>) -> Vec<(&'static str, &'static str)> {
    let mut contents = Vec::new();
    if !view.metrics(Group::Start).is_empty() {
        contents.push(("start", "Start"));
    }
    if !view.results.timelines.is_empty() {
        contents.push(("stages", "Stages"));
    }
    if has_footprint(view) {
        contents.push(("footprint", "Memory per instance"));
    }
    for (group, anchor, title, _) in STEADY {
        if !view.metrics(group).is_empty() {
            contents.push((anchor, title));
        }
    }
    contents
}

/// Sections that are a forest plot and a table.
const STEADY: [(Group, &str, &str, &str); 8] = [
    (
        Group::Cpu,
        "cpu",
        "CPU",
        "Fixed work, timed inside the instance. Nothing here should need the kernel.",
    ),
    (
        Group::Memory,
        "memory",
        "Memory work",
        "Bandwidth, latency, and the first touch of pages, which a virtual machine pays for twice.",
    ),
    (
        Group::Kernel,
        "kernel",
        "Kernel entry",
        "System calls and what is built on them. Reported and not held to the margin: docker's own seccomp filter costs \
         a good part of a bare getpid, so the container has a twin without it.",
    ),
    (
        Group::File,
        "file",
        "File I/O",
        "On the image's files and on the writable layer; buffered unless a metric says otherwise.",
    ),
    (
        Group::Network,
        "network",
        "Network",
        "TCP latency and throughput.",
    ),
    (
        Group::Application,
        "application",
        "Applications",
        "Real programs from Debian's packages.",
    ),
    (
        Group::Image,
        "image",
        "Images",
        "Bytes to ship and to keep, and what a second image adds.",
    ),
    (Group::Scale, "scale", "Scale", "Many instances together."),
];

pub(crate) fn all(view: &View<'_>) -> Result<Markup, Error> {
    let start = start(view)?;
    let stages = stages_section(view)?;
    let footprint = footprint(view)?;
    let mut steady = Vec::new();
    for (group, anchor, title, lead) in STEADY {
        steady.push(steady_section(view, group, anchor, title, lead)?);
    }
    Ok(html! {
        div.filter role="group" aria-label="Arms in the tables" hidden {}
        (start) (stages) (footprint)
        @for section in steady { (section) }
    })
}

fn start(view: &View<'_>) -> Result<Markup, Error> {
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
    use crate::results::ArmStatus::NotRun;
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

fn stages_section(view: &View<'_>) -> Result<Markup, Error> {
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
                label: format!("{}, {condition}{emulated}", arm.label),
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

fn has_footprint(view: &View<'_>) -> bool {
    !view.results.memory.is_empty()
        || !view.metrics(Group::Footprint).is_empty()
        || view
            .results
            .cut_offs
            .iter()
            .any(|c| c.metric == MEMORY_PER_INSTANCE)
}

fn footprint(view: &View<'_>) -> Result<Markup, Error> {
    if !has_footprint(view) {
        return Ok(html! {});
    }
    let cut: Vec<_> = view
        .results
        .cut_offs
        .iter()
        .filter(|c| c.metric == MEMORY_PER_INSTANCE)
        .collect();
    let slopes: Vec<(&Arm, Slope)> = view
        .results
        .memory
        .iter()
        .filter(|series| cut.iter().all(|c| c.arm != series.arm))
        .filter_map(|series| {
            let arm = view.results.arm(&series.arm)?;
            let points: Vec<(f64, f64)> = series
                .points
                .iter()
                .map(|p| (f64::from(p.instances), p.bytes() as f64))
                .collect();
            let line = least_squares(&points);
            let label = arm.label.clone();
            Some((
                arm,
                Slope {
                    label,
                    ink: Ink::of(arm),
                    points,
                    line,
                },
            ))
        })
        .collect();
    let drawable: Vec<&Slope> = slopes
        .iter()
        .map(|(_, slope)| slope)
        .filter(|slope| slope.points.iter().any(|p| p.0 > 0.0 && p.1 > 0.0))
        .collect();
    let drawn = if drawable.is_empty() {
        html! {}
    } else {
        let alt = drawable
            .iter()
            .filter_map(|s| Some(format!("{} {}", s.label, format::bytes(s.line?.slope))))
            .collect::<Vec<_>>()
            .join(", ");
        let alt = format!("Memory for each more idle instance: {alt}.");
        let caption = html! {
            "Memory of idle instances: the PSS of every host process that exists because of them, and kernel memory \
             charged to their cgroups. The figure is the slope: what one more takes. Both axes are logarithmic."
        };
        figure("memory per instance", &alt, caption, |f| {
            memory(f, &drawable)
        })?
    };
    let metrics = view.metrics(Group::Footprint);
    Ok(html! {
        section #footprint {
            h2 { "Memory per instance" }
            (drawn)
            @if !slopes.is_empty() || !cut.is_empty() {
                div.scroll tabindex="0" role="region" aria-label="Table: memory per idle instance" {
                    table {
                        thead { tr {
                            th scope="col" { "Arm" } th.n scope="col" { "One more instance" }
                            th.n scope="col" { "95 % interval" } th.n scope="col" { "Points" } th.n scope="col" { "Most at once" }
                        } }
                        tbody {
                            @for (arm, slope) in &slopes { (slope_row(arm, slope)) }
                            @for cut in &cut {
                                @if let Some(arm) = view.results.arm(&cut.arm) {
                                    tr data-slope-arm=(arm.id) data-state="cut-off" {
                                        th.arm scope="row" style={ "--ink:var(--" (Ink::of(arm).name()) ")" } { (arm.label) (badge(arm)) }
                                        td.none colspan="4" { "cut off: " (describe_cut_off(cut)) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
            @if !metrics.is_empty() { (table::samples(view, &metrics, "footprint")) }
        }
    })
}

fn slope_row(arm: &Arm, slope: &Slope) -> Markup {
    let most = slope.points.iter().map(|p| p.0).fold(0.0, f64::max);
    let interval = slope.line.and_then(|line| line.slope_interval);
    html! {
        tr data-slope-arm=(arm.id) data-slope=[slope.line.map(|l| l.slope)] {
            th.arm scope="row" style={ "--ink:var(--" (slope.ink.name()) ")" } { (arm.label) (badge(arm)) }
            @match slope.line {
                Some(line) => { td.n { b { (format::bytes(line.slope)) } } }
                None => { td.none { "too few points" } }
            }
            td.n { @if let Some(i) = interval { (format::value_interval(i, Unit::Bytes)) } }
            td.n { (slope.points.len()) } td.n { (most) }
        }
    }
}

fn steady_section(
    view: &View<'_>,
    group: Group,
    anchor: &str,
    title: &str,
    lead: &str,
) -> Result<Markup, Error> {
    let metrics = view.metrics(group);
    if metrics.is_empty() {
        return Ok(html! {});
    }
    let blocks: Vec<Block> = metrics
        .iter()
        .filter_map(|metric| block(view, metric))
        .collect();
    let drawn = if blocks.is_empty() {
        html! {}
    } else {
        let alt = blocks
            .iter()
            .map(|b| {
                let marks: Vec<String> = b
                    .marks
                    .iter()
                    .map(|m| match &m.ratio {
                        Ok((value, _)) => format!("{} {}", m.label, format::ratio(*value)),
                        Err(words) => format!("{} {words}", m.label),
                    })
                    .collect();
                format!("{}: {}", b.title, marks.join(", "))
            })
            .collect::<Vec<_>>()
            .join(". ");
        let alt = format!("Cost in units of native's. {alt}.");
        let caption = html! {
            "What each arm costs in units of native's cost, with 95 % intervals: right of 1 is worse. The band is the \
             margin of ±5 %. A ring is a metric that is not decided in this run: too few rounds, or an A/A control that \
             is off."
        };
        figure(title, &alt, caption, |f| forest(f, &blocks))?
    };
    Ok(html! {
        section id=(anchor) {
            h2 { (title) }
            p { (lead) }
            (drawn)
            (table::samples(view, &metrics, anchor))
            @if group == Group::Kernel { (twin_costs(view, &metrics)) }
        }
    })
}

fn block(view: &View<'_>, metric: &Metric) -> Option<Block> {
    let native = view.analysis.native()?;
    let objection = view.analysis.control(metric).objection();
    let marks: Vec<Mark> = view
        .arms_on(metric)
        .into_iter()
        .filter(|arm| arm.id != native.id && arm.control_of.is_none())
        .map(|arm| {
            let cost = view.analysis.cost(metric, arm, native);
            let few = cost.as_ref().is_ok_and(|c| c.too_few());
            let emulated = if arm.is_emulated() { " [not hw]" } else { "" };
            Mark {
                label: format!("{}{emulated}", arm.label),
                ink: Ink::of(arm),
                ratio: match cost {
                    Ok(cost) => Ok((cost.value, cost.interval())),
                    Err(crate::analysis::Missing::CutOff { .. }) => Err("cut off".to_owned()),
                    Err(_) => Err("no figure".to_owned()),
                },
                hollow: few || objection.is_some(),
            }
        })
        .collect();
    (!marks.is_empty()).then(|| Block {
        title: metric.title.clone(),
        marks,
    })
}

/// What the one thing costs that an arm's twin goes without.
fn twin_costs(view: &View<'_>, metrics: &[&Metric]) -> Markup {
    let pairs: Vec<(&Arm, &Arm, &str)> = view
        .results
        .arms
        .iter()
        .filter(|arm| arm.kind == ArmKind::Container)
        .filter_map(|arm| {
            let twin = arm.twin_of.as_ref()?;
            Some((view.results.arm(&twin.arm)?, arm, twin.difference.as_str()))
        })
        .collect();
    html! {
        @for (whole, twin, difference) in pairs {
            h3 { "What the difference costs: " (whole.label) " against the same " (difference) }
            div.scroll tabindex="0" role="region" aria-label={ "Table: " (whole.label) " against " (twin.label) } {
                table {
                    thead { tr {
                        th scope="col" { "Metric" } th.n scope="col" { (whole.label) " ÷ " (twin.label) }
                        th.n scope="col" { "95 % interval" } th.n scope="col" { "Rounds" }
                    } }
                    tbody {
                        @for metric in metrics {
                            tr data-twin=(twin.id) data-metric=(metric.id) {
                                td { (metric.title) }
                                @match view.analysis.cost(metric, whole, twin) {
                                    Ok(cost) => {
                                        td.n { b { (format::ratio(cost.value)) } }
                                        td.n { @if let Some(i) = cost.interval() { (format::ratio_interval(i)) } }
                                        td.n { (cost.rounds) @if cost.too_few() { " " span.chip { "too few" } } }
                                    }
                                    Err(missing) => { td.none colspan="3" { (missing) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
