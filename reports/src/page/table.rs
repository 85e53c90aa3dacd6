//! Tables of samples: what each arm took on each metric, and what it cost against native.

use maud::{Markup, html};

use super::theme::Ink;
use super::{View, badge};
use crate::analysis::{Control, Missing};
use crate::format;
use crate::results::{Arm, Metric};
use crate::stats::Interval;

/// One table for several metrics, a body each.
pub(crate) fn samples(view: &View<'_>, metrics: &[&Metric], name: &str) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label={ "Table: " (name) } {
            table.samples {
                thead { tr {
                    th scope="col" { "Arm" }
                    th.n scope="col" data-key="median" { "Median" }
                    th.n scope="col" { "95 % interval" }
                    th.n scope="col" data-key="cost" { "Cost ÷ native" }
                    th.n scope="col" { "95 % interval" }
                    th.n scope="col" { "All samples" }
                    th.n scope="col" { "Rounds" }
                    th.n scope="col" { abbr title="Fresh instances that the samples come from" { "Inst." } }
                    th.n scope="col" { "Void" }
                } }
                @for metric in metrics { (body(view, metric)) }
            }
        }
    }
}

fn body(view: &View<'_>, metric: &Metric) -> Markup {
    let control = view.analysis.control(metric);
    html! {
        tbody.block data-metric=(metric.id) {
            tr.metric { th colspan="9" scope="rowgroup" { div {
                (metric.title) " " (control_chip(&control))
                small { (metric.description) }
            } } }
            @for arm in view.arms_on(metric) { (row(view, metric, arm)) }
        }
    }
}

/// Whether the metric's A/A control came out equal.
fn control_chip(control: &Control) -> Markup {
    let figure = control.estimate().map(format::ratio_with_interval);
    let (class, text) = match (control, figure) {
        (Control::Fine(_), Some(figure)) => ("chip", format!("A/A {figure}")),
        (Control::Off(_), Some(figure)) => (
            "chip bad",
            format!("A/A off: {figure}; not decided in this run"),
        ),
        (Control::TooFew(_), Some(figure)) => ("chip", format!("A/A {figure}; too few rounds")),
        (_, _) => ("chip", "no A/A control".to_owned()),
    };
    let state = match control {
        Control::Fine(_) => "fine",
        Control::Off(_) => "off",
        Control::TooFew(_) => "too-few",
        Control::Absent(_) => "absent",
    };
    html! { span class=(class) data-control=(state) { (text) } }
}

fn row(view: &View<'_>, metric: &Metric, arm: &Arm) -> Markup {
    let colour = format!("--ink:var(--{})", Ink::of(arm).name());
    let voids = view.analysis.voids(&metric.id, &arm.id);
    let summary = match view.analysis.summary(metric, arm) {
        Ok(summary) => summary,
        Err(missing) => {
            let state = match missing {
                Missing::CutOff { .. } => "cut-off",
                Missing::AllVoid { .. } => "void",
                _ => "missing",
            };
            let words = match &missing {
                Missing::CutOff { why, .. } => format!("cut off: {why}"),
                other => other.to_string(),
            };
            return html! {
                tr data-arm=(arm.id) data-label=(arm.label) data-state=(state) {
                    th.arm scope="row" style=(colour) { (arm.label) (badge(arm)) }
                    td.none colspan="7" { (words) }
                    td.n { (voids) }
                }
            };
        }
    };
    let cost = view
        .analysis
        .native()
        .filter(|native| native.id != arm.id)
        .map(|native| view.analysis.cost(metric, arm, native));
    let (cost, no_cost) = match cost {
        Some(Ok(cost)) => (Some(cost), None),
        Some(Err(missing)) => (None, Some(why_no_cost(&missing))),
        None => (None, Some("is native")),
    };
    let interval = cost.as_ref().and_then(|c| c.interval());
    let unit = metric.unit;
    let all = Interval {
        low: summary.min,
        high: summary.max,
    };
    html! {
        tr data-arm=(arm.id) data-label=(arm.label) data-state="measured" data-median=(summary.median.value)
            data-cost=[cost.as_ref().map(|c| c.value)] data-low=[interval.map(|i| i.low)] data-high=[interval.map(|i| i.high)] {
            th.arm scope="row" style=(colour) { (arm.label) (badge(arm)) }
            td.n { b { (format::value(summary.median.value, unit)) } }
            td.n {
                @match summary.median.interval() {
                    Some(interval) => { (format::value_interval(interval, unit)) }
                    None => { span.lesser { "one round" } }
                }
            }
            td.n {
                @match (&cost, &no_cost) {
                    (Some(cost), _) => { b { (format::ratio(cost.value)) } }
                    (None, why) => { span.lesser { (why.unwrap_or_default()) } }
                }
            }
            td.n { @if let Some(interval) = interval { (format::ratio_interval(interval)) } }
            td.n { (format::value_interval(all, unit)) }
            td.n {
                (summary.median.rounds)
                @if summary.median.too_few() { " " span.chip { "too few" } }
            }
            td.n { (summary.instances) }
            td.n { (voids) }
        }
    }
}

/// A few words in the place of a cost; the arm's own row says what became of native.
fn why_no_cost(missing: &Missing) -> &'static str {
    match missing {
        Missing::CutOff { .. } => "native was cut off",
        Missing::NoPairs => "no common round",
        _ => "no native",
    }
}
