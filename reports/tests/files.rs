//! Result files and reports on disk: what is written is read back, and what cannot be read is said plainly.

mod support;

use std::path::Path;

use proptest::prelude::{ProptestConfig, prop, prop_assert, proptest};
use reports::results::{ArmStatus, Completeness, CutOff, MEMORY_PER_INSTANCE, SCHEMA, Sample};
use reports::{Error, Results, page, write_report};
use support::{Machines, Shape, results};

/// A way to break a run.
type Spoil = fn(&mut Results);

fn run() -> Results {
    results(&Shape {
        rounds: 10,
        machines: Machines::Emulated,
        furnished: true,
        ..Shape::default()
    })
}

fn read(bytes: &[u8]) -> Result<Results, Error> {
    Results::from_json(bytes, Path::new("/runs/results.json"))
}

fn refusal(bytes: &[u8]) -> String {
    let error = read(bytes).expect_err("the file is refused");
    let text = error.to_string();
    assert!(text.contains("/runs/results.json"), "{text}");
    assert!(!text.ends_with('.'), "{text}");
    text
}

#[test]
fn what_is_written_is_read_back_to_the_last_bit() {
    let run = run();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/results.json");
    run.write(&path).unwrap();
    let again = Results::read(&path).unwrap();
    assert_eq!(run, again);
    let left: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "a temporary file was left: {left:?}");
}

#[test]
fn the_same_results_give_the_same_bytes() {
    let run = run();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = write_report(&run, one.path()).unwrap();
    let again = Results::read(&one.path().join("results.json")).unwrap();
    let second = write_report(&again, two.path()).unwrap();
    assert_eq!(
        std::fs::read(&first).unwrap(),
        std::fs::read(&second).unwrap()
    );
    assert_eq!(
        std::fs::read(one.path().join("results.json")).unwrap(),
        std::fs::read(two.path().join("results.json")).unwrap()
    );
    // A second time over the first one, as every `cargo bench` does.
    write_report(&run, one.path()).unwrap();
}

#[test]
fn a_file_that_is_cut_short_says_so_and_where() {
    let json = run().to_json().unwrap();
    for part in [json.len() / 10, json.len() / 2, json.len() - 3] {
        let text = refusal(&json[..part]);
        assert!(text.contains("cut short"), "{text}");
        assert!(text.contains("column"), "{text}");
    }
}

#[test]
fn a_file_of_a_newer_version_names_both_versions() {
    let text =
        refusal(br#"{"kind":"plimsoll-results","schema":99,"made_by":"plimsoll 7.1","future":[]}"#);
    assert!(
        text.contains("schema 99") && text.contains("newer") && text.contains("plimsoll 7.1"),
        "{text}"
    );
    assert!(text.contains(&format!("reads schema {SCHEMA}")), "{text}");
}

#[test]
fn a_file_of_an_older_version_names_both_versions() {
    let text = refusal(br#"{"kind":"plimsoll-results","schema":0,"made_by":"plimsoll 0.0.9"}"#);
    assert!(
        text.contains("schema 0") && text.contains("older") && text.contains("plimsoll 0.0.9"),
        "{text}"
    );
}

#[test]
fn a_file_that_is_not_ours_is_called_that() {
    for bytes in [
        b"" as &[u8],
        b"  \n",
        b"\x7fELF\x02\x01\x01",
        b"{}",
        b"{",
        b"[1,2,3]",
        b"null",
        br#"{"kind":"other","schema":1}"#,
        br#"{"kind":["plimsoll-results"],"schema":1}"#,
        br#"{"results":[{"command":"true","mean":0.001}]}"#,
    ] {
        let text = refusal(bytes);
        assert!(text.contains("not a plimsoll result file"), "{text}");
    }
}

#[test]
fn a_file_with_missing_fields_is_damaged() {
    for bytes in [
        br#"{"kind":"plimsoll-results","schema":1}"# as &[u8],
        br#"{"kind":"plimsoll-results","schema":"one"}"#,
        br#"{"kind":"plimsoll-results","schema":-1}"#,
    ] {
        let text = refusal(bytes);
        assert!(text.contains("damaged"), "{text}");
    }
}

#[test]
fn a_missing_file_and_a_directory_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("none.json");
    for path in [absent.as_path(), dir.path()] {
        let text = Results::read(path).unwrap_err().to_string();
        assert!(text.starts_with("cannot read the result file /"), "{text}");
    }
}

#[test]
fn a_report_that_cannot_be_written_names_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("taken");
    std::fs::write(&file, "a file stands where the directory should").unwrap();
    let text = write_report(&run(), &file).unwrap_err().to_string();
    assert!(
        text.starts_with("cannot write /") && text.contains("taken"),
        "{text}"
    );
}

#[test]
fn contents_that_do_not_hold_together_are_refused_both_ways() {
    let broken: [(&str, Spoil); 9] = [
        ("named twice", |r| r.arms.push(r.arms[0].clone())),
        ("named twice", |r| r.metrics.push(r.metrics[0].clone())),
        ("two series", |r| r.series.push(r.series[0].clone())),
        ("two rounds numbered", |r| {
            let round = r.series[0].rounds[0].clone();
            r.series[0].rounds.push(round);
        }),
        ("not listed", |r| {
            r.series[0].rounds[0].samples[0].arm = "ghost".to_owned()
        }),
        ("neither a value nor void", |r| {
            r.series[0].rounds[0].samples[0].value = None
        }),
        ("has the value -1", |r| {
            r.series[0].rounds[0].samples[0].value = Some(-1.0)
        }),
        ("does not say its substrate", |r| {
            for arm in &mut r.arms {
                arm.substrate = None;
            }
        }),
        ("runs backwards", |r| {
            r.timelines[0].stages[0].end_ns = u64::MAX
        }),
    ];
    for (words, spoil) in broken {
        let mut run = run();
        spoil(&mut run);
        let text = run.to_json().unwrap_err().to_string();
        assert!(text.contains(words), "{words}: {text}");
        let json = serde_json::to_vec(&run).unwrap();
        let text = refusal(&json);
        assert!(
            text.contains("damaged") && text.contains(words),
            "{words}: {text}"
        );
        assert!(page::render(&run).is_err());
    }
}

#[test]
fn values_that_are_no_numbers_are_not_written() {
    for value in [f64::NAN, f64::INFINITY] {
        let mut run = run();
        run.series[0].rounds[0].samples[0].value = Some(value);
        assert!(run.to_json().is_err());
    }
}

#[test]
fn hostile_text_adds_no_element_to_the_page() {
    let run = run();
    let (plain, spoilt) = (
        page::render(&run).unwrap(),
        page::render(&support::hostile(&run)).unwrap(),
    );
    for page in [&plain, &spoilt] {
        assert_eq!(page.matches("<script").count(), 1);
        assert_eq!(page.matches("<img").count(), 0);
    }
    assert!(spoilt.contains("&lt;script&gt;"));
}

#[test]
fn the_page_asks_for_nothing_from_outside() {
    let page = page::render(&run()).unwrap();
    for needle in ["src=", "url(", "@import", "<link", "https://"] {
        assert!(!page.contains(needle), "{needle}");
    }
    // The name of SVG's namespace is no address that is fetched.
    let addresses: Vec<&str> = page
        .split("http://")
        .skip(1)
        .map(|rest| &rest[..20])
        .collect();
    assert!(
        addresses
            .iter()
            .all(|a| a.starts_with("www.w3.org/2000/svg")),
        "{addresses:?}"
    );
}

#[test]
fn a_partial_run_is_marked() {
    let mut run = run();
    run.completeness = Completeness::Partial {
        reason: "interrupted by ctrl-c".to_owned(),
    };
    let page = page::render(&run).unwrap();
    assert!(page.contains("This run is not complete: ") && page.contains("interrupted by ctrl-c"));
}

#[test]
fn a_cut_off_shows_no_figure_of_what_was_measured_before() {
    let mut run = run();
    let memory = run
        .memory
        .iter()
        .position(|m| m.arm == "container")
        .unwrap();
    run.memory[memory]
        .points
        .iter_mut()
        .for_each(|p| p.pss_bytes = 77_777 << 20);
    run.cut_offs.push(CutOff {
        metric: MEMORY_PER_INSTANCE.to_owned(),
        arm: "container".to_owned(),
        budget_ns: None,
        reason: "the eighth did not come up".to_owned(),
    });
    for sample in run
        .series
        .iter_mut()
        .flat_map(|s| &mut s.rounds)
        .flat_map(|r| &mut r.samples)
    {
        if sample.arm == "vm-tcg" {
            sample.value = Some(123_456_789_123.0);
        }
    }
    for metric in run.metrics.clone() {
        run.cut_offs.push(CutOff {
            metric: metric.id,
            arm: "vm-tcg".to_owned(),
            budget_ns: Some(60_000_000_000),
            reason: "no time left".to_owned(),
        });
    }
    let page = page::render(&run).unwrap();
    assert!(page.contains("the eighth did not come up"));
    assert!(page.contains("no time left (budget 60.0 s)"));
    for figure in ["76.0 GiB", "123 s", "123456789123", "GiB/s"] {
        let slope = page.matches(figure).count();
        assert!(figure == "GiB/s" || slope == 0, "{figure} is shown");
    }
}

#[test]
fn a_run_with_nothing_in_it_is_a_page_too() {
    let mut empty = run();
    empty.arms.clear();
    empty.metrics.clear();
    empty.series.clear();
    empty.cut_offs.clear();
    empty.timelines.clear();
    empty.memory.clear();
    empty.fingerprint = reports::results::Fingerprint::default();
    empty.image = None;
    empty.ended_unix_ms = None;
    let page = page::render(&empty).unwrap();
    assert_eq!(page.matches("not measured in this run").count(), 7);
}

#[test]
fn arms_that_never_ran_make_no_rows() {
    let mut run = run();
    for arm in &mut run.arms {
        arm.status = ArmStatus::NotRun {
            reason: "nothing works here".to_owned(),
        };
    }
    assert!(page::render(&run).unwrap().contains("nothing works here"));
}

#[test]
fn recorded_samples_land_in_their_rounds() {
    let mut run = run();
    let sample = |value| Sample {
        arm: "native".to_owned(),
        instance: 0,
        value: Some(value),
        iterations: None,
        elapsed_ns: None,
        host_ns: None,
        void: None,
    };
    run.record("cpu.sha256", 3, sample(1.0));
    run.record("cpu.sha256", 40, sample(2.0));
    let rounds = run.rounds("cpu.sha256");
    assert_eq!(rounds[3].samples.last().and_then(|s| s.value), Some(1.0));
    assert_eq!(
        rounds.last().map(|r| (r.number, r.samples.len())),
        Some((40, 1))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_values_make_a_page(values in prop::collection::vec(0.0f64..1e300, 1..12), rounds in 1u32..4) {
        let mut run = run();
        for (index, sample) in run.series.iter_mut().flat_map(|s| &mut s.rounds).flat_map(|r| &mut r.samples).enumerate() {
            sample.value = Some(values[index % values.len()]);
        }
        for series in &mut run.series {
            series.rounds.truncate(rounds as usize);
        }
        let page = page::render(&run).unwrap();
        prop_assert!(!page.contains("NaN"), "a figure that is none is shown");
    }

    #[test]
    fn any_damage_to_a_file_is_refused_or_read(at in 0usize..20_000, byte: u8) {
        let mut json = run().to_json().unwrap();
        let at = at % json.len();
        json[at] = byte;
        // Either way without a panic; what is read must still make a page.
        if let Ok(results) = read(&json) {
            prop_assert!(page::render(&results).is_ok());
        }
    }
}
