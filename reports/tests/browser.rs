//! Opens reports in headless Chromium and checks that what they show agrees with the result file.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use reports::format;
use reports::results::{Arm, ArmKind, Results};
use reports::verdict::verdicts;
use reports::write_report;
use serde::Deserialize;
use support::{Machines, Shape, results};

/// What the probe in the page says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    width: f64,
    scroll_width: f64,
    wide: Vec<String>,
    dark: bool,
    ground: String,
    texts: u32,
    worst: Worst,
    smallest: f64,
    resources: Vec<String>,
    pwned: String,
    figures: Vec<Drawn>,
    answers: Vec<Answered>,
    rows: Vec<Row>,
    slopes: Vec<Slope>,
    notices: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Worst {
    contrast: f64,
    text: String,
}

#[derive(Debug, Deserialize)]
struct Drawn {
    drawings: u32,
    labelled: bool,
    folded: bool,
    shown: u32,
}

#[derive(Debug, Deserialize)]
struct Answered {
    claim: String,
    arm: Option<String>,
    answer: String,
    badge: Option<String>,
    text: String,
}

#[derive(Debug, Deserialize)]
struct Row {
    metric: String,
    arm: String,
    state: String,
    median: Option<f64>,
    cells: Vec<String>,
    badge: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Slope {
    arm: String,
    badge: Option<String>,
    cells: Vec<String>,
}

/// How the page is looked at.
#[derive(Debug, Clone, Copy)]
struct Look {
    width: u32,
    dark: bool,
    script: bool,
}

const DESK: Look = Look {
    width: 1280,
    dark: false,
    script: true,
};

fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let found = named
        .into_iter()
        .chain([
            "/usr/bin/chromium".into(),
            "/usr/bin/chromium-browser".into(),
            "/usr/bin/google-chrome".into(),
        ])
        .find(|path: &PathBuf| path.is_file());
    if found.is_none() {
        eprintln!("skipped: chromium is not installed (apt-get install chromium)");
    }
    found
}

fn command(chromium: &Path, profile: &Path, dark: bool) -> Command {
    let mut command = Command::new(chromium);
    command
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            // As on a phone, where they lie over the page.
            "--hide-scrollbars",
            "--window-size=1400,900",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        // Chromium's own numbers: 0 is dark, 1 is light.
        .arg(format!(
            "--blink-settings=preferredColorScheme={}",
            u8::from(!dark)
        ))
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Opens the report in `dir` in a frame of the wanted width, since a headless window cannot be as narrow as a
/// phone, and gives back what the probe in it saw.
fn look(chromium: &Path, dir: &Path, look: Look) -> Seen {
    let page = std::fs::read_to_string(dir.join("index.html")).unwrap();
    let (before, after) = page.rsplit_once("</body>").unwrap();
    let mut copy = before.to_owned();
    if !look.script {
        let (start, end) = (
            copy.find("<script>").unwrap(),
            copy.rfind("</script>").unwrap(),
        );
        copy.replace_range(start..end + "</script>".len(), "");
    }
    copy += &format!(
        "<script>{}</script></body>{after}",
        include_str!("browser/probe.js")
    );
    std::fs::write(dir.join("copy.html"), copy).unwrap();
    let frame = format!(
        "<!doctype html><meta charset=utf-8><pre id=probe></pre>\
         <script>addEventListener('message', (e) => {{ document.getElementById('probe').textContent = e.data; }});</script>\
         <iframe src=copy.html style='border:0;width:{}px;height:900px'></iframe>",
        look.width
    );
    std::fs::write(dir.join("frame.html"), frame).unwrap();
    let profile = tempfile::tempdir().unwrap();
    let out = command(chromium, profile.path(), look.dark)
        .args(["--virtual-time-budget=20000", "--dump-dom"])
        .arg(format!("file://{}", dir.join("frame.html").display()))
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&out.stdout);
    let said = dom
        .split_once("<pre id=\"probe\">")
        .and_then(|(_, rest)| rest.split_once("</pre>"))
        .map(|(said, _)| decoded(said))
        .unwrap_or_default();
    serde_json::from_str(&said).unwrap_or_else(|error| {
        panic!(
            "the probe said nothing that can be read ({error}); chromium: {}",
            out.status
        )
    })
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next().unwrap(), rest.next().unwrap()];
            let digits = std::str::from_utf8(&digits).unwrap();
            bytes.push(u8::from_str_radix(digits, 16).unwrap());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn furnished(machines: Machines) -> Results {
    results(&Shape {
        machines,
        noise: 0.012,
        furnished: true,
        container_on: vec![("kernel.getpid", 1.33)],
        vm_on: vec![("memory.fault", 1.6), ("file.layer.read-rand", 1.9)],
        ..Shape::default()
    })
}

fn report(run: &Results) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_report(run, dir.path()).unwrap();
    dir
}

/// A median written down once more, so that the page is not held against the code that made it.
fn plain_median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}

/// Substrate by arm, for the arms that must carry a badge.
fn badges(run: &Results) -> BTreeMap<&str, &str> {
    run.arms
        .iter()
        .filter_map(|arm: &Arm| {
            let substrate = arm.substrate.as_ref()?;
            (!substrate.hardware).then_some((arm.id.as_str(), substrate.name.as_str()))
        })
        .collect()
}

fn check_agreement(run: &Results, seen: &Seen) {
    let badges = badges(run);
    // Every arm on every metric that has samples, from the raw rounds.
    let mut expected = 0;
    for series in &run.series {
        let metric = run.metric(&series.metric).unwrap();
        for arm in &run.arms {
            let samples: Vec<_> = series
                .rounds
                .iter()
                .flat_map(|round| &round.samples)
                .filter(|sample| sample.arm == arm.id)
                .collect();
            if samples.is_empty() {
                continue;
            }
            expected += 1;
            let place = format!("{} on {}", arm.id, metric.id);
            let row = seen
                .rows
                .iter()
                .find(|row| row.metric == metric.id && row.arm == arm.id)
                .unwrap_or_else(|| panic!("{place} is not shown"));
            assert_eq!(
                row.badge.as_deref(),
                badges.get(arm.id.as_str()).copied(),
                "{place}"
            );
            assert!(
                row.cells[0].starts_with(&arm.label),
                "{place}: {:?}",
                row.cells
            );
            if run.cut_off(&metric.id, &arm.id).is_some() {
                assert_eq!(row.state, "cut-off", "{place}");
                assert!(
                    row.cells[1].starts_with("cut off: "),
                    "{place}: {:?}",
                    row.cells
                );
                assert_eq!((row.median, row.cells.len()), (None, 3), "{place}");
                continue;
            }
            let values = samples
                .iter()
                .filter(|sample| sample.void.is_none())
                .filter_map(|sample| sample.value)
                .collect();
            let median = plain_median(values);
            let shown = row
                .median
                .unwrap_or_else(|| panic!("{place} has no median"));
            assert!(
                (shown / median - 1.0).abs() < 1e-12,
                "{place}: {shown} is not {median}"
            );
            assert_eq!(row.cells[1], format::value(median, metric.unit), "{place}");
            let voids = samples
                .iter()
                .filter(|sample| sample.void.is_some())
                .count();
            assert_eq!(row.cells.last().unwrap(), &voids.to_string(), "{place}");
        }
    }
    assert_eq!(
        seen.rows.len(),
        expected,
        "a row is shown that no sample stands behind"
    );

    for verdict in verdicts(run) {
        let of = |arm: Option<&str>| {
            seen.answers
                .iter()
                .find(|a| a.claim == verdict.claim.id && a.arm.as_deref() == arm)
                .unwrap_or_else(|| panic!("{} on {arm:?} is not answered", verdict.claim.id))
        };
        let shown = of(None);
        assert_eq!(shown.answer, verdict.finding.answer.word());
        assert!(shown.text.contains(verdict.claim.statement));
        assert!(
            shown.text.contains(&verdict.finding.sentence),
            "{}",
            shown.text
        );
        if let Some(figure) = &verdict.finding.figure {
            assert!(shown.text.contains(&figure.text), "{}", shown.text);
            assert!(
                shown.text.contains(figure.interval.as_ref().unwrap()),
                "{}",
                shown.text
            );
        }
        for here in &verdict.here {
            let shown = of(Some(&here.arm.id));
            assert_eq!(shown.answer, here.finding.answer.word());
            assert_eq!(
                shown.badge.as_deref(),
                badges.get(here.arm.id.as_str()).copied()
            );
            assert!(shown.text.contains("on this host only"), "{}", shown.text);
        }
    }

    for memory in &run.memory {
        let row = seen
            .slopes
            .iter()
            .find(|row| row.arm == memory.arm)
            .unwrap();
        assert_eq!(
            row.badge.as_deref(),
            badges.get(memory.arm.as_str()).copied()
        );
        let points: Vec<(f64, f64)> = memory
            .points
            .iter()
            .map(|p| (f64::from(p.instances), p.bytes() as f64))
            .collect();
        let line = reports::stats::least_squares(&points).unwrap();
        assert_eq!(row.cells[1], format::bytes(line.slope));
    }
}

fn check_layout(seen: &Seen, look: Look) {
    assert_eq!(seen.width, f64::from(look.width));
    assert!(
        seen.scroll_width <= seen.width,
        "{look:?}: {} wide, {:?}",
        seen.scroll_width,
        seen.wide
    );
    assert!(seen.wide.is_empty(), "{look:?}: {:?}", seen.wide);
    assert_eq!(seen.dark, look.dark);
    assert!(seen.texts > 200, "{look:?}: only {} texts", seen.texts);
    assert!(
        seen.worst.contrast >= 4.5,
        "{look:?}: contrast {:.2} at {:?}",
        seen.worst.contrast,
        seen.worst.text
    );
    // Letters of plots, with their ascent and descent: below this they cannot be read on a phone.
    assert!(
        seen.smallest >= 9.0,
        "{look:?}: text of a plot is {} pixels high",
        seen.smallest
    );
    assert!(!seen.figures.is_empty());
    for figure in &seen.figures {
        assert!(figure.labelled && figure.drawings == 2, "{figure:?}");
        let expected = if figure.folded { 0 } else { 1 };
        assert_eq!(figure.shown, expected, "{look:?}: {figure:?}");
    }
    assert!(seen.resources.is_empty(), "{:?}", seen.resources);
}

#[test]
fn what_is_shown_agrees_with_the_results_at_every_width_light_and_dark() {
    let Some(chromium) = chromium() else { return };
    let run = furnished(Machines::Emulated);
    let dir = report(&run);
    // The page is held against the file that lies beside it, not against what made both.
    let run = Results::read(&dir.path().join("results.json")).unwrap();
    let mut grounds = Vec::new();
    for (width, dark) in [
        (1280, false),
        (1280, true),
        (700, false),
        (390, false),
        (390, true),
        (320, false),
    ] {
        let wanted = Look {
            width,
            dark,
            script: true,
        };
        let seen = look(&chromium, dir.path(), wanted);
        check_agreement(&run, &seen);
        check_layout(&seen, wanted);
        grounds.push(seen.ground);
    }
    assert_ne!(grounds[0], grounds[1], "dark looks as light");
}

#[test]
fn without_its_script_the_page_says_the_same() {
    let Some(chromium) = chromium() else { return };
    let run = furnished(Machines::Emulated);
    let dir = report(&run);
    let wanted = Look {
        script: false,
        ..DESK
    };
    let seen = look(&chromium, dir.path(), wanted);
    check_agreement(&run, &seen);
    check_layout(&seen, wanted);
}

#[test]
fn on_hardware_nothing_carries_a_badge() {
    let Some(chromium) = chromium() else { return };
    let run = furnished(Machines::Hardware);
    assert!(run.arms.iter().any(|arm| arm.kind == ArmKind::Vm));
    let dir = report(&run);
    let seen = look(&chromium, dir.path(), DESK);
    check_agreement(&run, &seen);
    check_layout(&seen, DESK);
    assert!(seen.rows.iter().all(|row| row.badge.is_none()));
    assert!(
        seen.notices
            .iter()
            .all(|notice| !notice.contains("not in hardware"))
    );
    let c2 = seen.answers.iter().find(|a| a.claim == "C2").unwrap();
    assert_eq!(c2.answer, "yes");
}

#[test]
fn hostile_text_stays_text() {
    let Some(chromium) = chromium() else { return };
    let run = support::hostile(&furnished(Machines::Emulated));
    let dir = report(&run);
    for width in [1280, 390] {
        let wanted = Look { width, ..DESK };
        let seen = look(&chromium, dir.path(), wanted);
        assert_eq!(seen.pwned, "no");
        assert!(seen.resources.is_empty(), "{:?}", seen.resources);
        assert!(seen.scroll_width <= seen.width, "{:?}", seen.wide);
        check_agreement(&run, &seen);
    }
}

#[test]
fn the_page_prints() {
    let Some(chromium) = chromium() else { return };
    let dir = report(&furnished(Machines::Emulated));
    let profile = tempfile::tempdir().unwrap();
    let pdf = dir.path().join("print.pdf");
    let status = command(&chromium, profile.path(), true)
        .arg(format!("--print-to-pdf={}", pdf.display()))
        .arg(format!(
            "file://{}",
            dir.path().join("index.html").display()
        ))
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let printed = std::fs::read(&pdf).unwrap();
    assert!(printed.starts_with(b"%PDF-"));
    let pages = printed.windows(11).filter(|w| w == b"/Type /Page").count();
    assert!(pages > 3, "{pages} pages");
}
