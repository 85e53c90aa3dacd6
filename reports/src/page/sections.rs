//! A section for each sort of metric: its plot, what it means, its table.

use maud::{Markup, html};

use super::plot::forest::{Block, Mark};
use super::plot::memory::Slope;
use super::plot::{self, figure, forest, memory};
use super::theme::Ink;
use super::{View, badge};
use super::{images, start, table};
use crate::Error;
use crate::analysis::describe_cut_off;
use crate::format;
use crate::results::{Arm, ArmKind, Group, MEMORY_PER_INSTANCE, Metric, Unit};
use crate::stats::least_squares;

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
    contents.extend(images::contents(view));
    contents
}

/// Sections that are a forest plot and a table.
const STEADY: [(Group, &str, &str, &str); 7] = [
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
    (Group::Scale, "scale", "Scale", "Many instances together."),
];

pub(crate) fn all(view: &View<'_>) -> Result<Markup, Error> {
    let start = start::start(view)?;
    let stages = start::stages_section(view)?;
    let footprint = footprint(view)?;
    let mut steady = Vec::new();
    for (group, anchor, title, lead) in STEADY {
        steady.push(steady_section(view, group, anchor, title, lead)?);
    }
    Ok(html! {
        div.filter role="group" aria-label="Arms in the tables" hidden {}
        (start) (stages) (footprint)
        @for section in steady { (section) }
        (images::sections(view))
    })
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
                label: format!("{}{emulated}", plot::short(&arm.label, 25)),
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
pub(crate) fn twin_costs(view: &View<'_>, metrics: &[&Metric]) -> Markup {
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
