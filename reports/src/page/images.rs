//! The sections about images: what they take on the way and on the disk, and what a second one costs on a base that is there.

use maud::{Markup, html};

use super::theme::Ink;
use super::{View, badge, table};
use crate::analysis::{Estimate, Missing};
use crate::format;
use crate::results::{Arm, Group, Metric, metric_id};
use crate::rules::Subject;

/// Metrics of deployment: of the first image, and of the second.
const PAIRS: [(&str, &str, &str); 2] = [
    ("moved", metric_id::FIRST_MOVED, metric_id::SECOND_MOVED),
    ("time", metric_id::FIRST_DEPLOY, metric_id::SECOND_DEPLOY),
];

/// Metrics of sizes and those of deployment, in the file's order.
fn split<'a>(view: &View<'a>) -> (Vec<&'a Metric>, Vec<&'a Metric>) {
    let is_pair = |metric: &&Metric| {
        PAIRS
            .iter()
            .any(|(_, first, second)| metric.id == *first || metric.id == *second)
    };
    let (deploy, sizes) = view.metrics(Group::Image).into_iter().partition(is_pair);
    (sizes, deploy)
}

/// Anchors and titles of what this run has.
pub(crate) fn contents(view: &View<'_>) -> Vec<(&'static str, &'static str)> {
    let (sizes, deploy) = split(view);
    let sections = [
        (sizes, ("image", "Image sizes")),
        (deploy, ("deploy", "Deploying")),
    ];
    let had = sections
        .into_iter()
        .filter(|(metrics, _)| !metrics.is_empty());
    had.map(|(_, section)| section).collect()
}

pub(crate) fn sections(view: &View<'_>) -> Markup {
    let (sizes, deploy) = split(view);
    html! {
        @if !sizes.is_empty() { (sizes_section(view, &sizes)) }
        @if !deploy.is_empty() { (deploy_section(view, &deploy)) }
    }
}

fn sizes_section(view: &View<'_>, metrics: &[&Metric]) -> Markup {
    let container = view.analysis.subjects(Subject::Container).next();
    html! {
        section #image {
            h2 { "Image sizes" }
            p { "What one application takes on the way and on the disk, without a kernel and with one." }
            (answer(view, "C4"))
            div.scroll tabindex="0" role="region" aria-label="Table: sizes by arm" {
                table {
                    thead { tr {
                        th scope="col" { "Arm" }
                        @for metric in metrics {
                            th.n scope="col" { (metric.title) } th.n scope="col" { "÷ container" }
                        }
                    } }
                    tbody { @for arm in arms(view, metrics) {
                        tr data-size-arm=(arm.id) {
                            (head(arm))
                            @for metric in metrics {
                                (value(view, metric, arm))
                                td.n { @if let Some(Ok(times)) = container.filter(|other| other.id != arm.id)
                                    .map(|other| view.analysis.cost(metric, arm, other)) { (format::ratio(times.value)) } }
                            }
                        }
                    } }
                }
            }
            details { summary { "Every count" } (table::samples(view, metrics, "image sizes")) }
        }
    }
}

fn deploy_section(view: &View<'_>, metrics: &[&Metric]) -> Markup {
    let pairs: Vec<(&str, &Metric, &Metric)> = PAIRS
        .iter()
        .filter_map(|(what, first, second)| {
            Some((
                *what,
                view.results.metric(first)?,
                view.results.metric(second)?,
            ))
        })
        .collect();
    html! {
        section #deploy {
            h2 { "Deploying" }
            p {
                "A first image to where nothing is, and a second one that begins with the same base, out of a registry on this host: \
                 what the network carries and the disk writes is measured, a slow network is not."
            }
            (answer(view, "C5"))
            div.scroll tabindex="0" role="region" aria-label="Table: deployment by arm" {
                table {
                    thead { tr {
                        th scope="col" { "Arm" }
                        @for (what, ..) in &pairs {
                            th.n scope="col" { "First: " (what) } th.n scope="col" { "Second: " (what) }
                            th.n scope="col" { "Second ÷ first" }
                        }
                    } }
                    tbody { @for arm in arms(view, metrics) {
                        tr data-deploy-arm=(arm.id) {
                            (head(arm))
                            @for (what, first, second) in &pairs {
                                (value(view, first, arm)) (value(view, second, arm))
                                (share(what, view.analysis.against(second, first, arm)))
                            }
                        }
                    } }
                }
            }
            details { summary { "Every deployment" } (table::samples(view, metrics, "deployment")) }
        }
    }
}

/// The answer to the claim that the section is about.
fn answer(view: &View<'_>, claim: &str) -> Markup {
    let verdict = view
        .verdicts
        .iter()
        .find(|verdict| verdict.claim.id == claim);
    html! {
        @if let Some(verdict) = verdict {
            p data-section-answer=(claim) {
                strong { (claim) ", " (verdict.claim.statement.to_lowercase()) ": " (verdict.finding.answer.word()) ". " }
                (verdict.finding.sentence)
            }
        }
    }
}

/// The arms of which there is anything to show.
fn arms<'a>(view: &View<'a>, metrics: &[&Metric]) -> Vec<&'a Arm> {
    let every = view.results.arms.iter();
    every
        .filter(|arm| {
            let mut shown = metrics.iter().flat_map(|metric| view.arms_on(metric));
            shown.any(|other| other.id == arm.id)
        })
        .collect()
}

fn head(arm: &Arm) -> Markup {
    html! {
        th.arm scope="row" style={ "--ink:var(--" (Ink::of(arm).name()) ")" } { (arm.label) (badge(arm)) }
    }
}

fn value(view: &View<'_>, metric: &Metric, arm: &Arm) -> Markup {
    match view.analysis.summary(metric, arm) {
        Ok(summary) => html! {
            td.n data-metric=(metric.id) data-median=(summary.median.value) {
                b { (format::value(summary.median.value, metric.unit)) }
            }
        },
        Err(Missing::CutOff { why, .. }) => html! { td.none { "cut off: " (why) } },
        Err(_) => html! { td.none { "not measured" } },
    }
}

fn share(what: &str, share: Result<Estimate, Missing>) -> Markup {
    html! {
        td.n data-share=(what) {
            @if let Ok(share) = share {
                // Counts do not vary, and an interval would say nothing.
                @if what == "moved" { (format::ratio(share.value)) } @else { (format::ratio_with_interval(&share)) }
            }
        }
    }
}
