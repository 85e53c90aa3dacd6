//! Method, fingerprint, and everything that was cut off, void or not run.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::{View, badge, or_unknown};
use crate::analysis::describe_cut_off;
use crate::format;
use crate::results::ArmStatus;
use crate::rules::{CLAIMS, MIN_ROUNDS};
use crate::stats::RESAMPLES;

pub(crate) fn sections(view: &View<'_>) -> Markup {
    html! { (left_out(view)) (method(view)) (fingerprint(view)) }
}

/// What a reader might take for measured and is not.
fn left_out(view: &View<'_>) -> Markup {
    let results = view.results;
    let not_run: Vec<_> = results
        .arms
        .iter()
        .filter_map(|arm| match &arm.status {
            ArmStatus::NotRun { reason } => Some((arm, reason)),
            ArmStatus::Ran => None,
        })
        .collect();
    // Void samples by metric, arm and reason.
    let mut voids: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
    for series in &results.series {
        for sample in series.rounds.iter().flat_map(|round| &round.samples) {
            if let Some(reason) = &sample.void {
                *voids
                    .entry((&series.metric, &sample.arm, reason))
                    .or_default() += 1;
            }
        }
    }
    let title = |id: &str| {
        results
            .metric(id)
            .map_or(id.to_owned(), |m| m.title.clone())
    };
    html! {
        section #left-out {
            h2 { "Cut off, void, not run" }
            @if not_run.is_empty() && voids.is_empty() && results.cut_offs.is_empty() {
                p { "Nothing: every arm ran, and every sample counts." }
            } @else {
                p { "A cut-off is never a figure, and a void sample is in no figure; both are in the raw samples." }
                div.scroll tabindex="0" role="region" aria-label="Table: cut off, void, not run" {
                    table {
                        thead { tr { th scope="col" { "What" } th scope="col" { "Arm" } th scope="col" { "Metric" } th scope="col" { "Why" } } }
                        tbody {
                            @for (arm, reason) in not_run {
                                tr { td { "not run" } td { (arm.label) } td { "all" } td { (reason) } }
                            }
                            @for cut in &results.cut_offs {
                                tr data-cut=(cut.metric) {
                                    td { "cut off" }
                                    td { @if let Some(arm) = results.arm(&cut.arm) { (arm.label) (badge(arm)) } }
                                    td { (title(&cut.metric)) }
                                    td { (describe_cut_off(cut)) }
                                }
                            }
                            @for ((metric, arm, reason), count) in voids {
                                tr data-void=(metric) {
                                    td { (count) " void" }
                                    td { @if let Some(arm) = results.arm(arm) { (arm.label) (badge(arm)) } }
                                    td { (title(metric)) } td { (reason) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn method(view: &View<'_>) -> Markup {
    let plan = &view.results.plan;
    html! {
        section #method {
            h2 { "Method" }
            div.columns {
                p {
                    "All arms run the same bytes of the same image under the same limits. One iteration is a whole round: \
                     the arms run interleaved, there and back, so that a machine that drifts drifts for all. This plan, "
                    (plan.name) ", asks for " (plan.rounds) " rounds and " (plan.instances)
                    " fresh instances an arm, and gives one arm " (format::duration(plan.arm_budget_ns as f64))
                    " a metric before it is cut off."
                }
                p {
                    "Loops run inside the instance: a resident workload is asked for N iterations and answers with the \
                     elapsed time, so that start-up and transport are in no figure of steady work. The host's clock \
                     brackets each answer; where the two clocks differ by more than 1 % and the transport's delay, the \
                     sample is void."
                }
                p {
                    "A cost is the median over rounds of the arm's geometric mean over native's in the same round; where \
                     more is better the ratio is turned over, so that above 1 is always worse. Intervals are 95 % \
                     bootstrap intervals over rounds (" (RESAMPLES) " drawings, seeded; tails widened for small numbers \
                     after Hesterberg). Rounds in one instance share its luck: the number of instances stands beside \
                     them."
                }
                p {
                    "“No loss” is said only where the whole interval lies within ±5 %: a test for equality, not a failed \
                     test for a difference. With fewer than " (MIN_ROUNDS) " rounds nothing is decided. Native runs \
                     against itself under a second label (A/A); where that control is off by more than the margin, the \
                     metric is not decided in this run. Outliers are shown and never dropped."
                }
                p {
                    "Where virtualization is not in hardware, rows of virtual machines carry a badge, and what is claimed \
                     of virtual machines is not decided in general, only on this host."
                }
                p {
                    "Memory per instance is the slope of a least-squares line over numbers of instances, with Student's \
                     interval, so that what is shared counts once."
                }
            }
            h3 { "The rules, fixed before the run" }
            dl.facts {
                @for claim in CLAIMS {
                    dt { (claim.id) " " (claim.statement) }
                    dd { (claim.rule) }
                }
            }
        }
    }
}

fn fingerprint(view: &View<'_>) -> Markup {
    let results = view.results;
    let print = &results.fingerprint;
    let load = |load: Option<[f64; 3]>| {
        load.map_or("not known".to_owned(), |l| {
            format!("{:.2}, {:.2}, {:.2}", l[0], l[1], l[2])
        })
    };
    html! {
        section #fingerprint {
            h2 { "Fingerprint" }
            p { "Whatever could explain a figure. The raw samples are in " a href="results.json" { "results.json" } ", beside this page." }
            dl.facts {
                dt { "CPU" } dd { (or_unknown(&print.cpu)) ", " (print.cores) " logical" }
                dt { "Memory" } dd { (format::bytes(print.memory_bytes as f64)) ", swap " (format::bytes(print.swap_bytes as f64)) }
                dt { "Kernel" } dd { (or_unknown(&print.kernel)) }
                dt { "Distribution" } dd { (or_unknown(&print.distribution)) }
                dt { "Virtualization" } dd { (or_unknown(&print.virtualization)) "; the host itself runs under: " (or_unknown(&print.host_runs_under)) }
                @for arm in results.arms.iter().filter(|a| a.substrate.is_some()) {
                    @if let Some(substrate) = &arm.substrate {
                        dt { (arm.label) }
                        dd { "on " (substrate.name) (badge(arm))
                            @if let Some(kernel) = print.guest_kernels.get(&arm.id) { ", guest kernel " (kernel) } }
                    }
                }
                dt { "cgroups" } dd { (or_unknown(&print.cgroup_mode)) }
                dt { "Store's file system" } dd { (or_unknown(&print.store_filesystem)) }
                dt { "Transparent huge pages" } dd { (or_unknown(&print.transparent_huge_pages)) }
                dt { "Frequency governor" } dd { (or_unknown(&print.frequency_governor)) }
                dt { "rcu_expedited" } dd { (or_unknown(&print.rcu_expedited)) }
                dt { "Load at the start" } dd { (load(print.load_at_start)) }
                dt { "Load at the end" } dd { (load(print.load_at_end)) }
                @if let Some(image) = &results.image {
                    dt { "Image" } dd { (image.name) " " code { (image.digest) } }
                    dt { "Limits on every arm" } dd {
                        "CPUs: " (image.cpus.as_deref().unwrap_or("not limited")) "; memory: "
                        (image.memory_bytes.map_or("not limited".to_owned(), |b| format::bytes(b as f64)))
                    }
                }
                dt { "Seeds" } dd {
                    @for (index, (name, seed)) in results.seeds.iter().enumerate() {
                        @if index > 0 { ", " } (name) " " code { (seed) }
                    }
                }
                dt { "Schema" } dd { (results.kind) " " (results.schema) }
                @for (name, value) in &print.further { dt { (name) } dd { (value) } }
            }
            (pairs("Versions", &print.versions))
            (pairs("Mitigations of the host", &print.mitigations))
            @for (arm, mitigations) in &print.guest_mitigations {
                (pairs(&format!("Mitigations inside {arm}"), mitigations))
            }
        }
    }
}

fn pairs(title: &str, pairs: &BTreeMap<String, String>) -> Markup {
    html! {
        @if !pairs.is_empty() {
            h3 { (title) }
            dl.facts { @for (name, value) in pairs { dt { (name) } dd { (value) } } }
        }
    }
}
