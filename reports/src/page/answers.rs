//! The seven claims with their answers, and the load-line gauge.

use maud::{Markup, html};

use super::plot::figure;
use super::plot::gauge::{Hull, gauge};
use super::theme::Ink;
use super::{View, badge};
use crate::Error;
use crate::results::{Arm, ArmKind, Group};
use crate::rules::{Quantity, Weight};
use crate::stats::geometric_mean;
use crate::verdict::{Evidence, Figure, Finding, Outcome, Verdict};

/// Groups of steady work that a cost against native is held to the margin in, as C1 and C2 do.
const HELD: [Group; 5] = [
    Group::Cpu,
    Group::Memory,
    Group::File,
    Group::Network,
    Group::Application,
];

pub(crate) fn section(view: &View<'_>) -> Result<Markup, Error> {
    let (measured, rest): (Vec<&Verdict<'_>>, Vec<&Verdict<'_>>) =
        view.verdicts.iter().partition(|v| {
            // The first three are what Plimsoll is for and stay in sight even where nothing was measured.
            ["C1", "C2", "C3"].contains(&v.claim.id)
                || v.finding
                    .evidence
                    .iter()
                    .any(|e| e.decides() && e.metric.is_some())
        });
    let gauge = gauge_figure(view)?;
    Ok(html! {
        section #answers aria-label="Answers" {
            div.verdicts { @for verdict in measured { (card(verdict)) } }
            @if !rest.is_empty() {
                div.minor {
                    @for verdict in rest {
                        article data-claim=(verdict.claim.id) data-answer=(verdict.finding.answer.word()) {
                            h3 { span.claim-id { (verdict.claim.id) } " " (verdict.claim.statement) }
                            p { (verdict.finding.sentence) }
                        }
                    }
                }
            }
        }
        (gauge)
    })
}

fn card(verdict: &Verdict<'_>) -> Markup {
    let finding = &verdict.finding;
    html! {
        article.verdict data-claim=(verdict.claim.id) data-answer=(finding.answer.word()) {
            header {
                div {
                    p.claim-id { "Claim " (verdict.claim.id) }
                    h3 { (verdict.claim.statement) }
                }
                p.answer data-word=(finding.answer.word()) { (finding.answer.word()) }
            }
            (figure_line(finding.figure.as_ref()))
            p.says { (finding.sentence) }
            @if !verdict.here.is_empty() { div.heres { @for here in &verdict.here {
                div.here data-claim=(verdict.claim.id) data-arm=(here.arm.id) data-answer=(here.finding.answer.word()) {
                    h4 {
                        (here.arm.label) (badge(here.arm))
                        em { "on this host only: " strong { (here.finding.answer.word()) } }
                    }
                    (figure_line(here.finding.figure.as_ref()))
                    p.says { (here.finding.sentence) }
                }
            } } }
            @for here in &verdict.here {
                (evidence(&here.finding, &format!("{} for {}", verdict.claim.id, here.arm.label)))
            }
            @if verdict.here.is_empty() { (evidence(finding, verdict.claim.id)) }
        }
    }
}

fn figure_line(figure: Option<&Figure>) -> Markup {
    html! {
        @if let Some(figure) = figure {
            p.figure {
                b { (figure.text) }
                @match &figure.interval {
                    Some(interval) => { span { "95 % interval " (interval) } }
                    None => { span { "no interval" } }
                }
                span { (figure.of) }
            }
        }
    }
}

/// Every comparison behind an answer.
fn evidence(finding: &Finding<'_>, of: &str) -> Markup {
    let rows: Vec<&Evidence<'_>> = finding
        .evidence
        .iter()
        .filter(|e| e.metric.is_some())
        .collect();
    if rows.is_empty() {
        return html! {};
    }
    html! {
        details {
            summary { "The " (rows.len()) " comparisons behind " (of) }
            div.scroll tabindex="0" role="region" aria-label={ "Comparisons behind " (of) } {
                table {
                    thead { tr {
                        th scope="col" { "Metric" } th scope="col" { "Comparison" } th.n scope="col" { "Figure" }
                        th.n scope="col" { "95 % interval" } th.n scope="col" { "Rounds" } th scope="col" { "Says" }
                    } }
                    tbody { @for row in rows { (evidence_row(row)) } }
                }
            }
        }
    }
}

fn evidence_row(row: &Evidence<'_>) -> Markup {
    let label = row.of.map_or("", |arm| arm.label.as_str());
    let comparison = match row.test.quantity {
        Quantity::Cost { to, .. } => format!("{label} ÷ {}", format!("{to:?}").to_lowercase()),
        Quantity::Value { .. } => label.to_owned(),
        Quantity::Against { metric, .. } => format!("{label} ÷ {metric}"),
    };
    let (class, says) = match &row.outcome {
        Outcome::Supports => ("for", "for the claim"),
        Outcome::Contradicts => ("against", "against the claim"),
        Outcome::Undecided(reason) => ("open", reason.as_str()),
    };
    html! {
        tr {
            td { (row.metric.map_or("", |m| m.title.as_str())) }
            td { (comparison) @if let Some(arm) = row.of { (badge(arm)) } }
            td.n { (row.figure_text().unwrap_or_default()) }
            td.n { (row.interval_text().unwrap_or_default()) }
            td.n { @if let Some(estimate) = &row.estimate { (estimate.rounds) } }
            td class=(class) {
                (says)
                @if row.test.weight == Weight::Reported { span.lesser { " (reported, not held to it)" } }
            }
        }
    }
}

/// How deep each arm sits.
fn gauge_figure(view: &View<'_>) -> Result<Markup, Error> {
    let Some(native) = view.analysis.native() else {
        return Ok(html! {});
    };
    let costs = |arm: &Arm, held: bool| -> Vec<f64> {
        view.results
            .metrics
            .iter()
            .filter(|m| {
                if held {
                    HELD.contains(&m.group)
                } else {
                    m.group == Group::Kernel
                }
            })
            .filter_map(|metric| view.analysis.cost(metric, arm, native).ok())
            .map(|estimate| estimate.value)
            .collect()
    };
    let total = view
        .results
        .metrics
        .iter()
        .filter(|m| HELD.contains(&m.group))
        .count();
    let hulls: Vec<Hull> = view
        .results
        .arms
        .iter()
        .filter(|arm| arm.ran() && arm.kind != ArmKind::Peer && arm.id != native.id)
        .map(|arm| {
            let held = costs(arm, true);
            let notes = match (arm.is_emulated(), total - held.len()) {
                (true, 0) => vec!["not hw".to_owned()],
                (true, missing) => vec!["not hw".to_owned(), format!("{missing} missing")],
                (false, 0) => Vec::new(),
                (false, missing) => vec![format!("{missing} missing")],
            };
            Hull {
                label: arm.label.clone(),
                notes,
                ink: Ink::of(arm),
                draught: geometric_mean(&held),
                costs: held,
                reported: costs(arm, false),
            }
        })
        .filter(|hull| hull.draught.is_some())
        .collect();
    if hulls.is_empty() {
        return Ok(html! {});
    }
    let alt = hulls
        .iter()
        .filter_map(|h| Some(format!("{} {}", h.label, crate::format::ratio(h.draught?))))
        .collect::<Vec<_>>()
        .join(", ");
    let alt = format!("How deep each arm sits, as a multiple of native's cost: {alt}.");
    let caption = html! {
        "Native floats at the waterline; what an arm costs more presses it down. A hull's depth is the geometric mean \
         of its costs in units of native's, over " (total) " metrics of CPU, memory, file, network and application work; \
         each dot is one of them, each ring a metric of kernel entry, which is reported and does not count. The scale is \
         stretched around 1, so that 5 % and a factor of a thousand can both be seen. It shows and does not decide: the \
         answers rest on each metric's interval."
    };
    let drawn = figure("the load line", &alt, caption, |format| {
        gauge(format, &hulls)
    })?;
    Ok(html! {
        section #load-line {
            h2 { "How deep each arm sits" }
            (drawn)
        }
    })
}
