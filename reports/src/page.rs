//! The HTML report: one file that needs no network, no fonts and no script.

use std::path::{Path, PathBuf};

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::Error;
use crate::analysis::Analysis;
use crate::format;
use crate::results::{Arm, Completeness, Group, Metric, Results};
use crate::verdict::{Verdict, verdicts};

mod about;
mod answers;
mod images;
mod plot;
mod sections;
mod start;
mod table;
mod theme;

/// Writes `index.html` into `dir` with `results.json`, the raw samples, beside it, and gives back the page's
/// path. The same results give the same bytes.
pub fn write_report(results: &Results, dir: &Path) -> Result<PathBuf, Error> {
    let json = results.to_json()?;
    let page = render(results)?;
    crate::results::replace(&dir.join("results.json"), &json)?;
    let path = dir.join("index.html");
    crate::results::replace(&path, page.as_bytes())?;
    Ok(path)
}

/// The report as HTML text.
pub fn render(results: &Results) -> Result<String, Error> {
    results.check().map_err(|why| Error::Invalid { why })?;
    let view = View {
        results,
        analysis: Analysis::new(results),
        verdicts: verdicts(results),
    };
    Ok(page(&view)?.into_string())
}

/// What every part of the page is made from.
pub(crate) struct View<'a> {
    pub(crate) results: &'a Results,
    pub(crate) analysis: Analysis<'a>,
    pub(crate) verdicts: Vec<Verdict<'a>>,
}

impl<'a> View<'a> {
    /// The metrics of a group, in the file's order.
    pub(crate) fn metrics(&self, group: Group) -> Vec<&'a Metric> {
        self.results
            .metrics
            .iter()
            .filter(|metric| metric.group == group)
            .collect()
    }

    /// The arms of which there is anything to show on a metric: samples, or a cut-off.
    pub(crate) fn arms_on(&self, metric: &Metric) -> Vec<&'a Arm> {
        self.results
            .arms
            .iter()
            .filter(|arm| {
                self.results.cut_off(&metric.id, &arm.id).is_some()
                    || self.analysis.samples(&metric.id, &arm.id).next().is_some()
            })
            .collect()
    }
}

/// The badge of an arm whose virtual machine has no hardware under it. It stands on every row of such an arm.
pub(crate) fn badge(arm: &Arm) -> Markup {
    let substrate = arm
        .substrate
        .as_ref()
        .map_or("unknown", |s| s.name.as_str());
    html! {
        @if arm.is_emulated() {
            " " span.badge data-badge=(substrate) title="Virtualization is not in hardware here: holds on this host only" {
                "not hardware: " (substrate)
            }
        }
    }
}

fn page(view: &View<'_>) -> Result<Markup, Error> {
    let style = format!(
        ":root{{{}}}@media screen and (prefers-color-scheme:dark){{:root{{{}}}}}{}",
        theme::properties(false),
        theme::properties(true),
        include_str!("page/style.css")
    );
    let body = sections::all(view)?;
    let answers = answers::section(view)?;
    Ok(html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                // Nothing is fetched, whatever a result file says.
                meta http-equiv="Content-Security-Policy"
                    content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:";
                title { "Plimsoll: " (headline(view.results)) }
                style { (PreEscaped(style)) }
            }
            body {
                a.skip href="#answers" { "To the answers" }
                div.page {
                    (masthead(view))
                    main {
                        (answers)
                        (body)
                        (about::sections(view))
                    }
                    footer {
                        p {
                            "Made from " a href="results.json" { "results.json" } " alone, written by "
                            (view.results.made_by) ". The same file gives the same page. "
                            "A ship's load line, Samuel Plimsoll's mark, shows how deep she may sit; "
                            "here it lies 5 % below native."
                        }
                    }
                }
                script { (PreEscaped(include_str!("page/script.js"))) }
            }
        }
    })
}

fn headline(results: &Results) -> String {
    match &results.image {
        Some(image) => format!(
            "{}, {}",
            image.name,
            format::moment(results.started_unix_ms)
        ),
        None => format::moment(results.started_unix_ms),
    }
}

fn masthead(view: &View<'_>) -> Markup {
    let results = view.results;
    let print = &results.fingerprint;
    let took = results
        .ended_unix_ms
        .map(|end| end.saturating_sub(results.started_unix_ms) as f64 * 1e6);
    html! {
        header.mast {
            h1 {
                svg viewBox="0 0 58 44" aria-hidden="true" {
                    circle cx="29" cy="22" r="16" fill="none" stroke-width="4" style="stroke:var(--load)" {}
                    path d="M2 22H56" stroke-width="4" style="stroke:var(--text)" {}
                }
                "What isolation costs here"
            }
            p.sub {
                "Plimsoll ran "
                @match &results.image {
                    Some(image) => { strong { (image.name) } }
                    None => { "the same work" }
                }
                " natively, as a container and as a virtual machine on " strong { (or_unknown(&print.cpu)) }
                ", " (print.cores) " CPUs, " (or_unknown(&print.kernel)) ", virtualization "
                strong { (or_unknown(&print.virtualization)) } ". "
                (format::moment(results.started_unix_ms))
                @if let Some(took) = took { ", " (format::duration(took)) }
                ", plan " (results.plan.name)
                @if let Some(filter) = &results.plan.filter { ", only " code { (filter) } }
                "."
            }
        }
        nav.contents aria-label="Contents" {
            a href="#answers" { "Answers" }
            @for (anchor, title) in sections::contents(view) { a href={ "#" (anchor) } { (title) } }
            a href="#method" { "Method" }
            a href="#fingerprint" { "Fingerprint" }
        }
        @if let Completeness::Partial { reason } = &results.completeness {
            div.notice role="note" data-partial="yes" {
                p { strong { "This run is not complete: " } (reason) ". What is shown was measured; the rest is missing." }
            }
        }
        @let emulated: Vec<String> = results.arms.iter().filter(|a| a.ran() && a.is_emulated())
            .map(|a| a.label.clone()).collect();
        @if !emulated.is_empty() {
            div.notice role="note" data-emulated="yes" {
                p {
                    strong { "Virtualization is not in hardware on this host. " }
                    "Figures of " (format::list(&emulated))
                    " carry a badge and hold on this host only; they say nothing of virtual machines on hardware."
                }
            }
        }
        @if !results.notes.is_empty() {
            div.notice role="note" { @for note in &results.notes { p { (note) } } }
        }
    }
}

pub(crate) fn or_unknown(text: &str) -> &str {
    if text.trim().is_empty() {
        "not known"
    } else {
        text
    }
}
