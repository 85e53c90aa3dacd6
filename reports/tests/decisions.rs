//! The decision rules on results whose answers are known beforehand.

mod support;

use reports::results::{
    ArmStatus, CutOff, Direction, Group, Metric, Results, Sample, Unit, arm_id, metric_id,
};
use reports::rules::CLAIMS;
use reports::verdict::{Answer, Evidence, Finding, Outcome, Verdict, verdicts};
use support::{Machines, Shape, results};

fn answer(run: &Results, claim: &str) -> Answer {
    of(&verdicts(run), claim).finding.answer
}

fn of<'a, 'r>(verdicts: &'a [Verdict<'r>], claim: &str) -> &'a Verdict<'r> {
    verdicts
        .iter()
        .find(|v| v.claim.id == claim)
        .expect("the claim is listed")
}

fn row<'a, 'r>(finding: &'a Finding<'r>, metric: &str) -> &'a Evidence<'r> {
    finding
        .evidence
        .iter()
        .find(|e| e.metric.is_some_and(|m| m.id == metric))
        .expect("the metric is among the evidence")
}

fn reason<'a>(finding: &'a Finding<'_>, metric: &str) -> &'a str {
    match &row(finding, metric).outcome {
        Outcome::Undecided(reason) => reason,
        other => panic!("{metric} is decided: {other:?}"),
    }
}

#[test]
fn every_claim_of_the_mission_has_one_rule() {
    let ids: Vec<&str> = CLAIMS.iter().map(|c| c.id).collect();
    assert_eq!(ids, ["C1", "C2", "C3", "C4", "C5", "C6", "C7"]);
}

#[test]
fn equal_arms_are_no_loss() {
    let run = results(&Shape::default());
    let all = verdicts(&run);
    let c1 = &of(&all, "C1").finding;
    assert_eq!(c1.answer, Answer::Yes, "{}", c1.sentence);
    assert!(c1.sentence.contains("network work"), "{}", c1.sentence);
    let figure = c1.figure.as_ref().expect("a yes has a figure");
    assert!(figure.interval.is_some());
}

#[test]
fn an_arm_slowed_by_ten_per_cent_is_found_out() {
    for slowed in ["cpu.sha256", "memory.triad", "file.layer.fsync"] {
        let run = results(&Shape {
            container_on: vec![(slowed, 1.10)],
            ..Shape::default()
        });
        let all = verdicts(&run);
        let c1 = &of(&all, "C1").finding;
        assert_eq!(c1.answer, Answer::No, "{slowed}: {}", c1.sentence);
        assert_eq!(row(c1, slowed).outcome, Outcome::Contradicts);
        let ratio = row(c1, slowed).estimate.as_ref().map(|e| e.value);
        assert!(
            ratio.is_some_and(|r| (1.08..1.12).contains(&r)),
            "{ratio:?}"
        );
    }
}

#[test]
fn a_loss_of_two_per_cent_is_inside_the_margin() {
    let run = results(&Shape {
        container: 1.02,
        ..Shape::default()
    });
    assert_eq!(answer(&run, "C1"), Answer::Yes);
}

#[test]
fn a_loss_of_four_per_cent_is_inside_the_margin_when_the_noise_allows_to_see_it() {
    let run = results(&Shape {
        container: 1.04,
        noise: 0.004,
        ..Shape::default()
    });
    assert_eq!(answer(&run, "C1"), Answer::Yes);
}

#[test]
fn wide_noise_is_not_decided() {
    let run = results(&Shape {
        noise: 0.3,
        rounds: 12,
        ..Shape::default()
    });
    let all = verdicts(&run);
    let c1 = &of(&all, "C1").finding;
    assert_eq!(c1.answer, Answer::NotDecided, "{}", c1.sentence);
    assert!(c1.sentence.contains("margin"), "{}", c1.sentence);
}

#[test]
fn an_interval_across_the_margin_is_not_decided() {
    let run = results(&Shape {
        container_on: vec![("cpu.matrix", 1.05)],
        ..Shape::default()
    });
    let all = verdicts(&run);
    let c1 = &of(&all, "C1").finding;
    assert_eq!(c1.answer, Answer::NotDecided);
    assert!(reason(c1, "cpu.matrix").contains("not wholly on one side"));
}

#[test]
fn a_gain_beyond_the_margin_is_no_proof_of_equality() {
    let run = results(&Shape {
        container_on: vec![("cpu.matrix", 0.85)],
        ..Shape::default()
    });
    let all = verdicts(&run);
    let c1 = &of(&all, "C1").finding;
    assert_eq!(c1.answer, Answer::NotDecided);
    assert!(reason(c1, "cpu.matrix").contains("something else differs"));
}

#[test]
fn nine_rounds_are_not_decided_and_ten_are() {
    let with = |rounds| {
        results(&Shape {
            rounds,
            noise: 0.003,
            ..Shape::default()
        })
    };
    let nine = with(9);
    let all = verdicts(&nine);
    let c1 = &of(&all, "C1").finding;
    assert_eq!(c1.answer, Answer::NotDecided);
    assert!(reason(c1, "cpu.sha256").contains("9 rounds"));
    assert_eq!(answer(&nine, "C2"), Answer::NotDecided);
    assert_eq!(answer(&nine, "C3"), Answer::NotDecided);
    assert_eq!(answer(&with(10), "C1"), Answer::Yes);
}

#[test]
fn rounds_whose_samples_are_void_do_not_count() {
    let mut run = results(&Shape {
        rounds: 10,
        noise: 0.003,
        ..Shape::default()
    });
    for series in &mut run.series {
        for sample in &mut series.rounds[0].samples {
            if series.metric == "cpu.sha256" && sample.arm == arm_id::CONTAINER {
                sample.void = Some("wrong checksum".to_owned());
            }
        }
    }
    let all = verdicts(&run);
    assert!(reason(&of(&all, "C1").finding, "cpu.sha256").contains("9 rounds"));
}

#[test]
fn a_bad_control_takes_its_metric_out_and_leaves_the_others() {
    let run = results(&Shape {
        control_on: vec![("cpu.sha256", 1.08)],
        ..Shape::default()
    });
    let all = verdicts(&run);
    let c1 = &of(&all, "C1").finding;
    assert_eq!(c1.answer, Answer::NotDecided);
    assert!(reason(c1, "cpu.sha256").contains("A/A control"));
    assert_eq!(row(c1, "cpu.matrix").outcome, Outcome::Supports);
}

#[test]
fn a_bad_control_also_keeps_a_real_loss_from_being_called() {
    let run = results(&Shape {
        control_on: vec![("cpu.sha256", 1.08)],
        container_on: vec![("cpu.sha256", 1.30)],
        ..Shape::default()
    });
    assert_eq!(answer(&run, "C1"), Answer::NotDecided);
}

#[test]
fn without_a_control_nothing_is_decided() {
    let mut run = results(&Shape::default());
    run.arms.retain(|arm| arm.id != arm_id::NATIVE_CONTROL);
    for series in &mut run.series {
        for round in &mut series.rounds {
            round.samples.retain(|s| s.arm != arm_id::NATIVE_CONTROL);
        }
    }
    for verdict in verdicts(&run) {
        assert_eq!(verdict.finding.answer, Answer::NotDecided);
    }
}

#[test]
fn kernel_entry_is_reported_and_not_held_to_the_margin() {
    let run = results(&Shape {
        container_on: vec![("kernel.getpid", 1.35)],
        ..Shape::default()
    });
    let all = verdicts(&run);
    let c1 = &of(&all, "C1").finding;
    assert_eq!(c1.answer, Answer::Yes, "{}", c1.sentence);
    assert_eq!(row(c1, "kernel.getpid").outcome, Outcome::Contradicts);
    assert!(!row(c1, "kernel.getpid").decides());
}

#[test]
fn a_group_that_was_not_measured_leaves_the_claim_open() {
    let run = results(&Shape {
        without: vec![Group::File],
        ..Shape::default()
    });
    let all = verdicts(&run);
    let c1 = &of(&all, "C1").finding;
    assert_eq!(c1.answer, Answer::NotDecided);
    assert!(
        c1.sentence.contains("ile work was not measured"),
        "{}",
        c1.sentence
    );
}

#[test]
fn claims_without_any_metric_say_that_they_were_not_measured() {
    let run = results(&Shape::default());
    let all = verdicts(&run);
    for id in ["C4", "C5", "C6", "C7"] {
        let verdict = of(&all, id);
        assert_eq!(verdict.finding.answer, Answer::NotDecided);
        assert_eq!(
            verdict.finding.sentence,
            "Not decided: not measured in this run."
        );
        assert!(verdict.finding.figure.is_none() && verdict.here.is_empty());
    }
}

#[test]
fn a_hardware_vm_that_loses_on_one_metric_loses() {
    let run = results(&Shape {
        vm_on: vec![("file.layer.read-rand", 1.9)],
        ..Shape::default()
    });
    let all = verdicts(&run);
    let c2 = of(&all, "C2");
    assert_eq!(c2.finding.answer, Answer::Yes, "{}", c2.finding.sentence);
    assert!(c2.here.is_empty());
    assert!(
        c2.finding.sentence.contains("random read, O_DIRECT (1.9"),
        "{}",
        c2.finding.sentence
    );
}

#[test]
fn a_hardware_vm_that_loses_nowhere_does_not_lose() {
    let run = results(&Shape::default());
    assert_eq!(answer(&run, "C2"), Answer::No);
}

#[test]
fn emulated_vms_are_decided_on_this_host_only() {
    let run = results(&Shape {
        machines: Machines::Emulated,
        ..Shape::default()
    });
    let all = verdicts(&run);
    for id in ["C2", "C3"] {
        let verdict = of(&all, id);
        assert_eq!(verdict.finding.answer, Answer::NotDecided);
        assert!(
            verdict
                .finding
                .sentence
                .contains("not in hardware (kvm_pvm and tcg)"),
            "{}",
            verdict.finding.sentence
        );
        let arms: Vec<&str> = verdict.here.iter().map(|h| h.arm.id.as_str()).collect();
        assert_eq!(arms, [arm_id::VM, arm_id::VM_TCG]);
        for here in &verdict.here {
            assert_eq!(
                here.finding.answer,
                Answer::Yes,
                "{}",
                here.finding.sentence
            );
        }
    }
    assert_eq!(answer(&run, "C1"), Answer::Yes, "containers are decided");
}

#[test]
fn a_host_without_virtual_machines_says_why() {
    let run = results(&Shape {
        machines: Machines::None,
        ..Shape::default()
    });
    let all = verdicts(&run);
    let c2 = of(&all, "C2");
    assert_eq!(c2.finding.answer, Answer::NotDecided);
    assert!(
        c2.finding.sentence.contains("no /dev/kvm"),
        "{}",
        c2.finding.sentence
    );
    assert!(c2.here.is_empty());
}

#[test]
fn containers_at_once_and_a_slow_vm_answer_yes() {
    let run = results(&Shape::default());
    let all = verdicts(&run);
    let c3 = of(&all, "C3");
    assert_eq!(c3.finding.answer, Answer::Yes, "{}", c3.finding.sentence);
    let figure = c3.finding.figure.as_ref().expect("a figure");
    assert!(
        figure.text.ends_with("ms") && figure.of.starts_with("container"),
        "{figure:?}"
    );
}

#[test]
fn a_vm_that_starts_at_once_answers_no() {
    let run = results(&Shape {
        vm_start: 20e6,
        ..Shape::default()
    });
    assert_eq!(answer(&run, "C3"), Answer::No);
}

#[test]
fn a_slow_container_answers_no_even_where_vms_are_emulated() {
    let run = results(&Shape {
        container_start: 250e6,
        machines: Machines::Emulated,
        ..Shape::default()
    });
    assert_eq!(answer(&run, "C3"), Answer::No);
}

#[test]
fn a_vm_at_a_tenth_of_a_second_is_not_decided() {
    let run = results(&Shape {
        vm_start: 100e6,
        ..Shape::default()
    });
    assert_eq!(answer(&run, "C3"), Answer::NotDecided);
}

#[test]
fn a_cut_off_is_never_a_figure() {
    let mut run = results(&Shape::default());
    run.cut_offs.push(CutOff {
        metric: "cpu.sha256".to_owned(),
        arm: arm_id::CONTAINER.to_owned(),
        budget_ns: Some(60_000_000_000),
        reason: "4 of 20 rounds".to_owned(),
    });
    let all = verdicts(&run);
    let c1 = &of(&all, "C1").finding;
    assert_eq!(c1.answer, Answer::NotDecided);
    assert!(row(c1, "cpu.sha256").estimate.is_none());
    assert!(reason(c1, "cpu.sha256").contains("cut off"));
}

#[test]
fn an_arm_that_did_not_run_gives_its_reason() {
    let mut run = results(&Shape::default());
    for arm in &mut run.arms {
        if arm.id == arm_id::CONTAINER {
            arm.status = ArmStatus::NotRun {
                reason: "no cgroup can be made".to_owned(),
            };
        }
    }
    let all = verdicts(&run);
    assert!(
        of(&all, "C1")
            .finding
            .sentence
            .contains("no cgroup can be made")
    );
}

#[test]
fn values_of_zero_give_no_ratio_and_no_panic() {
    let mut run = results(&Shape::default());
    for series in &mut run.series {
        for sample in series.rounds.iter_mut().flat_map(|r| &mut r.samples) {
            sample.value = Some(0.0);
        }
    }
    for verdict in verdicts(&run) {
        assert_eq!(verdict.finding.answer, Answer::NotDecided);
    }
    assert_eq!(
        run.metric(metric_id::START_WARM_EXIT).map(|m| m.group),
        Some(Group::Start)
    );
}

#[test]
fn drift_that_all_arms_share_does_not_widen_a_ratio() {
    // The synthetic machine drifts by 10 % over the run; the pairs do not.
    let run = results(&Shape::default());
    let all = verdicts(&run);
    let interval = row(&of(&all, "C1").finding, "cpu.sha256")
        .estimate
        .as_ref()
        .and_then(|e| e.interval())
        .expect("an interval");
    assert!(interval.high - interval.low < 0.03, "{interval:?}");
}

#[test]
fn the_chance_of_a_false_no_is_spread_over_the_metrics() {
    // Equal arms, many runs: a claim over eight metrics must not be refuted by chance.
    for seed in 0..40 {
        let run = results(&Shape {
            noise: 0.05,
            rounds: 10,
            seed,
            without: vec![Group::Start],
            ..Shape::default()
        });
        assert_ne!(answer(&run, "C1"), Answer::No, "seed {seed}");
    }
}

#[test]
fn a_terminal_is_told_the_badge_and_the_interval() {
    let run = results(&Shape {
        machines: Machines::Emulated,
        ..Shape::default()
    });
    let all = verdicts(&run);
    let c1 = of(&all, "C1").to_string();
    assert!(
        c1.starts_with("C1 Containers lose almost no performance: yes; "),
        "{c1}"
    );
    assert!(c1.contains("95 % interval"), "{c1}");
    let c2 = of(&all, "C2").to_string();
    assert!(
        c2.starts_with("C2 Virtual machines lose performance: not decided. "),
        "{c2}"
    );
    assert!(
        c2.contains("on this host only, microVM on KVM (not hardware: kvm_pvm): yes"),
        "{c2}"
    );
}

/// Image metrics of a run: value by arm, the same in every round but for times.
fn with_images(run: &mut Results, vm: &str, shipped: f64, second: f64) {
    let metric = |id: &str, unit| Metric {
        id: id.to_owned(),
        group: Group::Image,
        unit,
        direction: Direction::LowerIsBetter,
        title: id.to_owned(),
        description: String::new(),
    };
    let values = [
        (metric_id::SHIPPED, Unit::Bytes, 25e6, shipped),
        (metric_id::ON_DISK, Unit::Bytes, 75e6, 1.2),
        (metric_id::FIRST_MOVED, Unit::Bytes, 25e6, 1.0),
        (metric_id::SECOND_MOVED, Unit::Bytes, 25e6 * second, 1.0),
        (metric_id::FIRST_DEPLOY, Unit::Nanoseconds, 5e8, 1.4),
        (
            metric_id::SECOND_DEPLOY,
            Unit::Nanoseconds,
            5e8 * second,
            1.4,
        ),
    ];
    for (id, unit, base, times) in values {
        run.metrics.push(metric(id, unit));
        for round in 0..12u32 {
            let arms = [
                (arm_id::NATIVE, 0.9),
                (arm_id::NATIVE_CONTROL, 0.9),
                (arm_id::CONTAINER, 1.0),
                (vm, times),
            ];
            for (arm, factor) in arms {
                let drift = if unit == Unit::Bytes {
                    0.0
                } else {
                    f64::from(round % 3) / 100.0
                };
                run.record(
                    id,
                    round,
                    Sample {
                        arm: arm.to_owned(),
                        instance: round,
                        value: Some(base * factor * (1.0 + drift)),
                        iterations: None,
                        elapsed_ns: None,
                        host_ns: None,
                        void: None,
                    },
                );
            }
        }
    }
}

#[test]
fn a_kernel_that_makes_an_application_larger_answers_c4_yes_and_a_small_one_no() {
    for (shipped, wanted) in [(1.16, Answer::Yes), (1.04, Answer::No)] {
        let mut run = results(&Shape::default());
        with_images(&mut run, arm_id::VM, shipped, 0.1);
        assert_eq!(answer(&run, "C4"), wanted, "{shipped}");
    }
}

#[test]
fn c4_is_answered_by_the_machine_that_was_measured_where_another_ran_too() {
    let mut run = results(&Shape {
        machines: Machines::Emulated,
        ..Shape::default()
    });
    assert!(run.arm(arm_id::VM).is_some_and(|arm| arm.ran()));
    with_images(&mut run, arm_id::VM_TCG, 1.16, 0.1);
    assert_eq!(answer(&run, "C4"), Answer::Yes);
}

#[test]
fn a_second_image_is_fast_when_it_takes_less_than_half_and_not_when_it_takes_all() {
    for (second, wanted) in [(0.1, Answer::Yes), (0.95, Answer::No)] {
        let mut run = results(&Shape::default());
        with_images(&mut run, arm_id::VM, 1.2, second);
        let all = verdicts(&run);
        let c5 = &of(&all, "C5").finding;
        assert_eq!(c5.answer, wanted, "{second}: {}", c5.sentence);
    }
}

#[test]
fn the_page_has_sections_for_sizes_and_deployment_with_their_answers() {
    let mut run = results(&Shape::default());
    assert!(
        !reports::page::render(&run)
            .unwrap()
            .contains("id=\"deploy\"")
    );
    with_images(&mut run, arm_id::VM, 1.16, 0.1);
    let page = reports::page::render(&run).unwrap();
    for wanted in [
        "section id=\"image\"",
        "section id=\"deploy\"",
        "data-section-answer=\"C4\"",
        "data-section-answer=\"C5\"",
        "href=\"#deploy\"",
        "C5, shared layers make deploying fast: yes. ",
        "data-deploy-arm=\"container\"",
        "1.160×",
    ] {
        assert!(page.contains(wanted), "{wanted} is not on the page");
    }
}
